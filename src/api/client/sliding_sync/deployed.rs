//! `org.matrix.simplified_msc3575`: `pos` and `timeout` in the query, `ranges`, state as pairs with `*`, `$ME` and `$LAZY`.

use std::collections::BTreeMap;

use http::request::Parts;
use ruma::{OwnedRoomId, UserId};
use serde::Deserialize;
use sync::sliding::{ListFilters, RoomWanted, SlidingList, SlidingRequest, StatePattern, StateWanted};

use super::{Envelope, Extensions, MAX_PATTERNS};
use crate::Error;

/// The most rooms that one request subscribes to.
const MAX_SUBSCRIPTIONS: usize = 1_000;

/// The query of a request.
#[derive(Debug, Default)]
pub(super) struct Query {
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<String>,
}

impl Query {
    pub(super) fn of(parts: &Parts) -> Result<Self, Error> {
        let mut query = Self::default();
        for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            match &*name {
                "pos" => query.pos = Some(value.into_owned()),
                "timeout" => {
                    let number = value.parse();
                    let wrong = |_| Error::invalid_param("timeout: a number of milliseconds is wanted");
                    query.timeout = Some(number.map_err(wrong)?);
                }
                "set_presence" => query.set_presence = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(query)
    }
}

/// The body of a request. Clients say things of older and newer drafts, which are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Body {
    #[serde(default)]
    conn_id: Option<String>,
    #[serde(default)]
    pub(super) txn_id: Option<String>,
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
    ranges: Option<Vec<(usize, usize)>>,
    #[serde(default)]
    filters: Option<Filters>,
    #[serde(flatten)]
    room: Room,
}

#[derive(Debug, Deserialize)]
struct Room {
    #[serde(default)]
    required_state: Vec<(String, String)>,
    timeline_limit: usize,
}

#[derive(Debug, Default, Deserialize)]
struct Filters {
    #[serde(default)]
    is_dm: Option<bool>,
    #[serde(default)]
    is_encrypted: Option<bool>,
    #[serde(default)]
    is_invite: Option<bool>,
    #[serde(default)]
    room_types: Option<Vec<Option<String>>>,
    #[serde(default)]
    not_room_types: Vec<Option<String>>,
    #[serde(default)]
    spaces: Option<Vec<OwnedRoomId>>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    not_tags: Vec<String>,
}

impl Body {
    pub(super) fn into_request(self, query: Query, user_id: &UserId, device_id: &str) -> Result<SlidingRequest, Error> {
        if self.room_subscriptions.len() > MAX_SUBSCRIPTIONS {
            return Err(Error::invalid_param(format!("room_subscriptions: there may be {MAX_SUBSCRIPTIONS} of them")));
        }
        let Query { pos, timeout, set_presence } = query;
        let envelope = Envelope { user_id, device_id, conn_id: self.conn_id, pos, timeout, set_presence };
        let mut request = envelope.into_request(self.extensions)?;
        for (name, list) in self.lists {
            let filters = list.filters.unwrap_or_default();
            let wanted = list.room.wanted(user_id)?;
            request.lists.insert(name, SlidingList { ranges: list.ranges, wanted, filters: filters.into() });
        }
        for (room_id, room) in self.room_subscriptions {
            request.subscriptions.insert(room_id, room.wanted(user_id)?);
        }
        Ok(request)
    }
}

impl Room {
    fn wanted(self, user_id: &UserId) -> Result<RoomWanted, Error> {
        if self.required_state.len() > MAX_PATTERNS {
            return Err(Error::invalid_param(format!("required_state: there may be {MAX_PATTERNS} elements")));
        }
        let mut state = StateWanted::default();
        for (kind, key) in self.required_state {
            match (kind.as_str(), key.as_str()) {
                ("m.room.member", "$LAZY") => state.lazy_members = true,
                (_, "$ME") => state.include.push(pattern(kind, user_id.to_string())),
                _ => state.include.push(pattern(kind, key)),
            }
        }
        state.include.sort_unstable();
        state.include.dedup();
        Ok(RoomWanted { timeline_limit: self.timeline_limit.min(super::MAX_TIMELINE), state })
    }
}

fn pattern(kind: String, key: String) -> StatePattern {
    let unless_any = |text: String| (text != "*").then_some(text);
    StatePattern { kind: unless_any(kind), key: unless_any(key) }
}

impl From<Filters> for ListFilters {
    fn from(filters: Filters) -> Self {
        let Filters { is_dm, is_encrypted, is_invite, room_types, not_room_types, spaces, tags, not_tags } = filters;
        Self { is_dm, is_encrypted, is_invite, room_types, not_room_types, spaces, tags, not_tags }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn stars_me_and_lazy_are_read_as_what_they_stand_for() {
        let body = json!({
            "lists": { "all": {
                "ranges": [[0, 19]], "timeline_limit": 1000,
                "required_state": [["m.room.member", "$LAZY"], ["m.room.member", "$ME"], ["*", ""], ["m.room.topic", "*"]],
                "filters": { "is_invite": false, "not_room_types": ["m.space", null] },
                "slow_get_all_rooms": false,
            } },
        });
        let body: Body = serde_json::from_value(body).expect("clients send this");
        let request = body.into_request(Query::default(), user_id!("@alice:a.test"), "PHONE").expect("it is right");
        let list = &request.lists["all"];
        assert_eq!(list.ranges, Some(vec![(0, 19)]));
        assert_eq!(list.wanted.timeline_limit, 100);
        assert!(list.wanted.state.lazy_members);
        let patterns: Vec<_> =
            list.wanted.state.include.iter().map(|one| (one.kind.as_deref(), one.key.as_deref())).collect();
        assert_eq!(
            patterns,
            [(None, Some("")), (Some("m.room.member"), Some("@alice:a.test")), (Some("m.room.topic"), None)]
        );
        assert_eq!(list.filters.is_invite, Some(false));
        assert_eq!(list.filters.not_room_types, [Some("m.space".to_owned()), None]);
    }
}
