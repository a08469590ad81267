//! Takes what other programs publish: who says it is looked at, then what, and it takes effect once.

use std::sync::Arc;

use fabric::bus::{Delivery, Envelope, Key, Taker, Verdict};
use futures_util::future::BoxFuture;
use model::{Address, Kind, Refusal};
use rooms::{RoomError, Rooms, Transaction, Wish};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tracing::debug;
use users::Users;

use super::Rule;
use crate::Announcements;

/// The version of envelopes that is read.
const VERSION: u32 = 1;
const LONGEST_ID: usize = 255;
/// As which device other programs send.
const DEVICE: &str = "bus";

pub(super) struct Intake {
    rules: Vec<Rule>,
    rooms: Rooms,
    users: Arc<Users>,
    announcements: Announcements,
}

/// The `data` of a `chat.message` that a program publishes: an event, or just a text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    /// `alice@a.example` or `@alice:a.example`.
    sender: String,
    /// Which room; the routing key says it, too.
    #[serde(default)]
    room_id: Option<OwnedRoomId>,
    /// A text …
    #[serde(default)]
    body: Option<String>,
    /// … or the content of an event …
    #[serde(default)]
    content: Option<Box<RawValue>>,
    /// … of this type; if it isn't said, `m.room.message`.
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl Intake {
    pub(super) fn new(rules: Vec<Rule>, rooms: Rooms, users: Arc<Users>, announcements: Announcements) -> Self {
        Self { rules, rooms, users, announcements }
    }

    async fn read(&self, delivery: Delivery) -> Result<(), Verdict> {
        let dead = |reason: &str| Verdict::Dead(reason.to_owned());
        let user = delivery.user.ok_or_else(|| {
            dead("it doesn't say who published it: set the property user_id to the name of the broker's user")
        })?;
        let allowed: Vec<_> = self.rules.iter().filter(|rule| rule.allows(&user, &delivery.routing_key)).collect();
        if allowed.is_empty() {
            return Err(Verdict::Dead(format!(
                "`bus.publishers` doesn't let {user} publish with {}",
                delivery.routing_key
            )));
        }
        let key = Key::parse(&delivery.routing_key).ok_or_else(|| dead("there is no such routing key"))?;
        let envelope: Envelope = serde_json::from_slice(&delivery.body)
            .map_err(|error| Verdict::Dead(format!("not an envelope: {error}")))?;
        if envelope.version != VERSION {
            return Err(Verdict::Dead(format!(
                "version {} of envelopes is unknown; expected {VERSION}",
                envelope.version
            )));
        }
        if envelope.kind != key.kind() {
            return Err(Verdict::Dead(format!(
                "`type` is {}, and the routing key one of {}",
                envelope.kind,
                key.kind()
            )));
        }
        if envelope.id.is_empty() || envelope.id.len() > LONGEST_ID {
            return Err(Verdict::Dead(format!("`id` is empty or longer than {LONGEST_ID} bytes")));
        }
        debug!(
            publisher = user,
            message.id = envelope.id,
            routing_key = delivery.routing_key,
            "a program says something"
        );
        match key {
            Key::Message(room_id) => self.say(&user, &allowed, &room_id, envelope).await,
            Key::Event => {
                let (author, document) = (format!("bus/{user}"), document(&envelope)?);
                let taken = self.announcements.events.take(&envelope.id, &author, document).await;
                taken.map(drop).map_err(|error| refused(&error))
            }
            Key::Broadcast => {
                let (author, document) = (format!("bus/{user}"), document(&envelope)?);
                let taken = self.announcements.broadcasts.take(&envelope.id, &author, document).await;
                taken.map(drop).map_err(|error| refused(&error))
            }
            _ => Err(dead("only this server publishes that")),
        }
    }

    async fn say(&self, user: &str, rules: &[&Rule], room_id: &RoomId, envelope: Envelope) -> Result<(), Verdict> {
        let dead = |reason: String| Err(Verdict::Dead(reason));
        let said: Said = match serde_json::from_str(envelope.data.get()) {
            Ok(said) => said,
            Err(error) => return dead(format!("`data` is no message: {error}")),
        };
        if said.room_id.as_ref().is_some_and(|named| named != room_id) {
            return dead(format!("`data.room_id` isn't the room of the routing key, {room_id}"));
        }
        let sender: OwnedUserId = match said.sender.parse::<Address>() {
            Ok(address) => address.into_user_id(),
            Err(error) => return dead(format!("`data.sender`: {error}")),
        };
        if !self.users.is_ours(&sender) {
            return dead(format!("{sender} is no user of this server"));
        }
        if !rules.iter().any(|rule| rule.speaks_as(&sender)) {
            return dead(format!("`bus.publishers` doesn't let {user} speak as {sender}"));
        }
        match self.users.is_active(&sender).await {
            Ok(true) => {}
            Ok(false) => return dead(format!("there is no active user {sender}")),
            Err(_) => return Err(Verdict::Later),
        }
        let content = match (said.content, said.body) {
            (Some(content), None) => content,
            (None, Some(body)) => {
                serde_json::value::to_raw_value(&json!({ "msgtype": "m.text", "body": body })).expect("a text is JSON")
            }
            _ => return dead("`data` has either `body` or `content`".to_owned()),
        };
        let kind = said.kind.unwrap_or_else(|| "m.room.message".to_owned());
        let transaction = Transaction {
            user_id: sender.clone(),
            device_id: DEVICE.into(),
            scope: format!("bus {user}"),
            transaction_id: envelope.id,
        };
        let wish =
            Wish { sender, kind: kind.into(), content, state_key: None, redacts: None, transaction: Some(transaction) };
        let sent = async { self.rooms.send(&self.rooms.get(room_id).await?, wish).await };
        sent.await.map(drop).map_err(|error: RoomError| match error.kind() {
            Kind::Conflict => Verdict::Later,
            _ => refused(&error),
        })
    }
}

fn document(envelope: &Envelope) -> Result<Value, Verdict> {
    serde_json::from_str(envelope.data.get()).map_err(|error| Verdict::Dead(format!("`data`: {error}")))
}

/// Whether it may be taken later, or never.
fn refused(error: &dyn Refusal) -> Verdict {
    match error.kind() {
        Kind::RateLimited | Kind::Unreachable | Kind::Unavailable | Kind::Internal => Verdict::Later,
        _ => Verdict::Dead(error.to_string()),
    }
}

impl Taker for Intake {
    fn take(&self, delivery: Delivery) -> BoxFuture<'_, Verdict> {
        Box::pin(async move { self.read(delivery).await.err().unwrap_or(Verdict::Taken) })
    }
}
