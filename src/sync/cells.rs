//! What is remembered of a room and of a user.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
};

use model::{EventNid, Position, Receipt, RoomNid};
use ruma::{OwnedRoomId, OwnedUserId, events::room::member::MembershipState};
use tokio::sync::{Notify, OnceCell};

use crate::{Shown, push::Counted};

/// How many receipts, and how many changes of presence, of a room are kept.
const RECENT_RECEIPTS: usize = 256;

/// What happened in a room lately.
pub(crate) struct RoomCell {
    /// The position of the latest thing that members hear of; 0: nothing since this node listens.
    pub(crate) latest: AtomicI64,
    /// Where it stands in lists.
    pub(crate) standing: crate::room_list::Standing,
    inner: Mutex<RoomInner>,
}

pub(crate) struct RoomInner {
    pub(crate) events: Recent<Arc<Shown>>,
    pub(crate) receipts: Recent<Arc<Receipt>>,
    pub(crate) presence: Recent<OwnedUserId>,
    pub(crate) typing: (Position, Arc<[OwnedUserId]>),
    /// What of the room decides whom an event notifies; `None`: not looked up, or no longer true.
    pub(crate) push_context: Option<Arc<crate::push::RoomContext>>,
    /// Moves when `push_context` is no longer true.
    pub(crate) context_version: u64,
    /// The users whose memberships are in memory and who are joined.
    pub(crate) listeners: Vec<Arc<UserCell>>,
}

/// The latest of something, all of it since `floor`.
pub(crate) struct Recent<T> {
    floor: Position,
    items: VecDeque<(Position, T)>,
}

impl<T: Clone> Recent<T> {
    pub(crate) fn since(floor: Position) -> Self {
        Self { floor, items: VecDeque::new() }
    }

    /// Adds what happened at `position`, keeping at most `limit`. Answers by how many this grew.
    pub(crate) fn push(&mut self, position: Position, item: T, limit: usize) -> isize {
        self.items.push_back((position, item));
        if self.items.len() <= limit {
            return 1;
        }
        if let Some((position, _)) = self.items.pop_front() {
            self.floor = position;
        }
        0
    }

    /// Whether all that happened after `since` is here.
    pub(crate) fn covers(&self, since: Position) -> bool {
        since >= self.floor
    }

    pub(crate) fn floor(&self) -> Position {
        self.floor
    }

    pub(crate) fn latest(&self) -> Option<Position> {
        self.items.back().map(|(position, _)| *position)
    }

    /// What is here after `since` and up to `upto`, latest first.
    pub(crate) fn backward(&self, since: Position, upto: Position) -> impl Iterator<Item = &(Position, T)> {
        self.items
            .iter()
            .rev()
            .skip_while(move |(position, _)| *position > upto)
            .take_while(move |(position, _)| *position > since)
    }

    /// Forgets all of it. Answers how many there were.
    pub(crate) fn forget(&mut self) -> usize {
        if let Some((position, _)) = self.items.back() {
            self.floor = *position;
        }
        std::mem::take(&mut self.items).len()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut (Position, T)> {
        self.items.iter_mut()
    }
}

impl RoomCell {
    pub(crate) fn new(floor: Position) -> Self {
        Self {
            latest: AtomicI64::new(0),
            standing: crate::room_list::Standing::default(),
            inner: Mutex::new(RoomInner {
                events: Recent::since(floor),
                receipts: Recent::since(floor),
                presence: Recent::since(floor),
                typing: (Position(0), Arc::new([])),
                push_context: None,
                context_version: 0,
                listeners: Vec::new(),
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, RoomInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RoomInner {
    pub(crate) fn push_receipt(&mut self, position: Position, receipt: Arc<Receipt>) {
        self.receipts.push(position, receipt, RECENT_RECEIPTS);
    }

    pub(crate) fn push_presence(&mut self, position: Position, user_id: OwnedUserId) {
        self.presence.push(position, user_id, RECENT_RECEIPTS);
    }
}

/// What a user is to a room.
#[derive(Clone)]
pub(crate) struct Membership {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) room: Arc<RoomCell>,
    pub(crate) membership: MembershipState,
    /// The membership event, and its position.
    pub(crate) event_nid: EventNid,
    pub(crate) position: Position,
    /// If joined: since when at the latest, without interruption.
    pub(crate) joined_by: Position,
    /// Somebody else made it so.
    pub(crate) by_other: bool,
    pub(crate) forgotten: bool,
}

pub(crate) type Memberships = HashMap<RoomNid, Membership>;

/// What is remembered of a user who syncs.
pub(crate) struct UserCell {
    pub(crate) user_id: OwnedUserId,
    /// The position of the latest thing that concerns the user.
    pub(crate) latest: AtomicI64,
    /// Woken when `latest` moves.
    pub(crate) changed: Notify,
    /// This cell is no longer kept current: get another one.
    pub(crate) stale: AtomicBool,
    pub(crate) loaded: OnceCell<()>,
    /// How many requests use it now.
    pub(crate) in_use: AtomicUsize,
    /// When it was used last, in positions.
    pub(crate) used_at: AtomicI64,
    /// When the user last sent something, milliseconds since 1970.
    pub(crate) active_at: AtomicI64,
    inner: Mutex<UserInner>,
}

pub(crate) struct UserInner {
    pub(crate) memberships: Arc<Memberships>,
    /// Whether the memberships have been read from the store.
    pub(crate) is_loaded: bool,
    /// While memberships are being read: those that changed meanwhile.
    pub(crate) pending: Vec<(RoomNid, Membership)>,
    /// When each of the user's own streams changed last; at the latest when this cell was made.
    pub(crate) account_data: Position,
    pub(crate) to_device: Position,
    /// By device: what is known of its keys and its messages.
    pub(crate) devices: HashMap<String, DeviceCell>,
    /// Moves when what is known of the keys of devices is no longer true.
    pub(crate) keys_epoch: u64,
    pub(crate) unread: HashMap<RoomNid, Arc<Counted>>,
    /// Moves when a count loses its ground.
    pub(crate) unread_epoch: u64,
}

/// What is remembered of a device.
#[derive(Clone, Default)]
pub(crate) struct DeviceCell {
    /// `None`: look it up.
    pub(crate) keys: Option<Arc<crate::answer::KeyCounts>>,
    /// Nothing waits for the device that was sent up to here.
    pub(crate) nothing_waits_upto: Option<Position>,
}

impl UserCell {
    pub(crate) fn new(user_id: OwnedUserId, floor: Position) -> Self {
        Self {
            user_id,
            latest: AtomicI64::new(floor.0),
            changed: Notify::new(),
            stale: AtomicBool::new(false),
            loaded: OnceCell::new(),
            in_use: AtomicUsize::new(0),
            used_at: AtomicI64::new(floor.0),
            active_at: AtomicI64::new(0),
            inner: Mutex::new(UserInner {
                memberships: Arc::default(),
                is_loaded: false,
                pending: Vec::new(),
                account_data: floor,
                to_device: floor,
                devices: HashMap::new(),
                keys_epoch: 0,
                unread: HashMap::new(),
                unread_epoch: 0,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, UserInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn touch(&self, position: Position) {
        self.latest.fetch_max(position.0, Ordering::AcqRel);
    }

    pub(crate) fn latest(&self) -> Position {
        Position(self.latest.load(Ordering::Acquire))
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }
}

impl UserInner {
    /// The user has read something, or left: counts begin anew.
    pub(crate) fn forget_unread(&mut self, room: RoomNid) {
        self.unread.remove(&room);
        self.unread_epoch += 1;
    }

    /// Keys of the user's devices were given out, uploaded, or are gone.
    pub(crate) fn forget_keys(&mut self) {
        self.devices.values_mut().for_each(|device| device.keys = None);
        self.keys_epoch += 1;
    }

    pub(crate) fn known_memberships(&self) -> Option<Arc<Memberships>> {
        self.is_loaded.then(|| self.memberships.clone())
    }
}

/// A user's cell for as long as a request uses it.
pub(crate) struct InUse(pub(crate) Arc<UserCell>);

impl InUse {
    pub(crate) fn new(cell: Arc<UserCell>) -> Self {
        cell.in_use.fetch_add(1, Ordering::AcqRel);
        Self(cell)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

impl std::ops::Deref for InUse {
    type Target = Arc<UserCell>;

    fn deref(&self) -> &Arc<UserCell> {
        &self.0
    }
}
