//! An answer to a sync, and its JSON. Events in it are shared with everybody who reads them.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use model::{Millis, Position};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use store::to_device::ToDeviceMessage;

use crate::{Reader, Shown, SyncToken, TimelineToken, shown::quoted, streams::presence::PresenceNow};

/// What lies between `since` and `next_batch`.
#[derive(Default)]
pub struct Answer {
    pub(crate) position: Position,
    pub(crate) to_device_upto: Option<Position>,
    pub(crate) account_data: Vec<Content>,
    pub(crate) presence: Vec<PresenceNow>,
    pub(crate) to_device: Vec<ToDeviceMessage>,
    pub(crate) device_lists: DeviceLists,
    pub(crate) keys: Option<Arc<KeyCounts>>,
    pub(crate) joined: Vec<JoinedRoom>,
    pub(crate) left: Vec<LeftRoom>,
    pub(crate) invited: Vec<PendingRoom>,
    pub(crate) knocked: Vec<PendingRoom>,
    /// Events as servers exchange them, instead of as clients see them.
    pub(crate) for_federation: bool,
}

/// Something with a type and a content.
pub(crate) struct Content {
    pub(crate) kind: String,
    pub(crate) content: String,
}

/// Whose devices to look up anew, and whose to forget.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DeviceLists {
    /// Their devices changed, or they share a room now.
    pub changed: Vec<OwnedUserId>,
    /// They share no room any longer.
    pub left: Vec<OwnedUserId>,
}

/// What is left of a device's keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    pub(crate) one_time: BTreeMap<String, u64>,
    pub(crate) unused_fallback: Vec<String>,
}

pub(crate) struct Event {
    pub(crate) shown: Arc<Shown>,
    pub(crate) reader: Reader,
}

#[derive(Default)]
pub(crate) struct Timeline {
    pub(crate) events: Vec<Event>,
    pub(crate) limited: bool,
    pub(crate) prev_batch: Option<TimelineToken>,
}

pub(crate) struct JoinedRoom {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) summary: Option<Summary>,
    pub(crate) unread: Option<Unread>,
    pub(crate) timeline: Timeline,
    pub(crate) state: State,
    pub(crate) account_data: Vec<Content>,
    /// Whole events, as JSON.
    pub(crate) ephemeral: Vec<String>,
}

pub(crate) struct LeftRoom {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) timeline: Timeline,
    pub(crate) state: State,
    pub(crate) account_data: Vec<Content>,
}

/// The state at the start of the timeline, or, if the client asked so, at its end.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) events: Vec<Event>,
    pub(crate) is_after: bool,
}

/// A room that the user is invited to, or knocks at.
pub(crate) struct PendingRoom {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) events: Vec<Arc<Shown>>,
    /// Stripped events that came with the invitation from another server.
    pub(crate) given: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Summary {
    /// After whom the room is called, if it has no name of its own.
    pub(crate) heroes: Option<Vec<OwnedUserId>>,
    pub(crate) joined: u64,
    pub(crate) invited: u64,
}

/// How much the user has not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UnreadCounts {
    /// Events that notify.
    pub notifications: u64,
    /// Events that notify loudly.
    pub highlights: u64,
}

pub(crate) struct Unread {
    pub(crate) main: UnreadCounts,
    pub(crate) threads: BTreeMap<OwnedEventId, UnreadCounts>,
}

impl Answer {
    /// The client's next `since`.
    pub fn next_batch(&self) -> SyncToken {
        SyncToken { position: self.position, to_device: self.to_device_upto }
    }

    /// Whether there is anything in it that is worth waking a client for.
    pub fn is_empty(&self) -> bool {
        self.account_data.is_empty()
            && self.presence.is_empty()
            && self.to_device.is_empty()
            && self.device_lists.changed.is_empty()
            && self.device_lists.left.is_empty()
            && self.joined.is_empty()
            && self.left.is_empty()
            && self.invited.is_empty()
            && self.knocked.is_empty()
    }

    /// The JSON object that the client gets.
    pub fn render(&self, now: Millis) -> String {
        let mut json = Json { out: String::with_capacity(self.size()), now, for_federation: self.for_federation };
        let _ = write!(json.out, "{{\"next_batch\":\"{}\"", self.next_batch());
        if !self.account_data.is_empty() {
            json.out.push_str(",\"account_data\":{\"events\":");
            json.contents(&self.account_data);
            json.out.push('}');
        }
        if !self.presence.is_empty() {
            json.out.push_str(",\"presence\":{\"events\":");
            json.list(&self.presence, |json, presence| presence.render(&mut json.out, json.now));
            json.out.push('}');
        }
        if !self.to_device.is_empty() {
            json.out.push_str(",\"to_device\":{\"events\":");
            json.list(&self.to_device, |json, message| {
                let (sender, kind) = (quoted(message.sender.as_str()), quoted(&message.kind));
                let _ = write!(json.out, "{{\"sender\":{sender},\"type\":{kind},\"content\":{}}}", message.content);
            });
            json.out.push('}');
        }
        let has_changes = !self.device_lists.changed.is_empty() || !self.device_lists.left.is_empty();
        if has_changes {
            json.out.push_str(",\"device_lists\":{\"changed\":");
            json.users(&self.device_lists.changed);
            json.out.push_str(",\"left\":");
            json.users(&self.device_lists.left);
            json.out.push('}');
        }
        if let Some(keys) = &self.keys {
            keys.render(&mut json);
        }
        self.render_rooms(&mut json);
        json.out.push('}');
        json.out
    }

    fn render_rooms(&self, json: &mut Json) {
        let has_rooms =
            !self.joined.is_empty() || !self.left.is_empty() || !self.invited.is_empty() || !self.knocked.is_empty();
        if !has_rooms {
            return;
        }
        json.out.push_str(",\"rooms\":{");
        let begin = json.out.len();
        json.section(begin, "join", &self.joined, |json, room| json.joined(room));
        json.section(begin, "leave", &self.left, |json, room| json.left(room));
        json.section(begin, "invite", &self.invited, |json, room| json.pending(room, "invite_state"));
        json.section(begin, "knock", &self.knocked, |json, room| json.pending(room, "knock_state"));
        json.out.push('}');
    }

    /// About how long the JSON will be.
    fn size(&self) -> usize {
        let size = |events: &[Event]| {
            events.iter().map(|event| event.shown.event.pdu.content.get().len() + 420).sum::<usize>()
        };
        let joined: usize =
            self.joined.iter().map(|room| size(&room.timeline.events) + size(&room.state.events) + 512).sum();
        512 + joined + 4096 * (self.left.len() + self.invited.len())
    }
}

impl KeyCounts {
    pub(crate) fn render(&self, json: &mut Json) {
        json.out.push_str(",\"device_one_time_keys_count\":{");
        for (at, (algorithm, count)) in self.one_time.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(json.out, "{comma}{}:{count}", quoted(algorithm));
        }
        json.out.push_str("},\"device_unused_fallback_key_types\":");
        json.list(&self.unused_fallback, |json, algorithm| json.out.push_str(&quoted(algorithm)));
    }
}

/// JSON on its way.
pub(crate) struct Json {
    pub(crate) out: String,
    pub(crate) now: Millis,
    pub(crate) for_federation: bool,
}

impl Json {
    pub(crate) fn list<T>(&mut self, items: &[T], mut render: impl FnMut(&mut Self, &T)) {
        self.out.push('[');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            render(self, item);
        }
        self.out.push(']');
    }

    pub(crate) fn users(&mut self, users: &[OwnedUserId]) {
        self.list(users, |json, user| json.out.push_str(&quoted(user.as_str())));
    }

    pub(crate) fn contents(&mut self, contents: &[Content]) {
        self.list(contents, |json, content| {
            let _ = write!(json.out, "{{\"type\":{},\"content\":{}}}", quoted(&content.kind), content.content);
        });
    }

    pub(crate) fn event(&mut self, event: &Event) {
        if self.for_federation {
            self.out.push_str(&event.shown.event.pdu.json);
        } else {
            event.shown.render(&mut self.out, &event.reader, self.now);
        }
    }

    /// A member of `rooms`: rooms by their ids.
    fn section<T: HasRoomId>(&mut self, begin: usize, name: &str, rooms: &[T], mut render: impl FnMut(&mut Self, &T)) {
        if rooms.is_empty() {
            return;
        }
        if self.out.len() > begin {
            self.out.push(',');
        }
        let _ = write!(self.out, "\"{name}\":{{");
        for (at, room) in rooms.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(self.out, "{comma}{}:", quoted(room.room_id()));
            render(self, room);
        }
        self.out.push('}');
    }

    fn timeline(&mut self, timeline: &Timeline) {
        let _ = write!(self.out, "\"timeline\":{{\"limited\":{}", timeline.limited);
        if let Some(prev_batch) = timeline.prev_batch {
            let _ = write!(self.out, ",\"prev_batch\":\"{prev_batch}\"");
        }
        self.out.push_str(",\"events\":");
        self.list(&timeline.events, Self::event);
        self.out.push('}');
    }

    fn state(&mut self, state: &State) {
        let name = if state.is_after { "state_after" } else { "state" };
        let _ = write!(self.out, ",\"{name}\":{{\"events\":");
        self.list(&state.events, Self::event);
        self.out.push('}');
    }

    fn room_account_data(&mut self, contents: &[Content]) {
        if !contents.is_empty() {
            self.out.push_str(",\"account_data\":{\"events\":");
            self.contents(contents);
            self.out.push('}');
        }
    }

    fn joined(&mut self, room: &JoinedRoom) {
        self.out.push('{');
        self.timeline(&room.timeline);
        self.state(&room.state);
        self.room_account_data(&room.account_data);
        if !room.ephemeral.is_empty() {
            self.out.push_str(",\"ephemeral\":{\"events\":");
            self.list(&room.ephemeral, |json, event| json.out.push_str(event));
            self.out.push('}');
        }
        if let Some(summary) = &room.summary {
            self.out.push_str(",\"summary\":{");
            if let Some(heroes) = &summary.heroes {
                self.out.push_str("\"m.heroes\":");
                self.users(heroes);
                self.out.push(',');
            }
            let (joined, invited) = (summary.joined, summary.invited);
            let _ = write!(self.out, "\"m.joined_member_count\":{joined},\"m.invited_member_count\":{invited}}}");
        }
        if let Some(unread) = &room.unread {
            let counts = |out: &mut String, counts: &UnreadCounts| {
                let (highlights, notifications) = (counts.highlights, counts.notifications);
                let _ = write!(out, "{{\"highlight_count\":{highlights},\"notification_count\":{notifications}}}");
            };
            self.out.push_str(",\"unread_notifications\":");
            counts(&mut self.out, &unread.main);
            if !unread.threads.is_empty() {
                self.out.push_str(",\"unread_thread_notifications\":{");
                for (at, (root, thread)) in unread.threads.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    let _ = write!(self.out, "{comma}{}:", quoted(root.as_str()));
                    counts(&mut self.out, thread);
                }
                self.out.push('}');
            }
        }
        self.out.push('}');
    }

    fn left(&mut self, room: &LeftRoom) {
        self.out.push('{');
        self.timeline(&room.timeline);
        self.state(&room.state);
        self.room_account_data(&room.account_data);
        self.out.push('}');
    }

    fn pending(&mut self, room: &PendingRoom, name: &str) {
        let _ = write!(self.out, "{{\"{name}\":{{\"events\":");
        self.stripped(room);
        self.out.push_str("}}");
    }

    /// The stripped state of a room, as a list.
    pub(crate) fn stripped(&mut self, room: &PendingRoom) {
        self.list(&room.events, |json, event| event.render_stripped(&mut json.out));
        // What the inviting server gave goes before the closing bracket.
        if !room.given.is_empty() {
            self.out.pop();
            for (at, event) in room.given.iter().enumerate() {
                if at > 0 || !room.events.is_empty() {
                    self.out.push(',');
                }
                self.out.push_str(event);
            }
            self.out.push(']');
        }
    }
}

trait HasRoomId {
    fn room_id(&self) -> &str;
}

impl HasRoomId for JoinedRoom {
    fn room_id(&self) -> &str {
        self.room_id.as_str()
    }
}
impl HasRoomId for LeftRoom {
    fn room_id(&self) -> &str {
        self.room_id.as_str()
    }
}
impl HasRoomId for PendingRoom {
    fn room_id(&self) -> &str {
        self.room_id.as_str()
    }
}
