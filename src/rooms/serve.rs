//! Telling other servers what happened in the rooms that they share with this one.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-events>

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use model::{
    SnapshotNid, StateMap, TimelineEvent,
    peer::{Capability, Context, Grant},
};
use ruma::{
    EventId, OwnedEventId, RoomId, ServerName, UserId,
    api::Direction,
    events::{
        StateEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};

use crate::{RoomError, Rooms, live::SharedRoom, send::membership_of};

/// No answer holds more events.
const MOST_EVENTS: usize = 100;

impl Rooms {
    /// One event, if `origin` may see it.
    pub async fn event_for(&self, origin: &ServerName, event_id: &EventId) -> Result<Arc<TimelineEvent>, RoomError> {
        let event = self.events_by_id(&[event_id.to_owned()]).await?.pop().ok_or(RoomError::UnknownEvent)?;
        let room = self.get_visible_to(&event.pdu.room_id, origin).await?;
        let mut sight = ServerSight::new(self, &room, origin);
        // What holds in a room, and what allows it, every server of the room has to know.
        let is_needed = event.pdu.state_key.is_some();
        if !event.pdu.rejected && (is_needed || sight.reaches(&event).await?) {
            Ok(event)
        } else {
            Err(RoomError::UnknownEvent)
        }
    }

    /// The state before an event, and what allows it.
    pub async fn state_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(Vec<Arc<TimelineEvent>>, Vec<Arc<TimelineEvent>>), RoomError> {
        let room = self.get_visible_to(room_id, origin).await?;
        let event = self.event_of(&room, event_id).await?;
        // Nobody may build on what was refused; and what held before an event that never came in itself, another server has
        // said.
        let came_in = event.position.0 != 0 || event.soft_failed;
        let is_first = event.pdu.kind == ruma::events::TimelineEventType::RoomCreate;
        if event.pdu.rejected || !(came_in || is_first) {
            return Err(RoomError::UnknownEvent);
        }
        let state = match event.state_before {
            Some(snapshot) => self.state_at(snapshot).await?,
            None if is_first => StateMap::new(),
            None => return Err(RoomError::UnknownEvent),
        };
        let state = self.events(state.values().copied()).await?;
        let starts: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id.clone()).collect();
        let chain = self.auth_chain(&starts).await?;
        Ok((state, chain))
    }

    /// What allows an event, and what allows that.
    pub async fn auth_chain_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let room = self.get_visible_to(room_id, origin).await?;
        let event = self.event_of(&room, event_id).await?;
        self.auth_chain(std::slice::from_ref(&event.pdu.event_id)).await
    }

    /// These events and what they follow, as far as `origin` may see it, latest first, `limit` at most.
    pub async fn history_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        starts: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let room = self.get_visible_to(room_id, origin).await?;
        let mut sight = ServerSight::new(self, &room, origin);
        let mut found = Vec::new();
        for event in self.walk_back(&room, starts, &HashSet::new(), limit.min(MOST_EVENTS)).await? {
            if sight.reaches(&event).await? {
                found.push(event);
            }
        }
        Ok(found)
    }

    /// What lies between `earliest` and `latest`, both excepted, oldest first, `limit` at most.
    pub async fn gap_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let room = self.get_visible_to(room_id, origin).await?;
        let mut sight = ServerSight::new(self, &room, origin);
        let ends: HashSet<OwnedEventId> = earliest.iter().cloned().collect();
        let latest_events = self.events_by_id(latest).await?;
        let starts: Vec<OwnedEventId> = latest_events
            .iter()
            .filter(|event| event.room_nid == room.nid)
            .flat_map(|event| event.pdu.prev_events.iter().cloned())
            .collect();
        let mut found = Vec::new();
        for event in self.walk_back(&room, &starts, &ends, limit.min(MOST_EVENTS)).await? {
            if !latest.contains(&event.pdu.event_id) && sight.reaches(&event).await? {
                found.push(event);
            }
        }
        found.reverse();
        Ok(found)
    }

    /// The event nearest to a moment that `origin` may see.
    pub async fn nearest_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        moment: model::Millis,
        direction: Direction,
    ) -> Result<Arc<TimelineEvent>, RoomError> {
        const LOOKED_AT: usize = 50;
        let room = self.get_visible_to(room_id, origin).await?;
        let mut sight = ServerSight::new(self, &room, origin);
        let upto = model::Position(i64::MAX);
        for event in self.shared.store.events().nearest(room.nid, moment, upto, direction, LOOKED_AT).await? {
            if sight.reaches(&event).await? {
                return Ok(event);
            }
        }
        Err(RoomError::UnknownEvent)
    }

    /// From `starts` back along what each event follows, breadth first: the latest first.
    async fn walk_back(
        &self,
        room: &SharedRoom,
        starts: &[OwnedEventId],
        ends: &HashSet<OwnedEventId>,
        limit: usize,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let mut seen: HashSet<OwnedEventId> = ends.clone();
        let mut open: VecDeque<OwnedEventId> =
            starts.iter().filter(|event_id| seen.insert((*event_id).clone())).cloned().collect();
        let mut found = Vec::new();
        while !open.is_empty() && found.len() < limit {
            let ids: Vec<OwnedEventId> = open.drain(..).take(limit).collect();
            let events = self.events_by_id(&ids).await?;
            let by_id: HashMap<&EventId, &Arc<TimelineEvent>> =
                events.iter().map(|event| (&*event.pdu.event_id, event)).collect();
            for event in ids.iter().filter_map(|event_id| by_id.get(&**event_id)) {
                if event.room_nid != room.nid {
                    continue;
                }
                open.extend(event.pdu.prev_events.iter().filter(|event_id| seen.insert((*event_id).clone())).cloned());
                // What is not shown here, because the room had moved on when it came, others may have to know all the same:
                // their events may follow it.
                let is_judged = event.position.0 != 0 || event.state_before.is_some();
                if is_judged && !event.pdu.rejected && found.len() < limit {
                    found.push((*event).clone());
                }
            }
        }
        found.sort_by_key(|event| std::cmp::Reverse((event.pdu.depth, event.position)));
        Ok(found)
    }

    async fn event_of(&self, room: &SharedRoom, event_id: &EventId) -> Result<Arc<TimelineEvent>, RoomError> {
        let event = self.events_by_id(&[event_id.to_owned()]).await?.pop();
        event.filter(|event| event.room_nid == room.nid).ok_or(RoomError::UnknownEvent)
    }

    /// The room, if `origin` may ask about it: it is in it, and not kept out.
    pub(crate) async fn get_visible_to(&self, room_id: &RoomId, origin: &ServerName) -> Result<SharedRoom, RoomError> {
        let room = self.get_shared_with(room_id, origin).await?;
        let view = self.view(&room).await?;
        if view.servers.contains_key(origin) {
            return Ok(room);
        }
        // Anybody may look into a room that is open to the world.
        let visibility = match view.get(StateEventType::RoomHistoryVisibility, "") {
            Some(nid) => visibility_of(&*self.event(nid).await?),
            None => None,
        };
        match visibility {
            Some(HistoryVisibility::WorldReadable) => Ok(room),
            _ => Err(RoomError::Forbidden("your server is not in the room".into())),
        }
    }
}

fn visibility_of(event: &TimelineEvent) -> Option<HistoryVisibility> {
    #[derive(serde::Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    event.pdu.content_as::<Content>().map(|content| content.history_visibility)
}

/// What a server may see of a room's history: what anybody of it may.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>
struct ServerSight<'a> {
    rooms: &'a Rooms,
    room: &'a SharedRoom,
    server: &'a ServerName,
    /// How far back the trust in the server lets it look.
    depth: Depth,
    seen: HashMap<SnapshotNid, (bool, bool)>,
}

/// How far a server may look into what was said before its people came.
enum Depth {
    /// As the room allows.
    All,
    /// Not before this moment.
    Since(model::Millis),
    /// Not at all.
    None,
}

/// What is recent, in milliseconds.
const RECENT: model::Millis = 30 * 24 * 60 * 60 * 1_000;

impl<'a> ServerSight<'a> {
    fn new(rooms: &'a Rooms, room: &'a SharedRoom, server: &'a ServerName) -> Self {
        let allowed = rooms.shared.peers.trust().allow(server, Capability::History, &Context::inbound());
        let depth = match allowed.map(|allowed| allowed.grant) {
            Ok(Grant::Yes) => Depth::All,
            Ok(Grant::Recent) => Depth::Since(crate::now() - RECENT),
            Ok(_) | Err(_) => Depth::None,
        };
        Self { rooms, room, server, depth, seen: HashMap::new() }
    }

    async fn reaches(&mut self, event: &TimelineEvent) -> Result<bool, RoomError> {
        if event.room_nid != self.room.nid || event.pdu.rejected {
            return Ok(false);
        }
        if event.pdu.sender.server_name() == self.server {
            return Ok(true);
        }
        // Whoever is the subject of a membership hears of it.
        let subject = event.pdu.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
        if membership_of(&event.pdu).is_some() && subject.is_some_and(|user_id| user_id.server_name() == self.server) {
            return Ok(true);
        }
        let Some(snapshot) = event.state_before else { return Ok(true) };
        let is_recent = match self.depth {
            Depth::All => true,
            Depth::Since(moment) => i64::from(event.pdu.origin_server_ts.get()) >= moment,
            Depth::None => false,
        };
        if let Some((may_see, was_in)) = self.seen.get(&snapshot) {
            return Ok(*may_see && (is_recent || *was_in));
        }
        let state = self.rooms.state_at(snapshot).await?;
        let visibility = match state.get(&(StateEventType::RoomHistoryVisibility, String::new())) {
            Some(nid) => visibility_of(&*self.rooms.event(*nid).await?).unwrap_or(HistoryVisibility::Shared),
            None => HistoryVisibility::Shared,
        };
        let was_in = matches!(self.depth, Depth::All) || self.had(&state, &[MembershipState::Join]).await?;
        let reaches = match visibility {
            HistoryVisibility::WorldReadable | HistoryVisibility::Shared => true,
            HistoryVisibility::Invited => self.had(&state, &[MembershipState::Join, MembershipState::Invite]).await?,
            _ => self.had(&state, &[MembershipState::Join]).await?,
        };
        self.seen.insert(snapshot, (reaches, was_in));
        Ok(reaches && (is_recent || was_in))
    }

    /// Whether somebody of the server was one of these to the room.
    async fn had(&self, state: &StateMap, memberships: &[MembershipState]) -> Result<bool, RoomError> {
        let of_server = |key: &str| <&UserId>::try_from(key).is_ok_and(|user_id| user_id.server_name() == self.server);
        let nids = state
            .iter()
            .filter(|((kind, key), _)| *kind == StateEventType::RoomMember && of_server(key))
            .map(|(_, nid)| *nid);
        let events = self.rooms.events(nids).await?;
        Ok(events.iter().filter_map(|event| membership_of(&event.pdu)).any(|was| memberships.contains(&was)))
    }
}
