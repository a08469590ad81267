//! Rooms in which somebody of a chat system that doesn't speak Matrix talks with a user of this server.

use std::sync::Arc;

use model::{Millis, Position, TimelineEvent};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};

use crate::{Error, Row, Store, Table, Write, args, events};

static ROOMS: Table = Table {
    insert: "INSERT INTO bridge_rooms (room_id, server, remote, user_id, created_at, sent_upto)",
    columns: 6,
    conflict: "ON CONFLICT DO NOTHING",
    key: 0,
};

/// A room of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeRoomRow {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who is elsewhere, by the id that would be theirs on Matrix.
    pub remote: OwnedUserId,
    /// Who is here.
    pub user_id: OwnedUserId,
    /// When it was made.
    pub created_at: Millis,
    /// Up to here what the user here said was taken, or refused, by the server of the other one.
    pub sent_upto: Position,
}

/// Adds a room.
pub fn insert(write: &mut Write, row: &BridgeRoomRow) {
    let values = args![
        row.room_id.as_str(),
        row.remote.server_name().as_str(),
        row.remote.as_str(),
        row.user_id.as_str(),
        row.created_at,
        row.sent_upto.0
    ];
    write.insert(&ROOMS, values);
}

/// The user here left: the room is used no more.
pub fn close(write: &mut Write, room_id: &RoomId, now: Millis) {
    write.run("UPDATE bridge_rooms SET closed_at = $2 WHERE room_id = $1", args![room_id.as_str(), now]);
}

/// What the user here said up to `upto` was taken, or refused.
pub fn sent(write: &mut Write, room_id: &RoomId, upto: Position) {
    const SENT: &str = "UPDATE bridge_rooms SET sent_upto = $2 WHERE room_id = $1 AND sent_upto < $2";
    write.run(SENT, args![room_id.as_str(), upto]);
}

/// Reads what the bridge knows.
pub struct Bridge<'a>(&'a Store);

impl Store {
    /// Reads what the bridge knows.
    pub fn bridge(&self) -> Bridge<'_> {
        Bridge(self)
    }
}

const COLUMNS: &str = "SELECT b.room_id, b.remote, b.user_id, b.created_at, b.sent_upto FROM bridge_rooms b";

impl Bridge<'_> {
    /// The room that two talk in.
    pub async fn room_of(&self, remote: &UserId, user_id: &UserId) -> Result<Option<BridgeRoomRow>, Error> {
        let sql = format!(
            "{COLUMNS} WHERE b.remote = $1 AND b.user_id = $2 AND b.closed_at IS NULL ORDER BY b.created_at DESC LIMIT 1"
        );
        self.0.query(sql, args![remote.as_str(), user_id.as_str()]).await?.first().map(room).transpose()
    }

    /// Whose server hears what is said in a room, if it is one of the bridge's.
    pub async fn server_of(&self, room_id: &RoomId) -> Result<Option<OwnedServerName>, Error> {
        const SERVER: &str = "SELECT server FROM bridge_rooms WHERE room_id = $1 AND closed_at IS NULL";
        self.0.query(SERVER, args![room_id.as_str()]).await?.first().map(|row| row.parse(0)).transpose()
    }

    /// The servers that are owed something.
    pub async fn owed(&self) -> Result<Vec<OwnedServerName>, Error> {
        const OWED: &str = "
            SELECT DISTINCT b.server
            FROM bridge_rooms b
            JOIN rooms r ON r.room_id = b.room_id
            WHERE b.closed_at IS NULL AND EXISTS (
                SELECT 1
                FROM events e
                WHERE e.room_nid = r.nid AND e.position > b.sent_upto AND e.sender = b.user_id
                    AND e.type = 'm.room.message')
            ORDER BY b.server";
        self.0.query(OWED, Vec::new()).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// The first `limit` messages that a server is owed, in order, each with its room.
    pub async fn owed_to(
        &self,
        server: &ServerName,
        limit: i64,
    ) -> Result<Vec<(BridgeRoomRow, Arc<TimelineEvent>)>, Error> {
        const NIDS: &str = "
            SELECT b.room_id, b.remote, b.user_id, b.created_at, b.sent_upto, e.event_id
            FROM bridge_rooms b
            JOIN rooms r ON r.room_id = b.room_id
            JOIN events e ON e.room_nid = r.nid AND e.position > b.sent_upto AND e.sender = b.user_id
                AND e.type = 'm.room.message'
            WHERE b.server = $1 AND b.closed_at IS NULL
            ORDER BY e.position
            LIMIT $2";
        let rows = self.0.query(NIDS, args![server.as_str(), limit]).await?;
        let mut owed = Vec::with_capacity(rows.len());
        for row in &rows {
            let event_id: ruma::OwnedEventId = row.parse(5)?;
            if let Some(event) = events::Events(self.0).find(&event_id).await? {
                owed.push((room(row)?, event));
            }
        }
        Ok(owed)
    }
}

fn room(row: &Row) -> Result<BridgeRoomRow, Error> {
    Ok(BridgeRoomRow {
        room_id: row.parse(0)?,
        remote: row.parse(1)?,
        user_id: row.parse(2)?,
        created_at: row.int(3)?,
        sent_upto: Position(row.int(4)?),
    })
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn two_talk_in_one_room_until_it_is_closed() {
        on_each_engine(async |store| {
            let (bob, alice) = (user_id!("@bob:b.test"), user_id!("@alice:a.test"));
            let mut row = BridgeRoomRow {
                room_id: room_id!("!1:a.test").to_owned(),
                remote: bob.to_owned(),
                user_id: alice.to_owned(),
                created_at: 5,
                sent_upto: Position(3),
            };
            let mut write = Write::new();
            insert(&mut write, &row);
            sent(&mut write, &row.room_id, Position(7));
            sent(&mut write, &row.room_id, Position(4));
            store.commit(write).await?;
            row.sent_upto = Position(7);
            assert_eq!(store.bridge().room_of(bob, alice).await?, Some(row.clone()));
            assert_eq!(store.bridge().server_of(&row.room_id).await?.as_deref(), Some(bob.server_name()));
            assert!(store.bridge().owed().await?.is_empty());
            assert!(store.bridge().owed_to(bob.server_name(), 5).await?.is_empty());
            let mut write = Write::new();
            close(&mut write, &row.room_id, 9);
            store.commit(write).await?;
            assert_eq!(store.bridge().room_of(bob, alice).await?, None);
            assert_eq!(store.bridge().server_of(&row.room_id).await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
