//! What other servers are still owed.

use std::sync::Arc;

use model::{Change, EventNid, Millis, Position, RoomNid};
use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::{Arg, Error, Row, Store, Table, Write, args, places};

static OUTBOX: Table = Table {
    insert: "INSERT INTO outbox (destination, position, event_nid)",
    columns: 3,
    conflict: "ON CONFLICT DO NOTHING",
    key: 2,
};

static TO_DEVICE: Table =
    Table { insert: "INSERT INTO outbox_to_device (destination, position, content)", columns: 3, conflict: "", key: 0 };

static KEYS: Table = Table {
    insert: "INSERT INTO outbox_keys (destination, user_id, device_id, position)",
    columns: 4,
    conflict: "ON CONFLICT (destination, user_id, device_id) DO UPDATE SET position = excluded.position",
    key: 3,
};

static TRANSACTIONS: Table = Table {
    insert: "INSERT INTO outbox_transactions (destination, content)",
    columns: 2,
    conflict: "ON CONFLICT (destination) DO UPDATE SET content = excluded.content",
    key: 1,
};

/// Owes `destination` an event that becomes visible at `position`.
pub fn push(write: &mut Write, destination: &ServerName, position: Arg, event: EventNid) {
    let mut row = args![destination.as_str()];
    row.push(position);
    row.extend(args![event.0]);
    write.insert(&OUTBOX, row);
}

/// Owes `destination` messages to devices, and tells so. `content`: of one `m.direct_to_device`.
pub fn push_to_device(write: &mut Write, destination: &ServerName, content: &str) {
    let position = write.tell_next(Change::Outgoing { destinations: [destination.to_owned()].into() });
    let mut row = args![destination.as_str()];
    row.push(position);
    row.extend(args![content]);
    write.insert(&TO_DEVICE, row);
}

/// Owes `destination` the keys of a user's device as they are when it hears of them; of no device: the cross-signing keys.
pub fn push_keys(
    write: &mut Write,
    destination: &ServerName,
    user_id: &UserId,
    device_id: Option<&str>,
    position: Arg,
) {
    let mut row = args![destination.as_str(), user_id.as_str(), device_id.unwrap_or_default()];
    row.push(position);
    write.insert(&KEYS, row);
}

// === what has been delivered ===

/// `destination` has every event up to `upto`.
pub fn delivered(write: &mut Write, destination: &ServerName, upto: Position) {
    const DELIVERED: &str = "DELETE FROM outbox WHERE destination = $1 AND position <= $2";
    write.run(DELIVERED, args![destination.as_str(), upto]);
}

/// `destination` has the event of `room` at `upto`, from which it finds those before it.
pub fn delivered_room(write: &mut Write, destination: &ServerName, room: RoomNid, upto: Position) {
    // The room's events are looked at from the first that is owed on, or a long outage would be counted again for each room.
    const DELIVERED: &str = "
        DELETE FROM outbox
        WHERE destination = $1 AND position IN (
            SELECT position
            FROM events
            WHERE room_nid = $2 AND position <= $3
                AND position >= (SELECT MIN(o.position) FROM outbox o WHERE o.destination = $1))";
    write.run(DELIVERED, args![destination.as_str(), room.0, upto]);
}

/// `destination` has every message to devices up to `upto`.
pub fn delivered_to_device(write: &mut Write, destination: &ServerName, upto: Position) {
    const DELIVERED: &str = "DELETE FROM outbox_to_device WHERE destination = $1 AND position <= $2";
    write.run(DELIVERED, args![destination.as_str(), upto]);
}

/// `destination` has the keys that changed up to `upto`.
pub fn delivered_keys(write: &mut Write, destination: &ServerName, upto: Position) {
    const DELIVERED: &str = "DELETE FROM outbox_keys WHERE destination = $1 AND position <= $2";
    write.run(DELIVERED, args![destination.as_str(), upto]);
}

/// Keeps a transaction of which nobody knows whether it arrived.
pub fn put_transaction(write: &mut Write, destination: &ServerName, content: &str) {
    write.insert(&TRANSACTIONS, args![destination.as_str(), content]);
}

/// The transaction arrived.
pub fn remove_transaction(write: &mut Write, destination: &ServerName) {
    write.run("DELETE FROM outbox_transactions WHERE destination = $1", args![destination.as_str()]);
}

// === reading ===

/// An event that a server is owed.
#[derive(Clone, Debug)]
pub struct OwedPdu {
    /// Its place in the queue.
    pub position: Position,
    /// Its number.
    pub nid: EventNid,
    /// Its room's number.
    pub room: RoomNid,
    /// Its id.
    pub event_id: OwnedEventId,
    /// When it was made.
    pub made_at: Millis,
    /// As it is stored.
    pub json: Arc<str>,
}

/// Whose keys a server is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedKeys {
    /// When they changed.
    pub position: Position,
    /// Whose.
    pub user_id: OwnedUserId,
    /// Of which device; `None`: the cross-signing keys.
    pub device_id: Option<String>,
}

/// What a server is owed, each in order.
#[derive(Clone, Debug, Default)]
pub struct Owed {
    /// Events.
    pub pdus: Vec<OwedPdu>,
    /// The contents of `m.direct_to_device`.
    pub to_device: Vec<(Position, String)>,
    /// Keys.
    pub keys: Vec<OwedKeys>,
    /// How far the events were read: past the last of `pdus` when an event is missing that was owed.
    pub pdus_upto: Position,
}

/// From where on, and how many at most, of each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stretch {
    /// Events.
    pub pdus: (Position, i64),
    /// Messages to devices.
    pub to_device: (Position, i64),
    /// Keys.
    pub keys: (Position, i64),
}

/// Reads what is owed.
pub struct Outbox<'a>(&'a Store);

impl Store {
    /// Reads what other servers are owed.
    pub fn outbox(&self) -> Outbox<'_> {
        Outbox(self)
    }
}

impl Outbox<'_> {
    /// Every server that is owed something.
    pub async fn destinations(&self) -> Result<Vec<OwnedServerName>, Error> {
        // From name to name by the index: the rows of one server may be a million.
        const DESTINATIONS: &str = "
            WITH RECURSIVE
            of_events (name) AS (
                SELECT MIN(destination) FROM outbox
                UNION ALL
                SELECT (SELECT MIN(o.destination) FROM outbox o WHERE o.destination > of_events.name)
                FROM of_events WHERE of_events.name IS NOT NULL),
            of_to_device (name) AS (
                SELECT MIN(destination) FROM outbox_to_device
                UNION ALL
                SELECT (SELECT MIN(o.destination) FROM outbox_to_device o WHERE o.destination > of_to_device.name)
                FROM of_to_device WHERE of_to_device.name IS NOT NULL),
            of_keys (name) AS (
                SELECT MIN(destination) FROM outbox_keys
                UNION ALL
                SELECT (SELECT MIN(o.destination) FROM outbox_keys o WHERE o.destination > of_keys.name)
                FROM of_keys WHERE of_keys.name IS NOT NULL)
            SELECT name FROM of_events WHERE name IS NOT NULL
            UNION
            SELECT name FROM of_to_device WHERE name IS NOT NULL
            UNION
            SELECT name FROM of_keys WHERE name IS NOT NULL";
        self.0.query(DESTINATIONS, Vec::new()).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// What `destination` is owed, in one question.
    pub async fn owed(&self, destination: &ServerName, stretch: Stretch) -> Result<Owed, Error> {
        const OWED: &str = "
            SELECT a.what, a.position, a.nid, a.room_nid, a.at, a.one, a.other
            FROM (
                SELECT CAST(0 AS BIGINT) AS what, o.position AS position, e.nid AS nid, e.room_nid AS room_nid,
                    e.origin_server_ts AS at, e.event_id AS one, e.json AS other
                FROM outbox o
                LEFT JOIN events e ON e.nid = o.event_nid
                WHERE o.destination = $1 AND o.position > $2
                ORDER BY o.position
                LIMIT $3) a
            UNION ALL
            SELECT b.what, b.position, b.nid, b.room_nid, b.at, b.one, b.other
            FROM (
                SELECT CAST(1 AS BIGINT) AS what, position, CAST(NULL AS BIGINT) AS nid, CAST(NULL AS BIGINT) AS room_nid,
                    CAST(NULL AS BIGINT) AS at, CAST(NULL AS TEXT) AS one, content AS other
                FROM outbox_to_device
                WHERE destination = $1 AND position > $4
                ORDER BY position
                LIMIT $5) b
            UNION ALL
            SELECT c.what, c.position, c.nid, c.room_nid, c.at, c.one, c.other
            FROM (
                SELECT CAST(2 AS BIGINT) AS what, position, CAST(NULL AS BIGINT) AS nid, CAST(NULL AS BIGINT) AS room_nid,
                    CAST(NULL AS BIGINT) AS at, user_id AS one, device_id AS other
                FROM outbox_keys
                WHERE destination = $1 AND position > $6
                ORDER BY position
                LIMIT $7) c";
        let Stretch { pdus, to_device, keys } = stretch;
        let args = args![destination.as_str(), pdus.0, pdus.1, to_device.0, to_device.1, keys.0, keys.1];
        let mut owed = Owed { pdus_upto: pdus.0, ..Owed::default() };
        for row in self.0.query(OWED, args).await? {
            let position = Position(row.int(1)?);
            match row.int(0)? {
                0 => {
                    owed.pdus_upto = owed.pdus_upto.max(position);
                    if row.opt_int(2)?.is_some() {
                        owed.pdus.push(pdu(&row)?);
                    }
                }
                1 => owed.to_device.push((position, row.text(6)?)),
                _ => {
                    let device_id = Some(row.text(6)?).filter(|device_id| !device_id.is_empty());
                    owed.keys.push(OwedKeys { position, user_id: row.parse(5)?, device_id });
                }
            }
        }
        owed.pdus.sort_unstable_by_key(|pdu| pdu.position);
        owed.to_device.sort_unstable_by_key(|(position, _)| *position);
        owed.keys.sort_unstable_by_key(|keys| keys.position);
        Ok(owed)
    }

    /// These events, as far as they are owed still.
    pub async fn pdus_at(&self, destination: &ServerName, positions: &[Position]) -> Result<Vec<OwedPdu>, Error> {
        const AT_ONCE: usize = 64;
        let mut found = Vec::with_capacity(positions.len());
        for chunk in positions.chunks(AT_ONCE) {
            let sql = format!(
                "
                SELECT 0, o.position, e.nid, e.room_nid, e.origin_server_ts, e.event_id, e.json
                FROM outbox o
                JOIN events e ON e.nid = o.event_nid
                WHERE o.destination = $1 AND o.position IN ({})
                ORDER BY o.position",
                places(2, chunk.len())
            );
            let mut args = args![destination.as_str()];
            args.extend(chunk.iter().map(|position| Arg::from(*position)));
            for row in self.0.query(sql, args).await? {
                found.push(pdu(&row)?);
            }
        }
        Ok(found)
    }

    /// Of the rooms of which `destination` is owed something up to `upto`, the latest event that it is owed: the `limit`
    /// rooms in which something happened last, latest first.
    pub async fn latest_of_rooms(
        &self,
        destination: &ServerName,
        upto: Position,
        limit: i64,
    ) -> Result<Vec<Position>, Error> {
        const LATEST: &str = "
            SELECT CAST(MAX(o.position) AS BIGINT) AS latest
            FROM outbox o
            JOIN events e ON e.nid = o.event_nid
            WHERE o.destination = $1
            GROUP BY e.room_nid
            HAVING MIN(o.position) <= $2
            ORDER BY latest DESC
            LIMIT $3";
        let rows = self.0.query(LATEST, args![destination.as_str(), upto, limit]).await?;
        rows.iter().map(|row| row.int(0).map(Position)).collect()
    }

    /// The position of the last event that `destination` is owed, if it is owed more than `count` beyond `after`.
    pub async fn more_than(
        &self,
        destination: &ServerName,
        after: Position,
        count: i64,
    ) -> Result<Option<Position>, Error> {
        const BEYOND: &str = "
            SELECT position FROM outbox
            WHERE destination = $1 AND position > $2
            ORDER BY position LIMIT 1 OFFSET $3";
        const LAST: &str = "SELECT position FROM outbox WHERE destination = $1 ORDER BY position DESC LIMIT 1";
        if self.0.query(BEYOND, args![destination.as_str(), after, count]).await?.is_empty() {
            return Ok(None);
        }
        let rows = self.0.query(LAST, args![destination.as_str()]).await?;
        rows.first().map(|row| row.int(0).map(Position)).transpose()
    }

    /// The transaction of which nobody knows whether it arrived.
    pub async fn transaction(&self, destination: &ServerName) -> Result<Option<String>, Error> {
        const FIND: &str = "SELECT content FROM outbox_transactions WHERE destination = $1";
        let rows = self.0.query(FIND, args![destination.as_str()]).await?;
        rows.first().map(|row| row.text(0)).transpose()
    }

    /// How many events all servers together are owed.
    pub async fn length(&self) -> Result<u64, Error> {
        const COUNT: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM outbox";
        let rows = self.0.query(COUNT, Vec::new()).await?;
        Ok(rows.first().ok_or_else(|| Error::Corrupt("a count has no row".into()))?.int(0)?.unsigned_abs())
    }
}

fn pdu(row: &Row) -> Result<OwedPdu, Error> {
    Ok(OwedPdu {
        position: Position(row.int(1)?),
        nid: EventNid(row.int(2)?),
        room: RoomNid(row.int(3)?),
        made_at: row.int(4)?,
        event_id: row.parse(5)?,
        json: row.text(6)?.into(),
    })
}

#[cfg(test)]
mod tests;
