//! What happens here, as messages on the bus.

use fabric::bus::{Key, Message};
use model::{Millis, TimelineEvent};
use ruma::{EventId, RoomId, ServerName, UserId, events::TimelineEventType, presence::PresenceState};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use store::{broadcasts::BroadcastRow, presence::PresenceRow, system_events::SystemEventRow};

use crate::system_events::Severity;

/// The `data` of `chat.message` and `system.notification`.
#[derive(Serialize)]
struct RoomEvent<'a> {
    room_id: &'a RoomId,
    event_id: &'a EventId,
    sender: &'a UserId,
    #[serde(rename = "type")]
    kind: &'a TimelineEventType,
    content: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a EventId>,
    /// Its place in the stream of this server: what comes later has a higher one.
    position: i64,
}

/// The `data` of `user.status`.
#[derive(Serialize)]
struct Status<'a> {
    user_id: &'a UserId,
    presence: &'a PresenceState,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_msg: Option<&'a str>,
    last_active_at: Millis,
}

/// An event in a room. `None`: it is not for others to see.
pub(super) fn event(origin: &ServerName, event: &TimelineEvent, position: i64) -> Option<Message> {
    let pdu = &event.pdu;
    if pdu.rejected || event.soft_failed || event.withheld_below.is_some() {
        return None;
    }
    let room_id = pdu.room_id.clone();
    let key = if pdu.state_key.is_some() { Key::Notification(room_id) } else { Key::Message(room_id) };
    let data = RoomEvent {
        room_id: &pdu.room_id,
        event_id: &pdu.event_id,
        sender: &pdu.sender,
        kind: &pdu.kind,
        content: &pdu.content,
        state_key: pdu.state_key.as_deref(),
        redacts: pdu.redacts.as_deref(),
        position,
    };
    let data = to_raw_value(&data).ok()?;
    let time = Millis::try_from(u64::from(pdu.origin_server_ts.get())).unwrap_or_default();
    Some(Message::new(key, pdu.event_id.to_string(), time, origin.to_string(), data))
}

/// Somebody's presence.
pub(super) fn presence(origin: &ServerName, row: &PresenceRow, now: Millis) -> Option<Message> {
    let user_id = row.user_id.clone();
    let key = if row.state == PresenceState::Offline { Key::Offline(user_id) } else { Key::Online(user_id) };
    let data = Status {
        user_id: &row.user_id,
        presence: &row.state,
        status_msg: row.status_msg.as_deref(),
        last_active_at: row.last_active_at,
    };
    let id = format!("{}/{}", row.user_id, row.position.0);
    Some(Message::new(key, id, now, origin.to_string(), to_raw_value(&data).ok()?))
}

/// The `data` of `system.event`.
#[derive(Serialize)]
struct EventData<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    severity: &'a str,
    data: &'a RawValue,
    author: &'a str,
    position: i64,
}

/// The `data` of `system.broadcast`.
#[derive(Serialize)]
struct BroadcastData<'a> {
    id: &'a str,
    /// The server that it comes from.
    server: &'a ServerName,
    author: &'a str,
    title: &'a str,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<&'a str>,
    priority: &'a str,
    audience: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Millis>,
    /// Since when nobody is to be told any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_at: Option<Millis>,
}

/// A system event that was recorded.
pub(super) fn system_event(origin: &ServerName, row: &SystemEventRow) -> Option<Message> {
    let data: Box<RawValue> = RawValue::from_string(row.data.clone()).ok()?;
    let severity = usize::try_from(row.severity).ok().and_then(|at| Severity::ALL.get(at))?;
    let data = EventData {
        kind: &row.kind,
        subject: &row.subject,
        severity: severity.as_str(),
        data: &data,
        author: &row.author,
        position: row.position.0,
    };
    Some(Message::new(Key::Event, row.id.clone(), row.at, origin.to_string(), to_raw_value(&data).ok()?))
}

/// A broadcast that was published, or called back. `None`: it is neither yet.
pub(super) fn broadcast(origin: &ServerName, row: &BroadcastRow) -> Option<Message> {
    let published_at = row.published_at?;
    let audience: Box<RawValue> = RawValue::from_string(row.audience.clone()).ok()?;
    let data = BroadcastData {
        id: &row.id,
        server: &row.origin,
        author: &row.author,
        title: &row.title,
        body: &row.body,
        html: row.html.as_deref(),
        priority: &row.priority,
        audience: &audience,
        expires_at: row.expires_at,
        cancelled_at: row.cancelled_at,
    };
    // That it was called back is another message than the broadcast.
    let (id, at) = match row.cancelled_at {
        Some(at) => (format!("{}/cancelled", row.id), at),
        None => (row.id.clone(), published_at),
    };
    Some(Message::new(Key::Broadcast, id, at, origin.to_string(), to_raw_value(&data).ok()?))
}
