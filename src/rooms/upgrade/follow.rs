//! What goes with somebody from a room into its successor.

use ruma::{
    OwnedRoomId, RoomId, UserId,
    events::{StateEventType, room::tombstone::RoomTombstoneEventContent},
    push::{NewConditionalPushRule, NewPushRule, NewSimplePushRule, PushCondition, Ruleset},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::Write;
use tracing::warn;

use crate::{RoomError, Rooms, live::SharedRoom};

const TAGS: &str = "m.tag";
const DIRECT: &str = "m.direct";
const PUSH_RULES: &str = "m.push_rules";

impl Rooms {
    /// Lets what `user_id` keeps about a room hold for its successor too, into which the user has just come, and what this server
    /// calls the room be the successor. What fails of it is logged: the user is in the room all the same.
    pub(crate) async fn follow_upgrade(&self, room: &SharedRoom, user_id: &UserId) {
        if user_id.server_name() != self.server_name() {
            return;
        }
        if let Err(error) = self.try_to_follow(room, user_id).await {
            warn!(room.id = %room.room_id, user.id = %user_id, error = &error as &dyn std::error::Error, "what a user keeps about a room that was upgraded stays behind");
        }
    }

    async fn try_to_follow(&self, room: &SharedRoom, user_id: &UserId) -> Result<(), RoomError> {
        let Some(old) = self.predecessor(room).await? else { return Ok(()) };
        // Any room can say that it follows another. That other must say so too.
        let old_room = match self.get(&old).await {
            Err(RoomError::UnknownRoom) => return Ok(()),
            room => room?,
        };
        let tombstone: Option<RoomTombstoneEventContent> =
            self.state_content(&old_room, StateEventType::RoomTombstone).await?;
        if tombstone.is_none_or(|tombstone| tombstone.replacement_room != room.room_id) {
            return Ok(());
        }
        let aliases = self.shared.store.aliases();
        if !aliases.of_room(old_room.nid).await?.is_empty() || aliases.is_listed(old_room.nid).await? {
            let mut write = Write::new();
            store::aliases::hand_over(&mut write, old_room.nid, room.nid);
            self.shared.store.commit(write).await?;
        }
        self.follow_with_tags(user_id, &old, &room.room_id).await?;
        self.follow_with_direct(user_id, &old, &room.room_id).await?;
        self.follow_with_rules(user_id, &old, &room.room_id).await
    }

    /// The room that this one says to follow.
    async fn predecessor(&self, room: &SharedRoom) -> Result<Option<OwnedRoomId>, RoomError> {
        #[derive(Deserialize)]
        struct Create {
            predecessor: Option<Predecessor>,
        }
        #[derive(Deserialize)]
        struct Predecessor {
            room_id: OwnedRoomId,
        }
        let create: Option<Create> = self.state_content(room, StateEventType::RoomCreate).await?;
        Ok(create.and_then(|create| create.predecessor).map(|predecessor| predecessor.room_id))
    }

    async fn follow_with_tags(&self, user_id: &UserId, old: &RoomId, new: &RoomId) -> Result<(), RoomError> {
        let Some(tags) = self.shared.store.account_data().find(user_id, Some(old), TAGS).await? else { return Ok(()) };
        // Who has tagged the successor already knows better.
        let keep = |held: Option<&str>| Ok::<_, RoomError>(held.is_none().then(|| tags.clone()));
        self.shared.store.edit_account_data(user_id, Some(new), TAGS, keep).await
    }

    async fn follow_with_direct(&self, user_id: &UserId, old: &RoomId, new: &RoomId) -> Result<(), RoomError> {
        let edit = |content: Option<&str>| {
            let mut direct: Map<String, Value> =
                content.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
            let mut is_changed = false;
            for rooms in direct.values_mut().filter_map(Value::as_array_mut) {
                let has = |room: &RoomId| rooms.iter().any(|known| known == room.as_str());
                if has(old) && !has(new) {
                    rooms.push(json!(new));
                    is_changed = true;
                }
            }
            Ok::<_, RoomError>(is_changed.then(|| Value::Object(direct).to_string()))
        };
        self.shared.store.edit_account_data(user_id, None, DIRECT, edit).await
    }

    async fn follow_with_rules(&self, user_id: &UserId, old: &RoomId, new: &RoomId) -> Result<(), RoomError> {
        let edit = |content: Option<&str>| {
            let rules = content.and_then(|json| serde_json::from_str::<Value>(json).ok());
            let Some(mut rules) = rules else { return Ok(None) };
            let Ok(mut global) = serde_json::from_value::<Ruleset>(rules["global"].clone()) else { return Ok(None) };
            let added = rules_for(&global, old, new);
            if added.is_empty() {
                return Ok(None);
            }
            for rule in added {
                if let Err(error) = global.insert(rule, None, None) {
                    warn!(user.id = %user_id, "a push rule can't be carried over: {error}");
                }
            }
            rules["global"] = serde_json::to_value(&global).map_err(|error| RoomError::Invalid(error.to_string()))?;
            Ok::<_, RoomError>(Some(rules.to_string()))
        };
        self.shared.store.edit_account_data(user_id, None, PUSH_RULES, edit).await
    }
}

/// The user's own rules about `old`, as rules about `new`, unless there are such.
fn rules_for(rules: &Ruleset, old: &RoomId, new: &RoomId) -> Vec<NewPushRule> {
    let mut found = Vec::new();
    if let Some(rule) = rules.room.get(old.as_str()).filter(|_| rules.room.get(new.as_str()).is_none()) {
        found.push(NewPushRule::Room(NewSimplePushRule::new(new.to_owned(), rule.actions.clone())));
    }
    for (of_kind, kind) in [
        (&rules.override_, NewPushRule::Override as fn(NewConditionalPushRule) -> NewPushRule),
        (&rules.underride, NewPushRule::Underride),
    ] {
        for rule in of_kind.iter().filter(|rule| !rule.default && rule.enabled) {
            let mut conditions = rule.conditions.clone();
            let mut is_about = false;
            for condition in &mut conditions {
                if let PushCondition::EventMatch(matches) = condition
                    && matches.key == "room_id"
                    && matches.pattern == old.as_str()
                {
                    matches.pattern = new.to_string();
                    is_about = true;
                }
            }
            let rule_id = rule.rule_id.replace(old.as_str(), new.as_str());
            // A name that says nothing of the room would be that of the rule which is there.
            let rule_id = if rule_id == rule.rule_id { format!("{rule_id}:{new}") } else { rule_id };
            if is_about && of_kind.get(rule_id.as_str()).is_none() {
                found.push(kind(NewConditionalPushRule::new(rule_id, conditions, rule.actions.clone())));
            }
        }
    }
    found
}
