//! What a feed tells.

use std::sync::Arc;

use model::{Position, Receipt};
use ruma::{OwnedRoomId, OwnedUserId, events::room::member::MembershipState};

use crate::{PresenceNow, Reader, Shown, UnreadCounts};

/// From where a feed goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From now on.
    Fresh,
    /// From where the reader was.
    Resumed,
    /// From now on, although the reader asked for more: what it knows of its conversations is to be fetched anew.
    Reset(Reset),
}

/// Why a feed can't go on from where its reader was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The position is none of this server's.
    Unknown,
    /// More has happened since than is told one by one.
    TooOld,
}

impl Reset {
    /// What programs may rely on.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_position",
            Self::TooOld => "too_old",
        }
    }
}

/// One thing that a reader is told.
pub struct Item {
    /// When it happened: who has this one goes on from here.
    pub position: Position,
    /// What it is.
    pub news: News,
}

/// What happened.
pub enum News {
    /// An event in a room that the reader is in.
    Event {
        /// The event.
        shown: Arc<Shown>,
        /// What the reader is to it.
        reader: Reader,
    },
    /// The reader's own membership of a room changed.
    Membership {
        /// Which room.
        room_id: OwnedRoomId,
        /// What the reader is now.
        membership: MembershipState,
        /// The event that says so.
        shown: Arc<Shown>,
    },
    /// Somebody has read on.
    Receipt {
        /// Where.
        room_id: OwnedRoomId,
        /// Who, and how far.
        receipt: Arc<Receipt>,
        /// If it was the reader: what is left.
        unread: Option<UnreadCounts>,
    },
    /// Who types has changed.
    Typing {
        /// Where.
        room_id: OwnedRoomId,
        /// All who type now.
        user_ids: Vec<OwnedUserId>,
    },
    /// Somebody whose presence the reader follows came or went.
    Presence(PresenceNow),
    /// What the user keeps here has changed.
    AccountData {
        /// Of which room; `None`: of all.
        room_id: Option<OwnedRoomId>,
        /// Of which type.
        kind: String,
    },
    /// Devices of the reader's came, went or changed: whether this one's session goes on is to be looked up.
    OwnDevices,
}
