//! Rooms, and who is in them.

use model::{EventNid, Position, RoomNid, SnapshotNid};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};

use crate::{Arg, Error, RoomVersion, Row, Store, Table, Write, args, places};

/// A room as it is stored.
#[derive(Clone, Debug)]
pub struct RoomRow {
    /// Its number.
    pub nid: RoomNid,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Which rules it obeys.
    pub room_version: RoomVersionId,
    /// Its latest write.
    pub version: RoomVersion,
    /// The events that none follows yet, with their depths.
    pub extremities: Vec<(OwnedEventId, i64)>,
    /// Its state now.
    pub snapshot: SnapshotNid,
}

#[derive(Serialize, Deserialize)]
struct Head {
    extremities: Vec<(OwnedEventId, i64)>,
}

static ROOMS: Table = Table {
    insert: "INSERT INTO rooms (nid, room_id, room_version, version, head_nid, head, snapshot_nid)",
    columns: 7,
    conflict: "ON CONFLICT (nid) DO UPDATE
        SET version = excluded.version, head_nid = excluded.head_nid, head = excluded.head, snapshot_nid = excluded.snapshot_nid",
    key: 1,
};

/// Adds a room as it is after `write`, which is also what makes a new room.
pub fn put_room(write: &mut Write, room: &RoomRow) {
    let head = serde_json::to_string(&Head { extremities: room.extremities.clone() }).expect("ids are plain text");
    write.insert(
        &ROOMS,
        args![
            room.nid.0,
            room.room_id.as_str(),
            room.room_version.as_str(),
            room.version.count,
            room.version.head.0,
            head,
            room.snapshot.0
        ],
    );
}

/// What a user is to a room.
#[derive(Clone, Debug)]
pub struct MembershipRow {
    /// The room.
    pub room_nid: RoomNid,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The member.
    pub user_id: OwnedUserId,
    /// join, invite, knock, leave or ban.
    pub membership: MembershipState,
    /// Who made it so.
    pub sender: OwnedUserId,
    /// The `m.room.member` event.
    pub event_nid: EventNid,
    /// When it became so.
    pub position: Position,
    /// As the event says.
    pub display_name: Option<String>,
    /// As the event says.
    pub avatar_url: Option<String>,
    /// The user wants to hear no more of the room.
    pub forgotten: bool,
}

static MEMBERSHIPS: Table = Table {
    insert: "INSERT INTO memberships (room_nid, user_id, membership, sender, event_nid, position, display_name, avatar_url, server)",
    columns: 9,
    conflict: "ON CONFLICT (room_nid, user_id) DO UPDATE
        SET membership = excluded.membership, sender = excluded.sender, event_nid = excluded.event_nid,
            position = excluded.position, display_name = excluded.display_name, avatar_url = excluded.avatar_url,
            forgotten_at = NULL",
    key: 2,
};

/// Sets what `user_id` is to a room.
#[allow(clippy::too_many_arguments, reason = "a row has its columns")]
pub fn put_membership(
    write: &mut Write,
    room: RoomNid,
    user_id: &str,
    membership: &MembershipState,
    sender: &UserId,
    event: EventNid,
    position: Arg,
    display_name: Option<&str>,
    avatar_url: Option<&str>,
) {
    let mut row = args![room.0, user_id, membership.as_str(), sender.as_str(), event.0];
    row.push(position);
    let server = user_id.split_once(':').map(|(_, server)| server);
    row.extend(args![display_name, avatar_url, server]);
    write.insert(&MEMBERSHIPS, row);
}

/// The room no longer knows of `user_id`.
pub fn remove_membership(write: &mut Write, room: RoomNid, user_id: &str) {
    const REMOVE: &str = "DELETE FROM memberships WHERE room_nid = $1 AND user_id = $2";
    write.run(REMOVE, args![room.0, user_id]);
}

/// Reads rooms.
pub struct Rooms<'a>(pub(crate) &'a Store);

const MEMBERSHIP_COLUMNS: &str = "
    SELECT m.room_nid, r.room_id, m.user_id, m.membership, m.sender, m.event_nid, m.position, m.display_name,
        m.avatar_url, m.forgotten_at
    FROM memberships m
    JOIN rooms r ON r.nid = m.room_nid";

fn membership(row: &Row) -> Result<MembershipRow, Error> {
    Ok(MembershipRow {
        room_nid: RoomNid(row.int(0)?),
        room_id: row.parse(1)?,
        user_id: row.parse(2)?,
        membership: row.text(3)?.into(),
        sender: row.parse(4)?,
        event_nid: EventNid(row.int(5)?),
        position: Position(row.int(6)?),
        display_name: row.opt_text(7)?,
        avatar_url: row.opt_text(8)?,
        forgotten: row.opt_int(9)?.is_some(),
    })
}

impl Rooms<'_> {
    /// The room called `room_id`.
    pub async fn find(&self, room_id: &RoomId) -> Result<Option<RoomRow>, Error> {
        const FIND: &str = "
            SELECT nid, room_id, room_version, version, head, snapshot_nid, head_nid
            FROM rooms
            WHERE room_id = $1";
        let rows = self.0.query(FIND, args![room_id.as_str()]).await?;
        rows.first().map(room).transpose()
    }

    /// The room numbered `nid`.
    pub async fn find_by_nid(&self, nid: RoomNid) -> Result<Option<RoomRow>, Error> {
        const FIND: &str = "
            SELECT nid, room_id, room_version, version, head, snapshot_nid, head_nid
            FROM rooms
            WHERE nid = $1";
        let rows = self.0.query(FIND, args![nid.0]).await?;
        rows.first().map(room).transpose()
    }

    /// What `user_id` is to the room.
    pub async fn membership(&self, room: RoomNid, user_id: &UserId) -> Result<Option<MembershipRow>, Error> {
        let sql = format!("{MEMBERSHIP_COLUMNS} WHERE m.room_nid = $1 AND m.user_id = $2");
        let rows = self.0.query(sql, args![room.0, user_id.as_str()]).await?;
        rows.first().map(membership).transpose()
    }

    /// Everything that `user_id` is or was to any room, forgotten rooms included.
    pub async fn memberships_of(&self, user_id: &UserId) -> Result<Vec<MembershipRow>, Error> {
        let sql = format!("{MEMBERSHIP_COLUMNS} WHERE m.user_id = $1 ORDER BY m.room_nid");
        self.0.query(sql, args![user_id.as_str()]).await?.iter().map(membership).collect()
    }

    /// Everybody who is `membership` to the room.
    pub async fn members(&self, room: RoomNid, membership_is: &MembershipState) -> Result<Vec<MembershipRow>, Error> {
        let sql = format!("{MEMBERSHIP_COLUMNS} WHERE m.room_nid = $1 AND m.membership = $2 ORDER BY m.position");
        self.0.query(sql, args![room.0, membership_is.as_str()]).await?.iter().map(membership).collect()
    }

    /// How many are joined and how many invited.
    pub async fn member_counts(&self, room: RoomNid) -> Result<(u64, u64), Error> {
        const COUNTS: &str = "
            SELECT CAST(COALESCE(SUM(CASE WHEN membership = 'join' THEN 1 ELSE 0 END), 0) AS BIGINT),
                CAST(COALESCE(SUM(CASE WHEN membership = 'invite' THEN 1 ELSE 0 END), 0) AS BIGINT)
            FROM memberships
            WHERE room_nid = $1";
        let rows = self.0.query(COUNTS, args![room.0]).await?;
        let row = rows.first().ok_or_else(|| Error::Corrupt("a count has no row".into()))?;
        Ok((row.int(0)?.unsigned_abs(), row.int(1)?.unsigned_abs()))
    }

    /// To how many rooms people of `server` are joined, as far as is known here.
    pub async fn count_of_server(&self, server: &ServerName) -> Result<u64, Error> {
        const COUNT: &str = "
            SELECT COUNT(DISTINCT room_nid)
            FROM memberships
            WHERE server = $1 AND membership = 'join'";
        let rows = self.0.query(COUNT, args![server.as_str()]).await?;
        let row = rows.first().ok_or_else(|| Error::Corrupt("a count has no row".into()))?;
        Ok(row.int(0)?.unsigned_abs())
    }

    /// Whether the two are joined to one room.
    pub async fn share_a_room(&self, one: &UserId, other: &UserId) -> Result<bool, Error> {
        const SHARE: &str = "
            SELECT a.room_nid
            FROM memberships a
            JOIN memberships b ON b.room_nid = a.room_nid AND b.user_id = $2 AND b.membership = 'join'
            WHERE a.user_id = $1 AND a.membership = 'join'
            LIMIT 1";
        Ok(!self.0.query(SHARE, args![one.as_str(), other.as_str()]).await?.is_empty())
    }

    /// Those among `others` who are joined to a room to which `user_id` is joined.
    pub async fn who_shares_a_room(&self, user_id: &UserId, others: &[&UserId]) -> Result<Vec<OwnedUserId>, Error> {
        let mut found = Vec::new();
        for chunk in others.chunks(500) {
            let sql = format!(
                "
                SELECT DISTINCT b.user_id
                FROM memberships b
                JOIN memberships a ON a.room_nid = b.room_nid AND a.user_id = $1 AND a.membership = 'join'
                WHERE b.membership = 'join' AND b.user_id IN ({})",
                places(2, chunk.len())
            );
            let mut args = args![user_id.as_str()];
            args.extend(chunk.iter().map(|other| Arg::from(other.as_str())));
            for row in self.0.query(sql, args).await? {
                found.push(row.parse(0)?);
            }
        }
        Ok(found)
    }

    /// Everybody who is joined to a room to which `user_id` is joined, once each, the user included.
    pub async fn users_sharing_rooms_with(&self, user_id: &UserId) -> Result<Vec<OwnedUserId>, Error> {
        const SHARING: &str = "
            SELECT DISTINCT b.user_id
            FROM memberships a
            JOIN memberships b ON b.room_nid = a.room_nid AND b.membership = 'join'
            WHERE a.user_id = $1 AND a.membership = 'join'";
        self.0.query(SHARING, args![user_id.as_str()]).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// Whether `user_id` is joined to any room that is known here.
    pub async fn is_joined_anywhere(&self, user_id: &UserId) -> Result<bool, Error> {
        const JOINED: &str = "SELECT room_nid FROM memberships WHERE user_id = $1 AND membership = 'join' LIMIT 1";
        Ok(!self.0.query(JOINED, args![user_id.as_str()]).await?.is_empty())
    }

    /// Whether `user_id` is in a room together with somebody of `server`.
    pub async fn shares_a_room_with(&self, user_id: &UserId, server: &ServerName) -> Result<bool, Error> {
        Ok(self.servers_sharing_rooms_with(user_id).await?.iter().any(|shared| shared == server))
    }

    /// The other servers with users in rooms to which `user_id` is joined.
    pub async fn servers_sharing_rooms_with(&self, user_id: &UserId) -> Result<Vec<OwnedServerName>, Error> {
        const SHARING: &str = "
            SELECT DISTINCT b.user_id
            FROM memberships a
            JOIN memberships b ON b.room_nid = a.room_nid AND b.membership = 'join'
            WHERE a.user_id = $1 AND a.membership = 'join' AND b.user_id NOT LIKE $2";
        // A server's name has neither of the characters that mean something to LIKE.
        let ours = format!("%:{}", user_id.server_name());
        let rows = self.0.query(SHARING, args![user_id.as_str(), ours]).await?;
        let mut servers = std::collections::BTreeSet::new();
        for row in &rows {
            let sharing: OwnedUserId = row.parse(0)?;
            if sharing.server_name() != user_id.server_name() {
                servers.insert(sharing.server_name().to_owned());
            }
        }
        Ok(servers.into_iter().collect())
    }

    /// Rooms that demand trust because somebody of `server` said so, from after `after` on, by number.
    pub async fn with_ceiling_of(
        &self,
        server: &ServerName,
        after: RoomNid,
        limit: i64,
    ) -> Result<Vec<(RoomNid, OwnedRoomId)>, Error> {
        // The type stands in the text, so that the index over such rows is used.
        const WITH_CEILING: &str = "
            SELECT r.nid, r.room_id
            FROM current_state c
            JOIN events e ON e.nid = c.event_nid
            JOIN rooms r ON r.nid = c.room_nid
            WHERE c.type = 'org.comity.room.trust' AND c.state_key = '' AND c.room_nid > $1 AND e.sender LIKE $2
            ORDER BY c.room_nid
            LIMIT $3";
        // A server's name has neither of the characters that mean something to LIKE.
        let of_server = format!("%:{server}");
        let rows = self.0.query(WITH_CEILING, args![after.0, of_server, limit]).await?;
        rows.iter().map(|row| Ok((RoomNid(row.int(0)?), row.parse(1)?))).collect()
    }

    /// The ids of these rooms, by number.
    pub async fn ids(&self, nids: &[RoomNid]) -> Result<Vec<(RoomNid, OwnedRoomId)>, Error> {
        let mut found = Vec::with_capacity(nids.len());
        for chunk in nids.chunks(100) {
            let sql = format!("SELECT nid, room_id FROM rooms WHERE nid IN ({})", places(1, chunk.len()));
            for row in self.0.query(sql, chunk.iter().map(|nid| Arg::Int(nid.0)).collect()).await? {
                found.push((RoomNid(row.int(0)?), row.parse(1)?));
            }
        }
        Ok(found)
    }
}

/// Marks the room as forgotten by `user_id`, if the user is out of it.
pub fn forget(write: &mut Write, room: RoomNid, user_id: &UserId, now: model::Millis) {
    const FORGET: &str = "
        UPDATE memberships
        SET forgotten_at = $3
        WHERE room_nid = $1 AND user_id = $2 AND membership IN ('leave', 'ban')";
    write.run(FORGET, args![room.0, user_id.as_str(), now]);
}

fn room(row: &Row) -> Result<RoomRow, Error> {
    let head: Head =
        serde_json::from_str(&row.text(4)?).map_err(|error| Error::Corrupt(format!("rooms.head: {error}")))?;
    Ok(RoomRow {
        nid: RoomNid(row.int(0)?),
        room_id: row.parse(1)?,
        room_version: row.parse(2)?,
        version: RoomVersion { count: row.int(3)?, head: EventNid(row.int(6)?) },
        extremities: head.extremities,
        snapshot: SnapshotNid(row.int(5)?),
    })
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;
    use crate::testing::on_each_engine_of_old;

    #[tokio::test]
    async fn rooms_of_a_server_are_counted_in_a_database_of_old_too() {
        on_each_engine_of_old(async |store| {
            // Two of a.test are in one of its two rooms.
            assert_eq!(store.rooms().count_of_server(server_name!("a.test")).await?, 2);
            assert_eq!(store.rooms().count_of_server(server_name!("b.test:8448")).await?, 0);
            let bob = user_id!("@bob:b.test:8448");
            for membership in [MembershipState::Join, MembershipState::Leave] {
                let mut write = Write::new();
                let at = Arg::Int(90);
                put_membership(&mut write, RoomNid(1), bob.as_str(), &membership, bob, EventNid(4), at, None, None);
                store.commit(write).await?;
                let count = u64::from(membership == MembershipState::Join);
                assert_eq!(store.rooms().count_of_server(server_name!("b.test:8448")).await?, count);
            }
            Ok::<_, Error>(())
        })
        .await;
    }
}
