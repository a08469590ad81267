//! What is said later: once, at its time, whichever node finds it due and whatever ends in between.
//!
//! A message that is scheduled is named like any other, by its client or here; so sending it a second time, after a crash
//! between the sending and the note of it, sends nothing.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use model::{Kind, Millis, Refusal as _, gate::GateError};
use ruma::{OwnedRoomId, UserId};
use serde_json::value::RawValue;
use store::{
    Write,
    timed_messages::{self, ScheduledRow},
};
use tracing::{info, warn};

use crate::{RoomError, Rooms, Transaction, Wish, live::SharedRoom, millis, now};

pub use store::timed_messages::ScheduledState;

/// So many may wait of one user.
const MOST_WAITING: usize = 200;
/// Nothing is scheduled for later than this.
const LATEST: Duration = Duration::from_hours(366 * 24);
/// The longest content, in bytes: an event has 64 KiB, and more in it than that.
const LONGEST_CONTENT: usize = 60_000;
/// So many are read at once,
const AT_ONCE: i64 = 50;
/// and so many sent.
const SENT_AT_ONCE: usize = 8;
/// The first pause after one couldn't be sent, which doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// After so many attempts, about a day, it is given up.
const MOST_ATTEMPTS: i64 = 150;
/// For so long it is told that one could not be said.
const FAILURES_KEPT: Duration = Duration::from_hours(30 * 24);

/// Something that is to be said later.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// Its name here.
    pub id: String,
    /// In which room.
    pub room_id: OwnedRoomId,
    /// What the client calls it.
    pub msg_id: String,
    /// The type of the event.
    pub kind: String,
    /// Its content: a JSON object.
    pub content: String,
    /// When it is to be said.
    pub due_at: Millis,
    /// When it was scheduled.
    pub created_at: Millis,
    /// How it stands with it.
    pub state: ScheduledState,
    /// Why it could not be said the last time.
    pub failure: Option<String>,
}

impl From<ScheduledRow> for Scheduled {
    fn from(row: ScheduledRow) -> Self {
        let ScheduledRow { id, room_id, msg_id, kind, content, due_at, created_at, state, failure, .. } = row;
        // Why something is held is for moderators.
        let failure = failure.filter(|_| state != ScheduledState::Held);
        Self { id, room_id, msg_id, kind, content, due_at, created_at, state, failure }
    }
}

impl Rooms {
    /// Has a message said at `due_at`. The same name of the same device gives the same one again.
    ///
    /// `wish`: with a transaction. Errors: `Unencrypted`, `NotJoined`; `Invalid` for a time that is past or too far, and for too many.
    pub async fn schedule(&self, room: &SharedRoom, wish: Wish, due_at: Millis) -> Result<Scheduled, RoomError> {
        let Some(transaction) = wish.transaction.clone() else {
            return Err(RoomError::Invalid("what is scheduled needs a name".into()));
        };
        self.check_joined(room, &wish.sender).await?;
        self.check_encrypted(room, &wish.kind).await?;
        let ahead = due_at.saturating_sub(now());
        if ahead <= 0 || ahead.unsigned_abs() > LATEST.as_secs() * 1000 {
            return Err(RoomError::Invalid("its time must be ahead, and no more than a year".into()));
        }
        if wish.content.get().len() > LONGEST_CONTENT {
            return Err(RoomError::Pdu(model::PduError::TooLarge));
        }
        let scheduled = self.shared.store.timed_messages().of(&wish.sender).await?;
        if let Some(known) = scheduled.iter().find(|row| is_named(row, &transaction)) {
            return Ok(known.clone().into());
        }
        if scheduled.len() >= MOST_WAITING {
            return Err(RoomError::Invalid(format!("{MOST_WAITING} messages wait already: take some back first")));
        }
        let row = row_of(room, &wish, &transaction, due_at);
        let mut write = Write::new();
        timed_messages::schedule(&mut write, &row);
        self.shared.store.commit(write).await?;
        self.shared.timed.notify_one();
        // The same device may have asked for the same at the same time.
        let all = self.shared.store.timed_messages().of(&row.sender).await?;
        Ok(all.into_iter().find(|row| is_named(row, &transaction)).unwrap_or(row).into())
    }

    /// What a user has scheduled, the earliest first.
    pub async fn scheduled(&self, user_id: &UserId) -> Result<Vec<Scheduled>, RoomError> {
        let rows = self.shared.store.timed_messages().of(user_id).await?;
        Ok(rows.into_iter().map(Scheduled::from).collect())
    }

    /// Takes back what isn't said yet. Errors: `TooLate` while it is being said, `NotFound` afterwards.
    pub async fn unschedule(&self, user_id: &UserId, id: &str) -> Result<(), RoomError> {
        let of = async || {
            let found = self.shared.store.timed_messages().find(id).await?;
            Ok::<_, RoomError>(found.filter(|row| row.sender == user_id))
        };
        if of().await?.is_none() {
            return Err(RoomError::NotFound("there is no such scheduled message, or it was sent".into()));
        }
        let mut write = Write::new();
        timed_messages::unschedule(&mut write, user_id, id);
        self.shared.store.commit(write).await?;
        if of().await?.is_some() { Err(RoomError::TooLate) } else { Ok(()) }
    }

    /// Says what is due. Answers whether there may be more.
    pub(crate) async fn say_due(&self) -> Result<bool, RoomError> {
        let due = self.shared.store.timed_messages().due(now(), AT_ONCE).await?;
        let is_more = due.len() as i64 == AT_ONCE;
        stream::iter(due)
            .for_each_concurrent(SENT_AT_ONCE, async |row| {
                if let Err(error) = self.say_scheduled(&row).await {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        message.id = row.id,
                        "could not note what came of a scheduled message"
                    );
                }
            })
            .await;
        Ok(is_more)
    }

    async fn say_scheduled(&self, row: &ScheduledRow) -> Result<(), RoomError> {
        let store = &self.shared.store;
        let mut write = Write::new();
        timed_messages::begin(&mut write, &row.id);
        store.commit(write).await?;
        if store.timed_messages().find(&row.id).await?.is_none_or(|row| row.state != ScheduledState::Sending) {
            // It was taken back.
            return Ok(());
        }
        let mut write = Write::new();
        match self.say_now(row).await {
            Ok(()) => timed_messages::said(&mut write, &row.id),
            // What it says makes a moderator look at it first.
            Err(RoomError::Gate(GateError::Held(why))) => timed_messages::hold_back(&mut write, &row.id, &why),
            Err(error) if is_passing(error.kind()) && row.attempts < MOST_ATTEMPTS => {
                let pause = FIRST_PAUSE.saturating_mul(1 << row.attempts.clamp(0, 16)).min(LONGEST_PAUSE);
                timed_messages::put_off(&mut write, &row.id, &error.to_string(), now() + millis(pause));
            }
            Err(error) => {
                info!(message.id = row.id, user = %row.sender, room = %row.room_id, "a scheduled message could not be said: {error}");
                timed_messages::fail(&mut write, &row.id, &error.to_string(), now() - millis(FAILURES_KEPT));
            }
        }
        Ok(store.commit(write).await.map(drop)?)
    }

    async fn say_now(&self, row: &ScheduledRow) -> Result<(), RoomError> {
        let corrupt = |error: serde_json::Error| store::Error::Corrupt(format!("scheduled_messages.content: {error}"));
        let wish = Wish {
            sender: row.sender.clone(),
            kind: row.kind.as_str().into(),
            content: RawValue::from_string(row.content.clone()).map_err(corrupt)?,
            state_key: None,
            redacts: None,
            transaction: Some(Transaction {
                user_id: row.sender.clone(),
                device_id: row.device_id.clone(),
                scope: row.scope.clone(),
                transaction_id: row.msg_id.clone(),
            }),
        };
        self.say_once(&self.get(&row.room_id).await?, wish, row.approved_by.is_some()).await.map(drop)
    }
}

/// What is written down of something that is said at `due_at`, under the name that `transaction` has for it.
pub(crate) fn row_of(room: &SharedRoom, wish: &Wish, transaction: &Transaction, due_at: Millis) -> ScheduledRow {
    ScheduledRow {
        id: format!("{:032x}", rand::random::<u128>()),
        sender: wish.sender.clone(),
        device_id: transaction.device_id.clone(),
        room_id: room.room_id.clone(),
        scope: transaction.scope.clone(),
        msg_id: transaction.transaction_id.clone(),
        kind: wish.kind.to_string(),
        content: wish.content.get().to_owned(),
        due_at,
        created_at: now(),
        state: ScheduledState::Waiting,
        attempts: 0,
        failure: None,
        approved_by: None,
    }
}

fn is_named(row: &ScheduledRow, transaction: &Transaction) -> bool {
    row.device_id == transaction.device_id && row.scope == transaction.scope && row.msg_id == transaction.transaction_id
}

/// Whether later may be better.
pub(crate) fn is_passing(kind: Kind) -> bool {
    matches!(kind, Kind::RateLimited | Kind::Unreachable | Kind::Unavailable | Kind::Internal | Kind::Conflict)
}
