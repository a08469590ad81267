//! What somebody missed while away: first what there is, then its pages, then that one has them. By the paths that existing
//! clients know; it is all the same as in the other groups.

use ruma::{OwnedRoomId, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};
use sync::{ConversationsWanted, Mark};
use users::applications::AppScope;
use utoipa::{IntoParams, ToSchema};

use super::{
    Answer, Call, Endpoint, Nothing,
    conversations::{ConversationView, MOST, ReadState, ReadUpTo, USUAL, mark_read, shown},
    get,
    messages::{History, HistoryWanted, part_of},
    post,
};
use crate::{Problem, Session};

/// So many conversations are told of at once.
const MOST_MISSED: usize = 200;
/// So many conversations can be acknowledged at once.
const MOST_ACKS: usize = 100;
/// No page by offset begins further back.
const DEEPEST: usize = 10_000;

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let summary_text = "The conversations in which something is unread, the latest first: counts and the last message of each, no more.";
    let missed_text =
        "What came after `after_seq`, or, if that is left out, after what one has read. As `/api/v1/messages`.";
    let ack_text = "One has what came up to there, and it is unread no more. The others aren't told; what was acknowledged once stays so.";
    let page_text =
        "As `/api/v1/messages`, from the latest back by an offset of 10000 at most: `before_seq` goes further.";
    vec![
        get("/api/im/offline/summary", "In which conversations something is unread.", summary)
            .explained(summary_text)
            .open_to(AppScope::ConversationsRead),
        get("/api/im/offline/{conversation_id}", "What one missed in a conversation.", missed)
            .explained(missed_text)
            .open_to(AppScope::MessagesRead),
        post("/api/im/offline/ack", "One has what one missed.", ack)
            .explained(ack_text)
            .open_to(AppScope::ConversationsWrite),
        get("/api/chat/messages/session/{session_id}", "What was said.", session)
            .explained("As `/api/v1/messages`.")
            .open_to(AppScope::MessagesRead),
        get("/api/chat/messages/session/{session_id}/page", "What was said, by pages.", page)
            .explained(page_text)
            .open_to(AppScope::MessagesRead),
    ]
}

/// What one missed.
#[derive(Serialize, ToSchema)]
#[schema(as = OfflineSummary)]
struct Summary {
    /// The conversations in which something is unread, the latest first: 200 at most.
    conversations: Vec<ConversationView>,
    /// How many items are unread in them.
    total_unread: u64,
    /// There are more.
    limited: bool,
}

async fn summary(call: Call<Session>) -> Answer<Summary> {
    let (services, session) = (&call.services, &call.caller);
    let wanted = ConversationsWanted {
        membership: MembershipState::Join,
        before: None,
        limit: MOST_MISSED,
        only_pinned: false,
        only_unread: true,
    };
    let page = services.sync.conversations(&session.user_id, session.device_id.as_str(), &wanted).await?;
    let us = services.rooms.server_name();
    let conversations: Vec<_> = page.conversations.into_iter().map(|one| ConversationView::of(one, us)).collect();
    let total_unread = conversations.iter().map(|one| one.unread_count).sum();
    Ok(Summary { conversations, total_unread, limited: page.next.is_some() })
}

async fn missed(call: Call<Session, HistoryWanted>) -> Answer<History> {
    let room_id: OwnedRoomId = call.argument("conversation_id")?;
    let mut wanted = call.query;
    let has_edge = wanted.before_id.is_some() || wanted.before_seq.is_some() || wanted.after_id.is_some();
    if !has_edge && wanted.after_seq.is_none() && wanted.cursor.is_none() {
        let read = shown(&call.services, &call.caller, &room_id).await?.read_seq.unwrap_or_default();
        wanted.after_seq = Some(u32::try_from(read).unwrap_or(u32::MAX));
    }
    part_of(&call.services, &call.caller, &room_id, wanted).await
}

/// What one has: of one conversation, or of several.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OfflineAcks)]
struct Acks {
    /// Of several: a hundred at most.
    #[serde(default)]
    acks: Vec<Ack>,
    /// Of one: which.
    #[serde(default, alias = "conversationId")]
    #[schema(value_type = Option<String>)]
    conversation_id: Option<OwnedRoomId>,
    /// Up to which message,
    #[serde(default, alias = "upTo", alias = "messageId", alias = "message_id")]
    up_to: Option<String>,
    /// or up to which number.
    #[serde(default)]
    seq: Option<u32>,
}

/// What one has of a conversation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OfflineAck)]
struct Ack {
    /// Which.
    #[serde(alias = "conversationId")]
    #[schema(value_type = String)]
    conversation_id: OwnedRoomId,
    /// Up to which message,
    #[serde(default, alias = "upTo", alias = "messageId", alias = "message_id")]
    up_to: Option<String>,
    /// or up to which number; with neither, everything.
    #[serde(default)]
    seq: Option<u32>,
}

/// How it stands after that.
#[derive(Serialize, ToSchema)]
#[schema(as = OfflineState)]
struct Acknowledged {
    /// The conversations, in the order of the request.
    conversations: Vec<ReadState>,
}

async fn ack(call: Call<Session, Nothing, Acks>) -> Answer<Acknowledged> {
    let Acks { mut acks, conversation_id, up_to, seq } = call.body;
    if let Some(conversation_id) = conversation_id {
        acks.push(Ack { conversation_id, up_to, seq });
    }
    if acks.is_empty() || acks.len() > MOST_ACKS {
        return Err(Problem::invalid(format!("1 to {MOST_ACKS} conversations")).with("field", "acks"));
    }
    let mut conversations = Vec::with_capacity(acks.len());
    for Ack { conversation_id, up_to, seq } in acks {
        let upto = ReadUpTo { up_to, seq, private: true };
        conversations.push(mark_read(&call.services, &call.caller, &conversation_id, &upto, Mark::Received).await?);
    }
    Ok(Acknowledged { conversations })
}

async fn session(call: Call<Session, HistoryWanted>) -> Answer<History> {
    let room_id: OwnedRoomId = call.argument("session_id")?;
    part_of(&call.services, &call.caller, &room_id, call.query).await
}

/// Which page, counted from the latest back.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Offset {
    /// How many of the latest to leave out: 10000 at most.
    #[serde(default)]
    offset: usize,
    /// How many at most: 50 if left out, 200 at most.
    #[serde(default)]
    limit: Option<usize>,
}

async fn page(call: Call<Session, Offset>) -> Answer<History> {
    let room_id: OwnedRoomId = call.argument("session_id")?;
    let Offset { offset, limit } = call.query;
    if offset > DEEPEST {
        let text = format!("`offset` is {DEEPEST} at most; before_seq of /api/v1/messages goes further back");
        return Err(Problem::invalid(text).with("field", "offset"));
    }
    let room = call.services.rooms.get(&room_id).await?;
    call.services.rooms.sight(&room, &call.caller.user_id).await?;
    let last = call.services.rooms.view(&room).await?.seq;
    let before = last.saturating_add(1).saturating_sub(offset as i64).max(0);
    let limit = Some(limit.unwrap_or(USUAL).clamp(1, MOST));
    let before_seq = Some(u32::try_from(before).unwrap_or(u32::MAX));
    part_of(&call.services, &call.caller, &room_id, HistoryWanted { before_seq, limit, ..HistoryWanted::default() })
        .await
}
