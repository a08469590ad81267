//! A room in memory.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use model::{EventNid, RoomNid, SnapshotNid, StateMap};
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter, sync::Cache};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId, ServerName, events::StateEventType,
    room_version_rules::RoomVersionRules,
};
use store::{RoomVersion, Store, rooms::RoomRow};

use crate::RoomError;

/// A room whose rules, number and latest state are at hand.
pub struct LiveRoom {
    /// Its number.
    pub nid: RoomNid,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// What follows from the version.
    pub rules: RoomVersionRules,
    /// Whose turn it is to extend the room. `None`: what was there proved wrong and must be read again.
    pub(crate) turn: tokio::sync::Mutex<Option<Head>>,
    /// Held by whoever changes who may do what in the room.
    pub(crate) levels: tokio::sync::Mutex<()>,
    /// What other servers send into the room is taken in one delivery after the other.
    pub(crate) inbox: tokio::sync::Semaphore,
    shown: RwLock<Shown>,
    /// Somebody else may have written to the store since the head was read.
    is_doubted: AtomicBool,
}

/// What is shown of a room.
#[derive(Default)]
struct Shown {
    view: Option<View>,
    /// How often it was taken away.
    times: u64,
}

/// The room's state as far as it is durable.
#[derive(Clone)]
pub struct View {
    /// The latest write that is in it.
    pub version: RoomVersion,
    /// The number of its latest event; 0: it has none.
    pub seq: i64,
    /// Its number in the store.
    pub snapshot: SnapshotNid,
    pub(crate) chain: i64,
    /// What holds.
    pub state: StateMap,
    /// The events that none follows yet.
    pub extremities: Arc<[OwnedEventId]>,
    /// The servers with members in the room, and how many.
    pub servers: Servers,
}

/// How many members each server has in a room.
pub type Servers = imbl::OrdMap<OwnedServerName, u32>;

/// A state, and how the store knows it.
#[derive(Clone, Debug)]
pub(crate) struct StoredState {
    pub(crate) snapshot: SnapshotNid,
    /// How many parents `snapshot` has up to a whole one.
    pub(crate) chain: i64,
    pub(crate) state: StateMap,
}

impl View {
    pub(crate) fn stored(&self) -> StoredState {
        StoredState { snapshot: self.snapshot, chain: self.chain, state: self.state.clone() }
    }

    /// The event that holds for `kind` and `state_key`.
    pub fn get(&self, kind: StateEventType, state_key: &str) -> Option<EventNid> {
        self.state.get(&(kind, state_key.to_owned())).copied()
    }
}

/// Where the room's next event goes; may be ahead of what is durable.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) version: RoomVersion,
    /// The number of the latest event.
    pub(crate) seq: i64,
    pub(crate) extremities: Vec<(OwnedEventId, i64)>,
    /// The states after those extremities that may not be in the store yet.
    pub(crate) after: HashMap<OwnedEventId, StateMap>,
    pub(crate) now: StoredState,
    pub(crate) servers: Servers,
}

impl Head {
    /// Leaves open `extremities`, and the event `event_id` besides, after which `state` holds on its branch.
    pub(crate) fn extend(
        &mut self,
        mut extremities: Vec<(OwnedEventId, i64)>,
        (event_id, depth): (OwnedEventId, i64),
        state: StateMap,
    ) {
        self.after.retain(|known, _| extremities.iter().any(|(open, _)| open == known));
        self.after.insert(event_id.clone(), state);
        extremities.push((event_id, depth));
        self.extremities = extremities;
    }

    /// Leaves open `extremities`, some of those that there were.
    pub(crate) fn close_all_but(&mut self, extremities: Vec<(OwnedEventId, i64)>) {
        self.after.retain(|known, _| extremities.iter().any(|(open, _)| open == known));
        self.extremities = extremities;
    }

    pub(crate) fn view(&self) -> View {
        View {
            version: self.version,
            seq: self.seq,
            snapshot: self.now.snapshot,
            chain: self.now.chain,
            state: self.now.state.clone(),
            extremities: self.extremities.iter().map(|(event_id, _)| event_id.clone()).collect(),
            servers: self.servers.clone(),
        }
    }

    /// Somebody of `server` came in.
    pub(crate) fn count_in(&mut self, server: &ServerName) {
        *self.servers.entry(server.to_owned()).or_insert(0) += 1;
    }

    /// Somebody of `server` went out.
    pub(crate) fn count_out(&mut self, server: &ServerName) {
        match self.servers.get_mut(server) {
            Some(members) if *members > 1 => *members -= 1,
            _ => {
                self.servers.remove(server);
            }
        }
    }
}

impl LiveRoom {
    pub(crate) fn from_row(row: &RoomRow) -> Result<Self, RoomError> {
        Self::new(row.nid, row.room_id.clone(), row.room_version.clone(), None)
    }

    pub(crate) fn new(
        nid: RoomNid,
        room_id: OwnedRoomId,
        version: RoomVersionId,
        head: Option<Head>,
    ) -> Result<Self, RoomError> {
        let rules =
            model::rules_of(&version).ok_or_else(|| RoomError::UnsupportedVersion(version.as_str().to_owned()))?;
        Ok(Self {
            nid,
            room_id,
            version,
            rules,
            turn: tokio::sync::Mutex::new(head),
            levels: tokio::sync::Mutex::new(()),
            inbox: tokio::sync::Semaphore::new(1),
            shown: RwLock::default(),
            is_doubted: AtomicBool::new(false),
        })
    }

    /// What is durable of the room's state.
    pub(crate) async fn view(&self, store: &Store) -> Result<View, RoomError> {
        let times = {
            let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(view) = &shown.view {
                return Ok(view.clone());
            }
            shown.times
        };
        let view = Head::load(store, &self.room_id).await?.view();
        let mut shown = self.shown();
        // What was read before the last view was taken away may be as old as that.
        Ok(if shown.times == times { shown.advance(view) } else { view })
    }

    /// Shows `view`, unless a later one is shown already. Answers what is shown.
    pub(crate) fn advance(&self, view: View) -> View {
        self.shown().advance(view)
    }

    /// Forgets everything: the next who needs it reads it again.
    pub(crate) async fn forget(&self) {
        let mut turn = self.turn.lock().await;
        turn.take();
        self.shown().take_away();
    }

    /// As [`Self::forget`], without waiting for whose turn it is: who has it has built on what is old, and fails.
    pub(crate) fn doubt(&self) {
        self.is_doubted.store(true, Ordering::Release);
        self.shown().take_away();
    }

    /// Whether the head was doubted since this was asked last.
    pub(crate) fn was_doubted(&self) -> bool {
        self.is_doubted.swap(false, Ordering::AcqRel)
    }

    fn shown(&self) -> RwLockWriteGuard<'_, Shown> {
        self.shown.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Head {
    pub(crate) async fn load(store: &Store, room_id: &ruma::RoomId) -> Result<Self, RoomError> {
        let row = store.rooms().find(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        if row.snapshot == SnapshotNid(0) {
            // Known from outside only: nobody here has been in it.
            return Ok(Self { version: row.version, ..Self::default() });
        }
        // If the room goes on between these reads, whoever builds upon them is refused for the version.
        let seq = store.events().latest_seq(row.nid).await?;
        // Snapshots never change, so these belong to the row whatever is written meanwhile.
        let state = store.state().at(row.snapshot).await?;
        let chain = store.state().chain(row.snapshot).await?;
        let mut head = Self {
            version: row.version,
            seq,
            extremities: row.extremities,
            after: HashMap::new(),
            now: StoredState { snapshot: row.snapshot, chain, state },
            servers: Servers::new(),
        };
        for member in store.sync().joined_users(row.nid).await? {
            head.count_in(member.server_name());
        }
        Ok(head)
    }
}

/// Nothing holds.
impl Default for StoredState {
    fn default() -> Self {
        Self { snapshot: SnapshotNid(0), chain: 0, state: StateMap::new() }
    }
}

/// A room that is being made: nothing holds yet.
impl Default for Head {
    fn default() -> Self {
        Self {
            version: RoomVersion::default(),
            seq: 0,
            extremities: Vec::new(),
            after: HashMap::new(),
            now: StoredState::default(),
            servers: Servers::new(),
        }
    }
}

impl Shown {
    fn advance(&mut self, view: View) -> View {
        match &self.view {
            Some(later) if later.version.count >= view.version.count => later.clone(),
            _ => self.view.insert(view).clone(),
        }
    }

    fn take_away(&mut self) {
        self.view = None;
        self.times += 1;
    }
}

/// Rooms are shared by everybody who acts on them.
pub(crate) type SharedRoom = Arc<LiveRoom>;

/// The rooms in memory. Of each there is one at most.
pub(crate) type LiveRooms = Cache<OwnedRoomId, SharedRoom, UnitWeighter, DefaultHashBuilder, WhileUsed>;

/// `capacity`: in rooms.
pub(crate) fn rooms_in_memory(capacity: usize) -> LiveRooms {
    Cache::with(capacity, capacity as u64, UnitWeighter, DefaultHashBuilder::default(), WhileUsed)
}

/// A room that somebody acts on stays in memory: another copy of it would have another turn, and miss what is done there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WhileUsed;

impl Lifecycle<OwnedRoomId, SharedRoom> for WhileUsed {
    type RequestState = ();

    fn is_pinned(&self, _room_id: &OwnedRoomId, room: &SharedRoom) -> bool {
        Arc::strong_count(room) > 1
    }
}
