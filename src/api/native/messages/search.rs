//! Looking for messages.

use std::{collections::HashMap, sync::Arc};

use model::{Address, RoomNid, TimelineEvent};
use rooms::{Found, LiveRoom, SearchCursor, SearchKey, SearchOrder, SearchPage, SearchRequest};
use ruma::{OwnedEventId, OwnedRoomId, api::client::filter::RoomEventFilter};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::rendered;
use crate::{
    Problem, Services, Session,
    native::{
        Answer, Call,
        conversations::{MOST, USUAL},
        message::{Message, MessageType},
    },
};

/// So often it is gone on for one page when few of what is found is of the wanted type.
const ROUNDS: usize = 5;

/// What is looked for.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// What the messages say: all of these words, in any order; the last may be the beginning of one. Of scripts without spaces,
    /// and of Hangul, letters that stand side by side.
    q: String,
    /// In which conversation; all if left out.
    #[serde(default, alias = "conversationId", alias = "session_id", alias = "sessionId")]
    #[param(value_type = Option<String>)]
    conversation_id: Option<OwnedRoomId>,
    /// Whose messages: a user id or an address.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    sender: Option<Address>,
    /// Of which type.
    #[serde(default, rename = "type")]
    #[param(inline)]
    kind: Option<MessageType>,
    /// Sent before this moment, milliseconds since 1970.
    #[serde(default)]
    before: Option<u64>,
    /// Sent at or after this moment, milliseconds since 1970.
    #[serde(default)]
    after: Option<u64>,
    /// `next` of the page before.
    #[serde(default)]
    cursor: Option<String>,
    /// How many at most: 50 if left out, 200 at most.
    #[serde(default)]
    limit: Option<usize>,
}

/// What was found.
#[derive(Serialize, ToSchema)]
#[schema(as = MessagesFound)]
pub(super) struct MessagesFound {
    /// The messages, the latest first, as they read now.
    messages: Vec<Message>,
    /// The words that were meant, in small letters and of usual width, for whoever marks them.
    highlights: Vec<String>,
    /// Where it goes on, as `cursor`. There may be fewer messages on a page than were asked for, and more after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(super) async fn search(call: Call<Session, Wanted>) -> Answer<MessagesFound> {
    let wanted = call.query.clone();
    if wanted.q.trim().is_empty() {
        return Err(Problem::invalid("`q` is empty: what is to be looked for?").with("field", "q"));
    }
    let limit = wanted.limit.unwrap_or(USUAL).clamp(1, MOST);
    let mut filter = RoomEventFilter::default();
    filter.rooms = wanted.conversation_id.map(|room_id| vec![room_id]);
    filter.senders = wanted.sender.map(|sender| vec![sender.user_id().to_owned()]);
    let moment = |moment: Option<u64>, otherwise| moment.map_or(otherwise, |at| i64::try_from(at).unwrap_or(i64::MAX));
    let cleared = call.services.sync.cleared(&call.caller.user_id).await?;
    let mut cursor: Option<SearchCursor> = match &wanted.cursor {
        Some(cursor) => {
            Some(cursor.parse().map_err(|error: rooms::SearchError| Problem::from(error).with("field", "cursor"))?)
        }
        None => None,
    };
    let mut answer = MessagesFound { messages: Vec::new(), highlights: Vec::new(), next: None };
    for _ in 0..ROUNDS {
        let request = SearchRequest {
            text: &wanted.q,
            keys: &[SearchKey::Body],
            filter: &filter,
            order: SearchOrder::Recent,
            limit: limit - answer.messages.len(),
            cursor,
            made_from: moment(wanted.after, i64::MIN),
            made_before: moment(wanted.before, i64::MAX),
            counts: false,
            cleared: Some(&cleared),
        };
        let mut page = call.services.search.search(&call.caller.user_id, &request).await?;
        for word in page.words.drain(..) {
            if !answer.highlights.contains(&word) {
                answer.highlights.push(word);
            }
        }
        let messages = messages(&call.services, &call.caller, &mut page).await?;
        answer
            .messages
            .extend(messages.into_iter().filter(|message| wanted.kind.is_none_or(|kind| message.kind == kind)));
        cursor = page.next;
        if cursor.is_none() || answer.messages.len() >= limit {
            break;
        }
    }
    answer.next = cursor.map(|cursor| cursor.to_string());
    Ok(answer)
}

/// What was found, as messages, in its order.
async fn messages(services: &Services, session: &Session, page: &mut SearchPage<'_>) -> Answer<Vec<Message>> {
    let mut by_room: HashMap<RoomNid, (Arc<LiveRoom>, Vec<Arc<TimelineEvent>>)> = HashMap::new();
    for Found { event, room, .. } in &page.found {
        by_room.entry(room.nid).or_insert_with(|| (room.clone(), Vec::new())).1.push(event.clone());
    }
    let mut messages: HashMap<String, Message> = HashMap::new();
    for (nid, (room, events)) in by_room {
        let Some(sight) = page.sights.get_mut(&nid) else { continue };
        let of_room = rendered(services, session, &room, sight, &events).await?;
        messages.extend(of_room.into_iter().map(|message| (message.id.clone(), message)));
    }
    let ids = page.found.iter().map(|found| &found.event.pdu.event_id);
    Ok(ids.filter_map(|id: &OwnedEventId| messages.remove(id.as_str())).collect())
}
