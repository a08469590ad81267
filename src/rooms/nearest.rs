//! Finding an event by its time.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event>

use std::sync::Arc;

use model::{Millis, Position, TimelineEvent};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, UInt,
    api::{Direction, federation::event::get_event_by_timestamp},
};
use tracing::debug;

use crate::{RoomError, Rooms, live::SharedRoom, visibility::Sight};

/// Events that aren't shown may lie between the moment and the first that is.
const LOOKED_AT: usize = 50;
/// How many pages of history are fetched to come to an event that another server names.
const PAGES: usize = 20;

impl Rooms {
    /// The event nearest to a moment, looking in a direction. What lies before this server's history, others are asked for.
    pub async fn nearest(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        moment: Millis,
        direction: Direction,
    ) -> Result<Arc<TimelineEvent>, RoomError> {
        if self.is_before_history(room, moment).await?
            && let Some(event_id) = self.nearest_elsewhere(room, moment, direction).await?
        {
            self.come_to(room, &event_id).await?;
        }
        let upto = sight.end().unwrap_or(Position(i64::MAX));
        let found = self.shared.store.events().nearest(room.nid, moment, upto, direction, LOOKED_AT).await?;
        for event in found {
            if sight.reaches(&event).await? {
                return Ok(event);
            }
        }
        Err(RoomError::NotFound("there is no such event that you may see".into()))
    }

    /// Whether there is more history than this server has, and nothing of what it has is as old as `moment`.
    async fn is_before_history(&self, room: &SharedRoom, moment: Millis) -> Result<bool, RoomError> {
        let events = self.shared.store.events();
        let upto = Position(i64::MAX);
        Ok(!events.backward_extremities(room.nid, 1).await?.is_empty()
            && events.nearest(room.nid, moment, upto, Direction::Backward, 1).await?.is_empty())
    }

    async fn nearest_elsewhere(
        &self,
        room: &SharedRoom,
        moment: Millis,
        direction: Direction,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(ts) = u64::try_from(moment).ok().and_then(UInt::new) else { return Ok(None) };
        for server in self.servers_with_history(room).await? {
            let ts = MilliSecondsSinceUnixEpoch(ts);
            let request = get_event_by_timestamp::v1::Request::new(room.room_id.clone(), ts, direction);
            match self.shared.peers.ask(&server, request).await {
                Ok(answer) => return Ok(Some(answer.event_id)),
                Err(error) => {
                    debug!(room.id = %room.room_id, server.name = %server, error = &error as &dyn std::error::Error, "{server} named no event of that time");
                }
            }
        }
        Ok(None)
    }

    /// Fetches history until the event is in it, or has been fetched for long enough.
    async fn come_to(&self, room: &SharedRoom, event_id: &OwnedEventId) -> Result<(), RoomError> {
        for _ in 0..PAGES {
            let known = self.events_by_id(std::slice::from_ref(event_id)).await?.pop();
            if known.is_some_and(|event| event.position.0 != 0) || !self.backfill(room).await {
                break;
            }
        }
        Ok(())
    }
}
