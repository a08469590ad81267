//! MSC4186 as it was merged: everything in the body, one `range`, state as what to include and what to exclude.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, UserId};
use serde::Deserialize;
use sync::sliding::{ListFilters, RoomWanted, SlidingList, SlidingRequest, StatePattern, StateWanted};

use super::{Envelope, Extensions, MAX_PATTERNS};
use crate::Error;

/// "Max subscriptions: 100. If a request contains more than this the server will respond with a 400"
const MAX_SUBSCRIPTIONS: usize = 100;

/// The body of a request. What later proposals add to it is passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Body {
    #[serde(default)]
    conn_id: Option<String>,
    #[serde(default)]
    pos: Option<String>,
    #[serde(default)]
    timeout: Option<u64>,
    #[serde(default)]
    set_presence: Option<String>,
    #[serde(default)]
    lists: BTreeMap<String, List>,
    #[serde(default)]
    room_subscriptions: BTreeMap<OwnedRoomId, Room>,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    range: Option<(usize, usize)>,
    #[serde(default)]
    filters: Option<Filters>,
    #[serde(flatten)]
    room: Room,
}

#[derive(Debug, Deserialize)]
struct Room {
    required_state: State,
    timeline_limit: usize,
}

#[derive(Debug, Deserialize)]
struct State {
    #[serde(default)]
    include: Vec<Element>,
    #[serde(default)]
    exclude: Vec<Element>,
    #[serde(default)]
    lazy_members: bool,
}

#[derive(Debug, Deserialize)]
struct Element {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    state_key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Filters {
    #[serde(default)]
    is_dm: Option<bool>,
    #[serde(default)]
    spaces: Option<Vec<OwnedRoomId>>,
    #[serde(default)]
    is_encrypted: Option<bool>,
    #[serde(default)]
    is_invited: Option<bool>,
    #[serde(default)]
    room_types: Option<Vec<Option<String>>>,
    #[serde(default)]
    not_room_types: Vec<Option<String>>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    not_tags: Vec<String>,
}

impl Body {
    pub(super) fn into_request(self, user_id: &UserId, device_id: &str) -> Result<SlidingRequest, Error> {
        if self.room_subscriptions.len() > MAX_SUBSCRIPTIONS {
            return Err(Error::invalid_param(format!("room_subscriptions: there may be {MAX_SUBSCRIPTIONS} of them")));
        }
        let Self { conn_id, pos, timeout, set_presence, lists, room_subscriptions, extensions } = self;
        let envelope = Envelope { user_id, device_id, conn_id, pos, timeout, set_presence };
        let mut request = envelope.into_request(extensions)?;
        for (name, list) in lists {
            let List { range, filters, room } = list;
            let ranges = range.map(|range| vec![range]);
            let filters = filters.unwrap_or_default().into();
            request.lists.insert(name, SlidingList { ranges, wanted: room.wanted()?, filters });
        }
        for (room_id, room) in room_subscriptions {
            request.subscriptions.insert(room_id, room.wanted()?);
        }
        Ok(request)
    }
}

impl Room {
    fn wanted(self) -> Result<RoomWanted, Error> {
        let State { include, exclude, lazy_members } = self.required_state;
        if include.len() + exclude.len() > MAX_PATTERNS {
            return Err(Error::invalid_param(format!("required_state: there may be {MAX_PATTERNS} elements")));
        }
        let state = StateWanted { include: patterns(include), exclude: patterns(exclude), lazy_members };
        Ok(RoomWanted { timeline_limit: self.timeline_limit.min(super::MAX_TIMELINE), state })
    }
}

fn patterns(elements: Vec<Element>) -> Vec<StatePattern> {
    let mut patterns: Vec<StatePattern> =
        elements.into_iter().map(|element| StatePattern { kind: element.kind, key: element.state_key }).collect();
    patterns.sort_unstable();
    patterns.dedup();
    patterns
}

impl From<Filters> for ListFilters {
    fn from(filters: Filters) -> Self {
        let Filters { is_dm, spaces, is_encrypted, is_invited, room_types, not_room_types, tags, not_tags } = filters;
        Self { is_dm, is_encrypted, is_invite: is_invited, room_types, not_room_types, spaces, tags, not_tags }
    }
}
