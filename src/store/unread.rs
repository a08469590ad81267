//! How far unread events have been counted.

use model::{Position, RoomNid};
use ruma::UserId;

use crate::{Error, Store, Table, Write, args};

static CHECKPOINTS: Table = Table {
    insert: "INSERT INTO unread_checkpoints (user_id, room_nid, read_upto, counted_upto, counts)",
    columns: 5,
    conflict: "ON CONFLICT (user_id, room_nid) DO UPDATE
        SET read_upto = excluded.read_upto, counted_upto = excluded.counted_upto, counts = excluded.counts",
    key: 2,
};

/// Where counting goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// JSON: the receipts that the counts stand on.
    pub read_upto: String,
    /// The last event that was looked at.
    pub counted_upto: Position,
    /// JSON: the counts, by thread.
    pub counts: String,
}

/// Notes how far somebody's unread events of a room have been counted.
pub fn put(write: &mut Write, user_id: &UserId, room: RoomNid, checkpoint: &Checkpoint) {
    write.insert(
        &CHECKPOINTS,
        args![
            user_id.as_str(),
            room.0,
            checkpoint.read_upto.as_str(),
            checkpoint.counted_upto,
            checkpoint.counts.as_str()
        ],
    );
}

/// Reads checkpoints.
pub struct Unread<'a>(pub(crate) &'a Store);

impl Unread<'_> {
    /// How far somebody's unread events of a room have been counted.
    pub async fn checkpoint(&self, user_id: &UserId, room: RoomNid) -> Result<Option<Checkpoint>, Error> {
        const FIND: &str = "
            SELECT read_upto, counted_upto, counts
            FROM unread_checkpoints
            WHERE user_id = $1 AND room_nid = $2";
        let rows = self.0.query(FIND, args![user_id.as_str(), room.0]).await?;
        rows.first()
            .map(|row| {
                Ok(Checkpoint { read_upto: row.text(0)?, counted_upto: Position(row.int(1)?), counts: row.text(2)? })
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn the_last_checkpoint_counts() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            for upto in [3, 5] {
                let checkpoint =
                    Checkpoint { read_upto: "{}".into(), counted_upto: Position(upto), counts: "{}".into() };
                let mut write = Write::new();
                put(&mut write, alice, RoomNid(1), &checkpoint);
                store.commit(write).await?;
                assert_eq!(store.unread().checkpoint(alice, RoomNid(1)).await?, Some(checkpoint));
            }
            Ok::<_, Error>(())
        })
        .await;
    }
}
