//! Asking the index, and showing what it gives as far as whoever asks may see it.
//!
//! Pages go by position, which no two events share and which no event changes, so what comes meanwhile moves nothing. By rank,
//! the latest [`WINDOW`] hits are put in order, then the [`WINDOW`] before them: the bounds of the window are part of the cursor.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
    time::Instant,
};

use metrics::histogram;
use model::{EventNid, Millis, Position, RoomNid, TimelineEvent};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, UserId, api::client::filter::RoomEventFilter,
    events::room::member::MembershipState,
};
use store::search::{Hit, HitsWanted, Key};

use super::{
    Search, SearchError,
    document::{text_of, text_of_edit},
    question::{Match, Question},
};
use crate::{RoomError, Rooms, Sight, history::passes, live::SharedRoom, numbered::is_cleared};

/// So many hits are put in order by how well they match, and counted at most.
const WINDOW: usize = 500;
/// No page is longer.
const LONGEST_PAGE: usize = 200;
/// So often the index is asked for one page when little of what it gives is shown.
const READS: usize = 10;
/// No page tells more words.
const MOST_WORDS: usize = 50;

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// What was said last.
    Recent,
    /// What matches best.
    Rank,
}

/// What is looked for.
#[derive(Clone)]
pub struct SearchRequest<'a> {
    /// In the words of whoever asks.
    pub text: &'a str,
    /// Where in events; none: everywhere.
    pub keys: &'a [Key],
    /// In which events.
    pub filter: &'a RoomEventFilter,
    /// In which order.
    pub order: Order,
    /// How many events at most: 1 to 200.
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<Cursor>,
    /// Made at or after this moment,
    pub made_from: Millis,
    /// and before this one, milliseconds since 1970.
    pub made_before: Millis,
    /// Whether to count them, if this is the first page.
    pub counts: bool,
    /// What the user took out of the user's own sight isn't wanted: what was hidden, and, by room, what has this number or a lower
    /// one. `None`: it is.
    pub cleared: Option<&'a HashMap<OwnedRoomId, i64>>,
}

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// What is before this is still to come.
    Recent(Position),
    /// Of the hits from `from` on and before `before`, those that come after this rank and position, and what is before `from`.
    Rank {
        /// The window begins here,
        from: Position,
        /// and ends before this.
        before: Position,
        /// The last that was shown.
        last: (u32, Position),
    },
}

/// Something that was found.
#[derive(Clone)]
pub struct Found {
    /// The event.
    pub event: Arc<TimelineEvent>,
    /// Its room.
    pub room: SharedRoom,
    /// How well it matches: 0 to 1,000,000.
    pub rank: u32,
}

/// A page of what was found.
#[derive(Default)]
pub struct SearchPage<'a> {
    /// In the order that was asked for.
    pub found: Vec<Found>,
    /// Where the next page begins; `None`: there is nothing more.
    pub next: Option<Cursor>,
    /// How many there are in all, as far as that was counted; up to 500.
    pub count: Option<usize>,
    /// The words that were meant, folded.
    pub words: Vec<String>,
    /// How far the user sees into the rooms of what was found.
    pub sights: HashMap<RoomNid, Sight<'a>>,
}

/// Something that is shown, if it is on the page.
struct Shown {
    found: Found,
    words: Vec<String>,
}

/// A stretch of what the index gives.
struct Stretch {
    /// Latest first.
    shown: Vec<Shown>,
    /// Of everything that was looked at, the earliest; `None`: there is nothing more.
    reached: Option<Position>,
}

/// One search.
struct Asking<'a, 'r> {
    rooms: &'a Rooms,
    user_id: &'r UserId,
    request: &'r SearchRequest<'r>,
    question: Question,
    /// The rooms that the user is in, or was in.
    room_ids: HashMap<RoomNid, OwnedRoomId>,
    /// `None`: the user doesn't see into the room.
    sights: HashMap<RoomNid, Option<(SharedRoom, Sight<'a>)>>,
}

impl Search {
    /// What was said and is looked for, in the rooms that the user is in, or was in until then.
    ///
    /// Waits up to two seconds for what was said just now. Answers fewer than it could where much is found that the user may not see;
    /// then `next` goes on.
    pub async fn search(&self, user_id: &UserId, request: &SearchRequest<'_>) -> Result<SearchPage<'_>, SearchError> {
        if !self.shared.is_enabled {
            return Err(SearchError::Disabled);
        }
        let question = Question::of(request.text)?;
        if question.is_empty() {
            return Ok(SearchPage { count: request.counts.then_some(0), ..SearchPage::default() });
        }
        let began = Instant::now();
        self.catch_up().await?;
        let rooms = &self.shared.rooms;
        let room_ids = rooms_of(rooms, user_id, request.filter).await?;
        let mut search = Asking { rooms, user_id, request, question, room_ids, sights: HashMap::new() };
        let page = match request.order {
            Order::Recent => search.recent().await?,
            Order::Rank => search.ranked().await?,
        };
        histogram!("comity_search_seconds").record(began.elapsed().as_secs_f64());
        Ok(page)
    }
}

/// The rooms that may be searched: those that the user is in, or left and didn't forget, as far as they are asked for.
async fn rooms_of(
    rooms: &Rooms,
    user_id: &UserId,
    filter: &RoomEventFilter,
) -> Result<HashMap<RoomNid, OwnedRoomId>, SearchError> {
    let mut memberships = rooms.shared.store.rooms().memberships_of(user_id).await?;
    memberships.retain(|row| {
        let is_or_was_in = match row.membership {
            MembershipState::Join => true,
            MembershipState::Leave | MembershipState::Ban => !row.forgotten,
            _ => false,
        };
        let is_wanted = filter.rooms.as_ref().is_none_or(|wanted| wanted.contains(&row.room_id));
        is_or_was_in && is_wanted && !filter.not_rooms.contains(&row.room_id)
    });
    Ok(memberships.into_iter().map(|row| (row.room_nid, row.room_id)).collect())
}

impl<'a> Asking<'a, '_> {
    async fn recent(&mut self) -> Result<SearchPage<'a>, SearchError> {
        let limit = self.request.limit.clamp(1, LONGEST_PAGE);
        let (mut before, is_first) = match self.request.cursor {
            None => (Position(i64::MAX), true),
            Some(Cursor::Recent(before)) => (before, false),
            Some(Cursor::Rank { .. }) => return Err(SearchError::Invalid("the pages before had another order".into())),
        };
        let counts = self.request.counts && is_first;
        let mut shown = Vec::new();
        let mut next = None;
        for _ in 0..READS {
            let most = if counts { WINDOW } else { (2 * limit).clamp(20, WINDOW) };
            let stretch = self.stretch(Position(i64::MIN), before, most).await?;
            shown.extend(stretch.shown);
            next = stretch.reached.map(Cursor::Recent);
            let Some(reached) = stretch.reached else { break };
            before = reached;
            if shown.len() >= limit {
                break;
            }
        }
        let count = counts.then_some(shown.len());
        if shown.len() >= limit {
            shown.truncate(limit);
            next = shown.last().map(|last| Cursor::Recent(last.found.event.position));
        }
        Ok(self.page(shown, next, count))
    }

    async fn ranked(&mut self) -> Result<SearchPage<'a>, SearchError> {
        let limit = self.request.limit.clamp(1, LONGEST_PAGE);
        let (mut from, mut before, mut last) = match self.request.cursor {
            None => (None, Position(i64::MAX), None),
            Some(Cursor::Rank { from, before, last }) => (Some(from), before, Some(last)),
            Some(Cursor::Recent(before)) => (None, before, None),
        };
        let mut count = (self.request.counts && self.request.cursor.is_none()).then_some(0);
        let mut page: Vec<Shown> = Vec::new();
        for _ in 0..READS {
            let stretch = self.stretch(from.unwrap_or(Position(i64::MIN)), before, WINDOW).await?;
            // Where a window ends was settled when it was first looked at, whatever leaves it or is taken from it since.
            let begin = from.or(stretch.reached).unwrap_or(Position(i64::MIN));
            let mut shown = stretch.shown;
            if let Some(count) = count.as_mut().filter(|count| **count == 0) {
                *count = shown.len();
            }
            shown.sort_by_key(|shown| std::cmp::Reverse(place(shown)));
            shown.retain(|shown| last.is_none_or(|last| place(shown) < last));
            page.extend(shown);
            if page.len() >= limit {
                page.truncate(limit);
                let last = page.last().map(place).unwrap_or_default();
                return Ok(self.page(page, Some(Cursor::Rank { from: begin, before, last }), count));
            }
            if begin == Position(i64::MIN) {
                return Ok(self.page(page, None, count));
            }
            // What was shown of this window stays before what is shown of the next.
            (from, before, last) = (None, begin, None);
            if !page.is_empty() {
                break;
            }
        }
        Ok(self.page(page, Some(Cursor::Recent(before)), count))
    }

    fn page(&mut self, shown: Vec<Shown>, next: Option<Cursor>, count: Option<usize>) -> SearchPage<'a> {
        let mut words: Vec<String> = Vec::new();
        let mut found = Vec::with_capacity(shown.len());
        for one in shown {
            for word in one.words {
                if words.len() < MOST_WORDS && !words.contains(&word) {
                    words.push(word);
                }
            }
            found.push(one.found);
        }
        let rooms: HashSet<RoomNid> = found.iter().map(|found| found.room.nid).collect();
        let sights = std::mem::take(&mut self.sights).into_iter();
        let sights = sights.filter_map(|(nid, sight)| Some((nid, sight?.1))).filter(|(nid, _)| rooms.contains(nid));
        SearchPage { found, next, count, words, sights: sights.collect() }
    }

    /// What the index gives between two positions, as far as it is shown.
    async fn stretch(&mut self, from: Position, before: Position, most: usize) -> Result<Stretch, SearchError> {
        let room_nids: Vec<RoomNid> = self.room_ids.keys().copied().collect();
        let senders: Vec<&OwnedUserId> = self.request.filter.senders.iter().flatten().collect();
        let senders: Vec<&UserId> = senders.into_iter().map(|sender| &**sender).collect();
        if self.request.filter.senders.is_some() && senders.is_empty() {
            return Ok(Stretch { shown: Vec::new(), reached: None });
        }
        let terms = self.question.terms();
        let wanted = HitsWanted {
            user_id: self.user_id,
            terms: &terms,
            rooms: &room_nids,
            senders: &senders,
            keys: self.request.keys,
            before,
            from,
            made_from: self.request.made_from,
            made_before: self.request.made_before,
            limit: most,
        };
        let hits = self.rooms.shared.store.search().hits(&wanted).await?;
        let reached = hits.last().filter(|_| hits.len() == most).map(|hit| hit.position);
        Ok(Stretch { shown: self.shown(&hits).await?, reached })
    }

    async fn shown(&mut self, hits: &[Hit]) -> Result<Vec<Shown>, SearchError> {
        let nids: HashSet<EventNid> = hits.iter().flat_map(|hit| [hit.nid, hit.text_nid]).collect();
        let events = self.rooms.events(nids).await?;
        let events: HashMap<EventNid, Arc<TimelineEvent>> =
            events.into_iter().map(|event| (event.nid, event)).collect();
        let mut shown = Vec::new();
        for hit in hits {
            let Some(event) = events.get(&hit.nid) else { continue };
            if !passes(self.request.filter, event) || !self.reaches(event).await? {
                continue;
            }
            let edit = events.get(&hit.text_nid).filter(|edit| edit.nid != event.nid);
            let Some(Match { rank, words }) = self.matched(event, edit).await? else { continue };
            let Some(Some((room, _))) = self.sights.get(&hit.room_nid) else { continue };
            shown.push(Shown { found: Found { event: event.clone(), room: room.clone(), rank }, words });
        }
        self.without_hidden(&mut shown).await?;
        Ok(shown)
    }

    /// Whether the user sees the event.
    async fn reaches(&mut self, event: &TimelineEvent) -> Result<bool, SearchError> {
        let nid = event.room_nid;
        if !self.sights.contains_key(&nid) {
            let Some(room_id) = self.room_ids.get(&nid) else { return Ok(false) };
            let room = self.rooms.get(room_id).await?;
            let sight = match self.rooms.sight(&room, self.user_id).await {
                Ok(sight) => Some((room, sight)),
                // Who was invited and said no was never in.
                Err(RoomError::NotJoined) => None,
                Err(error) => return Err(error.into()),
            };
            self.sights.insert(nid, sight);
        }
        let Some(Some((room, sight))) = self.sights.get_mut(&nid) else { return Ok(false) };
        if let Some(cleared) = self.request.cleared
            && is_cleared(event, cleared.get(&room.room_id).copied().unwrap_or_default())
        {
            return Ok(false);
        }
        Ok(sight.end().is_none_or(|end| event.position <= end) && sight.reaches(event).await?)
    }

    /// How well an event matches, as the user sees it: with its latest edit, if the user sees that.
    async fn matched(
        &mut self,
        event: &TimelineEvent,
        edit: Option<&Arc<TimelineEvent>>,
    ) -> Result<Option<Match>, SearchError> {
        let Some((_, text)) = text_of(event) else { return Ok(None) };
        if let Some(edit) = edit
            && let Some(edited) = text_of_edit(edit)
            && self.reaches(edit).await?
        {
            return Ok(self.question.answered_by(&edited));
        }
        Ok(self.question.answered_by(&text))
    }

    /// Leaves out what the user has hidden.
    async fn without_hidden(&self, shown: &mut Vec<Shown>) -> Result<(), SearchError> {
        if self.request.cleared.is_none() {
            return Ok(());
        }
        let mut by_room: HashMap<RoomNid, (SharedRoom, Vec<OwnedEventId>)> = HashMap::new();
        for Shown { found, .. } in shown.iter() {
            let of_room = by_room.entry(found.room.nid).or_insert_with(|| (found.room.clone(), Vec::new()));
            of_room.1.push(found.event.pdu.event_id.clone());
        }
        for (room, ids) in by_room.into_values() {
            let hidden = self.rooms.hidden_of(&room, self.user_id, &ids).await?;
            shown.retain(|shown| !hidden.contains(&shown.found.event.pdu.event_id));
        }
        Ok(())
    }
}

/// What of two matches comes first, if this is greater.
fn place(shown: &Shown) -> (u32, Position) {
    (shown.found.rank, shown.found.event.position)
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recent(before) => write!(f, "p{before}"),
            Self::Rank { from, before, last: (rank, position) } => write!(f, "w{from}.{before}.{rank}.{position}"),
        }
    }
}

impl FromStr for Cursor {
    type Err = SearchError;

    fn from_str(text: &str) -> Result<Self, SearchError> {
        let wrong = || SearchError::Invalid(format!("`{text}` is not where a page of this server ended"));
        if let Some(before) = text.strip_prefix('p') {
            return Ok(Self::Recent(Position(before.parse().map_err(|_| wrong())?)));
        }
        let numbers: Option<Vec<i64>> =
            text.strip_prefix('w').and_then(|numbers| numbers.split('.').map(|number| number.parse().ok()).collect());
        let Some(&[from, before, rank, position]) = numbers.as_deref() else { return Err(wrong()) };
        let rank = u32::try_from(rank).map_err(|_| wrong())?;
        Ok(Self::Rank { from: Position(from), before: Position(before), last: (rank, Position(position)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        for cursor in [
            Cursor::Recent(Position(-7)),
            Cursor::Rank { from: Position(i64::MIN), before: Position(i64::MAX), last: (1_000_000, Position(3)) },
        ] {
            assert_eq!(cursor.to_string().parse::<Cursor>().expect("it is one"), cursor);
        }
        for text in ["", "p", "q1", "w1.2.3", "w1.2.-3.4", "p1.5", "pé"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
