//! A room's timeline and state, as one reader may see them.

use std::{collections::HashMap, sync::Arc};

use model::{EventNid, Position, RoomNid, StateKey, StateMap};
use ruma::{
    OwnedUserId,
    events::{
        StateEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};

use crate::{
    Reader, Shown, SyncError, TimelineToken,
    answer::{Event, State, Timeline},
    cells::Membership,
    filter::{allows_event, allows_room, allows_type},
    request::Look,
};

/// How many events are read at once when memory doesn't reach back, and how often for one room.
const BATCH: usize = 50;
const BATCHES: usize = 10;

/// Which stretch of a room's timeline a reader hears of.
#[derive(Clone, Copy)]
pub(crate) struct Stretch {
    /// After this; `None`: from the room's beginning.
    pub(crate) after: Option<Position>,
    pub(crate) upto: Position,
}

/// What was found of it.
pub(crate) struct Found {
    /// What the reader sees, oldest first.
    pub(crate) timeline: Timeline,
    /// The first event of `timeline`.
    first: Option<Arc<Shown>>,
    /// State events that the timeline's filter left out, oldest first.
    left_out: Vec<Arc<Shown>>,
}

impl Look<'_> {
    /// The latest events of a stretch. No query when memory reaches back far enough.
    pub(crate) async fn timeline(
        &self,
        nid: RoomNid,
        membership: &Membership,
        stretch: Stretch,
    ) -> Result<Found, SyncError> {
        let wanted = &self.filter.0.room.timeline;
        let limit = if allows_room(wanted, &membership.room_id) { self.filter.timeline_limit() } else { 0 };
        self.timeline_of(nid, membership, stretch, limit).await
    }

    /// The latest `limit` events of a stretch. No query when memory reaches back far enough.
    pub(crate) async fn timeline_of(
        &self,
        nid: RoomNid,
        membership: &Membership,
        stretch: Stretch,
        limit: usize,
    ) -> Result<Found, SyncError> {
        let wanted = &self.filter.0.room.timeline;
        let mut events: Vec<Event> = Vec::new();
        let mut left_out = Vec::new();
        let mut limited = false;
        let mut source = Source::new(self, nid, membership, stretch);
        'all: while let Some(batch) = source.next().await? {
            for shown in batch {
                let may_see = match self.reader(&shown, membership).await? {
                    Some(reader) if !self.is_ignored(&shown) => Some(reader),
                    _ => None,
                };
                let Some(reader) = may_see else { continue };
                if !allows_event(wanted, &shown) {
                    if shown.is_state() {
                        left_out.push(shown);
                    }
                    continue;
                }
                if events.len() == limit {
                    limited = true;
                    break 'all;
                }
                events.push(Event { shown, reader });
            }
        }
        events.reverse();
        left_out.reverse();
        let first = events.first().map(|event| event.shown.clone());
        for event in &events {
            self.sync.shared.events.complete(&event.shown, &self.sync.shared.states).await?;
        }
        let prev_batch = match &first {
            Some(first) => Position(first.event.position.0 - 1),
            None if limited => stretch.upto,
            None => stretch.after.unwrap_or(stretch.upto),
        };
        let timeline = Timeline { events, limited, prev_batch: Some(TimelineToken(prev_batch)) };
        Ok(Found { timeline, first, left_out })
    }

    /// The state that belongs to a timeline.
    ///
    /// `known_at`: the reader knows the room's state of then. `None`: the reader knows nothing. `heroes`: after whom the
    /// room is called, whom a lazy client must know.
    pub(crate) async fn state(
        &self,
        nid: RoomNid,
        membership: &Membership,
        found: &Found,
        stretch: Stretch,
        known_at: Option<Position>,
        heroes: &[OwnedUserId],
    ) -> Result<State, SyncError> {
        let shared = &self.sync.shared;
        let wanted = &self.filter.0.room.state;
        let mut state = State { events: Vec::new(), is_after: self.use_state_after };
        if !allows_room(wanted, &membership.room_id) {
            return Ok(state);
        }
        let mut entries: HashMap<StateKey, EventNid> = HashMap::new();
        let mut add = |shown: &Arc<Shown>| {
            if let Some(key) = shown.event.pdu.state() {
                entries.insert(key, shown.event.nid);
            }
        };
        // The members whom a lazy client can't do without.
        let mut members: Vec<OwnedUserId> = Vec::new();
        let mut all: Option<StateMap> = None;
        match known_at {
            Some(_) if !found.timeline.limited => found.left_out.iter().for_each(&mut add),
            Some(known_at) => {
                let (then, now) = (
                    self.state_at(nid, membership, known_at).await?,
                    self.state_at_start(nid, membership, found, stretch).await?,
                );
                let differs = |(key, nid): &(&StateKey, &EventNid)| then.get(*key) != Some(*nid);
                entries.extend(now.iter().filter(differs).map(|(key, nid)| (key.clone(), *nid)));
                all = Some(now);
            }
            None => {
                let now = self.state_at_start(nid, membership, found, stretch).await?;
                entries.extend(now.iter().map(|(key, nid)| (key.clone(), *nid)));
                all = Some(now);
                members.push(self.user_id().to_owned());
            }
        }
        let has_branches = found.timeline.events.iter().any(|event| event.shown.event.room_state.is_some());
        if let Some(known_at) = known_at.filter(|_| self.use_state_after && has_branches) {
            // What the branches came to is not what the timeline's events say one after the other.
            let then = self.state_at(nid, membership, known_at).await?;
            let now = self.state_at(nid, membership, stretch.upto).await?;
            entries.extend(
                now.iter().filter(|(key, nid)| then.get(*key) != Some(*nid)).map(|(key, nid)| (key.clone(), *nid)),
            );
        } else if self.use_state_after {
            for event in &found.timeline.events {
                if let Some(key) = event.shown.event.pdu.state() {
                    entries.insert(key, event.shown.event.nid);
                }
            }
        }
        if self.filter.is_lazy() {
            members.extend_from_slice(heroes);
            members.extend(found.timeline.events.iter().map(|event| event.shown.event.pdu.sender.clone()));
            self.keep_needed_members(nid, membership, found, members, all, &mut entries).await?;
        }
        entries.retain(|(kind, _), _| allows_type(wanted, &kind.to_string()));
        let mut events = shared.events.by_nids(entries.into_values()).await?;
        events.retain(|shown| allows_event(wanted, shown) && !self.is_withheld(shown));
        events.sort_unstable_by_key(|shown| (shown.event.position, shown.event.nid));
        for shown in events {
            shared.events.complete(&shown, &shared.states).await?;
            let reader = Reader { membership: None, is_sender: false };
            state.events.push(Event { shown, reader });
        }
        Ok(state)
    }

    /// Of the members, leaves only those who are needed and whom the device wasn't told of.
    async fn keep_needed_members(
        &self,
        nid: RoomNid,
        membership: &Membership,
        found: &Found,
        mut members: Vec<OwnedUserId>,
        all: Option<StateMap>,
        entries: &mut HashMap<StateKey, EventNid>,
    ) -> Result<(), SyncError> {
        members.sort_unstable();
        members.dedup();
        if !self.filter.includes_redundant_members() {
            let (since, upto) = (self.since(), self.upto);
            members = self.sync.shared.lazy.untold(self.user_id(), self.device_id, nid, since, upto, members);
        }
        // Whose membership is in the timeline needs no other.
        let in_timeline = |user_id: &OwnedUserId| {
            let mut events = found.timeline.events.iter();
            events.any(|event| {
                event.shown.kind.as_ref() == "m.room.member"
                    && event.shown.event.pdu.state_key.as_deref() == Some(user_id.as_str())
            })
        };
        if !self.use_state_after {
            members.retain(|user_id| !in_timeline(user_id));
        }
        entries.retain(|(kind, key), _| {
            *kind != StateEventType::RoomMember || members.iter().any(|member| member.as_str() == key)
        });
        let missing: Vec<StateKey> = members
            .into_iter()
            .map(|member| (StateEventType::RoomMember, member.to_string()))
            .filter(|key| !entries.contains_key(key))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let all = match (all, found.timeline.events.last()) {
            (Some(all), _) => all,
            (None, Some(last)) => self.sync.shared.states.before(&last.shown).await?,
            (None, None) => self.state_at(nid, membership, self.upto).await?,
        };
        entries.extend(missing.into_iter().filter_map(|key| Some((key.clone(), *all.get(&key)?))));
        Ok(())
    }

    async fn state_at_start(
        &self,
        nid: RoomNid,
        membership: &Membership,
        found: &Found,
        stretch: Stretch,
    ) -> Result<StateMap, SyncError> {
        match &found.first {
            // Of a branch of the room's graph: what it was made in isn't what the room was in.
            Some(first) if first.event.room_state.is_some() => {
                let just_before = Position(first.event.position.0 - 1);
                self.state_at(nid, membership, just_before).await
            }
            Some(first) => Ok(self.sync.shared.states.before(first).await?),
            None => self.state_at(nid, membership, stretch.upto).await,
        }
    }

    /// The room's state after everything up to `position`.
    pub(crate) async fn state_at(
        &self,
        nid: RoomNid,
        membership: &Membership,
        position: Position,
    ) -> Result<StateMap, SyncError> {
        let recent = {
            let room = membership.room.lock();
            let latest = room.events.backward(Position(i64::MIN), position).next();
            latest.map(|(_, shown)| shown.clone())
        };
        let latest = match recent {
            Some(recent) => Some(recent),
            None => self
                .sync
                .shared
                .events
                .backward(nid, position, None, BATCH)
                .await?
                .into_iter()
                .find(|shown| !shown.event.soft_failed),
        };
        match latest {
            Some(latest) => Ok(self.sync.shared.states.after(&latest).await?),
            None => Ok(StateMap::new()),
        }
    }

    /// Whether the reader isn't shown the event for want of trust in its sender's server. What is done to the reader, the reader
    /// hears of.
    pub(crate) fn is_withheld(&self, shown: &Shown) -> bool {
        shown.event.withheld_below.is_some()
            && shown.event.pdu.state_key.as_deref() != Some(self.user_id().as_str())
            && self.sync.shared.rooms.withholds(&shown.event)
    }

    pub(crate) fn is_ignored(&self, shown: &Shown) -> bool {
        !shown.is_state() && self.ignored.contains(&shown.event.pdu.sender)
    }

    /// What the reader was when the event was made; `None`: the reader may not see it.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>
    pub(crate) async fn reader(&self, shown: &Shown, membership: &Membership) -> Result<Option<Reader>, SyncError> {
        let event = &shown.event;
        let is_sender = event.pdu.sender == *self.user_id()
            && event.transaction_id.as_ref().is_some_and(|(device_id, _)| device_id == self.device_id);
        let reader = |membership| Some(Reader { membership: Some(membership), is_sender });
        if self.is_withheld(shown) {
            return Ok(None);
        }
        // Joined without interruption since before the event: the usual case, and nothing to look up.
        if membership.membership == MembershipState::Join && membership.joined_by <= event.position {
            return Ok(reader(MembershipState::Join));
        }
        let is_own = event.pdu.state_key.as_deref() == Some(self.user_id().as_str());
        let own = shown.membership().filter(|_| is_own);
        let state = match event.state_before {
            Some(snapshot) => self.sync.shared.states.at(snapshot).await?,
            None => StateMap::new(),
        };
        let before = self.membership_in(&state).await?;
        let visibility = self.visibility_in(&state).await?;
        // "m.room.history_visibility" and the reader's own membership count as they are before or after themselves,
        // whichever shows more.
        let visibility_after =
            (shown.kind.as_ref() == "m.room.history_visibility").then(|| visibility_of(shown)).flatten();
        let now = own.clone().unwrap_or_else(|| before.clone());
        let was = [&before, &now];
        let may_see = [Some(visibility), visibility_after].into_iter().flatten().any(|visibility| match visibility {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Shared => {
                was.contains(&&MembershipState::Join) || membership.membership == MembershipState::Join
            }
            HistoryVisibility::Invited => {
                was.contains(&&MembershipState::Join) || was.contains(&&MembershipState::Invite)
            }
            _ => was.contains(&&MembershipState::Join),
        });
        // Whoever is put out is told so.
        if may_see || is_own { Ok(reader(now)) } else { Ok(None) }
    }

    async fn membership_in(&self, state: &StateMap) -> Result<MembershipState, SyncError> {
        let key = (StateEventType::RoomMember, self.user_id().to_string());
        let Some(nid) = state.get(&key) else { return Ok(MembershipState::Leave) };
        let event = self.sync.shared.events.by_nid(*nid).await?;
        Ok(event.and_then(|event| event.membership()).unwrap_or(MembershipState::Leave))
    }

    async fn visibility_in(&self, state: &StateMap) -> Result<HistoryVisibility, SyncError> {
        let key = (StateEventType::RoomHistoryVisibility, String::new());
        let Some(nid) = state.get(&key) else { return Ok(HistoryVisibility::Shared) };
        let event = self.sync.shared.events.by_nid(*nid).await?;
        Ok(event.and_then(|event| visibility_of(&event)).unwrap_or(HistoryVisibility::Shared))
    }

    /// Whether the reader was joined at `position`, going back from the reader's membership event `nid`.
    pub(crate) async fn was_joined(&self, nid: EventNid, position: Position) -> Result<bool, SyncError> {
        let shared = &self.sync.shared;
        let key = (StateEventType::RoomMember, self.user_id().to_string());
        let mut next = Some(nid);
        while let Some(nid) = next {
            let Some(event) = shared.events.by_nid(nid).await? else { break };
            if event.event.position <= position {
                return Ok(event.membership() == Some(MembershipState::Join));
            }
            next = shared.states.before(&event).await?.get(&key).copied();
        }
        Ok(false)
    }
}

fn visibility_of(shown: &Shown) -> Option<HistoryVisibility> {
    #[derive(serde::Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    shown.event.pdu.content_as::<Content>().map(|content| content.history_visibility)
}

/// A stretch of a timeline, latest first: what memory has, then the store.
struct Source<'a> {
    look: &'a Look<'a>,
    nid: RoomNid,
    membership: &'a Membership,
    stretch: Stretch,
    /// Up to where there is still to read; `None`: nothing was read yet.
    rest: Option<Position>,
    is_done: bool,
    batches: usize,
}

impl<'a> Source<'a> {
    fn new(look: &'a Look<'a>, nid: RoomNid, membership: &'a Membership, stretch: Stretch) -> Self {
        Self { look, nid, membership, stretch, rest: None, is_done: false, batches: 0 }
    }

    async fn next(&mut self) -> Result<Option<Vec<Arc<Shown>>>, SyncError> {
        let after = self.stretch.after.unwrap_or(Position(i64::MIN));
        let Some(rest) = self.rest else {
            let room = self.membership.room.lock();
            let recent = room.events.backward(after, self.stretch.upto).map(|(_, shown)| shown.clone()).collect();
            self.is_done = room.events.covers(after);
            self.rest = Some(room.events.floor().min(self.stretch.upto));
            return Ok(Some(recent));
        };
        if self.is_done || self.batches == BATCHES {
            return Ok(None);
        }
        self.batches += 1;
        let events = self.look.sync.shared.events.backward(self.nid, rest, self.stretch.after, BATCH).await?;
        self.is_done = events.len() < BATCH;
        if let Some(last) = events.last() {
            self.rest = Some(Position(last.event.position.0 - 1));
        }
        Ok(Some(events.into_iter().filter(|shown| !shown.event.soft_failed).collect()))
    }
}
