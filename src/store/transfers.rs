//! Files that somebody offers somebody, and what became of the offers.

use model::{EventNid, Millis, Position, RoomNid, TimelineEvent};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, UserId};

use crate::{Arg, Error, Row, Store, Write, args, friends::Direction, media::ContentRow};

/// An offer is being appended. `position`: of its event.
pub fn insert(
    write: &mut Write,
    us: &ServerName,
    event: &TimelineEvent,
    receiver: &UserId,
    expires_at: Millis,
    position: Arg,
) {
    // Not by a `Table`: what answers it may follow in the same Write.
    const INSERT: &str = "
        INSERT INTO file_transfers (event_nid, event_id, room_nid, sender, receiver, is_ours, position, offered_at, expires_at, state)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'pending')
        ON CONFLICT (event_nid) DO NOTHING";
    let pdu = &event.pdu;
    let is_ours = i64::from(pdu.sender.server_name() == us);
    let mut row =
        args![event.nid.0, pdu.event_id.as_str(), event.room_nid.0, pdu.sender.as_str(), receiver.as_str(), is_ours];
    row.push(position);
    row.extend(args![i64::from(pdu.origin_server_ts.get()), expires_at]);
    write.run(INSERT, row);
}

/// Who was offered a file answers. What is closed, or too late, stays as it is.
pub fn answer(write: &mut Write, offer: &EventId, answer: &TimelineEvent, is_accepted: bool) {
    const ACCEPT: &str = "
        UPDATE file_transfers
        SET state = 'accepted', answered_at = $1, send_at = CASE WHEN is_ours = 1 THEN 0 END
        WHERE event_id = $2 AND room_nid = $3 AND receiver = $4 AND state = 'pending' AND expires_at >= $1";
    const REFUSE: &str = "
        UPDATE file_transfers
        SET state = 'refused', answered_at = $1
        WHERE event_id = $2 AND room_nid = $3 AND receiver = $4 AND state = 'pending'";
    write.run(if is_accepted { ACCEPT } else { REFUSE }, by(offer, answer));
}

/// Who offers a file takes that back. Once it was sent, it stays.
pub fn withdraw(write: &mut Write, offer: &EventId, event: &TimelineEvent) {
    const WITHDRAW: &str = "
        UPDATE file_transfers
        SET state = 'withdrawn', answered_at = $1, send_at = NULL
        WHERE event_id = $2 AND room_nid = $3 AND sender = $4 AND state IN ('pending', 'accepted') AND message_id IS NULL";
    write.run(WITHDRAW, by(offer, event));
}

/// The event has the file that was offered.
pub fn sent(write: &mut Write, offer: &EventId, event: &TimelineEvent) {
    const SENT: &str = "
        UPDATE file_transfers
        SET state = 'accepted', answered_at = COALESCE(answered_at, $1), message_id = $5, send_at = NULL
        WHERE event_id = $2 AND room_nid = $3 AND sender = $4 AND message_id IS NULL";
    let mut args = by(offer, event);
    args.extend(args![event.pdu.event_id.as_str()]);
    write.run(SENT, args);
}

fn by(offer: &EventId, event: &TimelineEvent) -> Vec<Arg> {
    let at = i64::from(event.pdu.origin_server_ts.get());
    args![at, offer.as_str(), event.room_nid.0, event.pdu.sender.as_str()]
}

/// The file can't be sent.
pub fn fail(write: &mut Write, offer: EventNid) {
    const FAIL: &str = "
        UPDATE file_transfers
        SET state = 'failed', send_at = NULL
        WHERE event_nid = $1 AND message_id IS NULL AND state = 'accepted'";
    write.run(FAIL, args![offer.0]);
}

/// The file could not be sent, and that is tried again at `at`.
pub fn put_off(write: &mut Write, offer: EventNid, at: Millis) {
    const PUT_OFF: &str = "UPDATE file_transfers SET send_at = $2 WHERE event_nid = $1 AND send_at IS NOT NULL";
    write.run(PUT_OFF, args![offer.0, at]);
}

/// An offer, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferRow {
    /// The offer.
    pub event: EventNid,
    /// Where it was made.
    pub room: RoomNid,
    /// Where it was made.
    pub room_id: OwnedRoomId,
    /// Who offers.
    pub sender: OwnedUserId,
    /// To whom.
    pub receiver: OwnedUserId,
    /// When it became visible here.
    pub position: Position,
    /// When it was made.
    pub offered_at: Millis,
    /// When it can't be accepted any more.
    pub expires_at: Millis,
    /// `pending`, `accepted`, `refused`, `withdrawn` or `failed`.
    pub state: String,
    /// When it became so.
    pub answered_at: Option<Millis>,
    /// The event that has the file.
    pub message_id: Option<OwnedEventId>,
}

const COLUMNS: &str = "
    SELECT t.event_nid, t.room_nid, r.room_id, t.sender, t.receiver, t.position, t.offered_at, t.expires_at, t.state,
        t.answered_at, t.message_id
    FROM file_transfers t
    JOIN rooms r ON r.nid = t.room_nid";

/// Reads offers.
pub struct Transfers<'a>(&'a Store);

impl Store {
    /// Reads offers of files.
    pub fn transfers(&self) -> Transfers<'_> {
        Transfers(self)
    }
}

impl Transfers<'_> {
    /// What `user_id` offers or is offered, in rooms that the user is in, the latest before `before` first. `open_at`: only what
    /// waits for an answer at that time.
    pub async fn list(
        &self,
        user_id: &UserId,
        direction: Direction,
        open_at: Option<Millis>,
        before: Position,
        limit: i64,
    ) -> Result<Vec<TransferRow>, Error> {
        let sql = format!(
            "{COLUMNS}
            JOIN memberships m ON m.room_nid = t.room_nid AND m.user_id = $1 AND m.membership = 'join'
            WHERE ((t.sender = $1 AND $2 <> 1) OR (t.receiver = $1 AND $2 <> 0)) AND t.position < $3
                AND ($4 < 0 OR (t.state = 'pending' AND t.expires_at > $4))
            ORDER BY t.position DESC
            LIMIT $5"
        );
        let direction: i64 = match direction {
            Direction::In => 1,
            Direction::Out => 0,
            Direction::Both => -1,
        };
        let args = args![user_id.as_str(), direction, before, open_at.unwrap_or(-1), limit];
        self.0.query(sql, args).await?.iter().map(read).collect()
    }

    /// The offer called `id`, if `user_id` made or got it.
    pub async fn find(&self, user_id: &UserId, id: &EventId) -> Result<Option<TransferRow>, Error> {
        let sql = format!("{COLUMNS} WHERE t.event_id = $2 AND (t.sender = $1 OR t.receiver = $1)");
        self.0.query(sql, args![user_id.as_str(), id.as_str()]).await?.first().map(read).transpose()
    }

    /// How many of the offers that `user_id` has made wait for an answer at `now`.
    pub async fn open_by(&self, user_id: &UserId, now: Millis) -> Result<i64, Error> {
        const COUNT: &str =
            "SELECT COUNT(*) FROM file_transfers WHERE sender = $1 AND state = 'pending' AND expires_at > $2";
        self.0.query(COUNT, args![user_id.as_str(), now]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// Those that were accepted and whose files this server is to send.
    pub async fn due(&self, now: Millis, limit: i64) -> Result<Vec<TransferRow>, Error> {
        let sql = format!("{COLUMNS} WHERE t.send_at <= $1 ORDER BY t.send_at LIMIT $2");
        self.0.query(sql, args![now, limit]).await?.iter().map(read).collect()
    }
}

impl crate::media::Media<'_> {
    /// What `uploader` has uploaded to `origin` with this content: its name, the latest first.
    pub async fn uploaded_as(
        &self,
        origin: &ServerName,
        uploader: &UserId,
        sha256: &str,
    ) -> Result<Option<(String, ContentRow)>, Error> {
        const FIND: &str = "
            SELECT media_id, sha256, size, content_type, file_name
            FROM media
            WHERE sha256 = $1 AND uploader = $2 AND origin = $3
            ORDER BY created_at DESC, media_id DESC
            LIMIT 1";
        let rows = self.0.query(FIND, args![sha256, uploader.as_str(), origin.as_str()]).await?;
        let found = rows.first().map(|row| {
            let (sha256, size, content_type, file_name) = (row.text(1)?, row.int(2)?, row.text(3)?, row.opt_text(4)?);
            Ok((row.text(0)?, ContentRow { sha256, size, content_type, file_name }))
        });
        found.transpose()
    }
}

fn read(row: &Row) -> Result<TransferRow, Error> {
    Ok(TransferRow {
        event: EventNid(row.int(0)?),
        room: RoomNid(row.int(1)?),
        room_id: row.parse(2)?,
        sender: row.parse(3)?,
        receiver: row.parse(4)?,
        position: Position(row.int(5)?),
        offered_at: row.int(6)?,
        expires_at: row.int(7)?,
        state: row.text(8)?,
        answered_at: row.opt_int(9)?,
        message_id: row.opt_parse(10)?,
    })
}
