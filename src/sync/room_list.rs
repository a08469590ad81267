//! In which order somebody's rooms stand in a list, and what lists are filtered by: one engine for the conversations of the native face
//! and for sliding sync.
//!
//! A room is looked up once; from then on the notifier tells its cell what happens, so that ordering costs no query.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use model::{Position, RoomNid};
use ruma::events::{TimelineEventType, room::member::MembershipState};
use store::conversations::Activity;

use crate::{Shown, SyncError, cells::Membership, request::Look};

/// What brings a room up.
///
/// Spec: <https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/4186-simplified-sliding-sync.md>
const BUMPS: [&str; 7] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "m.beacon_info",
];

/// Where a room stands in lists: positions of the latest things in it.
#[derive(Default)]
pub(crate) struct Standing {
    /// What was there before this node listened has been looked up.
    is_known: AtomicBool,
    happened: AtomicI64,
    said: AtomicI64,
    bumped: AtomicI64,
    /// The latest receipt since this node listens; 0: none.
    read: AtomicI64,
    /// Its type, once looked up; `None` in it: an ordinary room.
    kind: OnceLock<Option<String>>,
    is_encrypted: AtomicBool,
}

impl Standing {
    /// Takes note of an event.
    pub(crate) fn note(&self, position: Position, shown: &Shown) {
        self.happened.fetch_max(position.0, Ordering::AcqRel);
        if !shown.is_state() {
            self.said.fetch_max(position.0, Ordering::AcqRel);
        }
        if BUMPS.contains(&&*shown.kind) {
            self.bumped.fetch_max(position.0, Ordering::AcqRel);
        }
        if shown.event.pdu.kind == TimelineEventType::RoomEncryption && shown.event.pdu.state_key.as_deref() == Some("")
        {
            self.is_encrypted.store(true, Ordering::Release);
        }
    }

    pub(crate) fn note_receipt(&self, position: Position) {
        self.read.fetch_max(position.0, Ordering::AcqRel);
    }

    fn learn(&self, activity: Activity) {
        self.happened.fetch_max(activity.happened.0, Ordering::AcqRel);
        self.said.fetch_max(activity.said.0, Ordering::AcqRel);
        self.bumped.fetch_max(activity.bumped.0, Ordering::AcqRel);
        self.is_known.store(true, Ordering::Release);
    }

    /// When anything happened last.
    pub(crate) fn happened(&self) -> Position {
        Position(self.happened.load(Ordering::Acquire))
    }

    /// When something was said last.
    pub(crate) fn said(&self) -> Position {
        Position(self.said.load(Ordering::Acquire))
    }

    /// When something happened last that brings the room up.
    pub(crate) fn bumped(&self) -> Position {
        Position(self.bumped.load(Ordering::Acquire))
    }

    /// When somebody read something last, as far as this node has heard.
    pub(crate) fn read(&self) -> Position {
        Position(self.read.load(Ordering::Acquire))
    }

    /// The room's type; after [`Look::learn_kinds`].
    pub(crate) fn room_type(&self) -> Option<&str> {
        self.kind.get().and_then(Option::as_deref)
    }

    /// Whether only its members' devices can read what is said; after [`Look::learn_kinds`].
    pub(crate) fn is_encrypted(&self) -> bool {
        self.is_encrypted.load(Ordering::Acquire)
    }
}

impl Look<'_> {
    /// The rooms to which the user is `wanted`, those first in which something was said last, with the positions that order them.
    pub(crate) async fn by_activity(&self, wanted: &MembershipState) -> Result<Vec<(Position, RoomNid)>, SyncError> {
        self.learn_activity().await?;
        let is_wanted = |membership: &Membership| membership.membership == *wanted;
        let rooms = self.memberships.iter().filter(|(_, membership)| is_wanted(membership));
        let position = |membership: &Membership| match membership.membership {
            MembershipState::Join => membership.room.standing.said(),
            _ => membership.position,
        };
        let mut ordered: Vec<(Position, RoomNid)> = rooms.map(|(nid, room)| (position(room), *nid)).collect();
        ordered.sort_unstable_by(|one, other| other.cmp(one));
        Ok(ordered)
    }

    /// Looks up when something happened last in the user's rooms. No query for rooms that were looked up before.
    pub(crate) async fn learn_activity(&self) -> Result<(), SyncError> {
        let is_unknown = |membership: &Membership| !membership.room.standing.is_known.load(Ordering::Acquire);
        let unknown: Vec<RoomNid> =
            self.joined().filter(|(_, membership)| is_unknown(membership)).map(|(nid, _)| nid).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        for (nid, activity) in self.sync.shared.store.conversations().activity(&unknown).await? {
            if let Some(membership) = self.memberships.get(&nid) {
                membership.room.standing.learn(activity);
            }
        }
        Ok(())
    }

    /// Looks up of what kind the user's rooms are. No query for rooms that were looked up before.
    pub(crate) async fn learn_kinds(&self) -> Result<(), SyncError> {
        let unknown: Vec<RoomNid> = self
            .joined()
            .filter(|(_, membership)| membership.room.standing.kind.get().is_none())
            .map(|(nid, _)| nid)
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut kinds = self.sync.shared.store.sliding().kinds(&unknown).await?;
        for nid in unknown {
            let Some(membership) = self.memberships.get(&nid) else { continue };
            let kind = kinds.remove(&nid).unwrap_or_default();
            let standing = &membership.room.standing;
            if kind.is_encrypted {
                standing.is_encrypted.store(true, Ordering::Release);
            }
            standing.kind.set(kind.room_type).ok();
        }
        Ok(())
    }
}
