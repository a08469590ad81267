//! What was said, by the numbers that this server gave it.

use std::{collections::HashSet, sync::Arc};

use model::{Position, TimelineEvent};
use ruma::{EventId, OwnedEventId, UserId, api::Direction, events::TimelineEventType};
use store::Write;

use crate::{RoomError, Rooms, extension::relation, live::SharedRoom, now, visibility::Sight};

/// No stretch is longer.
const LONGEST: usize = 200;
/// So often the timeline is read for one stretch when few of its events are shown.
const READS: usize = 10;

/// Where a stretch of a conversation begins.
#[derive(Clone, Copy, Debug)]
pub enum Edge<'a> {
    /// At its end, going back.
    Latest,
    /// Before what has this number.
    BeforeSeq(i64),
    /// Before this event.
    Before(&'a EventId),
    /// After what has this number; 0: with the first that has one.
    AfterSeq(i64),
    /// After this event.
    After(&'a EventId),
    /// Where the one before ended.
    Next(Position, Direction),
}

/// Which part of a conversation is asked for.
#[derive(Clone, Copy, Debug)]
pub struct StretchRequest<'a> {
    /// Where it begins, and which way it goes.
    pub edge: Edge<'a>,
    /// How many events at most.
    pub limit: usize,
    /// Only what somebody said, not what happened otherwise.
    pub only_said: bool,
    /// What has this number or a lower one isn't wanted, nor what has none; 0: everything is.
    pub cleared_upto: i64,
}

/// A part of a conversation.
#[derive(Debug, Default)]
pub struct Stretch {
    /// Its events, oldest first.
    pub events: Vec<Arc<TimelineEvent>>,
    /// Every number from this
    pub first_seq: Option<i64>,
    /// to this one is that of one of the events, or of one that isn't shown to whoever asks, or wasn't wanted.
    pub last_seq: Option<i64>,
    /// Where the next one in the same direction begins; `None`: there is nothing more.
    pub next: Option<(Position, Direction)>,
}

impl Rooms {
    /// A part of a conversation, as far as `sight` reaches, without what its reader has hidden.
    pub async fn stretch(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        request: StretchRequest<'_>,
    ) -> Result<Stretch, RoomError> {
        let Some((mut at, direction)) = self.beginning(room, sight, request.edge).await? else {
            return Ok(Stretch::default());
        };
        let is_backward = direction == Direction::Backward;
        let limit = request.limit.clamp(1, LONGEST);
        let mut found = Stretch::default();
        let mut is_end = false;
        for _ in 0..READS {
            let wanted = limit - found.events.len();
            let read = self.shared.store.events().timeline(room.nid, at, None, wanted, direction).await?;
            is_end = read.len() < wanted;
            if let Some(last) = read.last() {
                at = if is_backward { Position(last.position.0 - 1) } else { last.position };
            }
            let is_past = read.iter().any(|event| is_cleared(event, request.cleared_upto));
            for seq in read.iter().filter_map(|event| event.seq) {
                found.first_seq = Some(found.first_seq.map_or(seq, |first| first.min(seq)));
                found.last_seq = Some(found.last_seq.map_or(seq, |last| last.max(seq)));
            }
            let wanted = read
                .into_iter()
                .filter(|event| !is_cleared(event, request.cleared_upto) && (!request.only_said || is_said(event)))
                .collect();
            let shown = sight.filter(wanted).await?;
            found.events.extend(self.unhidden(room, sight, shown).await?);
            if is_backward && is_past {
                is_end = true;
                break;
            }
            if is_end {
                // Other servers may have what came before.
                if is_backward && request.cleared_upto == 0 && self.backfill(room).await {
                    is_end = false;
                    continue;
                }
                break;
            }
            if found.events.len() >= limit {
                break;
            }
        }
        if is_backward {
            found.events.reverse();
        }
        found.next = (!is_end).then_some((at, direction));
        Ok(found)
    }

    /// `user_id` wants to see an event of the room no more; others see it as before.
    pub async fn hide(&self, room: &SharedRoom, sight: &mut Sight<'_>, event_id: &EventId) -> Result<(), RoomError> {
        self.find_event(sight, event_id).await?;
        let mut write = Write::new();
        store::conversations::hide(&mut write, &sight.user_id, room.nid, event_id, now());
        self.shared.store.commit(write).await?;
        Ok(())
    }

    /// The event of the room that has this number, or the last one if there are not so many; `None`: none has one.
    pub async fn numbered(&self, room: &SharedRoom, seq: i64) -> Result<Option<Arc<TimelineEvent>>, RoomError> {
        let events = self.shared.store.events();
        match events.by_seq(room.nid, seq).await? {
            Some(event) => Ok(Some(event)),
            None if seq > 0 => Ok(events.by_seq(room.nid, events.latest_seq(room.nid).await?).await?),
            None => Ok(None),
        }
    }

    /// Of these messages, those that `user_id` has hidden.
    pub async fn hidden_of(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        among: &[OwnedEventId],
    ) -> Result<HashSet<OwnedEventId>, RoomError> {
        Ok(self.shared.store.conversations().hidden(user_id, room.nid, among).await?)
    }

    async fn unhidden(
        &self,
        room: &SharedRoom,
        sight: &Sight<'_>,
        mut events: Vec<Arc<TimelineEvent>>,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let ids: Vec<_> = events.iter().map(|event| event.pdu.event_id.clone()).collect();
        let hidden = self.hidden_of(room, &sight.user_id, &ids).await?;
        events.retain(|event| !hidden.contains(&event.pdu.event_id));
        Ok(events)
    }

    /// Between which events to begin. `None`: there is nothing on that side.
    async fn beginning(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        edge: Edge<'_>,
    ) -> Result<Option<(Position, Direction)>, RoomError> {
        let events = self.shared.store.events();
        let just_before = |event: &TimelineEvent| (Position(event.position.0 - 1), Direction::Backward);
        let begins = match edge {
            Edge::Latest => Some((self.shared.store.visible_position().await?, Direction::Backward)),
            Edge::Before(event_id) => Some(just_before(&*self.find_event(sight, event_id).await?)),
            Edge::BeforeSeq(seq) => match events.by_seq(room.nid, seq).await? {
                Some(event) => Some(just_before(&event)),
                // What comes before the first number is what came before this server's time.
                None if seq <= 0 => Some((Position(0), Direction::Backward)),
                None => Some((self.shared.store.visible_position().await?, Direction::Backward)),
            },
            Edge::After(event_id) => Some((self.find_event(sight, event_id).await?.position, Direction::Forward)),
            Edge::AfterSeq(seq) if seq <= 0 => Some((Position(0), Direction::Forward)),
            Edge::AfterSeq(seq) => {
                events.by_seq(room.nid, seq).await?.map(|event| (event.position, Direction::Forward))
            }
            Edge::Next(position, direction) => Some((position, direction)),
        };
        Ok(begins.map(|(position, direction)| match (direction, sight.end()) {
            (Direction::Backward, Some(end)) => (position.min(end), direction),
            _ => (position, direction),
        }))
    }
}

pub(crate) fn is_cleared(event: &TimelineEvent, upto: i64) -> bool {
    upto > 0 && event.seq.is_none_or(|seq| seq <= upto)
}

/// Whether somebody said something by it: it is no state, and changes nothing that was said before.
fn is_said(event: &TimelineEvent) -> bool {
    let pdu = &event.pdu;
    pdu.state_key.is_none()
        && !matches!(pdu.kind, TimelineEventType::RoomRedaction | TimelineEventType::Reaction)
        && relation(pdu).is_none_or(|(_, rel_type)| rel_type != "m.replace" && rel_type != "m.annotation")
}
