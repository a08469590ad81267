//! What other servers have sent: answers to their transactions, and what still waits for its room.

use model::{Millis, Position};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};

use crate::{Arg, Error, Store, Table, Write, args};

static TRANSACTIONS: Table = Table {
    insert: "INSERT INTO inbound_transactions (origin, transaction_id, answer, received_at)",
    columns: 4,
    conflict: "ON CONFLICT DO NOTHING",
    key: 2,
};

static MESSAGES: Table = Table {
    insert: "INSERT INTO inbound_messages (sender, message_id, received_at)",
    columns: 3,
    conflict: "",
    key: 0,
};

static PDUS: Table =
    Table { insert: "INSERT INTO inbound_pdus (room_id, position, origin, json)", columns: 4, conflict: "", key: 0 };

/// Remembers what a server's transaction was answered.
pub fn put_answer(write: &mut Write, origin: &ServerName, transaction_id: &str, answer: &str, now: Millis) {
    write.insert(&TRANSACTIONS, args![origin.as_str(), transaction_id, answer, now]);
}

/// Remembers that a message to devices has come. The Write of a second one fails with [`Error::Duplicate`].
pub fn insert_message(write: &mut Write, sender: &UserId, message_id: &str, now: Millis) {
    write.insert(&MESSAGES, args![sender.as_str(), message_id, now]);
}

/// Keeps an event of another server until its room takes it. Each has a position of its own, in order.
pub fn stage(write: &mut Write, origin: &ServerName, room_id: &RoomId, json: &str) {
    let mut row = args![room_id.as_str()];
    row.push(Arg::Position(write.position()));
    row.extend(args![origin.as_str(), json]);
    write.insert(&PDUS, row);
}

/// The room has taken the events from `first` up to `last`.
pub fn unstage(write: &mut Write, room_id: &RoomId, first: Position, last: Position) {
    const TAKEN: &str = "DELETE FROM inbound_pdus WHERE room_id = $1 AND position >= $2 AND position <= $3";
    write.run(TAKEN, args![room_id.as_str(), first, last]);
}

/// Forgets transactions and messages from before `before`.
pub fn forget(write: &mut Write, before: Millis) {
    write.run("DELETE FROM inbound_transactions WHERE received_at < $1", args![before]);
    write.run("DELETE FROM inbound_messages WHERE received_at < $1", args![before]);
}

/// An event that waits for its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedPdu {
    /// When it came.
    pub position: Position,
    /// Who sent it.
    pub origin: OwnedServerName,
    /// The PDU.
    pub json: String,
}

/// Reads what other servers have sent.
pub struct Inbox<'a>(&'a Store);

impl Store {
    /// Reads what other servers have sent.
    pub fn inbox(&self) -> Inbox<'_> {
        Inbox(self)
    }
}

impl Inbox<'_> {
    /// What a server's transaction was answered before, if it was.
    pub async fn answer(&self, origin: &ServerName, transaction_id: &str) -> Result<Option<String>, Error> {
        const FIND: &str = "SELECT answer FROM inbound_transactions WHERE origin = $1 AND transaction_id = $2";
        let rows = self.0.query(FIND, args![origin.as_str(), transaction_id]).await?;
        rows.first().map(|row| row.text(0)).transpose()
    }

    /// The rooms for which events wait.
    pub async fn staged_rooms(&self) -> Result<Vec<OwnedRoomId>, Error> {
        const ROOMS: &str = "SELECT DISTINCT room_id FROM inbound_pdus ORDER BY room_id";
        self.0.query(ROOMS, Vec::new()).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// How many events wait for a room.
    pub async fn count_staged(&self, room_id: &RoomId) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM inbound_pdus WHERE room_id = $1";
        self.0.query(COUNT, args![room_id.as_str()]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// The first `limit` events that wait for a room and came after `after`.
    pub async fn staged(&self, room_id: &RoomId, after: Position, limit: i64) -> Result<Vec<StagedPdu>, Error> {
        const STAGED: &str = "
            SELECT position, origin, json
            FROM inbound_pdus
            WHERE room_id = $1 AND position > $2
            ORDER BY position
            LIMIT $3";
        let rows = self.0.query(STAGED, args![room_id.as_str(), after, limit]).await?;
        rows.iter()
            .map(|row| Ok(StagedPdu { position: Position(row.int(0)?), origin: row.parse(1)?, json: row.text(2)? }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, server_name, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn the_first_answer_stays_until_it_is_old() {
        on_each_engine(async |store| {
            let b = server_name!("b.test");
            for (answer, at) in [("first", 1), ("second", 2)] {
                let mut write = Write::new();
                put_answer(&mut write, b, "txn", answer, at);
                store.commit(write).await?;
            }
            assert_eq!(store.inbox().answer(b, "txn").await?.as_deref(), Some("first"));
            assert_eq!(store.inbox().answer(server_name!("c.test"), "txn").await?, None);
            let mut write = Write::new();
            forget(&mut write, 2);
            store.commit(write).await?;
            assert_eq!(store.inbox().answer(b, "txn").await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_message_comes_once() {
        on_each_engine(async |store| {
            let mut answers = Vec::new();
            for _ in 0..2 {
                let mut write = Write::new();
                insert_message(&mut write, user_id!("@bob:b.test"), "m1", 1);
                answers.push(store.commit(write).await);
            }
            assert!(matches!(answers[..], [Ok(_), Err(Error::Duplicate)]), "{answers:?}");
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn events_wait_in_order_until_their_room_has_taken_them() {
        on_each_engine(async |store| {
            let (b, room) = (server_name!("b.test"), room_id!("!r:b.test"));
            let mut write = Write::new();
            for json in ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"] {
                stage(&mut write, b, room, json);
            }
            let first = store.commit(write).await?;
            assert_eq!(store.inbox().staged_rooms().await?, [room]);
            let staged = store.inbox().staged(room, Position(0), 2).await?;
            assert_eq!(staged.iter().map(|pdu| &*pdu.json).collect::<Vec<_>>(), ["{\"n\":1}", "{\"n\":2}"]);
            let mut write = Write::new();
            unstage(&mut write, room, first, Position(first.0 + 1));
            store.commit(write).await?;
            assert_eq!(store.inbox().staged(room, Position(0), 9).await?.len(), 1);
            assert_eq!(store.inbox().count_staged(room).await?, 1);
            Ok::<_, Error>(())
        })
        .await;
    }
}
