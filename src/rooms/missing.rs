//! Fetching what a delivery lacks: events in between, the state where there is too much in between, and what allows them.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-events>

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use model::{EventNid, Pdu, SnapshotNid, StateMap, TimelineEvent};
use peers::PeerError;
use ruma::{
    OwnedEventId, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
    events::TimelineEventType,
};
use store::{Arg, Write, events, state};
use tracing::debug;

use crate::{
    RoomError, Rooms,
    live::SharedRoom,
    outliers::{objects, outlier},
    receive::Checked,
};

/// How many events are asked for at once, and how often for one delivery.
const GAP_PAGE: u32 = 50;
const GAP_ROUNDS: usize = 6;
/// For so many events of a delivery it is asked what held when they were made, at most.
const MOST_STATES: usize = 10;
/// Of so many events that are missing before one, the state is asked for one by one.
const MOST_PREVS: usize = 3;
/// With more events missing of a state than this, the whole state is asked for instead of each.
const SINGLY: usize = 50;
/// How many events are asked for side by side.
const SIDE_BY_SIDE: usize = 8;

impl Rooms {
    /// Completes a delivery: what its events follow and are allowed by is fetched, from `origin`, and stored or added.
    ///
    /// Answers the events in the order in which they follow each other, and whether `origin` could be asked for everything:
    /// what lacks something still may have it when it is asked again.
    pub(crate) async fn with_missing(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        checked: Vec<Checked>,
    ) -> Result<(Vec<Checked>, bool), RoomError> {
        let mut events: HashMap<OwnedEventId, Checked> =
            checked.into_iter().map(|checked| (checked.pdu.event_id.clone(), checked)).collect();
        if self.missing_prevs(room, &events).await?.is_empty() && self.missing_auth(&events).await?.is_empty() {
            return Ok((in_order(events), true));
        }
        let could_ask = match self.make_whole(room, origin, &mut events).await {
            Ok(()) => true,
            Err(RoomError::Peer(error)) => {
                let error = &error as &dyn std::error::Error;
                debug!(error, %origin, room.id = %room.room_id, "could not ask for what is missing");
                false
            }
            Err(error) => return Err(error),
        };
        self.note_stored(&mut events).await?;
        Ok((in_order(events), could_ask))
    }

    /// Some of the events may have been stored on the way, with the states that were fetched.
    pub(crate) async fn note_stored(&self, events: &mut HashMap<OwnedEventId, Checked>) -> Result<(), RoomError> {
        let ids: Vec<OwnedEventId> = events.keys().cloned().collect();
        for event in self.events_by_id(&ids).await? {
            if let Some(checked) = events.get_mut(&event.pdu.event_id) {
                checked.known = Some(event.nid);
            }
        }
        Ok(())
    }

    /// Fails as soon as `origin` can't be asked: what is there by then is there.
    async fn make_whole(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        events: &mut HashMap<OwnedEventId, Checked>,
    ) -> Result<(), RoomError> {
        let wanted: HashSet<OwnedEventId> = events.keys().cloned().collect();
        self.fill_in(room, origin, events).await?;
        let mut edge = self.edge(room, events).await?;
        if edge.len() > MOST_STATES {
            // There is no end to it: history is for those who ask for it.
            events.retain(|event_id, _| wanted.contains(event_id));
            edge = self.edge(room, events).await?;
        }
        // Too much happened in between: from here on, what the peer says held then.
        for (event_id, missing) in edge.into_iter().take(MOST_STATES) {
            self.bridge(room, origin, event_id, missing).await?;
        }
        self.complete_auth(room, origin, events).await
    }

    /// Asks for what happened between what is known here and these events, and adds it to them.
    async fn fill_in(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        events: &mut HashMap<OwnedEventId, Checked>,
    ) -> Result<(), RoomError> {
        for _ in 0..GAP_ROUNDS {
            let missing = self.missing_prevs(room, events).await?;
            if missing.is_empty() {
                break;
            }
            let latest: Vec<OwnedEventId> = events
                .values()
                .filter(|checked| checked.pdu.prev_events.iter().any(|id| missing.contains(id)))
                .map(|checked| checked.pdu.event_id.clone())
                .take(20)
                .collect();
            let found = self.fetch_gap(room, origin, latest).await?;
            let ids: Vec<OwnedEventId> = found.iter().map(|checked| checked.pdu.event_id.clone()).collect();
            let mut found: HashMap<OwnedEventId, Checked> =
                found.into_iter().map(|checked| (checked.pdu.event_id.clone(), checked)).collect();
            for event in self.events_by_id(&ids).await?.into_iter().filter(|event| has_state(event)) {
                found.remove(&event.pdu.event_id);
            }
            // The peer can't know everything that is known here: of what it tells, only that counts which is lacking.
            let mut open: Vec<OwnedEventId> = missing.into_iter().collect();
            let before = events.len();
            while let Some(event_id) = open.pop() {
                let Some(checked) = found.remove(&event_id) else { continue };
                open.extend(checked.pdu.prev_events.iter().cloned());
                events.insert(checked.pdu.event_id.clone(), checked);
            }
            if events.len() == before {
                break;
            }
        }
        Ok(())
    }

    /// The events that can't be judged for want of what they follow, and what that is; the earliest first.
    async fn edge(
        &self,
        room: &SharedRoom,
        events: &HashMap<OwnedEventId, Checked>,
    ) -> Result<Vec<(OwnedEventId, Vec<OwnedEventId>)>, RoomError> {
        let missing = self.missing_prevs(room, events).await?;
        let mut edge: Vec<(&Pdu, Vec<OwnedEventId>)> = Vec::new();
        for checked in events.values() {
            let lacks: Vec<_> = checked.pdu.prev_events.iter().filter(|id| missing.contains(*id)).cloned().collect();
            if !lacks.is_empty() {
                edge.push((&checked.pdu, lacks));
            }
        }
        edge.sort_by_key(|(pdu, _)| pdu.depth);
        let ids: Vec<OwnedEventId> = edge.iter().map(|(pdu, _)| pdu.event_id.clone()).collect();
        let told: HashSet<OwnedEventId> = self
            .events_by_id(&ids)
            .await?
            .iter()
            .filter(|event| has_state(event))
            .map(|event| event.pdu.event_id.clone())
            .collect();
        let edge = edge.into_iter().filter(|(pdu, _)| !told.contains(&pdu.event_id));
        Ok(edge.map(|(pdu, lacks)| (pdu.event_id.clone(), lacks)).collect())
    }

    /// Learns what held after `missing`, or, where the peer can't tell, before the event that follows them.
    async fn bridge(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        event_id: OwnedEventId,
        missing: Vec<OwnedEventId>,
    ) -> Result<(), RoomError> {
        if missing.len() <= MOST_PREVS {
            let mut is_complete = true;
            for prev in &missing {
                is_complete &= self.try_fetch_state(room, origin, prev).await?;
            }
            if is_complete {
                return Ok(());
            }
        }
        self.try_fetch_state(room, origin, &event_id).await.map(drop)
    }

    async fn try_fetch_state(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        event_id: &OwnedEventId,
    ) -> Result<bool, RoomError> {
        match self.fetch_state(room, origin, event_id).await {
            Ok(()) => Ok(true),
            Err(RoomError::Peer(error)) if error.may_pass() => Err(error.into()),
            Err(error) => {
                debug!(%origin, room.id = %room.room_id, event.id = %event_id, error = &error as &dyn std::error::Error, "could not fetch a state");
                Ok(false)
            }
        }
    }

    /// Of what the events follow, what is neither among them nor has a known state.
    async fn missing_prevs(
        &self,
        room: &SharedRoom,
        events: &HashMap<OwnedEventId, Checked>,
    ) -> Result<HashSet<OwnedEventId>, RoomError> {
        // Most events follow what the room ends with, and the store needn't be asked.
        let view = self.view(room).await?;
        let mut missing: HashSet<OwnedEventId> = events
            .values()
            .flat_map(|checked| &checked.pdu.prev_events)
            .filter(|id| !events.contains_key(*id) && !view.extremities.contains(id))
            .cloned()
            .collect();
        let ids: Vec<OwnedEventId> = missing.iter().cloned().collect();
        for event in self.events_by_id(&ids).await? {
            if has_state(&event) {
                missing.remove(&event.pdu.event_id);
            }
        }
        Ok(missing)
    }

    /// Of what the events name as what allows them, what is neither among them nor in the store.
    async fn missing_auth(&self, events: &HashMap<OwnedEventId, Checked>) -> Result<HashSet<OwnedEventId>, RoomError> {
        let mut missing: HashSet<OwnedEventId> = events
            .values()
            .flat_map(|checked| &checked.pdu.auth_events)
            .filter(|id| !events.contains_key(*id))
            .cloned()
            .collect();
        let ids: Vec<OwnedEventId> = missing.iter().cloned().collect();
        for event in self.events_by_id(&ids).await? {
            missing.remove(&event.pdu.event_id);
        }
        Ok(missing)
    }

    async fn fetch_gap(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        latest: Vec<OwnedEventId>,
    ) -> Result<Vec<Checked>, RoomError> {
        let view = self.view(room).await?;
        let earliest: Vec<OwnedEventId> = view.extremities.iter().take(20).cloned().collect();
        let mut request = get_missing_events::v1::Request::new(room.room_id.clone(), earliest, latest);
        request.limit = UInt::from(GAP_PAGE);
        let Some(answer) = if_told(self.shared.peers.ask(origin, request).await)? else { return Ok(Vec::new()) };
        let mut found = objects(&answer.events);
        found.truncate(GAP_PAGE as usize);
        Ok(self.check_fetched(room, found).await)
    }

    /// Learns from `origin` what held before `event_id`, and stores it with the event, outside the timeline.
    pub(crate) async fn fetch_state(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        event_id: &OwnedEventId,
    ) -> Result<(), RoomError> {
        let event = self.fetch_events(room, origin, vec![event_id.clone()]).await?;
        let known = self.events_by_id(std::slice::from_ref(event_id)).await?.pop();
        if event.is_empty() && known.is_none() {
            return Err(RoomError::UnknownEvent);
        }
        let request = get_room_state_ids::v1::Request::new(event_id.clone(), room.room_id.clone());
        let ids = self.shared.peers.ask(origin, request).await?;
        let mut wanted: Vec<OwnedEventId> = ids.pdu_ids.iter().chain(&ids.auth_chain_ids).cloned().collect();
        wanted.sort();
        wanted.dedup();
        let there: HashSet<OwnedEventId> =
            self.events_by_id(&wanted).await?.into_iter().map(|event| event.pdu.event_id.clone()).collect();
        wanted.retain(|id| !there.contains(id));
        let mut fetched = if wanted.len() > SINGLY {
            let request = get_room_state::v1::Request::new(event_id.clone(), room.room_id.clone());
            let answer = self.shared.peers.ask_large(origin, request).await?;
            let all = objects(&answer.pdus).into_iter().chain(objects(&answer.auth_chain)).collect();
            self.check_fetched(room, all).await
        } else {
            self.fetch_events(room, origin, wanted).await?
        };
        fetched.extend(event);
        let pdus: Vec<Pdu> =
            fetched.into_iter().filter(|checked| checked.known.is_none()).map(|checked| checked.pdu).collect();
        let named = self.store_outliers(room, pdus).await?;

        let mut held = StateMap::new();
        let all = self.events_by_id(&ids.pdu_ids).await?;
        for event in all.into_iter().filter(|event| !event.pdu.rejected && event.room_nid == room.nid) {
            if let Some(key) = event.pdu.state() {
                held.insert(key, event.nid);
            }
        }
        let nid = named.get(event_id).map(|(nid, _)| *nid).or(known.map(|event| event.nid));
        self.store_state_of(room, nid.ok_or(RoomError::UnknownEvent)?, held).await
    }

    /// Notes what held before an event that is in the store, outside the timeline.
    async fn store_state_of(&self, room: &SharedRoom, nid: EventNid, held: StateMap) -> Result<(), RoomError> {
        let event = self.event(nid).await?;
        self.shared.store.ensure_nids(1).await?;
        let snapshot = SnapshotNid(self.shared.store.next_nid());
        let mut write = Write::new();
        state::insert_snapshot(&mut write, snapshot, room.nid, None, 0, held.values().copied());
        let settled = TimelineEvent { ..outlier(nid, room.nid, event.pdu.clone(), Some(snapshot)) };
        events::settle(&mut write, &settled, Arg::NoInt);
        self.shared.store.commit(write).await?;
        self.shared.memory.forget([nid]);
        Ok(())
    }

    /// Fetches what the events name as what allows them, where it is not there.
    pub(crate) async fn complete_auth(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        events: &HashMap<OwnedEventId, Checked>,
    ) -> Result<(), RoomError> {
        let missing = self.missing_auth(events).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let lacking = events.values().filter(|checked| checked.pdu.auth_events.iter().any(|id| missing.contains(id)));
        let mut fetched = Vec::new();
        for checked in lacking.take(MOST_STATES) {
            let request = get_event_authorization::v1::Request::new(room.room_id.clone(), checked.pdu.event_id.clone());
            if let Some(answer) = if_told(self.shared.peers.ask_large(origin, request).await)? {
                fetched.extend(self.check_fetched(room, objects(&answer.auth_chain)).await);
            }
        }
        if fetched.is_empty() {
            fetched = self.fetch_events(room, origin, missing.into_iter().collect()).await?;
        }
        let fresh = fetched.into_iter().filter(|checked| checked.known.is_none());
        let pdus = fresh.map(|checked| checked.pdu).filter(|pdu| !events.contains_key(&pdu.event_id)).collect();
        self.store_outliers(room, pdus).await.map(drop)
    }

    /// Fetches single events, some side by side. Those that the peer doesn't tell, or that prove nothing, are left out.
    pub(crate) async fn fetch_events(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        ids: Vec<OwnedEventId>,
    ) -> Result<Vec<Checked>, PeerError> {
        let peers = &self.shared.peers;
        let answers: Vec<Option<get_event::v1::Response>> = stream::iter(ids)
            .map(async |event_id| if_told(peers.ask(origin, get_event::v1::Request::new(event_id)).await))
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect()
            .await?;
        let found: Vec<_> = answers.into_iter().filter_map(|answer| Some(answer?.pdu)).collect();
        Ok(self.check_fetched(room, objects(&found)).await)
    }
}

/// What a peer answered; nothing, if it has no answer. Fails if it may have one later.
fn if_told<T>(answer: Result<T, PeerError>) -> Result<Option<T>, PeerError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.may_pass() => Err(error),
        Err(error) => {
            debug!(error = &error as &dyn std::error::Error, "was not told what is missing");
            Ok(None)
        }
    }
}

/// Whether the state after the event can be told.
fn has_state(event: &TimelineEvent) -> bool {
    event.state_before.is_some() || event.pdu.kind == TimelineEventType::RoomCreate
}

/// The events, each after those that it follows.
pub(crate) fn in_order(mut events: HashMap<OwnedEventId, Checked>) -> Vec<Checked> {
    let mut by_depth: Vec<(i64, OwnedEventId)> =
        events.values().map(|checked| (checked.pdu.depth, checked.pdu.event_id.clone())).collect();
    by_depth.sort();
    // Depth is what peers say it is; what counts is who follows whom.
    let mut ordered = Vec::with_capacity(events.len());
    let mut open: Vec<(OwnedEventId, bool)> =
        by_depth.into_iter().rev().map(|(_, event_id)| (event_id, false)).collect();
    let mut entered = HashSet::new();
    while let Some((event_id, is_done)) = open.pop() {
        if is_done {
            ordered.extend(events.remove(&event_id));
        } else if entered.insert(event_id.clone())
            && let Some(checked) = events.get(&event_id)
        {
            open.push((event_id, true));
            open.extend(checked.pdu.prev_events.iter().map(|id| (id.clone(), false)));
        }
    }
    ordered
}
