//! What is to be thought of an event that another server sent, by its own branch of the room's graph.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use model::{EventNid, Pdu, Position, SnapshotNid, StateMap, TimelineEvent};
use ruma::{
    EventId, OwnedEventId,
    events::{TimelineEventType, room::policy::RoomPolicyEventContent},
};

use crate::{
    RoomError, Rooms, View,
    auth::{self, AuthState, Subject},
    extension::same,
    live::{SharedRoom, StoredState},
};

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the timeline.
    Accepted,
    /// Its own branch allows it, the room as it is now does not: it is kept, and not shown.
    SoftFailed(String),
    /// The authorisation rules forbid it: it is remembered as refused.
    Rejected(String),
}

/// An event with what was found out about it.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) nid: EventNid,
    pub(crate) room_nid: model::RoomNid,
    pub(crate) pdu: Arc<Pdu>,
    /// The store has it already, outside the timeline.
    pub(crate) known: bool,
    /// The state in which it was made,
    pub(crate) before: StateMap,
    /// as the store knows it, if it does,
    pub(crate) stored: Option<StoredState>,
    /// or else a state near to it.
    pub(crate) parent: Option<StoredState>,
    /// Of the events that it follows, those that aren't in the timeline.
    pub(crate) missing: Vec<OwnedEventId>,
    /// What those follow that it follows and that were refused, and so on: it comes after them too.
    pub(crate) behind: Vec<OwnedEventId>,
    /// The redactions of it that came before it.
    pub(crate) redactions: Vec<Arc<TimelineEvent>>,
    pub(crate) verdict: Verdict,
    /// The room wants events approved of, and this one isn't.
    pub(crate) is_unapproved: bool,
}

impl Judged {
    /// What lies before it, seen past those that were refused.
    pub(crate) fn comes_after(&self) -> impl Iterator<Item = &OwnedEventId> {
        self.pdu.prev_events.iter().chain(&self.behind)
    }

    pub(crate) fn event(&self, state_before: Option<SnapshotNid>, soft_failed: bool) -> TimelineEvent {
        TimelineEvent {
            nid: self.nid,
            room_nid: self.room_nid,
            position: Position(0),
            seq: None,
            state_before,
            room_state: None,
            pdu: self.pdu.clone(),
            transaction_id: None,
            redacted_by: None,
            soft_failed,
            withheld_below: None,
        }
    }
}

/// So many events are looked at for what lies before a chain of refused ones. Who is refused more often in a row leaves a branch
/// open, which the next event of this server joins.
const MOST_BEHIND: usize = 1_000;

/// It was rejected, or is kept and not shown.
fn is_refused(event: &TimelineEvent) -> bool {
    event.pdu.rejected || event.soft_failed
}

/// The state after an event.
#[derive(Clone, Debug)]
pub(crate) struct After {
    pub(crate) state: StateMap,
    stored: Option<StoredState>,
    parent: Option<StoredState>,
    /// What the event follows, if it was refused itself, and what those follow of these that were refused too.
    behind: Vec<OwnedEventId>,
    is_in_timeline: bool,
}

/// Judges events one after the other; each may follow those judged before.
pub(crate) struct Judge<'a> {
    rooms: &'a Rooms,
    room: &'a SharedRoom,
    view: View,
    after: HashMap<OwnedEventId, After>,
    fresh: HashMap<EventNid, Arc<TimelineEvent>>,
    by_id: HashMap<OwnedEventId, Arc<Pdu>>,
    /// The redactions that came before what they redact.
    redactions: HashMap<OwnedEventId, Vec<Arc<TimelineEvent>>>,
    policy: Option<RoomPolicyEventContent>,
    pub(crate) judged: Vec<Judged>,
}

/// Why an event can't be judged.
#[derive(Debug)]
pub(crate) enum Unknown {
    /// The state after an event that it follows isn't known.
    Prev(OwnedEventId),
    /// An event that it names as what allows it isn't known.
    Auth(OwnedEventId),
    /// Something failed here.
    Failed(RoomError),
}

impl<E: Into<RoomError>> From<E> for Unknown {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl<'a> Judge<'a> {
    /// `expected`: the events that are to be judged.
    pub(crate) async fn new(
        rooms: &'a Rooms,
        room: &'a SharedRoom,
        expected: &[OwnedEventId],
    ) -> Result<Self, RoomError> {
        let view = rooms.view(room).await?;
        let redactions = rooms.pending_redactions(expected).await?;
        // One number for each, and for the states that they make.
        rooms.shared.store.ensure_nids(expected.len() as i64).await?;
        Ok(Self {
            rooms,
            room,
            view,
            after: HashMap::new(),
            fresh: HashMap::new(),
            by_id: HashMap::new(),
            redactions,
            policy: rooms.policy_of(room).await?,
            judged: Vec::new(),
        })
    }

    /// `known`: the number under which the store has it outside the timeline.
    ///
    /// What it follows may be unknown if the state before it was told by another server and is in the store.
    pub(crate) async fn add(&mut self, pdu: Pdu, known: Option<EventNid>) -> Result<(), Unknown> {
        if self.is_on_head(&pdu) {
            let now = whole(self.view.stored());
            return self.conclude(pdu, known, Vec::new(), now).await;
        }
        let follows = self.follows(&pdu).await?;
        let unknown = follows.iter().find(|(_, after)| after.is_none()).map(|(event_id, _)| event_id.clone());
        let Some(unknown) = unknown else {
            let follows: Vec<_> =
                follows.into_iter().filter_map(|(event_id, after)| Some((event_id, after?))).collect();
            let merged = self.merge(&follows).await?;
            return self.conclude(pdu, known, follows, merged).await;
        };
        let (nid, before) = self.told(&pdu).await?.ok_or(Unknown::Prev(unknown))?;
        let missing = After { is_in_timeline: false, ..before.clone() };
        let follows =
            follows.into_iter().map(|(event_id, after)| (event_id, after.unwrap_or_else(|| missing.clone()))).collect();
        self.conclude(pdu, Some(nid), follows, before).await
    }

    /// As [`Self::add`], for an event of long ago, which may be the room's first.
    pub(crate) async fn add_history(&mut self, pdu: Pdu, known: Option<EventNid>) -> Result<(), Unknown> {
        match pdu.kind {
            TimelineEventType::RoomCreate => self.conclude(pdu, known, Vec::new(), whole(StoredState::default())).await,
            _ => self.add(pdu, known).await,
        }
    }

    /// The state before an event as another server told it, and the event's number.
    async fn told(&self, pdu: &Pdu) -> Result<Option<(EventNid, After)>, Unknown> {
        let event = self.rooms.events_by_id(std::slice::from_ref(&pdu.event_id)).await?.pop();
        let Some((event, snapshot)) = event.and_then(|event| Some((event.nid, event.state_before?))) else {
            return Ok(None);
        };
        let state = self.rooms.state_at(snapshot).await?;
        let chain = self.rooms.shared.store.state().chain(snapshot).await?;
        Ok(Some((event, whole(StoredState { snapshot, chain, state }))))
    }

    async fn conclude(
        &mut self,
        mut pdu: Pdu,
        known: Option<EventNid>,
        follows: Vec<(OwnedEventId, After)>,
        merged: After,
    ) -> Result<(), Unknown> {
        let verdict = match self.check(&pdu, &merged.state).await? {
            Ok(()) => Verdict::Accepted,
            Err(reason) => Verdict::Rejected(reason),
        };
        pdu.rejected = verdict != Verdict::Accepted;
        let is_unapproved =
            self.policy.as_ref().is_some_and(|policy| !crate::policy::approves(policy, &pdu, self.room));
        let nid = match known {
            Some(nid) => nid,
            None => EventNid(self.rooms.shared.store.next_nid()),
        };
        let redactions = self.redactions.remove(&pdu.event_id).unwrap_or_default();
        let judged = Judged {
            nid,
            room_nid: self.room.nid,
            pdu: Arc::new(pdu),
            known: known.is_some(),
            before: merged.state.clone(),
            stored: merged.stored.clone(),
            parent: merged.parent.clone(),
            missing: follows.iter().filter(|(_, after)| !after.is_in_timeline).map(|(id, _)| id.clone()).collect(),
            behind: follows.into_iter().flat_map(|(_, after)| after.behind).collect(),
            redactions,
            verdict,
            is_unapproved,
        };
        self.note(&judged, merged);
        self.judged.push(judged);
        Ok(())
    }

    fn note(&mut self, judged: &Judged, before: After) {
        let is_accepted = judged.verdict == Verdict::Accepted;
        let after = match judged.pdu.state().filter(|_| is_accepted) {
            Some(key) => After {
                state: before.state.update(key, judged.nid),
                parent: before.stored.or(before.parent),
                stored: None,
                behind: Vec::new(),
                is_in_timeline: true,
            },
            None => After {
                behind: if is_accepted { Vec::new() } else { judged.comes_after().cloned().collect() },
                is_in_timeline: true,
                ..before
            },
        };
        self.after.insert(judged.pdu.event_id.clone(), after);
        self.fresh.insert(judged.nid, Arc::new(judged.event(None, false)));
        self.by_id.insert(judged.pdu.event_id.clone(), judged.pdu.clone());
    }

    /// Whether the event follows just what the room ends with, all of which is in the timeline.
    fn is_on_head(&self, pdu: &Pdu) -> bool {
        let prevs: HashSet<&OwnedEventId> = pdu.prev_events.iter().collect();
        prevs.len() == self.view.extremities.len()
            && self.view.extremities.iter().all(|event_id| prevs.contains(event_id))
    }

    /// The states after what the event follows, as far as they are known.
    async fn follows(&self, pdu: &Pdu) -> Result<Vec<(OwnedEventId, Option<After>)>, Unknown> {
        let mut follows = Vec::with_capacity(pdu.prev_events.len());
        for event_id in &pdu.prev_events {
            let after = match self.after.get(event_id) {
                Some(after) => Some(after.clone()),
                None => self.rooms.state_after(event_id).await?,
            };
            follows.push((event_id.clone(), after));
        }
        Ok(follows)
    }

    /// The state in which the event was made: that of its branches together.
    async fn merge(&self, follows: &[(OwnedEventId, After)]) -> Result<After, Unknown> {
        let mut different: Vec<&After> = Vec::new();
        for (_, after) in follows {
            if !different.iter().any(|known| same(&known.state, &after.state)) {
                different.push(after);
            }
        }
        match different.as_slice() {
            [] => Ok(whole(StoredState::default())),
            [only] => Ok((*only).clone()),
            several => {
                let states = several.iter().map(|after| after.state.clone()).collect();
                let state = self.rooms.resolve_state(self.room, states, &self.fresh).await?;
                let parent = several.iter().find_map(|after| after.stored.clone().or_else(|| after.parent.clone()));
                Ok(After { state, stored: None, parent, behind: Vec::new(), is_in_timeline: true })
            }
        }
    }

    async fn check(&self, pdu: &Pdu, before: &StateMap) -> Result<Result<(), String>, Unknown> {
        if pdu.kind == TimelineEventType::RoomCreate {
            // Known from the room's state; it comes again where history goes back to the beginning.
            return Ok(match self.rooms.events_by_id(std::slice::from_ref(&pdu.event_id)).await?.is_empty() {
                true => Err("a room has one m.room.create event, and this room has it".into()),
                false => Ok(()),
            });
        }
        if pdu.prev_events.is_empty() {
            return Ok(Err("only an m.room.create event follows nothing".into()));
        }
        let rules = &self.room.rules;
        let named = self.named(pdu).await?;
        // Spec: "Passes authorization rules based on the event's auth events, otherwise it is rejected."
        if let Err(error) = auth::check_by_auth_events(pdu, rules, |event_id| named.get(event_id).cloned()) {
            return forbidden(error);
        }
        // Spec: "Passes authorization rules based on the state before the event, otherwise it is rejected."
        let mut state = AuthState::new();
        for key in auth::deciding(&Subject::from(pdu), rules)? {
            let Some(nid) = before.get(&key) else { continue };
            let event = match self.fresh.get(nid) {
                Some(event) => event.clone(),
                None => self.rooms.event(*nid).await?,
            };
            state.insert(key, event.pdu.clone());
        }
        match auth::check_by_state(pdu, rules, &state) {
            Err(error) => forbidden(error),
            Ok(()) => Ok(Ok(())),
        }
    }

    /// The events that the event names as what allows it, and the room's create event.
    async fn named(&self, pdu: &Pdu) -> Result<HashMap<OwnedEventId, Arc<Pdu>>, Unknown> {
        let create = auth::create_event_id(&pdu.room_id, &self.room.rules);
        let wanted: Vec<OwnedEventId> = pdu.auth_events.iter().chain(&create).cloned().collect();
        let mut named: HashMap<_, _> = HashMap::with_capacity(wanted.len());
        let mut elsewhere = Vec::new();
        for event_id in wanted {
            match self.by_id.get(&event_id) {
                Some(pdu) => drop(named.insert(event_id, pdu.clone())),
                None => elsewhere.push(event_id),
            }
        }
        for event in self.rooms.events_by_id(&elsewhere).await? {
            if event.room_nid == self.room.nid {
                named.insert(event.pdu.event_id.clone(), event.pdu.clone());
            }
        }
        match elsewhere.into_iter().find(|event_id| !named.contains_key(event_id)) {
            Some(missing) => Err(Unknown::Auth(missing)),
            None => Ok(named),
        }
    }
}

fn whole(stored: StoredState) -> After {
    After { state: stored.state.clone(), stored: Some(stored), parent: None, behind: Vec::new(), is_in_timeline: true }
}

fn forbidden(error: RoomError) -> Result<Result<(), String>, Unknown> {
    match error {
        RoomError::Forbidden(reason) | RoomError::BadContent(reason) => Ok(Err(reason)),
        error => Err(Unknown::Failed(error)),
    }
}

impl Rooms {
    /// The state after an event of the store. `None`: not known, because the event isn't, or only from outside.
    pub(crate) async fn state_after(&self, event_id: &EventId) -> Result<Option<After>, RoomError> {
        let Some(event) = self.events_by_id(&[event_id.to_owned()]).await?.pop() else { return Ok(None) };
        let before = match event.state_before {
            Some(snapshot) => {
                let state = self.state_at(snapshot).await?;
                StoredState { snapshot, chain: self.shared.store.state().chain(snapshot).await?, state }
            }
            None if event.pdu.kind == TimelineEventType::RoomCreate => StoredState::default(),
            None => return Ok(None),
        };
        let is_refused = is_refused(&event);
        let behind = if is_refused { self.behind(&event).await? } else { Vec::new() };
        let is_in_timeline = event.position.0 != 0 || is_refused;
        Ok(Some(match event.pdu.state().filter(|_| !event.pdu.rejected) {
            Some(key) => After {
                state: before.state.update(key, event.nid),
                stored: None,
                parent: Some(before),
                behind,
                is_in_timeline,
            },
            None => After { state: before.state.clone(), stored: Some(before), parent: None, behind, is_in_timeline },
        }))
    }

    /// What a refused event follows, and what those follow of these that were refused too.
    async fn behind(&self, event: &TimelineEvent) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut behind: BTreeSet<OwnedEventId> = BTreeSet::new();
        let mut open = event.pdu.prev_events.clone();
        while !open.is_empty() && behind.len() < MOST_BEHIND {
            let events = self.events_by_id(&open).await?;
            behind.extend(open);
            let further = events.iter().filter(|event| is_refused(event)).flat_map(|event| &event.pdu.prev_events);
            let further: BTreeSet<&OwnedEventId> = further.filter(|event_id| !behind.contains(*event_id)).collect();
            open = further.into_iter().cloned().collect();
        }
        Ok(behind.into_iter().collect())
    }

    async fn pending_redactions(
        &self,
        targets: &[OwnedEventId],
    ) -> Result<HashMap<OwnedEventId, Vec<Arc<TimelineEvent>>>, RoomError> {
        let mut redactions: HashMap<OwnedEventId, Vec<Arc<TimelineEvent>>> = HashMap::new();
        for (target, nid) in self.shared.store.events().pending_redactions(targets).await? {
            redactions.entry(target).or_default().push(self.event(nid).await?);
        }
        Ok(redactions)
    }
}
