//! What a user is told: every broadcast that is for this one and came after the marker, and that one was called back; and what the
//! user has read, as receipts in the room say.

use std::sync::{Arc, atomic::Ordering};

use model::Position;
use rooms::{LiveRoom, Transaction, Wish};
use ruma::{
    OwnedDeviceId, OwnedEventId, UserId,
    events::{TimelineEventType, receipt::ReceiptType},
};
use serde_json::{Value, json, value::to_raw_value};
use store::{Write, broadcasts::BroadcastRow, events, notices};
use tracing::warn;

use super::{NoticeError, Shared, Told, room::is_final};
use crate::broadcasts::{Broadcast, Person, State};

/// How many changes are looked at before the marker is moved.
const AT_ONCE: u32 = 50;
/// Where a notice says which broadcast it is.
const MARK: &str = "io.comity.broadcast";
/// Under which device the server's transactions are remembered.
const DEVICE: &str = "notices";
const REDACTION: &str = "taken back";

/// Under what the notices of a broadcast are remembered.
pub(crate) fn scope_of(id: &str) -> String {
    format!("broadcast:{id}")
}

/// Under which device they are.
pub(crate) fn device() -> &'static str {
    DEVICE
}

impl Shared {
    /// Tells a user what this one was not told. `is_read`: looks what the user has read, too.
    pub(super) async fn attend(&self, user_id: &UserId, is_read: bool) -> Result<(), NoticeError> {
        // What comes from now on brings the user back.
        let latest = Position(self.latest.load(Ordering::Acquire));
        let Some(person) = self.broadcasts.person(user_id).await?.filter(|_| is_a_person(user_id)) else {
            self.told.insert(user_id.to_owned(), Told { upto: latest, room_id: None });
            return Ok(());
        };
        let marker = self.store.notices().marker(user_id).await?;
        if is_read && let Some(room_id) = &marker.room_id {
            self.note_read(user_id, room_id, marker.read_upto).await?;
        }
        let mut upto = marker.noticed_upto;
        let mut room = None;
        loop {
            let rows = self.store.broadcasts().changed(user_id, upto, AT_ONCE).await?;
            let is_last = rows.len() < AT_ONCE as usize;
            let before = upto;
            for (row, read_at) in rows {
                upto = row.changed.unwrap_or(upto);
                if read_at.is_none() || row.cancelled_at.is_some() {
                    self.tell(&person, row, &mut room).await?;
                }
            }
            if upto > before {
                let mut write = Write::new();
                notices::noticed(&mut write, user_id, upto);
                self.store.commit(write).await?;
            }
            if is_last {
                break;
            }
        }
        let room_id = match room {
            Some(room) => Some(room.room_id.clone()),
            None => marker.room_id,
        };
        self.told.insert(user_id.to_owned(), Told { upto: upto.max(latest), room_id });
        Ok(())
    }

    /// Tells a user one thing, if it is for this one. `room`: the user's, once it was needed.
    async fn tell(
        &self,
        person: &Person,
        row: BroadcastRow,
        room: &mut Option<Arc<LiveRoom>>,
    ) -> Result<(), NoticeError> {
        let broadcast = Broadcast::from(row);
        let was_there = broadcast.row.published_at.is_some_and(|at| at >= person.since);
        if !was_there || !broadcast.audience.has(person) {
            return Ok(());
        }
        let said = match broadcast.state() {
            State::Published => self.say(person, &broadcast, room).await,
            State::Cancelled => self.take_back(person, &broadcast, room).await,
            State::Scheduled | State::Expired => Ok(()),
        };
        match said {
            // One that can't be said must not keep the user from hearing of others.
            Err(error) if is_final(&error) => {
                warn!(user.id = %person.user_id, broadcast.id = broadcast.row.id, error = &error as &dyn std::error::Error,
                    "a notice could not be put into the room of {}", person.user_id);
                Ok(())
            }
            said => said,
        }
    }

    async fn say(
        &self,
        person: &Person,
        broadcast: &Broadcast,
        room: &mut Option<Arc<LiveRoom>>,
    ) -> Result<(), NoticeError> {
        let sender = self.users.ensure_notices_user(&self.config.name).await?;
        let room = match room {
            Some(room) => room,
            None => room.insert(self.room_of(&sender, &person.user_id).await?),
        };
        let wish = Wish {
            kind: TimelineEventType::RoomMessage,
            content: to_raw_value(&content(broadcast)).expect("JSON can be written as JSON"),
            state_key: None,
            redacts: None,
            transaction: Some(transaction(&sender, &broadcast.row.id, person.user_id.as_str())),
            sender,
        };
        self.rooms.send(room, wish).await?;
        Ok(())
    }

    /// Redacts what was said of a broadcast that was called back, if anything was.
    async fn take_back(
        &self,
        person: &Person,
        broadcast: &Broadcast,
        room: &mut Option<Arc<LiveRoom>>,
    ) -> Result<(), NoticeError> {
        let sender = self.users.notices_user();
        let said = transaction(&sender, &broadcast.row.id, person.user_id.as_str());
        let known = events::Transaction {
            user_id: &said.user_id,
            device_id: said.device_id.as_str(),
            scope: &said.scope,
            transaction_id: &said.transaction_id,
        };
        let event_id = self.store.events().transaction(&known).await?;
        let Some(event_id) = event_id.and_then(|id| OwnedEventId::try_from(id).ok()) else { return Ok(()) };
        let room = match room {
            Some(room) => room,
            None => room.insert(self.room_of(&sender, &person.user_id).await?),
        };
        let content = json!({ "reason": REDACTION });
        let mut transaction = transaction(&sender, &broadcast.row.id, person.user_id.as_str());
        transaction.scope = format!("taken back:{}", broadcast.row.id);
        let wish = Wish {
            sender,
            kind: TimelineEventType::RoomRedaction,
            content: to_raw_value(&content).expect("JSON can be written as JSON"),
            state_key: None,
            redacts: Some(event_id),
            transaction: Some(transaction),
        };
        self.rooms.send(room, wish).await?;
        Ok(())
    }

    /// What was published up to the notice that the user's receipts have come to counts as read.
    async fn note_read(
        &self,
        user_id: &UserId,
        room_id: &ruma::RoomId,
        read_upto: Position,
    ) -> Result<(), NoticeError> {
        let room = self.rooms.get(room_id).await?;
        let receipts = self.store.receipts().of(room.nid, user_id).await?;
        let is_read = |kind: &ReceiptType| matches!(kind, ReceiptType::Read | ReceiptType::ReadPrivate);
        let furthest =
            receipts.iter().filter(|(_, receipt)| is_read(&receipt.kind)).map(|(_, receipt)| receipt.event_position);
        let Some(furthest) = furthest.max() else { return Ok(()) };
        let sender = self.users.notices_user();
        let Some(event_id) = self.store.notices().last_message(room.nid, &sender, furthest).await? else {
            return Ok(());
        };
        let event = self.store.events().find(&event_id).await?;
        let content: Option<Value> = event.and_then(|event| event.pdu.content_as());
        let Some(id) = content.as_ref().and_then(|content| content[MARK]["id"].as_str()) else { return Ok(()) };
        let position = self.store.broadcasts().find(id).await?.and_then(|row| row.position);
        if let Some(position) = position.filter(|position| *position > read_upto) {
            let mut write = Write::new();
            notices::read(&mut write, user_id, position);
            self.store.commit(write).await?;
        }
        Ok(())
    }
}

/// Guests of bridges, and the server's own user, are told nothing.
fn is_a_person(user_id: &UserId) -> bool {
    !user_id.localpart().starts_with('_')
}

/// What a notice is remembered under: its broadcast, and whom it told.
fn transaction(sender: &UserId, broadcast_id: &str, user_id: &str) -> Transaction {
    Transaction {
        user_id: sender.to_owned(),
        device_id: OwnedDeviceId::from(DEVICE),
        scope: scope_of(broadcast_id),
        transaction_id: user_id.to_owned(),
    }
}

fn content(broadcast: &Broadcast) -> Value {
    let BroadcastRow { id, origin, author, title, body, html, priority, expires_at, .. } = &broadcast.row;
    let mut mark = json!({ "id": id, "origin": origin, "author": author, "title": title, "priority": priority });
    if let Some(expires_at) = expires_at {
        mark["expires_at"] = json!(expires_at);
    }
    let mut content = json!({ "msgtype": "m.text", "body": format!("{title}\n\n{body}"), MARK: mark });
    if let Some(html) = html {
        content["format"] = json!("org.matrix.custom.html");
        content["formatted_body"] = json!(format!("<strong>{}</strong><br>{html}", escaped(title)));
    }
    content
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
