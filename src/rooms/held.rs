//! What waits for a moderator: said as if it were just being sent when it is let through, and never when it isn't.
//!
//! It lies with what is scheduled, so its sender sees it there and may take it back, and it is said once like that.

use futures_util::FutureExt as _;
use model::{Kind, Millis, Refusal, gate::GateError};
use peers::trust::{Audited, Author, ChangeError};
use serde_json::json;
use store::{
    Write,
    timed_messages::{self, ScheduledRow, ScheduledState},
};
use tracing::info;

use crate::{RoomError, Rooms, Wish, live::SharedRoom, now, scheduled::row_of};

/// So many may wait of one user.
const MOST_HELD: usize = 20;

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// There is no such message, or somebody has decided about it, or its sender has taken it back.
    #[error("no such message waits for a moderator: it was decided already, or its sender has taken it back")]
    NotFound,
    /// It could not be written down.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("what waits for a moderator could not be read or decided")]
    Store(#[from] store::Error),
}

impl Refusal for HeldError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound => Kind::NotFound,
            Self::Change(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

impl Rooms {
    /// Puts an event aside until a moderator has looked at it, for the reason `why`. Answers what its sender is told.
    pub(crate) async fn hold(&self, room: &SharedRoom, wish: &Wish, why: String) -> Result<GateError, RoomError> {
        let refused = |why: &str| Ok(GateError::Refused(why.to_owned()));
        let Some(transaction) = wish.transaction.as_ref().filter(|_| wish.state_key.is_none()) else {
            return refused(
                "this has words that a moderator would have to look at first, for which it can't wait; say it in others",
            );
        };
        let known = self.shared.store.timed_messages().of(&wish.sender).await?;
        if known.iter().filter(|row| row.state == ScheduledState::Held).count() >= MOST_HELD {
            return refused("so many of your messages wait for a moderator already that no other one can");
        }
        let row = row_of(room, wish, transaction, now());
        let row = ScheduledRow { state: ScheduledState::Held, failure: Some(why.clone()), ..row };
        let mut write = Write::new();
        // Who sends it again under the same name has one that waits. So has what was scheduled.
        timed_messages::schedule(&mut write, &row);
        self.shared.store.commit(write).await?;
        info!(user.id = %wish.sender, room.id = %room.room_id, "a message waits for a moderator");
        Ok(GateError::Held(why))
    }

    /// Up to `limit` messages that wait for a moderator, the oldest first, those after the one that was made at that moment and is
    /// called so.
    pub async fn held(&self, after: (Millis, &str), limit: u32) -> Result<Vec<ScheduledRow>, HeldError> {
        Ok(self.shared.store.timed_messages().held(after, limit).await?)
    }

    /// Has a message said that waits for a moderator. Where it can't be said any more, its sender sees why among what is scheduled.
    pub async fn let_through(&self, id: &str, author: &Author) -> Result<ScheduledRow, HeldError> {
        let decide = |write: &mut Write| timed_messages::approve(write, id, &author.actor, now());
        let row = self.decide_held(id, "message.let_through", author, decide).await?;
        self.shared.timed.notify_one();
        Ok(row)
    }

    /// Has a message not be said that waits for a moderator. Its sender is told the reason, among what is scheduled.
    pub async fn turn_down(&self, id: &str, author: &Author) -> Result<ScheduledRow, HeldError> {
        let failure = format!("a moderator has turned it down: {}", author.reason);
        let decide = |write: &mut Write| timed_messages::turn_down(write, id, &failure, now());
        self.decide_held(id, "message.turned_down", author, decide).await
    }

    async fn decide_held(
        &self,
        id: &str,
        action: &str,
        author: &Author,
        decide: impl Fn(&mut Write) + Send + Sync,
    ) -> Result<ScheduledRow, HeldError> {
        let decide = &decide;
        let step = |_| {
            async move {
                let row = self.shared.store.timed_messages().find(id).await?;
                let row = row.filter(|row| row.state == ScheduledState::Held).ok_or(HeldError::NotFound)?;
                let mut write = Write::new();
                decide(&mut write);
                // What it says stays out of the log of what admins do.
                let before = json!({ "sender": row.sender, "room_id": row.room_id, "held_for": row.failure });
                Ok::<_, HeldError>(Audited { write, before: Some(before.to_string()), after: None, outcome: row })
            }
            .boxed()
        };
        let row = self.trust().audited(action, id, author, step).await?;
        info!(actor = author.actor, message.id = id, action, "a message that waited was decided");
        Ok(row)
    }
}
