//! The states that rooms were in: each a few changes to an earlier one, whole every so often.

use model::{EventNid, RoomNid, SnapshotNid, StateKey, StateMap};

use crate::{Error, Row, Store, Table, Write, args};

static SNAPSHOTS: Table = Table {
    insert: "INSERT INTO state_snapshots (nid, room_nid, parent_nid, chain)",
    columns: 4,
    conflict: "",
    key: 0,
};
static ENTRIES: Table =
    Table { insert: "INSERT INTO state_entries (snapshot_nid, event_nid)", columns: 2, conflict: "", key: 0 };
static CURRENT: Table = Table {
    insert: "INSERT INTO current_state (room_nid, type, state_key, event_nid)",
    columns: 4,
    conflict: "ON CONFLICT (room_nid, type, state_key) DO UPDATE SET event_nid = excluded.event_nid",
    key: 3,
};

/// Adds a state that differs from `parent` by `entries`; without a parent, `entries` are all of it.
pub fn insert_snapshot(
    write: &mut Write,
    nid: SnapshotNid,
    room: RoomNid,
    parent: Option<SnapshotNid>,
    chain: i64,
    entries: impl IntoIterator<Item = EventNid>,
) {
    write.insert(&SNAPSHOTS, args![nid.0, room.0, parent.map(|parent| parent.0), chain]);
    for event in entries {
        write.insert(&ENTRIES, args![nid.0, event.0]);
    }
}

/// Sets what holds now for `key`.
pub fn put_current(write: &mut Write, room: RoomNid, key: &StateKey, event: EventNid) {
    write.insert(&CURRENT, args![room.0, key.0.to_string(), key.1.as_str(), event.0]);
}

/// Nothing holds any more for `key`.
pub fn remove_current(write: &mut Write, room: RoomNid, key: &StateKey) {
    const REMOVE: &str = "DELETE FROM current_state WHERE room_nid = $1 AND type = $2 AND state_key = $3";
    write.run(REMOVE, args![room.0, key.0.to_string(), key.1.as_str()]);
}

/// Reads states.
pub struct State<'a>(pub(crate) &'a Store);

impl State<'_> {
    /// The whole of a snapshot.
    pub async fn at(&self, snapshot: SnapshotNid) -> Result<StateMap, Error> {
        // From the nearest whole one on; what is nearer to the snapshot wins.
        const AT: &str = "
            WITH RECURSIVE way (nid, parent_nid, distance) AS (
                SELECT nid, parent_nid, CAST(0 AS BIGINT)
                FROM state_snapshots
                WHERE nid = $1
                UNION ALL
                SELECT s.nid, s.parent_nid, way.distance + 1
                FROM state_snapshots s
                JOIN way ON s.nid = way.parent_nid
            )
            SELECT e.type, e.state_key, e.nid
            FROM way
            JOIN state_entries se ON se.snapshot_nid = way.nid
            JOIN events e ON e.nid = se.event_nid
            ORDER BY way.distance DESC";
        let rows = self.0.query(AT, args![snapshot.0]).await?;
        rows.iter().map(entry).collect()
    }

    /// What holds in the room now.
    pub async fn current(&self, room: RoomNid) -> Result<StateMap, Error> {
        const CURRENT: &str = "SELECT type, state_key, event_nid FROM current_state WHERE room_nid = $1";
        let rows = self.0.query(CURRENT, args![room.0]).await?;
        rows.iter().map(entry).collect()
    }

    /// How many parents lie between the snapshot and a whole one.
    pub async fn chain(&self, snapshot: SnapshotNid) -> Result<i64, Error> {
        let rows = self.0.query("SELECT chain FROM state_snapshots WHERE nid = $1", args![snapshot.0]).await?;
        rows.first().ok_or_else(|| Error::Corrupt(format!("snapshot {snapshot} is missing")))?.int(0)
    }
}

fn entry(row: &Row) -> Result<(StateKey, EventNid), Error> {
    Ok(((row.text(0)?.into(), row.text(1)?), EventNid(row.int(2)?)))
}
