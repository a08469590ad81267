//! Events that are sent later, unless the client says otherwise until then.

use model::Millis;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, UserId};

use crate::{Error, Row, Store, Table, Write, args};

/// How it stands with an event that is sent later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayedState {
    /// Its time hasn't come.
    Waiting,
    /// It is being sent, and can't be cancelled any more.
    Sending,
    /// It was sent.
    Sent,
    /// It was cancelled, by its client or by another event.
    Cancelled,
    /// It could not be sent.
    Failed,
}

/// An event that is sent later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayedRow {
    /// Its name here, by which whoever knows it disposes of it.
    pub id: String,
    /// Who sends it.
    pub sender: OwnedUserId,
    /// The device that asked for it.
    pub device_id: OwnedDeviceId,
    /// Into which room.
    pub room_id: OwnedRoomId,
    /// What the client calls the request.
    pub txn_id: String,
    /// The type of the event.
    pub kind: String,
    /// `None`: it is no state event.
    pub state_key: Option<String>,
    /// Its content: a JSON object.
    pub content: String,
    /// How long it waits, milliseconds.
    pub delay: Millis,
    /// Since when.
    pub running_since: Millis,
    /// How it stands with it.
    pub state: DelayedState,
    /// How often it was tried.
    pub attempts: i64,
    /// What it became.
    pub event_id: Option<String>,
    /// Why it was not sent, for people.
    pub failure: Option<String>,
    /// When it was sent, cancelled or given up.
    pub finalised_at: Option<Millis>,
}

static DELAYED: Table = Table {
    insert: "INSERT INTO delayed_events
        (id, sender, device_id, room_id, txn_id, type, state_key, content, delay_ms, running_since, next_at, state, attempts)",
    columns: 13,
    conflict: "ON CONFLICT (sender, device_id, room_id, txn_id) DO NOTHING",
    key: 0,
};

/// An event is to be sent later; nothing changes if the same device has asked for the same before.
pub fn delay(write: &mut Write, row: &DelayedRow) {
    let mut values = args![row.id.as_str(), row.sender.as_str(), row.device_id.as_str(), row.room_id.as_str()];
    values.extend(args![row.txn_id.as_str(), row.kind.as_str(), row.state_key.as_deref(), row.content.as_str()]);
    values.extend(args![row.delay, row.running_since, row.running_since + row.delay, "waiting", 0_i64]);
    write.insert(&DELAYED, values);
}

/// Its time begins anew, unless it has come.
pub fn restart(write: &mut Write, id: &str, now: Millis) {
    const RESTART: &str = "
        UPDATE delayed_events
        SET running_since = $2, next_at = $2 + delay_ms
        WHERE id = $1 AND state = 'waiting'";
    write.run(RESTART, args![id, now]);
}

/// It is being sent from now on, unless it was cancelled.
pub fn begin(write: &mut Write, id: &str) {
    write.run("UPDATE delayed_events SET state = 'sending' WHERE id = $1 AND state = 'waiting'", args![id]);
}

/// It is being sent from now on, unless it was cancelled, or restarted since it was seen to be due.
pub fn begin_due(write: &mut Write, id: &str, now: Millis) {
    const BEGIN: &str =
        "UPDATE delayed_events SET state = 'sending' WHERE id = $1 AND state = 'waiting' AND next_at <= $2";
    write.run(BEGIN, args![id, now]);
}

/// It was sent, as `event_id`.
pub fn sent(write: &mut Write, id: &str, event_id: &str, now: Millis) {
    const SENT: &str = "UPDATE delayed_events SET state = 'sent', event_id = $2, finalised_at = $3 WHERE id = $1";
    write.run(SENT, args![id, event_id, now]);
}

/// It is not sent, unless it is being sent. `why`: if not because the client said so.
pub fn cancel(write: &mut Write, id: &str, why: Option<&str>, now: Millis) {
    const CANCEL: &str = "
        UPDATE delayed_events
        SET state = 'cancelled', failure = $2, finalised_at = $3
        WHERE id = $1 AND state = 'waiting'";
    write.run(CANCEL, args![id, why, now]);
}

/// It could not be sent, and is tried again.
pub fn put_off(write: &mut Write, id: &str, failure: &str, next_at: Millis) {
    const PUT_OFF: &str = "UPDATE delayed_events SET attempts = attempts + 1, failure = $2, next_at = $3 WHERE id = $1";
    write.run(PUT_OFF, args![id, failure, next_at]);
}

/// It can't be sent.
pub fn fail(write: &mut Write, id: &str, failure: &str, now: Millis) {
    const FAIL: &str = "
        UPDATE delayed_events
        SET state = 'failed', attempts = attempts + 1, failure = $2, finalised_at = $3
        WHERE id = $1";
    write.run(FAIL, args![id, failure, now]);
}

/// What became of those that were settled before `upto` is forgotten.
pub fn forget(write: &mut Write, upto: Millis) {
    write.run("DELETE FROM delayed_events WHERE finalised_at < $1", args![upto]);
}

/// Reads events that are sent later.
pub struct DelayedEvents<'a>(&'a Store);

impl Store {
    /// Reads events that are sent later.
    pub fn delayed_events(&self) -> DelayedEvents<'_> {
        DelayedEvents(self)
    }
}

const COLUMNS: &str = "
    SELECT id, sender, device_id, room_id, txn_id, type, state_key, content, delay_ms, running_since, state, attempts,
        event_id, failure, finalised_at
    FROM delayed_events";

fn delayed(row: &Row) -> Result<DelayedRow, Error> {
    let state = match row.text(10)?.as_str() {
        "waiting" => DelayedState::Waiting,
        "sending" => DelayedState::Sending,
        "sent" => DelayedState::Sent,
        "cancelled" => DelayedState::Cancelled,
        "failed" => DelayedState::Failed,
        other => return Err(Error::Corrupt(format!("delayed_events.state: {other}"))),
    };
    Ok(DelayedRow {
        id: row.text(0)?,
        sender: row.parse(1)?,
        device_id: row.text(2)?.into(),
        room_id: row.parse(3)?,
        txn_id: row.text(4)?,
        kind: row.text(5)?,
        state_key: row.opt_text(6)?,
        content: row.text(7)?,
        delay: row.int(8)?,
        running_since: row.int(9)?,
        state,
        attempts: row.int(11)?,
        event_id: row.opt_text(12)?,
        failure: row.opt_text(13)?,
        finalised_at: row.opt_int(14)?,
    })
}

impl DelayedEvents<'_> {
    /// Those of `sender`, what waits and what was settled, the latest first.
    pub async fn of(&self, sender: &UserId, limit: i64) -> Result<Vec<DelayedRow>, Error> {
        let sql = format!("{COLUMNS} WHERE sender = $1 ORDER BY running_since DESC, id LIMIT $2");
        self.0.query(sql, args![sender.as_str(), limit]).await?.iter().map(delayed).collect()
    }

    /// How many of `sender` wait.
    pub async fn waiting_of(&self, sender: &UserId) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM delayed_events WHERE sender = $1 AND finalised_at IS NULL";
        self.0.query(COUNT, args![sender.as_str()]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// One by its name here.
    pub async fn find(&self, id: &str) -> Result<Option<DelayedRow>, Error> {
        let rows = self.0.query(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
        rows.first().map(delayed).transpose()
    }

    /// What a device has asked for under a name before.
    pub async fn named(&self, row: &DelayedRow) -> Result<Option<DelayedRow>, Error> {
        let sql = format!("{COLUMNS} WHERE sender = $1 AND device_id = $2 AND room_id = $3 AND txn_id = $4");
        let args = args![row.sender.as_str(), row.device_id.as_str(), row.room_id.as_str(), row.txn_id.as_str()];
        self.0.query(sql, args).await?.first().map(delayed).transpose()
    }

    /// What is to be sent by `now`.
    pub async fn due(&self, now: Millis, limit: i64) -> Result<Vec<DelayedRow>, Error> {
        let sql =
            format!("{COLUMNS} WHERE state IN ('waiting', 'sending') AND next_at <= $1 ORDER BY next_at, id LIMIT $2");
        self.0.query(sql, args![now, limit]).await?.iter().map(delayed).collect()
    }

    /// Whether there is something that was settled before `upto`.
    pub async fn has_settled_before(&self, upto: Millis) -> Result<bool, Error> {
        const OLD: &str = "SELECT 1 FROM delayed_events WHERE finalised_at < $1 LIMIT 1";
        Ok(!self.0.query(OLD, args![upto]).await?.is_empty())
    }
}
