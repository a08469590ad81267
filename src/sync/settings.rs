//! What of a user's account data bears on syncs: whom the user ignores, and what notifies.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use model::Position;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedUserId, UserId, push::Ruleset};
use serde::{Deserialize, Serialize};
use store::Store;

use crate::cells::UserCell;

/// How many users' push rules are kept in memory; some 10 KB each.
const CACHED_RULESETS: usize = 1_000;
const CACHED_IGNORES: usize = 20_000;
const CACHED_PLACES: usize = 4_000;

pub(crate) const PUSH_RULES: &str = "m.push_rules";
pub(crate) const IGNORED_USERS: &str = "m.ignored_user_list";

/// The content of `m.push_rules`.
#[derive(Serialize, Deserialize)]
pub(crate) struct PushRules {
    pub(crate) global: Ruleset,
}

pub(crate) type Ignored = HashSet<OwnedUserId>;

/// Where the user has put rooms: among the direct ones, under tags.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) direct: HashSet<OwnedRoomId>,
    pub(crate) tags: HashMap<OwnedRoomId, HashSet<String>>,
}

/// Settings by user, each as of the position of the user's account data.
pub(crate) struct AllSettings {
    rulesets: Cache<OwnedUserId, (Position, Arc<Ruleset>)>,
    ignored: Cache<OwnedUserId, (Position, Arc<Ignored>)>,
    places: Cache<OwnedUserId, (Position, Arc<Places>)>,
}

impl AllSettings {
    pub(crate) fn new() -> Self {
        Self {
            rulesets: Cache::new(CACHED_RULESETS),
            ignored: Cache::new(CACHED_IGNORES),
            places: Cache::new(CACHED_PLACES),
        }
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

    /// Where the user has put rooms.
    pub(crate) async fn places(&self, store: &Store, user: &UserCell) -> Result<Arc<Places>, store::Error> {
        let as_of = user.lock().account_data;
        if let Some((position, places)) = self.places.get(&user.user_id)
            && position == as_of
        {
            return Ok(places);
        }
        let kept = store.conversations().kept(&user.user_id, &["m.direct", "m.tag"]).await?;
        let mut places = Places::default();
        for (room_id, kind, content) in kept {
            // What a client stored that is no such content puts no room anywhere.
            match OwnedRoomId::try_from(room_id) {
                Err(_) if kind == "m.direct" => places.direct.extend(direct_rooms(&content)),
                Ok(room_id) if kind == "m.tag" => {
                    places.tags.insert(room_id, tags_of(&content));
                }
                _ => {}
            }
        }
        let places = Arc::new(places);
        self.places.insert(user.user_id.clone(), (as_of, places.clone()));
        Ok(places)
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

fn direct_rooms(content: &str) -> Vec<OwnedRoomId> {
    let by_user: HashMap<String, serde_json::Value> = serde_json::from_str(content).unwrap_or_default();
    let ids = by_user.values().filter_map(serde_json::Value::as_array).flatten();
    ids.filter_map(|id| OwnedRoomId::try_from(id.as_str()?).ok()).collect()
}

fn tags_of(content: &str) -> HashSet<String> {
    let content: serde_json::Value = serde_json::from_str(content).unwrap_or_default();
    let tags = content["tags"].as_object();
    tags.into_iter().flat_map(serde_json::Map::keys).cloned().collect()
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
