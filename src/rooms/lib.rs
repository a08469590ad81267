//! Rooms: how they are made, who is in them, and what is said.
//!
//! **Invariant.** Every new event enters a room through one door, [`timeline`](timeline)'s `append`, whoever made it.
//! Inside, one at a time for each room: build on the head, authorise against the state, sign, hand to the writer. Waiting
//! for the commit happens outside, so that consecutive events of a busy room share one.
//!
//! **To add an act on rooms:** a file with an `impl Rooms`, which makes [`model::Draft`]s and appends them.

mod aliases;
mod auth;
mod backfill;
mod bundles;
mod ceiling;
mod client_event;
mod create;
mod delayed;
mod direct;
mod directory;
mod error;
mod extension;
mod friends;
#[cfg(test)]
mod friends_tests;
mod gate;
#[cfg(test)]
mod gate_tests;
mod groups;
mod held;
mod history;
mod host;
mod invitations;
mod invite;
mod join_remote;
mod judge;
mod kept_acl;
mod lifetime;
mod live;
mod membership;
mod memory;
mod messages;
mod missing;
mod nearest;
mod numbered;
mod outliers;
mod outside;
mod policy;
mod reactions;
mod receive;
mod relations;
mod reports;
mod resolve;
mod roles;
mod scheduled;
mod search;
mod send;
mod serve;
mod servers;
#[cfg(test)]
mod shared_tests;
mod spaces;
mod spaces_elsewhere;
mod state;
mod state_res_v1;
#[cfg(test)]
mod tests;
mod timeline;
mod transfers;
mod upgrade;
mod visibility;

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model::{Change, Committed, Millis, SigningKey, SnapshotNid, StateMap, gate::GateSlot};
use peers::Peers;
use quick_cache::sync::Cache;
use ruma::{OwnedEventId, RoomId, RoomVersionId, ServerName};
use store::Store;

use live::LiveRooms;
use memory::Memory;

pub use ceiling::CEILING;
pub use client_event::Reader;
pub use create::NewRoom;
pub use delayed::{Delayed, DelayedAct, DelayedState, LONGEST_DELAY};
pub use directory::Listing;
pub use error::RoomError;
pub use friends::{
    FRIEND_REQUEST, Friend, FriendDirection, FriendError, FriendPage, FriendRequest, Note, RequestPage, RequestState,
};
pub use groups::{Door, Order};
pub use held::HeldError;
pub use history::{Context, Page, PageRequest};
pub use host::{Entrance, Template};
pub use invitations::Invited;
pub use invite::Invitation;
pub use judge::Verdict;
pub use kept_acl::KeptAcl;
pub use lifetime::{LIFETIME, Lifetime};
pub use live::{LiveRoom, Servers, View};
pub use membership::{Change as MembershipChange, Target};
pub use messages::{Recall, WITHDRAWS};
pub use numbered::{Edge, Stretch, StretchRequest};
pub use reactions::Reactions;
pub use receive::{ReceiveError, Received};
pub use relations::{RECURSION_DEPTH, Related, RelationsRequest};
pub use reports::{Decision, ReportError, ReportTarget};
pub use roles::{Member, Role};
pub use scheduled::{Scheduled, ScheduledState};
pub use search::{
    Cursor as SearchCursor, Found, Order as SearchOrder, Search, SearchConfig, SearchError, SearchKey, SearchPage,
    SearchRequest,
};
pub use send::{Sent, Wish};
pub use spaces::{Branch, Tree, TreeRequest};
pub use timeline::Transaction;
pub use transfers::{
    NewTransfer, OfferedFile, TRANSFER, TRANSFER_ANSWER, Transfer, TransferAnswer, TransferError, TransferPage,
    TransferState,
};
pub use visibility::Sight;

/// What rooms are like here.
#[derive(Clone, Debug)]
pub struct RoomsConfig {
    /// The room version of new rooms whose maker doesn't choose one.
    pub default_version: RoomVersionId,
    /// For how long people may take back what they said, on the native API; who moderates always may. Zero: forever.
    pub recall_window: Duration,
    /// How many rooms are kept in memory with their state.
    pub cached_rooms: usize,
    /// How many events are kept in memory.
    pub cached_events: usize,
}

impl Default for RoomsConfig {
    fn default() -> Self {
        Self {
            default_version: RoomVersionId::V12,
            recall_window: Duration::from_secs(2 * 60),
            cached_rooms: 2_000,
            cached_events: 20_000,
        }
    }
}

/// How many earlier states of rooms are kept in memory; neighbours share most of theirs.
const CACHED_STATES: usize = 1_000;
/// How many rooms elsewhere are remembered.
const TOLD_ROOMS: usize = 1_000;
/// How many answers to clients' transactions are kept in memory; all of them are in the store.
const RECENT_TRANSACTIONS: usize = 4_096;

/// The rooms of this deployment. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    peers: Peers,
    key: Arc<SigningKey>,
    config: RoomsConfig,
    live: LiveRooms,
    memory: Memory,
    /// States that rooms were in.
    states: Cache<SnapshotNid, StateMap>,
    /// What clients' latest transactions came to.
    sent: Cache<Transaction, OwnedEventId>,
    /// What other servers told of rooms that nobody here is in.
    told: spaces_elsewhere::Told,
    /// Rooms whose access control lists this server keeps.
    acls: kept_acl::KeptAcls,
    gate: GateSlot,
    /// For how long people may take back what they said, in milliseconds; 0: for ever.
    recall_window: AtomicI64,
    /// Something was scheduled, maybe for soon.
    timed: tokio::sync::Notify,
}

impl Rooms {
    /// `key`: what this server signs events with, and the name it does so for.
    pub fn new(store: Store, peers: Peers, key: Arc<SigningKey>, config: RoomsConfig) -> Self {
        let live = live::rooms_in_memory(config.cached_rooms);
        let memory = Memory::new(config.cached_events);
        let states = Cache::new(CACHED_STATES);
        let sent = Cache::new(RECENT_TRANSACTIONS);
        let told = Cache::new(TOLD_ROOMS);
        let acls = kept_acl::KeptAcls::default();
        let gate = GateSlot::default();
        let timed = tokio::sync::Notify::new();
        let recall_window = AtomicI64::new(millis(config.recall_window));
        let shared =
            Shared { store, peers, key, config, live, memory, states, sent, told, acls, gate, recall_window, timed };
        Self { shared: Arc::new(shared) }
    }

    /// Where to put whoever is to be asked before something is done in a room.
    pub fn gate(&self) -> &GateSlot {
        &self.shared.gate
    }

    /// How far other servers are trusted.
    pub fn trust(&self) -> &peers::Trust {
        self.shared.peers.trust()
    }

    /// The name of this server.
    pub fn server_name(&self) -> &ServerName {
        self.shared.key.server_name()
    }

    /// The room version of new rooms whose maker doesn't choose one.
    pub fn default_version(&self) -> &RoomVersionId {
        &self.shared.config.default_version
    }

    /// The room called `room_id`, from memory or from the store.
    pub async fn get(&self, room_id: &RoomId) -> Result<Arc<LiveRoom>, RoomError> {
        if let Some(room) = self.shared.live.get(room_id) {
            return Ok(room);
        }
        let row = self.shared.store.rooms().find(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let room = Arc::new(LiveRoom::from_row(&row)?);
        // Two who load one room at once must agree on one copy, or its turn would be two.
        Ok(match self.shared.live.get_value_or_guard(room_id, None) {
            quick_cache::sync::GuardResult::Value(room) => room,
            quick_cache::sync::GuardResult::Guard(guard) => {
                // The guard is gone only if the room was put in by another way meanwhile.
                match guard.insert(room.clone()) {
                    Ok(()) => room,
                    Err(room) => self.shared.live.get(room_id).unwrap_or(room),
                }
            }
            quick_cache::sync::GuardResult::Timeout => room,
        })
    }

    /// Reads those rooms again of which `committed` tells something: another node wrote to them.
    pub fn forget_changed(&self, committed: &Committed) {
        let changed = committed.changes.iter().filter_map(|(_, change)| match change {
            Change::Event(event) | Change::Redacted(event) | Change::OutsideMembership(event) => Some(event),
            _ => None,
        });
        let mut nids = Vec::new();
        for event in changed {
            if let Some(room) = self.shared.live.get(&event.pdu.room_id) {
                room.doubt();
            }
            nids.push(event.nid);
        }
        self.shared.memory.forget(nids);
    }

    /// Reads every room again when it is next needed: somebody else may have written to the store.
    pub fn forget_all(&self) {
        // The rooms themselves stay: those who act on one must go on doing so on the same.
        for (_, room) in self.shared.live.iter() {
            room.doubt();
        }
        self.shared.memory.forget_all();
    }
}

/// Milliseconds since 1970.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// A length of time in milliseconds.
fn millis(length: Duration) -> Millis {
    Millis::try_from(length.as_millis()).unwrap_or(Millis::MAX)
}
