//! What has just become durable, for everybody who waits for it.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId,
    events::receipt::{ReceiptThread, ReceiptType},
};

use crate::{EventNid, Millis, Pdu, Position, RoomNid, SnapshotNid, peer::TrustLevel};

/// What has become durable and visible, in order.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Everything up to here may be read.
    pub upto: Position,
    /// What happened since the last one.
    pub changes: Arc<[(Position, Change)]>,
    /// Something up to `upto` happened that `changes` doesn't tell: whoever remembers must look it up.
    pub gap: bool,
    /// It was written by somebody else: whoever remembers what rooms are like must read those anew that changed, or all if there is a
    /// gap. What follows from it for others than those who read here, the node sees to that wrote it.
    pub foreign: bool,
}

/// One thing that happened, at one position.
#[derive(Clone, Debug)]
pub enum Change {
    /// An event became visible in a room's timeline.
    Event(Arc<TimelineEvent>),
    /// An event that was in a timeline already lost its content to a redaction: this is what is left of it.
    Redacted(Arc<TimelineEvent>),
    /// Somebody's membership of a room that this server isn't in changed: invited, or no longer.
    OutsideMembership(Arc<TimelineEvent>),
    /// Who types in a room changed. Lives in memory only.
    Typing {
        /// The room.
        room_nid: RoomNid,
        /// The room.
        room_id: OwnedRoomId,
        /// Everybody who types now.
        user_ids: Arc<[OwnedUserId]>,
    },
    /// Somebody has read on in a room. Of a private receipt only its user hears.
    Receipt {
        /// The room.
        room_nid: RoomNid,
        /// The room.
        room_id: OwnedRoomId,
        /// Who has read, and how far.
        receipt: Arc<Receipt>,
    },
    /// Other servers are owed something new.
    Outgoing {
        /// Which servers.
        destinations: Arc<[OwnedServerName]>,
    },
    /// Something changed that belongs to a user, or that those who share a room with the user hear of.
    User {
        /// The user.
        user_id: OwnedUserId,
        /// What of the user's.
        stream: UserStream,
    },
    /// Another node has written somebody's presence.
    PresenceElsewhere {
        /// The user.
        user_id: OwnedUserId,
        /// The rooms that the user has joined: who is in them hears of it.
        room_nids: Arc<[RoomNid]>,
    },
    /// A system event was recorded.
    SystemEvent {
        /// Its id.
        id: Arc<str>,
    },
    /// A broadcast was published, or called back.
    Broadcast {
        /// Its id.
        id: Arc<str>,
    },
}

/// How far somebody has read.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Who.
    pub user_id: OwnedUserId,
    /// Public or private.
    pub kind: ReceiptType,
    /// Of which thread.
    pub thread: ReceiptThread,
    /// Up to which event.
    pub event_id: OwnedEventId,
    /// Where that event lies in its room's timeline.
    pub event_position: Position,
    /// When it was read.
    pub at: Millis,
}

/// The streams that a user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UserStream {
    /// Account data, global or of a room, push rules and tags among it.
    AccountData,
    /// Messages to the user's devices.
    ToDevice,
    /// The user's device keys or cross-signing keys: heard by all who share a room.
    DeviceKeys,
    /// How many one-time keys are left; heard by the user's own devices.
    OneTimeKeys,
    /// Presence: heard by all who share a room.
    Presence,
}

/// An event in its place in a room's timeline.
#[derive(Clone, Debug)]
pub struct TimelineEvent {
    /// The event's number.
    pub nid: EventNid,
    /// The room's number.
    pub room_nid: RoomNid,
    /// When it became visible. For an event on its way to the store: not yet known, 0.
    pub position: Position,
    /// Its number in its room: 1, 2, 3 … in the order of positions, without a gap. `None`: an outlier, or history that came
    /// later.
    pub seq: Option<i64>,
    /// The state in which it was made; `None`: not known.
    pub state_before: Option<SnapshotNid>,
    /// The room's state right after it, where that isn't `state_before` and what the event changed: it came from a branch
    /// of the room's graph.
    pub room_state: Option<SnapshotNid>,
    /// The event itself.
    pub pdu: Arc<Pdu>,
    /// `(device id, transaction id)` of the client that sent it, which is told so.
    pub transaction_id: Option<(String, String)>,
    /// The event that redacted it.
    pub redacted_by: Option<OwnedEventId>,
    /// Allowed by its own state but not by the room's: kept, never shown.
    pub soft_failed: bool,
    /// The least trust that the sender's server must have for people to be shown the event. Set for what came while it had less.
    pub withheld_below: Option<TrustLevel>,
}
