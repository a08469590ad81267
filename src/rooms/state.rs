//! What holds in a room.

use std::{collections::HashMap, sync::Arc};

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
        let memory = &self.shared.memory;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for nid in nids {
            match memory.get(nid) {
                Some(event) => found.push(event),
                None => missing.push(nid),
            }
        }
        let asked = memory.moment();
        for event in self.shared.store.events().by_nids(&missing).await? {
            memory.keep(&event, asked);
            found.push(event);
        }
        Ok(found)
    }

    /// The events called so, from memory or from the store, in no particular order; those that aren't there are left out.
    pub(crate) async fn events_by_id(&self, ids: &[OwnedEventId]) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let memory = &self.shared.memory;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for event_id in ids {
            match memory.find(event_id) {
                Some(event) => found.push(event),
                None => missing.push(event_id.clone()),
            }
        }
        let asked = memory.moment();
        for event in self.shared.store.events().by_ids(&missing).await? {
            memory.keep(&event, asked);
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
}

fn creators_of(create: &TimelineEvent, room: &SharedRoom) -> Result<Vec<OwnedUserId>, RoomError> {
    let creators = RoomCreateEvent::new(&*create.pdu).creators(&room.rules.authorization);
    Ok(creators.map_err(RoomError::Invalid)?.into_iter().collect())
}
