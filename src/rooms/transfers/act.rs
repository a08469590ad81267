//! Offering, answering, and what there is.

use std::time::Duration;

use model::{Millis, Position};
use ruma::{
    EventId, OwnedEventId, OwnedUserId, UserId, events::TimelineEventType, events::room::member::MembershipState,
};
use serde_json::{Value, json, value::to_raw_value};
use store::{friends::Direction, transfers::TransferRow};

use super::{
    OfferedFile, TRANSFER, TRANSFER_ANSWER, Transfer, TransferAnswer, TransferError, TransferState,
    marker::{LONGEST_MESSAGE, NO, YES, offered},
};
use crate::{RoomError, Rooms, Transaction, Wish, live::SharedRoom, millis, now};

/// How long an offer may stand.
const SHORTEST: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_hours(30 * 24);
/// So many offers of one user may wait for an answer.
const MOST_OPEN: i64 = 100;

/// A file that is to be offered.
#[derive(Clone, Debug)]
pub struct NewTransfer {
    /// Who offers it, and has uploaded it.
    pub sender: OwnedUserId,
    /// To whom.
    pub receiver: OwnedUserId,
    /// What.
    pub file: OfferedFile,
    /// How long the offer stands.
    pub lifetime: Duration,
    /// What the client calls this request.
    pub transaction: Option<Transaction>,
}

/// Some of the offers.
#[derive(Clone, Debug)]
pub struct TransferPage {
    /// The latest first.
    pub transfers: Vec<Transfer>,
    /// The next page begins before this; `None`: there is none.
    pub next: Option<Position>,
}

impl Rooms {
    /// Offers a file in the conversation of the two, which both are in.
    pub async fn offer_file(&self, room: &SharedRoom, new: NewTransfer) -> Result<Transfer, TransferError> {
        let NewTransfer { sender, receiver, file, lifetime, transaction } = new;
        if !(SHORTEST..=LONGEST).contains(&lifetime) {
            return Err(TransferError::Invalid { field: "expires_in_ms", problem: "is from a minute to 30 days" });
        }
        if file.message.as_ref().is_some_and(|message| message.chars().count() > LONGEST_MESSAGE) {
            return Err(TransferError::Invalid { field: "message", problem: "has 500 characters at most" });
        }
        let waiting = self.shared.store.transfers().open_by(&sender, now()).await?;
        if waiting >= MOST_OPEN {
            return Err(TransferError::TooMany(waiting));
        }
        if self.membership(room, &receiver).await? != Some(MembershipState::Join) {
            return Err(TransferError::NotJoined(receiver));
        }
        let content = offer(&receiver, &file, now().saturating_add(millis(lifetime)));
        let id = self.tell_transfer(room, &sender, "m.room.message", &content, transaction).await?;
        self.find_transfer(&sender, &id).await
    }

    /// The offer called `id` that `user_id` made or got.
    pub async fn find_transfer(&self, user_id: &UserId, id: &EventId) -> Result<Transfer, TransferError> {
        let row = self.shared.store.transfers().find(user_id, id).await?.ok_or(TransferError::Unknown)?;
        Ok(self.transfer_of(row).await?)
    }

    /// What a user offers or is offered before `before`, the latest first; of people whom the user ignores nothing. `is_open`: only
    /// what waits for an answer.
    pub async fn transfers(
        &self,
        user_id: &UserId,
        direction: Direction,
        is_open: bool,
        before: Option<Position>,
        limit: usize,
    ) -> Result<TransferPage, TransferError> {
        let before = before.unwrap_or(Position(i64::MAX));
        let asked_for = i64::try_from(limit).unwrap_or(i64::MAX);
        let open_at = is_open.then(now);
        let rows = self.shared.store.transfers().list(user_id, direction, open_at, before, asked_for).await?;
        let next = (rows.len() == limit).then(|| rows.last().map(|row| row.position)).flatten();
        let ignored = self.ignored_by(user_id).await?;
        let mut transfers = Vec::with_capacity(rows.len());
        for row in rows.into_iter().filter(|row| !ignored.contains(&row.sender)) {
            let transfer = self.transfer_of(row).await?;
            if !is_open || transfer.state == TransferState::Pending {
                transfers.push(transfer);
            }
        }
        Ok(TransferPage { transfers, next })
    }

    /// Says yes or no to an offer, or takes it back. Once more does nothing.
    pub async fn answer_transfer(
        &self,
        user_id: &UserId,
        id: &EventId,
        answer: TransferAnswer,
    ) -> Result<Transfer, TransferError> {
        let transfer = self.find_transfer(user_id, id).await?;
        let (word, comes_to) = match answer {
            TransferAnswer::Withdraw if transfer.sender != user_id => {
                return Err(TransferError::NotYours(
                    "an offer is taken back by who made it, and refused by who got it",
                ));
            }
            TransferAnswer::Accept | TransferAnswer::Refuse if transfer.receiver != user_id => {
                return Err(TransferError::NotYours(
                    "an offer is answered by who got it, and taken back by who made it",
                ));
            }
            TransferAnswer::Accept => ("accepted", TransferState::Accepted),
            TransferAnswer::Refuse => ("refused", TransferState::Refused),
            TransferAnswer::Withdraw => ("withdrawn", TransferState::Withdrawn),
        };
        let is_in_time = transfer.state == TransferState::Pending
            || (transfer.state == TransferState::Expired && answer != TransferAnswer::Accept);
        if transfer.state == comes_to {
            return Ok(transfer);
        }
        if !is_in_time {
            return Err(TransferError::Closed(transfer.state));
        }
        let room = self.get(&transfer.room_id).await?;
        let content = json!({ "answer": word, "m.relates_to": { "rel_type": "m.reference", "event_id": id } });
        self.tell_transfer(&room, user_id, TRANSFER_ANSWER, &content, None).await?;
        self.shared.timed.notify_one();
        self.find_transfer(user_id, id).await
    }

    pub(super) async fn tell_transfer(
        &self,
        room: &SharedRoom,
        sender: &UserId,
        kind: &str,
        content: &Value,
        transaction: Option<Transaction>,
    ) -> Result<OwnedEventId, RoomError> {
        let wish = Wish {
            sender: sender.to_owned(),
            kind: TimelineEventType::from(kind),
            content: to_raw_value(content).map_err(|error| RoomError::BadContent(error.to_string()))?,
            state_key: None,
            redacts: None,
            transaction,
        };
        Ok(self.say(room, wish).await?.event_id)
    }

    async fn transfer_of(&self, row: TransferRow) -> Result<Transfer, RoomError> {
        let event = self.event(row.event).await?;
        let file = offered(&event.pdu);
        Ok(Transfer {
            id: event.pdu.event_id.clone(),
            room_id: row.room_id,
            sender: row.sender,
            receiver: row.receiver,
            offered_at: row.offered_at,
            expires_at: row.expires_at,
            state: state_of(&row.state, file.is_some(), row.expires_at),
            file,
            answered_at: row.answered_at,
            message_id: row.message_id,
            position: row.position,
        })
    }
}

/// `is_there`: the offer was not recalled as messages are.
fn state_of(state: &str, is_there: bool, expires_at: Millis) -> TransferState {
    match state {
        "accepted" => TransferState::Accepted,
        "refused" => TransferState::Refused,
        "failed" => TransferState::Failed,
        "pending" if is_there && expires_at > now() => TransferState::Pending,
        "pending" if is_there => TransferState::Expired,
        _ => TransferState::Withdrawn,
    }
}

/// The content of an offer. Clients that don't know of it show its text.
fn offer(receiver: &UserId, file: &OfferedFile, expires_at: Millis) -> Value {
    let OfferedFile { name, size, content_type, sha256, message } = file;
    let said = message.as_ref().map(|message| format!("{message}\n")).unwrap_or_default();
    let body = format!(
        "{said}Offers you a file: {name} ({size} bytes). To get it, react with {YES}; with {NO} if you don't want it."
    );
    let mut offer = json!({
        "to": receiver, "name": name, "size": size, "mimetype": content_type, "sha256": sha256, "expires_at": expires_at,
    });
    if let Some(message) = message {
        offer["message"] = json!(message);
    }
    json!({ "msgtype": "m.text", "body": body, TRANSFER: offer })
}
