//! Messages: what is said in conversations, and what becomes of it.

mod scheduled;
mod search;
mod send;

pub(super) use send::{NewMessage, say};

use std::sync::Arc;

use model::TimelineEvent;
use rooms::{Edge, LiveRoom, Reader, Recall, Sight, StretchRequest};
use ruma::{OwnedEventId, OwnedRoomId, api::Direction, serde::Raw};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use users::applications::AppScope;
use utoipa::{IntoParams, ToSchema};

use super::{
    Answer, Call, Endpoint, Nothing,
    conversations::{MOST, USUAL},
    delete, get,
    message::{Message, Person, Reaction, Said},
    patch, post, put,
};
use crate::{Problem, Services, Session};

/// No answer names more readers.
const MOST_READERS: usize = 100;

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let send_text = "Into the conversation `conversation_id`, or, with `to`, to one user, with whom there is one conversation: it is \
        made if need be. The same `msg_id` of the same device gives the same message again, whatever else is asked for.\n\n\
        In a conversation that is `encrypted`, only messages of the type `encrypted` are taken; any other gets \
        `encrypted_conversation`, and nobody reads it.";
    let history_text = "The items of a conversation, oldest first. Without an edge the latest; `before_id` or `before_seq`: those \
        before; `after_id` or `after_seq`: those after; `cursor`: what follows on the page before, in its direction.\n\n\
        Every event of a conversation has a number here, 1, 2, 3 … without a gap, as far as it came while this server was in it. \
        What an answer doesn't hold and what lies between its `first_seq` and `last_seq` isn't for the caller to see, or wasn't asked \
        for (`only=messages` leaves out notices): no client needs to look for it again. History from before this server's time has \
        no numbers, and comes last when going back.";
    let recall_text = "For everybody, on all servers. Who said it may for as long as `rooms.recall_window` says, and gets \
        `recall_too_late` afterwards; who moderates may always. Once more does nothing.";
    let edit_text = "Only one's own. Matrix clients see the edit as theirs.";
    let search_text = "In the conversations that one is in, or was in until then, the latest first, as far as one sees them; what one has \
        hidden or cleared isn't found, nor what is encrypted. Full width, capitals and the forms of letters make no difference.";
    let batch_text =
        "In their order, a hundred at most. Each has a result of its own, and one that fails stops no other.";
    let mut endpoints = scheduled::endpoints();
    endpoints.extend([
        post("/api/v1/messages", "Says something.", send::send).explained(send_text).open_to(AppScope::MessagesSend),
        post("/api/v1/messages/batch", "Says several things.", send::batch)
            .explained(batch_text)
            .open_to(AppScope::MessagesSend),
        get("/api/v1/messages", "What was said.", history).explained(history_text).open_to(AppScope::MessagesRead),
        get("/api/v1/messages/search", "Looks for messages.", search::search)
            .explained(search_text)
            .open_to(AppScope::MessagesRead),
        get("/api/v1/messages/{message_id}", "One message.", one).open_to(AppScope::MessagesRead),
        patch("/api/v1/messages/{message_id}", "Changes what one has said.", edit)
            .explained(edit_text)
            .open_to(AppScope::MessagesSend),
        delete("/api/v1/messages/{message_id}", "One wants to see a message no more.", hide)
            .explained("For oneself only, on the native API: it stays in the conversation.")
            .open_to(AppScope::MessagesSend),
        post("/api/v1/messages/{message_id}/recall", "Takes a message back.", recall)
            .explained(recall_text)
            .open_to(AppScope::MessagesSend),
        put("/api/v1/messages/{message_id}/reactions/{key}", "Reacts to a message.", react)
            .explained("Once for each key. Once more does nothing.")
            .open_to(AppScope::MessagesSend),
        delete("/api/v1/messages/{message_id}/reactions/{key}", "Takes a reaction back.", unreact)
            .open_to(AppScope::MessagesSend),
        get("/api/v1/messages/{message_id}/readers", "Who has read a message.", readers)
            .open_to(AppScope::MessagesRead),
        get("/api/v1/messages/{message_id}/delivery", "What became of a message.", delivery)
            .explained("As `/api/v1/rooms/{room_id}/events/{event_id}/delivery`.")
            .open_to(AppScope::MessagesRead),
    ]);
    endpoints
}

/// Which part of a conversation one asks for.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryWanted {
    /// Which conversation.
    #[serde(alias = "conversationId", alias = "session_id", alias = "sessionId")]
    #[param(value_type = Option<String>)]
    pub(super) conversation_id: Option<OwnedRoomId>,
    /// Before this message.
    #[serde(default, alias = "beforeId")]
    pub(super) before_id: Option<String>,
    /// Before this number.
    #[serde(default, alias = "beforeSeq")]
    pub(super) before_seq: Option<u32>,
    /// After this message.
    #[serde(default, alias = "afterId")]
    pub(super) after_id: Option<String>,
    /// After this number.
    #[serde(default, alias = "afterSeq")]
    pub(super) after_seq: Option<u32>,
    /// `next` of the page before.
    #[serde(default)]
    pub(super) cursor: Option<String>,
    /// How many at most: 50 if left out, 200 at most.
    #[serde(default)]
    pub(super) limit: Option<usize>,
    /// `messages`: no notices.
    #[serde(default)]
    #[param(inline)]
    pub(super) only: Option<Only>,
}

/// Which items are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MessagesOnly)]
pub(super) enum Only {
    /// What somebody said.
    Messages,
}

/// A part of a conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageHistory)]
pub(super) struct History {
    /// Which conversation.
    pub(super) conversation_id: String,
    /// Its items, oldest first.
    pub(super) messages: Vec<Message>,
    /// Everything from this number
    pub(super) first_seq: Option<i64>,
    /// to this one is here, or not for the caller; null: nothing that has a number was looked at.
    pub(super) last_seq: Option<i64>,
    /// Whether there is more in the direction that was asked for.
    pub(super) has_more: bool,
    /// Where it goes on, as `cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

async fn history(call: Call<Session, HistoryWanted>) -> Answer<History> {
    let room_id = call.query.conversation_id.clone();
    let room_id =
        room_id.ok_or_else(|| Problem::invalid("`conversation_id` is missing").with("field", "conversation_id"))?;
    part_of(&call.services, &call.caller, &room_id, call.query).await
}

/// A part of a conversation, as the caller sees it.
pub(super) async fn part_of(
    services: &Services,
    session: &Session,
    room_id: &ruma::RoomId,
    wanted: HistoryWanted,
) -> Answer<History> {
    let (before, after) = (wanted.before_id.as_deref().map(event_id), wanted.after_id.as_deref().map(event_id));
    let (before, after) = (before.transpose()?, after.transpose()?);
    let edges = [
        before.as_deref().map(Edge::Before),
        after.as_deref().map(Edge::After),
        wanted.before_seq.map(|seq| Edge::BeforeSeq(seq.into())),
        wanted.after_seq.map(|seq| Edge::AfterSeq(seq.into())),
        wanted.cursor.as_deref().map(edge_of).transpose()?,
    ];
    let mut edges = edges.into_iter().flatten();
    let edge = edges.next().unwrap_or(Edge::Latest);
    if edges.next().is_some() {
        return Err(Problem::invalid("one edge at most: before, after or cursor"));
    }
    let room = services.rooms.get(room_id).await?;
    let mut sight = services.rooms.sight(&room, &session.user_id).await?;
    let request = StretchRequest {
        edge,
        limit: wanted.limit.unwrap_or(USUAL).clamp(1, MOST),
        only_said: wanted.only == Some(Only::Messages),
        cleared_upto: services.sync.cleared_upto(&session.user_id, room_id).await?,
    };
    let found = services.rooms.stretch(&room, &mut sight, request).await?;
    let mut messages = rendered(services, session, &room, &mut sight, &found.events).await?;
    // Of an edit that was taken back only its redaction tells that it was one.
    messages.retain(|message| !request.only_said || !message.is_notice());
    Ok(History {
        conversation_id: room_id.to_string(),
        messages,
        first_seq: found.first_seq,
        last_seq: found.last_seq,
        has_more: found.next.is_some(),
        next: found.next.map(|(position, direction)| {
            let way = if direction == Direction::Backward { 'b' } else { 'f' };
            format!("{way}{position}")
        }),
    })
}

fn edge_of(cursor: &str) -> Result<Edge<'static>, Problem> {
    let wrong = || Problem::invalid("`cursor` is the `next` of a page").with("field", "cursor");
    let (direction, position) = match (cursor.strip_prefix('b'), cursor.strip_prefix('f')) {
        (Some(position), _) => (Direction::Backward, position),
        (_, Some(position)) => (Direction::Forward, position),
        _ => return Err(wrong()),
    };
    Ok(Edge::Next(model::Position(position.parse().map_err(|_| wrong())?), direction))
}

/// These events as messages, with who reacted to them.
pub(super) async fn rendered(
    services: &Services,
    session: &Session,
    room: &Arc<LiveRoom>,
    sight: &mut Sight<'_>,
    events: &[Arc<TimelineEvent>],
) -> Answer<Vec<Message>> {
    let reader = Reader { user_id: &session.user_id, device_id: &session.device_id };
    let shown: Vec<Raw<Value>> = services.rooms.render_all(room, events, reader, sight).await?;
    let said: Vec<OwnedEventId> = events
        .iter()
        .filter(|event| event.pdu.state_key.is_none() && event.redacted_by.is_none())
        .map(|event| event.pdu.event_id.clone())
        .collect();
    let mut reactions = services.rooms.reactions(room, sight, &said).await?;
    let us = services.rooms.server_name();
    let messages = events.iter().zip(shown).filter_map(|(event, shown)| {
        let mut message = Message::of(&shown.deserialize().ok()?, &room.room_id, event.seq, us)?;
        let of_this = reactions.remove(&event.pdu.event_id).unwrap_or_default();
        message.reactions = of_this
            .into_iter()
            .map(|(key, who)| Reaction { key, count: who.len(), mine: who.contains(&session.user_id) })
            .collect();
        Some(message)
    });
    Ok(messages.collect())
}

/// A message that the path names, with its room.
struct Named<'a> {
    room: Arc<LiveRoom>,
    sight: Sight<'a>,
    id: OwnedEventId,
}

async fn named<Q, B>(call: &Call<Session, Q, B>) -> Result<Named<'_>, Problem> {
    let id = event_id(&call.argument::<String>("message_id")?)?;
    let rooms = &call.services.rooms;
    let hidden = || Problem::not_found("there is no such message, or you may not see it");
    let room = rooms.room_of(&id).await.map_err(|_| hidden())?;
    let sight = rooms.sight(&room, &call.caller.user_id).await.map_err(|_| hidden())?;
    Ok(Named { room, sight, id })
}

/// Reads the id of a message.
pub(super) fn event_id(text: &str) -> Result<OwnedEventId, Problem> {
    text.parse().map_err(|_| Problem::invalid(format!("`{text}` is no message's id")))
}

async fn told<Q, B>(call: &Call<Session, Q, B>, named: &mut Named<'_>) -> Answer<Message> {
    let event = call.services.rooms.find_event(&mut named.sight, &named.id).await?;
    let events = std::slice::from_ref(&event);
    let messages = rendered(&call.services, &call.caller, &named.room, &mut named.sight, events).await?;
    messages.into_iter().next().ok_or_else(|| Problem::not_found("there is no such message"))
}

async fn one(call: Call<Session>) -> Answer<Message> {
    let mut named = named(&call).await?;
    told(&call, &mut named).await
}

async fn edit(call: Call<Session, Nothing, Said>) -> Answer<Message> {
    let mut named = named(&call).await?;
    call.services.limits.check_send(&call.caller.user_id).await?;
    let edited = call.services.rooms.editable(&mut named.sight, &named.id).await?;
    let (kind, content) = call.body.edit_of(edited.pdu.event_id.as_str())?;
    let wish = send::wish(&call.caller, kind, &content, None)?;
    call.services.rooms.say(&named.room, wish).await?;
    named.id = edited.pdu.event_id.clone();
    told(&call, &mut named).await
}

async fn hide(call: Call<Session>) -> Answer<Nothing> {
    let mut named = named(&call).await?;
    call.services.rooms.hide(&named.room, &mut named.sight, &named.id).await?;
    Ok(Nothing)
}

/// Why a message is taken back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MessageRecall)]
struct RecallWanted {
    /// Why; all members read it.
    #[serde(default)]
    reason: Option<String>,
}

async fn recall(call: Call<Session, Nothing, RecallWanted>) -> Answer<Message> {
    let mut named = named(&call).await?;
    call.services.limits.check_send(&call.caller.user_id).await?;
    let id = named.id.clone();
    let recall = Recall { event_id: &id, reason: call.body.reason.as_deref() };
    call.services.rooms.recall(&named.room, &mut named.sight, recall).await?;
    told(&call, &mut named).await
}

async fn react(call: Call<Session>) -> Answer<Nothing> {
    let (mut named, key) = (named(&call).await?, call.argument::<String>("key")?);
    call.services.limits.check_send(&call.caller.user_id).await?;
    call.services.rooms.react(&named.room, &mut named.sight, &named.id, &key).await?;
    Ok(Nothing)
}

async fn unreact(call: Call<Session>) -> Answer<Nothing> {
    let (mut named, key) = (named(&call).await?, call.argument::<String>("key")?);
    call.services.limits.check_send(&call.caller.user_id).await?;
    call.services.rooms.unreact(&named.room, &mut named.sight, &named.id, &key).await?;
    Ok(Nothing)
}

/// Who has read a message.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageReaders)]
struct Readers {
    /// Others than its sender who have read the conversation as far as it, or further, and let others know: a hundred at
    /// most.
    readers: Vec<Person>,
    /// There are more.
    limited: bool,
}

async fn readers(call: Call<Session>) -> Answer<Readers> {
    let mut named = named(&call).await?;
    let event = call.services.rooms.find_event(&mut named.sight, &named.id).await?;
    let mut found = call.services.sync.readers_of(&event, MOST_READERS + 1).await?;
    let limited = found.len() > MOST_READERS;
    found.truncate(MOST_READERS);
    found.retain(|reader| !named.sight.ignores(reader));
    Ok(Readers { readers: found.iter().map(|reader| Person::from(&**reader)).collect(), limited })
}

async fn delivery(call: Call<Session>) -> Answer<super::delivery::Delivery> {
    let (room_id, id) = {
        let named = named(&call).await?;
        (named.room.room_id.clone(), named.id)
    };
    super::delivery::delivery_of(&call.services, &call.caller, &room_id, &id).await
}

#[cfg(test)]
mod search_tests;
#[cfg(test)]
mod tests;
