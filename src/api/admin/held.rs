//! Messages that wait until a moderator lets them through.

use model::{Address, Millis};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::timed_messages::ScheduledRow;
use utoipa::{IntoParams, ToSchema};

use super::{
    staff::{Admin, Viewer},
    why::{Reason, author},
};
use crate::{
    Problem,
    native::{
        Answer, Call, Endpoint, Nothing, get,
        message::{MessageType, said},
        post,
    },
};

/// How many an answer holds, and how many at most.
const USUAL: u32 = 50;
const MOST: u32 = 200;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/held", "Messages that wait until a moderator lets them through.", list)
            .explained("For words of a set whose action is `hold`. The oldest first."),
        post("/api/v1/admin/held/{held_id}/let_through", "Has a message said that waits.", let_through).explained(
            "In the name of its sender, within a second or two. Programs that are asked before something is sent are asked then; what \
             can't be said any more, because its sender has left, is `failed` among what the sender has scheduled.",
        ),
        post("/api/v1/admin/held/{held_id}/turn_down", "Has a message not be said that waits.", turn_down)
            .explained("Its sender reads the reason among what the sender has scheduled."),
    ]
}

/// Which of them.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HeldWanted {
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    limit: Option<u32>,
}

/// A message that waits.
#[derive(Serialize, ToSchema)]
struct HeldMessage {
    /// Its own id: that of the message is known when it is said.
    held_id: String,
    /// In which conversation.
    conversation_id: String,
    /// Who says it.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it.
    #[schema(value_type = String)]
    address: Address,
    /// Since when it waits, milliseconds since 1970.
    held_at: Millis,
    /// The sets of words for which it waits.
    held_for: Vec<String>,
    /// What it is.
    #[serde(rename = "type")]
    kind: MessageType,
    /// What it says.
    content: Value,
}

impl From<ScheduledRow> for HeldMessage {
    fn from(row: ScheduledRow) -> Self {
        let (kind, content) = said(&row.kind, &serde_json::from_str(&row.content).unwrap_or_default());
        Self {
            held_id: row.id,
            conversation_id: row.room_id.to_string(),
            address: row.sender.clone().into(),
            user_id: row.sender,
            held_at: row.created_at,
            held_for: row.failure.unwrap_or_default().split(", ").map(str::to_owned).collect(),
            kind,
            content,
        }
    }
}

/// Some of those that wait.
#[derive(Serialize, ToSchema)]
struct HeldMessages {
    /// The oldest first.
    messages: Vec<HeldMessage>,
    /// What `cursor` is on the next page; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

async fn list(call: Call<Viewer, HeldWanted>) -> Answer<HeldMessages> {
    let limit = call.query.limit.unwrap_or(USUAL).clamp(1, MOST);
    let after = call.query.cursor.as_deref().map(read_cursor).transpose()?.unwrap_or_default();
    let found = call.services.rooms.held(after, limit).await?;
    let next = found.last().filter(|_| found.len() == limit as usize);
    let next = next.map(|last| format!("{}_{}", last.created_at, last.id));
    Ok(HeldMessages { messages: found.into_iter().map(HeldMessage::from).collect(), next })
}

async fn let_through(call: Call<Admin, Nothing, Reason>) -> Answer<HeldMessage> {
    let id: String = call.argument("held_id")?;
    let author = author(&call.caller, call.body.reason);
    Ok(call.services.rooms.let_through(&id, &author).await?.into())
}

async fn turn_down(call: Call<Admin, Nothing, Reason>) -> Answer<HeldMessage> {
    let id: String = call.argument("held_id")?;
    let author = author(&call.caller, call.body.reason);
    Ok(call.services.rooms.turn_down(&id, &author).await?.into())
}

fn read_cursor(text: &str) -> Result<(Millis, &str), Problem> {
    let wrong = || Problem::invalid("`cursor` is none that was answered here").with("field", "cursor");
    let (at, id) = text.split_once('_').ok_or_else(wrong)?;
    Ok((at.parse().map_err(|_| wrong())?, id))
}
