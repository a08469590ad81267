//! What a sync looks up when memory doesn't reach back far enough, or a room is new to its reader.

use std::collections::BTreeMap;

use model::{EventNid, Position, RoomNid, SnapshotNid, StateKey};
use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use crate::{Error, Row, Store, args};

/// Reads for syncs.
pub struct SyncReads<'a>(pub(crate) &'a Store);

impl SyncReads<'_> {
    /// Of the rooms that `user_id` has joined, those with events after `since`, with the position of the latest.
    pub async fn rooms_since(&self, user_id: &UserId, since: Position) -> Result<Vec<(RoomNid, Position)>, Error> {
        const ROOMS: &str = "
            SELECT m.room_nid, CAST(MAX(e.position) AS BIGINT)
            FROM memberships m
            JOIN events e ON e.room_nid = m.room_nid AND e.position > $2
            WHERE m.user_id = $1 AND m.membership = 'join'
            GROUP BY m.room_nid";
        let rows = self.0.query(ROOMS, args![user_id.as_str(), since]).await?;
        rows.iter().map(|row| Ok((RoomNid(row.int(0)?), Position(row.int(1)?)))).collect()
    }

    /// How many events have come after `since` into the rooms that `user_id` has joined. Counts no further than `limit`.
    pub async fn count_since(&self, user_id: &UserId, since: Position, limit: usize) -> Result<usize, Error> {
        const COUNT: &str = "
            SELECT CAST(COUNT(*) AS BIGINT)
            FROM (
                SELECT e.position
                FROM memberships m
                JOIN events e ON e.room_nid = m.room_nid AND e.position > $2
                WHERE m.user_id = $1 AND m.membership = 'join'
                LIMIT $3
            ) AS missed";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.0.query(COUNT, args![user_id.as_str(), since, limit]).await?;
        let count = rows.first().map(|row| row.int(0)).transpose()?.unwrap_or_default();
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// The first `limit` members of the room after whom it may be called: joined or invited, or, if there is nobody, those
    /// who were. `reader` is not among them, nor whose coming was withheld from people when it happened.
    pub async fn heroes(&self, room: RoomNid, reader: &UserId, limit: i64) -> Result<Vec<OwnedUserId>, Error> {
        const PRESENT: &str = "
            SELECT user_id
            FROM memberships m
            WHERE room_nid = $1 AND user_id <> $2 AND membership IN ('join', 'invite')
                AND NOT EXISTS (SELECT 1 FROM events e WHERE e.nid = m.event_nid AND e.withheld_below IS NOT NULL)
            ORDER BY position
            LIMIT $3";
        const GONE: &str = "
            SELECT user_id
            FROM memberships
            WHERE room_nid = $1 AND user_id <> $2 AND membership IN ('leave', 'ban')
            ORDER BY position
            LIMIT $3";
        let args = args![room.0, reader.as_str(), limit];
        let mut rows = self.0.query(PRESENT, args.clone()).await?;
        if rows.is_empty() {
            rows = self.0.query(GONE, args).await?;
        }
        rows.iter().map(|row| row.parse(0)).collect()
    }

    /// Whether the room has a name, or an alias that it goes by.
    pub async fn is_named(&self, room: RoomNid) -> Result<bool, Error> {
        const NAMES: &str = "
            SELECT e.json
            FROM current_state c
            JOIN events e ON e.nid = c.event_nid
            WHERE c.room_nid = $1 AND c.type IN ('m.room.name', 'm.room.canonical_alias') AND c.state_key = ''";
        #[derive(serde::Deserialize)]
        struct Event {
            content: Content,
        }
        #[derive(serde::Deserialize)]
        struct Content {
            #[serde(default, alias = "alias")]
            name: Option<String>,
        }
        for row in self.0.query(NAMES, args![room.0]).await? {
            let event = serde_json::from_str::<Event>(&row.text(0)?);
            if event.is_ok_and(|event| event.content.name.is_some_and(|name| !name.is_empty())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who is joined to the room.
    pub async fn joined_users(&self, room: RoomNid) -> Result<Vec<OwnedUserId>, Error> {
        const JOINED: &str = "SELECT user_id FROM memberships WHERE room_nid = $1 AND membership = 'join'";
        self.0.query(JOINED, args![room.0]).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// Those who share a room with `reader` and whose devices changed after `since` and up to `upto`.
    pub async fn device_list_changes(
        &self,
        reader: &UserId,
        since: Position,
        upto: Position,
    ) -> Result<Vec<OwnedUserId>, Error> {
        const CHANGES: &str = "
            SELECT DISTINCT c.user_id
            FROM device_list_changes c
            WHERE c.position > $2 AND c.position <= $3 AND (c.user_id = $1 OR EXISTS (
                SELECT 1
                FROM memberships b
                JOIN memberships a ON a.room_nid = b.room_nid AND a.user_id = $1 AND a.membership = 'join'
                WHERE b.user_id = c.user_id AND b.membership = 'join'))";
        let rows = self.0.query(CHANGES, args![reader.as_str(), since, upto]).await?;
        rows.iter().map(|row| row.parse(0)).collect()
    }

    /// The membership events of a room after `since` and up to `upto`: whose, and which event, earliest first.
    pub async fn membership_changes(
        &self,
        room: RoomNid,
        since: Position,
        upto: Position,
    ) -> Result<Vec<(OwnedUserId, EventNid)>, Error> {
        const CHANGES: &str = "
            SELECT state_key, nid
            FROM events
            WHERE room_nid = $1 AND position > $2 AND position <= $3 AND type = 'm.room.member'
                AND state_key IS NOT NULL AND rejected_at IS NULL AND soft_failed_at IS NULL
            ORDER BY position";
        let rows = self.0.query(CHANGES, args![room.0, since, upto]).await?;
        // A member event for what is no user id was never allowed; whoever reads skips it.
        Ok(rows
            .iter()
            .map(|row| Ok((row.text(0)?, EventNid(row.int(1)?))))
            .collect::<Result<Vec<_>, Error>>()?
            .into_iter()
            .filter_map(|(user_id, nid)| Some((user_id.try_into().ok()?, nid)))
            .collect())
    }

    /// The memberships of a room that were the latest after `since`: who, and what.
    pub async fn memberships_since(
        &self,
        room: RoomNid,
        since: Position,
    ) -> Result<Vec<(OwnedUserId, MembershipState)>, Error> {
        const SINCE: &str = "SELECT user_id, membership FROM memberships WHERE room_nid = $1 AND position > $2";
        let rows = self.0.query(SINCE, args![room.0, since]).await?;
        rows.iter().map(|row| Ok((row.parse(0)?, row.text(1)?.into()))).collect()
    }

    /// By what a snapshot differs from its parent, and which that is. `None`: it is a whole one.
    pub async fn state_change(
        &self,
        snapshot: SnapshotNid,
    ) -> Result<Option<(SnapshotNid, Vec<(StateKey, EventNid)>)>, Error> {
        const PARENT: &str = "SELECT parent_nid FROM state_snapshots WHERE nid = $1";
        const ENTRIES: &str = "
            SELECT e.type, e.state_key, e.nid
            FROM state_entries se
            JOIN events e ON e.nid = se.event_nid
            WHERE se.snapshot_nid = $1";
        let rows = self.0.query(PARENT, args![snapshot.0]).await?;
        let Some(parent) = rows.first().map(|row| row.opt_int(0)).transpose()?.flatten() else { return Ok(None) };
        let rows = self.0.query(ENTRIES, args![snapshot.0]).await?;
        let entry = |row: &Row| Ok(((row.text(0)?.into(), row.text(1)?), EventNid(row.int(2)?)));
        Ok(Some((SnapshotNid(parent), rows.iter().map(entry).collect::<Result<_, Error>>()?)))
    }

    /// How many one-time keys a device has left, by algorithm.
    pub async fn one_time_key_counts(&self, user_id: &UserId, device_id: &str) -> Result<BTreeMap<String, u64>, Error> {
        const COUNTS: &str = "
            SELECT algorithm, CAST(COUNT(*) AS BIGINT)
            FROM one_time_keys
            WHERE user_id = $1 AND device_id = $2 AND claim IS NULL
            GROUP BY algorithm";
        let rows = self.0.query(COUNTS, args![user_id.as_str(), device_id]).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?.unsigned_abs()))).collect()
    }

    /// For which algorithms a device has a fallback key that was never given out.
    pub async fn unused_fallback_keys(&self, user_id: &UserId, device_id: &str) -> Result<Vec<String>, Error> {
        const UNUSED: &str = "
            SELECT algorithm
            FROM fallback_keys
            WHERE user_id = $1 AND device_id = $2 AND used_at IS NULL
            ORDER BY algorithm";
        self.0.query(UNUSED, args![user_id.as_str(), device_id]).await?.iter().map(|row| row.text(0)).collect()
    }
}
