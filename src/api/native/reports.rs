//! Reporting conversations, messages and people to those who run this server.

use model::Address;
use rooms::ReportTarget;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Answer, Call, Endpoint, Nothing, post};
use crate::{Problem, Session};

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![post("/api/v1/reports", "Reports a conversation, a message or a user.", report).explained(
        "With `message_id`: that message of `conversation_id`. With `conversation_id` alone: the conversation. With `user_id` alone: the user. \
         It waits until an administrator looks at it.",
    )]
}

/// What is reported.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReportWish)]
struct Wish {
    /// The conversation.
    #[schema(value_type = Option<String>)]
    conversation_id: Option<OwnedRoomId>,
    /// A message of it.
    #[schema(value_type = Option<String>)]
    message_id: Option<OwnedEventId>,
    /// A user of any server.
    #[schema(value_type = Option<String>)]
    user_id: Option<Address>,
    /// Why, 2,000 letters at most.
    reason: String,
}

async fn report(call: Call<Session, Nothing, Wish>) -> Answer<Nothing> {
    let Wish { conversation_id, message_id, user_id, reason } = &call.body;
    let target = match (conversation_id, message_id, user_id) {
        (Some(room_id), Some(event_id), None) => ReportTarget::Event(room_id, event_id),
        (Some(room_id), None, None) => ReportTarget::Room(room_id),
        (None, None, Some(user_id)) => ReportTarget::User(user_id.user_id()),
        _ => {
            let detail = "name a `conversation_id`, or one with a `message_id` of it, or a `user_id`";
            return Err(Problem::invalid(detail));
        }
    };
    call.services.rooms.report(&call.caller.user_id, target, reason).await?;
    Ok(Nothing)
}
