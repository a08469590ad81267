//! Messages of other servers: a transaction, as Matrix servers send it, or the simple form.

use std::collections::BTreeMap;

use federation::{Delivered, Incoming, SimpleMessage};
use http::StatusCode;
use model::peer::Capability;
use peers::Scope;
use ruma::{OwnedServerName, api::federation::transactions::edu::Edu, serde::Raw};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Peer;
use crate::{
    Problem, Services,
    native::{Answer, Call, Endpoint, Nothing, post},
};

/// How many messages one request holds at most.
const MAX_MESSAGES: usize = 100;

/// A transaction (`origin`, `txn_id`, `pdus`, `edus`), one message (`message_id`, `from`, `to`, `body`), or many
/// (`messages`): one of the three.
#[derive(Deserialize, ToSchema)]
struct InboundDelivery {
    /// Of a transaction: the name of the server that sends it.
    #[schema(value_type = Option<String>)]
    origin: Option<OwnedServerName>,
    /// Of a transaction: what the sender calls it. The same one takes effect once. `transaction_id` is understood too.
    #[serde(alias = "transaction_id")]
    txn_id: Option<String>,
    /// Of a transaction: Matrix events, 50 at most.
    #[schema(value_type = Option<Vec<Object>>)]
    pdus: Option<Vec<Box<RawValue>>>,
    /// Of a transaction: what isn't events, 100 at most.
    #[schema(value_type = Option<Vec<Object>>)]
    edus: Option<Vec<Raw<Edu>>>,
    /// Messages in the simple form, 100 at most, each as it could stand here by itself.
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<Vec<Box<RawValue>>>,
    /// Of one message: what the sending server calls it, 1 to 255 bytes. The same one takes effect once.
    message_id: Option<String>,
    /// Of one message: who sends it, `bob@b.example`.
    from: Option<String>,
    /// Of one message: to whom, `alice@a.example`.
    to: Option<String>,
    /// Of one message: the text.
    body: Option<String>,
    /// Of one message: when it was written, in milliseconds since 1970.
    sent_at: Option<i64>,
}

/// What became of each event or message.
#[derive(Serialize, ToSchema)]
struct DeliveryOutcome {
    /// Of a transaction: each event, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pdus: Option<BTreeMap<String, PduOutcome>>,
    /// Of messages: each, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<MessageOutcome>>,
}

/// What became of an event: taken, unless there is an error.
#[derive(Serialize, ToSchema)]
struct PduOutcome {
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What became of a message.
#[derive(Default, Serialize, ToSchema)]
struct MessageOutcome {
    /// As its sender calls it, if that could be read.
    message_id: Option<String>,
    /// `accepted`: it is stored. `refused`: it won't be, and sending it again does not help. `failed`: send it again.
    status: &'static str,
    /// The event that it has become.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    /// Why it was not taken: what programs may rely on.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// Why it was not taken, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// How long to wait before sending it again, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![post("/api/v1/federation/messages/deliver", "Takes messages of another server.", deliver).explained(
        "Either the transaction that `/_matrix/federation/v1/send` takes, or messages in the simple form, for chat systems \
         that don't speak Matrix: their users appear as guests of a built-in bridge, in a room with each user they write to, \
         and what is said there comes back to the same endpoint of their server. Each message takes effect once, by its \
         sender's server and its id.",
    )]
}

async fn deliver(call: Call<Peer, Nothing, InboundDelivery>) -> Answer<DeliveryOutcome> {
    // What each message hangs on, the bridge finds out.
    call.caller.check_scope(Scope::Messaging, &call.services.peers)?;
    let body = call.body;
    let is_transaction = body.txn_id.is_some() || body.pdus.is_some() || body.edus.is_some();
    let is_message = body.message_id.is_some() || body.from.is_some() || body.to.is_some() || body.body.is_some();
    match (is_transaction, body.messages.is_some(), is_message) {
        (true, false, false) => {}
        (false, true, false) | (false, false, true) => {
            let messages = match body.messages {
                Some(messages) => messages.iter().map(|message| read_message(message)).collect(),
                None => vec![Ok(SimpleMessage {
                    message_id: required(body.message_id, "message_id")?,
                    from: required(body.from, "from")?,
                    to: required(body.to, "to")?,
                    body: required(body.body, "body")?,
                    sent_at: body.sent_at,
                })],
            };
            return deliver_messages(&call.services, &call.caller, messages).await;
        }
        _ => {
            let detail = "the body is one of a transaction (`txn_id`), a message (`message_id`), and `messages`";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "unclear_form", detail));
        }
    }
    let transaction_id = required(body.txn_id, "txn_id")?;
    call.caller.check(&call.services.peers, Scope::Messaging, Capability::Events, async |_| Ok(false)).await?;
    let origin = call.caller.server;
    if body.origin.as_ref().is_some_and(|named| *named != origin) {
        call.services.peers.note_refusal(Some(&origin), "wrong_origin", &"its transaction names another origin");
        let detail = format!("`origin` is not {origin}, which has signed the request");
        return Err(Problem::new(StatusCode::FORBIDDEN, "wrong_origin", detail));
    }
    let (pdus, edus) = (body.pdus.unwrap_or_default(), body.edus.unwrap_or_default());
    let answers = call.services.inbound.receive(Incoming { origin, transaction_id, pdus, edus }).await?;
    let pdus = answers.into_iter().map(|(id, outcome)| (id.to_string(), PduOutcome { error: outcome.err() }));
    Ok(DeliveryOutcome { pdus: Some(pdus.collect()), messages: None })
}

async fn deliver_messages(
    services: &Services,
    caller: &Peer,
    messages: Vec<Result<SimpleMessage, Box<MessageOutcome>>>,
) -> Answer<DeliveryOutcome> {
    if messages.len() > MAX_MESSAGES {
        let detail = format!("a request holds {MAX_MESSAGES} messages at most");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many", detail).with("limit", MAX_MESSAGES));
    }
    let mut outcomes = Vec::with_capacity(messages.len());
    // One after the other: what somebody says has an order.
    for message in messages {
        outcomes.push(match message {
            Ok(message) => {
                let message_id = message.message_id.clone();
                told(message_id, services.bridge.receive(&caller.server, message).await, caller, services)
            }
            Err(malformed) => *malformed,
        });
    }
    Ok(DeliveryOutcome { pdus: None, messages: Some(outcomes) })
}

fn told(
    message_id: String,
    delivered: Result<Delivered, federation::BridgeError>,
    caller: &Peer,
    services: &Services,
) -> MessageOutcome {
    let known = MessageOutcome { message_id: Some(message_id), ..MessageOutcome::default() };
    match delivered {
        Ok(delivered) => MessageOutcome { status: "accepted", event_id: Some(delivered.event_id.to_string()), ..known },
        Err(error) => {
            let may_pass = error.may_pass();
            let retry_after_ms = model::Refusal::retry_after_ms(&error);
            let problem = caller.refuse(&services.peers, error);
            MessageOutcome {
                status: if may_pass { "failed" } else { "refused" },
                code: Some(problem.code().to_owned()),
                detail: Some(problem.detail().to_owned()),
                retry_after_ms,
                ..known
            }
        }
    }
}

fn required<T>(field: Option<T>, name: &str) -> Result<T, Problem> {
    field.ok_or_else(|| Problem::invalid(format!("`{name}` is missing")).with("field", name))
}

/// One message of many: what is wrong with it doesn't harm the others.
fn read_message(message: &RawValue) -> Result<SimpleMessage, Box<MessageOutcome>> {
    serde_json::from_str(message.get()).map_err(|error| {
        let read: serde_json::Value = serde_json::from_str(message.get()).unwrap_or_default();
        Box::new(MessageOutcome {
            message_id: read["message_id"].as_str().map(|id| id.chars().take(255).collect()),
            status: "refused",
            code: Some("invalid".to_owned()),
            detail: Some(format!("the message is malformed: {error}")),
            ..MessageOutcome::default()
        })
    })
}
