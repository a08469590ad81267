//! What is to be said later.

use model::Millis;
use rooms::Scheduled;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use users::applications::AppScope;
use utoipa::ToSchema;

use super::{
    delete, get, post,
    send::{NewMessage, composed},
};
use crate::{
    Problem, Session,
    native::{
        Answer, Call, Created, Endpoint, Nothing,
        message::{MessageType, said},
    },
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    let schedule_text = "Up to a year ahead; 200 may wait. It is said once, also if this server ends and begins again, by the name \
        `msg_id`, which it is given here if the client gives none. What can't be said when its time has come stays in the list for a \
        month as `failed`.";
    vec![
        post("/api/v1/messages/scheduled", "Has something said later.", schedule)
            .explained(schedule_text)
            .open_to(AppScope::MessagesSend),
        get("/api/v1/messages/scheduled", "What one has scheduled.", list)
            .explained("The earliest first.")
            .open_to(AppScope::MessagesRead),
        delete("/api/v1/messages/scheduled/{scheduled_id}", "Takes back what isn't said yet.", unschedule)
            .explained("`too_late` while it is being said. What could not be said is taken off the list.")
            .open_to(AppScope::MessagesSend),
    ]
}

/// Something that is to be said later.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ToSchedule {
    /// When, milliseconds since 1970.
    #[serde(alias = "sendAt")]
    send_at: Millis,
    /// What, and where. `expires_in_ms` counts from `send_at`.
    message: NewMessage,
}

/// How it stands with it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ScheduledMessageState)]
enum State {
    /// Its time hasn't come.
    Waiting,
    /// It is being said.
    Sending,
    /// It could not be said.
    Failed,
    /// It waits until a moderator lets it through.
    Held,
}

/// Something that is to be said later.
#[derive(Serialize, ToSchema)]
struct ScheduledMessage {
    /// Its own id: that of the message is known when it is said.
    scheduled_id: String,
    /// In which conversation.
    conversation_id: String,
    /// What it is called then, for the client that has scheduled it.
    msg_id: String,
    /// When it is said, milliseconds since 1970.
    send_at: Millis,
    /// When it was scheduled.
    created_at: Millis,
    /// How it stands with it.
    state: State,
    /// What it is.
    #[serde(rename = "type")]
    kind: MessageType,
    /// What it says.
    content: Value,
    /// Why it could not be said the last time, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

impl From<Scheduled> for ScheduledMessage {
    fn from(scheduled: Scheduled) -> Self {
        let (kind, content) = said(&scheduled.kind, &serde_json::from_str(&scheduled.content).unwrap_or_default());
        Self {
            scheduled_id: scheduled.id,
            conversation_id: scheduled.room_id.to_string(),
            msg_id: scheduled.msg_id,
            send_at: scheduled.due_at,
            created_at: scheduled.created_at,
            state: match scheduled.state {
                rooms::ScheduledState::Waiting => State::Waiting,
                rooms::ScheduledState::Sending => State::Sending,
                rooms::ScheduledState::Failed => State::Failed,
                rooms::ScheduledState::Held => State::Held,
            },
            kind,
            content,
            failure: scheduled.failure,
        }
    }
}

async fn schedule(call: Call<Session, Nothing, ToSchedule>) -> Answer<Created<ScheduledMessage>> {
    let ToSchedule { send_at, message } = call.body;
    if send_at < 0 {
        return Err(Problem::invalid("`send_at` is in milliseconds since 1970").with("field", "send_at"));
    }
    let (room, wish) = composed(&call.services, &call.caller, message.named(), send_at).await?;
    let scheduled = call.services.rooms.schedule(&room, wish, send_at).await?;
    Ok(Created(scheduled.into()))
}

/// What one has scheduled.
#[derive(Serialize, ToSchema)]
#[schema(as = ScheduledMessages)]
struct List {
    /// The earliest first.
    messages: Vec<ScheduledMessage>,
}

async fn list(call: Call<Session>) -> Answer<List> {
    let scheduled = call.services.rooms.scheduled(&call.caller.user_id).await?;
    Ok(List { messages: scheduled.into_iter().map(ScheduledMessage::from).collect() })
}

async fn unschedule(call: Call<Session>) -> Answer<Nothing> {
    let id: String = call.argument("scheduled_id")?;
    call.services.rooms.unschedule(&call.caller.user_id, &id).await?;
    Ok(Nothing)
}
