//! Events that are sent later, unless their client says otherwise until then: what somebody leaves behind who may drop out of a
//! call without a word.
//!
//! Each is sent under the name of the request that asked for it, so that a crash between the sending and the note of it sends
//! nothing twice.
//!
//! Spec: <https://github.com/matrix-org/matrix-spec-proposals/pull/4140>

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use model::{Millis, Refusal as _};
use ruma::{OwnedEventId, UserId, events::StateEventType};
use serde_json::value::RawValue;
use store::{
    Write,
    delayed_events::{self, DelayedRow},
};
use tracing::{info, warn};

use crate::{RoomError, Rooms, Transaction, Wish, live::SharedRoom, millis, now, scheduled::is_passing};

pub use store::delayed_events::DelayedState;

/// Nothing waits for longer.
pub const LONGEST_DELAY: Duration = Duration::from_hours(24);
/// So many may wait of one user.
const MOST_WAITING: i64 = 100;
/// So many are told of one user.
const MOST_TOLD: i64 = 200;
/// The longest content, in bytes: an event has 64 KiB, and more in it than that.
const LONGEST_CONTENT: usize = 60_000;
/// So many are read at once,
const AT_ONCE: i64 = 50;
/// and so many sent.
const SENT_AT_ONCE: usize = 8;
/// The first pause after one couldn't be sent, which doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// After so many attempts it is given up: who comes an hour late is no help.
const MOST_ATTEMPTS: i64 = 60;
/// For so long it is told what became of one.
const SETTLED_KEPT: Duration = Duration::from_hours(7 * 24);

/// An event that is sent later.
#[derive(Clone, Debug)]
pub struct Delayed(DelayedRow);

/// What shall become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayedAct {
    /// Its time begins anew.
    Restart,
    /// It is sent at once.
    Send,
    /// It is not sent.
    Cancel,
}

impl Delayed {
    /// What the store knows of it.
    pub fn row(&self) -> &DelayedRow {
        &self.0
    }
}

impl Rooms {
    /// Has an event sent after `delay`, unless it is cancelled or restarted until then. Answers by which name.
    ///
    /// `wish`: with a transaction; `is_named`: the client has given it its name. Errors: `NotJoined`; `Invalid` for a delay that is
    /// too long, and for too many.
    pub async fn delay(
        &self,
        room: &SharedRoom,
        wish: Wish,
        is_named: bool,
        delay: Duration,
    ) -> Result<String, RoomError> {
        let Some(transaction) = &wish.transaction else {
            return Err(RoomError::Invalid("what is sent later needs a name".into()));
        };
        self.check_joined(room, &wish.sender).await?;
        if delay > LONGEST_DELAY {
            return Err(RoomError::Invalid(format!("delay: no more than {} milliseconds", LONGEST_DELAY.as_millis())));
        }
        if !wish.content.get().trim_start().starts_with('{') {
            return Err(RoomError::BadContent("content must be an object".into()));
        }
        if wish.content.get().len() > LONGEST_CONTENT {
            return Err(RoomError::Pdu(model::PduError::TooLarge));
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let row = DelayedRow {
            txn_id: if is_named { transaction.transaction_id.clone() } else { id.clone() },
            id,
            sender: wish.sender.clone(),
            device_id: transaction.device_id.clone(),
            room_id: room.room_id.clone(),
            kind: wish.kind.to_string(),
            state_key: wish.state_key,
            content: wish.content.get().to_owned(),
            delay: millis(delay),
            running_since: now(),
            state: DelayedState::Waiting,
            attempts: 0,
            event_id: None,
            failure: None,
            finalised_at: None,
        };
        let store = &self.shared.store;
        if let Some(known) = store.delayed_events().named(&row).await? {
            return Ok(known.id);
        }
        if store.delayed_events().waiting_of(&row.sender).await? >= MOST_WAITING {
            return Err(RoomError::Invalid(format!("{MOST_WAITING} of your events wait already: cancel some first")));
        }
        let mut write = Write::new();
        delayed_events::delay(&mut write, &row);
        store.commit(write).await?;
        // The same device may have asked for the same at the same time.
        Ok(store.delayed_events().named(&row).await?.unwrap_or(row).id)
    }

    /// What `user_id` has sent later, also what was settled lately, the latest first.
    pub async fn delayed_of(&self, user_id: &UserId) -> Result<Vec<Delayed>, RoomError> {
        let rows = self.shared.store.delayed_events().of(user_id, MOST_TOLD).await?;
        Ok(rows.into_iter().map(Delayed).collect())
    }

    /// One by its name.
    pub async fn delayed(&self, id: &str) -> Result<Delayed, RoomError> {
        self.shared.store.delayed_events().find(id).await?.map(Delayed).ok_or_else(unknown)
    }

    /// Disposes of one. Whoever knows its name may. Doing the same again is no fault.
    ///
    /// Errors: `NotFound`; `TooLate` if something else has become of it.
    pub async fn dispose_of_delayed(&self, id: &str, act: DelayedAct) -> Result<(), RoomError> {
        let store = &self.shared.store;
        let row = self.delayed(id).await?.0;
        let mut write = Write::new();
        match act {
            DelayedAct::Restart => delayed_events::restart(&mut write, id, now()),
            DelayedAct::Send => delayed_events::begin(&mut write, id),
            DelayedAct::Cancel => delayed_events::cancel(&mut write, id, None, now()),
        }
        if row.state == DelayedState::Waiting {
            store.commit(write).await?;
        }
        let became = self.delayed(id).await?.0;
        match (act, became.state) {
            (DelayedAct::Restart, DelayedState::Waiting)
            | (DelayedAct::Cancel, DelayedState::Cancelled)
            | (DelayedAct::Send, DelayedState::Sent) => Ok(()),
            (DelayedAct::Send, DelayedState::Sending) => self.send_begun(&became).await,
            _ => Err(RoomError::TooLate),
        }
    }

    /// Sends what is due. Answers whether there may be more.
    pub(crate) async fn send_delayed(&self) -> Result<bool, RoomError> {
        let store = &self.shared.store;
        let forget = now() - millis(SETTLED_KEPT);
        if store.delayed_events().has_settled_before(forget).await? {
            let mut write = Write::new();
            delayed_events::forget(&mut write, forget);
            store.commit(write).await?;
        }
        let due = store.delayed_events().due(now(), AT_ONCE).await?;
        let is_more = due.len() as i64 == AT_ONCE;
        stream::iter(due)
            .for_each_concurrent(SENT_AT_ONCE, async |row| {
                if let Err(error) = self.send_due(&row).await {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        delay.id = row.id,
                        "could not note what came of a delayed event"
                    );
                }
            })
            .await;
        Ok(is_more)
    }

    async fn send_due(&self, row: &DelayedRow) -> Result<(), RoomError> {
        let store = &self.shared.store;
        let mut write = Write::new();
        match self.is_outdated(row).await? {
            true => delayed_events::cancel(&mut write, &row.id, Some("somebody else has set this state since"), now()),
            false => delayed_events::begin_due(&mut write, &row.id, now()),
        }
        store.commit(write).await?;
        match store.delayed_events().find(&row.id).await? {
            Some(row) if row.state == DelayedState::Sending => self.send_begun(&row).await,
            // It was restarted or cancelled.
            _ => Ok(()),
        }
    }

    /// Whether somebody else has said meanwhile what is so.
    async fn is_outdated(&self, row: &DelayedRow) -> Result<bool, RoomError> {
        let (Some(state_key), DelayedState::Waiting) = (&row.state_key, row.state) else { return Ok(false) };
        let room = self.get(&row.room_id).await?;
        let held = self.state_event(&room, StateEventType::from(row.kind.as_str()), state_key).await?;
        Ok(held.is_some_and(|held| {
            held.pdu.sender != row.sender && Millis::from(held.pdu.origin_server_ts.get()) > row.running_since
        }))
    }

    async fn send_begun(&self, row: &DelayedRow) -> Result<(), RoomError> {
        let mut write = Write::new();
        let came = self.send_now(row).await;
        match &came {
            Ok(event_id) => delayed_events::sent(&mut write, &row.id, event_id.as_str(), now()),
            Err(error) if is_passing(error.kind()) && row.attempts < MOST_ATTEMPTS => {
                let pause = FIRST_PAUSE.saturating_mul(1 << row.attempts.clamp(0, 16)).min(LONGEST_PAUSE);
                delayed_events::put_off(&mut write, &row.id, &error.to_string(), now() + millis(pause));
            }
            Err(error) => {
                info!(delay.id = row.id, user = %row.sender, room = %row.room_id, "a delayed event could not be sent: {error}");
                delayed_events::fail(&mut write, &row.id, &error.to_string(), now());
            }
        }
        self.shared.store.commit(write).await?;
        came.map(drop)
    }

    async fn send_now(&self, row: &DelayedRow) -> Result<OwnedEventId, RoomError> {
        let corrupt = |error: serde_json::Error| store::Error::Corrupt(format!("delayed_events.content: {error}"));
        let wish = Wish {
            sender: row.sender.clone(),
            kind: row.kind.as_str().into(),
            content: RawValue::from_string(row.content.clone()).map_err(corrupt)?,
            state_key: row.state_key.clone(),
            redacts: None,
            transaction: Some(Transaction {
                user_id: row.sender.clone(),
                device_id: row.device_id.clone(),
                scope: format!("delayed {}", row.room_id),
                transaction_id: row.txn_id.clone(),
            }),
        };
        Ok(self.send(&self.get(&row.room_id).await?, wish).await?.event_id)
    }
}

fn unknown() -> RoomError {
    RoomError::NotFound("there is no such delayed event".into())
}
