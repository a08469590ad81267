//! What a client says, and what becomes of it.

use http::StatusCode;
use model::Address;
use ruma::{
    OwnedEventId, OwnedRoomId,
    events::receipt::{ReceiptThread, ReceiptType},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use sync::{Read, SyncToken};

use super::frame::Frame;
use crate::{
    Problem, Services, Session, SharedServices,
    endpoint::check_json,
    native::{
        messages::{NewMessage, say},
        payload::misread,
    },
};

/// How long somebody types who doesn't say.
const USUAL_TYPING_MS: u32 = 30_000;
/// How many users one frame may follow.
const MOST_NAMED: usize = 50;

/// What a client says.
pub(super) enum Command {
    /// It has everything up to here.
    Ack(SyncToken),
    /// It wants to be answered.
    Ping,
    /// Whose presence it wants to hear of.
    Presence(Presence),
    /// What a service does.
    Act(Act),
}

/// What a service does, and answers when it is done.
pub(super) enum Act {
    Send(Box<Send>),
    Typing(Typing),
    Read(ReadUpTo),
}

/// A frame that was read, and what the client calls it.
pub(super) struct Heard {
    pub(super) command: Command,
    /// Told again in what answers it.
    pub(super) id: Option<Value>,
}

/// What can be known of a frame before anything else.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ack {
    position: String,
}

/// A message to be sent.
pub(super) struct Send {
    msg_id: String,
    message: NewMessage,
}

/// Whether the user types.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Typing {
    #[serde(alias = "conversationId")]
    conversation_id: OwnedRoomId,
    #[serde(default = "yes")]
    typing: bool,
    /// For how long, unless it is said again.
    #[serde(default, alias = "timeoutMs")]
    timeout_ms: Option<u32>,
}

fn yes() -> bool {
    true
}

/// How far the user has read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadUpTo {
    #[serde(alias = "conversationId")]
    conversation_id: OwnedRoomId,
    #[serde(alias = "messageId")]
    message_id: OwnedEventId,
    /// Nobody else is told.
    #[serde(default)]
    private: bool,
}

/// Whose presence the client wants to hear of, and whose no longer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Presence {
    #[serde(default)]
    pub(super) subscribe: Vec<Address>,
    #[serde(default)]
    pub(super) unsubscribe: Vec<Address>,
}

/// Reads a frame. An error is told in a frame, and the connection goes on.
pub(super) fn read(text: &str) -> Result<Heard, Frame> {
    let head: Head = parse(text).map_err(|problem| Frame::error(&problem, None))?;
    let id = head.id;
    match command(&head.kind, text) {
        Ok(command) => Ok(Heard { command, id }),
        Err((problem, Some(msg_id))) => Err(refused(&problem, &msg_id)),
        Err((problem, None)) => Err(Frame::error(&problem, id)),
    }
}

/// An error: why not, and, if it was a message, what the client calls it.
fn command(kind: &str, text: &str) -> Result<Command, (Problem, Option<String>)> {
    let plain = |problem| (problem, None);
    match kind {
        "ack" => {
            let Ack { position } = body(text).map_err(plain)?;
            let position =
                position.parse::<SyncToken>().map_err(|error| plain(Problem::invalid(format!("position: {error}"))))?;
            Ok(Command::Ack(position))
        }
        "ping" => body(text).map(|Nothing {}| Command::Ping).map_err(plain),
        "presence" => {
            let presence: Presence = body(text).map_err(plain)?;
            if presence.subscribe.len() + presence.unsubscribe.len() > MOST_NAMED {
                let detail = format!("one frame may name {MOST_NAMED} users");
                return Err(plain(Problem::invalid(detail).with("field", "subscribe")));
            }
            Ok(Command::Presence(presence))
        }
        "send" => send(text).map(|send| Command::Act(Act::Send(Box::new(send)))),
        "typing" => body(text).map(|typing| Command::Act(Act::Typing(typing))).map_err(plain),
        "read" => body(text).map(|read| Command::Act(Act::Read(read))).map_err(plain),
        _ => {
            let detail = "there is no such type of frame: ack, ping, presence, read, send and typing are taken";
            Err(plain(Problem::new(StatusCode::BAD_REQUEST, "unknown_frame", detail)))
        }
    }
}

/// Where a message goes and what its client calls it stands beside it, since both have a `type`.
fn send(text: &str) -> Result<Send, (Problem, Option<String>)> {
    let mut fields: Map<String, Value> = body(text).map_err(|problem| (problem, None))?;
    let msg_id = fields.get("msg_id").or_else(|| fields.get("msgId")).and_then(Value::as_str).map(str::to_owned);
    let wrong = |problem| (problem, msg_id.clone());
    let Some(Value::Object(mut message)) = fields.remove("message") else {
        return Err(wrong(Problem::invalid("`message` is what is to be sent, an object").with("field", "message")));
    };
    message.append(&mut fields);
    let message = from_value(Value::Object(message)).map_err(wrong)?;
    match msg_id {
        Some(msg_id) => Ok(Send { msg_id, message }),
        None => Err((Problem::invalid("`msg_id` is what the answer will name it by").with("field", "msg_id"), None)),
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    check_json(text.as_bytes())?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| misread("frame", error))
}

/// A frame without what every frame has.
fn body<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let mut fields: Value = parse(text)?;
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("type");
        fields.remove("id");
    }
    from_value(fields)
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| misread("frame", error))
}

fn refused(problem: &Problem, msg_id: &str) -> Frame {
    Frame::answer("refused", json!({ "msg_id": msg_id, "problem": problem.to_json() }))
}

impl Act {
    /// What the client is answered; `None`: nothing, it was done.
    pub(super) async fn perform(self, id: Option<Value>, session: Session, services: SharedServices) -> Option<Frame> {
        let done = match self {
            Self::Send(send) => return Some(send.perform(&session, &services).await),
            Self::Typing(typing) => typing.perform(&session, &services).await,
            Self::Read(read) => read.perform(&session, &services).await,
        };
        match (done, id) {
            (Err(problem), id) => Some(Frame::error(&problem, id)),
            (Ok(()), Some(id)) => Some(Frame::answer("done", json!({ "id": id }))),
            (Ok(()), None) => None,
        }
    }
}

impl Send {
    async fn perform(self, session: &Session, services: &Services) -> Frame {
        match say(services, session, self.message).await {
            Ok(message) => {
                let sent = json!({ "msg_id": self.msg_id, "id": message.id, "message": message });
                Frame::answer("sent", sent)
            }
            Err(problem) => refused(&problem, &self.msg_id),
        }
    }
}

impl Typing {
    async fn perform(self, session: &Session, services: &Services) -> Result<(), Problem> {
        let room = services.rooms.get(&self.conversation_id).await?;
        services.rooms.check_joined(&room, &session.user_id).await?;
        let timeout = self.typing.then(|| self.timeout_ms.unwrap_or(USUAL_TYPING_MS).into());
        Ok(services.sync.set_typing(&room, &session.user_id, timeout).await?)
    }
}

impl ReadUpTo {
    async fn perform(self, session: &Session, services: &Services) -> Result<(), Problem> {
        let room = services.rooms.get(&self.conversation_id).await?;
        services.rooms.check_joined(&room, &session.user_id).await?;
        let kind = if self.private { ReceiptType::ReadPrivate } else { ReceiptType::Read };
        let read = Read { kind: Some(kind), thread: ReceiptThread::Unthreaded, event_id: self.message_id };
        Ok(services.sync.set_read(&room, &session.user_id, &[read]).await?)
    }
}
