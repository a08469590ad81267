//! Who may see which event.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use model::{Position, SnapshotNid, StateMap, TimelineEvent};
use ruma::{
    OwnedUserId, UserId,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::Deserialize;

use crate::{RoomError, Rooms, live::SharedRoom, send::membership_of};

/// How far into a room somebody sees.
pub struct Sight<'a> {
    rooms: &'a Rooms,
    room: SharedRoom,
    pub(crate) user_id: OwnedUserId,
    /// What the user is to the room now.
    pub membership: Option<MembershipState>,
    /// The user saw the room until here, and sees it no more: the event by which the user left.
    pub left_at: Option<Arc<TimelineEvent>>,
    /// Of whom the user wants to hear nothing.
    ignored: HashSet<OwnedUserId>,
    /// What held in the states looked at so far: visibility and the user's membership.
    seen: HashMap<SnapshotNid, (HistoryVisibility, Option<MembershipState>)>,
}

impl Rooms {
    /// How far `user_id` sees into the room. Refuses who neither is nor was in it, unless everybody may look.
    pub async fn sight(&self, room: &SharedRoom, user_id: &UserId) -> Result<Sight<'_>, RoomError> {
        let event = self.state_event(room, StateEventType::RoomMember, user_id.as_str()).await?;
        let membership = event.as_ref().and_then(|event| membership_of(&event.pdu));
        let left_at = match (&membership, event) {
            (Some(MembershipState::Leave | MembershipState::Ban), Some(event)) => self.left_at(event).await?,
            _ => None,
        };
        if membership != Some(MembershipState::Join) && left_at.is_none() {
            let view = self.view(room).await?;
            if self.visibility_in(&view.state).await? != HistoryVisibility::WorldReadable {
                return Err(RoomError::NotJoined);
            }
        }
        let row = match &left_at {
            Some(_) => self.shared.store.rooms().membership(room.nid, user_id).await?,
            None => None,
        };
        if row.is_some_and(|row| row.forgotten) {
            return Err(RoomError::NotJoined);
        }
        let ignored = self.ignored_by(user_id).await?;
        let user_id = user_id.to_owned();
        Ok(Sight { rooms: self, room: room.clone(), user_id, membership, left_at, ignored, seen: HashMap::new() })
    }

    /// The event by which a user who is out of the room went out of it, if the user ever was in: the last one that ended
    /// a membership, whatever invitations and bans came after it.
    async fn left_at(&self, mut event: Arc<TimelineEvent>) -> Result<Option<Arc<TimelineEvent>>, RoomError> {
        const STEPS: usize = 20;
        let key = (StateEventType::RoomMember, event.pdu.state_key.clone().unwrap_or_default());
        for _ in 0..STEPS {
            let Some(snapshot) = event.state_before else { break };
            let Some(nid) = self.state_at(snapshot).await?.get(&key).copied() else { break };
            let before = self.event(nid).await?;
            if membership_of(&before.pdu) == Some(MembershipState::Join) {
                return Ok(Some(event));
            }
            event = before;
        }
        Ok(None)
    }

    /// Whom `user_id` ignores.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ignoring-users>
    pub(crate) async fn ignored_by(&self, user_id: &UserId) -> Result<HashSet<OwnedUserId>, RoomError> {
        #[derive(Deserialize)]
        struct Content {
            ignored_users: BTreeMap<OwnedUserId, serde::de::IgnoredAny>,
        }
        let content = self.shared.store.account_data().find(user_id, None, "m.ignored_user_list").await?;
        let content = content.and_then(|content| serde_json::from_str::<Content>(&content).ok());
        Ok(content.map(|content| content.ignored_users.into_keys().collect()).unwrap_or_default())
    }

    /// The state that a snapshot holds, from memory or from the store.
    pub async fn state_at(&self, snapshot: SnapshotNid) -> Result<StateMap, RoomError> {
        if let Some(state) = self.shared.states.get(&snapshot) {
            return Ok(state);
        }
        let state = self.shared.store.state().at(snapshot).await?;
        // Nothing is what is read of a snapshot that isn't durable yet.
        if !state.is_empty() {
            self.shared.states.insert(snapshot, state.clone());
        }
        Ok(state)
    }

    async fn visibility_in(&self, state: &StateMap) -> Result<HistoryVisibility, RoomError> {
        match state.get(&(StateEventType::RoomHistoryVisibility, String::new())) {
            Some(nid) => Ok(visibility_of(&*self.event(*nid).await?).unwrap_or(HistoryVisibility::Shared)),
            None => Ok(HistoryVisibility::Shared),
        }
    }

    async fn membership_in(
        &self,
        state: &StateMap,
        key: &model::StateKey,
    ) -> Result<Option<MembershipState>, RoomError> {
        match state.get(key) {
            Some(nid) => Ok(membership_of(&self.event(*nid).await?.pdu)),
            None => Ok(None),
        }
    }
}

impl Sight<'_> {
    /// The last position that is shown, if there is an end to it.
    pub fn end(&self) -> Option<Position> {
        self.left_at.as_ref().map(|event| event.position)
    }

    /// Whether the user wants to hear nothing of `sender`.
    pub fn ignores(&self, sender: &UserId) -> bool {
        self.ignored.contains(sender)
    }

    /// Whether the event is shown.
    pub async fn reaches(&mut self, event: &TimelineEvent) -> Result<bool, RoomError> {
        if event.soft_failed || event.pdu.rejected || event.room_nid != self.room.nid {
            return Ok(false);
        }
        if event.pdu.state_key.is_none() && self.ignores(&event.pdu.sender) {
            return Ok(false);
        }
        // Whoever is put out of a room hears of it from whomever.
        if self.becomes(event).is_none() && self.rooms.withholds(event) {
            return Ok(false);
        }
        let (mut visibility, membership) = self.before(event).await?;
        // What an event changes counts for itself, if it is for the better.
        let becomes = self.becomes(event);
        if let Some(changed) = visibility_of(event) {
            visibility = more_open(visibility, changed);
        }
        Ok(may_see(&Case {
            visibility,
            then: [membership, becomes],
            now: self.membership.clone(),
            is_before_leaving: self.end().is_some_and(|end| event.position <= end),
        }))
    }

    /// Whether the user is shown what holds in the room by this event, which the user's state has.
    pub fn shows_state(&self, event: &TimelineEvent) -> bool {
        event.withheld_below.is_none() || self.becomes(event).is_some() || !self.rooms.withholds(event)
    }

    /// What the user was to the room when the event was made, or became by it.
    pub async fn membership_at(&mut self, event: &TimelineEvent) -> Result<Option<MembershipState>, RoomError> {
        match self.becomes(event) {
            Some(membership) => Ok(Some(membership)),
            None => Ok(self.before(event).await?.1),
        }
    }

    /// What the event makes of the user.
    fn becomes(&self, event: &TimelineEvent) -> Option<MembershipState> {
        let own = event.pdu.is_state(&TimelineEventType::RoomMember, self.user_id.as_str());
        own.then(|| membership_of(&event.pdu)).flatten()
    }

    async fn before(
        &mut self,
        event: &TimelineEvent,
    ) -> Result<(HistoryVisibility, Option<MembershipState>), RoomError> {
        let Some(snapshot) = event.state_before else { return Ok((HistoryVisibility::Shared, None)) };
        if let Some(seen) = self.seen.get(&snapshot) {
            return Ok(seen.clone());
        }
        let state = self.rooms.state_at(snapshot).await?;
        let visibility = self.rooms.visibility_in(&state).await?;
        let key = (StateEventType::RoomMember, self.user_id.to_string());
        let membership = self.rooms.membership_in(&state, &key).await?;
        self.seen.insert(snapshot, (visibility.clone(), membership.clone()));
        Ok((visibility, membership))
    }

    /// The state that the user may see: the room's now, or as it was when the user left.
    pub async fn state(&self) -> Result<StateMap, RoomError> {
        let Some(event) = &self.left_at else { return Ok(self.rooms.view(&self.room).await?.state) };
        let mut state = match event.state_before {
            Some(snapshot) => self.rooms.state_at(snapshot).await?,
            None => StateMap::new(),
        };
        if let Some(key) = event.pdu.state() {
            state.insert(key, event.nid);
        }
        Ok(state)
    }

    /// These events in their order, without those that aren't shown.
    pub async fn filter(&mut self, events: Vec<Arc<TimelineEvent>>) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            if self.reaches(&event).await? {
                shown.push(event);
            }
        }
        Ok(shown)
    }
}

/// What decides whether an event is seen.
struct Case {
    /// How open the room's history was.
    visibility: HistoryVisibility,
    /// What the user was before the event, and what the event made of the user.
    then: [Option<MembershipState>; 2],
    /// What the user is now.
    now: Option<MembershipState>,
    /// The user was in the room and has left since.
    is_before_leaving: bool,
}

fn may_see(case: &Case) -> bool {
    let was = |membership: MembershipState| case.then.contains(&Some(membership));
    // Who was in the room when the event was made may see it, whatever its visibility.
    if case.visibility == HistoryVisibility::WorldReadable || was(MembershipState::Join) {
        return true;
    }
    let joined_later = case.now == Some(MembershipState::Join) || case.is_before_leaving;
    match case.visibility {
        HistoryVisibility::Invited => joined_later && was(MembershipState::Invite),
        HistoryVisibility::Joined => false,
        _ => joined_later,
    }
}

fn visibility_of(event: &TimelineEvent) -> Option<HistoryVisibility> {
    #[derive(Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    let is_visibility = event.pdu.is_state(&TimelineEventType::RoomHistoryVisibility, "");
    is_visibility.then(|| event.pdu.content_as::<Content>()).flatten().map(|content| content.history_visibility)
}

fn more_open(one: HistoryVisibility, other: HistoryVisibility) -> HistoryVisibility {
    let openness = |visibility: &HistoryVisibility| match visibility {
        HistoryVisibility::WorldReadable => 3,
        HistoryVisibility::Invited => 1,
        HistoryVisibility::Joined => 0,
        _ => 2,
    };
    if openness(&one) >= openness(&other) { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_seen_as_the_specification_says() {
        use HistoryVisibility::{Invited, Joined, Shared, WorldReadable};
        use MembershipState::{Invite, Join, Leave};
        let case = |visibility, then, now, is_before_leaving| {
            may_see(&Case { visibility, then: [then, None], now, is_before_leaving })
        };
        for visibility in [WorldReadable, Shared, Invited, Joined] {
            assert!(case(visibility.clone(), Some(Join), Some(Join), false), "{visibility}: a member then");
            assert!(case(visibility, Some(Join), Some(Leave), true), "a member then, gone now");
        }
        assert!(case(WorldReadable, None, None, false));
        assert!(case(Shared, None, Some(Join), false), "joined later");
        assert!(case(Shared, None, Some(Leave), true), "joined later, gone now");
        assert!(!case(Shared, None, Some(Leave), false), "said after the user left");
        assert!(!case(Shared, None, Some(Invite), false), "only invited");
        assert!(case(Invited, Some(Invite), Some(Join), false), "invited then, joined later");
        assert!(!case(Invited, None, Some(Join), false), "before the invitation");
        assert!(!case(Joined, Some(Invite), Some(Join), false), "before joining");
    }

    #[test]
    fn an_event_that_joins_is_seen_by_who_joined() {
        let joins = Case {
            visibility: HistoryVisibility::Joined,
            then: [Some(MembershipState::Invite), Some(MembershipState::Join)],
            now: Some(MembershipState::Join),
            is_before_leaving: false,
        };
        assert!(may_see(&joins));
    }
}
