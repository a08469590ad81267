//! Events, in the order of their rooms' timelines.

use std::sync::Arc;

use model::{EventNid, Millis, Pdu, Position, RoomNid, SnapshotNid, TimelineEvent, peer::TrustLevel};
use ruma::{EventId, OwnedEventId, UserId, api::Direction};

use crate::{Arg, Error, Row, Store, Table, Write, args, engine::Pool, places};

static EVENTS: Table = Table {
    insert: "INSERT INTO events (nid, event_id, room_nid, position, depth, type, state_key, sender, origin_server_ts,
        state_before_nid, json, transaction_id, rejected_at, soft_failed_at, room_state_nid, withheld_below, seq)",
    columns: 17,
    conflict: "",
    key: 0,
};

static RELATIONS: Table = Table {
    insert: "INSERT INTO relations (room_nid, parent_id, event_nid, rel_type, type, sender, position)",
    columns: 7,
    conflict: "ON CONFLICT DO NOTHING",
    key: 0,
};

static PENDING_REDACTIONS: Table = Table {
    insert: "INSERT INTO pending_redactions (target_id, redaction_nid)",
    columns: 2,
    conflict: "ON CONFLICT DO NOTHING",
    key: 2,
};

static BACKWARD_EXTREMITIES: Table = Table {
    insert: "INSERT INTO backward_extremities (room_nid, event_id)",
    columns: 2,
    conflict: "ON CONFLICT DO NOTHING",
    key: 2,
};

static TRANSACTIONS: Table = Table {
    insert: "INSERT INTO transactions (user_id, device_id, scope, transaction_id, answer, created_at)",
    columns: 6,
    conflict: "",
    key: 0,
};

/// Adds `event` to its room's timeline at `position`, or, with [`Arg::NoInt`], as one that the room knows of but that is not
/// in its timeline.
pub fn insert(write: &mut Write, event: &TimelineEvent, position: Arg) {
    let pdu = &event.pdu;
    let transaction =
        event.transaction_id.as_ref().map(|pair| serde_json::to_string(pair).expect("two strings are JSON"));
    let mut row = args![event.nid.0, pdu.event_id.as_str(), event.room_nid.0];
    row.push(position);
    row.extend(args![
        pdu.depth,
        pdu.kind.to_string(),
        pdu.state_key.as_deref(),
        pdu.sender.as_str(),
        i64::from(pdu.origin_server_ts.get()),
        event.state_before.map(|snapshot| snapshot.0),
        pdu.json.clone(),
        transaction,
        pdu.rejected.then_some(i64::from(pdu.origin_server_ts.get())),
        event.soft_failed.then_some(i64::from(pdu.origin_server_ts.get())),
        event.room_state.map(|snapshot| snapshot.0),
        event.withheld_below.map(TrustLevel::as_str),
        event.seq,
    ]);
    write.insert(&EVENTS, row);
}

/// Puts an event that was known already into its room's timeline, or, with [`Arg::NoInt`], only notes how it was judged.
pub fn settle(write: &mut Write, event: &TimelineEvent, position: Arg) {
    const SETTLE: &str = "
        UPDATE events
        SET position = $2, state_before_nid = $3, room_state_nid = $4, rejected_at = $5, soft_failed_at = $6,
            withheld_below = $7, seq = $8
        WHERE nid = $1 AND position IS NULL";
    let at = i64::from(event.pdu.origin_server_ts.get());
    let mut row = args![event.nid.0];
    row.push(position);
    row.extend(args![
        event.state_before.map(|snapshot| snapshot.0),
        event.room_state.map(|snapshot| snapshot.0),
        event.pdu.rejected.then_some(at),
        event.soft_failed.then_some(at),
        event.withheld_below.map(TrustLevel::as_str),
        event.seq,
    ]);
    write.run(SETTLE, row);
}

/// Notes that a redaction came before what it redacts.
pub fn insert_pending_redaction(write: &mut Write, target: &EventId, redaction: EventNid) {
    write.insert(&PENDING_REDACTIONS, args![target.as_str(), redaction.0]);
}

/// Notes that history before the room's timeline begins with `event_id`, as far as this server has it.
pub fn insert_backward_extremity(write: &mut Write, room: RoomNid, event_id: &EventId) {
    write.insert(&BACKWARD_EXTREMITIES, args![room.0, event_id.as_str()]);
}

/// The event is in the timeline now.
pub fn remove_backward_extremity(write: &mut Write, room: RoomNid, event_id: &EventId) {
    const REMOVE: &str = "DELETE FROM backward_extremities WHERE room_nid = $1 AND event_id = $2";
    write.run(REMOVE, args![room.0, event_id.as_str()]);
}

/// Notes that `event` relates to `parent` by `rel_type`.
pub fn insert_relation(write: &mut Write, event: &TimelineEvent, parent: &str, rel_type: &str, position: Arg) {
    let mut row =
        args![event.room_nid.0, parent, event.nid.0, rel_type, event.pdu.kind.to_string(), event.pdu.sender.as_str()];
    row.push(position);
    write.insert(&RELATIONS, row);
}

/// Puts the redacted form of an event in the place of the original, of which nothing stays.
pub fn redact(write: &mut Write, event: EventNid, json: Arc<str>, redacted_by: &EventId) {
    const REDACT: &str = "UPDATE events SET json = $2, redacted_by = $3, transaction_id = NULL WHERE nid = $1";
    write.run(REDACT, args![event.0, json, redacted_by.as_str()]);
}

/// Remembers what a client's transaction was answered. A second one with the same id fails with [`Error::Duplicate`].
pub fn insert_transaction(write: &mut Write, transaction: &Transaction<'_>, answer: &str, now: Millis) {
    write.insert(
        &TRANSACTIONS,
        args![
            transaction.user_id.as_str(),
            transaction.device_id,
            transaction.scope,
            transaction.transaction_id,
            answer,
            now
        ],
    );
}

/// What a client calls one of its requests, so that repeating it does nothing more.
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    /// Who sends.
    pub user_id: &'a UserId,
    /// From which device.
    pub device_id: &'a str,
    /// Which endpoint, and which room.
    pub scope: &'a str,
    /// As the client chose it.
    pub transaction_id: &'a str,
}

/// Which relations are wanted. `from`, `to`, `limit` and `direction` as for [`Events::timeline`].
#[derive(Clone, Copy, Debug)]
pub struct Relations<'a> {
    /// In which room.
    pub room: RoomNid,
    /// To which event.
    pub parent: &'a EventId,
    /// Of which kind; `None`: of any.
    pub rel_type: Option<&'a str>,
    /// The type of the relating events; `None`: any.
    pub kind: Option<&'a str>,
    /// Where to begin.
    pub from: Position,
    /// Where to stop.
    pub to: Option<Position>,
    /// How many at most.
    pub limit: usize,
    /// Backward: latest first.
    pub direction: Direction,
    /// Also what relates to what relates to the event, a few steps deep.
    pub recurse: bool,
}

/// Reads events.
pub struct Events<'a>(pub(crate) &'a Store);

pub(crate) const COLUMNS: &str = "
    SELECT nid, event_id, room_nid, position, state_before_nid, json, transaction_id, rejected_at, soft_failed_at,
        redacted_by, room_state_nid, withheld_below, seq
    FROM events";

pub(crate) fn event(row: &Row) -> Result<Arc<TimelineEvent>, Error> {
    let event_id: OwnedEventId = row.parse(1)?;
    let pdu = Pdu::from_stored(event_id, row.text(5)?.into(), row.opt_int(7)?.is_some())
        .map_err(|error| Error::Corrupt(error.to_string()))?;
    let transaction_id = row
        .opt_text(6)?
        .map(|pair| serde_json::from_str(&pair).map_err(|error| Error::Corrupt(format!("transaction_id: {error}"))))
        .transpose()?;
    Ok(Arc::new(TimelineEvent {
        nid: EventNid(row.int(0)?),
        room_nid: RoomNid(row.int(2)?),
        position: Position(row.opt_int(3)?.unwrap_or_default()),
        seq: row.opt_int(12)?,
        state_before: row.opt_int(4)?.map(SnapshotNid),
        room_state: row.opt_int(10)?.map(SnapshotNid),
        pdu: Arc::new(pdu),
        transaction_id,
        redacted_by: row.opt_parse(9)?,
        soft_failed: row.opt_int(8)?.is_some(),
        withheld_below: row.opt_parse(11)?,
    }))
}

pub(crate) async fn by_nids(pool: &Pool, nids: &[EventNid]) -> Result<Vec<Arc<TimelineEvent>>, Error> {
    const AT_ONCE: usize = 64;
    let mut found = Vec::with_capacity(nids.len());
    for chunk in nids.chunks(AT_ONCE) {
        // Statements of few sizes are prepared once.
        let size = chunk.len().next_power_of_two();
        let sql = format!("{COLUMNS} WHERE nid IN ({})", places(1, size));
        let args = (0..size).map(|at| Arg::Int(chunk[at.min(chunk.len() - 1)].0)).collect();
        for row in pool.fetch_all(sql.into(), args).await? {
            found.push(event(&row)?);
        }
    }
    Ok(found)
}

impl Events<'_> {
    /// The event called `event_id`.
    pub async fn find(&self, event_id: &EventId) -> Result<Option<Arc<TimelineEvent>>, Error> {
        let sql = const_format(COLUMNS, "WHERE event_id = $1");
        self.0.query(sql, args![event_id.as_str()]).await?.first().map(event).transpose()
    }

    /// These events, in no particular order; those that aren't there are left out.
    pub async fn by_nids(&self, nids: &[EventNid]) -> Result<Vec<Arc<TimelineEvent>>, Error> {
        by_nids(&self.0.pool, nids).await
    }

    /// The events called so, in no particular order; those that aren't there are left out.
    pub async fn by_ids(&self, ids: &[OwnedEventId]) -> Result<Vec<Arc<TimelineEvent>>, Error> {
        const AT_ONCE: usize = 64;
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(AT_ONCE) {
            let size = chunk.len().next_power_of_two();
            let sql = format!("{COLUMNS} WHERE event_id IN ({})", places(1, size));
            let args = (0..size).map(|at| Arg::from(chunk[at.min(chunk.len() - 1)].as_str())).collect();
            for row in self.0.query(sql, args).await? {
                found.push(event(&row)?);
            }
        }
        Ok(found)
    }

    /// Whether an event is missing in the timeline, and something in it follows that.
    pub async fn is_backward_extremity(&self, room: RoomNid, event_id: &EventId) -> Result<bool, Error> {
        const FIND: &str = "SELECT 1 FROM backward_extremities WHERE room_nid = $1 AND event_id = $2";
        Ok(!self.0.query(FIND, args![room.0, event_id.as_str()]).await?.is_empty())
    }

    /// Where the history of a room begins, as far as this server has it: events that it lacks.
    pub async fn backward_extremities(&self, room: RoomNid, limit: usize) -> Result<Vec<OwnedEventId>, Error> {
        const FIND: &str = "SELECT event_id FROM backward_extremities WHERE room_nid = $1 LIMIT $2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0.query(FIND, args![room.0, limit]).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// The redactions that came before the events called so, which they redact: `(target, redaction)`.
    pub async fn pending_redactions(&self, targets: &[OwnedEventId]) -> Result<Vec<(OwnedEventId, EventNid)>, Error> {
        const AT_ONCE: usize = 64;
        let mut found = Vec::new();
        for chunk in targets.chunks(AT_ONCE) {
            let size = chunk.len().next_power_of_two();
            let sql = format!(
                "SELECT target_id, redaction_nid FROM pending_redactions WHERE target_id IN ({})",
                places(1, size)
            );
            let args = (0..size).map(|at| Arg::from(chunk[at.min(chunk.len() - 1)].as_str())).collect();
            for row in self.0.query(sql, args).await? {
                found.push((row.parse(0)?, EventNid(row.int(1)?)));
            }
        }
        Ok(found)
    }

    /// A stretch of a room's timeline, rejected events left out.
    ///
    /// `Forward`: the oldest `limit` events after `from` and up to `to`, oldest first. `Backward`: the latest `limit`
    /// events up to `from` and after `to`, latest first. `to` of `None`: without end.
    pub async fn timeline(
        &self,
        room: RoomNid,
        from: Position,
        to: Option<Position>,
        limit: usize,
        direction: Direction,
    ) -> Result<Vec<Arc<TimelineEvent>>, Error> {
        let (sql, to) = match direction {
            Direction::Forward => (
                const_format(
                    COLUMNS,
                    "WHERE room_nid = $1 AND position > $2 AND position <= $3 AND rejected_at IS NULL
                     ORDER BY position LIMIT $4",
                ),
                to.map_or(i64::MAX, |to| to.0),
            ),
            Direction::Backward => (
                const_format(
                    COLUMNS,
                    "WHERE room_nid = $1 AND position <= $2 AND position > $3 AND rejected_at IS NULL
                     ORDER BY position DESC LIMIT $4",
                ),
                to.map_or(i64::MIN, |to| to.0),
            ),
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0.query(sql, args![room.0, from.0, to, limit]).await?.iter().map(event).collect()
    }

    /// The position of the room's latest event.
    pub async fn latest_position(&self, room: RoomNid) -> Result<Option<Position>, Error> {
        const LATEST: &str = "
            SELECT position
            FROM events
            WHERE room_nid = $1 AND position IS NOT NULL
            ORDER BY position DESC
            LIMIT 1";
        let rows = self.0.query(LATEST, args![room.0]).await?;
        rows.first().map(|row| row.int(0).map(Position)).transpose()
    }

    /// The number of the room's latest event; 0: it has none.
    pub async fn latest_seq(&self, room: RoomNid) -> Result<i64, Error> {
        const LATEST: &str = "
            SELECT seq
            FROM events
            WHERE room_nid = $1 AND seq IS NOT NULL
            ORDER BY seq DESC
            LIMIT 1";
        let rows = self.0.query(LATEST, args![room.0]).await?;
        Ok(rows.first().map(|row| row.int(0)).transpose()?.unwrap_or_default())
    }

    /// The event that has this number in the room.
    pub async fn by_seq(&self, room: RoomNid, seq: i64) -> Result<Option<Arc<TimelineEvent>>, Error> {
        let sql = const_format(COLUMNS, "WHERE room_nid = $1 AND seq = $2");
        self.0.query(sql, args![room.0, seq]).await?.first().map(event).transpose()
    }

    /// The latest events made at or before a moment (`Backward`, latest first), or the first made at or after it
    /// (`Forward`, oldest first), as far as they became visible by `upto`.
    pub async fn nearest(
        &self,
        room: RoomNid,
        moment: Millis,
        upto: Position,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Arc<TimelineEvent>>, Error> {
        let sql = match direction {
            Direction::Forward => const_format(
                COLUMNS,
                "WHERE room_nid = $1 AND position <= $2 AND rejected_at IS NULL AND origin_server_ts >= $3
                 ORDER BY origin_server_ts, position LIMIT $4",
            ),
            Direction::Backward => const_format(
                COLUMNS,
                "WHERE room_nid = $1 AND position <= $2 AND rejected_at IS NULL AND origin_server_ts <= $3
                 ORDER BY origin_server_ts DESC, position DESC LIMIT $4",
            ),
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0.query(sql, args![room.0, upto.0, moment, limit]).await?.iter().map(event).collect()
    }

    /// What a transaction was answered before, if it was.
    pub async fn transaction(&self, transaction: &Transaction<'_>) -> Result<Option<String>, Error> {
        const FIND: &str = "
            SELECT answer
            FROM transactions
            WHERE user_id = $1 AND device_id = $2 AND scope = $3 AND transaction_id = $4";
        let rows = self
            .0
            .query(
                FIND,
                args![
                    transaction.user_id.as_str(),
                    transaction.device_id,
                    transaction.scope,
                    transaction.transaction_id
                ],
            )
            .await?;
        rows.first().map(|row| row.text(0)).transpose()
    }

    /// The events that relate to another, by position.
    pub async fn relations(&self, wanted: Relations<'_>) -> Result<Vec<Arc<TimelineEvent>>, Error> {
        // What was redacted relates to nothing any more. The narrowing goes by what an event itself is, not by the way
        // that leads to it.
        const DIRECT: &str = "
            WITH related (event_nid, rel_type, type, position) AS (
                SELECT event_nid, rel_type, type, position
                FROM relations
                WHERE room_nid = $1 AND parent_id = $2
            )";
        const INDIRECT: &str = "
            WITH RECURSIVE related (event_nid, rel_type, type, position, depth) AS (
                SELECT event_nid, rel_type, type, position, CAST(1 AS BIGINT)
                FROM relations
                WHERE room_nid = $1 AND parent_id = $2
                UNION
                SELECT r.event_nid, r.rel_type, r.type, r.position, related.depth + 1
                FROM related
                JOIN events e ON e.nid = related.event_nid
                JOIN relations r ON r.room_nid = $1 AND r.parent_id = e.event_id
                WHERE related.depth < 3
            )";
        const FORWARD: &str = "
            SELECT DISTINCT related.event_nid, related.position
            FROM related
            JOIN events e ON e.nid = related.event_nid AND e.redacted_by IS NULL
            WHERE ($3 = '' OR related.rel_type = $3) AND ($4 = '' OR related.type = $4)
                AND related.position > $5 AND related.position <= $6
            ORDER BY related.position
            LIMIT $7";
        const BACKWARD: &str = "
            SELECT DISTINCT related.event_nid, related.position
            FROM related
            JOIN events e ON e.nid = related.event_nid AND e.redacted_by IS NULL
            WHERE ($3 = '' OR related.rel_type = $3) AND ($4 = '' OR related.type = $4)
                AND related.position <= $5 AND related.position > $6
            ORDER BY related.position DESC
            LIMIT $7";
        let related = if wanted.recurse { INDIRECT } else { DIRECT };
        let (sql, end) = match wanted.direction {
            Direction::Forward => (format!("{related}{FORWARD}"), i64::MAX),
            Direction::Backward => (format!("{related}{BACKWARD}"), i64::MIN),
        };
        let args = args![
            wanted.room.0,
            wanted.parent.as_str(),
            wanted.rel_type.unwrap_or_default(),
            wanted.kind.unwrap_or_default(),
            wanted.from.0,
            wanted.to.map_or(end, |to| to.0),
            i64::try_from(wanted.limit).unwrap_or(i64::MAX),
        ];
        let rows = self.0.query(sql, args).await?;
        let nids: Vec<EventNid> = rows.iter().map(|row| row.int(0).map(EventNid)).collect::<Result<_, _>>()?;
        let mut events = self.by_nids(&nids).await?;
        events.sort_by_key(|event| event.position);
        if wanted.direction == Direction::Backward {
            events.reverse();
        }
        Ok(events)
    }
}

/// The columns, and which rows.
fn const_format(columns: &'static str, rest: &'static str) -> String {
    format!("{columns} {rest}")
}
