//! What the user keeps here: global, of rooms, tags and push rules among it.

use ruma::{RoomId, UserId};
use store::account_data::AccountDatum;

use crate::{
    Answer, Sync, SyncError,
    answer::Content,
    filter::{self, allows_plain, allows_type},
    request::Look,
    settings::{PUSH_RULES, PushRules, read_ruleset},
};

/// The largest content that one may keep, in bytes.
const MAX_CONTENT: usize = 1 << 20;

impl Look<'_> {
    /// What the user set, global and of rooms. No query when nothing was set.
    pub(crate) async fn account_data(&self) -> Result<Vec<AccountDatum>, SyncError> {
        let since = self.since();
        if self.since.is_some() && !self.full_state && since >= self.user.lock().account_data {
            return Ok(Vec::new());
        }
        let since = if self.full_state { model::Position(0) } else { since };
        let mut data = self.sync.shared.store.account_data().since(self.user_id(), since).await?;
        if self.since.is_some() {
            data.retain(|datum| datum.position <= self.upto);
        }
        Ok(data)
    }

    pub(crate) async fn global_account_data(
        &self,
        data: &[AccountDatum],
        answer: &mut Answer,
    ) -> Result<(), SyncError> {
        let wanted = &self.filter.0.account_data;
        for datum in data.iter().filter(|datum| datum.room_id.is_empty() && datum.kind != PUSH_RULES) {
            if allows_plain(wanted, &datum.kind, None) {
                answer.account_data.push(Content { kind: datum.kind.clone(), content: datum.content.clone() });
            }
        }
        // Everybody has push rules, whether they are stored or not.
        let has_new_rules = data.iter().any(|datum| datum.room_id.is_empty() && datum.kind == PUSH_RULES);
        if (has_new_rules || self.since.is_none()) && allows_plain(wanted, PUSH_RULES, None) {
            let global = read_ruleset(&self.sync.shared.store, self.user_id()).await?;
            let content = serde_json::to_string(&PushRules { global }).expect("push rules are JSON");
            answer.account_data.push(Content { kind: PUSH_RULES.into(), content });
        }
        Ok(())
    }

    /// What of it belongs to a room.
    pub(crate) fn room_account_data(&self, room_id: &RoomId, data: &[AccountDatum]) -> Vec<Content> {
        let wanted = &self.filter.0.room.account_data;
        if data.is_empty() || !filter::allows_room(wanted, room_id) {
            return Vec::new();
        }
        data.iter()
            .filter(|datum| datum.room_id == room_id.as_str() && allows_type(wanted, &datum.kind))
            .map(|datum| Content { kind: datum.kind.clone(), content: datum.content.clone() })
            .collect()
    }
}

impl Sync {
    /// Sets what the user keeps under `kind`. Types that the server sets by itself are refused.
    pub async fn set_account_data(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        content: &str,
    ) -> Result<(), SyncError> {
        let is_ours = kind == PUSH_RULES || kind == "m.fully_read";
        if is_ours {
            return Err(SyncError::NotByThisEndpoint(kind.to_owned()));
        }
        self.put_account_data(user_id, room_id, kind, content).await
    }

    pub(crate) async fn put_account_data(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        content: &str,
    ) -> Result<(), SyncError> {
        check_size(kind, content)?;
        let mut write = store::Write::new();
        store::account_data::put(&mut write, user_id, room_id, kind, content);
        self.shared.store.commit(write).await?;
        Ok(())
    }

    /// Changes what the user keeps under `kind` by what there is; see [`store::Store::edit_account_data`].
    pub(crate) async fn edit_account_data(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        mut edit: impl FnMut(Option<&str>) -> Result<Option<String>, SyncError>,
    ) -> Result<(), SyncError> {
        let edit = |content: Option<&str>| {
            let content = edit(content)?;
            content.iter().try_for_each(|content| check_size(kind, content))?;
            Ok(content)
        };
        self.shared.store.edit_account_data(user_id, room_id, kind, edit).await
    }

    /// What the user keeps under `kind`, as JSON.
    pub async fn account_data(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
    ) -> Result<String, SyncError> {
        if kind == PUSH_RULES && room_id.is_none() {
            let global = read_ruleset(&self.shared.store, user_id).await?;
            return Ok(serde_json::to_string(&PushRules { global }).expect("push rules are JSON"));
        }
        let found = self.shared.store.account_data().find(user_id, room_id, kind).await?;
        found.ok_or_else(|| SyncError::NotFound(format!("you keep nothing under {kind}")))
    }
}

fn check_size(kind: &str, content: &str) -> Result<(), SyncError> {
    if content.len() > MAX_CONTENT || kind.len() > 255 {
        return Err(SyncError::TooLarge(format!("account data may have {MAX_CONTENT} bytes, its type 255")));
    }
    Ok(())
}
