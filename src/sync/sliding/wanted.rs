//! What a client of sliding sync asks for, whichever form of it the client speaks.

use std::{collections::BTreeMap, time::Duration};

use ruma::{OwnedRoomId, OwnedUserId, presence::PresenceState};
use serde::{Deserialize, Serialize};

/// What a client asks.
#[derive(Clone, Debug)]
pub struct SlidingRequest {
    /// Who.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: String,
    /// Which of the device's connections; empty is one, too.
    pub conn_id: String,
    /// What the last answer called `pos`. `None`: a new connection.
    pub pos: Option<String>,
    /// How long to wait if there is nothing.
    pub timeout: Duration,
    /// How the user seems to others while asking.
    pub set_presence: PresenceState,
    /// Windows of the user's rooms.
    pub lists: BTreeMap<String, SlidingList>,
    /// Rooms that are wanted wherever they stand.
    pub subscriptions: BTreeMap<OwnedRoomId, RoomWanted>,
    /// What is wanted besides rooms.
    pub extensions: ExtensionsWanted,
}

/// A window of the user's rooms, those first in which something happened last.
#[derive(Clone, Debug, Default)]
pub struct SlidingList {
    /// From which place to which, both inclusive; `None`: all.
    pub ranges: Option<Vec<(usize, usize)>>,
    /// What of each room.
    pub wanted: RoomWanted,
    /// Of which rooms.
    pub filters: ListFilters,
}

/// What of a room is wanted.
#[derive(Clone, Debug, Default)]
pub struct RoomWanted {
    /// How many of its latest events.
    pub timeline_limit: usize,
    /// Which of its state.
    pub state: StateWanted,
}

/// Which of a room's state is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateWanted {
    /// What matches any of these,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<StatePattern>,
    /// and none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<StatePattern>,
    /// Of members those who are needed to show the timeline, besides.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lazy_members: bool,
}

/// State events; `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatePattern {
    /// Of this type.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// With this state key.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Which rooms are in a list. `None`: that doesn't matter.
#[derive(Clone, Debug, Default)]
pub struct ListFilters {
    /// Direct ones, as the user's account data says, or others.
    pub is_dm: Option<bool>,
    /// Encrypted ones, or others.
    pub is_encrypted: Option<bool>,
    /// Those to which the user is invited, or others.
    pub is_invite: Option<bool>,
    /// Those of one of these types; `None` among them: ordinary ones.
    pub room_types: Option<Vec<Option<String>>>,
    /// Not those of one of these types.
    pub not_room_types: Vec<Option<String>>,
    /// Those that one of these spaces names.
    pub spaces: Option<Vec<OwnedRoomId>>,
    /// Those with one of these tags.
    pub tags: Option<Vec<String>>,
    /// Not those with one of these tags.
    pub not_tags: Vec<String>,
}

/// What is wanted besides rooms.
#[derive(Clone, Debug, Default)]
pub struct ExtensionsWanted {
    /// Messages to the device.
    pub to_device: Option<ToDeviceWanted>,
    /// Whose devices changed, and what is left of the device's keys.
    pub e2ee: bool,
    /// What the user keeps here.
    pub account_data: Option<InRooms>,
    /// Who has read how far.
    pub receipts: Option<InRooms>,
    /// Who types.
    pub typing: Option<InRooms>,
}

/// Which messages to the device are wanted.
#[derive(Clone, Debug, Default)]
pub struct ToDeviceWanted {
    /// How many at most.
    pub limit: Option<usize>,
    /// What the last answer called `next_batch`: all before that has come onto the device.
    pub since: Option<String>,
}

/// Of which rooms of the answer something is wanted. `None`: of all.
#[derive(Clone, Debug, Default)]
pub struct InRooms {
    /// Those in these lists; `*` stands for all lists.
    pub lists: Option<Vec<String>>,
    /// Of those that are subscribed to, these; `*` stands for all.
    pub rooms: Option<Vec<String>>,
}

impl StatePattern {
    fn is_everything(&self) -> bool {
        self.kind.is_none() && self.key.is_none()
    }

    pub(crate) fn matches(&self, kind: &str, key: &str) -> bool {
        self.kind.as_deref().is_none_or(|wanted| wanted == kind)
            && self.key.as_deref().is_none_or(|wanted| wanted == key)
    }
}

impl StateWanted {
    /// Whether state is wanted by its type and key, lazy members aside.
    pub(crate) fn matches(&self, kind: &str, key: &str) -> bool {
        // "Whether to enable lazy loaded membership behaviour": who asks for all state and for members lazily doesn't want all members.
        let is_member = self.lazy_members && kind == "m.room.member";
        self.include.iter().any(|pattern| pattern.matches(kind, key) && !(is_member && pattern.is_everything()))
            && !self.exclude.iter().any(|pattern| pattern.matches(kind, key))
    }
}

impl InRooms {
    pub(crate) fn includes(&self, room_id: &str, lists: &[String], is_subscribed: bool) -> bool {
        let named = |names: &Option<Vec<String>>, is: &dyn Fn(&str) -> bool| {
            names.as_ref().is_none_or(|names| names.iter().any(|name| name == "*" || is(name)))
        };
        (!lists.is_empty() && named(&self.lists, &|name| lists.iter().any(|list| list == name)))
            || (is_subscribed && named(&self.rooms, &|name| name == room_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(kind: Option<&str>, key: Option<&str>) -> StatePattern {
        StatePattern { kind: kind.map(str::to_owned), key: key.map(str::to_owned) }
    }

    #[test]
    fn who_wants_all_state_and_members_lazily_is_not_told_of_all_members() {
        let mut wanted = StateWanted { include: vec![pattern(None, None)], ..StateWanted::default() };
        assert!(wanted.matches("m.room.member", "@bob:a.test"));
        wanted.lazy_members = true;
        assert!(!wanted.matches("m.room.member", "@bob:a.test"));
        assert!(wanted.matches("m.room.topic", ""));
        wanted.include.push(pattern(Some("m.room.member"), Some("@bob:a.test")));
        assert!(wanted.matches("m.room.member", "@bob:a.test"));
        wanted.exclude.push(pattern(Some("m.room.topic"), None));
        assert!(!wanted.matches("m.room.topic", ""));
    }

    #[test]
    fn an_extension_tells_of_all_rooms_of_the_answer_unless_some_are_named() {
        let lists = ["all".to_owned()];
        assert!(InRooms::default().includes("!a:a.test", &lists, false));
        assert!(InRooms::default().includes("!a:a.test", &[], true));
        let some = InRooms { lists: Some(vec!["all".into()]), rooms: Some(vec!["!a:a.test".into()]) };
        assert!(some.includes("!b:a.test", &lists, true));
        assert!(some.includes("!a:a.test", &[], true));
        assert!(!some.includes("!b:a.test", &[], true));
        let none = InRooms { lists: Some(Vec::new()), rooms: Some(Vec::new()) };
        assert!(!none.includes("!a:a.test", &lists, true));
    }
}
