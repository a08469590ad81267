//! A user's push rules, and tags: account data that is changed piece by piece.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules-api>

use std::collections::BTreeMap;

use ruma::{
    RoomId, UserId,
    push::{Action, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind, Ruleset},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Sync, SyncError,
    settings::{PUSH_RULES, PushRules, read_ruleset},
};

const TAGS: &str = "m.tag";
/// How many rules of one's own one may have.
const MAX_RULES: usize = 1_000;

/// The content of `m.tag`.
#[derive(Default, Serialize, Deserialize)]
struct Tags {
    tags: BTreeMap<String, Box<RawValue>>,
}

impl Sync {
    /// The user's push rules.
    pub async fn push_rules(&self, user_id: &UserId) -> Result<Ruleset, SyncError> {
        Ok(read_ruleset(&self.shared.store, user_id).await?)
    }

    /// Adds a rule, or changes it.
    pub async fn put_push_rule(
        &self,
        user_id: &UserId,
        rule: NewPushRule,
        after: Option<&str>,
        before: Option<&str>,
    ) -> Result<(), SyncError> {
        self.edit_rules(user_id, |rules| {
            if rules.iter().count() > MAX_RULES {
                return Err(SyncError::TooLarge(format!("you may have {MAX_RULES} push rules")));
            }
            rules.insert(rule, after, before).map_err(|error| match error {
                InsertPushRuleError::UnknownRuleId => SyncError::NotFound("before or after: no such rule".into()),
                error => SyncError::Invalid(error.to_string()),
            })
        })
        .await
    }

    /// Takes a rule away.
    pub async fn remove_push_rule(&self, user_id: &UserId, kind: RuleKind, rule_id: &str) -> Result<(), SyncError> {
        self.edit_rules(user_id, |rules| {
            rules.remove(kind, rule_id).map_err(|error| match error {
                RemovePushRuleError::NotFound => unknown(rule_id),
                error => SyncError::Invalid(error.to_string()),
            })
        })
        .await
    }

    /// Turns a rule on or off.
    pub async fn enable_push_rule(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        is_enabled: bool,
    ) -> Result<(), SyncError> {
        self.edit_rules(user_id, |rules| rules.set_enabled(kind, rule_id, is_enabled).map_err(|_| unknown(rule_id)))
            .await
    }

    /// Changes what a rule does.
    pub async fn set_push_rule_actions(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        actions: Vec<Action>,
    ) -> Result<(), SyncError> {
        self.edit_rules(user_id, |rules| rules.set_actions(kind, rule_id, actions).map_err(|_| unknown(rule_id))).await
    }

    async fn edit_rules(
        &self,
        user_id: &UserId,
        edit: impl FnOnce(&mut Ruleset) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        // One edit after the other, or one would undo the other. People edit their rules rarely.
        let _one_at_a_time = self.shared.edits.lock().await;
        let mut global = read_ruleset(&self.shared.store, user_id).await?;
        edit(&mut global)?;
        let content = serde_json::to_string(&PushRules { global }).expect("push rules are JSON");
        self.put_account_data(user_id, None, PUSH_RULES, &content).await
    }

    /// The tags of a room, each with its content.
    pub async fn tags(&self, user_id: &UserId, room_id: &RoomId) -> Result<BTreeMap<String, Box<RawValue>>, SyncError> {
        let content = self.shared.store.account_data().find(user_id, Some(room_id), TAGS).await?;
        let tags = content.and_then(|content| serde_json::from_str::<Tags>(&content).ok());
        Ok(tags.unwrap_or_default().tags)
    }

    /// Sets a tag of a room, or, with `None`, takes it away.
    pub async fn set_tag(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        tag: &str,
        info: Option<Box<RawValue>>,
    ) -> Result<(), SyncError> {
        if tag.len() > 255 {
            return Err(SyncError::Invalid("tag: longer than 255 bytes".into()));
        }
        let _one_at_a_time = self.shared.edits.lock().await;
        let mut tags = self.tags(user_id, room_id).await?;
        match info {
            Some(info) => tags.insert(tag.to_owned(), info),
            None => tags.remove(tag),
        };
        let content = serde_json::to_string(&Tags { tags }).expect("tags are JSON");
        self.put_account_data(user_id, Some(room_id), TAGS, &content).await
    }
}

fn unknown(rule_id: &str) -> SyncError {
    SyncError::NotFound(format!("you have no push rule {rule_id:?} of this kind"))
}
