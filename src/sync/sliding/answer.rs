//! An answer to a sliding sync, and its JSON in either form. Events in it are shared with everybody who reads them.

use std::{fmt::Write as _, sync::Arc};

use model::{Millis, Position, StateKey};
use ruma::{OwnedRoomId, events::room::member::MembershipState};
use store::{conversations::MemberName, to_device::ToDeviceMessage};

use super::SlidingToken;
use crate::{
    UnreadCounts,
    answer::{Content, DeviceLists, Event, Json, KeyCounts, PendingRoom, Timeline},
    cells::Membership,
    shown::quoted,
};

/// How an answer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As clients speak it that were made before MSC4186 was merged: `org.matrix.simplified_msc3575`.
    Deployed,
    /// As MSC4186 was merged.
    Merged,
}

/// What a connection has not heard of.
pub struct SlidingAnswer {
    pub(crate) token: SlidingToken,
    /// How many rooms each list has, in sight or not.
    pub(crate) lists: Vec<(String, usize)>,
    pub(crate) rooms: Vec<SlidingRoom>,
    pub(crate) to_device: Option<ToDevice>,
    pub(crate) end_to_end: Option<EndToEnd>,
    pub(crate) account_data: Vec<Content>,
    pub(crate) room_account_data: Vec<(OwnedRoomId, Vec<Content>)>,
    /// Whole events, as JSON.
    pub(crate) receipts: Vec<(OwnedRoomId, String)>,
    pub(crate) typing: Vec<(OwnedRoomId, String)>,
}

/// Messages to the device.
pub(crate) struct ToDevice {
    pub(crate) events: Vec<ToDeviceMessage>,
    pub(crate) next_batch: Position,
}

pub(crate) struct EndToEnd {
    pub(crate) lists: DeviceLists,
    pub(crate) keys: Option<Arc<KeyCounts>>,
}

/// What changed in a room; of fields that may be there or not, `None` is what didn't.
pub(crate) struct SlidingRoom {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) membership: MembershipState,
    pub(crate) lists: Vec<String>,
    pub(crate) is_initial: bool,
    pub(crate) is_expanded: bool,
    pub(crate) name: Option<Option<String>>,
    pub(crate) avatar: Option<Option<String>>,
    pub(crate) heroes: Option<Vec<MemberName>>,
    /// How many are joined, and how many invited.
    pub(crate) counts: Option<(u64, u64)>,
    pub(crate) is_direct: Option<bool>,
    pub(crate) pending: Option<PendingRoom>,
    pub(crate) unread: Option<UnreadCounts>,
    pub(crate) timeline: Option<Timeline>,
    /// How many of the timeline's events happened since the last answer.
    pub(crate) live: usize,
    pub(crate) state: Vec<Event>,
    /// State that is there no longer.
    pub(crate) gone: Vec<StateKey>,
    pub(crate) bumped: Position,
}

impl SlidingRoom {
    pub(crate) fn new(membership: &Membership) -> Self {
        Self {
            room_id: membership.room_id.clone(),
            membership: membership.membership.clone(),
            lists: Vec::new(),
            is_initial: false,
            is_expanded: false,
            name: None,
            avatar: None,
            heroes: None,
            counts: None,
            is_direct: None,
            pending: None,
            unread: None,
            timeline: None,
            live: 0,
            state: Vec::new(),
            gone: Vec::new(),
            bumped: Position(0),
        }
    }

    pub(crate) fn timeline_events(&self) -> &[Event] {
        self.timeline.as_ref().map_or(&[], |timeline| &timeline.events)
    }

    /// Whether there is nothing in it that the client doesn't know.
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_initial
            && self.timeline.as_ref().is_none_or(|timeline| timeline.events.is_empty() && !timeline.limited)
            && self.state.is_empty()
            && self.gone.is_empty()
            && self.name.is_none()
            && self.avatar.is_none()
            && self.counts.is_none()
            && self.is_direct.is_none()
    }
}

impl SlidingAnswer {
    pub(crate) fn upto(position: Position) -> Self {
        Self {
            token: SlidingToken { position, version: Position(0) },
            lists: Vec::new(),
            rooms: Vec::new(),
            to_device: None,
            end_to_end: None,
            account_data: Vec::new(),
            room_account_data: Vec::new(),
            receipts: Vec::new(),
            typing: Vec::new(),
        }
    }

    /// The client's next `pos`.
    pub fn pos(&self) -> SlidingToken {
        self.token
    }

    /// Whether there is anything in it that is worth waking a client for.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
            && self.to_device.as_ref().is_none_or(|to_device| to_device.events.is_empty())
            && self.end_to_end.as_ref().is_none_or(|one| one.lists == DeviceLists::default())
            && self.account_data.is_empty()
            && self.room_account_data.is_empty()
            && self.receipts.is_empty()
            && self.typing.is_empty()
    }

    /// The JSON object that the client gets. `txn_id`: what the client called its request.
    pub fn render(&self, form: Form, txn_id: Option<&str>, now: Millis) -> String {
        let mut json = Json { out: String::with_capacity(self.size()), now, for_federation: false };
        let _ = write!(json.out, "{{\"pos\":\"{}\"", self.token);
        if let Some(txn_id) = txn_id {
            let _ = write!(json.out, ",\"txn_id\":{}", quoted(txn_id));
        }
        json.out.push_str(",\"lists\":");
        json.map(&self.lists, |json, count| {
            let _ = write!(json.out, "{{\"count\":{count}}}");
        });
        json.out.push_str(",\"rooms\":{");
        for (at, room) in self.rooms.iter().enumerate() {
            let _ = write!(json.out, "{}{}:", if at > 0 { "," } else { "" }, quoted(room.room_id.as_str()));
            room.render(&mut json, form);
        }
        json.out.push_str("},\"extensions\":{");
        self.render_extensions(&mut json);
        json.out.push_str("}}");
        json.out
    }

    fn render_extensions(&self, json: &mut Json) {
        let begin = json.out.len();
        if let Some(to_device) = &self.to_device {
            json.member(begin, "to_device");
            let _ = write!(json.out, "{{\"next_batch\":\"{}\",\"events\":", to_device.next_batch);
            json.list(&to_device.events, |json, message| {
                let (sender, kind) = (quoted(message.sender.as_str()), quoted(&message.kind));
                let _ = write!(json.out, "{{\"sender\":{sender},\"type\":{kind},\"content\":{}}}", message.content);
            });
            json.out.push('}');
        }
        if let Some(end_to_end) = &self.end_to_end {
            json.member(begin, "e2ee");
            json.out.push_str("{\"device_lists\":{\"changed\":");
            json.users(&end_to_end.lists.changed);
            json.out.push_str(",\"left\":");
            json.users(&end_to_end.lists.left);
            json.out.push('}');
            if let Some(keys) = &end_to_end.keys {
                keys.render(json);
            }
            json.out.push('}');
        }
        if !self.account_data.is_empty() || !self.room_account_data.is_empty() {
            json.member(begin, "account_data");
            json.out.push_str("{\"global\":");
            json.contents(&self.account_data);
            json.out.push_str(",\"rooms\":");
            json.map(&self.room_account_data, |json, contents| json.contents(contents));
            json.out.push('}');
        }
        for (name, rooms) in [("receipts", &self.receipts), ("typing", &self.typing)] {
            if !rooms.is_empty() {
                json.member(begin, name);
                json.out.push_str("{\"rooms\":");
                json.map(rooms, |json, event| json.out.push_str(event));
                json.out.push('}');
            }
        }
    }

    /// About how long the JSON will be.
    fn size(&self) -> usize {
        let size = |event: &Event| event.shown.event.pdu.content.get().len() + 420;
        let room = |room: &SlidingRoom| room.timeline_events().iter().chain(&room.state).map(size).sum::<usize>() + 512;
        512 + self.rooms.iter().map(room).sum::<usize>()
    }
}

impl SlidingRoom {
    fn render(&self, json: &mut Json, form: Form) {
        let is_merged = form == Form::Merged;
        let _ = write!(json.out, "{{\"bump_stamp\":{}", self.bumped.0.max(0));
        if self.is_initial {
            json.out.push_str(",\"initial\":true");
        }
        if self.is_expanded {
            json.out.push_str(if is_merged {
                ",\"expanded_timeline\":true"
            } else {
                ",\"unstable_expanded_timeline\":true"
            });
        }
        if is_merged {
            let _ = write!(json.out, ",\"membership\":{}", quoted(self.membership.as_str()));
            if !self.lists.is_empty() {
                json.out.push_str(",\"lists\":");
                json.list(&self.lists, |json, name| json.out.push_str(&quoted(name)));
            }
        }
        self.render_face(json);
        if let Some(pending) = &self.pending {
            json.out.push_str(if is_merged { ",\"stripped_state\":" } else { ",\"invite_state\":" });
            json.stripped(pending);
        }
        if let (Some(unread), false) = (&self.unread, is_merged) {
            let (notifications, highlights) = (unread.notifications, unread.highlights);
            let _ = write!(json.out, ",\"notification_count\":{notifications},\"highlight_count\":{highlights}");
        }
        if !self.state.is_empty() || (is_merged && !self.gone.is_empty()) {
            self.render_state(json, is_merged);
        }
        if let Some(timeline) = &self.timeline {
            let _ = write!(json.out, ",\"limited\":{},\"num_live\":{}", timeline.limited, self.live);
            if let Some(prev_batch) = timeline.prev_batch {
                let _ = write!(json.out, ",\"prev_batch\":\"{prev_batch}\"");
            }
            json.out.push_str(",\"timeline\":");
            json.list(&timeline.events, Json::event);
        }
        json.out.push('}');
    }

    fn render_face(&self, json: &mut Json) {
        for (name, text) in [("name", &self.name), ("avatar", &self.avatar)] {
            match text {
                Some(Some(text)) => drop(write!(json.out, ",\"{name}\":{}", quoted(text))),
                // In a room told anew what isn't there is left out.
                Some(None) if !self.is_initial => drop(write!(json.out, ",\"{name}\":null")),
                _ => {}
            }
        }
        if let Some(heroes) = self.heroes.as_ref().filter(|heroes| !heroes.is_empty()) {
            json.out.push_str(",\"heroes\":");
            json.list(heroes, |json, hero| {
                let _ = write!(json.out, "{{\"user_id\":{}", quoted(hero.user_id.as_str()));
                for (name, text) in [("displayname", &hero.display_name), ("avatar_url", &hero.avatar_url)] {
                    if let Some(text) = text {
                        let _ = write!(json.out, ",\"{name}\":{}", quoted(text));
                    }
                }
                json.out.push('}');
            });
        }
        if let Some((joined, invited)) = self.counts {
            let _ = write!(json.out, ",\"joined_count\":{joined},\"invited_count\":{invited}");
        }
        if let Some(is_direct) = self.is_direct {
            let _ = write!(json.out, ",\"is_dm\":{is_direct}");
        }
    }

    fn render_state(&self, json: &mut Json, is_merged: bool) {
        json.out.push_str(",\"required_state\":");
        json.list(&self.state, Json::event);
        if !is_merged || self.gone.is_empty() {
            return;
        }
        // "To handle state being deleted, the list may include a StateStub type"
        json.out.pop();
        for (at, (kind, key)) in self.gone.iter().enumerate() {
            let comma = if at > 0 || !self.state.is_empty() { "," } else { "" };
            let _ = write!(json.out, "{comma}{{\"type\":{},\"state_key\":{}}}", quoted(&kind.to_string()), quoted(key));
        }
        json.out.push(']');
    }
}

impl Json {
    /// Begins a member of the object whose members begin at `begin`.
    fn member(&mut self, begin: usize, name: &str) {
        let comma = if self.out.len() > begin { "," } else { "" };
        let _ = write!(self.out, "{comma}\"{name}\":");
    }

    fn map<K: AsRef<str>, T>(&mut self, items: &[(K, T)], mut render: impl FnMut(&mut Self, &T)) {
        self.out.push('{');
        for (at, (name, item)) in items.iter().enumerate() {
            let _ = write!(self.out, "{}{}:", if at > 0 { "," } else { "" }, quoted(name.as_ref()));
            render(self, item);
        }
        self.out.push('}');
    }
}
