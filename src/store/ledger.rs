//! The delivery ledger: what became of each event that other servers were owed.
//!
//! What leaves the outbox enters the ledger, made of the same rows by the same Write, so that the two can't differ: what is
//! repeated after a crash finds no row to count a second time. Nothing in the ledger is changed; what is learned later of an
//! event is a row of its own. [`sums`] adds the rows up by days, and they are thrown away when they are old.

use model::{EventNid, Millis, Position, RoomNid};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, ServerName};

use crate::{Arg, Error, Row, Store, Table, Write, args, places};

pub mod sums;
#[cfg(test)]
mod tests;

static DESTINATIONS: Table = Table {
    insert: "INSERT INTO ledger_destinations (nid, destination)",
    columns: 2,
    conflict: "ON CONFLICT DO NOTHING",
    key: 0,
};

static LEDGER: Table = Table {
    insert: "INSERT INTO ledger
        (event_nid, destination_nid, outcome, position, queued_at, sent_at, answered_at, reason)",
    columns: 8,
    conflict: "ON CONFLICT DO NOTHING",
    key: 3,
};

/// The number by which the ledger names a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestinationNid(pub i64);

/// What became of an event at a server that was owed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The server took it.
    Accepted,
    /// The server answered that it doesn't take it.
    Refused,
    /// It was never sent: after a long absence the server was sent a later event of the room, to ask for the others from there.
    Skipped,
    /// The server had refused it, and fetched it later.
    RefusedThenPulled,
    /// It had been skipped, and the server fetched it.
    SkippedThenPulled,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Accepted, Self::Refused, Self::Skipped, Self::RefusedThenPulled, Self::SkippedThenPulled];

    /// As it is stored.
    fn code(self) -> i64 {
        match self {
            Self::Accepted => 1,
            Self::Refused => 2,
            Self::Skipped => 3,
            Self::RefusedThenPulled => 4,
            Self::SkippedThenPulled => 5,
        }
    }

    fn of_code(code: i64) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|outcome| outcome.code() == code);
        known.ok_or_else(|| Error::Corrupt(format!("the ledger knows no outcome {code}")))
    }

    /// Whether the server has the event.
    pub fn is_delivered(self) -> bool {
        matches!(self, Self::Accepted | Self::RefusedThenPulled | Self::SkippedThenPulled)
    }

    /// What it becomes when the server fetches the event.
    pub fn pulled(self) -> Option<Self> {
        match self {
            Self::Refused => Some(Self::RefusedThenPulled),
            Self::Skipped => Some(Self::SkippedThenPulled),
            _ => None,
        }
    }
}

// === writing ===

/// Names a server by a number, unless it has one.
pub fn insert_destination(write: &mut Write, destination: &ServerName, number: DestinationNid) {
    write.insert(&DESTINATIONS, args![number.0, destination.as_str()]);
}

/// What a server answered to a transaction, on its way into the ledger. To be written before what is noted leaves the outbox.
#[derive(Debug)]
pub struct Answer<'a> {
    destination: &'a ServerName,
    number: DestinationNid,
    /// How the user ids of this server end.
    ours: String,
    sent_at: Option<Millis>,
    answered_at: Millis,
    /// Of its Write.
    position: u32,
}

impl<'a> Answer<'a> {
    /// `us`: this server. Since when the events of its users were queued, they say themselves; what others say counts for
    /// nothing. `sent_at`: when the transaction was first sent.
    pub fn new(
        write: &mut Write,
        (destination, number): (&'a ServerName, DestinationNid),
        us: &ServerName,
        sent_at: Option<Millis>,
        now: Millis,
    ) -> Self {
        // A clock that was set back must not make the answer come before the question.
        let answered_at = now.max(sent_at.unwrap_or(now));
        Self { destination, number, ours: format!(":{us}"), sent_at, answered_at, position: write.position() }
    }

    /// What is owed after `after` and up to `upto` came to `outcome`. `reason`: why, if it was refused.
    pub fn record(
        &self,
        write: &mut Write,
        (after, upto): (Position, Position),
        outcome: Outcome,
        reason: Option<&str>,
    ) {
        const RECORD: &str = "
            INSERT INTO ledger (event_nid, destination_nid, outcome, position, queued_at, sent_at, answered_at, reason)
            SELECT e.nid, $2, $3, $4,
                CASE WHEN substr(e.sender, length(e.sender) - length($5) + 1) = $5 AND e.origin_server_ts < $6
                    THEN e.origin_server_ts ELSE $6 END,
                $7, $8, $9
            FROM outbox o
            JOIN events e ON e.nid = o.event_nid
            WHERE o.destination = $1 AND o.position > $10 AND o.position <= $11
            ON CONFLICT DO NOTHING";
        let mut row = self.args(outcome);
        row.extend(args![reason, after, upto]);
        write.run(RECORD, row);
    }

    /// What is owed of `room` before `upto` was skipped: the server has the event at `upto`, and finds them from there.
    pub fn record_skipped(&self, write: &mut Write, room: RoomNid, upto: Position) {
        // The room's events are looked at from the first that is owed on, as when they leave the outbox.
        const RECORD: &str = "
            INSERT INTO ledger (event_nid, destination_nid, outcome, position, queued_at, sent_at, answered_at)
            SELECT e.nid, $2, $3, $4,
                CASE WHEN substr(e.sender, length(e.sender) - length($5) + 1) = $5 AND e.origin_server_ts < $6
                    THEN e.origin_server_ts ELSE $6 END,
                $7, $8
            FROM events e
            JOIN outbox o ON o.destination = $1 AND o.position = e.position
            WHERE e.room_nid = $9 AND e.position < $10
                AND e.position >= (SELECT MIN(first.position) FROM outbox first WHERE first.destination = $1)
            ON CONFLICT DO NOTHING";
        let never_sent = Self { ours: self.ours.clone(), sent_at: None, ..*self };
        let mut row = never_sent.args(Outcome::Skipped);
        row.extend(args![room.0, upto]);
        write.run(RECORD, row);
    }

    fn args(&self, outcome: Outcome) -> Vec<Arg> {
        let mut row = args![self.destination.as_str(), self.number.0, outcome.code()];
        row.push(Arg::Position(self.position));
        let not_after = self.sent_at.unwrap_or(self.answered_at);
        row.extend(args![self.ours.as_str(), not_after, self.sent_at, self.answered_at]);
        row
    }
}

/// The server `number` has fetched what it missed.
pub fn record_pulled(write: &mut Write, number: DestinationNid, missed: &[Missed], now: Millis) {
    let position = write.position();
    for Missed { event, outcome, queued_at } in missed {
        let Some(pulled) = outcome.pulled() else { continue };
        let mut row = args![event.0, number.0, pulled.code()];
        row.push(Arg::Position(position));
        row.extend(args![*queued_at, None::<i64>, now.max(*queued_at), None::<&str>]);
        write.insert(&LEDGER, row);
    }
}

/// Throws rows away up to this one, in the order of [`Ledger::export`].
pub fn prune(write: &mut Write, upto: Cursor) {
    const PRUNE: &str = "DELETE FROM ledger WHERE (position, event_nid) <= ($1, $2)";
    write.run(PRUNE, args![upto.position, upto.event.0]);
}

// === reading ===

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    /// Whose event it was to be.
    pub destination: OwnedServerName,
    /// What became of it.
    pub outcome: Outcome,
    /// Since when it was owed.
    pub queued_at: Millis,
    /// When the transaction that got through was first sent; `None`: it was never sent.
    pub sent_at: Option<Millis>,
    /// When the outcome became known.
    pub answered_at: Millis,
    /// Why it was refused.
    pub reason: Option<String>,
}

/// A place in the order in which outcomes became known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// When the outcome became known here.
    pub position: Position,
    /// Of which event.
    pub event: EventNid,
}

/// A row of the ledger, with what it is about.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Its place.
    pub cursor: Cursor,
    /// The event.
    pub event_id: OwnedEventId,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// The rest.
    pub row: LedgerRow,
}

/// An event that a server was owed and doesn't have, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Which.
    pub event: EventNid,
    /// Refused, or skipped.
    pub outcome: Outcome,
    /// Since when it was owed.
    pub queued_at: Millis,
}

/// An event as the ledger needs it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its number.
    pub nid: EventNid,
    /// When it became visible.
    pub position: Position,
    /// When it was made, as its maker says.
    pub made_at: Millis,
}

/// Reads the ledger.
pub struct Ledger<'a>(&'a Store);

impl Store {
    /// Reads the ledger.
    pub fn ledger(&self) -> Ledger<'_> {
        Ledger(self)
    }
}

impl Ledger<'_> {
    /// The number by which the ledger names a server.
    pub async fn number_of(&self, destination: &ServerName) -> Result<Option<DestinationNid>, Error> {
        const FIND: &str = "SELECT nid FROM ledger_destinations WHERE destination = $1";
        let rows = self.0.query(FIND, args![destination.as_str()]).await?;
        rows.first().map(|row| row.int(0).map(DestinationNid)).transpose()
    }

    /// An event of a room's timeline.
    pub async fn event(&self, event_id: &ruma::EventId) -> Result<Option<Known>, Error> {
        const FIND: &str = "
            SELECT nid, position, origin_server_ts
            FROM events
            WHERE event_id = $1 AND position IS NOT NULL";
        let rows = self.0.query(FIND, args![event_id.as_str()]).await?;
        rows.first()
            .map(|row| Ok(Known { nid: EventNid(row.int(0)?), position: Position(row.int(1)?), made_at: row.int(2)? }))
            .transpose()
    }

    /// Who is still owed the event at `position`.
    pub async fn owed_to(&self, position: Position) -> Result<Vec<OwnedServerName>, Error> {
        // From one name to the next: few servers are owed something at a time, and each may be owed a great deal.
        const OWED: &str = "
            WITH RECURSIVE names (name) AS (
                SELECT MIN(destination) FROM outbox
                UNION ALL
                SELECT (SELECT MIN(o.destination) FROM outbox o WHERE o.destination > names.name)
                FROM names WHERE names.name IS NOT NULL)
            SELECT o.destination
            FROM names
            JOIN outbox o ON o.destination = names.name AND o.position = $1";
        self.0.query(OWED, args![position]).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// What is known of an event: of each server one row, or two if it fetched what it had missed.
    pub async fn of_event(&self, event: EventNid) -> Result<Vec<LedgerRow>, Error> {
        const OF_EVENT: &str = "
            SELECT d.destination, l.outcome, l.queued_at, l.sent_at, l.answered_at, l.reason
            FROM ledger l
            JOIN ledger_destinations d ON d.nid = l.destination_nid
            WHERE l.event_nid = $1
            ORDER BY d.destination, l.outcome";
        self.0.query(OF_EVENT, args![event.0]).await?.iter().map(|row| ledger_row(row, 0)).collect()
    }

    /// Of these events, those that the server was owed and doesn't have, as far as is known.
    pub async fn missed(&self, number: DestinationNid, events: &[EventNid]) -> Result<Vec<Missed>, Error> {
        const AT_ONCE: usize = 64;
        let mut missed = Vec::new();
        for chunk in events.chunks(AT_ONCE) {
            let sql = format!(
                "
                SELECT event_nid, MAX(outcome), MIN(queued_at)
                FROM ledger
                WHERE destination_nid = $1 AND outcome <> 1 AND event_nid IN ({})
                GROUP BY event_nid",
                places(2, chunk.len())
            );
            let mut args = args![number.0];
            args.extend(chunk.iter().map(|event| Arg::from(event.0)));
            for row in self.0.query(sql, args).await? {
                let outcome = Outcome::of_code(row.int(1)?)?;
                if outcome.pulled().is_some() {
                    missed.push(Missed { event: EventNid(row.int(0)?), outcome, queued_at: row.int(2)? });
                }
            }
        }
        Ok(missed)
    }

    /// The servers that were ever refusing or skipped, as far as the ledger still tells.
    pub async fn who_missed(&self) -> Result<Vec<OwnedServerName>, Error> {
        const WHO: &str = "
            SELECT d.destination
            FROM ledger_destinations d
            WHERE EXISTS (SELECT 1 FROM ledger l WHERE l.destination_nid = d.nid AND l.outcome <> 1)";
        self.0.query(WHO, Vec::new()).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// How many events were skipped by the Write that had `position`.
    pub async fn count_skipped(&self, position: Position) -> Result<u64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM ledger WHERE position = $1 AND outcome = 3";
        let rows = self.0.query(COUNT, args![position]).await?;
        Ok(rows.first().map(|row| row.int(0)).transpose()?.unwrap_or_default().unsigned_abs())
    }

    /// The first `limit` rows after `after`, in the order in which outcomes became known: who goes on from the last of them
    /// misses none and sees none twice.
    pub async fn export(&self, after: Cursor, limit: i64) -> Result<Vec<Exported>, Error> {
        const EXPORT: &str = "
            SELECT l.position, l.event_nid, e.event_id, r.room_id,
                d.destination, l.outcome, l.queued_at, l.sent_at, l.answered_at, l.reason
            FROM ledger l
            JOIN ledger_destinations d ON d.nid = l.destination_nid
            JOIN events e ON e.nid = l.event_nid
            JOIN rooms r ON r.nid = e.room_nid
            WHERE (l.position, l.event_nid) > ($1, $2)
            ORDER BY l.position, l.event_nid
            LIMIT $3";
        let rows = self.0.query(EXPORT, args![after.position, after.event.0, limit]).await?;
        rows.iter()
            .map(|row| {
                Ok(Exported {
                    cursor: cursor(row)?,
                    event_id: row.parse(2)?,
                    room_id: row.parse(3)?,
                    row: ledger_row(row, 4)?,
                })
            })
            .collect()
    }

    /// Of the first `limit` rows that are summed up, up to which they became known before `before`.
    pub async fn old(&self, before: Millis, limit: i64) -> Result<Option<Cursor>, Error> {
        const FIRST: &str = "
            SELECT position, event_nid, answered_at
            FROM ledger
            WHERE position <= (SELECT p.position FROM positions p WHERE p.stream = 'ledger')
            ORDER BY position, event_nid
            LIMIT $1";
        let mut last = None;
        for row in self.0.query(FIRST, args![limit]).await? {
            if row.int(2)? >= before {
                break;
            }
            last = Some(cursor(&row)?);
        }
        Ok(last)
    }
}

fn cursor(row: &Row) -> Result<Cursor, Error> {
    Ok(Cursor { position: Position(row.int(0)?), event: EventNid(row.int(1)?) })
}

fn ledger_row(row: &Row, first: usize) -> Result<LedgerRow, Error> {
    Ok(LedgerRow {
        destination: row.parse(first)?,
        outcome: Outcome::of_code(row.int(first + 1)?)?,
        queued_at: row.int(first + 2)?,
        sent_at: row.opt_int(first + 3)?,
        answered_at: row.int(first + 4)?,
        reason: row.opt_text(first + 5)?,
    })
}
