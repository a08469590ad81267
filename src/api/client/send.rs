//! Sending events and state, and redacting.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#sending-events-to-a-room>

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{Method, header};
use rooms::{Transaction, Wish};
use ruma::{
    EventId, OwnedEventId, OwnedTransactionId, RoomId,
    api::client::{message::send_message_event, redact::redact_event, state::send_state_event},
    events::TimelineEventType,
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::delayed;
use crate::{
    Answer, Ask, Error, Needs, Route, Services, Session, endpoint,
    endpoint::{PlainAsk, parse_json, plain_endpoint},
    json_endpoint,
};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        json_endpoint(send_message),
        json_endpoint(send_state)
            .also_at("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
            .also_at("/_matrix/client/r0/rooms/{room_id}/state/{event_type}/")
            .also_at("/_matrix/client/v3/rooms/{room_id}/state/{event_type}")
            .also_at("/_matrix/client/v3/rooms/{room_id}/state/{event_type}/"),
        endpoint(redact),
        plain_endpoint(Method::POST, "/_matrix/client/v3/rooms/{room_id}/send/{event_type}", Needs::User, send_unnamed),
        plain_endpoint(
            Method::POST,
            "/_matrix/client/v3/rooms/{room_id}/redact/{event_id}",
            Needs::User,
            redact_unnamed,
        ),
    ]
}

/// Sends an event whose request has no name of the client's: who doesn't hear the answer can't know whether it was sent.
async fn send_unnamed(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let [room_id, event_type] = ask.arguments.as_slice() else { return Err(Error::unrecognized()) };
    let content: Box<RawValue> = parse_json(&ask.body)?;
    let kind = TimelineEventType::from(event_type.as_str());
    let redacts = None;
    say_unnamed(&ask, &session, room_id, Unnamed { kind, content, redacts }).await
}

async fn redact_unnamed(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let [room_id, event_id] = ask.arguments.as_slice() else { return Err(Error::unrecognized()) };
    let event_id = EventId::parse(event_id).map_err(|_| Error::invalid_param("the path names no event id"))?;
    let body = if ask.body.is_empty() { Bytes::from_static(b"{}") } else { ask.body.clone() };
    let content: Box<RawValue> = parse_json(&body)?;
    let kind = TimelineEventType::RoomRedaction;
    say_unnamed(&ask, &session, room_id, Unnamed { kind, content, redacts: Some(event_id) }).await
}

struct Unnamed {
    kind: TimelineEventType,
    content: Box<RawValue>,
    redacts: Option<OwnedEventId>,
}

async fn say_unnamed(ask: &PlainAsk, session: &Session, room_id: &str, said: Unnamed) -> Result<Response, Error> {
    let room_id = RoomId::parse(room_id).map_err(|_| Error::invalid_param("the path names no room id"))?;
    ask.services.limits.check_send(&session.user_id).await?;
    let room = ask.services.rooms.get(&room_id).await?;
    let Unnamed { kind, content, redacts } = said;
    let sender = session.user_id.clone();
    let wish = Wish { sender, kind, content, state_key: None, redacts, transaction: None };
    let sent = ask.services.rooms.send(&room, wish).await?;
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, json!({ "event_id": sent.event_id }).to_string()).into_response())
}

async fn send_message(ask: Ask<send_message_event::v3::Request>) -> Answer<String> {
    let delay = delayed::delay_of(&ask.uri)?;
    let request = ask.request;
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
    let name = Some(request.txn_id.as_str());
    send_or_delay(&ask.services, &ask.session, &request.room_id, wish, name, delay).await
}

async fn send_state(ask: Ask<send_state_event::v3::Request>) -> Answer<String> {
    let delay = delayed::delay_of(&ask.uri)?;
    let request = ask.request;
    let wish = Wish {
        sender: ask.session.user_id.clone(),
        kind: request.event_type.to_string().into(),
        content: request.body.into_json(),
        state_key: Some(request.state_key),
        redacts: None,
        transaction: None,
    };
    send_or_delay(&ask.services, &ask.session, &request.room_id, wish, None, delay).await
}

/// Answers `event_id`, or, of what is sent later, `delay_id`.
async fn send_or_delay(
    services: &Services,
    session: &Session,
    room_id: &RoomId,
    wish: Wish,
    name: Option<&str>,
    delay: Option<Duration>,
) -> Answer<String> {
    if let Some(delay) = delay {
        let id = delayed::delay(services, session, room_id, wish, name, delay).await?;
        return Ok(json!({ "delay_id": id }).to_string());
    }
    services.limits.check_send(&session.user_id).await?;
    let room = services.rooms.get(room_id).await?;
    let sent = services.rooms.send(&room, wish).await?;
    Ok(json!({ "event_id": sent.event_id }).to_string())
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
