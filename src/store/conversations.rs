//! What a list of somebody's conversations needs besides what a sync has in memory.

use std::collections::{HashMap, HashSet};

use model::{Millis, Position, RoomNid};
use ruma::{EventId, OwnedEventId, OwnedUserId, UserId, events::room::member::MembershipState};

use crate::{Arg, Error, Store, Table, Write, args, places};

static HIDDEN: Table = Table {
    insert: "INSERT INTO hidden_messages (user_id, room_nid, event_id, hidden_at)",
    columns: 4,
    conflict: "ON CONFLICT DO NOTHING",
    key: 3,
};

/// So many ids are asked for at once.
const AT_ONCE: usize = 64;

/// `user_id` wants to see a message no more.
pub fn hide(write: &mut Write, user_id: &UserId, room: RoomNid, event_id: &EventId, now: Millis) {
    write.insert(&HIDDEN, args![user_id.as_str(), room.0, event_id.as_str(), now]);
}

/// What a room shows of itself, as the contents of its state events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Face {
    /// By type: `m.room.name`, `m.room.topic`, `m.room.avatar`, `m.room.encryption`; each is the whole event as JSON.
    pub state: HashMap<String, String>,
    /// The number of the room's latest event; 0: none has one.
    pub last_seq: i64,
}

/// When something happened last in a room; position 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Anything.
    pub happened: Position,
    /// Something that is no state, as far as it is among the room's latest twenty events.
    pub said: Position,
    /// Something that brings the room up in a list of sliding sync, as far as it is among the room's latest fifty events.
    pub bumped: Position,
}

/// A member as the room knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberName {
    /// Who.
    pub user_id: OwnedUserId,
    /// join, invite, leave …
    pub membership: MembershipState,
    /// What the member is called there.
    pub display_name: Option<String>,
    /// The member's picture there.
    pub avatar_url: Option<String>,
}

/// Reads for lists of conversations.
pub struct Conversations<'a>(pub(crate) &'a Store);

impl Conversations<'_> {
    /// When something happened last in each of these rooms.
    pub async fn activity(&self, rooms: &[RoomNid]) -> Result<Vec<(RoomNid, Activity)>, Error> {
        let mut found = Vec::with_capacity(rooms.len());
        for chunk in rooms.chunks(AT_ONCE) {
            // Statements of few sizes are prepared once.
            let size = chunk.len().next_power_of_two();
            let nids: Vec<Arg> = (0..size).map(|at| Arg::Int(chunk[at.min(chunk.len() - 1)].0)).collect();
            let sql = format!(
                "SELECT r.nid, (
                     SELECT MAX(e.position) FROM events e WHERE e.room_nid = r.nid AND e.position IS NOT NULL
                 ), (
                     SELECT COALESCE(MAX(CASE WHEN latest.state_key IS NULL THEN latest.position END), MIN(latest.position))
                     FROM (
                         SELECT e.position, e.state_key
                         FROM events e
                         WHERE e.room_nid = r.nid AND e.position IS NOT NULL
                         ORDER BY e.position DESC
                         LIMIT 20
                     ) AS latest
                 ), (
                     SELECT COALESCE(MAX(CASE WHEN latest.type IN (
                         'm.room.create', 'm.room.message', 'm.room.encrypted', 'm.sticker', 'm.call.invite', 'm.poll.start',
                         'm.beacon_info'
                     ) THEN latest.position END), MIN(latest.position))
                     FROM (
                         SELECT e.position, e.type
                         FROM events e
                         WHERE e.room_nid = r.nid AND e.position IS NOT NULL
                         ORDER BY e.position DESC
                         LIMIT 50
                     ) AS latest
                 )
                 FROM rooms r
                 WHERE r.nid IN ({})",
                places(1, size)
            );
            for row in self.0.query(sql, nids).await? {
                let position = |at| Ok::<_, Error>(Position(row.opt_int(at)?.unwrap_or_default()));
                let activity = Activity { happened: position(1)?, said: position(2)?, bumped: position(3)? };
                found.push((RoomNid(row.int(0)?), activity));
            }
        }
        Ok(found)
    }

    /// What these rooms show of themselves.
    pub async fn faces(&self, rooms: &[RoomNid]) -> Result<HashMap<RoomNid, Face>, Error> {
        let mut faces: HashMap<RoomNid, Face> = HashMap::new();
        for chunk in rooms.chunks(AT_ONCE) {
            // Statements of few sizes are prepared once.
            let size = chunk.len().next_power_of_two();
            let nids: Vec<Arg> = (0..size).map(|at| Arg::Int(chunk[at.min(chunk.len() - 1)].0)).collect();
            let state = format!(
                "SELECT c.room_nid, c.type, e.json
                 FROM current_state c
                 JOIN events e ON e.nid = c.event_nid
                 WHERE c.room_nid IN ({}) AND c.state_key = ''
                     AND c.type IN ('m.room.name', 'm.room.topic', 'm.room.avatar', 'm.room.encryption')",
                places(1, size)
            );
            for row in self.0.query(state, nids.clone()).await? {
                faces.entry(RoomNid(row.int(0)?)).or_default().state.insert(row.text(1)?, row.text(2)?);
            }
            let numbers = format!(
                "SELECT r.nid, (
                     SELECT e.seq FROM events e WHERE e.room_nid = r.nid AND e.seq IS NOT NULL ORDER BY e.seq DESC LIMIT 1
                 )
                 FROM rooms r
                 WHERE r.nid IN ({})",
                places(1, size)
            );
            for row in self.0.query(numbers, nids).await? {
                faces.entry(RoomNid(row.int(0)?)).or_default().last_seq = row.opt_int(1)?.unwrap_or_default();
            }
        }
        Ok(faces)
    }

    /// In each of these rooms, the number of the last event that `user_id` has read; none where that isn't known.
    pub async fn read_upto(&self, user_id: &UserId, rooms: &[RoomNid]) -> Result<HashMap<RoomNid, i64>, Error> {
        let mut read = HashMap::new();
        for chunk in rooms.chunks(AT_ONCE) {
            let size = chunk.len().next_power_of_two();
            let sql = format!(
                "SELECT r.room_nid, MAX(e.seq)
                 FROM receipts r
                 JOIN events e ON e.event_id = r.event_id
                 WHERE r.user_id = $1 AND e.seq IS NOT NULL AND r.room_nid IN ({})
                 GROUP BY r.room_nid",
                places(2, size)
            );
            let mut args = args![user_id.as_str()];
            args.extend((0..size).map(|at| Arg::Int(chunk[at.min(chunk.len() - 1)].0)));
            for row in self.0.query(sql, args).await? {
                read.insert(RoomNid(row.int(0)?), row.int(1)?);
            }
        }
        Ok(read)
    }

    /// The members of a room who are called so.
    pub async fn names(&self, room: RoomNid, users: &[OwnedUserId]) -> Result<Vec<MemberName>, Error> {
        let mut names = Vec::with_capacity(users.len());
        for chunk in users.chunks(AT_ONCE) {
            let size = chunk.len().next_power_of_two();
            let sql = format!(
                "SELECT user_id, membership, display_name, avatar_url
                 FROM memberships
                 WHERE room_nid = $1 AND user_id IN ({})",
                places(2, size)
            );
            let mut args = args![room.0];
            args.extend((0..size).map(|at| Arg::from(chunk[at.min(chunk.len() - 1)].as_str())));
            for row in self.0.query(sql, args).await? {
                names.push(MemberName {
                    user_id: row.parse(0)?,
                    membership: row.text(1)?.into(),
                    display_name: row.opt_text(2)?,
                    avatar_url: row.opt_text(3)?,
                });
            }
        }
        Ok(names)
    }

    /// What `user_id` keeps under these types, global and of rooms: `(room id or "", type, content)`.
    pub async fn kept(&self, user_id: &UserId, kinds: &[&str]) -> Result<Vec<(String, String, String)>, Error> {
        let sql = format!(
            "SELECT room_id, type, content FROM account_data WHERE user_id = $1 AND type IN ({})",
            places(2, kinds.len())
        );
        let mut args = args![user_id.as_str()];
        args.extend(kinds.iter().map(|kind| Arg::from(*kind)));
        self.0.query(sql, args).await?.iter().map(|row| Ok((row.text(0)?, row.text(1)?, row.text(2)?))).collect()
    }

    /// The rooms in which `user_id` took something out of sight.
    pub async fn rooms_with_hidden(&self, user_id: &UserId) -> Result<HashSet<RoomNid>, Error> {
        const ROOMS: &str = "SELECT DISTINCT room_nid FROM hidden_messages WHERE user_id = $1";
        self.0.query(ROOMS, args![user_id.as_str()]).await?.iter().map(|row| Ok(RoomNid(row.int(0)?))).collect()
    }

    /// Which of these messages `user_id` took out of sight.
    pub async fn hidden(
        &self,
        user_id: &UserId,
        room: RoomNid,
        among: &[OwnedEventId],
    ) -> Result<HashSet<OwnedEventId>, Error> {
        let mut hidden = HashSet::new();
        for chunk in among.chunks(AT_ONCE) {
            let size = chunk.len().next_power_of_two();
            let sql = format!(
                "SELECT event_id FROM hidden_messages WHERE user_id = $1 AND room_nid = $2 AND event_id IN ({})",
                places(3, size)
            );
            let mut args = args![user_id.as_str(), room.0];
            args.extend((0..size).map(|at| Arg::from(chunk[at.min(chunk.len() - 1)].as_str())));
            for row in self.0.query(sql, args).await? {
                hidden.insert(row.parse(0)?);
            }
        }
        Ok(hidden)
    }

    /// The reactions to these events that were not taken back: `(to which, whose, which event, its content)`, earliest
    /// first, `limit` at most.
    pub async fn reactions(&self, room: RoomNid, to: &[OwnedEventId], limit: i64) -> Result<Vec<ReactionRow>, Error> {
        let mut found = Vec::new();
        for chunk in to.chunks(AT_ONCE) {
            let size = chunk.len().next_power_of_two();
            let sql = format!(
                "SELECT r.parent_id, r.sender, e.event_id, e.json
                 FROM relations r
                 JOIN events e ON e.nid = r.event_nid AND e.redacted_by IS NULL AND e.rejected_at IS NULL
                     AND e.soft_failed_at IS NULL AND e.withheld_below IS NULL
                 WHERE r.room_nid = $1 AND r.rel_type = 'm.annotation' AND r.type = 'm.reaction' AND r.parent_id IN ({})
                 ORDER BY r.position
                 LIMIT $2",
                places(3, size)
            );
            let mut args = args![room.0, limit];
            args.extend((0..size).map(|at| Arg::from(chunk[at.min(chunk.len() - 1)].as_str())));
            for row in self.0.query(sql, args).await? {
                found.push(ReactionRow {
                    parent: row.parse(0)?,
                    sender: row.parse(1)?,
                    event_id: row.parse(2)?,
                    json: row.text(3)?,
                });
            }
        }
        Ok(found)
    }
}

/// A reaction to an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactionRow {
    /// To which event.
    pub parent: OwnedEventId,
    /// Whose.
    pub sender: OwnedUserId,
    /// Which event it is.
    pub event_id: OwnedEventId,
    /// The event, as JSON.
    pub json: String,
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, user_id};

    use super::*;
    use crate::testing::{on_each_engine, on_each_engine_of_old};

    #[tokio::test]
    async fn events_of_a_database_of_old_are_numbered_without_a_gap() {
        on_each_engine_of_old(async |store| {
            for room in [RoomNid(1), RoomNid(26)] {
                let start = Position(i64::MIN + 1);
                let events = store.events().timeline(room, start, None, 100, ruma::api::Direction::Forward).await?;
                let numbers: Vec<_> = events.iter().map(|event| event.seq).collect();
                let expected: Vec<_> = (1..=events.len() as i64).map(Some).collect();
                assert!(events.len() >= 7, "{room:?} has its events");
                assert_eq!(numbers, expected, "{room:?}");
                assert_eq!(store.events().latest_seq(room).await?, events.len() as i64);
                let fifth = store.events().by_seq(room, 5).await?.expect("there are more");
                assert_eq!(fifth.pdu.event_id, events[4].pdu.event_id);
            }
            // What was said counts, and what the room was called later doesn't.
            let activity = store.conversations().activity(&[RoomNid(1)]).await?;
            assert_eq!(activity[0].1.said, Position(14));
            assert!(activity[0].1.happened >= Position(14));
            let faces = store.conversations().faces(&[RoomNid(1), RoomNid(26)]).await?;
            assert_eq!(faces[&RoomNid(1)].last_seq, 14);
            assert!(faces[&RoomNid(26)].state.contains_key("m.room.topic"));
            let read = store.conversations().read_upto(user_id!("@bob:a.test"), &[RoomNid(1)]).await?;
            assert!(read.values().all(|seq| (1..=14).contains(seq)), "{read:?}");
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn what_somebody_hides_is_hidden_for_that_one_only() {
        on_each_engine(async |store| {
            let (alice, bob, one) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"), event_id!("$one"));
            for _ in 0..2 {
                let mut write = Write::new();
                hide(&mut write, alice, RoomNid(1), one, 5);
                store.commit(write).await?;
            }
            let among = [one.to_owned(), event_id!("$two").to_owned()];
            let of = async |user_id| store.conversations().hidden(user_id, RoomNid(1), &among).await;
            assert_eq!(of(alice).await?, HashSet::from([one.to_owned()]));
            assert!(of(bob).await?.is_empty());
            assert_eq!(store.conversations().rooms_with_hidden(alice).await?, HashSet::from([RoomNid(1)]));
            assert!(store.conversations().rooms_with_hidden(bob).await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }
}
