//! What an answer tells of one room in sight.

use std::collections::HashMap;

use model::{Position, RoomNid};
use ruma::{OwnedUserId, events::room::member::MembershipState};

use super::{
    View,
    answer::{SlidingAnswer, SlidingRoom},
    connection::{Known, RoomKnown, union},
    lists::{Interest, Sight},
    state::Delta,
    wanted::{StatePattern, StateWanted},
};
use crate::{SyncError, answer::Timeline, cells::Membership, streams::events::Stretch};

/// So many rooms come into sight with one answer; others follow with the next, at once.
const ROOMS_AT_ONCE: usize = 500;

/// From where on the connection hears of a room in sight, for what is told besides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// After this; `None`: from the beginning.
    pub(super) from: Option<Position>,
    /// Its latest events are told, though some of them may have been told before.
    pub(super) is_whole: bool,
}

/// What is told of a room, and what the connection knows of it then; `None`: nothing any longer.
struct Told {
    room: Option<SlidingRoom>,
    known: Option<RoomKnown>,
    heard: Heard,
}

impl View<'_> {
    /// Tells of the rooms in sight. Answers from where on each is heard of.
    pub(super) async fn rooms(
        &self,
        sight: &Sight,
        known: &mut Known,
        answer: &mut SlidingAnswer,
    ) -> Result<HashMap<RoomNid, Heard>, SyncError> {
        let mut heard = HashMap::with_capacity(sight.rooms.len());
        let mut begun = 0;
        for (nid, interest) in &sight.rooms {
            let Some(membership) = self.look.memberships.get(nid) else { continue };
            let before = self.base.known.room(*nid).copied();
            if before.is_none() {
                begun += 1;
            }
            if before.is_none() && begun > ROOMS_AT_ONCE {
                continue;
            }
            let from = before.and_then(|before| before.upto.or(self.since()));
            let told = match membership.membership {
                MembershipState::Join => self.joined(*nid, membership, interest, before, from, known).await?,
                MembershipState::Invite | MembershipState::Knock => self.pending(membership, before, from).await?,
                _ => self.left(*nid, membership, interest, before, from, known).await?,
            };
            match told.known {
                Some(room) => known.rooms.insert(nid.0, room),
                None => known.rooms.remove(&nid.0),
            };
            heard.insert(*nid, told.heard);
            if let Some(mut room) = told.room {
                room.lists.clone_from(&interest.lists);
                answer.rooms.push(room);
            }
        }
        Ok(heard)
    }

    /// A room out of sight in which something happened goes on from where it went out of sight.
    pub(super) fn note_out_of_sight(&self, sight: &Sight, known: &mut Known) {
        let Some(since) = self.since() else { return };
        known.rooms.retain(|nid, room| {
            let nid = RoomNid(*nid);
            let Some(membership) = self.look.memberships.get(&nid) else { return false };
            if room.upto.is_none() && !sight.contains(nid) && self.latest_news(nid, membership) > since {
                room.upto = Some(since);
            }
            true
        });
    }

    /// When something happened last that is told of a room; who types, or is there, isn't told later.
    fn latest_news(&self, nid: RoomNid, membership: &Membership) -> Position {
        let standing = &membership.room.standing;
        let older = self.look.older_news.get(&nid).copied().unwrap_or_default();
        standing.happened().max(standing.read()).max(membership.position).max(older)
    }

    async fn joined(
        &self,
        nid: RoomNid,
        membership: &Membership,
        interest: &Interest,
        before: Option<RoomKnown>,
        from: Option<Position>,
        known: &mut Known,
    ) -> Result<Told, SyncError> {
        let is_direct = self.places.direct.contains(&membership.room_id);
        let from = match from {
            // The room is new to who came in meanwhile, perhaps again.
            Some(from) if membership.joined_by > from && !self.look.was_joined(membership.event_nid, from).await? => {
                None
            }
            from => from,
        };
        let before = before.unwrap_or_default();
        let is_initial = from.is_none();
        let is_expanded = !is_initial && interest.limit > before.limit;
        let told_states = if is_initial { &[][..] } else { self.base.known.state(&before) };
        let states = union(told_states, &interest.states);
        let is_grown = !is_initial && states != told_states;
        let is_quiet = before.upto.is_none() && from.is_some_and(|from| self.look.latest_in(nid, membership) <= from);
        let heard = Heard { from, is_whole: is_initial || is_expanded };
        if is_quiet && !is_expanded && !is_grown && is_direct == before.is_direct {
            return Ok(Told { room: None, known: Some(before), heard });
        }

        let mut room = SlidingRoom::new(membership);
        let mut now_known = RoomKnown { upto: None, is_direct, ..before };
        let upto = self.look.upto;
        let mut covers_all = is_quiet;
        if interest.limit > 0 {
            let after = from.filter(|_| !is_expanded);
            let stretch = Stretch { after, upto };
            let found = self.look.timeline_of(nid, membership, stretch, interest.limit).await?.timeline;
            let first = found.events.first().map(|event| event.shown.event.position);
            covers_all |= !found.limited || first.zip(from).is_some_and(|(first, from)| first <= from);
            if is_initial || is_expanded || !covers_all {
                // What was told more of earlier has a gap now.
                now_known.limit = interest.limit;
            }
            room.is_expanded = is_expanded;
            room.live = self.count_live(&found);
            room.timeline = Some(found);
        }
        let delta = match from {
            None => Delta::everything(self.look.state_at(nid, membership, upto).await?),
            Some(from) => self.delta(nid, membership, from, room.timeline.as_ref(), covers_all).await?,
        };
        let grown_from = is_grown.then_some(told_states);
        self.required_state(nid, membership, &delta, &states, grown_from, covers_all, &mut room).await?;
        now_known.state = known.place_of(&states);
        room.is_initial = is_initial;
        self.describe(nid, membership, &delta, &mut room).await?;
        if is_direct != before.is_direct || (is_initial && is_direct) {
            room.is_direct = Some(is_direct);
        }
        if room.is_empty() {
            return Ok(Told { room: None, known: Some(now_known), heard });
        }
        room.unread = Some(self.look.unread(nid, membership).await?.main);
        if is_direct {
            room.is_direct = Some(true);
        }
        room.bumped = membership.room.standing.bumped();
        Ok(Told { room: Some(room), known: Some(now_known), heard })
    }

    fn count_live(&self, timeline: &Timeline) -> usize {
        let Some(since) = self.since() else { return 0 };
        timeline.events.iter().rev().take_while(|event| event.shown.event.position > since).count()
    }

    /// Name, picture, members after whom it is called, and counts, as far as they changed.
    async fn describe(
        &self,
        nid: RoomNid,
        membership: &Membership,
        delta: &Delta,
        room: &mut SlidingRoom,
    ) -> Result<(), SyncError> {
        room.name = self.changed_text(delta, "m.room.name", "name", room.is_initial).await?;
        room.avatar = self.changed_text(delta, "m.room.avatar", "url", room.is_initial).await?;
        let is_joined = membership.membership == MembershipState::Join;
        if !is_joined || !(room.is_initial || delta.has_members()) {
            return Ok(());
        }
        let summary = self.look.summary(nid, membership).await?;
        room.counts = Some((summary.joined, summary.invited));
        let is_named = match &room.name {
            Some(name) => name.is_some(),
            None => {
                let faces = self.look.sync.shared.store.conversations().faces(&[nid]).await?;
                faces
                    .get(&nid)
                    .is_some_and(|face| crate::conversations::of_state(face, "m.room.name", "name").is_some())
            }
        };
        if !is_named {
            room.heroes = Some(self.named_heroes(nid, self.look.heroes(nid, membership).await?).await?);
        }
        Ok(())
    }

    async fn named_heroes(
        &self,
        nid: RoomNid,
        heroes: Vec<OwnedUserId>,
    ) -> Result<Vec<store::conversations::MemberName>, SyncError> {
        let mut names = self.look.sync.shared.store.conversations().names(nid, &heroes).await?;
        names.sort_by_key(|name| heroes.iter().position(|hero| *hero == name.user_id));
        names.dedup_by(|one, other| one.user_id == other.user_id);
        Ok(names)
    }

    /// A room that waits for the user, or for which the user waits.
    async fn pending(
        &self,
        membership: &Membership,
        before: Option<RoomKnown>,
        from: Option<Position>,
    ) -> Result<Told, SyncError> {
        let heard = Heard { from, is_whole: from.is_none() };
        let known = Some(RoomKnown::default());
        if from.is_some_and(|from| membership.position <= from) {
            return Ok(Told { room: None, known: before.map(|before| RoomKnown { upto: None, ..before }), heard });
        }
        let Some(pending) = self.look.pending_room(membership).await? else {
            return Ok(Told { room: None, known: before, heard });
        };
        let mut room = SlidingRoom::new(membership);
        room.is_initial = true;
        room.bumped = membership.position;
        let is_direct = self.places.direct.contains(&membership.room_id);
        room.is_direct = is_direct.then_some(true);
        room.pending = Some(pending);
        Ok(Told { room: Some(room), known, heard })
    }

    /// A room that the user left, or was put out of: up to then.
    async fn left(
        &self,
        nid: RoomNid,
        membership: &Membership,
        interest: &Interest,
        before: Option<RoomKnown>,
        from: Option<Position>,
        known: &mut Known,
    ) -> Result<Told, SyncError> {
        let heard = Heard { from, is_whole: from.is_none() };
        if from.is_some_and(|from| membership.position <= from) {
            return Ok(Told { room: None, known: before, heard });
        }
        let was_inside = self.look.was_joined(membership.event_nid, Position(membership.position.0 - 1)).await?;
        if before.is_none() && !was_inside {
            return Ok(Told { room: None, known: None, heard });
        }
        let was_told = match from {
            Some(from) => self.look.was_joined(membership.event_nid, from).await?,
            None => false,
        };
        let mut room = SlidingRoom::new(membership);
        room.is_initial = !was_told;
        room.bumped = membership.position;
        let stretch = Stretch { after: from.filter(|_| was_told), upto: membership.position.min(self.look.upto) };
        let limit = interest.limit.max(1);
        let found = self.look.timeline_of(nid, membership, stretch, limit).await?.timeline;
        room.live = self.count_live(&found);
        let covers_all = !found.limited;
        room.timeline = Some(found);
        // Who never was inside, as after an invitation declined, is not told the room's state.
        let delta = match from.filter(|_| was_told) {
            _ if !was_inside => self.only_own(membership),
            None => Delta::everything(self.look.state_at(nid, membership, stretch.upto).await?),
            Some(from) => {
                let mut delta = self.delta(nid, membership, from, room.timeline.as_ref(), covers_all).await?;
                delta.add(self.own_key(), membership.event_nid);
                delta
            }
        };
        let told_states = before.as_ref().map_or(&[][..], |before| self.base.known.state(before));
        let states = if was_inside { union(told_states, &interest.states) } else { Vec::new() };
        // How it ended is told, whatever is wanted.
        let own = StatePattern { kind: Some("m.room.member".into()), key: Some(self.look.user_id().to_string()) };
        let with_own = union(&states, &[StateWanted { include: vec![own], ..StateWanted::default() }]);
        self.required_state(nid, membership, &delta, &with_own, None, covers_all, &mut room).await?;
        if was_inside {
            self.describe(nid, membership, &delta, &mut room).await?;
        }
        // Who was put out goes on seeing the room in lists, and is told once; who went knows.
        let stays = membership.by_other && was_inside;
        let state = known.place_of(&states);
        let known = stays.then_some(RoomKnown { upto: None, limit: interest.limit, state, is_direct: false });
        Ok(Told { room: Some(room), known, heard })
    }
}
