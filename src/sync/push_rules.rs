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
    settings::{PUSH_RULES, PushRules, read_ruleset, ruleset_of},
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
            rules.insert(rule.clone(), after, before).map_err(|error| match error {
                InsertPushRuleError::UnknownRuleId => SyncError::NotFound("before or after: no such rule".into()),
                error => SyncError::Invalid(error.to_string()),
            })
        })
        .await
    }

    /// Takes a rule away.
    pub async fn remove_push_rule(&self, user_id: &UserId, kind: RuleKind, rule_id: &str) -> Result<(), SyncError> {
        self.edit_rules(user_id, |rules| {
            rules.remove(kind.clone(), rule_id).map_err(|error| match error {
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
        self.edit_rules(user_id, |rules| {
            rules.set_enabled(kind.clone(), rule_id, is_enabled).map_err(|_| unknown(rule_id))
        })
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
        self.edit_rules(user_id, |rules| {
            rules.set_actions(kind.clone(), rule_id, actions.clone()).map_err(|_| unknown(rule_id))
        })
        .await
    }

    async fn edit_rules(
        &self,
        user_id: &UserId,
        mut edit: impl FnMut(&mut Ruleset) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        self.edit_account_data(user_id, None, PUSH_RULES, |content| {
            let mut global = ruleset_of(content, user_id);
            edit(&mut global)?;
            Ok(Some(serde_json::to_string(&PushRules { global }).expect("push rules are JSON")))
        })
        .await
    }

    /// The tags of a room, each with its content.
    pub async fn tags(&self, user_id: &UserId, room_id: &RoomId) -> Result<BTreeMap<String, Box<RawValue>>, SyncError> {
        let content = self.shared.store.account_data().find(user_id, Some(room_id), TAGS).await?;
        Ok(tags_of(content.as_deref()).tags)
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
        self.edit_account_data(user_id, Some(room_id), TAGS, |content| {
            let mut tags = tags_of(content);
            match &info {
                Some(info) => tags.tags.insert(tag.to_owned(), info.clone()),
                None => tags.tags.remove(tag),
            };
            Ok(Some(serde_json::to_string(&tags).expect("tags are JSON")))
        })
        .await
    }
}

fn tags_of(content: Option<&str>) -> Tags {
    content.and_then(|content| serde_json::from_str(content).ok()).unwrap_or_default()
}

fn unknown(rule_id: &str) -> SyncError {
    SyncError::NotFound(format!("you have no push rule {rule_id:?} of this kind"))
}
