//! One pusher's gateway.
//!
//! Spec: <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>

use std::time::Duration;

use peers::{Outbound, OutboundError};
use reqwest::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::pushers::PusherRow;
use url::Url;

use crate::webhooks::plainly;

/// How long a gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// No answer is longer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Where and how a pusher is told.
pub(super) struct Gateway {
    url: Url,
    /// Whether it wants `event_id_only`.
    pub(super) wants_ids_only: bool,
    /// What it is told about the device.
    device: Value,
}

/// Why a gateway did not take something.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("status {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Unreachable(String),
}

impl From<OutboundError> for NotTaken {
    fn from(error: OutboundError) -> Self {
        match error {
            OutboundError::Http(error) => Self::Unreachable(plainly(error)),
            error => Self::Unreachable(error.to_string()),
        }
    }
}

impl Gateway {
    /// `None`: the pusher says of none.
    pub(super) fn of(row: &PusherRow) -> Option<Self> {
        let mut data: Map<String, Value> = serde_json::from_str(&row.data).ok()?;
        // Everything else is the gateway's, also what this server knows nothing of.
        let url = Url::parse(data.remove("url")?.as_str()?).ok()?;
        let wants_ids_only = data.get("format").is_some_and(|format| format == "event_id_only");
        let device = json!({
            "app_id": row.key.app_id,
            "pushkey": row.key.pushkey,
            "pushkey_ts": row.set_at / 1000,
            "data": data,
        });
        Some(Self { url, wants_ids_only, device })
    }

    /// The body of a request: `told`, with the device, and the device with its tweaks.
    pub(super) fn notification(&self, (mut told, tweaks): (Value, Option<Value>)) -> Value {
        let mut device = self.device.clone();
        if let Some(tweaks) = tweaks {
            device["tweaks"] = tweaks;
        }
        told["devices"] = json!([device]);
        json!({ "notification": told })
    }

    /// Tells it. Answers the pushkeys that it does not know any more.
    pub(super) async fn tell(&self, outbound: &Outbound, notification: &Value) -> Result<Vec<String>, NotTaken> {
        #[derive(Default, Deserialize)]
        struct Said {
            #[serde(default)]
            rejected: Vec<String>,
        }
        let request = outbound.request(Method::POST, &self.url)?.timeout(TIMEOUT);
        let request = request.header(header::CONTENT_TYPE, "application/json").body(notification.to_string());
        let answer = request.send().await.map_err(OutboundError::from)?;
        if !answer.status().is_success() {
            return Err(NotTaken::Status(answer.status()));
        }
        // It has taken it, whatever it says of it.
        let said = Outbound::read(answer, LONGEST_ANSWER).await.unwrap_or_default();
        Ok(serde_json::from_slice::<Said>(&said).unwrap_or_default().rejected)
    }
}
