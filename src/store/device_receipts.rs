//! How far what was sent in a room has come onto devices of people of other servers, as these say.

use model::{Millis, Position, RoomNid};
use ruma::{OwnedUserId, UserId};

use crate::{Error, Store, Table, Write, args};

static RECEIPTS: Table = Table {
    insert: "INSERT INTO device_receipts (room_nid, user_id, event_position, at)",
    columns: 4,
    // It never goes back.
    conflict: "ON CONFLICT (room_nid, user_id) DO UPDATE
        SET event_position = excluded.event_position, at = excluded.at
        WHERE excluded.event_position > device_receipts.event_position",
    key: 0,
};

/// Everything in a room up to `upto` has come onto a device of the user.
pub fn put(write: &mut Write, room: RoomNid, user_id: &UserId, upto: Position, at: Millis) {
    write.insert(&RECEIPTS, args![room.0, user_id.as_str(), upto, at]);
}

/// Reads receipts of devices.
pub struct DeviceReceipts<'a>(&'a Store);

impl Store {
    /// Reads receipts of devices.
    pub fn device_receipts(&self) -> DeviceReceipts<'_> {
        DeviceReceipts(self)
    }
}

impl DeviceReceipts<'_> {
    /// Onto whose devices what stands at `position` in a room has come, `limit` people at most, by their ids.
    pub async fn who_has(&self, room: RoomNid, position: Position, limit: usize) -> Result<Vec<OwnedUserId>, Error> {
        const WHO: &str = "
            SELECT user_id FROM device_receipts
            WHERE room_nid = $1 AND event_position >= $2
            ORDER BY user_id
            LIMIT $3";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0.query(WHO, args![room.0, position, limit]).await?.iter().map(|row| row.parse(0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine_of_old;

    #[tokio::test]
    async fn what_has_come_onto_a_device_stays_there() {
        on_each_engine_of_old(async |store| {
            let (bob, carol) = (user_id!("@bob:b.test"), user_id!("@carol:b.test"));
            for (user_id, upto) in [(bob, 7), (carol, 3), (bob, 5)] {
                let mut write = Write::new();
                put(&mut write, RoomNid(1), user_id, Position(upto), 1);
                store.commit(write).await?;
            }
            let who = async |position| store.device_receipts().who_has(RoomNid(1), Position(position), 10).await;
            assert_eq!(who(3).await?, [bob, carol]);
            assert_eq!(who(6).await?, [bob], "it doesn't go back");
            assert!(who(8).await?.is_empty());
            assert!(store.device_receipts().who_has(RoomNid(2), Position(1), 10).await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }
}
