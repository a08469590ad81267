//! Friends: the invitations by which people asked each other, who is in those rooms, and what people note about their friends.

use model::{EventNid, Millis, Position, RoomNid};
use ruma::{OwnedRoomId, OwnedUserId, ServerName, UserId, events::room::member::MembershipState};

use crate::{Arg, Error, Row, Store, Table, Write, args, places};

/// Somebody of this server asks somebody, or is asked.
#[derive(Clone, Copy, Debug)]
pub struct RequestRow<'a> {
    /// Somebody of this server.
    pub user_id: &'a UserId,
    /// The other one.
    pub friend_id: &'a UserId,
    /// The room that the invitation is to.
    pub room: RoomNid,
    /// The invitation.
    pub event: EventNid,
    /// The other one asks.
    pub is_incoming: bool,
    /// When, as the invitation says.
    pub asked_at: Millis,
}

static REQUESTS: Table = Table {
    insert: "INSERT INTO friend_requests (user_id, friend_id, room_nid, event_nid, is_incoming, asked_at, position)",
    columns: 7,
    conflict: "ON CONFLICT (user_id, friend_id, room_nid) DO UPDATE
        SET event_nid = excluded.event_nid, is_incoming = excluded.is_incoming, asked_at = excluded.asked_at,
            position = excluded.position",
    key: 3,
};

/// Notes a request, instead of an earlier one by an invitation to the same room.
pub fn put_request(write: &mut Write, request: RequestRow<'_>, position: Arg) {
    let RequestRow { user_id, friend_id, room, event, is_incoming, asked_at } = request;
    let mut row = args![user_id.as_str(), friend_id.as_str(), room.0, event.0, i64::from(is_incoming), asked_at];
    row.push(position);
    write.insert(&REQUESTS, row);
}

/// What a user notes about a friend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardRow {
    /// What the user calls the friend.
    pub remark: Option<String>,
    /// The groups that the user puts the friend into: a JSON array; empty: none.
    pub tags: String,
    /// Requests up to here make no friends any more.
    pub removed_upto: Position,
    /// When this was last changed; 0: never.
    pub position: Position,
}

static CARDS: Table = Table {
    insert: "INSERT INTO friend_cards (user_id, friend_id, remark, tags, removed_upto, position)",
    columns: 6,
    conflict: "ON CONFLICT (user_id, friend_id) DO UPDATE
        SET remark = excluded.remark, tags = excluded.tags, removed_upto = excluded.removed_upto, position = excluded.position",
    key: 2,
};

/// Sets what a user notes about a friend. `is_removed`: and the user wants no request up to now to count.
pub fn put_card(write: &mut Write, user_id: &UserId, friend_id: &UserId, card: &CardRow, is_removed: bool) {
    let now = Arg::Position(write.position());
    let mut row = args![user_id.as_str(), friend_id.as_str(), card.remark.as_deref(), card.tags.as_str()];
    row.push(if is_removed { now.clone() } else { card.removed_upto.into() });
    row.push(now);
    write.insert(&CARDS, row);
}

/// What one of the two is to the room.
#[derive(Clone, Debug)]
pub struct Part {
    /// join, invite, knock, leave or ban.
    pub membership: MembershipState,
    /// Who made it so.
    pub sender: OwnedUserId,
    /// The `m.room.member` event.
    pub event: EventNid,
    /// As the event says.
    pub display_name: Option<String>,
    /// As the event says.
    pub avatar_url: Option<String>,
}

/// A request, and what the two are to its room now.
#[derive(Clone, Debug)]
pub struct TieRow {
    /// The other one.
    pub friend_id: OwnedUserId,
    /// The room.
    pub room: RoomNid,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The invitation.
    pub event: EventNid,
    /// The other one asked.
    pub is_incoming: bool,
    /// When, as the invitation says.
    pub asked_at: Millis,
    /// When the invitation became visible here.
    pub position: Position,
    /// What the user is to the room; `None`: nothing.
    pub mine: Option<Part>,
    /// What the other is, as far as that is known here.
    pub theirs: Option<Part>,
}

/// Which requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those that the user was asked by.
    In,
    /// Those by which the user asked.
    Out,
    /// Both.
    Both,
}

const TIES: &str = "
    SELECT r.friend_id, r.room_nid, o.room_id, r.event_nid, r.is_incoming, r.asked_at, r.position,
        m.membership, m.sender, m.event_nid, m.display_name, m.avatar_url,
        t.membership, t.sender, t.event_nid, t.display_name, t.avatar_url
    FROM friend_requests r
    JOIN rooms o ON o.nid = r.room_nid
    LEFT JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id = r.user_id
    LEFT JOIN memberships t ON t.room_nid = r.room_nid AND t.user_id = r.friend_id";

/// Both are in the room, and the user has not removed the other since.
const FRIENDS: &str = "
    SELECT r.friend_id
    FROM friend_requests r
    JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id = r.user_id AND m.membership = 'join'
    JOIN memberships t ON t.room_nid = r.room_nid AND t.user_id = r.friend_id AND t.membership = 'join'
    LEFT JOIN friend_cards c ON c.user_id = r.user_id AND c.friend_id = r.friend_id
    WHERE r.user_id = $1 AND (c.removed_upto IS NULL OR c.removed_upto < r.position)";

/// Reads friends.
pub struct Friends<'a>(&'a Store);

impl Store {
    /// Reads friends.
    pub fn friends(&self) -> Friends<'_> {
        Friends(self)
    }
}

impl Friends<'_> {
    /// Requests that became visible before `before`, the latest first. `is_open`: only those that can be answered still.
    pub async fn requests(
        &self,
        user_id: &UserId,
        direction: Direction,
        is_open: bool,
        before: Position,
        limit: i64,
    ) -> Result<Vec<TieRow>, Error> {
        // Who asked from another server is in the room as far as is known here.
        let sql = format!(
            "{TIES}
            WHERE r.user_id = $1 AND r.position < $2 AND ($3 = -1 OR r.is_incoming = $3) AND ($4 = 0
                OR (r.is_incoming = 1 AND m.membership = 'invite' AND COALESCE(t.membership, 'join') = 'join')
                OR (r.is_incoming = 0 AND t.membership = 'invite' AND m.membership = 'join'))
            ORDER BY r.position DESC
            LIMIT $5"
        );
        let direction: i64 = match direction {
            Direction::In => 1,
            Direction::Out => 0,
            Direction::Both => -1,
        };
        let args = args![user_id.as_str(), before, direction, i64::from(is_open), limit];
        self.0.query(sql, args).await?.iter().map(tie).collect()
    }

    /// The request of or to `user_id` that is the event numbered `event`.
    pub async fn request(&self, user_id: &UserId, event: EventNid) -> Result<Option<TieRow>, Error> {
        let sql = format!("{TIES} WHERE r.user_id = $1 AND r.event_nid = $2");
        self.0.query(sql, args![user_id.as_str(), event.0]).await?.first().map(tie).transpose()
    }

    /// Every request between `user_id` and each of `others`, in no particular order.
    pub async fn with(&self, user_id: &UserId, others: &[OwnedUserId]) -> Result<Vec<TieRow>, Error> {
        let mut found = Vec::new();
        for chunk in others.chunks(AT_ONCE) {
            let sql = format!("{TIES} WHERE r.user_id = $1 AND r.friend_id IN ({})", places(2, chunk.len()));
            for row in self.0.query(sql, of(user_id, chunk)).await? {
                found.push(tie(&row)?);
            }
        }
        Ok(found)
    }

    /// What `user_id` notes about each of `others`; of whom nothing is noted is left out.
    pub async fn cards(&self, user_id: &UserId, others: &[OwnedUserId]) -> Result<Vec<(OwnedUserId, CardRow)>, Error> {
        let mut found = Vec::new();
        for chunk in others.chunks(AT_ONCE) {
            let sql = format!(
                "SELECT friend_id, remark, tags, removed_upto, position
                FROM friend_cards
                WHERE user_id = $1 AND friend_id IN ({})",
                places(2, chunk.len())
            );
            for row in self.0.query(sql, of(user_id, chunk)).await? {
                let card = CardRow {
                    remark: row.opt_text(1)?,
                    tags: row.text(2)?,
                    removed_upto: Position(row.int(3)?),
                    position: Position(row.int(4)?),
                };
                found.push((row.parse(0)?, card));
            }
        }
        Ok(found)
    }

    /// The others between whom and `user_id` something changed after `since`, with when it last did, in that order: a request,
    /// who is in its room and what they are called there, a note.
    pub async fn changed(
        &self,
        user_id: &UserId,
        since: Position,
        limit: i64,
    ) -> Result<Vec<(OwnedUserId, Position)>, Error> {
        const CHANGED: &str = "
            SELECT friend_id, CAST(MAX(position) AS BIGINT)
            FROM (
                SELECT friend_id, position
                FROM friend_requests
                WHERE user_id = $1 AND position > $2
                UNION ALL
                SELECT r.friend_id, m.position
                FROM friend_requests r
                JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id IN (r.user_id, r.friend_id)
                WHERE r.user_id = $1 AND m.position > $2
                UNION ALL
                SELECT friend_id, position
                FROM friend_cards
                WHERE user_id = $1 AND position > $2
            ) changes
            GROUP BY friend_id
            ORDER BY MAX(position), friend_id
            LIMIT $3";
        let rows = self.0.query(CHANGED, args![user_id.as_str(), since, limit]).await?;
        rows.iter().map(|row| Ok((row.parse(0)?, Position(row.int(1)?)))).collect()
    }

    /// Whether `other` is a friend of `user_id`, as `user_id` sees it.
    pub async fn are_friends(&self, user_id: &UserId, other: &UserId) -> Result<bool, Error> {
        let sql = format!("{FRIENDS} AND r.friend_id = $2 LIMIT 1");
        Ok(!self.0.query(sql, args![user_id.as_str(), other.as_str()]).await?.is_empty())
    }

    /// Whether `user_id` has a friend at `server`.
    pub async fn has_friend_at(&self, user_id: &UserId, server: &ServerName) -> Result<bool, Error> {
        let sql = format!("{FRIENDS} AND t.server = $2 LIMIT 1");
        Ok(!self.0.query(sql, args![user_id.as_str(), server.as_str()]).await?.is_empty())
    }
}

/// How many others one query is about.
const AT_ONCE: usize = 200;

fn of(user_id: &UserId, others: &[OwnedUserId]) -> Vec<Arg> {
    let mut args = args![user_id.as_str()];
    args.extend(others.iter().map(|other| Arg::from(other.as_str())));
    args
}

fn tie(row: &Row) -> Result<TieRow, Error> {
    Ok(TieRow {
        friend_id: row.parse(0)?,
        room: RoomNid(row.int(1)?),
        room_id: row.parse(2)?,
        event: EventNid(row.int(3)?),
        is_incoming: row.int(4)? == 1,
        asked_at: row.int(5)?,
        position: Position(row.int(6)?),
        mine: part(row, 7)?,
        theirs: part(row, 12)?,
    })
}

fn part(row: &Row, first: usize) -> Result<Option<Part>, Error> {
    let Some(membership) = row.opt_text(first)? else { return Ok(None) };
    Ok(Some(Part {
        membership: membership.into(),
        sender: row.parse(first + 1)?,
        event: EventNid(row.int(first + 2)?),
        display_name: row.opt_text(first + 3)?,
        avatar_url: row.opt_text(first + 4)?,
    }))
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, room_id, user_id};

    use super::*;
    use crate::{
        RoomVersion,
        rooms::{RoomRow, put_membership, put_room},
        testing::on_each_engine,
    };

    fn note_room(write: &mut Write, nid: i64, room_id: &ruma::RoomId) {
        let snapshot = model::SnapshotNid(0);
        let version = RoomVersion::default();
        let (room_id, room_version) = (room_id.to_owned(), RoomVersionId::V11);
        put_room(
            write,
            &RoomRow { nid: RoomNid(nid), room_id, room_version, version, extremities: Vec::new(), snapshot },
        );
    }

    #[tokio::test]
    async fn whether_two_are_friends_follows_from_the_room_and_from_what_was_removed() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:b.test"));
            let (here, room) = (store.friends(), RoomNid(1));
            let become_ = async |user_id: &UserId, membership: MembershipState| {
                let mut write = Write::new();
                let at = Arg::Position(write.position());
                put_membership(&mut write, room, user_id.as_str(), &membership, alice, EventNid(7), at, None, None);
                store.commit(write).await
            };
            let mut write = Write::new();
            note_room(&mut write, 1, room_id!("!r:a.test"));
            let at = Arg::Position(write.position());
            let asked = RequestRow {
                user_id: alice,
                friend_id: bob,
                room,
                event: EventNid(7),
                is_incoming: false,
                asked_at: 5,
            };
            put_request(&mut write, asked, at);
            store.commit(write).await?;
            become_(alice, MembershipState::Join).await?;
            let invited = become_(bob, MembershipState::Invite).await?;
            let open = async |direction| here.requests(alice, direction, true, Position(i64::MAX), 10).await;
            assert_eq!(open(Direction::Out).await?.len(), 1);
            assert!(open(Direction::In).await?.is_empty());
            assert!(!here.are_friends(alice, bob).await?);

            let joined = become_(bob, MembershipState::Join).await?;
            assert!(open(Direction::Both).await?.is_empty());
            assert_eq!(here.requests(alice, Direction::Both, false, Position(i64::MAX), 10).await?.len(), 1);
            assert!(here.are_friends(alice, bob).await? && here.has_friend_at(alice, bob.server_name()).await?);
            assert!(!here.are_friends(bob, alice).await? && !here.has_friend_at(alice, alice.server_name()).await?);
            assert_eq!(here.changed(alice, invited, 10).await?, [(bob.to_owned(), joined)]);
            assert!(here.changed(alice, joined, 10).await?.is_empty());

            let mut write = Write::new();
            let card = CardRow { remark: Some("Bobby".into()), tags: "[]".into(), ..CardRow::default() };
            put_card(&mut write, alice, bob, &card, true);
            let removed = store.commit(write).await?;
            assert!(!here.are_friends(alice, bob).await?);
            assert_eq!(here.changed(alice, joined, 10).await?, [(bob.to_owned(), removed)]);
            let known = here.cards(alice, &[bob.to_owned()]).await?;
            let expected = CardRow { removed_upto: removed, position: removed, ..card };
            assert_eq!(known, [(bob.to_owned(), expected)]);
            Ok::<_, Error>(())
        })
        .await;
    }
}
