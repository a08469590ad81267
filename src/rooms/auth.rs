//! Whether an event is allowed.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#authorization-rules>

use std::collections::HashMap;
use std::sync::Arc;

use model::{Pdu, StateKey};
use ruma::{
    EventId, OwnedEventId, RoomId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res,
};
use serde_json::value::RawValue;

use crate::RoomError;

/// The state events that have a say, by what they are about.
pub(crate) type AuthState = HashMap<StateKey, Arc<Pdu>>;

/// What an event is, as far as it decides which state has a say.
pub(crate) struct Subject<'a> {
    pub(crate) kind: &'a TimelineEventType,
    pub(crate) sender: &'a ruma::UserId,
    pub(crate) state_key: Option<&'a str>,
    pub(crate) content: &'a RawValue,
}

impl<'a> From<&'a Pdu> for Subject<'a> {
    fn from(pdu: &'a Pdu) -> Self {
        Self { kind: &pdu.kind, sender: &pdu.sender, state_key: pdu.state_key.as_deref(), content: &pdu.content }
    }
}

impl<'a> From<&'a model::Draft> for Subject<'a> {
    fn from(draft: &'a model::Draft) -> Self {
        Self {
            kind: &draft.kind,
            sender: &draft.sender,
            state_key: draft.state_key.as_deref(),
            content: &draft.content,
        }
    }
}

/// Which state an event names as what allows it.
pub(crate) fn auth_types(subject: &Subject<'_>, rules: &RoomVersionRules) -> Result<Vec<StateKey>, RoomError> {
    state_res::auth_types_for_event(
        subject.kind,
        subject.sender,
        subject.state_key,
        subject.content,
        &rules.authorization,
    )
    .map_err(RoomError::BadContent)
}

/// Which state decides: what the event names, and the create event, which since room version 12 is named by the room's id
/// alone.
pub(crate) fn deciding(subject: &Subject<'_>, rules: &RoomVersionRules) -> Result<Vec<StateKey>, RoomError> {
    let mut keys = auth_types(subject, rules)?;
    let create = (StateEventType::RoomCreate, String::new());
    if !keys.contains(&create) {
        keys.push(create);
    }
    Ok(keys)
}

/// Checks an event by itself and by the events it names as what allows it. `find` answers those by id.
pub(crate) fn check_by_auth_events(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    find: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), RoomError> {
    state_res::check_state_independent_auth_rules(&rules.authorization, pdu, &find).map_err(RoomError::Forbidden)?;
    let create = create_event_id(&pdu.room_id, rules);
    let named = pdu.auth_events.iter().chain(&create).filter_map(|event_id| find(event_id));
    let state: AuthState = named.filter_map(|event| Some((event.state()?, event))).collect();
    check_by_state(pdu, rules, &state)
}

/// Checks an event by the state that holds.
pub(crate) fn check_by_state(pdu: &Pdu, rules: &RoomVersionRules, state: &AuthState) -> Result<(), RoomError> {
    let find = |kind: &StateEventType, key: &str| state.get(&(kind.clone(), key.to_owned())).cloned();
    state_res::check_state_dependent_auth_rules(&rules.authorization, pdu, find).map_err(RoomError::Forbidden)
}

/// The create event of a room whose id is made of it.
pub(crate) fn create_event_id(room_id: &RoomId, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    if rules.event_format.require_room_create_room_id {
        return None;
    }
    EventId::parse(format!("${}", room_id.strip_sigil())).ok()
}
