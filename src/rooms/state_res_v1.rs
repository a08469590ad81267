//! What holds where branches of a room of version 1 meet.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v1/#state-resolution>

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use model::{Pdu, StateKey};
use ruma::{EventId, OwnedEventId, events::StateEventType, room_version_rules::RoomVersionRules, state_res::StateMap};
use sha1::{Digest as _, Sha1};

use crate::auth::{self, AuthState};

/// The events that several states have for the same key, by that key.
type Conflicts = BTreeMap<StateKey, Vec<Arc<Pdu>>>;

/// The one state that several come to. `find` answers their events; what it doesn't know is left out.
pub(crate) fn resolve(
    states: &[StateMap<OwnedEventId>],
    rules: &RoomVersionRules,
    find: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> StateMap<OwnedEventId> {
    // Spec: "Start by setting R to the union of the states to be resolved, excluding any conflicting events."
    let (mut resolved, mut conflicts) = split(states, find);
    for kind in [StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules, StateEventType::RoomMember] {
        let (of_kind, others) = conflicts.into_iter().partition(|(key, _)| key.0 == kind);
        let of_kind: Conflicts = of_kind;
        conflicts = others;
        let chosen: Vec<_> =
            of_kind.into_iter().map(|(key, events)| last_allowed_in_turn(key, events, &mut resolved, rules)).collect();
        resolved.extend(chosen);
    }
    let chosen: Vec<_> = conflicts
        .into_iter()
        .filter_map(|(key, events)| Some((key, latest_allowed(events, &resolved, rules)?)))
        .collect();
    resolved.extend(chosen);
    resolved.into_iter().map(|(key, pdu)| (key, pdu.event_id.clone())).collect()
}

/// What the states agree on, and what they don't. That a state has nothing for a key contradicts nobody.
fn split(states: &[StateMap<OwnedEventId>], find: impl Fn(&EventId) -> Option<Arc<Pdu>>) -> (AuthState, Conflicts) {
    let mut all: HashMap<&StateKey, Vec<&OwnedEventId>> = HashMap::new();
    for (key, event_id) in states.iter().flatten() {
        let ids = all.entry(key).or_default();
        if !ids.contains(&event_id) {
            ids.push(event_id);
        }
    }
    let (mut agreed, mut conflicts) = (AuthState::new(), Conflicts::new());
    for (key, ids) in all {
        let mut events: Vec<_> = ids.into_iter().filter_map(|event_id| find(event_id)).collect();
        match events.len() {
            0 => {}
            1 => agreed.extend(events.pop().map(|event| (key.clone(), event))),
            _ => {
                conflicts.insert(key.clone(), events);
            }
        }
    }
    (agreed, conflicts)
}

/// Spec: "Sort the list by ascending depth then descending sha1(event_id). Add the first event in the list to R. For each
/// subsequent event in the list, check that the event would be allowed by the authorization rules for a room in state R. If
/// the event would be allowed, then update R with the event and continue […]. If it would not be allowed, stop".
fn last_allowed_in_turn(
    key: StateKey,
    mut events: Vec<Arc<Pdu>>,
    resolved: &mut AuthState,
    rules: &RoomVersionRules,
) -> (StateKey, Arc<Pdu>) {
    events.sort_by_cached_key(|event| (event.depth, Reverse(sha1(event))));
    let mut events = events.into_iter();
    let mut last = events.next().expect("whatever is in conflict is at least two events");
    for event in events {
        resolved.insert(key.clone(), last.clone());
        if auth::check_by_state(&event, rules, resolved).is_err() {
            break;
        }
        last = event;
    }
    // Conflicts of one kind don't decide over each other: it counts once all of the kind are settled.
    resolved.remove(&key);
    (key, last)
}

/// Spec: "pick the event with the highest depth and lowest sha1(event_id) that passes authentication in R". If none does, the
/// earliest, as every server does.
fn latest_allowed(mut events: Vec<Arc<Pdu>>, resolved: &AuthState, rules: &RoomVersionRules) -> Option<Arc<Pdu>> {
    events.sort_by_cached_key(|event| (Reverse(event.depth), sha1(event)));
    let allowed = events.iter().find(|event| auth::check_by_state(event, rules, resolved).is_ok());
    allowed.or(events.last()).cloned()
}

fn sha1(event: &Pdu) -> [u8; 20] {
    Sha1::digest(event.event_id.as_bytes()).into()
}

#[cfg(test)]
#[path = "state_res_v1_tests.rs"]
mod tests;
