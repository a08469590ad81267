//! Events that relate to another.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#relationships-between-events>

use std::sync::Arc;

use model::{Position, TimelineEvent};
use ruma::{EventId, api::Direction};

use crate::{RoomError, Rooms, live::SharedRoom, visibility::Sight};

const LONGEST_PAGE: usize = 500;

/// Which relations are asked for.
#[derive(Clone, Debug)]
pub struct RelationsRequest<'a> {
    /// To which event.
    pub parent: &'a EventId,
    /// `m.annotation`, `m.thread` …; `None`: of any kind.
    pub rel_type: Option<&'a str>,
    /// The type of the relating events; `None`: any.
    pub kind: Option<&'a str>,
    /// Between which events to begin.
    pub from: Option<Position>,
    /// Where to stop.
    pub to: Option<Position>,
    /// How many at most.
    pub limit: usize,
    /// Backwards: latest first.
    pub direction: Direction,
    /// Also what relates to what relates to the event.
    pub recurse: bool,
}

/// How many steps a relation may be away when indirect ones are asked for.
pub const RECURSION_DEPTH: u32 = 3;

/// A page of relating events.
#[derive(Debug)]
pub struct Related {
    /// Those that the asker may see.
    pub events: Vec<Arc<TimelineEvent>>,
    /// Where the next page begins; `None`: there is nothing more.
    pub end: Option<Position>,
}

impl Rooms {
    /// The events that relate to `parent`, which the asker must be able to see.
    pub async fn relations(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        request: RelationsRequest<'_>,
    ) -> Result<Related, RoomError> {
        self.find_event(sight, request.parent).await?;
        let limit = request.limit.clamp(1, LONGEST_PAGE);
        let is_backward = request.direction == Direction::Backward;
        let from = request.from.unwrap_or(if is_backward { Position(i64::MAX) } else { Position(i64::MIN) });
        let wanted = store::events::Relations {
            room: room.nid,
            parent: request.parent,
            rel_type: request.rel_type,
            kind: request.kind,
            from,
            to: request.to,
            limit,
            direction: request.direction,
            recurse: request.recurse,
        };
        let events = self.shared.store.events().relations(wanted).await?;
        let end = events.last().filter(|_| events.len() == limit).map(|last| match request.direction {
            Direction::Backward => Position(last.position.0 - 1),
            Direction::Forward => last.position,
        });
        Ok(Related { events: sight.filter(events).await?, end })
    }

    /// The roots of the room's threads, the most recently answered first.
    ///
    /// `from`: where the page before ended. `participated`: only threads that the asker began or answered.
    pub async fn threads(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        from: Option<Position>,
        participated: bool,
        limit: usize,
    ) -> Result<Related, RoomError> {
        let limit = limit.clamp(1, LONGEST_PAGE);
        let newest = sight.end().unwrap_or(Position(i64::MAX));
        let from = from.map_or(newest, |from| from.min(newest));
        let events = self.shared.store.events();
        let roots = events.threads(room.nid, from, participated.then_some(&sight.user_id), limit).await?;
        let end = roots.last().filter(|_| roots.len() == limit).map(|(_, latest)| Position(latest.0 - 1));
        let mut shown = Vec::with_capacity(roots.len());
        for (root, _) in roots {
            match self.find_event(sight, &root).await {
                Ok(root) => shown.push(root),
                Err(RoomError::UnknownEvent) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Related { events: shown, end })
    }
}
