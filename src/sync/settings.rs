//! What of a user's account data bears on syncs: whom the user ignores, and what notifies.

use std::{collections::HashSet, sync::Arc};

use model::Position;
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId, push::Ruleset};
use serde::{Deserialize, Serialize};
use store::Store;

use crate::cells::UserCell;

/// How many users' push rules are kept in memory; some 10 KB each.
const CACHED_RULESETS: usize = 1_000;
const CACHED_IGNORES: usize = 20_000;

pub(crate) const PUSH_RULES: &str = "m.push_rules";
pub(crate) const IGNORED_USERS: &str = "m.ignored_user_list";

/// The content of `m.push_rules`.
#[derive(Serialize, Deserialize)]
pub(crate) struct PushRules {
    pub(crate) global: Ruleset,
}

pub(crate) type Ignored = HashSet<OwnedUserId>;

/// Settings by user, each as of the position of the user's account data.
pub(crate) struct AllSettings {
    rulesets: Cache<OwnedUserId, (Position, Arc<Ruleset>)>,
    ignored: Cache<OwnedUserId, (Position, Arc<Ignored>)>,
}

impl AllSettings {
    pub(crate) fn new() -> Self {
        Self { rulesets: Cache::new(CACHED_RULESETS), ignored: Cache::new(CACHED_IGNORES) }
    }

    /// Whom the user ignores.
    pub(crate) async fn ignored(&self, store: &Store, user: &UserCell) -> Result<Arc<Ignored>, store::Error> {
        #[derive(Deserialize)]
        struct Content {
            ignored_users: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
        }
        let as_of = user.lock().account_data;
        if let Some((position, ignored)) = self.ignored.get(&user.user_id)
            && position == as_of
        {
            return Ok(ignored);
        }
        let content = store.account_data().find(&user.user_id, None, IGNORED_USERS).await?;
        // What a client stored that is no list of users ignores nobody.
        let content = content.and_then(|content| serde_json::from_str::<Content>(&content).ok());
        let ids = content.into_iter().flat_map(|content| content.ignored_users.into_keys());
        let ignored: Arc<Ignored> = Arc::new(ids.filter_map(|id| id.try_into().ok()).collect());
        self.ignored.insert(user.user_id.clone(), (as_of, ignored.clone()));
        Ok(ignored)
    }

    /// The user's push rules.
    pub(crate) async fn ruleset(&self, store: &Store, user: &UserCell) -> Result<Arc<Ruleset>, store::Error> {
        let as_of = user.lock().account_data;
        if let Some((position, ruleset)) = self.rulesets.get(&user.user_id)
            && position == as_of
        {
            return Ok(ruleset);
        }
        let ruleset = Arc::new(read_ruleset(store, &user.user_id).await?);
        self.rulesets.insert(user.user_id.clone(), (as_of, ruleset.clone()));
        Ok(ruleset)
    }
}

/// The user's push rules: as stored, brought up to date with the specification's, or those alone.
pub(crate) async fn read_ruleset(store: &Store, user_id: &UserId) -> Result<Ruleset, store::Error> {
    let content = store.account_data().find(user_id, None, PUSH_RULES).await?;
    Ok(ruleset_of(content.as_deref(), user_id))
}

/// The same of what is stored.
pub(crate) fn ruleset_of(content: Option<&str>, user_id: &UserId) -> Ruleset {
    let defaults = Ruleset::server_default(user_id);
    match content.and_then(|content| serde_json::from_str::<PushRules>(content).ok()) {
        Some(mut stored) => {
            stored.global.update_with_server_default(defaults);
            stored.global
        }
        None => defaults,
    }
}
