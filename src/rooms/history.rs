//! What was said: pages of a timeline, one event, what surrounds it.

use std::{collections::BTreeSet, sync::Arc};

use model::{Position, TimelineEvent};
use ruma::{
    EventId, OwnedUserId, UserId,
    api::{
        Direction,
        client::filter::{RoomEventFilter, UrlFilter},
    },
    events::StateEventType,
};

use crate::{RoomError, Rooms, live::SharedRoom, visibility::Sight};

/// No page is longer.
const LONGEST_PAGE: usize = 1000;
/// A page reads at most so many stretches of the timeline when few of the events are shown.
const STRETCHES: usize = 10;

/// Which part of a timeline is asked for.
#[derive(Clone, Debug)]
pub struct PageRequest<'a> {
    /// Between which events to begin; `None`: at the end that `direction` comes from.
    pub from: Option<Position>,
    /// Where to stop.
    pub to: Option<Position>,
    /// Backwards: latest first.
    pub direction: Direction,
    /// How many events at most.
    pub limit: usize,
    /// Which events.
    pub filter: &'a RoomEventFilter,
}

/// A part of a timeline.
#[derive(Debug)]
pub struct Page {
    /// Where it begins.
    pub start: Position,
    /// Where the next one begins; `None`: there is nothing more.
    pub end: Option<Position>,
    /// How far it was looked: where it begins, if there was nothing at all.
    pub seen_upto: Position,
    /// Its events.
    pub events: Vec<Arc<TimelineEvent>>,
}

/// An event and what surrounds it.
#[derive(Debug)]
pub struct Context {
    /// The event.
    pub event: Arc<TimelineEvent>,
    /// What came before it, latest first.
    pub before: Page,
    /// What came after it, oldest first.
    pub after: Page,
    /// The room's state after the last of them.
    pub state: Vec<Arc<TimelineEvent>>,
}

impl Rooms {
    /// A page of the timeline, as far as `sight` reaches.
    ///
    /// Going backwards, `from` is taken as *up to here*; going forwards, as *after here*.
    pub async fn page(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        request: PageRequest<'_>,
    ) -> Result<Page, RoomError> {
        let limit = request.limit.clamp(1, LONGEST_PAGE);
        let is_backward = request.direction == Direction::Backward;
        let mut start = match request.from {
            Some(from) => from,
            None if is_backward => self.shared.store.visible_position().await?,
            // History that arrives late lies before everything else, however far back that is.
            None => Position(i64::MIN + 1),
        };
        if let Some(end) = sight.end().filter(|_| is_backward) {
            start = start.min(end);
        }
        let mut at = start;
        let mut events = Vec::new();
        for _ in 0..STRETCHES {
            let wanted = limit - events.len();
            let stretch =
                self.shared.store.events().timeline(room.nid, at, request.to, wanted, request.direction).await?;
            let is_end = stretch.len() < wanted;
            if let Some(last) = stretch.last() {
                at = if is_backward { Position(last.position.0 - 1) } else { last.position };
            }
            let wanted: Vec<_> = stretch.into_iter().filter(|event| passes(request.filter, event)).collect();
            events.extend(sight.filter(wanted).await?);
            if is_end {
                // Other servers may have what came before.
                if is_backward && request.to.is_none() && self.backfill(room).await {
                    continue;
                }
                return Ok(Page { start, end: None, seen_upto: at, events });
            }
            if events.len() == limit {
                break;
            }
        }
        Ok(Page { start, end: Some(at), seen_upto: at, events })
    }

    /// One event of the room, if `user_id` may see it.
    pub async fn find_event(&self, sight: &mut Sight<'_>, event_id: &EventId) -> Result<Arc<TimelineEvent>, RoomError> {
        let event = self.shared.store.events().find(event_id).await?.ok_or(RoomError::UnknownEvent)?;
        if sight.reaches(&event).await? { Ok(event) } else { Err(RoomError::UnknownEvent) }
    }

    /// An event with what surrounds it: half of `limit` before, the rest after.
    pub async fn context(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        event_id: &EventId,
        limit: usize,
        filter: &RoomEventFilter,
    ) -> Result<Context, RoomError> {
        let event = self.find_event(sight, event_id).await?;
        let limit = limit.min(LONGEST_PAGE);
        let page = |direction, from, limit: usize| PageRequest { from: Some(from), to: None, direction, limit, filter };
        let just_before = Position(event.position.0 - 1);
        let mut before = self.page(room, sight, page(Direction::Backward, just_before, limit / 2)).await?;
        let mut after = self.page(room, sight, page(Direction::Forward, event.position, limit - limit / 2)).await?;
        if limit / 2 == 0 {
            before = Page { start: just_before, end: Some(just_before), seen_upto: just_before, events: Vec::new() };
        }
        if limit == 0 {
            after = Page {
                start: event.position,
                end: Some(event.position),
                seen_upto: event.position,
                events: Vec::new(),
            };
        }
        let last = after.events.last().unwrap_or(&event);
        let mut state = match last.state_before {
            Some(snapshot) => self.state_at(snapshot).await?,
            None => Default::default(),
        };
        if let Some(key) = last.pdu.state() {
            state.insert(key, last.nid);
        }
        let senders = senders(before.events.iter().chain([&event]).chain(&after.events));
        let is_lazy = !filter.lazy_load_options.is_disabled();
        let state = self
            .events(state.iter().filter(|(key, _)| !is_lazy || is_wanted_member(key, &senders)).map(|(_, nid)| *nid))
            .await?;
        Ok(Context { event, before, after, state })
    }

    /// The member events of those who sent `events`, for who loads members lazily.
    pub async fn members_of(
        &self,
        room: &SharedRoom,
        events: &[Arc<TimelineEvent>],
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let view = self.view(room).await?;
        let nids: Vec<_> = senders(events)
            .into_iter()
            .filter_map(|user| view.get(StateEventType::RoomMember, user.as_str()))
            .collect();
        self.events(nids).await
    }

    /// The members as they were at `at`, or as far as `sight` reaches.
    pub async fn members(
        &self,
        room: &SharedRoom,
        sight: &Sight<'_>,
        at: Option<Position>,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let mut state = sight.state().await?;
        if let Some(at) = at.map(|at| sight.end().map_or(at, |end| at.min(end))) {
            let last = self.shared.store.events().timeline(room.nid, at, None, 1, Direction::Backward).await?;
            if let Some((last, snapshot)) = last.first().and_then(|last| Some((last, last.state_before?))) {
                state = self.state_at(snapshot).await?;
                if let Some(key) = last.pdu.state() {
                    state.insert(key, last.nid);
                }
            }
        }
        let nids = state.iter().filter(|((kind, _), _)| *kind == StateEventType::RoomMember).map(|(_, nid)| *nid);
        let mut members = self.events(nids).await?;
        members.retain(|member| sight.shows_state(member));
        Ok(members)
    }

    /// Everybody who is joined to the room: name and avatar by user id. Only members may ask.
    pub async fn joined_members(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
    ) -> Result<Vec<store::rooms::MembershipRow>, RoomError> {
        self.check_joined(room, user_id).await?;
        let join = ruma::events::room::member::MembershipState::Join;
        let mut rows = self.shared.store.rooms().members(room.nid, &join).await?;
        let withheld: std::collections::HashSet<_> = self
            .events(rows.iter().map(|row| row.event_nid))
            .await?
            .iter()
            .filter(|event| self.withholds(event))
            .map(|event| event.nid)
            .collect();
        rows.retain(|row| !withheld.contains(&row.event_nid));
        Ok(rows)
    }
}

fn senders<'a>(events: impl IntoIterator<Item = &'a Arc<TimelineEvent>>) -> BTreeSet<OwnedUserId> {
    events.into_iter().map(|event| event.pdu.sender.clone()).collect()
}

fn is_wanted_member(key: &model::StateKey, senders: &BTreeSet<OwnedUserId>) -> bool {
    key.0 != StateEventType::RoomMember || senders.iter().any(|user_id| user_id.as_str() == key.1)
}

/// Whether the filter lets an event through. Types may end in `*`.
pub(crate) fn passes(filter: &RoomEventFilter, event: &TimelineEvent) -> bool {
    let pdu = &event.pdu;
    let kind = pdu.kind.to_string();
    let matches = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => *pattern == kind,
    };
    if filter.not_types.iter().any(matches) || filter.not_senders.contains(&pdu.sender) {
        return false;
    }
    if filter.types.as_ref().is_some_and(|types| !types.iter().any(matches)) {
        return false;
    }
    if filter.senders.as_ref().is_some_and(|senders| !senders.contains(&pdu.sender)) {
        return false;
    }
    if filter.not_rooms.contains(&pdu.room_id)
        || filter.rooms.as_ref().is_some_and(|rooms| !rooms.contains(&pdu.room_id))
    {
        return false;
    }
    let Some(url_filter) = &filter.url_filter else { return true };
    #[derive(serde::Deserialize)]
    struct Content {
        url: Option<serde::de::IgnoredAny>,
    }
    let has_url = pdu.content_as::<Content>().is_some_and(|content| content.url.is_some());
    has_url == (*url_filter == UrlFilter::EventsWithUrl)
}
