//! Who waits for what: remembers what was committed lately, and wakes those whom it concerns.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use metrics::{counter, gauge};
use model::{Change, Committed, EventNid, Position, Receipt, RoomNid, TimelineEvent, UserStream};
use ruma::{
    OwnedRoomId, OwnedUserId, UserId,
    events::{TimelineEventType, receipt::ReceiptType, room::member::MembershipState},
};
use store::{Store, rooms::MembershipRow};

use crate::{
    Shown, SyncConfig,
    cells::{InUse, Membership, Memberships, RoomCell, UserCell},
    streams::presence::Present,
};

/// How many changes of device lists are kept.
const RECENT_DEVICE_LISTS: usize = 10_000;
/// How many rooms are remembered at most, while nobody in memory is in them.
const QUIET_ROOMS: usize = 10_000;

type OnRedaction = Box<dyn Fn(Option<EventNid>) + Send + std::marker::Sync>;

/// Hears of every commit. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    present: Arc<Mutex<Present>>,
    on_redaction: Mutex<Vec<OnRedaction>>,
    recent_events_per_room: usize,
    recent_events: usize,
    cached_users: usize,
}

/// All of it changes together, so that whoever holds the lock sees one moment.
struct State {
    /// Everything up to here may be told.
    visible: Position,
    /// What isn't remembered here did not happen after this.
    floor: Position,
    rooms: HashMap<RoomNid, Arc<RoomCell>>,
    users: HashMap<OwnedUserId, Arc<UserCell>>,
    /// How many events all rooms remember.
    events: usize,
    device_lists: VecDeque<(Position, OwnedUserId)>,
    device_lists_floor: Position,
}

/// One moment of what a user may see.
pub(crate) struct Moment {
    pub(crate) visible: Position,
    pub(crate) floor: Position,
    pub(crate) memberships: Arc<Memberships>,
}

impl Notifier {
    /// A notifier that has heard of nothing yet.
    pub fn new(config: &SyncConfig) -> Self {
        let state = State {
            visible: Position(0),
            floor: Position(0),
            rooms: HashMap::new(),
            users: HashMap::new(),
            events: 0,
            device_lists: VecDeque::new(),
            device_lists_floor: Position(0),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                present: Arc::default(),
                on_redaction: Mutex::default(),
                recent_events_per_room: config.recent_events_per_room.max(1),
                recent_events: config.recent_events,
                cached_users: config.cached_users,
            }),
        }
    }

    /// What this node knows of who is there.
    pub(crate) fn present(&self) -> Arc<Mutex<Present>> {
        self.shared.present.clone()
    }

    /// Takes note of a commit. Quick, never waits; when it returns, a sync sees what was committed.
    ///
    /// Called in the order of the commits, by one caller at a time.
    pub fn ingest(&self, committed: &Committed) {
        let mut wake = Wake::default();
        let mut redacted = Vec::new();
        if committed.foreign || committed.gap {
            self.shared.present.lock().unwrap_or_else(PoisonError::into_inner).doubt(committed);
        }
        let mut state = self.lock();
        if committed.gap {
            state.forget_everything(committed.upto, &mut wake);
        }
        for (position, change) in committed.changes.iter() {
            match change {
                Change::Event(event) => self.take_event(&mut state, *position, event, &mut wake),
                Change::OutsideMembership(event) => self.take_outside(&mut state, *position, event, &mut wake),
                Change::Redacted(event) => {
                    state.take_redaction(event);
                    redacted.push(event.nid);
                }
                Change::Typing { room_nid, user_ids, .. } => {
                    let room = state.room(*room_nid);
                    room.lock().typing = (*position, user_ids.clone());
                    wake.room(&room, *position);
                }
                Change::Receipt { room_nid, receipt, .. } => {
                    state.take_receipt(*room_nid, *position, receipt, &mut wake);
                }
                Change::Outgoing { .. } | Change::SystemEvent { .. } | Change::Broadcast { .. } => {}
                Change::PresenceElsewhere { user_id, room_nids } => {
                    state.take_presence(user_id, room_nids, *position, &mut wake);
                }
                Change::User { user_id, stream } => state.take_user(user_id, *stream, *position, &mut wake),
            }
        }
        // A reader who is woken too early would find nothing and ask again at once.
        state.visible = state.visible.max(committed.upto);
        let woken = wake.touch();
        state.keep_bounded(self.shared.recent_events);
        drop(state);

        for listener in self.shared.on_redaction.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if committed.gap {
                listener(None);
            }
            redacted.iter().for_each(|nid| listener(Some(*nid)));
        }
        for user in &woken {
            user.changed.notify_waiters();
        }
        gauge!("comity_sync_visible_position").set(committed.upto.0 as f64);
        counter!("comity_sync_wake_ups_total").increment(woken.len() as u64);
    }

    /// The highest position that may be told.
    pub fn visible(&self) -> Position {
        self.lock().visible
    }

    /// Waits until `position` may be told, if it is anywhere in the database. False: it isn't.
    pub(crate) async fn reach(&self, store: &Store, position: Position) -> Result<bool, store::Error> {
        if position <= self.visible() {
            return Ok(true);
        }
        if !store.is_shared() || position > store.visible_position().await? {
            return Ok(false);
        }
        Ok(self.hear_of(store, position).await)
    }

    /// Waits until this node has heard of a position that is in the database. False: it took too long.
    async fn hear_of(&self, store: &Store, position: Position) -> bool {
        /// How long a position takes at most from the database to [`Notifier::ingest`].
        const INGEST: Duration = Duration::from_secs(5);

        if position <= self.visible() {
            return true;
        }
        // Another node may have written it.
        store.look();
        let heard = async {
            while self.visible() < position {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(INGEST, heard).await.is_ok()
    }

    /// Tells `listener` of every event that loses its content. `None`: any may have lost it.
    pub(crate) fn on_redaction(&self, listener: OnRedaction) {
        self.shared.on_redaction.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// What is remembered of a user; memberships are read from the store the first time.
    pub(crate) async fn user(&self, store: &Store, user_id: &UserId) -> Result<InUse, store::Error> {
        let user = {
            let mut state = self.lock();
            let floor = state.visible;
            let known = state.users.get(user_id).cloned();
            known.unwrap_or_else(|| {
                if state.users.len() >= self.shared.cached_users {
                    state.forget_idle_users();
                }
                let user = Arc::new(UserCell::new(user_id.to_owned(), floor));
                state.users.insert(user_id.to_owned(), user.clone());
                user
            })
        };
        let user = InUse::new(user);
        user.loaded.get_or_try_init(|| self.load(store, &user)).await?;
        Ok(user)
    }

    async fn load(&self, store: &Store, user: &Arc<UserCell>) -> Result<(), store::Error> {
        let rows = store.rooms().memberships_of(&user.user_id).await?;
        // What was read may be ahead of what was told; one moment has both.
        let ahead = rows.iter().map(|row| row.position).max().unwrap_or_default();
        self.hear_of(store, ahead).await;

        let mut state = self.lock();
        let mut inner = user.lock();
        let mut memberships: Memberships =
            rows.into_iter().map(|row| (row.room_nid, membership(row, &mut state))).collect();
        for (room, pending) in std::mem::take(&mut inner.pending) {
            match memberships.entry(room) {
                Entry::Occupied(mut known) if known.get().position < pending.position => {
                    known.insert(pending);
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(unknown) => {
                    unknown.insert(pending);
                }
            }
        }
        for membership in memberships.values() {
            if membership.membership == MembershipState::Join {
                membership.room.lock().listeners.push(user.clone());
            }
        }
        inner.memberships = Arc::new(memberships);
        inner.is_loaded = true;
        drop(inner);
        user.touch(state.visible);
        if user.is_stale() {
            state.detach(user);
        }
        Ok(())
    }

    /// What is remembered of a user, if anything is.
    pub(crate) fn find_user(&self, user_id: &UserId) -> Option<Arc<UserCell>> {
        self.lock().users.get(user_id).cloned()
    }

    /// The users whom a request uses now.
    pub(crate) fn in_use(&self) -> Vec<OwnedUserId> {
        let state = self.lock();
        let in_use = state.users.values().filter(|user| user.in_use.load(Ordering::Acquire) > 0);
        in_use.map(|user| user.user_id.clone()).collect()
    }

    /// What a user may see now, all of one moment. `None`: `user` was forgotten meanwhile and no longer hears of what
    /// becomes visible; ask for the user again.
    pub(crate) fn moment(&self, user: &UserCell) -> Option<Moment> {
        // Users are forgotten under this lock, so none is while the moment is taken.
        let state = self.lock();
        if user.is_stale() {
            return None;
        }
        user.used_at.store(state.visible.0, Ordering::Relaxed);
        Some(Moment { visible: state.visible, floor: state.floor, memberships: user.lock().memberships.clone() })
    }

    /// A user, and what the user may see now.
    pub(crate) async fn user_now(&self, store: &Store, user_id: &UserId) -> Result<(InUse, Moment), store::Error> {
        loop {
            let user = self.user(store, user_id).await?;
            if let Some(moment) = self.moment(&user) {
                return Ok((user, moment));
            }
        }
    }

    /// Whose devices changed after `since` and up to `upto`, with the rooms that each has joined, as far as it is
    /// known. `None`: that is further back than memory reaches.
    #[allow(clippy::type_complexity, reason = "read by one caller")]
    pub(crate) fn device_lists(
        &self,
        since: Position,
        upto: Position,
    ) -> Option<Vec<(OwnedUserId, Option<Arc<Memberships>>)>> {
        let state = self.lock();
        if since < state.device_lists_floor {
            return None;
        }
        let begin = state.device_lists.partition_point(|(position, _)| *position <= since);
        let mut changed = Vec::new();
        for (position, user_id) in state.device_lists.range(begin..) {
            if *position <= upto && !changed.iter().any(|(known, _)| known == user_id) {
                let memberships = state.users.get(user_id).and_then(|user| user.lock().known_memberships());
                changed.push((user_id.clone(), memberships));
            }
        }
        Some(changed)
    }

    /// How many users and events are in memory.
    pub fn sizes(&self) -> (usize, usize) {
        let state = self.lock();
        (state.users.len(), state.events)
    }

    fn take_event(&self, state: &mut State, position: Position, event: &Arc<TimelineEvent>, wake: &mut Wake) {
        if position.0 <= 0 || event.pdu.rejected || event.soft_failed {
            return;
        }
        let room = state.room(event.room_nid);
        let shown = Arc::new(Shown::new(TimelineEvent { position, ..(**event).clone() }));
        room.standing.note(position, &shown);
        {
            let mut inner = room.lock();
            let grown = inner.events.push(position, shown.clone(), self.shared.recent_events_per_room);
            state.events = state.events.saturating_add_signed(grown);
            if matches!(
                event.pdu.kind,
                TimelineEventType::RoomMember
                    | TimelineEventType::RoomPowerLevels
                    | TimelineEventType::RoomName
                    | TimelineEventType::RoomCanonicalAlias
            ) {
                inner.push_context = None;
                inner.context_version += 1;
            }
        }
        if let Some(sender) = state.users.get(&event.pdu.sender) {
            sender.active_at.fetch_max(event.pdu.origin_server_ts.get().into(), Ordering::AcqRel);
        }
        if let Some(membership) = shown.membership() {
            state.take_membership(&shown, &room, membership, wake);
        }
        wake.room(&room, position);
    }

    /// A membership of a room whose timeline this server doesn't have.
    fn take_outside(&self, state: &mut State, position: Position, event: &Arc<TimelineEvent>, wake: &mut Wake) {
        let room = state.room(event.room_nid);
        let shown = Arc::new(Shown::new(TimelineEvent { position, ..(**event).clone() }));
        if let Some(membership) = shown.membership() {
            state.take_membership(&shown, &room, membership, wake);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn room(&mut self, room: RoomNid) -> Arc<RoomCell> {
        let floor = self.floor;
        self.rooms.entry(room).or_insert_with(|| Arc::new(RoomCell::new(floor))).clone()
    }

    fn take_membership(
        &mut self,
        event: &Arc<Shown>,
        room: &Arc<RoomCell>,
        membership: MembershipState,
        wake: &mut Wake,
    ) {
        let Ok(user_id) = <&UserId>::try_from(event.event.pdu.state_key.as_deref().unwrap_or_default()) else { return };
        let Some(user) = self.users.get(user_id).cloned() else { return };
        let (nid, position) = (event.event.room_nid, event.event.position);
        let mut now = Membership {
            room_id: event.event.pdu.room_id.clone(),
            room: room.clone(),
            membership,
            event_nid: event.event.nid,
            position,
            joined_by: position,
            by_other: event.event.pdu.sender != *user_id,
            forgotten: false,
        };
        let mut inner = user.lock();
        if !inner.is_loaded {
            inner.pending.push((nid, now));
            return;
        }
        let before = inner.memberships.get(&nid);
        let was_joined = before.is_some_and(|before| before.membership == MembershipState::Join);
        let is_joined = now.membership == MembershipState::Join;
        if let Some(before) = before.filter(|_| was_joined && is_joined) {
            now.joined_by = before.joined_by;
        }
        Arc::make_mut(&mut inner.memberships).insert(nid, now);
        if !is_joined {
            inner.forget_unread(nid);
        }
        drop(inner);
        match (was_joined, is_joined) {
            (false, true) => room.lock().listeners.push(user.clone()),
            (true, false) => room.lock().listeners.retain(|listener| !Arc::ptr_eq(listener, &user)),
            _ => {}
        }
        wake.user(&user, position);
    }

    fn take_redaction(&mut self, event: &Arc<TimelineEvent>) {
        let Some(room) = self.rooms.get(&event.room_nid) else { return };
        let mut inner = room.lock();
        if let Some((position, shown)) = inner.events.iter_mut().find(|(_, shown)| shown.event.nid == event.nid) {
            *shown = Arc::new(Shown::new(TimelineEvent { position: *position, ..(**event).clone() }));
        }
    }

    fn take_receipt(&mut self, room: RoomNid, position: Position, receipt: &Arc<Receipt>, wake: &mut Wake) {
        let room_cell = self.room(room);
        room_cell.lock().push_receipt(position, receipt.clone());
        let user = self.users.get(&receipt.user_id);
        if let Some(user) = user {
            user.lock().forget_unread(room);
        }
        room_cell.latest.fetch_max(position.0, Ordering::AcqRel);
        room_cell.standing.note_receipt(position);
        match user {
            Some(user) if receipt.kind == ReceiptType::ReadPrivate => wake.user(user, position),
            None if receipt.kind == ReceiptType::ReadPrivate => {}
            _ => wake.room(&room_cell, position),
        }
    }

    /// Another node has written somebody's presence, who need not be known here.
    fn take_presence(&mut self, user_id: &UserId, room_nids: &[RoomNid], position: Position, wake: &mut Wake) {
        if let Some(user) = self.users.get(user_id) {
            wake.user(user, position);
        }
        for nid in room_nids {
            let room = self.room(*nid);
            room.lock().push_presence(position, user_id.to_owned());
            wake.room(&room, position);
        }
    }

    fn take_user(&mut self, user_id: &UserId, stream: UserStream, position: Position, wake: &mut Wake) {
        let user = self.users.get(user_id).cloned();
        if let Some(user) = &user {
            wake.user(user, position);
            let mut inner = user.lock();
            match stream {
                UserStream::AccountData => inner.account_data = position,
                UserStream::ToDevice => inner.to_device = position,
                UserStream::OneTimeKeys | UserStream::DeviceKeys => inner.forget_keys(),
                UserStream::Presence => {}
            }
        }
        match stream {
            UserStream::Presence => {
                let Some(user) = user else { return };
                for room in joined_rooms(&user) {
                    room.lock().push_presence(position, user_id.to_owned());
                    wake.room(&room, position);
                }
            }
            UserStream::DeviceKeys => {
                self.device_lists.push_back((position, user_id.to_owned()));
                if self.device_lists.len() > RECENT_DEVICE_LISTS
                    && let Some((position, _)) = self.device_lists.pop_front()
                {
                    self.device_lists_floor = position;
                }
                match user.filter(|user| user.lock().is_loaded) {
                    Some(user) => joined_rooms(&user).iter().for_each(|room| wake.listeners(room, position)),
                    // Who shares a room with the user isn't known here: let everybody see for themselves.
                    None => self.users.values().for_each(|user| wake.user(user, position)),
                }
            }
            _ => {}
        }
    }

    /// Something happened that nobody told: what is remembered may be wrong.
    fn forget_everything(&mut self, upto: Position, wake: &mut Wake) {
        for (_, user) in std::mem::take(&mut self.users) {
            user.stale.store(true, Ordering::Release);
            wake.user(&user, upto);
        }
        for (_, room) in std::mem::take(&mut self.rooms) {
            room.lock().listeners.clear();
        }
        self.events = 0;
        self.device_lists.clear();
        self.device_lists_floor = upto;
        self.floor = upto;
    }

    fn keep_bounded(&mut self, recent_events: usize) {
        if self.events > recent_events {
            let mut rooms: Vec<(Position, Arc<RoomCell>)> = self
                .rooms
                .values()
                .filter_map(|room| room.lock().events.latest().map(|latest| (latest, room.clone())))
                .collect();
            rooms.sort_unstable_by_key(|(latest, _)| *latest);
            for (_, room) in rooms {
                if self.events <= recent_events * 3 / 4 {
                    break;
                }
                self.events -= room.lock().events.forget();
            }
        }
        if self.rooms.len() > QUIET_ROOMS {
            self.forget_quiet_rooms();
        }
    }

    /// Forgets half of the rooms in which nobody is who is remembered, those first that have been quiet for longest.
    fn forget_quiet_rooms(&mut self) {
        let mut quiet: Vec<(i64, RoomNid)> = self
            .rooms
            .iter()
            // One reference is ours; others are memberships of users in memory.
            .filter(|(_, room)| Arc::strong_count(room) == 1)
            .map(|(nid, room)| (room.latest.load(Ordering::Acquire), *nid))
            .collect();
        quiet.sort_unstable();
        quiet.truncate(quiet.len().div_ceil(2));
        for (latest, nid) in quiet {
            if let Some(room) = self.rooms.remove(&nid) {
                self.events -= room.lock().events.forget();
            }
            // A room that is not remembered has had nothing since the floor.
            self.floor = self.floor.max(Position(latest));
        }
    }

    /// Forgets half of the users that no request uses, those first that came last the longest time ago.
    fn forget_idle_users(&mut self) {
        let mut idle: Vec<(i64, OwnedUserId)> = self
            .users
            .values()
            .filter(|user| user.in_use.load(Ordering::Acquire) == 0)
            .map(|user| (user.used_at.load(Ordering::Relaxed), user.user_id.clone()))
            .collect();
        idle.sort_unstable();
        idle.truncate(idle.len().div_ceil(2));
        for (_, user_id) in idle {
            if let Some(user) = self.users.remove(&user_id) {
                user.stale.store(true, Ordering::Release);
                self.detach(&user);
            }
        }
    }

    fn detach(&self, user: &Arc<UserCell>) {
        for room in joined_rooms(user) {
            room.lock().listeners.retain(|listener| !Arc::ptr_eq(listener, user));
        }
    }
}

fn joined_rooms(user: &UserCell) -> Vec<Arc<RoomCell>> {
    let inner = user.lock();
    let joined = inner.memberships.values().filter(|membership| membership.membership == MembershipState::Join);
    joined.map(|membership| membership.room.clone()).collect()
}

fn membership(row: MembershipRow, state: &mut State) -> Membership {
    let room_id: OwnedRoomId = row.room_id;
    Membership {
        room_id,
        room: state.room(row.room_nid),
        membership: row.membership,
        event_nid: row.event_nid,
        position: row.position,
        joined_by: row.position,
        by_other: row.sender != row.user_id,
        forgotten: row.forgotten,
    }
}

/// Whom a commit concerns, each once, however many of its changes do.
#[derive(Default)]
struct Wake {
    rooms: HashMap<*const RoomCell, (Arc<RoomCell>, Position)>,
    users: Vec<(Arc<UserCell>, Position)>,
    seen: HashSet<*const UserCell>,
}

// The pointers are only compared.
impl Wake {
    /// Something that all members hear of.
    fn room(&mut self, room: &Arc<RoomCell>, position: Position) {
        room.latest.fetch_max(position.0, Ordering::AcqRel);
        self.listeners(room, position);
    }

    /// Something that all members hear of, but not as a part of the room.
    fn listeners(&mut self, room: &Arc<RoomCell>, position: Position) {
        self.rooms.entry(Arc::as_ptr(room)).or_insert_with(|| (room.clone(), position)).1 = position;
    }

    fn user(&mut self, user: &Arc<UserCell>, position: Position) {
        self.users.push((user.clone(), position));
    }

    /// Moves everybody's latest position. Answers who is to be woken.
    fn touch(&mut self) -> Vec<Arc<UserCell>> {
        let mut woken = Vec::new();
        let mut touch = |user: &Arc<UserCell>, position: Position| {
            user.touch(position);
            let waits = user.in_use.load(Ordering::Acquire) > 0;
            if waits && self.seen.insert(Arc::as_ptr(user)) {
                woken.push(user.clone());
            }
        };
        for (_, (room, position)) in self.rooms.drain() {
            room.lock().listeners.iter().for_each(|user| touch(user, position));
        }
        for (user, position) in self.users.drain(..) {
            touch(&user, position);
        }
        woken
    }
}
