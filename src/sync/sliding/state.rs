//! Of a room's state, what a connection wants and hasn't been told.

use std::collections::{BTreeMap, HashSet};

use model::{EventNid, Position, RoomNid, StateKey, StateMap};
use ruma::{
    OwnedUserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::Value;

use super::{View, answer::SlidingRoom, wanted::StateWanted};
use crate::{
    Reader, SyncError,
    answer::{Event, Timeline},
    cells::Membership,
};

/// What changed in a room's state; `None`: it is there no longer.
#[derive(Debug, Default)]
pub(super) struct Delta(BTreeMap<StateKey, Option<EventNid>>);

impl Delta {
    /// A state of which nothing was known.
    pub(super) fn everything(state: StateMap) -> Self {
        Self(state.into_iter().map(|(key, nid)| (key, Some(nid))).collect())
    }

    pub(super) fn add(&mut self, key: StateKey, nid: EventNid) {
        self.0.insert(key, Some(nid));
    }

    pub(super) fn has_members(&self) -> bool {
        self.0.keys().any(|(kind, _)| *kind == StateEventType::RoomMember)
    }
}

impl View<'_> {
    pub(super) fn own_key(&self) -> StateKey {
        (StateEventType::RoomMember, self.look.user_id().to_string())
    }

    /// What the user is to the room, and nothing of the room.
    pub(super) fn only_own(&self, membership: &Membership) -> Delta {
        let mut delta = Delta::default();
        delta.add(self.own_key(), membership.event_nid);
        delta
    }

    /// What changed after `from`. `covers_all`: everything that happened since is in the timeline.
    pub(super) async fn delta(
        &self,
        nid: RoomNid,
        membership: &Membership,
        from: Position,
        timeline: Option<&Timeline>,
        covers_all: bool,
    ) -> Result<Delta, SyncError> {
        let events = timeline.map_or(&[][..], |timeline| &timeline.events);
        let news = || events.iter().filter(|event| event.shown.event.position > from).map(|event| &event.shown);
        // What branches of the room's graph came to is not what the events say one after the other.
        let has_branches = news().any(|shown| shown.event.room_state.is_some());
        let mut delta = Delta::default();
        if covers_all && !has_branches {
            for shown in news() {
                if let Some(key) = shown.event.pdu.state() {
                    delta.0.insert(key, Some(shown.event.nid));
                }
            }
            return Ok(delta);
        }
        let upto = match membership.membership {
            MembershipState::Join => self.look.upto,
            _ => membership.position.min(self.look.upto),
        };
        let then = self.look.state_at(nid, membership, from).await?;
        let now = self.look.state_at(nid, membership, upto).await?;
        for (key, nid) in now.iter().filter(|(key, nid)| then.get(*key) != Some(*nid)) {
            delta.0.insert(key.clone(), Some(*nid));
        }
        for key in then.keys().filter(|key| !now.contains_key(*key)) {
            delta.0.insert(key.clone(), None);
        }
        Ok(delta)
    }

    /// What is wanted of the state. `grown_from`: what was told of the room before, if more is wanted now.
    #[allow(clippy::too_many_arguments, reason = "what decides is many things")]
    pub(super) async fn required_state(
        &self,
        nid: RoomNid,
        membership: &Membership,
        delta: &Delta,
        wanted: &[StateWanted],
        grown_from: Option<&[StateWanted]>,
        covers_all: bool,
        room: &mut SlidingRoom,
    ) -> Result<(), SyncError> {
        let is_wanted = |wanted: &[StateWanted], (kind, key): &StateKey| {
            let kind = kind.to_string();
            wanted.iter().any(|wanted| wanted.matches(&kind, key))
        };
        let is_lazy = wanted.iter().any(|wanted| wanted.lazy_members);
        // "All membership updates since the last sync when limited is false"
        let keeps_members = is_lazy && covers_all && !room.is_initial;
        let mut nids: HashSet<EventNid> = HashSet::new();
        for (key, nid) in &delta.0 {
            let is_kept = keeps_members && key.0 == StateEventType::RoomMember;
            match nid {
                Some(nid) if is_kept || is_wanted(wanted, key) => drop(nids.insert(*nid)),
                None if is_kept || is_wanted(wanted, key) => room.gone.push(key.clone()),
                _ => {}
            }
        }
        let members = if is_lazy { self.needed_members(nid, room) } else { Vec::new() };
        if grown_from.is_some() || !members.is_empty() {
            let upto = self.look.upto.min(match membership.membership {
                MembershipState::Join => Position(i64::MAX),
                _ => membership.position,
            });
            let now = self.look.state_at(nid, membership, upto).await?;
            let keys = members.into_iter().map(|member| (StateEventType::RoomMember, member.to_string()));
            nids.extend(keys.filter_map(|key| now.get(&key).copied()));
            if let Some(told) = grown_from {
                let more = now.iter().filter(|(key, _)| is_wanted(wanted, key) && !is_wanted(told, key));
                nids.extend(more.map(|(_, nid)| *nid));
            }
        }
        let shared = &self.look.sync.shared;
        let mut events = shared.events.by_nids(nids).await?;
        events.retain(|shown| !self.look.is_withheld(shown));
        events.sort_unstable_by_key(|shown| (shown.event.position, shown.event.nid));
        for shown in events {
            shared.events.complete(&shown, &shared.states).await?;
            room.state.push(Event { shown, reader: Reader { membership: None, is_sender: false } });
        }
        Ok(())
    }

    /// Those without whom the timeline can't be shown, as far as the connection wasn't told of them.
    fn needed_members(&self, nid: RoomNid, room: &SlidingRoom) -> Vec<OwnedUserId> {
        let mut members: Vec<OwnedUserId> = Vec::new();
        for event in room.timeline_events() {
            let pdu = &event.shown.event.pdu;
            members.push(pdu.sender.clone());
            if event.shown.membership().is_some() {
                members.extend(pdu.state_key.as_deref().and_then(|key| OwnedUserId::try_from(key).ok()));
            }
        }
        members.sort_unstable();
        members.dedup();
        let since = if room.is_initial { Position(i64::MIN) } else { self.since().unwrap_or_default() };
        let (user_id, upto) = (self.look.user_id(), self.look.upto);
        self.look.sync.shared.lazy.untold(user_id, &self.device, nid, since, upto, members)
    }

    /// A text of a state event that changed: `None`: it didn't; `Some(None)`: there is none.
    pub(super) async fn changed_text(
        &self,
        delta: &Delta,
        kind: &str,
        field: &str,
        is_initial: bool,
    ) -> Result<Option<Option<String>>, SyncError> {
        let Some(nid) = delta.0.get(&(StateEventType::from(kind), String::new())) else {
            return Ok(is_initial.then_some(None));
        };
        let Some(nid) = nid else { return Ok(Some(None)) };
        let event = self.look.sync.shared.events.by_nid(*nid).await?;
        let content = event.and_then(|event| serde_json::from_str::<Value>(event.event.pdu.content.get()).ok());
        let text = content.and_then(|content| Some(content[field].as_str()?.to_owned()));
        Ok(Some(text.filter(|text| !text.is_empty())))
    }
}
