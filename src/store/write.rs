//! What a service asks the writer to do, as a value.

use model::{Change, EventNid, Position, RoomNid};

use crate::{duties::Duty, engine::Arg};

/// Rows, what must still be true when they are written, and whom to tell afterwards. All of it takes effect, or none.
#[derive(Debug, Default)]
pub struct Write {
    pub(crate) statements: Vec<Statement>,
    pub(crate) room: Option<RoomStep>,
    pub(crate) duty: Option<Duty>,
    pub(crate) unchanged: Option<Unchanged>,
    pub(crate) positions: u32,
    pub(crate) changes: Vec<(u32, Change)>,
    pub(crate) untold: bool,
}

/// Which write to a room was the latest. The count alone would not do: of two nodes that count on from one version, one
/// is refused, and what it had built upon that must not pass for a successor of the other's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomVersion {
    /// How many writes the room has seen.
    pub count: i64,
    /// Its latest event.
    pub head: EventNid,
}

/// A room goes from one version to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomStep {
    pub(crate) room: RoomNid,
    pub(crate) from: RoomVersion,
    pub(crate) to: RoomVersion,
}

/// What somebody keeps was last set at a position; 0: it isn't there.
#[derive(Debug)]
pub(crate) struct Unchanged {
    pub(crate) user_id: String,
    pub(crate) room_id: String,
    pub(crate) kind: String,
    pub(crate) seen: Position,
}

/// A statement that runs inside the writer's transaction.
#[derive(Debug)]
pub(crate) enum Statement {
    /// Runs by itself, in order with the others of its Write.
    Run { sql: &'static str, args: Vec<Arg> },
    /// A row for a table; the writer gathers the rows that many Writes have for one table into few statements.
    Insert { into: &'static Table, row: Vec<Arg> },
}

/// How rows come into a table.
#[derive(Debug)]
pub struct Table {
    /// `INSERT INTO name (columns)`.
    pub insert: &'static str,
    /// How many columns `insert` names.
    pub columns: usize,
    /// `ON CONFLICT …`, or nothing.
    pub conflict: &'static str,
    /// The first so many columns are the key: of several rows with one key in one commit, the last is written.
    /// 0: every row is written.
    pub key: usize,
}

impl Write {
    /// A write of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty() && self.changes.is_empty() && self.positions == 0
    }

    /// Runs `sql` in the writer's transaction. Reads nothing back.
    pub fn run(&mut self, sql: &'static str, args: Vec<Arg>) -> &mut Self {
        self.statements.push(Statement::Run { sql, args });
        self
    }

    /// Puts `row` into a table.
    pub fn insert(&mut self, into: &'static Table, row: Vec<Arg>) -> &mut Self {
        debug_assert_eq!(into.columns, row.len(), "{}", into.insert);
        self.statements.push(Statement::Insert { into, row });
        self
    }

    /// Takes effect only if the room is still at version `from`; it is at `to` afterwards. A new room comes from the
    /// default.
    pub fn room_step(&mut self, room: RoomNid, from: RoomVersion, to: RoomVersion) -> &mut Self {
        self.room = Some(RoomStep { room, from, to });
        self
    }

    /// Takes effect only if what somebody keeps is still what it was.
    pub(crate) fn unless_changed(&mut self, unchanged: Unchanged) -> &mut Self {
        self.unchanged = Some(unchanged);
        self
    }

    /// Takes effect only while `duty` is still this node's.
    pub fn on_duty(&mut self, duty: Duty) -> &mut Self {
        self.duty = Some(duty);
        self
    }

    /// Asks for one more stream position, to be named in rows by [`Arg::Position`] of the returned offset.
    pub fn position(&mut self) -> u32 {
        self.positions += 1;
        self.positions - 1
    }

    /// Tells `change` to everybody who waits, once it is durable, at the position of `offset`.
    pub fn tell(&mut self, offset: u32, change: Change) -> &mut Self {
        self.changes.push((offset, change));
        self
    }

    /// More happens than the changes tell: whoever remembers must look it up afterwards.
    pub fn tell_not_all(&mut self) -> &mut Self {
        self.untold = true;
        self
    }

    /// Asks for a position, and tells `change` at it: the usual case. Returns the argument for the rows.
    pub fn tell_next(&mut self, change: Change) -> Arg {
        let offset = self.position();
        self.tell(offset, change);
        Arg::Position(offset)
    }
}
