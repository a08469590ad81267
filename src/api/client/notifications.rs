//! What the user was notified of.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#listing-notifications>

use std::time::{SystemTime, UNIX_EPOCH};

use ruma::api::client::push::get_notifications;
use serde_json::{json, value::RawValue};
use sync::{Reader, TimelineToken};

use crate::{Answer, Ask, Error, Route, json_endpoint};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![json_endpoint(notifications)]
}

async fn notifications(ask: Ask<get_notifications::v3::Request>) -> Answer<String> {
    let request = ask.request;
    let from: Option<TimelineToken> = request
        .from
        .as_deref()
        .map(|token| token.parse().map_err(|_| Error::invalid_param(format!("from: `{token}` is no token of ours"))))
        .transpose()?;
    let limit = request.limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX));
    let limit = limit.clamp(1, MAX_LIMIT);
    let only_highlights = request.only.as_deref().is_some_and(|only| only == "highlight");
    let from = from.map(|token| token.0);
    let found = ask.services.sync.notifications(&ask.session.user_id, from, limit, only_highlights).await?;

    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
    let mut notifications = Vec::with_capacity(found.len());
    for notification in &found {
        let mut event = String::new();
        notification.shown.render(&mut event, &Reader { membership: None, is_sender: false }, now);
        let event = RawValue::from_string(event).map_err(|error| Error::bad_json(error.to_string()))?;
        notifications.push(json!({
            "actions": notification.actions,
            "event": event,
            "read": notification.is_read,
            "room_id": notification.room_id,
            "ts": notification.shown.event.pdu.origin_server_ts,
        }));
    }
    let mut answer = json!({ "notifications": notifications });
    if let Some(last) = found.last().filter(|_| found.len() == limit) {
        answer["next_token"] = TimelineToken(last.shown.event.position).to_string().into();
    }
    Ok(answer.to_string())
}
