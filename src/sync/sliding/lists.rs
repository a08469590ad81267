//! Which rooms a connection has in sight: those in the windows of its lists, and those that it subscribes to.

use std::collections::{HashMap, HashSet};

use model::{Position, RoomNid};
use ruma::{
    OwnedRoomId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::Value;

use super::{
    View,
    answer::SlidingAnswer,
    wanted::{ListFilters, RoomWanted, StateWanted},
};
use crate::{SyncError, cells::Membership, room::stripped_content};

/// What is wanted of a room in sight.
#[derive(Clone, Debug, Default)]
pub(super) struct Interest {
    pub(super) limit: usize,
    /// Whatever any of these wants, in order.
    pub(super) states: Vec<StateWanted>,
    pub(super) lists: Vec<String>,
    pub(super) is_subscribed: bool,
}

/// The rooms in sight, those first that stand highest.
#[derive(Default)]
pub(super) struct Sight {
    pub(super) rooms: Vec<(RoomNid, Interest)>,
    places: HashMap<RoomNid, usize>,
}

impl Sight {
    pub(super) fn contains(&self, nid: RoomNid) -> bool {
        self.places.contains_key(&nid)
    }

    fn want(&mut self, nid: RoomNid, wanted: &RoomWanted) -> &mut Interest {
        let place = *self.places.entry(nid).or_insert_with(|| {
            self.rooms.push((nid, Interest::default()));
            self.rooms.len() - 1
        });
        let interest = &mut self.rooms[place].1;
        interest.limit = interest.limit.max(wanted.timeline_limit);
        if let Err(place) = interest.states.binary_search(&wanted.state) {
            interest.states.insert(place, wanted.state.clone());
        }
        interest
    }
}

impl View<'_> {
    /// What is in sight; counts the lists on the way.
    pub(super) async fn sight(&self, answer: &mut SlidingAnswer) -> Result<Sight, SyncError> {
        let mut sight = Sight::default();
        let request = self.request;
        if request.lists.is_empty() && request.subscriptions.is_empty() {
            return Ok(sight);
        }
        self.look.learn_activity().await?;
        if !request.subscriptions.is_empty() {
            let by_id: HashMap<&OwnedRoomId, RoomNid> =
                self.look.memberships.iter().map(|(nid, membership)| (&membership.room_id, *nid)).collect();
            for (room_id, wanted) in &request.subscriptions {
                // "Rooms that a user subscribes to that they do not have permission to see, or that does not exist, should be ignored"
                if let Some(nid) = by_id.get(room_id) {
                    sight.want(*nid, wanted).is_subscribed = true;
                }
            }
        }
        if request.lists.is_empty() {
            return Ok(sight);
        }
        let ordered = self.ordered().await?;
        for (name, list) in &request.lists {
            let rooms = self.filtered(&ordered, &list.filters).await?;
            answer.lists.push((name.clone(), rooms.len()));
            let mut want = |nid: RoomNid| sight.want(nid, &list.wanted).lists.push(name.clone());
            let Some(ranges) = &list.ranges else {
                rooms.iter().for_each(|nid| want(*nid));
                continue;
            };
            let is_in = |place: usize| ranges.iter().any(|(from, to)| (*from..=*to).contains(&place));
            rooms.iter().enumerate().filter(|(place, _)| is_in(*place)).for_each(|(_, nid)| want(*nid));
        }
        Ok(sight)
    }

    /// All rooms that may be in lists, those first in which something happened last.
    async fn ordered(&self) -> Result<Vec<RoomNid>, SyncError> {
        let mut ordered: Vec<(Position, RoomNid)> = Vec::with_capacity(self.look.memberships.len());
        for (nid, membership) in self.look.memberships.iter() {
            if self.is_listed(*nid, membership).await? {
                ordered.push((self.stands_at(membership), *nid));
            }
        }
        ordered.sort_unstable_by(|one, other| other.cmp(one));
        Ok(ordered.into_iter().map(|(_, nid)| nid).collect())
    }

    pub(super) fn stands_at(&self, membership: &Membership) -> Position {
        match membership.membership {
            MembershipState::Join => membership.room.standing.happened(),
            _ => membership.position,
        }
    }

    async fn is_listed(&self, nid: RoomNid, membership: &Membership) -> Result<bool, SyncError> {
        match membership.membership {
            MembershipState::Join => Ok(true),
            MembershipState::Invite | MembershipState::Knock if self.look.ignored.is_empty() => Ok(true),
            MembershipState::Invite | MembershipState::Knock => {
                let event = self.look.sync.shared.events.by_nid(membership.event_nid).await?;
                Ok(event.is_some_and(|event| !self.look.ignored.contains(&event.event.pdu.sender)))
            }
            // "Rooms that the user has been in but left are only included if the room was previously sent to the client in that
            // connection. Rooms the user has been kicked or banned from will always be included"
            _ if membership.forgotten => Ok(false),
            _ if self.base.known.room(nid).is_some() => Ok(true),
            _ if !membership.by_other => Ok(false),
            // "rooms the user has been banned from, but never joined, should not be part of the list"
            _ => self.look.was_joined(membership.event_nid, Position(membership.position.0 - 1)).await,
        }
    }

    async fn filtered(&self, rooms: &[RoomNid], filters: &ListFilters) -> Result<Vec<RoomNid>, SyncError> {
        let by_kind =
            filters.is_encrypted.is_some() || filters.room_types.is_some() || !filters.not_room_types.is_empty();
        if by_kind {
            self.look.learn_kinds().await?;
        }
        let in_spaces = match &filters.spaces {
            Some(spaces) => Some(self.children_of(spaces).await?),
            None => None,
        };
        let mut filtered = Vec::with_capacity(rooms.len());
        for nid in rooms {
            let Some(membership) = self.look.memberships.get(nid) else { continue };
            let passes = self.passes(membership, filters)
                && in_spaces.as_ref().is_none_or(|rooms| rooms.contains(&membership.room_id));
            if passes && (!by_kind || self.is_of_kind(membership, filters).await?) {
                filtered.push(*nid);
            }
        }
        Ok(filtered)
    }

    fn passes(&self, membership: &Membership, filters: &ListFilters) -> bool {
        let room_id = &membership.room_id;
        let is_invite = membership.membership == MembershipState::Invite;
        let tags = self.places.tags.get(room_id);
        let has_tag = |wanted: &[String]| tags.is_some_and(|tags| wanted.iter().any(|tag| tags.contains(tag)));
        filters.is_dm.is_none_or(|wanted| wanted == self.places.direct.contains(room_id))
            && filters.is_invite.is_none_or(|wanted| wanted == is_invite)
            && filters.tags.as_ref().is_none_or(|wanted| has_tag(wanted))
            && !has_tag(&filters.not_tags)
    }

    async fn is_of_kind(&self, membership: &Membership, filters: &ListFilters) -> Result<bool, SyncError> {
        let (room_type, is_encrypted) = match membership.membership {
            MembershipState::Join => {
                let standing = &membership.room.standing;
                (standing.room_type().map(str::to_owned), standing.is_encrypted())
            }
            // What is known of a room from outside is what came with the invitation.
            _ => {
                let pending = self.look.pending_room(membership).await?;
                let content = |kind| pending.as_ref().and_then(|pending| stripped_content(pending, kind));
                let create = content("m.room.create").unwrap_or_default();
                (create["type"].as_str().map(str::to_owned), content("m.room.encryption").is_some())
            }
        };
        Ok(filters.is_encrypted.is_none_or(|wanted| wanted == is_encrypted)
            && filters.room_types.as_ref().is_none_or(|types| types.contains(&room_type))
            && !filters.not_room_types.contains(&room_type))
    }

    /// The rooms that these spaces name, as far as the user is in them.
    async fn children_of(&self, spaces: &[OwnedRoomId]) -> Result<HashSet<OwnedRoomId>, SyncError> {
        let mut children = HashSet::new();
        for (nid, membership) in self.look.joined().filter(|(_, membership)| spaces.contains(&membership.room_id)) {
            let state = self.look.state_at(nid, membership, self.look.upto).await?;
            let named = state.iter().filter(|((kind, _), _)| *kind == StateEventType::SpaceChild);
            let events = self.look.sync.shared.events.by_nids(named.map(|(_, nid)| *nid)).await?;
            children.extend(events.iter().filter_map(|event| {
                // A child without servers to find it by was taken away.
                let content: Value = serde_json::from_str(event.event.pdu.content.get()).ok()?;
                let via = content["via"].as_array().is_some_and(|via| !via.is_empty());
                let room_id = event.event.pdu.state_key.as_deref()?;
                if via { OwnedRoomId::try_from(room_id).ok() } else { None }
            }));
        }
        Ok(children)
    }
}
