//! Which rooms are direct chats with whom, as each user's `m.direct` says, changed one room at a time.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#direct-messaging>

use ruma::{RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{RoomError, Rooms};

const DIRECT: &str = "m.direct";

impl Rooms {
    /// The room is a direct chat of `user_id` with `other` from now on.
    pub async fn mark_direct(&self, user_id: &UserId, other: &UserId, room_id: &RoomId) -> Result<(), RoomError> {
        self.edit_direct(user_id, |direct| {
            let rooms = direct.entry(other.as_str()).or_insert_with(|| json!([]));
            if !rooms.is_array() {
                *rooms = json!([]);
            }
            let Some(rooms) = rooms.as_array_mut() else { return false };
            let is_new = !rooms.iter().any(|known| known == room_id.as_str());
            if is_new {
                rooms.push(room_id.as_str().into());
            }
            is_new
        })
        .await
    }

    /// The room is no direct chat of `user_id` any more.
    pub async fn unmark_direct(&self, user_id: &UserId, room_id: &RoomId) -> Result<(), RoomError> {
        self.edit_direct(user_id, |direct| {
            let mut is_changed = false;
            direct.retain(|_, rooms| {
                let Some(rooms) = rooms.as_array_mut() else { return true };
                let count = rooms.len();
                rooms.retain(|known| known != room_id.as_str());
                is_changed |= rooms.len() != count;
                rooms.len() == count || !rooms.is_empty()
            });
            is_changed
        })
        .await
    }

    /// `change` answers whether it changed anything. Clients write the whole list at once: the last who does is right.
    async fn edit_direct(
        &self,
        user_id: &UserId,
        mut change: impl FnMut(&mut Map<String, Value>) -> bool,
    ) -> Result<(), RoomError> {
        let edit = |content: Option<&str>| {
            let mut direct = content.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
            Ok::<_, RoomError>(change(&mut direct).then(|| Value::Object(direct).to_string()))
        };
        self.shared.store.edit_account_data(user_id, None, DIRECT, edit).await
    }
}
