//! What an envelope holds.

use std::{collections::BTreeMap, time::Duration};

use model::{Kind, Refusal};
use peers::PeerError;
use ruma::{
    OwnedEventId, ServerName,
    api::federation::transactions::{edu::Edu, send_transaction_message::v1::Response},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Answers;

/// A transaction that is sent.
#[derive(Serialize)]
pub(super) struct Sent<'a> {
    pub(super) edus: &'a [Raw<Edu>],
    pub(super) origin_server_ts: u64,
    pub(super) pdus: &'a [Box<RawValue>],
}

/// A transaction that came.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Came {
    #[serde(default)]
    pub(super) edus: Vec<Raw<Edu>>,
    #[serde(default)]
    pub(super) pdus: Vec<Box<RawValue>>,
    #[serde(rename = "origin_server_ts")]
    _made_at: i64,
}

/// What came of a transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResponseBody {
    status: u16,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pdus: BTreeMap<OwnedEventId, Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    errcode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// What came of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Default for ResponseBody {
    fn default() -> Self {
        Self { status: 200, pdus: BTreeMap::new(), errcode: None, error: None, retry_after_ms: None }
    }
}

impl From<Answers> for ResponseBody {
    fn from(answers: Answers) -> Self {
        let pdus = answers.into_iter().map(|(event_id, outcome)| (event_id, Outcome { error: outcome.err() }));
        Self { pdus: pdus.collect(), ..Self::default() }
    }
}

impl ResponseBody {
    pub(super) fn refusal(status: u16, errcode: &str, error: impl Into<String>) -> Self {
        Self { status, errcode: Some(errcode.to_owned()), error: Some(error.into()), ..Self::default() }
    }

    /// As the server-server API answers such a refusal.
    pub(super) fn of(refusal: &dyn Refusal) -> Self {
        let body = match refusal.kind() {
            Kind::Invalid | Kind::Unsupported => Self::refusal(400, "M_INVALID_PARAM", refusal.to_string()),
            Kind::TooLarge => Self::refusal(413, "M_TOO_LARGE", refusal.to_string()),
            Kind::RateLimited => Self::refusal(429, "M_LIMIT_EXCEEDED", refusal.to_string()),
            Kind::Forbidden => Self::refusal(403, "M_FORBIDDEN", refusal.to_string()),
            // Faults of ours are nobody else's business.
            _ => Self::refusal(503, "M_UNKNOWN", "the server is temporarily unable to do this; try again"),
        };
        Self { retry_after_ms: refusal.retry_after_ms(), ..body }
    }

    /// Whether the transaction was taken.
    pub(super) fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// As whoever has sent the transaction to `destination` is told.
    pub(super) fn read(self, destination: &ServerName) -> Result<Response, PeerError> {
        if self.is_ok() {
            let pdus = self.pdus.into_iter().map(|(event_id, outcome)| (event_id, outcome.error.map_or(Ok(()), Err)));
            return Ok(Response::new(pdus.collect()));
        }
        Err(PeerError::Refused {
            server: destination.to_owned(),
            status: self.status,
            errcode: self.errcode,
            message: self.error.unwrap_or_else(|| format!("it answered {}", self.status)),
            retry_after: self.retry_after_ms.map(Duration::from_millis),
        })
    }
}

#[cfg(test)]
mod tests {
    use peers::Failure;
    use ruma::{event_id, server_name};

    use super::*;

    #[test]
    fn what_came_of_a_transaction_comes_back_as_it_was_said() {
        let answers: Answers =
            [(event_id!("$a").to_owned(), Ok(())), (event_id!("$b").to_owned(), Err("no".to_owned()))].into();
        let said = serde_json::to_string(&ResponseBody::from(answers)).expect("it is JSON");
        assert_eq!(said, r#"{"status":200,"pdus":{"$a":{},"$b":{"error":"no"}}}"#);
        let read: ResponseBody = serde_json::from_str(&said).expect("it was written so");
        let response = read.read(server_name!("b.test")).expect("it was taken");
        assert_eq!(response.pdus[event_id!("$b")], Err("no".to_owned()));
        let busy = ResponseBody::of(&crate::InboundError::Busy);
        let said = serde_json::to_string(&busy).expect("it is JSON");
        let read: ResponseBody = serde_json::from_str(&said).expect("it was written so");
        let refused = read.read(server_name!("b.test")).expect_err("it was not taken");
        assert_eq!(refused.failure(), Failure::RateLimited);
        assert_eq!(Refusal::retry_after_ms(&refused), Some(2_000));
    }
}
