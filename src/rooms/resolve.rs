//! What holds where branches of a room's graph meet.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v12/#state-resolution>

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use metrics::counter;
use model::{EventNid, Pdu, StateMap, TimelineEvent};
use ruma::{
    EventId, OwnedEventId, RoomVersionId,
    room_version_rules::{RoomVersionRules, StateResolutionV2Rules, StateResolutionVersion},
    state_res::{self, utils::event_id_set::EventIdSet},
};

use tracing::warn;

use crate::{RoomError, Rooms, live::SharedRoom, state_res_v1};

/// No room's auth chain is longer that this server takes part in.
const MOST_EVENTS: usize = 200_000;

impl Rooms {
    /// The one state that several branches come to. `fresh`: events that aren't in the store yet.
    ///
    /// Reads every event of the states and of what allows them, and decides off the runtime: it is rare.
    pub(crate) async fn resolve_state(
        &self,
        room: &SharedRoom,
        states: Vec<StateMap>,
        fresh: &HashMap<EventNid, Arc<TimelineEvent>>,
    ) -> Result<StateMap, RoomError> {
        counter!("comity_state_resolutions_total").increment(1);
        let graph = self.auth_graph(room, &states, fresh).await?;
        let rules = room.rules.clone();
        let version = room.version.clone();
        let resolved = tokio::task::spawn_blocking(move || graph.resolve(&states, &rules, &version));
        resolved.await.map_err(|_| RoomError::Busy)?
    }

    /// The events of some states, and all that allows them.
    async fn auth_graph(
        &self,
        room: &SharedRoom,
        states: &[StateMap],
        fresh: &HashMap<EventNid, Arc<TimelineEvent>>,
    ) -> Result<AuthGraph, RoomError> {
        let mut graph = AuthGraph::default();
        let nids: HashSet<EventNid> = states.iter().flat_map(|state| state.values().copied()).collect();
        let (here, elsewhere): (Vec<_>, Vec<_>) = nids.into_iter().partition(|nid| fresh.contains_key(nid));
        let mut wanted = HashSet::new();
        let found = here.into_iter().filter_map(|nid| fresh.get(&nid).cloned());
        for event in found.chain(self.events(elsewhere).await?) {
            graph.add(event, &mut wanted);
        }
        // Without one of its events a state would come to something that no other server comes to.
        if let Some(missing) = states.iter().flat_map(StateMap::values).find(|nid| !graph.ids.contains_key(nid)) {
            return Err(store::Error::Corrupt(format!("event {missing} of a state is missing")).into());
        }
        let in_flight = self.shared.memory.in_flight();
        let fresh_by_id: HashMap<&EventId, &Arc<TimelineEvent>> =
            fresh.values().chain(&in_flight).map(|event| (&*event.pdu.event_id, event)).collect();
        while !wanted.is_empty() {
            if graph.events.len() > MOST_EVENTS {
                return Err(RoomError::Busy);
            }
            let asked = std::mem::take(&mut wanted);
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                asked.into_iter().partition(|event_id| fresh_by_id.contains_key(&**event_id));
            let found: Vec<_> = here.iter().filter_map(|event_id| fresh_by_id.get(&**event_id)).collect();
            for event in found.into_iter().cloned().cloned().chain(self.events_by_id(&elsewhere).await?) {
                graph.add(event, &mut wanted);
            }
            for missing in elsewhere.iter().filter(|event_id| !graph.events.contains_key(*event_id)) {
                warn!(room.id = %room.room_id, event.id = %missing, "an event that allows others in a state is not known");
            }
        }
        Ok(graph)
    }

    /// Everything that allows these events, and what allows that, themselves excepted.
    pub async fn auth_chain(&self, starts: &[OwnedEventId]) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        let mut chain = Vec::new();
        let mut wanted: Vec<OwnedEventId> = Vec::new();
        for event in self.events_by_id(starts).await? {
            wanted.extend(event.pdu.auth_events.iter().filter(|event_id| seen.insert((*event_id).clone())).cloned());
        }
        while !wanted.is_empty() {
            let asked = std::mem::take(&mut wanted);
            for event in self.events_by_id(&asked).await? {
                let more = event.pdu.auth_events.iter().filter(|event_id| seen.insert((*event_id).clone()));
                wanted.extend(more.cloned());
                chain.push(event);
            }
            if chain.len() > MOST_EVENTS {
                return Err(RoomError::Busy);
            }
        }
        Ok(chain)
    }
}

/// Events and what they name as what allows them.
#[derive(Default)]
struct AuthGraph {
    events: HashMap<OwnedEventId, Arc<Pdu>>,
    ids: HashMap<EventNid, OwnedEventId>,
    nids: HashMap<OwnedEventId, EventNid>,
}

impl AuthGraph {
    /// Adds an event; what it names and isn't there yet is wanted.
    fn add(&mut self, event: Arc<TimelineEvent>, wanted: &mut HashSet<OwnedEventId>) {
        let event_id = event.pdu.event_id.clone();
        self.ids.insert(event.nid, event_id.clone());
        self.nids.insert(event_id.clone(), event.nid);
        for named in &event.pdu.auth_events {
            if !self.events.contains_key(named) {
                wanted.insert(named.clone());
            }
        }
        self.events.insert(event_id, event.pdu.clone());
    }

    /// These events and everything that allows them.
    fn chain<'a>(&'a self, starts: impl Iterator<Item = &'a OwnedEventId>) -> HashSet<&'a OwnedEventId> {
        let mut chain = HashSet::new();
        let mut open: Vec<&OwnedEventId> = starts.collect();
        while let Some(event_id) = open.pop() {
            if chain.insert(event_id)
                && let Some(pdu) = self.events.get(event_id)
            {
                open.extend(pdu.auth_events.iter());
            }
        }
        chain
    }

    /// Everything that allows these events; themselves only as far as they allow each other.
    fn auth_chain<'a>(&'a self, events: impl Iterator<Item = &'a OwnedEventId>) -> HashSet<&'a OwnedEventId> {
        let named = events.filter_map(|event_id| self.events.get(event_id)).flat_map(|pdu| pdu.auth_events.iter());
        self.chain(named)
    }

    /// What lies on a way from one of these events to another.
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#definitions>, "conflicted state subgraph".
    fn between(&self, ends: &HashSet<OwnedEventId>) -> EventIdSet<OwnedEventId> {
        let below = self.chain(ends.iter());
        // Depth first, each event once: whether it leads to an end.
        let mut leads: HashMap<&OwnedEventId, bool> = HashMap::new();
        for start in &below {
            let mut open = vec![(*start, false)];
            while let Some((event_id, is_done)) = open.pop() {
                let named = || self.events.get(event_id).into_iter().flat_map(|pdu| pdu.auth_events.iter());
                if is_done {
                    let does = ends.contains(event_id) || named().any(|named| leads.get(named) == Some(&true));
                    leads.insert(event_id, does);
                } else if !leads.contains_key(event_id) {
                    open.push((event_id, true));
                    open.extend(named().filter(|named| !leads.contains_key(named)).map(|named| (named, false)));
                }
            }
        }
        below.into_iter().filter(|event_id| leads.get(event_id) == Some(&true)).cloned().collect()
    }

    fn resolve(
        &self,
        states: &[StateMap],
        rules: &RoomVersionRules,
        version: &RoomVersionId,
    ) -> Result<StateMap, RoomError> {
        let maps: Vec<state_res::StateMap<OwnedEventId>> = states
            .iter()
            .map(|state| {
                state.iter().filter_map(|(key, nid)| Some((key.clone(), self.ids.get(nid)?.clone()))).collect()
            })
            .collect();
        let resolved = match &rules.state_res {
            StateResolutionVersion::V1 => {
                state_res_v1::resolve(&maps, rules, |event_id| self.events.get(event_id).cloned())
            }
            StateResolutionVersion::V2(v2) => self.resolve_v2(&maps, rules, v2)?,
            _ => return Err(RoomError::UnsupportedVersion(version.as_str().to_owned())),
        };
        Ok(resolved.into_iter().filter_map(|(key, event_id)| Some((key, *self.nids.get(&event_id)?))).collect())
    }

    fn resolve_v2(
        &self,
        maps: &[state_res::StateMap<OwnedEventId>],
        rules: &RoomVersionRules,
        v2: &StateResolutionV2Rules,
    ) -> Result<state_res::StateMap<OwnedEventId>, RoomError> {
        let chains = maps
            .iter()
            .map(|map| self.auth_chain(map.values()).into_iter().cloned().collect::<EventIdSet<OwnedEventId>>())
            .collect();
        state_res::resolve(
            &rules.authorization,
            v2,
            maps,
            chains,
            |event_id| self.events.get(event_id).cloned(),
            |conflicted| Some(self.between(&conflicted.values().flatten().cloned().collect())),
        )
        .map_err(|error| RoomError::Invalid(format!("the state could not be resolved: {error}")))
    }
}
