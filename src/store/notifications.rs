//! What people are notified of and have read, and what invites them.

use std::collections::HashSet;

use model::{EventNid, Millis, Position, RoomNid};
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use crate::{Error, Store, Table, Write, args};

/// How many one by one are remembered of a user: of older ones it is forgotten that they were read.
const MOST_READS: i64 = 5_000;

static READS: Table = Table {
    insert: "INSERT INTO notification_reads (user_id, position, read_at)",
    columns: 3,
    conflict: "ON CONFLICT (user_id, position) DO NOTHING",
    key: 2,
};

/// A user has read what happened at each of `positions`.
pub fn read(write: &mut Write, user_id: &UserId, positions: &[Position], now: Millis) {
    const FORGET: &str = "
        DELETE FROM notification_reads
        WHERE user_id = $1 AND position <= (
            SELECT position
            FROM notification_reads
            WHERE user_id = $1
            ORDER BY position DESC
            LIMIT 1 OFFSET $2)";
    for position in positions {
        write.insert(&READS, args![user_id.as_str(), *position, now]);
    }
    write.run(FORGET, args![user_id.as_str(), MOST_READS]);
}

/// A user has read everything up to `upto`.
pub fn read_all(write: &mut Write, user_id: &UserId, upto: Position) {
    const MARK: &str = "
        INSERT INTO notification_marks (user_id, read_upto)
        VALUES ($1, $2)
        ON CONFLICT (user_id) DO UPDATE
        SET read_upto = excluded.read_upto
        WHERE notification_marks.read_upto < excluded.read_upto";
    write.run(MARK, args![user_id.as_str(), upto]);
    write.run("DELETE FROM notification_reads WHERE user_id = $1 AND position <= $2", args![user_id.as_str(), upto]);
}

/// An invitation that waits for an answer.
#[derive(Clone, Debug)]
pub struct InvitationRow {
    /// The room.
    pub room: RoomNid,
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who invites.
    pub sender: OwnedUserId,
    /// The `m.room.member` event.
    pub event: EventNid,
    /// When it became visible.
    pub position: Position,
}

/// Reads what people are notified of.
pub struct Notifications<'a>(&'a Store);

impl Store {
    /// Reads what people are notified of.
    pub fn notifications(&self) -> Notifications<'_> {
        Notifications(self)
    }
}

impl Notifications<'_> {
    /// Up to where `user_id` has read everything.
    pub async fn read_upto(&self, user_id: &UserId) -> Result<Position, Error> {
        const UPTO: &str = "SELECT read_upto FROM notification_marks WHERE user_id = $1";
        let rows = self.0.query(UPTO, args![user_id.as_str()]).await?;
        rows.first().map_or(Ok(Position(0)), |row| row.int(0).map(Position))
    }

    /// What `user_id` has read one by one, from `first` to `last`.
    pub async fn reads(&self, user_id: &UserId, first: Position, last: Position) -> Result<HashSet<Position>, Error> {
        const READ: &str =
            "SELECT position FROM notification_reads WHERE user_id = $1 AND position >= $2 AND position <= $3";
        let rows = self.0.query(READ, args![user_id.as_str(), first, last]).await?;
        rows.iter().map(|row| row.int(0).map(Position)).collect()
    }

    /// Invitations of `user_id` that became visible before `before` and ask for no friendship, the latest first.
    pub async fn invitations(
        &self,
        user_id: &UserId,
        before: Position,
        limit: i64,
    ) -> Result<Vec<InvitationRow>, Error> {
        const INVITATIONS: &str = "
            SELECT m.room_nid, o.room_id, m.sender, m.event_nid, m.position
            FROM memberships m
            JOIN rooms o ON o.nid = m.room_nid
            WHERE m.user_id = $1 AND m.membership = 'invite' AND m.position < $2
                AND NOT EXISTS (
                    SELECT 1
                    FROM friend_requests r
                    WHERE r.user_id = m.user_id AND r.room_nid = m.room_nid AND r.event_nid = m.event_nid)
            ORDER BY m.position DESC
            LIMIT $3";
        let rows = self.0.query(INVITATIONS, args![user_id.as_str(), before, limit]).await?;
        rows.iter()
            .map(|row| {
                Ok(InvitationRow {
                    room: RoomNid(row.int(0)?),
                    room_id: row.parse(1)?,
                    sender: row.parse(2)?,
                    event: EventNid(row.int(3)?),
                    position: Position(row.int(4)?),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn what_was_read_one_by_one_goes_when_everything_was_read() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            let act = async |act: &dyn Fn(&mut Write)| {
                let mut write = Write::new();
                act(&mut write);
                store.commit(write).await
            };
            let known = async || store.notifications().reads(alice, Position(0), Position(99)).await;
            act(&|write| read(write, alice, &[Position(3), Position(9), Position(3)], 1)).await?;
            act(&|write| read(write, alice, &[Position(9)], 2)).await?;
            assert_eq!(known().await?, HashSet::from([Position(3), Position(9)]));
            act(&|write| read_all(write, alice, Position(5))).await?;
            assert_eq!(known().await?, HashSet::from([Position(9)]));
            act(&|write| read_all(write, alice, Position(4))).await?;
            assert_eq!(store.notifications().read_upto(alice).await?, Position(5), "it never goes back");
            assert_eq!(store.notifications().read_upto(bob).await?, Position(0));
            Ok::<_, Error>(())
        })
        .await;
    }
}
