//! What a client is told, as frames: JSON objects with a `type`.

use axum::extract::ws::Utf8Bytes;
use model::{Millis, Position};
use ruma::{
    RoomId, ServerName,
    events::receipt::{ReceiptThread, ReceiptType},
    presence::PresenceState,
};
use serde::Serialize;
use serde_json::{Value, json};
use sync::{
    PresenceNow, Reader, Rendered, Shown, SyncToken,
    feed::{Item, News, Reset},
};

use super::RealtimeConfig;
use crate::{
    Problem, Session,
    native::message::{Message, Person},
};

/// From this size on an event is rendered for each reader: it would take too much memory to keep that.
const LARGE: usize = 8 << 10;

/// A frame on its way to a client.
pub(super) struct Frame {
    /// Its `type`.
    pub(super) kind: &'static str,
    pub(super) text: Utf8Bytes,
}

impl Frame {
    fn of(value: &Value, kind: &'static str) -> Self {
        Self { kind, text: value.to_string().into() }
    }

    /// Something that happened: a client that has this goes on from `position`.
    fn at(position: Position, kind: &'static str, data: &str) -> Self {
        let position = token(position);
        Self { kind, text: format!(r#"{{"type":"{kind}","position":"{position}","data":{data}}}"#).into() }
    }

    /// The first of all: who the client is, and what it may do.
    pub(super) fn hello(session: &Session, position: SyncToken, is_resumed: bool, config: &RealtimeConfig) -> Self {
        let hello = json!({
            "type": "hello",
            "version": 1,
            "position": position.to_string(),
            "resumed": is_resumed,
            "user": Person::from(&*session.user_id),
            "device_id": session.device_id,
            "heartbeat_seconds": config.heartbeat.as_secs_f64(),
            "window": config.window,
            "max_frame_bytes": config.max_frame,
            "server_time": now(),
        });
        Self::of(&hello, "hello")
    }

    /// The client can't go on from where it was: what it knows of its conversations is to be fetched anew.
    pub(super) fn reset(position: SyncToken, why: Reset) -> Self {
        let reset = json!({
            "type": "reset",
            "position": position.to_string(),
            "data": { "reason": why.as_str(), "fetch": "/api/v1/conversations" },
        });
        Self::of(&reset, "reset")
    }

    /// Nothing happened, up to here: so that a quiet client doesn't come back from far behind.
    pub(super) fn heartbeat(position: SyncToken) -> Self {
        Self::of(&json!({ "type": "heartbeat", "position": position.to_string(), "server_time": now() }), "heartbeat")
    }

    /// What the client asked for was not done. `id`: what it called it.
    pub(super) fn error(problem: &Problem, id: Option<Value>) -> Self {
        let mut error = json!({ "type": "error", "problem": problem.to_json() });
        if let Some(id) = id {
            error["id"] = id;
        }
        Self::of(&error, "error")
    }

    /// Any other answer to a frame of the client.
    pub(super) fn answer(kind: &'static str, mut fields: Value) -> Self {
        fields["type"] = kind.into();
        Self::of(&fields, kind)
    }

    /// Somebody's presence, as it is now.
    pub(super) fn presence(presence: &PresenceNow) -> Self {
        Self::answer("presence", json!({ "data": presence_data(presence) }))
    }

    /// Something that happened. `None`: the client isn't told of it.
    pub(super) fn news(item: &Item, us: &ServerName) -> Option<Self> {
        let at = |kind, data: Value| Some(Self::at(item.position, kind, &data.to_string()));
        match &item.news {
            News::Event { shown, reader } => {
                if reader.is_sender || shown.event.pdu.json.len() > LARGE {
                    // The sender's device alone is told what it called the message.
                    let rendered = render(shown, reader, us)?;
                    return Some(Self::at(item.position, rendered.kind, &rendered.json));
                }
                let rendered = shown.rendered(|shown| render(shown, reader, us))?;
                Some(Self::at(item.position, rendered.kind, &rendered.json))
            }
            News::Membership { room_id, membership, shown } => {
                let data = json!({
                    "conversation_id": room_id,
                    "membership": membership.as_str(),
                    "message": message(shown, &everybody(), room_id, us),
                });
                at("conversation", data)
            }
            News::Receipt { room_id, receipt, unread } => {
                let mut data = json!({
                    "conversation_id": room_id,
                    "user": Person::from(&*receipt.user_id),
                    "message_id": receipt.event_id,
                    "read_at": receipt.at,
                });
                if let ReceiptThread::Thread(root) = &receipt.thread {
                    data["thread_id"] = root.as_str().into();
                }
                if receipt.kind == ReceiptType::ReadPrivate {
                    data["is_private"] = true.into();
                }
                if let Some(unread) = unread {
                    data["unread"] = json!({ "messages": unread.notifications, "mentions": unread.highlights });
                }
                at("receipt", data)
            }
            News::Typing { room_id, user_ids } => {
                let users: Vec<Person> = user_ids.iter().map(|user_id| Person::from(&**user_id)).collect();
                at("typing", json!({ "conversation_id": room_id, "users": users }))
            }
            News::Presence(presence) => at("presence", presence_data(presence)),
            News::AccountData { room_id, kind } => at("settings", json!({ "conversation_id": room_id, "kind": kind })),
            News::OwnDevices => None,
        }
    }
}

/// Whoever may see an event and did not send it.
fn everybody() -> Reader {
    Reader { membership: None, is_sender: false }
}

fn render(shown: &Shown, reader: &Reader, us: &ServerName) -> Option<Rendered> {
    let message = message(shown, reader, &shown.event.pdu.room_id, us)?;
    let kind = if message.is_notice() { "notice" } else { "message" };
    Some(Rendered { kind, json: json_of(&message) })
}

fn message(shown: &Shown, reader: &Reader, room_id: &RoomId, us: &ServerName) -> Option<Message> {
    let mut text = String::new();
    shown.render(&mut text, reader, now());
    let event: Value = serde_json::from_str(&text).ok()?;
    Message::of(&event, room_id, shown.event.seq, us)
}

fn json_of(value: &impl Serialize) -> Box<str> {
    serde_json::to_string(value).expect("a message can be written as JSON").into()
}

fn presence_data(presence: &PresenceNow) -> Value {
    let status = match presence.state {
        PresenceState::Online => "online",
        PresenceState::Unavailable => "away",
        _ => "offline",
    };
    let mut data = json!({ "user": Person::from(&*presence.user_id), "status": status });
    if let Some(message) = &presence.status_msg {
        data["status_message"] = message.as_str().into();
    }
    if presence.last_active_at > 0 {
        data["last_active_at"] = presence.last_active_at.into();
    }
    data
}

/// As a client brings it back.
fn token(position: Position) -> SyncToken {
    SyncToken { position, to_device: None }
}

/// Milliseconds since 1970.
pub(super) fn now() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
