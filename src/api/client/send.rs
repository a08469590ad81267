//! Sending events and state, and redacting.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#sending-events-to-a-room>

use rooms::{Transaction, Wish};
use ruma::{
    OwnedTransactionId, RoomId,
    api::client::{message::send_message_event, redact::redact_event, state::send_state_event},
    events::TimelineEventType,
};
use serde_json::{json, value::to_raw_value};

use crate::{Answer, Ask, Error, Route, Session, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(send_message),
        endpoint(send_state)
            .also_at("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
            .also_at("/_matrix/client/r0/rooms/{room_id}/state/{event_type}/")
            .also_at("/_matrix/client/v3/rooms/{room_id}/state/{event_type}")
            .also_at("/_matrix/client/v3/rooms/{room_id}/state/{event_type}/"),
        endpoint(redact),
    ]
}

async fn send_message(ask: Ask<send_message_event::v3::Request>) -> Answer<send_message_event::v3::Response> {
    let request = ask.request;
    ask.services.limits.check_send(&ask.session.user_id).await?;
    let room = ask.services.rooms.get(&request.room_id).await?;
    // A redaction sent like a message says in its content what it redacts.
    let redacts = (request.event_type.to_string() == TimelineEventType::RoomRedaction.to_string())
        .then(|| request.body.get_field("redacts").ok().flatten())
        .flatten();
    let wish = Wish {
        sender: ask.session.user_id.clone(),
        kind: request.event_type.to_string().into(),
        content: request.body.into_json(),
        state_key: None,
        redacts,
        transaction: Some(transaction(&ask.session, "send", &request.room_id, &request.txn_id)),
    };
    let sent = ask.services.rooms.send(&room, wish).await?;
    Ok(send_message_event::v3::Response::new(sent.event_id))
}

async fn send_state(ask: Ask<send_state_event::v3::Request>) -> Answer<send_state_event::v3::Response> {
    let request = ask.request;
    ask.services.limits.check_send(&ask.session.user_id).await?;
    let room = ask.services.rooms.get(&request.room_id).await?;
    let wish = Wish {
        sender: ask.session.user_id.clone(),
        kind: request.event_type.to_string().into(),
        content: request.body.into_json(),
        state_key: Some(request.state_key),
        redacts: None,
        transaction: None,
    };
    let sent = ask.services.rooms.send(&room, wish).await?;
    Ok(send_state_event::v3::Response::new(sent.event_id))
}

async fn redact(ask: Ask<redact_event::v3::Request>) -> Answer<redact_event::v3::Response> {
    let request = ask.request;
    ask.services.limits.check_send(&ask.session.user_id).await?;
    let room = ask.services.rooms.get(&request.room_id).await?;
    let content = match &request.reason {
        Some(reason) => json!({ "reason": reason }),
        None => json!({}),
    };
    let wish = Wish {
        sender: ask.session.user_id.clone(),
        kind: TimelineEventType::RoomRedaction,
        content: to_raw_value(&content).map_err(|error| Error::bad_json(error.to_string()))?,
        state_key: None,
        redacts: Some(request.event_id),
        transaction: Some(transaction(&ask.session, "redact", &request.room_id, &request.txn_id)),
    };
    let sent = ask.services.rooms.send(&room, wish).await?;
    Ok(redact_event::v3::Response::new(sent.event_id))
}

fn transaction(session: &Session, endpoint: &str, room_id: &RoomId, txn_id: &OwnedTransactionId) -> Transaction {
    Transaction {
        user_id: session.user_id.clone(),
        device_id: session.device_id.clone(),
        scope: format!("{endpoint} {room_id}"),
        transaction_id: txn_id.to_string(),
    }
}
