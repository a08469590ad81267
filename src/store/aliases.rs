//! What rooms are called, and which of them the directory lists.

use model::{Millis, RoomNid};
use ruma::{OwnedRoomAliasId, OwnedUserId, RoomAliasId, UserId};

use crate::{Error, Store, Table, Write, args};

static ALIASES: Table =
    Table { insert: "INSERT INTO aliases (alias, room_nid, creator, created_at)", columns: 4, conflict: "", key: 0 };
static DIRECTORY: Table = Table {
    insert: "INSERT INTO directory (room_nid, listed_at)",
    columns: 2,
    conflict: "ON CONFLICT DO NOTHING",
    key: 1,
};

/// Calls a room `alias`. Fails with [`Error::Duplicate`] if a room is called so already.
pub fn insert(write: &mut Write, alias: &RoomAliasId, room: RoomNid, creator: &UserId, now: Millis) {
    write.insert(&ALIASES, args![alias.as_str(), room.0, creator.as_str(), now]);
}

/// No room is called `alias` any more.
pub fn remove(write: &mut Write, alias: &RoomAliasId) {
    write.run("DELETE FROM aliases WHERE alias = $1", args![alias.as_str()]);
}

/// Lists a room in the directory, or no more.
pub fn set_listed(write: &mut Write, room: RoomNid, is_listed: bool, now: Millis) {
    if is_listed {
        write.insert(&DIRECTORY, args![room.0, now]);
    } else {
        write.run("DELETE FROM directory WHERE room_nid = $1", args![room.0]);
    }
}

/// Calls `to` what `from` is called, and lists it in the directory if that is listed; `from` is neither any more.
pub fn hand_over(write: &mut Write, from: RoomNid, to: RoomNid) {
    write.run("UPDATE aliases SET room_nid = $1 WHERE room_nid = $2", args![to.0, from.0]);
    write.run(
        "UPDATE directory SET room_nid = $1
         WHERE room_nid = $2 AND NOT EXISTS (SELECT 1 FROM directory WHERE room_nid = $1)",
        args![to.0, from.0],
    );
    write.run("DELETE FROM directory WHERE room_nid = $1", args![from.0]);
}

/// Reads aliases and the directory.
pub struct Aliases<'a>(pub(crate) &'a Store);

impl Aliases<'_> {
    /// The room called `alias`, and who called it so.
    pub async fn find(&self, alias: &RoomAliasId) -> Result<Option<(RoomNid, OwnedUserId)>, Error> {
        const FIND: &str = "SELECT room_nid, creator FROM aliases WHERE alias = $1";
        let rows = self.0.query(FIND, args![alias.as_str()]).await?;
        rows.first().map(|row| Ok((RoomNid(row.int(0)?), row.parse(1)?))).transpose()
    }

    /// What a room is called.
    pub async fn of_room(&self, room: RoomNid) -> Result<Vec<OwnedRoomAliasId>, Error> {
        const OF_ROOM: &str = "SELECT alias FROM aliases WHERE room_nid = $1 ORDER BY alias";
        self.0.query(OF_ROOM, args![room.0]).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// Whether the directory lists a room.
    pub async fn is_listed(&self, room: RoomNid) -> Result<bool, Error> {
        const LISTED: &str = "SELECT room_nid FROM directory WHERE room_nid = $1";
        Ok(!self.0.query(LISTED, args![room.0]).await?.is_empty())
    }

    /// The listed rooms with how many are joined to each, those with the most first.
    pub async fn directory(&self) -> Result<Vec<(RoomNid, u64)>, Error> {
        const DIRECTORY: &str = "
            SELECT d.room_nid, COUNT(m.user_id) AS joined
            FROM directory d
            LEFT JOIN memberships m ON m.room_nid = d.room_nid AND m.membership = 'join'
            GROUP BY d.room_nid
            ORDER BY joined DESC, d.room_nid";
        let rows = self.0.query(DIRECTORY, Vec::new()).await?;
        rows.iter().map(|row| Ok((RoomNid(row.int(0)?), row.int(1)?.unsigned_abs()))).collect()
    }
}
