//! What holds in a room.

use std::sync::Arc;

use model::TimelineEvent;
use ruma::{
    OwnedUserId,
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
        let creators = RoomCreateEvent::new(&*create.pdu).creators(&room.rules.authorization);
        Ok(creators.map_err(RoomError::Invalid)?.into_iter().collect())
    }

    /// These events, from memory or from the store, in no particular order.
    pub async fn events(
        &self,
        nids: impl IntoIterator<Item = model::EventNid>,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for nid in nids {
            match self.shared.events.get(&nid) {
                Some(event) => found.push(event),
                None => missing.push(nid),
            }
        }
        for event in self.shared.store.events().by_nids(&missing).await? {
            self.shared.events.insert(event.nid, event.clone());
            found.push(event);
        }
        Ok(found)
    }
}
