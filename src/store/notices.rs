//! How far users have been told of broadcasts by server notices, and the rooms in which that happens.

use model::{Millis, Position, RoomNid};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};

use crate::{Error, Store, Write, args};

/// How far a user has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marker {
    /// The user's notices room.
    pub room_id: Option<OwnedRoomId>,
    /// Who makes it, while there is none.
    pub claim: Option<String>,
    /// Up to here what became of broadcasts was told.
    pub noticed_upto: Position,
    /// Broadcasts published up to here were read.
    pub read_upto: Position,
}

/// Claims the making of a user's notices room, unless there is one, or it was claimed after `stale`. Who reads its own claim in the
/// marker afterwards makes the room.
pub fn claim_room(write: &mut Write, user_id: &UserId, claim: &str, now: Millis, stale: Millis) {
    const CLAIM: &str = "
        INSERT INTO notice_markers (user_id, claim, claimed_at, noticed_upto, read_upto)
        VALUES ($1, $2, $3, 0, 0)
        ON CONFLICT (user_id) DO UPDATE
        SET claim = excluded.claim, claimed_at = excluded.claimed_at
        WHERE notice_markers.room_id IS NULL
            AND (notice_markers.claimed_at IS NULL OR notice_markers.claimed_at < $4)";
    write.run(CLAIM, args![user_id.as_str(), claim, now, stale]);
}

/// Notes the room that a user is told in.
pub fn set_room(write: &mut Write, user_id: &UserId, room_id: &RoomId) {
    const SET: &str = "UPDATE notice_markers SET room_id = $2 WHERE user_id = $1 AND room_id IS NULL";
    write.run(SET, args![user_id.as_str(), room_id.as_str()]);
}

/// The user has been told up to `upto`.
pub fn noticed(write: &mut Write, user_id: &UserId, upto: Position) {
    const NOTICED: &str = "
        INSERT INTO notice_markers (user_id, noticed_upto, read_upto)
        VALUES ($1, $2, 0)
        ON CONFLICT (user_id) DO UPDATE
        SET noticed_upto = excluded.noticed_upto
        WHERE notice_markers.noticed_upto < excluded.noticed_upto";
    write.run(NOTICED, args![user_id.as_str(), upto]);
}

/// The user has read what was published up to `upto`.
pub fn read(write: &mut Write, user_id: &UserId, upto: Position) {
    const READ: &str = "UPDATE notice_markers SET read_upto = $2 WHERE user_id = $1 AND read_upto < $2";
    write.run(READ, args![user_id.as_str(), upto]);
}

/// Reads how far users have been told.
pub struct Notices<'a>(&'a Store);

impl Store {
    /// Reads how far users have been told of broadcasts.
    pub fn notices(&self) -> Notices<'_> {
        Notices(self)
    }
}

impl Notices<'_> {
    /// How far a user has been told.
    pub async fn marker(&self, user_id: &UserId) -> Result<Marker, Error> {
        const MARKER: &str = "SELECT room_id, claim, noticed_upto, read_upto FROM notice_markers WHERE user_id = $1";
        let rows = self.0.query(MARKER, args![user_id.as_str()]).await?;
        let Some(row) = rows.first() else { return Ok(Marker::default()) };
        Ok(Marker {
            room_id: row.opt_parse(0)?,
            claim: row.opt_text(1)?,
            noticed_upto: Position(row.int(2)?),
            read_upto: Position(row.int(3)?),
        })
    }

    /// Whether a room is somebody's notices room.
    pub async fn is_notices_room(&self, room_id: &RoomId) -> Result<bool, Error> {
        const IS: &str = "SELECT 1 FROM notice_markers WHERE room_id = $1 LIMIT 1";
        // A number without a name is of another type on each engine, and nobody reads it.
        Ok(!self.0.query(IS, args![room_id.as_str()]).await?.is_empty())
    }

    /// The last message of `sender` in a room at or before `upto` that still has its content.
    pub async fn last_message(
        &self,
        room: RoomNid,
        sender: &UserId,
        upto: Position,
    ) -> Result<Option<OwnedEventId>, Error> {
        const LAST: &str = "
            SELECT event_id
            FROM events
            WHERE room_nid = $1 AND position > 0 AND position <= $2 AND sender = $3 AND type = 'm.room.message'
                AND redacted_by IS NULL
            ORDER BY position DESC
            LIMIT 1";
        self.0.query(LAST, args![room.0, upto, sender.as_str()]).await?.first().map(|row| row.parse(0)).transpose()
    }

    /// How many users have had a notice: of how many requests of `sender`'s device under `scope` the answer is known.
    pub async fn delivered(&self, sender: &UserId, device_id: &str, scope: &str) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM transactions WHERE user_id = $1 AND device_id = $2 AND scope = $3";
        let rows = self.0.query(COUNT, args![sender.as_str(), device_id, scope]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn one_of_many_makes_the_room_and_markers_never_go_back() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            assert_eq!(store.notices().marker(alice).await?, Marker::default());
            let act = async |act: &dyn Fn(&mut Write)| {
                let mut write = Write::new();
                act(&mut write);
                store.commit(write).await?;
                store.notices().marker(alice).await
            };
            act(&|write| noticed(write, alice, Position(5))).await?;
            let told = act(&|write| noticed(write, alice, Position(4))).await?;
            assert_eq!(told.noticed_upto, Position(5));
            let claim = |who: &'static str, now| move |write: &mut Write| claim_room(write, alice, who, now, now - 60);
            assert_eq!(act(&claim("one", 100)).await?.claim.as_deref(), Some("one"));
            assert_eq!(act(&claim("two", 110)).await?.claim.as_deref(), Some("one"));
            // Who claimed it has died.
            assert_eq!(act(&claim("two", 161)).await?.claim.as_deref(), Some("two"));
            let room = room_id!("!notices:a.test");
            assert!(!store.notices().is_notices_room(room).await?);
            act(&|write| set_room(write, alice, room)).await?;
            let made = act(&claim("three", 999)).await?;
            assert_eq!((made.claim.as_deref(), made.room_id.as_deref()), (Some("two"), Some(room)));
            assert_eq!(made.noticed_upto, Position(5));
            assert!(store.notices().is_notices_room(room).await?);
            act(&|write| read(write, alice, Position(5))).await?;
            assert_eq!(act(&|write| read(write, alice, Position(3))).await?.read_upto, Position(5));
            Ok::<_, Error>(())
        })
        .await;
    }
}
