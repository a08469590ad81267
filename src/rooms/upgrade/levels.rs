//! Who may do what in a successor: as in the room before, as far as its version lets that be said.

use ruma::{
    OwnedUserId, RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::{Map, Value, json};

use super::CARRIED;
use crate::{RoomError, Rooms, ceiling::CEILING, live::SharedRoom};

/// What replaces a room whose creators stand above all levels needs more than any level that is given by hand.
const TOMBSTONE: i64 = 150;
/// What somebody is who made a room, where that is a level like others.
const MAKER: i64 = 100;

type Levels = Map<String, Value>;

impl Rooms {
    /// The levels with which the successor begins, and those that it ends up with where these are others: `user_id` must be able to
    /// make it as it is to be, and has less to say afterwards.
    pub(super) async fn levels_of_successor(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        version: &RoomVersionId,
        create: &Map<String, Value>,
    ) -> Result<(Levels, Option<Levels>), RoomError> {
        let rules = model::rules_of(version).ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
        let was_privileged = room.rules.authorization.explicitly_privilege_room_creators;
        let is_privileged = rules.authorization.explicitly_privilege_room_creators;
        let held: Option<Levels> = self.state_content(room, StateEventType::RoomPowerLevels).await?;
        let makers = self.creators(room).await?;
        let mut levels = match held {
            Some(levels) => in_whole_numbers(levels),
            None => Levels::new(),
        };
        if !levels.get("users").is_some_and(Value::is_object) {
            levels.insert("users".into(), json!({}));
        }
        if is_privileged {
            privilege(&mut levels, user_id, create, was_privileged);
            return Ok((levels, None));
        }
        if was_privileged || !levels.contains_key("events") && !levels.contains_key("state_default") {
            // Who made the old room was above all levels, or stood at the level that goes unsaid.
            for maker in makers {
                let highest = highest(&levels).max(MAKER);
                levels["users"][maker.as_str()] = highest.into();
            }
        }
        if level_of(&levels, user_id) >= needed(&levels) {
            return Ok((levels, None));
        }
        let mut first = levels.clone();
        first["users"][user_id.as_str()] = highest(&levels).max(MAKER).into();
        Ok((first, Some(levels)))
    }
}

/// The levels of a room that was upgraded: few may still say something, and bring somebody in.
pub(super) fn closed(mut levels: Levels) -> Levels {
    let number = |value: Option<&Value>| value.and_then(whole);
    let least = number(levels.get("users_default")).unwrap_or(0).saturating_add(1).max(50);
    for key in ["events_default", "invite"] {
        let held = number(levels.get(key)).unwrap_or(0);
        levels.insert(key.into(), held.max(least).into());
    }
    levels
}

/// Creators stand above all levels, and so may have none.
fn privilege(levels: &mut Levels, user_id: &UserId, create: &Map<String, Value>, was_privileged: bool) {
    let others: Vec<OwnedUserId> = create
        .get("additional_creators")
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default();
    if let Some(users) = levels.get_mut("users").and_then(Value::as_object_mut) {
        users.retain(|user, _| user != user_id.as_str() && others.iter().all(|other| user != other.as_str()));
    }
    if !was_privileged {
        if !levels.get("events").is_some_and(Value::is_object) {
            levels.insert("events".into(), json!({}));
        }
        let tombstone = &mut levels["events"]["m.room.tombstone"];
        *tombstone = whole(tombstone).unwrap_or(0).max(TOMBSTONE).into();
    }
}

/// Older versions let levels be written as text.
fn in_whole_numbers(levels: Levels) -> Levels {
    let mended = levels.into_iter().filter_map(|(key, value)| {
        let value = match value {
            Value::Object(inner) => {
                let inner = inner.into_iter().filter_map(|(key, value)| Some((key, whole(&value)?.into())));
                Value::Object(inner.collect())
            }
            value => whole(&value)?.into(),
        };
        Some((key, value))
    });
    mended.collect()
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn level(levels: &Levels, key: &str, default: i64) -> i64 {
    levels.get(key).and_then(whole).unwrap_or(default)
}

fn level_of(levels: &Levels, user_id: &UserId) -> i64 {
    let own = levels.get("users").and_then(|users| users.get(user_id.as_str())).and_then(whole);
    own.unwrap_or_else(|| level(levels, "users_default", 0))
}

/// The highest level that is given or asked for.
fn highest(levels: &Levels) -> i64 {
    let inner = |value: &Value| -> Vec<i64> {
        match value {
            Value::Object(inner) => inner.values().filter_map(whole).collect(),
            value => whole(value).into_iter().collect(),
        }
    };
    levels.values().flat_map(inner).max().unwrap_or(0)
}

/// What who makes the successor needs for what it is to begin with.
fn needed(levels: &Levels) -> i64 {
    let state_default = level(levels, "state_default", 50);
    let of = |kind: &str| {
        let own = levels.get("events").and_then(|events| events.get(kind)).and_then(whole);
        own.unwrap_or(state_default)
    };
    let kinds =
        CARRIED.iter().map(ToString::to_string).chain([CEILING.to_owned(), TimelineEventType::SpaceChild.to_string()]);
    kinds.map(|kind| of(&kind)).chain([level(levels, "ban", 50)]).max().unwrap_or(state_default)
}
