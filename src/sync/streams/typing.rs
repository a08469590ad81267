//! Who types. Lives in memory; a change has a position and no row.

use std::{collections::HashMap, fmt::Write as _, sync::PoisonError};

use model::{Change, Millis, Position, RoomNid};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{
    Sync, SyncError,
    cells::RoomInner,
    filter::{allows_room, allows_type},
    now,
    request::Look,
    shown::quoted,
};

/// Nobody types for longer without saying so again, in milliseconds.
const LONGEST: Millis = 120_000;
const DEFAULT: Millis = 30_000;

/// Who types where, and until when.
#[derive(Default)]
pub(crate) struct Typists(HashMap<RoomNid, Typing>);

struct Typing {
    room_id: OwnedRoomId,
    until: Vec<(OwnedUserId, Millis)>,
}

impl Look<'_> {
    pub(crate) fn typing(&self, room_id: &RoomId, room: &RoomInner, since: Position) -> Option<String> {
        let (position, user_ids) = &room.typing;
        let wanted = &self.filter.0.room.ephemeral;
        let is_news = if since.0 > 0 { *position > since && *position <= self.upto } else { !user_ids.is_empty() };
        if !is_news || !allows_type(wanted, "m.typing") || !allows_room(wanted, room_id) {
            return None;
        }
        let mut event = String::from("{\"type\":\"m.typing\",\"content\":{\"user_ids\":[");
        let seen = user_ids.iter().filter(|user_id| !self.ignored.contains(*user_id));
        for (at, user_id) in seen.enumerate() {
            let _ = write!(event, "{}{}", if at > 0 { "," } else { "" }, quoted(user_id.as_str()));
        }
        event.push_str("]}}");
        Some(event)
    }
}

impl Sync {
    /// Notes that the user types in the room for `timeout` milliseconds, or, with `None`, no longer types.
    pub async fn set_typing(
        &self,
        room: &rooms::LiveRoom,
        user_id: &UserId,
        timeout: Option<Millis>,
    ) -> Result<(), SyncError> {
        let write = {
            let mut typing = self.shared.typing.lock().unwrap_or_else(PoisonError::into_inner);
            let entry =
                typing.0.entry(room.nid).or_insert_with(|| Typing { room_id: room.room_id.clone(), until: Vec::new() });
            let before = entry.until.len();
            entry.until.retain(|(typist, _)| typist != user_id);
            let was_typing = entry.until.len() < before;
            if let Some(timeout) = timeout {
                let timeout = if timeout <= 0 { DEFAULT } else { timeout.min(LONGEST) };
                entry.until.push((user_id.to_owned(), now() + timeout));
            }
            let is_typing = timeout.is_some();
            let change = (was_typing != is_typing).then(|| entry.change(room.nid));
            if entry.until.is_empty() {
                typing.0.remove(&room.nid);
            }
            change
        };
        self.tell_typing(write).await
    }

    /// Whoever said nothing more for long enough no longer types.
    pub(crate) async fn expire_typing(&self, now: Millis) -> Result<(), SyncError> {
        let changes: Vec<Change> = {
            let mut typing = self.shared.typing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut changes = Vec::new();
            typing.0.retain(|room, entry| {
                let before = entry.until.len();
                entry.until.retain(|(_, until)| *until > now);
                if entry.until.len() < before {
                    changes.push(entry.change(*room));
                }
                !entry.until.is_empty()
            });
            changes
        };
        self.tell_typing(changes).await
    }

    async fn tell_typing(&self, changes: impl IntoIterator<Item = Change>) -> Result<(), SyncError> {
        let mut write = store::Write::new();
        let mut is_empty = true;
        for change in changes {
            write.tell_next(change);
            is_empty = false;
        }
        if !is_empty {
            self.shared.store.commit(write).await?;
        }
        Ok(())
    }
}

impl Typing {
    fn change(&self, room: RoomNid) -> Change {
        let user_ids = self.until.iter().map(|(user_id, _)| user_id.clone()).collect();
        Change::Typing { room_nid: room, room_id: self.room_id.clone(), user_ids }
    }
}
