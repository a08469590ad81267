//! How far people have read.

use std::sync::Arc;

use model::{Change, Position, Receipt, RoomNid};
use ruma::{OwnedEventId, OwnedUserId, RoomId, UserId, events::receipt::ReceiptThread};

use crate::{Arg, Error, Row, Store, Table, Write, args};

static RECEIPTS: Table = Table {
    insert: "INSERT INTO receipts (room_nid, user_id, type, thread, event_id, event_position, at, position)",
    columns: 8,
    // A receipt never goes back.
    conflict: "ON CONFLICT (room_nid, user_id, type, thread) DO UPDATE
        SET event_id = excluded.event_id, event_position = excluded.event_position, at = excluded.at,
            position = excluded.position
        WHERE excluded.event_position >= receipts.event_position",
    key: 4,
};

/// Notes a receipt, and tells it.
pub fn put(write: &mut Write, room: RoomNid, room_id: &RoomId, receipt: &Arc<Receipt>) {
    let position =
        write.tell_next(Change::Receipt { room_nid: room, room_id: room_id.to_owned(), receipt: receipt.clone() });
    let mut row = args![
        room.0,
        receipt.user_id.as_str(),
        receipt.kind.as_str(),
        receipt.thread.as_str().unwrap_or_default(),
        receipt.event_id.as_str(),
        receipt.event_position,
        receipt.at
    ];
    row.push(position);
    write.insert(&RECEIPTS, row);
}

/// Reads receipts.
pub struct Receipts<'a>(pub(crate) &'a Store);

const COLUMNS: &str = "
    SELECT user_id, type, thread, event_id, event_position, at, position
    FROM receipts";

fn receipt(row: &Row) -> Result<(Position, Arc<Receipt>), Error> {
    let thread = Some(row.text(2)?).filter(|thread| !thread.is_empty());
    let event_id: OwnedEventId = row.parse(3)?;
    Ok((
        Position(row.int(6)?),
        Arc::new(Receipt {
            user_id: row.parse(0)?,
            kind: row.text(1)?.into(),
            thread: ReceiptThread::try_from(thread).map_err(|error| Error::Corrupt(format!("thread: {error}")))?,
            event_id,
            event_position: Position(row.int(4)?),
            at: row.int(5)?,
        }),
    ))
}

impl Receipts<'_> {
    /// The receipts of a room that came after `since`, other people's private ones left out, earliest first.
    pub async fn since(
        &self,
        room: RoomNid,
        since: Position,
        reader: &UserId,
    ) -> Result<Vec<(Position, Arc<Receipt>)>, Error> {
        let sql = format!(
            "{COLUMNS} WHERE room_nid = $1 AND position > $2 AND (type <> 'm.read.private' OR user_id = $3)
             ORDER BY position"
        );
        self.0.query(sql, args![room.0, since, reader.as_str()]).await?.iter().map(receipt).collect()
    }

    /// How far `user_id` has read in a room: each type and thread.
    pub async fn of(&self, room: RoomNid, user_id: &UserId) -> Result<Vec<(Position, Arc<Receipt>)>, Error> {
        let sql = format!("{COLUMNS} WHERE room_nid = $1 AND user_id = $2 ORDER BY position");
        self.0.query(sql, args![room.0, user_id.as_str()]).await?.iter().map(receipt).collect()
    }

    /// Who has publicly read a room up to `event_position` or further, in one of these threads; `limit` at most, by user id.
    pub async fn readers(
        &self,
        room: RoomNid,
        event_position: Position,
        threads: [&str; 2],
        limit: i64,
    ) -> Result<Vec<OwnedUserId>, Error> {
        const READERS: &str = "
            SELECT DISTINCT user_id
            FROM receipts
            WHERE room_nid = $1 AND type = 'm.read' AND thread IN ($2, $3) AND event_position >= $4
            ORDER BY user_id
            LIMIT $5";
        let args = args![room.0, threads[0], threads[1], event_position, limit];
        self.0.query(READERS, args).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// Of the rooms that `user_id` has joined, those with receipts after `since`, with the position of the latest.
    pub async fn rooms_since(&self, user_id: &UserId, since: Position) -> Result<Vec<(RoomNid, Position)>, Error> {
        const ROOMS: &str = "
            SELECT m.room_nid, CAST(MAX(r.position) AS BIGINT)
            FROM memberships m
            JOIN receipts r ON r.room_nid = m.room_nid AND r.position > $2
            WHERE m.user_id = $1 AND m.membership = 'join'
            GROUP BY m.room_nid";
        let rows = self.0.query(ROOMS, vec![Arg::from(user_id.as_str()), Arg::from(since)]).await?;
        rows.iter().map(|row| Ok((RoomNid(row.int(0)?), Position(row.int(1)?)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, events::receipt::ReceiptType, room_id, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    fn read(user_id: &UserId, kind: ReceiptType, event_id: &ruma::EventId, position: i64) -> Arc<Receipt> {
        Arc::new(Receipt {
            user_id: user_id.to_owned(),
            kind,
            thread: ReceiptThread::Unthreaded,
            event_id: event_id.to_owned(),
            event_position: Position(position),
            at: 1,
        })
    }

    #[tokio::test]
    async fn a_receipt_never_goes_back_and_a_private_one_is_the_users_own() {
        on_each_engine(async |store| {
            let (alice, bob, room) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"), RoomNid(1));
            for (kind, event_id, position) in [
                (ReceiptType::Read, event_id!("$two"), 2),
                (ReceiptType::Read, event_id!("$one"), 1),
                (ReceiptType::ReadPrivate, event_id!("$three"), 3),
            ] {
                let mut write = Write::new();
                put(&mut write, room, room_id!("!r:a.test"), &read(alice, kind, event_id, position));
                store.commit(write).await?;
            }
            let seen_by = async |reader| {
                let receipts = store.receipts().since(room, Position(0), reader).await?;
                Ok::<_, Error>(
                    receipts.into_iter().map(|(_, receipt)| receipt.event_id.to_string()).collect::<Vec<_>>(),
                )
            };
            assert_eq!(seen_by(bob).await?, ["$two"]);
            assert_eq!(seen_by(alice).await?, ["$two", "$three"]);
            Ok::<_, Error>(())
        })
        .await;
    }
}
