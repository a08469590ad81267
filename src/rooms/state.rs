//! What holds in a room.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use model::{EventNid, StateMap, TimelineEvent};
use ruma::{
    OwnedEventId, OwnedUserId,
    events::{
        StateEventType,
        room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource},
    },
    state_res::events::RoomCreateEvent,
};
use serde::de::DeserializeOwned;

use crate::{RoomError, Rooms, View, live::SharedRoom};

impl Rooms {
    /// The room's state, as far as it is durable.
    pub async fn view(&self, room: &SharedRoom) -> Result<View, RoomError> {
        room.view(&self.shared.store).await
    }

    /// The event that holds for `kind` and `state_key`.
    pub async fn state_event(
        &self,
        room: &SharedRoom,
        kind: StateEventType,
        state_key: &str,
    ) -> Result<Option<Arc<TimelineEvent>>, RoomError> {
        match self.view(room).await?.get(kind, state_key) {
            Some(nid) => Ok(Some(self.event(nid).await?)),
            None => Ok(None),
        }
    }

    /// The content of the event that holds for `kind` and an empty state key, if it reads as `T`.
    pub async fn state_content<T: DeserializeOwned>(
        &self,
        room: &SharedRoom,
        kind: StateEventType,
    ) -> Result<Option<T>, RoomError> {
        let event = self.state_event(room, kind, "").await?;
        Ok(event.and_then(|event| serde_json::from_str(event.pdu.content.get()).ok()))
    }

    /// The whole state of the room now.
    pub async fn whole_state(&self, room: &SharedRoom) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let view = self.view(room).await?;
        self.events(view.state.values().copied()).await
    }

    /// Who may do what in the room.
    pub async fn power_levels(&self, room: &SharedRoom) -> Result<RoomPowerLevels, RoomError> {
        let content: Option<RoomPowerLevelsEventContent> =
            self.state_content(room, StateEventType::RoomPowerLevels).await?;
        let creators = self.creators(room).await?;
        Ok(RoomPowerLevels::new(RoomPowerLevelsSource::from(content), &room.rules.authorization, creators))
    }

    /// Who made the room.
    pub async fn creators(&self, room: &SharedRoom) -> Result<Vec<OwnedUserId>, RoomError> {
        let Some(create) = self.state_event(room, StateEventType::RoomCreate, "").await? else {
            return Ok(Vec::new());
        };
        creators_of(&create, room)
    }

    /// These events, from memory or from the store, in no particular order.
    pub async fn events(
        &self,
        nids: impl IntoIterator<Item = model::EventNid>,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for nid in nids {
            match self.event_in_memory(nid) {
                Some(event) => found.push(event),
                None => missing.push(nid),
            }
        }
        for event in self.shared.store.events().by_nids(&missing).await? {
            self.remember(&event);
            found.push(event);
        }
        Ok(found)
    }

    /// The events called so, from memory or from the store, in no particular order; those that aren't there are left out.
    pub(crate) async fn events_by_id(&self, ids: &[OwnedEventId]) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for event_id in ids {
            let nid = self.shared.nids.get(event_id);
            match nid.and_then(|nid| self.event_in_memory(nid)) {
                Some(event) => found.push(event),
                None => missing.push(event_id.clone()),
            }
        }
        for event in self.shared.store.events().by_ids(&missing).await? {
            self.remember(&event);
            found.push(event);
        }
        Ok(found)
    }

    /// Who may do what in the room, as `state` says.
    pub(crate) async fn power_levels_in(
        &self,
        room: &SharedRoom,
        state: &StateMap,
        fresh: &HashMap<EventNid, Arc<TimelineEvent>>,
    ) -> Result<RoomPowerLevels, RoomError> {
        let find = async |kind: StateEventType| -> Result<Option<Arc<TimelineEvent>>, RoomError> {
            let Some(nid) = state.get(&(kind, String::new())) else { return Ok(None) };
            match fresh.get(nid) {
                Some(event) => Ok(Some(event.clone())),
                None => self.event(*nid).await.map(Some),
            }
        };
        let content = find(StateEventType::RoomPowerLevels).await?;
        let content: Option<RoomPowerLevelsEventContent> = content.and_then(|event| event.pdu.content_as());
        let creators = match find(StateEventType::RoomCreate).await? {
            Some(create) => creators_of(&create, room)?,
            None => Vec::new(),
        };
        Ok(RoomPowerLevels::new(RoomPowerLevelsSource::from(content), &room.rules.authorization, creators))
    }

    pub(crate) fn event_in_memory(&self, nid: EventNid) -> Option<Arc<TimelineEvent>> {
        let shared = &self.shared;
        let in_flight = || shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner).get(&nid).cloned();
        shared.events.get(&nid).or_else(in_flight)
    }

    /// The state events whose commit is still under way.
    pub(crate) fn in_flight(&self) -> Vec<Arc<TimelineEvent>> {
        self.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn remember(&self, event: &Arc<TimelineEvent>) {
        self.shared.events.insert(event.nid, event.clone());
        self.shared.nids.insert(event.pdu.event_id.clone(), event.nid);
    }
}

fn creators_of(create: &TimelineEvent, room: &SharedRoom) -> Result<Vec<OwnedUserId>, RoomError> {
    let creators = RoomCreateEvent::new(&*create.pdu).creators(&room.rules.authorization);
    Ok(creators.map_err(RoomError::Invalid)?.into_iter().collect())
}
