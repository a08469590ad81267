//! What is said later, and what doesn't stay.

use model::{EventNid, Millis, RoomNid, TimelineEvent};
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId};

use crate::{Arg, Error, Row, Store, Table, Write, args};

/// How it stands with something that is to be said later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduledState {
    /// Its time hasn't come.
    Waiting,
    /// It is being said, and can't be taken back any more.
    Sending,
    /// It could not be said.
    Failed,
    /// A moderator is to look at it first.
    Held,
}

impl ScheduledState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Failed => "failed",
            Self::Held => "held",
        }
    }
}

/// Something that is to be said later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledRow {
    /// Its name here.
    pub id: String,
    /// Who says it.
    pub sender: OwnedUserId,
    /// The device on which that was said.
    pub device_id: OwnedDeviceId,
    /// In which room.
    pub room_id: OwnedRoomId,
    /// Within which the client's names of messages are unique.
    pub scope: String,
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
    /// How often it was tried.
    pub attempts: i64,
    /// Why it could not be said, for people; for what is held: why, for moderators.
    pub failure: Option<String>,
    /// The moderator who has let it through.
    pub approved_by: Option<String>,
}

static SCHEDULED: Table = Table {
    insert: "INSERT INTO scheduled_messages
        (id, sender, device_id, room_id, scope, msg_id, type, content, due_at, created_at, state, next_at, attempts,
         failure)",
    columns: 14,
    conflict: "ON CONFLICT (sender, device_id, scope, msg_id) DO NOTHING",
    key: 0,
};

/// Something is to be said later, or waits for a moderator; nothing changes if the same device has called something so before.
pub fn schedule(write: &mut Write, row: &ScheduledRow) {
    let mut values = args![row.id.as_str(), row.sender.as_str(), row.device_id.as_str(), row.room_id.as_str()];
    values.extend(args![row.scope.as_str(), row.msg_id.as_str(), row.kind.as_str(), row.content.as_str()]);
    values.extend(args![row.due_at, row.created_at, row.state.as_str(), row.due_at, 0_i64, row.failure.as_deref()]);
    write.insert(&SCHEDULED, values);
}

/// It isn't to be said, unless it is being said.
pub fn unschedule(write: &mut Write, sender: &UserId, id: &str) {
    const REMOVE: &str = "DELETE FROM scheduled_messages WHERE sender = $1 AND id = $2 AND state <> 'sending'";
    write.run(REMOVE, args![sender.as_str(), id]);
}

/// It is being said from now on, unless it was taken back.
pub fn begin(write: &mut Write, id: &str) {
    write.run("UPDATE scheduled_messages SET state = 'sending' WHERE id = $1 AND state = 'waiting'", args![id]);
}

/// It was said.
pub fn said(write: &mut Write, id: &str) {
    write.run("DELETE FROM scheduled_messages WHERE id = $1", args![id]);
}

/// It could not be said, and is tried again. It stays one that can't be taken back: who knows what came of it.
pub fn put_off(write: &mut Write, id: &str, failure: &str, next_at: Millis) {
    const PUT_OFF: &str =
        "UPDATE scheduled_messages SET attempts = attempts + 1, failure = $2, next_at = $3 WHERE id = $1";
    write.run(PUT_OFF, args![id, failure, next_at]);
}

/// It can't be said. Those that failed before `forget` are forgotten.
pub fn fail(write: &mut Write, id: &str, failure: &str, forget: Millis) {
    const FAIL: &str = "
        UPDATE scheduled_messages
        SET state = 'failed', attempts = attempts + 1, failure = $2
        WHERE id = $1";
    write.run(FAIL, args![id, failure]);
    write.run("DELETE FROM scheduled_messages WHERE state = 'failed' AND next_at < $1", args![forget]);
}

/// It is not said before a moderator has looked at it. `why`: for moderators.
pub fn hold_back(write: &mut Write, id: &str, why: &str) {
    write.run("UPDATE scheduled_messages SET state = 'held', failure = $2 WHERE id = $1", args![id, why]);
}

/// A moderator has let it through: it is said at once.
pub fn approve(write: &mut Write, id: &str, by: &str, now: Millis) {
    const APPROVE: &str = "
        UPDATE scheduled_messages
        SET state = 'waiting', approved_by = $2, failure = NULL, next_at = $3
        WHERE id = $1 AND state = 'held'";
    write.run(APPROVE, args![id, by, now]);
}

/// A moderator has not let it through: it has failed.
pub fn turn_down(write: &mut Write, id: &str, failure: &str, now: Millis) {
    const TURN_DOWN: &str = "
        UPDATE scheduled_messages
        SET state = 'failed', failure = $2, next_at = $3
        WHERE id = $1 AND state = 'held'";
    write.run(TURN_DOWN, args![id, failure, now]);
}

static EXPIRING: Table = Table {
    insert: "INSERT INTO expiring_messages (event_nid, room_nid, sender, event_id, after_read, expires_at, position)",
    columns: 7,
    conflict: "",
    key: 0,
};

/// An event that is being appended doesn't stay: it goes at a moment, or so long after somebody else has read it.
pub fn insert_expiring(
    write: &mut Write,
    event: &TimelineEvent,
    after_read: Option<Millis>,
    expires_at: Option<Millis>,
    position: Arg,
) {
    let mut row = args![event.nid.0, event.room_nid.0, event.pdu.sender.as_str(), event.pdu.event_id.as_str()];
    row.extend(args![after_read, expires_at]);
    row.push(position);
    write.insert(&EXPIRING, row);
}

/// The time begins for what somebody else has read.
pub fn start_reading(write: &mut Write, now: Millis) {
    const START: &str = "
        UPDATE expiring_messages
        SET expires_at = $1 + after_read
        WHERE expires_at IS NULL AND EXISTS (
            SELECT 1
            FROM receipts r
            WHERE r.room_nid = expiring_messages.room_nid AND r.user_id <> expiring_messages.sender
                AND r.event_position >= expiring_messages.position)";
    write.run(START, args![now]);
}

/// It is gone, or nobody can take it away.
pub fn expired(write: &mut Write, event: EventNid) {
    write.run("DELETE FROM expiring_messages WHERE event_nid = $1", args![event.0]);
}

/// It could not be taken away, and is tried again.
pub fn expire_later(write: &mut Write, event: EventNid, at: Millis) {
    write.run("UPDATE expiring_messages SET expires_at = $2 WHERE event_nid = $1", args![event.0, at]);
}

/// A message that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiringRow {
    /// Its event.
    pub event: EventNid,
    /// Its event.
    pub event_id: OwnedEventId,
    /// Where it is.
    pub room: RoomNid,
    /// Who said it.
    pub sender: OwnedUserId,
}

/// Reads what has its time.
pub struct TimedMessages<'a>(&'a Store);

impl Store {
    /// Reads what is said later, and what doesn't stay.
    pub fn timed_messages(&self) -> TimedMessages<'_> {
        TimedMessages(self)
    }
}

const COLUMNS: &str = "
    SELECT id, sender, device_id, room_id, scope, msg_id, type, content, due_at, created_at, state, attempts, failure,
        approved_by
    FROM scheduled_messages";

fn scheduled(row: &Row) -> Result<ScheduledRow, Error> {
    let state = match row.text(10)?.as_str() {
        "waiting" => ScheduledState::Waiting,
        "sending" => ScheduledState::Sending,
        "failed" => ScheduledState::Failed,
        "held" => ScheduledState::Held,
        other => return Err(Error::Corrupt(format!("scheduled_messages.state: {other}"))),
    };
    Ok(ScheduledRow {
        id: row.text(0)?,
        sender: row.parse(1)?,
        device_id: row.text(2)?.into(),
        room_id: row.parse(3)?,
        scope: row.text(4)?,
        msg_id: row.text(5)?,
        kind: row.text(6)?,
        content: row.text(7)?,
        due_at: row.int(8)?,
        created_at: row.int(9)?,
        state,
        attempts: row.int(11)?,
        failure: row.opt_text(12)?,
        approved_by: row.opt_text(13)?,
    })
}

impl TimedMessages<'_> {
    /// What `sender` has scheduled, the earliest first.
    pub async fn of(&self, sender: &UserId) -> Result<Vec<ScheduledRow>, Error> {
        let sql = format!("{COLUMNS} WHERE sender = $1 ORDER BY due_at, id");
        self.0.query(sql, args![sender.as_str()]).await?.iter().map(scheduled).collect()
    }

    /// One by its name here.
    pub async fn find(&self, id: &str) -> Result<Option<ScheduledRow>, Error> {
        let rows = self.0.query(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
        rows.first().map(scheduled).transpose()
    }

    /// What is to be said by `now`.
    pub async fn due(&self, now: Millis, limit: i64) -> Result<Vec<ScheduledRow>, Error> {
        let sql =
            format!("{COLUMNS} WHERE state IN ('waiting', 'sending') AND next_at <= $1 ORDER BY next_at, id LIMIT $2");
        self.0.query(sql, args![now, limit]).await?.iter().map(scheduled).collect()
    }

    /// What waits for a moderator, the oldest first, after what was made at that moment and is called so.
    pub async fn held(&self, (at, id): (Millis, &str), limit: u32) -> Result<Vec<ScheduledRow>, Error> {
        let sql =
            format!("{COLUMNS} WHERE state = 'held' AND (created_at, id) > ($1, $2) ORDER BY created_at, id LIMIT $3");
        self.0.query(sql, args![at, id, i64::from(limit)]).await?.iter().map(scheduled).collect()
    }

    /// What is to go by `now`.
    pub async fn expiring(&self, now: Millis, limit: i64) -> Result<Vec<ExpiringRow>, Error> {
        const EXPIRING: &str = "
            SELECT event_nid, event_id, room_nid, sender
            FROM expiring_messages
            WHERE expires_at <= $1
            ORDER BY expires_at
            LIMIT $2";
        let row = |row: &Row| {
            let (event, room) = (EventNid(row.int(0)?), RoomNid(row.int(2)?));
            Ok(ExpiringRow { event, event_id: row.parse(1)?, room, sender: row.parse(3)? })
        };
        self.0.query(EXPIRING, args![now, limit]).await?.iter().map(row).collect()
    }

    /// Whether somebody else has read something that goes when it is read, and its time hasn't begun.
    pub async fn are_read(&self) -> Result<bool, Error> {
        const READ: &str = "
            SELECT 1
            FROM expiring_messages e
            JOIN receipts r ON r.room_nid = e.room_nid AND r.user_id <> e.sender AND r.event_position >= e.position
            WHERE e.expires_at IS NULL
            LIMIT 1";
        Ok(!self.0.query(READ, args![]).await?.is_empty())
    }
}
