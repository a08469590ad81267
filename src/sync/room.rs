//! Rooms: which of them an answer tells of, and what.

use std::sync::Arc;

use model::{Position, RoomNid};
use ruma::OwnedUserId;
use ruma::events::{StateEventType, TimelineEventType, room::member::MembershipState};
use store::account_data::AccountDatum;

use crate::{
    Answer, Shown, SyncError,
    answer::{JoinedRoom, LeftRoom, PendingRoom, Summary},
    cells::Membership,
    request::Look,
    streams::events::Stretch,
};

/// After how many members a nameless room is called.
const HEROES: usize = 5;

/// The state that an invitation shows.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
const STRIPPED: [StateEventType; 8] = [
    StateEventType::RoomCreate,
    StateEventType::RoomJoinRules,
    StateEventType::RoomCanonicalAlias,
    StateEventType::RoomName,
    StateEventType::RoomAvatar,
    StateEventType::RoomTopic,
    StateEventType::RoomEncryption,
    StateEventType::RoomHistoryVisibility,
];

impl Look<'_> {
    pub(crate) async fn rooms(&self, data: &[AccountDatum], answer: &mut Answer) -> Result<(), SyncError> {
        for (nid, membership) in self.memberships.iter() {
            if !self.filter.allows_room(&membership.room_id) {
                continue;
            }
            let is_news = self.since.is_none_or(|since| membership.position > since.position);
            match membership.membership {
                MembershipState::Join => self.joined_room(*nid, membership, data, answer).await?,
                MembershipState::Invite if is_news || self.full_state => {
                    if let Some(room) = self.pending_room(membership).await? {
                        answer.invited.push(room);
                    }
                }
                MembershipState::Knock if is_news || self.full_state => {
                    answer.knocked.extend(self.pending_room(membership).await?);
                }
                MembershipState::Leave | MembershipState::Ban => {
                    let wants_left = self.filter.0.room.include_leave && !membership.forgotten;
                    let is_wanted = if self.since.is_some() { is_news } else { wants_left };
                    if (is_wanted || (self.full_state && wants_left)) && !self.is_forgotten(*nid, is_news).await? {
                        answer.left.extend(self.left_room(*nid, membership, data).await?);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the reader wants to hear no more of a room. Memory isn't told of it; it is asked for rarely.
    async fn is_forgotten(&self, nid: RoomNid, is_news: bool) -> Result<bool, SyncError> {
        if is_news && self.since.is_some() {
            return Ok(false);
        }
        let row = self.sync.shared.store.rooms().membership(nid, self.user_id()).await?;
        Ok(row.is_some_and(|row| row.forgotten))
    }

    async fn joined_room(
        &self,
        nid: RoomNid,
        membership: &Membership,
        data: &[AccountDatum],
        answer: &mut Answer,
    ) -> Result<(), SyncError> {
        let account_data = self.room_account_data(&membership.room_id, data);
        let is_quiet = self.since.is_some() && self.latest_in(nid, membership) <= self.since();
        if is_quiet && !self.full_state && account_data.is_empty() {
            return Ok(());
        }

        let since = self.since.map(|since| since.position);
        // The room is new to a reader who came in meanwhile, perhaps again.
        let is_new = match since {
            None => true,
            Some(since) if membership.joined_by <= since => false,
            Some(since) => !self.was_joined(membership.event_nid, since).await?,
        };
        let stretch = Stretch { after: since.filter(|_| !is_new), upto: self.upto };
        let found = self.timeline(nid, membership, stretch).await?;
        let known_at = stretch.after.filter(|_| !self.full_state);
        let is_summed_up_anew = is_new
            || self.full_state
            || found.timeline.limited
            || found.timeline.events.iter().any(|event| changes_summary(&event.shown));
        let summary = if is_summed_up_anew { Some(self.summary(nid, membership).await?) } else { None };
        let heroes = summary.as_ref().and_then(|summary| summary.heroes.as_deref()).unwrap_or_default();
        let state = self.state(nid, membership, &found, stretch, known_at, heroes).await?;

        let heard_since = stretch.after.unwrap_or(Position(0));
        let mut ephemeral = Vec::new();
        let typing = self.typing(&membership.room_id, &membership.room.lock(), heard_since);
        ephemeral.extend(typing);
        ephemeral.extend(self.receipts(nid, membership, heard_since).await?);

        let is_told = is_new
            || self.full_state
            || found.timeline.limited
            || !found.timeline.events.is_empty()
            || !state.events.is_empty()
            || !account_data.is_empty()
            || !ephemeral.is_empty();
        if !is_told {
            return Ok(());
        }
        let unread = Some(self.unread(nid, membership).await?);
        let room_id = membership.room_id.clone();
        answer.joined.push(JoinedRoom {
            room_id,
            summary,
            unread,
            timeline: found.timeline,
            state,
            account_data,
            ephemeral,
        });
        Ok(())
    }

    pub(crate) async fn summary(&self, nid: RoomNid, membership: &Membership) -> Result<Summary, SyncError> {
        let context = self.room_context(nid, membership).await?;
        let heroes = if context.is_named { None } else { Some(self.heroes(nid, membership).await?) };
        Ok(Summary { heroes, joined: context.joined, invited: context.invited })
    }

    /// After whom a room may be called, were it nameless.
    pub(crate) async fn heroes(&self, nid: RoomNid, membership: &Membership) -> Result<Vec<OwnedUserId>, SyncError> {
        let context = self.room_context(nid, membership).await?;
        let heroes: Vec<OwnedUserId> =
            context.heroes.iter().filter(|hero| *hero != self.user_id()).take(HEROES).cloned().collect();
        if !heroes.is_empty() {
            return Ok(heroes);
        }
        Ok(self.sync.shared.store.sync().heroes(nid, self.user_id(), HEROES as i64).await?)
    }

    /// A room that the reader left, or was put out of: up to then.
    async fn left_room(
        &self,
        nid: RoomNid,
        membership: &Membership,
        data: &[AccountDatum],
    ) -> Result<Option<LeftRoom>, SyncError> {
        let since = self.since.map(|since| since.position).filter(|_| !self.full_state);
        let was_joined = match since {
            Some(since) => self.was_joined(membership.event_nid, since).await?,
            None => false,
        };
        let stretch = Stretch { after: since, upto: membership.position.min(self.upto) };
        let found = self.timeline(nid, membership, stretch).await?;
        let saw_inside =
            found.timeline.events.iter().any(|event| event.reader.membership == Some(MembershipState::Join));
        // Who never was inside, as after an invitation declined, is not told the room's state.
        let state = if was_joined || saw_inside || self.since.is_none() {
            self.state(nid, membership, &found, stretch, since.filter(|_| was_joined), &[]).await?
        } else {
            crate::answer::State { events: Vec::new(), is_after: self.use_state_after }
        };
        Ok(Some(LeftRoom {
            room_id: membership.room_id.clone(),
            timeline: found.timeline,
            state,
            account_data: self.room_account_data(&membership.room_id, data),
        }))
    }

    /// A room that waits for the reader, or for which the reader waits. `None`: somebody ignored asks.
    pub(crate) async fn pending_room(&self, membership: &Membership) -> Result<Option<PendingRoom>, SyncError> {
        let shared = &self.sync.shared;
        let Some(event) = shared.events.by_nid(membership.event_nid).await? else { return Ok(None) };
        if self.ignored.contains(&event.event.pdu.sender) {
            return Ok(None);
        }
        let state = shared.states.before(&event).await?;
        let sender = (StateEventType::RoomMember, event.event.pdu.sender.to_string());
        let keys = STRIPPED.into_iter().map(|kind| (kind, String::new())).chain([sender]);
        let nids: Vec<_> = keys.filter_map(|key| state.get(&key).copied()).collect();
        let mut events: Vec<Arc<Shown>> = shared.events.by_nids(nids).await?;
        events.sort_unstable_by_key(|shown| shown.event.position);
        let given = given_state(&event);
        events.push(event);
        Ok(Some(PendingRoom { room_id: membership.room_id.clone(), events, given }))
    }
}

/// Whether a room counts its members anew after an event, or is called something else.
fn changes_summary(shown: &Shown) -> bool {
    let is_name = matches!(shown.event.pdu.kind, TimelineEventType::RoomName | TimelineEventType::RoomCanonicalAlias);
    is_name || shown.membership().is_some()
}

/// The stripped events that came with an invitation from another server.
fn given_state(event: &Shown) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Unsigned {
        #[serde(alias = "knock_room_state")]
        invite_room_state: Vec<Box<serde_json::value::RawValue>>,
    }
    let unsigned = event.event.pdu.unsigned.as_ref();
    let given = unsigned.and_then(|unsigned| serde_json::from_str::<Unsigned>(unsigned.get()).ok());
    given.map(|given| given.invite_room_state.iter().map(|event| event.get().to_owned()).collect()).unwrap_or_default()
}

/// The content of a state event among those that an invitation shows.
pub(crate) fn stripped_content(room: &PendingRoom, kind: &str) -> Option<serde_json::Value> {
    #[derive(serde::Deserialize)]
    struct Stripped {
        #[serde(rename = "type")]
        kind: String,
        content: serde_json::Value,
    }
    let shown = room.events.iter().rev().find(|event| &*event.kind == kind);
    if let Some(shown) = shown {
        return serde_json::from_str(shown.event.pdu.content.get()).ok();
    }
    let given = room.given.iter().filter_map(|event| serde_json::from_str::<Stripped>(event).ok());
    given.filter(|event| event.kind == kind).map(|event| event.content).next_back()
}
