//! What a connection has been told, and how its client names that.
//!
//! A `pos` is `p<position>~<version>`: everything up to the position was told, of the rooms that the version lists. The version moves
//! only when rooms come into sight or go, or more is wanted of one; what happens in rooms in sight moves the position alone, and
//! writes nothing.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use model::{Position, RoomNid};
use quick_cache::{Weighter, sync::Cache};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};
use store::sliding::Connection;

use super::wanted::{SlidingRequest, StateWanted};
use crate::{Sync, SyncError, now, token::NotAToken};

/// How many patterns of state are remembered of what one room was told; whoever asks for more begins anew.
const PATTERNS: usize = 500;
/// How many rooms of connections are kept in memory, all together.
const CACHED_ROOMS: u64 = 400_000;

/// What a client says to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingToken {
    /// Everything up to here has been told,
    pub position: Position,
    /// of what this version knows; 0: of no room.
    pub(crate) version: Position,
}

impl fmt::Display for SlidingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}~{}", self.position, self.version)
    }
}

impl FromStr for SlidingToken {
    type Err = NotAToken;

    fn from_str(token: &str) -> Result<Self, NotAToken> {
        let (position, version) = token.strip_prefix('p').and_then(|rest| rest.split_once('~')).ok_or(NotAToken)?;
        let number = |text: &str| {
            let number: i64 = text.parse().map_err(|_| NotAToken)?;
            if number >= 0 && number.to_string() == text { Ok(Position(number)) } else { Err(NotAToken) }
        };
        Ok(Self { position: number(position)?, version: number(version)? })
    }
}

/// What a connection knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// It has been told what the user keeps in its rooms.
    #[serde(default)]
    pub(crate) account_data: bool,
    /// It has been told who has read how far.
    #[serde(default)]
    pub(crate) receipts: bool,
    /// What of rooms it has been told; rooms name it by its place.
    pub(crate) states: Vec<Vec<StateWanted>>,
    pub(crate) rooms: BTreeMap<i64, RoomKnown>,
}

/// What a connection knows of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RoomRow", into = "RoomRow")]
pub(crate) struct RoomKnown {
    /// Everything up to here; `None`: up to the position of the token.
    pub(crate) upto: Option<Position>,
    /// So many of its latest events.
    pub(crate) limit: usize,
    /// Its state as [`Known::states`] has it there.
    pub(crate) state: usize,
    /// That it is a direct one.
    pub(crate) is_direct: bool,
}

type RoomRow = (Option<i64>, usize, usize, u8);

impl From<RoomRow> for RoomKnown {
    fn from((upto, limit, state, is_direct): RoomRow) -> Self {
        Self { upto: upto.map(Position), limit, state, is_direct: is_direct != 0 }
    }
}

impl From<RoomKnown> for RoomRow {
    fn from(known: RoomKnown) -> Self {
        (known.upto.map(|upto| upto.0), known.limit, known.state, known.is_direct.into())
    }
}

impl Known {
    pub(crate) fn room(&self, nid: RoomNid) -> Option<&RoomKnown> {
        self.rooms.get(&nid.0)
    }

    pub(crate) fn state(&self, room: &RoomKnown) -> &[StateWanted] {
        self.states.get(room.state).map_or(&[], Vec::as_slice)
    }

    /// The place of `states` among what is told of rooms.
    pub(crate) fn place_of(&mut self, states: &[StateWanted]) -> usize {
        let known = self.states.iter().position(|known| known == states);
        known.unwrap_or_else(|| {
            self.states.push(states.to_vec());
            self.states.len() - 1
        })
    }

    /// Leaves out what no room names any longer.
    fn tidy(&mut self) {
        let states = std::mem::take(&mut self.states);
        let mut rooms = std::mem::take(&mut self.rooms);
        for room in rooms.values_mut() {
            room.state = self.place_of(states.get(room.state).map_or(&[], Vec::as_slice));
        }
        self.rooms = rooms;
    }
}

/// What was told with what is wanted besides: a room that was told more goes on being told that much.
pub(crate) fn union(told: &[StateWanted], wanted: &[StateWanted]) -> Vec<StateWanted> {
    let mut both: Vec<StateWanted> = told.iter().chain(wanted).cloned().collect();
    both.sort_unstable();
    both.dedup();
    let size: usize = both.iter().map(|one| one.include.len() + one.exclude.len()).sum();
    if size > PATTERNS { wanted.to_vec() } else { both }
}

/// Where a connection stands.
#[derive(Clone, Default)]
pub(crate) struct Base {
    /// `None`: it begins.
    pub(crate) token: Option<SlidingToken>,
    pub(crate) known: Arc<Known>,
}

type Key = (OwnedUserId, String, String, i64);

/// What connections know, as far as memory allows. A version never changes.
pub(crate) struct Connections(Cache<Key, Arc<Known>, Rooms>);

#[derive(Clone)]
struct Rooms;

impl Weighter<Key, Arc<Known>> for Rooms {
    fn weight(&self, _: &Key, known: &Arc<Known>) -> u64 {
        known.rooms.len() as u64 + 16
    }
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(2_000, CACHED_ROOMS, Rooms))
    }
}

fn key(request: &SlidingRequest, version: Position) -> Key {
    (request.user_id.clone(), request.device_id.clone(), request.conn_id.clone(), version.0)
}

fn connection(request: &SlidingRequest) -> Connection<'_> {
    Connection { user_id: &request.user_id, device_id: &request.device_id, conn_id: &request.conn_id }
}

impl Sync {
    /// Where the connection of a request stands. What other devices were answered is unknown to this one.
    pub(crate) async fn base_of(&self, request: &SlidingRequest) -> Result<Base, SyncError> {
        let Some(pos) = request.pos.as_deref().filter(|pos| !pos.is_empty()) else { return Ok(Base::default()) };
        let token: SlidingToken = pos.parse().map_err(|_| SyncError::UnknownPos)?;
        let shared = &self.shared;
        // What nobody has told yet, nobody can have heard.
        if !shared.notifier.reach(&shared.store, token.position).await? {
            return Err(SyncError::UnknownPos);
        }
        if token.version.0 == 0 {
            return Ok(Base { token: Some(token), known: Arc::default() });
        }
        let key = key(request, token.version);
        if let Some(known) = shared.sliding.0.get(&key) {
            return Ok(Base { token: Some(token), known });
        }
        let state = shared.store.sliding().find(&connection(request), token.version).await?;
        let state = state.ok_or(SyncError::UnknownPos)?;
        let known: Known = serde_json::from_str(&state)
            .map_err(|error| store::Error::Corrupt(format!("sliding_connections.state: {error}")))?;
        let known = Arc::new(known);
        shared.sliding.0.insert(key, known.clone());
        Ok(Base { token: Some(token), known })
    }

    /// Writes down what a connection knows now. Answers which version that is.
    pub(crate) async fn keep_known(
        &self,
        request: &SlidingRequest,
        base: &Base,
        mut known: Known,
    ) -> Result<Position, SyncError> {
        known.tidy();
        let state = serde_json::to_string(&known).expect("what is known is JSON");
        let mut write = store::Write::new();
        let before = base.token.map_or(Position(0), |token| token.version);
        store::sliding::insert(&mut write, &connection(request), before, &state, now());
        let version = self.shared.store.commit(write).await?;
        metrics::counter!("comity_sync_sliding_writes_total").increment(1);
        self.shared.sliding.0.insert(key(request, version), Arc::new(known));
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pos_reads_back_as_it_was_written_and_nothing_else_is_one() {
        for token in ["p0~0", "p17~9"] {
            assert_eq!(token.parse::<SlidingToken>().map(|token| token.to_string()).as_deref(), Ok(token));
        }
        for token in ["", "p", "p1", "p1~", "p-1~0", "p01~0", "p1~+2", "s1~2", "p1~2~3"] {
            assert_eq!(token.parse::<SlidingToken>(), Err(NotAToken), "{token}");
        }
    }

    #[test]
    fn what_is_known_reads_back_and_keeps_only_states_that_rooms_name() {
        let one = vec![StateWanted { lazy_members: true, ..StateWanted::default() }];
        let mut known = Known { receipts: true, ..Known::default() };
        known.place_of(&[]);
        let state = known.place_of(&one);
        known.rooms.insert(7, RoomKnown { upto: Some(Position(3)), limit: 20, state, is_direct: true });
        known.tidy();
        assert_eq!(known.states, [one]);
        let json = serde_json::to_string(&known).expect("it is JSON");
        assert_eq!(serde_json::from_str::<Known>(&json).expect("it was written so"), known);
    }
}
