//! The delivery ledger as people see it: what became of an event at each server that was owed it, how well each server is
//! reached, and who is left alone for how long.
//!
//! Of what is queued there is no row in the ledger: it is the outbox that tells, and the memory of the sender why. What is
//! answered, `records` writes.

mod figures;
mod tend;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use model::{EventNid, Millis, Position, TimelineEvent};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName};
use serde::{Serialize, Serializer};
use store::ledger::{LedgerRow, Outcome};
use tokio::time::Instant;

pub use figures::{Figures, Lag};

use crate::{book::Standing, millis, now, sender::Shared};

/// No page of an export holds more rows.
pub const MOST_ROWS: usize = 1_000;

/// Tells what became of what other servers were sent. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

/// How an event of this server stands with another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The other server has not acknowledged it yet; it is sent, or sent again, until it does.
    Queued,
    /// The other server took it.
    Accepted,
    /// The other server answered that it doesn't take it, and so it is not sent again.
    Refused,
    /// After a long absence the other server was sent a later event of the room, and did not ask for this one so far.
    Skipped,
    /// The other server fetched it itself, after it had refused or skipped it.
    Pulled,
}

impl State {
    /// Whether the other server has the event.
    pub fn is_delivered(self) -> bool {
        matches!(self, Self::Accepted | Self::Pulled)
    }
}

impl From<Outcome> for State {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Accepted => Self::Accepted,
            Outcome::Refused => Self::Refused,
            Outcome::Skipped => Self::Skipped,
            Outcome::RefusedThenPulled | Outcome::SkippedThenPulled => Self::Pulled,
        }
    }
}

/// An event, and how it stands with each server that was owed it. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// The event.
    pub event_id: OwnedEventId,
    /// Whether it is so old that the ledger may have forgotten about it: then `destinations` may lack some.
    pub may_be_forgotten: bool,
    /// By the names of the servers.
    pub destinations: Vec<Delivered>,
}

impl Delivery {
    /// Whether every server that was owed the event has it. Of what may be forgotten nobody knows.
    pub fn is_delivered(&self) -> bool {
        let is_told = !self.may_be_forgotten || !self.destinations.is_empty();
        is_told && self.destinations.iter().all(|destination| destination.state.is_delivered())
    }
}

/// How an event stands with one server. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delivered {
    /// The server.
    pub server: OwnedServerName,
    /// How it stands.
    pub state: State,
    /// Since when it is or was owed.
    pub queued_at: Millis,
    /// When the transaction that got through was first sent; absent while there is none, and when it never was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Millis>,
    /// Since when it stands so; absent while it is queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<Millis>,
    /// Queued: why it could not be sent so far, one of the words of `comity_federation_transactions_total`, or `catching_up`.
    /// Refused, or pulled after that: what the other server said, 300 characters of it at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Queued: since when the server can't be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Millis>,
    /// Queued: when the server is tried again, unless it shows up before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<Millis>,
}

/// A place in an export: `position.event`, for whoever goes on from there to give back as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(store::ledger::Cursor);

/// A text that is no [`Cursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a place in an export of the ledger")]
pub struct CursorError;

/// A row of an export: what became of an event at a server. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its place.
    pub cursor: Cursor,
    /// The event.
    pub event_id: OwnedEventId,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// The server.
    pub server: OwnedServerName,
    /// What became of it; never [`State::Queued`]. A second row of an event at a server is always [`State::Pulled`].
    pub state: State,
    /// Since when it was owed.
    pub queued_at: Millis,
    /// When the transaction that got through was first sent.
    pub sent_at: Option<Millis>,
    /// When this became known.
    pub answered_at: Millis,
    /// Why it was refused.
    pub reason: Option<String>,
}

/// A server that can't be reached, or that catches up. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retrying {
    /// The server.
    pub server: OwnedServerName,
    /// How often in a row it could not be reached.
    pub failures: u32,
    /// Since when.
    pub failing_since: Option<Millis>,
    /// Why: one of the words of `comity_federation_transactions_total`.
    pub last_failure: Option<String>,
    /// When it is tried again, unless it shows up before; absent: it is being tried, or is the next whose turn it is.
    pub next_try_at: Option<Millis>,
    /// Whether it is told only the latest event of each room, because it was away for long.
    pub catches_up: bool,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How an event stands with each server that is or was owed it; `None`: there is no such event in any timeline here.
    pub async fn delivery_of(&self, event_id: &EventId) -> Result<Option<Delivery>, store::Error> {
        let ledger = self.shared.store.ledger();
        let Some(event) = ledger.event(event_id).await? else { return Ok(None) };
        // In this order: what leaves the outbox meanwhile is in the ledger by then.
        let owed_to = ledger.owed_to(event.position).await?;
        let rows = ledger.of_event(event.nid).await?;
        let mut destinations = BTreeMap::new();
        for server in owed_to {
            destinations.insert(server.clone(), self.queued(server, event.made_at));
        }
        for row in rows {
            // Of two rows of a server the second tells that it has fetched what the first says that it missed.
            let earlier = destinations.remove(&row.destination);
            destinations.insert(row.destination.clone(), answered(row, earlier));
        }
        Ok(Some(Delivery {
            event_id: event_id.to_owned(),
            may_be_forgotten: event.made_at < now() - millis(self.shared.config.ledger_keep),
            destinations: destinations.into_values().collect(),
        }))
    }

    /// Onto whose devices an event of this server's has come, as other servers say: `limit` people at most.
    pub async fn on_devices(&self, event: &TimelineEvent, limit: usize) -> Result<Vec<OwnedUserId>, store::Error> {
        self.shared.store.device_receipts().who_has(event.room_nid, event.position, limit).await
    }

    fn queued(&self, server: OwnedServerName, queued_at: Millis) -> Delivered {
        let standing = self.shared.book().standing(&server).filter(|standing| standing.health.is_failing());
        let told = standing.map(Retrying::from);
        let is_catching_up = told.as_ref().is_some_and(|told| told.catches_up);
        Delivered {
            server,
            state: State::Queued,
            queued_at,
            sent_at: None,
            answered_at: None,
            reason: told
                .as_ref()
                .and_then(|told| told.last_failure.clone())
                .or_else(|| is_catching_up.then(|| "catching_up".to_owned())),
            failing_since: told.as_ref().and_then(|told| told.failing_since),
            next_try_at: told.and_then(|told| told.next_try_at),
        }
    }

    /// What became of the events that were queued since `since`, at `destination` or at all servers together.
    ///
    /// Counted are whole days: from the beginning of the day of `since`, in UTC.
    pub async fn figures(&self, destination: Option<&ServerName>, since: Millis) -> Result<Figures, store::Error> {
        let ledger = self.shared.store.ledger();
        let queues = ledger.queues(destination).await?;
        let sums = ledger.sums(destination, figures::day_of(since)).await?;
        Ok(Figures::new(destination.map(ToOwned::to_owned), since, &sums, &queues))
    }

    /// The same for each server that is owed something, or has been since then.
    pub async fn figures_of_each(&self, since: Millis) -> Result<Vec<Figures>, store::Error> {
        let ledger = self.shared.store.ledger();
        let queues = ledger.queues(None).await?;
        let sums = ledger.sums(None, figures::day_of(since)).await?;
        Ok(figures::of_each(since, &sums, &queues))
    }

    /// The rows after `after`, `limit` or [`MOST_ROWS`] at most, in the order in which outcomes became known. Whoever goes on
    /// from the last of them later misses none and sees none twice, as long as they are not older than the ledger keeps them.
    pub async fn export(&self, after: Cursor, limit: usize) -> Result<Vec<Entry>, store::Error> {
        let limit = limit.clamp(1, MOST_ROWS) as i64;
        let rows = self.shared.store.ledger().export(after.0, limit).await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }

    /// The servers that can't be reached, and those that catch up.
    pub fn destinations(&self) -> Vec<Retrying> {
        let mut standings = self.shared.book().unwell();
        standings.sort_unstable_by(|a, b| a.destination.cmp(&b.destination));
        standings.into_iter().map(Retrying::from).collect()
    }

    /// Tries a server at once, as if it had never failed. Answers whether it was left alone.
    pub fn retry(&self, destination: &ServerName) -> bool {
        let is_woken = self.shared.book().retry(destination, Instant::now());
        if is_woken {
            self.shared.wake();
        }
        is_woken
    }

    /// `server` is being answered these events, for which it asked by itself. Fails never: what can't be noted is not noted.
    pub async fn fetched(&self, server: &ServerName, events: &[EventNid]) {
        let is_away = self.shared.book().slot(server).is_some_and(|slot| slot.health.is_failing());
        self.shared.records.fetched(server, events, is_away).await;
    }
}

fn answered(row: LedgerRow, earlier: Option<Delivered>) -> Delivered {
    let missed = earlier.filter(|earlier| earlier.state != State::Queued);
    Delivered {
        server: row.destination,
        state: row.outcome.into(),
        queued_at: row.queued_at,
        sent_at: row.sent_at.or(missed.as_ref().and_then(|missed| missed.sent_at)),
        answered_at: Some(row.answered_at),
        reason: row.reason.or(missed.and_then(|missed| missed.reason)),
        failing_since: None,
        next_try_at: None,
    }
}

impl From<Standing> for Retrying {
    fn from(standing: Standing) -> Self {
        let Standing { destination, health, next_try } = standing;
        Self {
            server: destination,
            failures: health.failures,
            failing_since: health.failing_since,
            last_failure: health.last_failure,
            next_try_at: next_try.map(|at| now() + millis(at.saturating_duration_since(Instant::now()))),
            catches_up: health.catch_up_upto.is_some(),
        }
    }
}

impl From<store::ledger::Exported> for Entry {
    fn from(exported: store::ledger::Exported) -> Self {
        let store::ledger::Exported { cursor, event_id, room_id, row } = exported;
        Self {
            cursor: Cursor(cursor),
            event_id,
            room_id,
            server: row.destination,
            state: row.outcome.into(),
            queued_at: row.queued_at,
            sent_at: row.sent_at,
            answered_at: row.answered_at,
            reason: row.reason,
        }
    }
}

// === impl Cursor ===

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.position, self.0.event)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (position, event) = text.split_once('.').ok_or(CursorError)?;
        let number = |text: &str| text.parse().map_err(|_| CursorError);
        Ok(Self(store::ledger::Cursor { position: Position(number(position)?), event: EventNid(number(event)?) }))
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
