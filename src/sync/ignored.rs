//! Whom a user ignores: account data that is changed one user at a time. What ignoring does is the same as when a client writes it.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#ignoring-users>

use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use crate::{Sync, SyncError, settings::IGNORED_USERS};

/// How many users one may ignore by this.
const MOST: usize = 5_000;
const LIST: &str = "ignored_users";

impl Sync {
    /// Whom the user ignores, by id.
    pub async fn ignored_users(&self, user_id: &UserId) -> Result<Vec<OwnedUserId>, SyncError> {
        let content = self.shared.store.account_data().find(user_id, None, IGNORED_USERS).await?;
        let content = content_of(content.as_deref());
        let list = content.get(LIST).and_then(Value::as_object);
        let mut ids: Vec<OwnedUserId> =
            list.into_iter().flat_map(Map::keys).filter_map(|id| OwnedUserId::try_from(id.as_str()).ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// The user ignores `other` from now on, or no longer. What holds already is not written again.
    pub async fn set_ignored(&self, user_id: &UserId, other: &UserId, is_ignored: bool) -> Result<(), SyncError> {
        if user_id == other {
            return Err(SyncError::Invalid("one can't ignore oneself".into()));
        }
        self.edit_account_data(user_id, None, IGNORED_USERS, |content| {
            let mut content = content_of(content);
            let list = content.entry(LIST).or_insert_with(|| json!({}));
            if !list.is_object() {
                *list = json!({});
            }
            let Some(list) = list.as_object_mut() else { return Ok(None) };
            let is_changed = match is_ignored {
                true if list.contains_key(other.as_str()) => false,
                true if list.len() >= MOST => {
                    return Err(SyncError::TooLarge(format!("you may ignore {MOST} users")));
                }
                true => list.insert(other.to_string(), json!({})).is_none(),
                false => list.remove(other.as_str()).is_some(),
            };
            Ok(is_changed.then(|| Value::Object(content).to_string()))
        })
        .await
    }
}

/// What a client stored that is no object says nothing.
fn content_of(content: Option<&str>) -> Map<String, Value> {
    content.and_then(|content| serde_json::from_str(content).ok()).unwrap_or_default()
}
