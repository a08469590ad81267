//! One rendering of an event as a message of a conversation, for every native face.
//!
//! A conversation is a room and a message is an event, so nothing is kept here: [`Message::of`] is a pure function of the
//! event as clients are shown it, with its edits and its redaction, and of the number that this server gave it.
//!
//! **Every event is an item.** What isn't said by somebody (who came and went, what the conversation is called, an edit, a
//! reaction, a recall) has the type `notice` and tells by `content.kind` what it is. So the numbers of the items leave no
//! gap but for what the reader may not see, and for that an answer says which numbers it covers.

mod compose;
mod content;
mod notice;

pub(crate) use compose::{MentionsSaid, Said};
pub(crate) use content::of as said;

use model::Address;
use rooms::LIFETIME;
use ruma::{OwnedUserId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The key of an event's content that tells where a forwarded message is from.
pub(crate) const FORWARDED: &str = "org.comity.forwarded";
/// The `msgtype` of a card, and the key of its content.
pub(crate) const CARD: &str = "org.comity.card";
/// The `msgtype` of something that only some clients know, and the key of its content.
pub(crate) const CUSTOM: &str = "org.comity.custom";

/// The key of an event's content that says how much it matters.
pub(crate) const PRIORITY: &str = "org.comity.priority";

/// How much a message matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MessagePriority)]
pub(crate) enum Priority {
    /// Whenever there is time.
    Low,
    /// As most do.
    #[default]
    Normal,
    /// Sooner than others.
    High,
    /// Now.
    Urgent,
}

/// What an item of a conversation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MessageType {
    /// `content.text`.
    #[default]
    Text,
    /// `content.text` as it was written, `content.html` as it is shown; HTML of other people has to be sanitized.
    Markdown,
    /// A file that can be shown: `content.url`, an `mxc://` URI, with `name`, `size`, `mimetype`, `width`, `height`.
    Image,
    /// A file.
    File,
    /// A file that can be heard, with `duration_ms`.
    Voice,
    /// A file that can be seen and heard.
    Video,
    /// A place: `content.geo_uri`, `latitude`, `longitude`, `description`.
    Location,
    /// Something with a form that clients know: `content.card`, any JSON without fractions.
    Card,
    /// Anything else: `content.data`, any JSON without fractions.
    Custom,
    /// Nothing that was said, but something that happened: see `content.kind`.
    Notice,
    /// Only the members' devices can read it.
    Encrypted,
    /// It was taken back.
    Recalled,
}

/// An item of a conversation: what somebody said, or what happened in it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Message {
    /// The id of the message, which is the event's.
    pub(crate) id: String,
    /// In which conversation, which is the room's id.
    pub(crate) conversation_id: String,
    /// The number that this server gave it: 1, 2, 3 … in each conversation. Null: history from before this server's time.
    pub(crate) seq: Option<i64>,
    /// What the client that sent it called it; told to that client only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) msg_id: Option<String>,
    /// Who made it.
    pub(crate) sender: Person,
    /// When, as the sender's server says, milliseconds since 1970.
    pub(crate) sent_at: i64,
    /// What it is.
    #[serde(rename = "type")]
    pub(crate) kind: MessageType,
    /// What it says, by its type.
    pub(crate) content: Value,
    /// The id of the message that it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reply_to: Option<String>,
    /// The id of the message that began the thread that it is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thread_id: Option<String>,
    /// Where it was forwarded from, as the sender's client says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forwarded_from: Option<Value>,
    /// Whom it mentions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mentions: Option<Mentions>,
    /// How much it matters.
    pub(crate) priority: Priority,
    /// When it is taken back, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<i64>,
    /// So many milliseconds after somebody else has read it, it is taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) burn_after_ms: Option<i64>,
    /// When it was last edited, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) edited_at: Option<i64>,
    /// When it was taken back, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recalled_at: Option<i64>,
    /// Who took it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recalled_by: Option<Person>,
    /// Whether it comes from another server.
    pub(crate) is_federated: bool,
    /// Who reacted to it, by what they reacted with. In history only; elsewhere a reaction is an item of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) reactions: Vec<Reaction>,
}

/// How often a message was reacted to with the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MessageReaction)]
pub(crate) struct Reaction {
    /// With what.
    pub(crate) key: String,
    /// By how many.
    pub(crate) count: usize,
    /// Whether the reader is among them.
    pub(crate) mine: bool,
}

/// A user, in both spellings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MessagePerson)]
pub(crate) struct Person {
    /// As Matrix spells it: `@alice:b.example`.
    #[schema(value_type = String)]
    pub(crate) user_id: OwnedUserId,
    /// As people spell it: `alice@b.example`.
    #[schema(value_type = String)]
    pub(crate) address: Address,
}

/// Whom a message wants to be noticed by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MessageMentions)]
pub(crate) struct Mentions {
    /// These users.
    pub(crate) users: Vec<Person>,
    /// Everybody in the conversation.
    pub(crate) all: bool,
}

impl From<&UserId> for Person {
    fn from(user_id: &UserId) -> Self {
        Self { user_id: user_id.to_owned(), address: user_id.into() }
    }
}

impl Person {
    fn of(value: &Value) -> Option<Self> {
        <&UserId>::try_from(value.as_str()?).ok().map(Self::from)
    }
}

impl Message {
    /// An event as a message. `None`: what is given is no event.
    ///
    /// `event`: as a client of the Matrix API is shown it, with `unsigned` (`transaction_id`, `redacted_because`,
    /// `prev_content`, the latest edit in `m.relations`), with or without its `room_id`. `seq`: the number it has here.
    /// `us`: this server.
    pub(crate) fn of(event: &Value, room_id: &RoomId, seq: Option<i64>, us: &ServerName) -> Option<Self> {
        let sender = Person::of(&event["sender"])?;
        let unsigned = &event["unsigned"];
        let edit = Some(&unsigned["m.relations"]["m.replace"]).filter(|edit| edit["content"].is_object());
        let original = &event["content"];
        let (kind, content) = told(event, edit);
        let is_shown = !matches!(kind, MessageType::Recalled);
        // What an edit says counts, and to what the message relates stays as it was.
        let said = edit.map(|edit| &edit["content"]["m.new_content"]).filter(|said| said.is_object());
        let mentions = mentions(said.unwrap_or(original)).filter(|_| is_shown);
        let relates_to = &original["m.relates_to"];
        let redaction = &unsigned["redacted_because"];
        Some(Self {
            id: event["event_id"].as_str()?.to_owned(),
            conversation_id: room_id.to_string(),
            seq,
            msg_id: text(&unsigned["transaction_id"]),
            is_federated: sender.user_id.server_name() != us,
            sender,
            sent_at: event["origin_server_ts"].as_i64().unwrap_or_default(),
            kind,
            content,
            reply_to: answered(relates_to),
            thread_id: text(&relates_to["event_id"]).filter(|_| relates_to["rel_type"] == "m.thread"),
            forwarded_from: original.get(FORWARDED).filter(|from| from.is_object()).cloned(),
            mentions,
            priority: serde_json::from_value(original[PRIORITY].clone()).unwrap_or_default(),
            expires_at: original[LIFETIME]["expires_at"].as_i64(),
            burn_after_ms: original[LIFETIME]["after_read"].as_i64(),
            edited_at: edit.filter(|_| is_shown).and_then(|edit| edit["origin_server_ts"].as_i64()),
            recalled_at: redaction["origin_server_ts"].as_i64().filter(|_| !is_shown),
            recalled_by: Person::of(&redaction["sender"]).filter(|_| !is_shown),
            reactions: Vec::new(),
        })
    }

    /// Whether it is something that happened, and nothing that was said.
    pub(crate) fn is_notice(&self) -> bool {
        self.kind == MessageType::Notice
    }
}

/// What an event is, and what it says.
fn told(event: &Value, edit: Option<&Value>) -> (MessageType, Value) {
    let kind = event["type"].as_str().unwrap_or_default();
    if let Some(state_key) = event["state_key"].as_str() {
        return (MessageType::Notice, notice::of_state(kind, state_key, event));
    }
    let content = &event["content"];
    // Of what was redacted nothing is left that a message could say, whoever tells or doesn't tell of the redaction.
    let is_emptied = kind == "m.room.message" && content.as_object().is_none_or(serde_json::Map::is_empty);
    let redaction = &event["unsigned"]["redacted_because"];
    if redaction.is_object() || is_emptied {
        return match notice::of_withdrawn(kind, redaction) {
            Some(change) => (MessageType::Notice, change),
            None => (MessageType::Recalled, json!({})),
        };
    }
    if let Some(change) = notice::of_change(kind, event) {
        return (MessageType::Notice, change);
    }
    let said = edit.map(|edit| &edit["content"]["m.new_content"]).filter(|said| said.is_object());
    match edit {
        // The new words of an encrypted edit are in its own content.
        Some(edit) if kind == "m.room.encrypted" => (MessageType::Encrypted, edit["content"].clone()),
        _ => content::of(kind, said.unwrap_or(content)),
    }
}

/// The message that this one answers. Threads name one for clients that know none; that is no answer.
fn answered(relates_to: &Value) -> Option<String> {
    let is_fallback = relates_to["rel_type"] == "m.thread" && relates_to["is_falling_back"] == true;
    text(&relates_to["m.in_reply_to"]["event_id"]).filter(|_| !is_fallback)
}

fn mentions(content: &Value) -> Option<Mentions> {
    let named = content.get("m.mentions")?;
    let users: Vec<Person> = named["user_ids"].as_array().into_iter().flatten().filter_map(Person::of).collect();
    let all = named["room"] == true;
    (all || !users.is_empty()).then_some(Mentions { users, all })
}

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
