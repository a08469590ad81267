//! Saying something: to a conversation or to somebody, new or forwarded, one or several.

use std::sync::Arc;

use model::{Address, Millis};
use rooms::{LIFETIME, Lifetime, LiveRoom, Wish};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedRoomId, RoomId, serde::Raw};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::to_raw_value};
use utoipa::ToSchema;

use super::{event_id, rendered};
use crate::{
    Problem, Services, Session,
    native::{
        Answer, Call, Created, Nothing,
        conversations::{direct_with, transaction},
        message::{FORWARDED, MentionsSaid, Message, MessageType, PRIORITY, Priority, Said},
    },
};

/// No batch is longer.
const LONGEST_BATCH: usize = 100;

/// Something to be said, and where.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::native) struct NewMessage {
    /// In which conversation,
    #[serde(default, alias = "conversationId", alias = "session_id", alias = "sessionId")]
    #[schema(value_type = Option<String>)]
    conversation_id: Option<OwnedRoomId>,
    /// or to whom, in either spelling.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    to: Option<Address>,
    /// The client's own id of the message, unique on its device: 1 to 255 bytes.
    #[serde(default, alias = "msgId")]
    msg_id: Option<String>,
    /// What it is; left out: `text`.
    #[serde(rename = "type", default)]
    kind: MessageType,
    /// What it says, by its type, as in what is read; of text also a string alone. Numbers have no fractions.
    #[serde(default)]
    content: Value,
    /// The id of the message that it answers.
    #[serde(default, alias = "replyTo")]
    reply_to: Option<String>,
    /// The id of the message that began the thread that it is part of.
    #[serde(default, alias = "threadId")]
    thread_id: Option<String>,
    /// Whom it mentions.
    #[serde(default)]
    mentions: Option<MentionsSaid>,
    /// The id of a message that one sees, to be said again here instead of `content`.
    #[serde(default)]
    forward: Option<String>,
    /// How much it matters; clients show it. Left out: `normal`.
    #[serde(default)]
    priority: Priority,
    /// It is taken back, for everybody, so many milliseconds after it was said.
    #[serde(default, alias = "expiresInMs")]
    expires_in_ms: Option<u64>,
    /// It is taken back so many milliseconds after the other has read it. Where two people are, and not with `expires_in_ms`.
    #[serde(default, alias = "burnAfterMs")]
    burn_after_ms: Option<u64>,
}

impl NewMessage {
    /// The same in a conversation that is named otherwise.
    pub(in crate::native) fn into_conversation(self, room_id: OwnedRoomId) -> Self {
        Self { conversation_id: Some(room_id), ..self }
    }

    /// The same with a name, if its client gave it none.
    pub(super) fn named(mut self) -> Self {
        self.msg_id.get_or_insert_with(|| format!("scheduled-{:032x}", rand::random::<u128>()));
        self
    }

    /// How long it stays, if it is said at `at`.
    fn lifetime(&self, at: Millis) -> Result<Option<Lifetime>, Problem> {
        let millis = |time: u64| Millis::try_from(time).unwrap_or(Millis::MAX);
        match (self.expires_in_ms, self.burn_after_ms) {
            (Some(_), Some(_)) => {
                Err(Problem::invalid("`expires_in_ms` or `burn_after_ms`").with("field", "burn_after_ms"))
            }
            (Some(time), None) => Ok(Some(Lifetime::ExpiresAt(at.saturating_add(millis(time))))),
            (None, time) => Ok(time.map(millis).map(Lifetime::AfterRead)),
        }
    }
}

pub(super) async fn send(call: Call<Session, Nothing, NewMessage>) -> Answer<Created<Message>> {
    say(&call.services, &call.caller, call.body).await.map(Created)
}

/// Several things to be said.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MessageBatch)]
pub(super) struct Batch {
    /// A hundred at most.
    messages: Vec<NewMessage>,
}

/// What became of each.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageBatchAnswer)]
pub(super) struct BatchAnswer {
    /// In the order of the messages.
    results: Vec<BatchResult>,
}

/// What became of one.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageBatchResult)]
struct BatchResult {
    /// As if it had been sent alone: 201, or why not.
    status: u16,
    /// The message, if it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    /// What programs may rely on, if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

pub(super) async fn batch(call: Call<Session, Nothing, Batch>) -> Answer<BatchAnswer> {
    if call.body.messages.is_empty() || call.body.messages.len() > LONGEST_BATCH {
        return Err(Problem::invalid(format!("1 to {LONGEST_BATCH} messages")).with("field", "messages"));
    }
    let mut results = Vec::with_capacity(call.body.messages.len());
    for new in call.body.messages {
        results.push(match say(&call.services, &call.caller, new).await {
            Ok(message) => BatchResult { status: 201, message: Some(message), code: None, detail: None },
            Err(problem) => BatchResult {
                status: problem.status().as_u16(),
                message: None,
                code: Some(problem.code().to_owned()),
                detail: Some(problem.detail().to_owned()),
            },
        });
    }
    Ok(BatchAnswer { results })
}

/// Says something, and answers it as its sender sees it.
pub(in crate::native) async fn say(services: &Services, session: &Session, new: NewMessage) -> Answer<Message> {
    let (room, wish) = composed(services, session, new, MilliSecondsSinceUnixEpoch::now().get().into()).await?;
    let sent = services.rooms.say(&room, wish).await?;
    let mut sight = services.rooms.sight(&room, &session.user_id).await?;
    let event = services.rooms.find_event(&mut sight, &sent.event_id).await?;
    let messages = rendered(services, session, &room, &mut sight, std::slice::from_ref(&event)).await?;
    messages.into_iter().next().ok_or_else(|| Problem::not_found("there is no such message"))
}

/// What is to happen where, so that something is said at the moment `at`.
pub(super) async fn composed(
    services: &Services,
    session: &Session,
    new: NewMessage,
    at: Millis,
) -> Answer<(Arc<LiveRoom>, Wish)> {
    services.limits.check_send(&session.user_id).await?;
    let (kind, mut content) = content_of(services, session, &new).await?;
    if new.priority != Priority::Normal {
        content[PRIORITY] = json!(new.priority);
    }
    let lifetime = new.lifetime(at)?;
    let room_id = match (new.conversation_id, new.to) {
        (Some(room_id), None) => room_id,
        (None, Some(to)) => direct_with(services, session, &to.into_user_id()).await?,
        _ => return Err(Problem::invalid("either `conversation_id` or `to`").with("field", "conversation_id")),
    };
    let room = services.rooms.get(&room_id).await?;
    if let Some(lifetime) = lifetime {
        services.rooms.check_lifetime(&room, lifetime).await?;
        content[LIFETIME] = json!(lifetime);
    }
    let wish = wish(session, &kind, &content, new.msg_id.as_deref().map(|id| (&*room_id, id)))?;
    Ok((room, wish))
}

/// What is to happen in a room. `named`: in which room the client calls it what.
pub(super) fn wish(
    session: &Session,
    kind: &str,
    content: &Value,
    named: Option<(&RoomId, &str)>,
) -> Result<Wish, Problem> {
    let content = to_raw_value(content).map_err(|error| Problem::invalid(error.to_string()))?;
    // The same scope as on the Matrix API: one device's names are one device's, whichever way it sends.
    let transaction = named.map(|(room_id, id)| transaction(session, &format!("send {room_id}"), id));
    Ok(Wish {
        sender: session.user_id.clone(),
        kind: kind.into(),
        content,
        state_key: None,
        redacts: None,
        transaction: transaction.transpose()?,
    })
}

async fn content_of(services: &Services, session: &Session, new: &NewMessage) -> Result<(String, Value), Problem> {
    let Some(forwarded) = &new.forward else {
        let said = Said {
            kind: new.kind,
            content: new.content.clone(),
            reply_to: new.reply_to.clone(),
            thread_id: new.thread_id.clone(),
            mentions: new.mentions.clone(),
        };
        let (kind, content) = said.event()?;
        return Ok((kind.to_owned(), content));
    };
    if !new.content.is_null() || new.reply_to.is_some() || new.thread_id.is_some() || new.mentions.is_some() {
        return Err(Problem::invalid("what is forwarded says nothing else").with("field", "forward"));
    }
    forward(services, session, forwarded).await
}

/// What a message says now, to be said again elsewhere.
async fn forward(services: &Services, session: &Session, id: &str) -> Result<(String, Value), Problem> {
    let hidden = || Problem::not_found("there is no such message, or you may not see it").with("field", "forward");
    let id = event_id(id)?;
    let room = services.rooms.room_of(&id).await.map_err(|_| hidden())?;
    let mut sight = services.rooms.sight(&room, &session.user_id).await.map_err(|_| hidden())?;
    let event = services.rooms.find_event(&mut sight, &id).await.map_err(|_| hidden())?;
    let reader = rooms::Reader { user_id: &session.user_id, device_id: &session.device_id };
    let shown: Raw<Value> = services.rooms.render(&room, &event, reader, &mut sight).await?;
    let shown = shown.deserialize().unwrap_or_default();
    let kind = shown["type"].as_str().unwrap_or_default();
    let edited = &shown["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"];
    let content = if edited.is_object() { edited } else { &shown["content"] };
    let can_be = match kind {
        "m.room.message" => content["msgtype"].is_string(),
        kind => kind == "m.sticker",
    };
    let Some(content) = content.as_object().filter(|_| can_be) else {
        return Err(Problem::invalid("this message can't be forwarded").with("field", "forward"));
    };
    let mut content = content.clone();
    for own in ["m.relates_to", "m.mentions", "m.new_content", LIFETIME, PRIORITY] {
        content.remove(own);
    }
    let from = json!({
        "conversation_id": room.room_id, "message_id": id, "sender": event.pdu.sender, "sent_at": event.pdu.origin_server_ts,
    });
    // Where it was first said stays known, however often it is passed on.
    content.entry(FORWARDED).or_insert(from);
    Ok((kind.to_owned(), Value::Object(content)))
}
