//! Events on their way into a room's timeline, one after the other, as one write.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use imbl::ordmap::DiffItem;
use model::{
    Change, Draft, EventNid, Pdu, Place, Position, ReferenceHashes, SnapshotNid, StateKey, StateMap, TimelineEvent,
    peer::{Capability, Context},
};
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedServerName, UserId,
    canonical_json::redact,
    events::{
        StateEventType, TimelineEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};
use serde::Deserialize;
use store::{Arg, RoomVersion, Write, events, remote_devices, rooms::RoomRow, state};

use crate::{
    RoomError, Rooms,
    auth::{self, AuthState, Subject},
    friends::note_request,
    judge::{Judged, Verdict},
    lifetime::note_lifetime,
    live::{Head, SharedRoom, StoredState},
    send::membership_of,
    timeline::Transaction,
    transfers::note_transfer,
};

/// After so many changes to a state, the next snapshot holds the whole of it.
pub(crate) const LONGEST_CHAIN: i64 = 50;
/// An event follows no more than so many others.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
const MOST_PREV_EVENTS: usize = 20;
/// The largest number that canonical JSON knows: a peer that goes so deep must not keep others from going on.
const DEEPEST: i64 = (1 << 53) - 1;

/// A room's timeline as it grows. What was added is part of the head that the next builds on.
pub(crate) struct Extension<'a> {
    rooms: &'a Rooms,
    room: &'a SharedRoom,
    head: Head,
    from: RoomVersion,
    /// The events added so far that aren't in the store.
    fresh: HashMap<EventNid, Arc<TimelineEvent>>,
    write: Write,
    /// What joined the timeline.
    events: Vec<Arc<TimelineEvent>>,
    /// The state after each of them.
    after: HashMap<OwnedEventId, StoredState>,
    /// What was kept aside.
    kept: Vec<Arc<TimelineEvent>>,
    /// What that comes after.
    aside: HashMap<OwnedEventId, Vec<OwnedEventId>>,
    changed: Vec<EventNid>,
}

/// What extending a room's timeline comes to.
pub(crate) struct Extended {
    /// The room's head after everything that was added.
    pub(crate) head: Head,
    /// What makes it so.
    pub(crate) write: Write,
    /// What joined the timeline.
    pub(crate) events: Vec<Arc<TimelineEvent>>,
    /// What was kept aside. What follows it was made in a state that it is part of.
    pub(crate) kept: Vec<Arc<TimelineEvent>>,
    /// The events of the store that are something else afterwards.
    pub(crate) changed: Vec<EventNid>,
}

/// Where on a room's graph a new event goes.
struct Spot {
    /// The branches that it joins, and how far they go.
    joins: Vec<(OwnedEventId, i64)>,
    /// Those that it leaves open.
    open: Vec<(OwnedEventId, i64)>,
    /// What holds on those that it joins.
    state: StateMap,
}

impl<'a> Extension<'a> {
    pub(crate) fn new(rooms: &'a Rooms, room: &'a SharedRoom, head: Head) -> Self {
        let from = head.version;
        Self {
            rooms,
            room,
            head,
            from,
            fresh: HashMap::new(),
            write: Write::new(),
            events: Vec::new(),
            after: HashMap::new(),
            kept: Vec::new(),
            aside: HashMap::new(),
            changed: Vec::new(),
        }
    }

    pub(crate) fn write(&mut self) -> &mut Write {
        &mut self.write
    }

    pub(crate) fn finish(mut self) -> Extended {
        if let Some(last) = self.events.last() {
            let version = RoomVersion { count: self.from.count + 1, head: last.nid };
            self.write.room_step(self.room.nid, self.from, version);
            self.head.version = version;
            store::rooms::put_room(
                &mut self.write,
                &RoomRow {
                    nid: self.room.nid,
                    room_id: self.room.room_id.clone(),
                    room_version: self.room.version.clone(),
                    version,
                    extremities: self.head.extremities.clone(),
                    snapshot: self.head.now.snapshot,
                },
            );
        }
        let Self { head, write, events, kept, changed, .. } = self;
        Extended { head, write, events, kept, changed }
    }

    // === what somebody here wishes ===

    /// Makes an event of a draft and adds it.
    pub(crate) async fn add_draft(&mut self, draft: Draft, transaction: Option<&Transaction>) -> Result<(), RoomError> {
        let shared = &self.rooms.shared;
        let is_first = self.head.extremities.is_empty();
        let spot = self.spot(&draft.sender).await?;
        let (pdu, auth) = self.seal_at(&spot, draft).await?;
        auth_checked(&pdu, &auth, self.room)?;
        if !spot.open.is_empty() {
            let auth = self.auth_state(&Subject::from(&pdu), &self.head.now.state).await?;
            auth::check_by_state(&pdu, &self.room.rules, &auth)?;
        }
        let before = match spot.open.is_empty() {
            true => self.head.now.clone(),
            false => self.store_state(self.head.now.clone(), spot.state),
        };
        let event = TimelineEvent {
            nid: EventNid(shared.store.next_nid()),
            room_nid: self.room.nid,
            position: Position(0),
            seq: Some(self.next_seq()),
            state_before: (!is_first).then_some(before.snapshot),
            room_state: None,
            pdu: Arc::new(pdu),
            transaction_id: transaction
                .map(|transaction| (transaction.device_id.to_string(), transaction.transaction_id.clone())),
            redacted_by: None,
            soft_failed: false,
            withheld_below: None,
        };
        let mut servers: BTreeSet<OwnedServerName> = self.head.servers.keys().cloned().collect();
        servers.extend(self.uninvited(&event.pdu).await?);
        let offset = self.write.position();
        let is_alone = spot.open.is_empty();
        self.join_branches(&event, before, spot.open, offset).await?;

        let room_state = (!is_alone).then_some(self.head.now.snapshot);
        let event = Arc::new(TimelineEvent { room_state, ..event });
        events::insert(&mut self.write, &event, Arg::Position(offset));
        note_lifetime(&mut self.write, &event, &Arg::Position(offset));
        self.tell(&event, offset).await?;
        self.owe(&event, offset, servers);
        if is_alone {
            self.after.insert(event.pdu.event_id.clone(), self.head.now.clone());
        }
        self.events.push(event);
        Ok(())
    }

    /// Makes an event of a draft on the head, without adding it.
    pub(crate) async fn seal(&self, draft: Draft) -> Result<(Pdu, AuthState), RoomError> {
        self.seal_at(&self.spot(&draft.sender).await?, draft).await
    }

    /// Places a draft on the head: an event that lacks only its hash and its signature.
    pub(crate) async fn place(&self, draft: Draft) -> Result<(CanonicalJsonObject, AuthState), RoomError> {
        self.place_at(&self.spot(&draft.sender).await?, draft).await
    }

    async fn seal_at(&self, spot: &Spot, draft: Draft) -> Result<(Pdu, AuthState), RoomError> {
        let (object, auth) = self.place_at(spot, draft).await?;
        Ok((Pdu::seal(object, &self.room.rules, &self.rooms.shared.key)?, auth))
    }

    async fn place_at(&self, spot: &Spot, draft: Draft) -> Result<(CanonicalJsonObject, AuthState), RoomError> {
        let rules = &self.room.rules;
        let auth = self.auth_state(&(&draft).into(), &spot.state).await?;
        let auth_types = auth::auth_types(&(&draft).into(), rules)?;
        let allowing: Vec<&Arc<Pdu>> = auth_types.iter().filter_map(|key| auth.get(key)).collect();
        let prev_events: Vec<OwnedEventId> = spot.joins.iter().map(|(event_id, _)| event_id.clone()).collect();
        let hashes = self.reference_hashes(&prev_events, &allowing).await?;
        let is_create = draft.kind == TimelineEventType::RoomCreate;
        let room_id = (!is_create || rules.event_format.require_room_create_room_id).then_some(&*self.room.room_id);
        let place = Place {
            room_id,
            prev_events,
            auth_events: allowing.into_iter().map(|pdu| pdu.event_id.clone()).collect(),
            hashes,
            depth: spot.joins.iter().map(|(_, depth)| *depth).max().unwrap_or(0).min(DEEPEST - 1) + 1,
        };
        Ok((draft.place(place, rules)?, auth))
    }

    /// What the events are named with that an event of this room follows and is allowed by, if it is by more than their ids.
    async fn reference_hashes(
        &self,
        prev_events: &[OwnedEventId],
        allowing: &[&Arc<Pdu>],
    ) -> Result<ReferenceHashes, RoomError> {
        let rules = &self.room.rules;
        if !model::names_hashes(rules) {
            return Ok(ReferenceHashes::new());
        }
        let (here, elsewhere): (Vec<_>, Vec<_>) = prev_events
            .iter()
            .map(|event_id| (event_id, self.fresh.values().find(|event| event.pdu.event_id == *event_id)))
            .partition(|(_, event)| event.is_some());
        let elsewhere: Vec<OwnedEventId> = elsewhere.into_iter().map(|(event_id, _)| event_id.clone()).collect();
        let stored = self.rooms.events_by_id(&elsewhere).await?;
        let followed = here.into_iter().filter_map(|(_, event)| event).chain(&stored).map(|event| &event.pdu);
        followed
            .chain(allowing.iter().copied())
            .map(|pdu| Ok((pdu.event_id.clone(), model::reference_hash(&pdu.object(), rules)?)))
            .collect()
    }

    /// Where the next event of `sender` goes: it joins all branches, or, of very many, those on which the sender is what they
    /// are now, and which go furthest.
    async fn spot(&self, sender: &UserId) -> Result<Spot, RoomError> {
        let all = &self.head.extremities;
        if all.len() <= MOST_PREV_EVENTS {
            return Ok(Spot { joins: all.clone(), open: Vec::new(), state: self.head.now.state.clone() });
        }
        let key = (StateEventType::RoomMember, sender.to_string());
        let membership = self.head.now.state.get(&key);
        let states = self.states_after(all).await?;
        let mut branches: Vec<_> = all.iter().cloned().zip(states).collect();
        branches.sort_by_key(|((_, depth), state)| (state.get(&key) != membership, Reverse(*depth)));
        let open = branches.split_off(MOST_PREV_EVENTS).into_iter().map(|(branch, _)| branch).collect();
        let (joins, states) = branches.into_iter().unzip();
        let state = self.rooms.resolve_state(self.room, states, &self.fresh).await?;
        Ok(Spot { joins, open, state })
    }

    // === what was made elsewhere ===

    /// Adds an event that was judged by its own branch of the room's graph. What the room as it is now doesn't allow is
    /// kept, and not shown.
    ///
    /// `also_to`: other servers that are to be sent it, besides those whose sending is ours anyway.
    pub(crate) async fn add_judged(&mut self, judged: &Judged, relay: bool) -> Result<Verdict, RoomError> {
        if let Verdict::Rejected(_) = &judged.verdict {
            self.keep_aside(judged, true);
            return Ok(judged.verdict.clone());
        }
        if judged.is_unapproved {
            self.keep_aside(judged, false);
            return Ok(Verdict::SoftFailed("the room's policy server has not approved of it".into()));
        }
        let before = self.before(judged).await?;
        let is_on_head = before.snapshot == self.head.now.snapshot;
        if !is_on_head {
            // Spec: "Passes authorization rules based on the current state of the room, otherwise it is soft failed."
            let auth = self.auth_state(&Subject::from(&*judged.pdu), &self.head.now.state).await?;
            if let Err(RoomError::Forbidden(reason)) = auth::check_by_state(&judged.pdu, &self.room.rules, &auth) {
                self.keep_aside(judged, false);
                return Ok(Verdict::SoftFailed(reason));
            }
        }
        let servers_before = self.head.servers.clone();
        let offset = self.write.position();
        let server = judged.pdu.sender.server_name();
        let ceiling = self.rooms.ceiling_in(&self.head.now.state).await?;
        let withheld_below = self.rooms.shared.peers.trust().withholds(server, ceiling);
        let seq = Some(self.next_seq());
        let event = TimelineEvent { seq, withheld_below, ..judged.event(Some(before.snapshot), false) };
        let comes_after = self.comes_after(judged);
        let mut open = self.head.extremities.clone();
        open.retain(|(event_id, _)| !comes_after.contains(event_id));
        if !open.is_empty() && self.is_followed(judged).await? {
            self.close_gap(&event, open, offset).await?;
        } else {
            self.join_branches(&event, before, open, offset).await?;
        }

        // What holds afterwards follows from the event itself, unless it came from a branch.
        let room_state = (!is_on_head).then_some(self.head.now.snapshot);
        let event = Arc::new(TimelineEvent { room_state, ..event });
        self.fresh.insert(event.nid, event.clone());
        self.put(judged, &event, Arg::Position(offset));
        events::remove_backward_extremity(&mut self.write, self.room.nid, &event.pdu.event_id);
        for event_id in &judged.missing {
            events::insert_backward_extremity(&mut self.write, self.room.nid, event_id);
        }
        self.tell(&event, offset).await?;
        for redaction in &judged.redactions {
            self.redact(redaction, &event.pdu.event_id).await?;
        }
        if relay || event.pdu.sender.server_name() == self.rooms.server_name() {
            let mut servers: BTreeSet<OwnedServerName> = servers_before.keys().cloned().collect();
            if relay {
                servers.remove(event.pdu.sender.server_name());
            }
            self.owe(&event, offset, servers);
        }
        let after = StoredState { ..self.head.now.clone() };
        if extremities_are(&self.head, &event.pdu.event_id) {
            self.after.insert(event.pdu.event_id.clone(), after);
        }
        self.events.push(event);
        Ok(Verdict::Accepted)
    }

    /// What lies before an event, seen past all that was refused: these are no ends of the room any more.
    fn comes_after(&self, judged: &Judged) -> HashSet<OwnedEventId> {
        let mut found = HashSet::new();
        let mut open: Vec<&OwnedEventId> = judged.comes_after().collect();
        while let Some(event_id) = open.pop() {
            if found.insert(event_id.clone()) {
                open.extend(self.aside.get(event_id).into_iter().flatten());
            }
        }
        found
    }

    /// Whether something in the timeline follows an event already, which was missing until now: then it is no end of the room.
    async fn is_followed(&self, judged: &Judged) -> Result<bool, RoomError> {
        // Whatever follows another lies deeper.
        let deepest = self.head.extremities.iter().map(|(_, depth)| *depth).max().unwrap_or_default();
        if judged.pdu.depth >= deepest {
            return Ok(false);
        }
        let events = self.rooms.shared.store.events();
        Ok(events.is_backward_extremity(self.room.nid, &judged.pdu.event_id).await?)
    }

    /// Keeps an event outside the timeline.
    fn keep_aside(&mut self, judged: &Judged, is_rejected: bool) {
        self.aside.insert(judged.pdu.event_id.clone(), judged.comes_after().cloned().collect());
        let state_before = judged.stored.as_ref().map(|stored| stored.snapshot).or_else(|| {
            let stored = self.store_state(judged.parent.clone().unwrap_or_default(), judged.before.clone());
            Some(stored.snapshot)
        });
        let event = Arc::new(judged.event(state_before, !is_rejected));
        self.put(judged, &event, Arg::NoInt);
        // Not in the timeline, but part of the states in which those were made that follow it.
        self.fresh.insert(event.nid, event.clone());
        self.kept.push(event);
    }

    fn put(&mut self, judged: &Judged, event: &TimelineEvent, position: Arg) {
        if judged.known {
            events::settle(&mut self.write, event, position);
            self.changed.push(event.nid);
        } else {
            events::insert(&mut self.write, event, position);
        }
    }

    /// The state in which an event was made, as the store knows it or will.
    async fn before(&mut self, judged: &Judged) -> Result<StoredState, RoomError> {
        let prevs: HashSet<&OwnedEventId> = judged.pdu.prev_events.iter().collect();
        let is_on_head = prevs.len() == self.head.extremities.len()
            && self.head.extremities.iter().all(|(event_id, _)| prevs.contains(event_id));
        if is_on_head {
            return Ok(self.head.now.clone());
        }
        if let [prev] = judged.pdu.prev_events.as_slice()
            && let Some(after) = self.after.get(prev)
        {
            return Ok(after.clone());
        }
        if let Some(stored) = &judged.stored {
            return Ok(stored.clone());
        }
        if same(&judged.before, &self.head.now.state) {
            return Ok(self.head.now.clone());
        }
        Ok(self.store_state(judged.parent.clone().unwrap_or_default(), judged.before.clone()))
    }

    /// The states after events that nothing follows yet.
    async fn states_after(&self, extremities: &[(OwnedEventId, i64)]) -> Result<Vec<StateMap>, RoomError> {
        let mut states = Vec::with_capacity(extremities.len());
        for (event_id, _) in extremities {
            states.push(match self.head.after.get(event_id) {
                Some(state) => state.clone(),
                None => self.rooms.state_after(event_id).await?.ok_or(RoomError::UnknownEvent)?.state,
            });
        }
        Ok(states)
    }

    // === what both come to ===

    /// The number of the event that joins the timeline now. It counts only if the write does, which is refused when the room
    /// has gone on elsewhere: so no number is given twice, and none is left out.
    fn next_seq(&mut self) -> i64 {
        self.head.seq += 1;
        self.head.seq
    }

    /// The event, made in the state `before`, leaves the branches `open` besides its own. What holds in the room is what
    /// holds on all of them together.
    async fn join_branches(
        &mut self,
        event: &TimelineEvent,
        before: StoredState,
        open: Vec<(OwnedEventId, i64)>,
        offset: u32,
    ) -> Result<(), RoomError> {
        self.fresh.insert(event.nid, Arc::new(event.clone()));
        let own = match event.pdu.state() {
            Some(key) => before.state.update(key, event.nid),
            None => before.state.clone(),
        };
        if open.is_empty() {
            self.set_state(before, own.clone(), offset).await?;
        } else {
            let mut branches = vec![own.clone()];
            branches.extend(self.states_after(&open).await?);
            // What came of the same states before comes of them again.
            if !are_same(&branches, &self.states_after(&self.head.extremities).await?) {
                let resolved = self.rooms.resolve_state(self.room, branches, &self.fresh).await?;
                self.set_state(self.head.now.clone(), resolved, offset).await?;
            }
        }
        self.head.extend(open, (event.pdu.event_id.clone(), event.pdu.depth), own);
        Ok(())
    }

    /// The event was missing between what it follows, which is no end of the room any more, and what follows it.
    async fn close_gap(
        &mut self,
        event: &TimelineEvent,
        open: Vec<(OwnedEventId, i64)>,
        offset: u32,
    ) -> Result<(), RoomError> {
        self.fresh.insert(event.nid, Arc::new(event.clone()));
        if open.len() == self.head.extremities.len() {
            return Ok(());
        }
        let mut branches = self.states_after(&open).await?;
        let state = match branches.len() {
            1 => branches.remove(0),
            _ => self.rooms.resolve_state(self.room, branches, &self.fresh).await?,
        };
        self.set_state(self.head.now.clone(), state, offset).await?;
        self.head.close_all_but(open);
        Ok(())
    }

    async fn tell(&mut self, event: &Arc<TimelineEvent>, offset: u32) -> Result<(), RoomError> {
        self.write.tell(offset, Change::Event(event.clone()));
        note_request(&mut self.write, self.rooms.server_name(), event, &Arg::Position(offset));
        note_transfer(&mut self.write, self.rooms.server_name(), event, &Arg::Position(offset));
        if let Some((parent, rel_type)) = relation(&event.pdu) {
            events::insert_relation(&mut self.write, event, &parent, &rel_type, Arg::Position(offset));
        }
        if let Some(target) = event.pdu.redacts.clone().filter(|_| event.pdu.kind == TimelineEventType::RoomRedaction) {
            self.redact(event, &target).await?;
        }
        Ok(())
    }

    /// The server of whom the event takes an invitation back: it need not be in the room, and would show the invitation for ever.
    async fn uninvited(&self, pdu: &Pdu) -> Result<Option<OwnedServerName>, RoomError> {
        let target = pdu.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
        let is_put_out = |target: &&UserId| pdu.kind == TimelineEventType::RoomMember && **target != pdu.sender;
        let Some(user_id) = target.filter(is_put_out) else { return Ok(None) };
        let key = (StateEventType::RoomMember, user_id.to_string());
        let Some(nid) = self.head.now.state.get(&key) else { return Ok(None) };
        let was = membership_of(&self.event(*nid).await?.pdu);
        let is_out = matches!(membership_of(pdu), Some(MembershipState::Leave | MembershipState::Ban));
        Ok((is_out && was == Some(MembershipState::Invite)).then(|| user_id.server_name().to_owned()))
    }

    /// Owes the event to the servers that are in the room, before it and after it.
    fn owe(&mut self, event: &TimelineEvent, offset: u32, mut servers: BTreeSet<OwnedServerName>) {
        servers.extend(self.head.servers.keys().filter(|server| **server != *event.pdu.sender.server_name()).cloned());
        servers.remove(self.rooms.server_name());
        let trust = self.rooms.trust();
        servers.retain(|server| trust.allow(server, Capability::Events, &Context::outbound()).is_ok());
        if servers.is_empty() {
            return;
        }
        for server in &servers {
            store::outbox::push(&mut self.write, server, Arg::Position(offset), event.nid);
        }
        self.write.tell(offset, Change::Outgoing { destinations: servers.into_iter().collect() });
    }

    /// The room is in `state` from now on, which is near to `parent`.
    async fn set_state(&mut self, parent: StoredState, state: StateMap, offset: u32) -> Result<(), RoomError> {
        // Most events change nothing, and what holds is then the very same map.
        if state.ptr_eq(&self.head.now.state) {
            return Ok(());
        }
        let before = std::mem::take(&mut self.head.now);
        let (changed, gone) = differences(&before.state, &state);
        if changed.is_empty() && gone.is_empty() {
            self.head.now = before;
            return Ok(());
        }
        self.head.now = self.store_state(parent, state);
        let servers_before = self.head.servers.clone();
        for (key, nid) in &changed {
            state::put_current(&mut self.write, self.room.nid, key, *nid);
            if key.0 == StateEventType::RoomMember {
                self.set_member(&before, key, Some(*nid), offset).await?;
            }
        }
        for key in &gone {
            state::remove_current(&mut self.write, self.room.nid, key);
            if key.0 == StateEventType::RoomMember {
                self.set_member(&before, key, None, offset).await?;
            }
        }
        let ours = self.rooms.server_name();
        if servers_before.contains_key(ours) && !self.head.servers.contains_key(ours) {
            remote_devices::doubt_members(&mut self.write, self.room.nid, &Arg::Position(offset));
        }
        // The timeline tells of one change at most; what else the branches brought is to be looked up.
        if changed.len() + gone.len() > 1 {
            self.write.tell_not_all();
        }
        Ok(())
    }

    /// `nid` is the membership event of a user from now on; `None`: the room no longer knows of the user.
    async fn set_member(
        &mut self,
        before: &StoredState,
        key: &StateKey,
        nid: Option<EventNid>,
        offset: u32,
    ) -> Result<(), RoomError> {
        let Ok(user_id) = <&UserId>::try_from(key.1.as_str()) else { return Ok(()) };
        let was_joined = match before.state.get(key) {
            Some(old) => membership_of(&self.event(*old).await?.pdu) == Some(MembershipState::Join),
            None => false,
        };
        let event = match nid {
            Some(nid) => Some(self.event(nid).await?),
            None => None,
        };
        let member = event.as_ref().and_then(|event| event.pdu.content_as::<RoomMemberEventContent>());
        let is_joined = member.as_ref().is_some_and(|member| member.membership == MembershipState::Join);
        if was_joined {
            self.head.count_out(user_id.server_name());
        }
        if is_joined {
            self.head.count_in(user_id.server_name());
        }
        if was_joined && !is_joined && user_id.server_name() != self.rooms.server_name() {
            // It may have been the last room that is shared, and with it their server's word on their devices.
            remote_devices::doubt(&mut self.write, user_id, &Arg::Position(offset));
        }
        let Some(nid) = nid else {
            store::rooms::remove_membership(&mut self.write, self.room.nid, &key.1);
            return Ok(());
        };
        let (Some(event), Some(member)) = (event, member) else { return Ok(()) };
        store::rooms::put_membership(
            &mut self.write,
            self.room.nid,
            &key.1,
            &member.membership,
            &event.pdu.sender,
            nid,
            Arg::Position(offset),
            member.displayname.as_deref(),
            member.avatar_url.as_ref().map(|url| url.as_str()),
        );
        Ok(())
    }

    /// Gives a state a number: as what it changes of `parent`, or, now and then and where something is gone, as a whole.
    fn store_state(&mut self, parent: StoredState, state: StateMap) -> StoredState {
        let snapshot = SnapshotNid(self.rooms.shared.store.next_nid());
        let room = self.room.nid;
        let (changed, gone) = differences(&parent.state, &state);
        if parent.snapshot == SnapshotNid(0) || parent.chain >= LONGEST_CHAIN || !gone.is_empty() {
            state::insert_snapshot(&mut self.write, snapshot, room, None, 0, state.values().copied());
            return StoredState { snapshot, chain: 0, state };
        }
        if changed.is_empty() {
            return parent;
        }
        let chain = parent.chain + 1;
        let changed = changed.into_iter().map(|(_, nid)| nid);
        state::insert_snapshot(&mut self.write, snapshot, room, Some(parent.snapshot), chain, changed);
        StoredState { snapshot, chain, state }
    }

    /// Takes the content from the redacted event, in the store and in every memory.
    async fn redact(&mut self, redaction: &TimelineEvent, target: &EventId) -> Result<(), RoomError> {
        let shared = &self.rooms.shared;
        let fresh = self.fresh.values().find(|event| event.pdu.event_id == target).cloned();
        let original = match fresh {
            Some(fresh) => Some(fresh),
            None => shared.store.events().find(target).await?,
        };
        let Some(original) = original else {
            events::insert_pending_redaction(&mut self.write, target, redaction.nid);
            return Ok(());
        };
        if original.room_nid != self.room.nid || !self.may_redact(redaction, &original).await? {
            return Ok(());
        }
        let remains = redacted(&original.pdu, &self.room.rules)?;
        events::redact(&mut self.write, original.nid, remains.json.clone(), &redaction.pdu.event_id);
        let remains = Arc::new(TimelineEvent {
            pdu: Arc::new(remains),
            transaction_id: None,
            redacted_by: Some(redaction.pdu.event_id.clone()),
            ..(*original).clone()
        });
        let offset = self.write.position();
        self.write.tell(offset, Change::Redacted(remains));
        self.changed.push(original.nid);
        Ok(())
    }

    /// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions>: who has the power may redact everything, and a
    /// server the events of its own people; up to room version 2 these are the events that it gave their ids.
    async fn may_redact(&self, redaction: &TimelineEvent, original: &TimelineEvent) -> Result<bool, RoomError> {
        let is_its_own = if self.room.rules.authorization.special_case_room_redaction {
            redaction.pdu.event_id.server_name() == original.pdu.event_id.server_name()
        } else {
            redaction.pdu.sender.server_name() == original.pdu.sender.server_name()
        };
        if is_its_own {
            return Ok(true);
        }
        let power_levels = self.rooms.power_levels_in(self.room, &self.head.now.state, &self.fresh).await?;
        Ok(power_levels.user_can_redact_event_of_other(&redaction.pdu.sender))
    }

    /// The events of a state that decide over `subject`, by what they are about.
    async fn auth_state(&self, subject: &Subject<'_>, state: &StateMap) -> Result<AuthState, RoomError> {
        let wanted = auth::deciding(subject, &self.room.rules)?;
        let mut found = HashMap::with_capacity(wanted.len());
        for key in wanted {
            let Some(nid) = state.get(&key) else { continue };
            let event = self.event(*nid).await?;
            found.insert(key, event.pdu.clone());
        }
        Ok(found)
    }

    async fn event(&self, nid: EventNid) -> Result<Arc<TimelineEvent>, RoomError> {
        match self.fresh.get(&nid) {
            Some(event) => Ok(event.clone()),
            None => self.rooms.event(nid).await,
        }
    }
}

/// What holds otherwise in `now` than in `then`, and what holds no more; quick when one was made of the other.
fn differences(then: &StateMap, now: &StateMap) -> (Vec<(StateKey, EventNid)>, Vec<StateKey>) {
    let (mut changed, mut gone) = (Vec::new(), Vec::new());
    for item in then.diff(now) {
        match item {
            DiffItem::Add(key, nid) | DiffItem::Update { new: (key, nid), .. } => changed.push((key.clone(), *nid)),
            DiffItem::Remove(key, _) => gone.push(key.clone()),
        }
    }
    (changed, gone)
}

/// Whether two states are the same; quick when one was made of the other.
pub(crate) fn same(one: &StateMap, other: &StateMap) -> bool {
    one.ptr_eq(other) || (one.len() == other.len() && one.diff(other).next().is_none())
}

/// Whether these are the same states, however often each is among them.
fn are_same(some: &[StateMap], others: &[StateMap]) -> bool {
    let has = |states: &[StateMap], wanted: &StateMap| states.iter().any(|state| same(state, wanted));
    some.iter().all(|state| has(others, state)) && others.iter().all(|state| has(some, state))
}

fn extremities_are(head: &Head, event_id: &EventId) -> bool {
    matches!(head.extremities.as_slice(), [(only, _)] if only == event_id)
}

/// The authorisation rules of the room's version, for an event made on the head.
fn auth_checked(pdu: &Pdu, auth: &AuthState, room: &SharedRoom) -> Result<(), RoomError> {
    auth::check_by_auth_events(pdu, &room.rules, |event_id| auth.values().find(|pdu| pdu.event_id == event_id).cloned())
}

/// What is left of an event when it is redacted.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#redactions>
pub(crate) fn redacted(pdu: &Pdu, rules: &ruma::room_version_rules::RoomVersionRules) -> Result<Pdu, RoomError> {
    let corrupt = |error: String| RoomError::Store(store::Error::Corrupt(error));
    let object: CanonicalJsonObject = serde_json::from_str(&pdu.json).map_err(|error| corrupt(error.to_string()))?;
    let remains = redact(object, &rules.redaction, None).map_err(|error| corrupt(error.to_string()))?;
    let json = serde_json::to_string(&remains).map_err(|error| corrupt(error.to_string()))?;
    Pdu::from_stored(pdu.event_id.clone(), json.into(), pdu.rejected).map_err(|error| corrupt(error.to_string()))
}

/// `(parent, rel_type)` of an event that relates to another.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events>
pub(crate) fn relation(pdu: &Pdu) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: RelatesTo,
    }
    #[derive(Deserialize)]
    struct RelatesTo {
        rel_type: String,
        event_id: String,
    }
    let content: Content = pdu.content_as()?;
    Some((content.relates_to.event_id, content.relates_to.rel_type))
}
