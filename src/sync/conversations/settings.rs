//! How somebody wants to have a conversation: the same tags, push rules and account data that Matrix clients see.

use std::collections::HashMap;

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::receipt::{ReceiptThread, ReceiptType},
    push::{NewConditionalPushRule, NewPushRule, PushCondition, RuleKind, Ruleset},
};
use serde_json::{Value, json, value::to_raw_value};

use crate::{Read, Sync, SyncError};

const DIRECT: &str = "m.direct";
const TAGS: &str = "m.tag";
/// What one has begun to write.
const DRAFT: &str = "org.comity.draft";
/// Up to which number one has cleared a conversation for oneself.
const CLEARED: &str = "org.comity.cleared";

const FAVOURITE: &str = "m.favourite";
/// The longest draft, in bytes.
const LONGEST_DRAFT: usize = 20_000;

/// How somebody wants to have a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// It stays at the top: the tag `m.favourite`.
    pub is_pinned: bool,
    /// Nothing in it notifies: a push rule for the room that does nothing.
    pub is_muted: bool,
    /// What one has begun to write.
    pub draft: Option<String>,
    /// What has this number or a lower one was cleared by the user, for the user; 0: nothing was.
    pub cleared_upto: i64,
}

/// Who is told that something was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The members of the room.
    Public,
    /// The user's own devices.
    Private,
    /// The same, and where the user has read on stays where it was: the client has it, and counts it no more.
    Received,
}

/// What a user keeps that bears on conversations.
#[derive(Debug, Default)]
pub(super) struct Kept {
    direct: HashMap<OwnedRoomId, OwnedUserId>,
    of_rooms: HashMap<(String, String), Value>,
}

impl Kept {
    pub(super) fn is_pinned(&self, room_id: &RoomId) -> bool {
        self.of_room(room_id, TAGS)["tags"].get(FAVOURITE).is_some()
    }

    /// With whom the room is a direct one.
    pub(super) fn direct_with(&self, room_id: &RoomId) -> Option<OwnedUserId> {
        self.direct.get(room_id).cloned()
    }

    pub(super) fn settings(&self, room_id: &RoomId, rules: &Ruleset) -> Settings {
        let text = self.of_room(room_id, DRAFT)["text"].as_str().filter(|text| !text.is_empty());
        let rule = rules.get(RuleKind::Override, room_id);
        let is_muted = rule.is_some_and(|rule| rule.enabled() && !rule.triggers_notification());
        Settings {
            is_pinned: self.is_pinned(room_id),
            is_muted,
            draft: text.map(str::to_owned),
            cleared_upto: self.of_room(room_id, CLEARED)["seq"].as_i64().unwrap_or_default(),
        }
    }

    fn of_room(&self, room_id: &RoomId, kind: &str) -> &Value {
        self.of_rooms.get(&(room_id.to_string(), kind.to_owned())).unwrap_or(&Value::Null)
    }
}

impl Sync {
    pub(super) async fn kept(&self, user_id: &UserId) -> Result<Kept, SyncError> {
        let mut kept = Kept::default();
        let rows = self.shared.store.conversations().kept(user_id, &[DIRECT, TAGS, DRAFT, CLEARED]).await?;
        for (room_id, kind, content) in rows {
            let content: Value = serde_json::from_str(&content).unwrap_or_default();
            match kind == DIRECT {
                true => kept.direct = rooms_by_user(&content),
                false => drop(kept.of_rooms.insert((room_id, kind), content)),
            }
        }
        Ok(kept)
    }

    /// With whom each of the user's direct conversations is, as the user's clients say.
    pub async fn direct_rooms(&self, user_id: &UserId) -> Result<HashMap<OwnedRoomId, OwnedUserId>, SyncError> {
        let content = self.shared.store.account_data().find(user_id, None, DIRECT).await?;
        let content = content.and_then(|content| serde_json::from_str::<Value>(&content).ok());
        Ok(content.map(|content| rooms_by_user(&content)).unwrap_or_default())
    }

    /// Pins a room, or takes it down.
    pub async fn pin(&self, user_id: &UserId, room_id: &RoomId, is_pinned: bool) -> Result<(), SyncError> {
        let info = is_pinned.then(|| to_raw_value(&json!({})).expect("an object is JSON"));
        self.set_tag(user_id, room_id, FAVOURITE, info).await
    }

    /// Lets nothing in a room notify, or all that does by the user's other rules.
    pub async fn mute(&self, user_id: &UserId, room_id: &RoomId, is_muted: bool) -> Result<(), SyncError> {
        if is_muted {
            let in_room = PushCondition::EventMatch(ruma::push::EventMatchConditionData::new(
                "room_id".into(),
                room_id.to_string(),
            ));
            let rule = NewConditionalPushRule::new(room_id.to_string(), vec![in_room], Vec::new());
            return self.put_push_rule(user_id, NewPushRule::Override(rule), None, None).await;
        }
        match self.remove_push_rule(user_id, RuleKind::Override, room_id.as_str()).await {
            Ok(()) | Err(SyncError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Keeps what the user has begun to write in a room; empty: nothing.
    pub async fn keep_draft(&self, user_id: &UserId, room_id: &RoomId, text: &str) -> Result<(), SyncError> {
        if text.len() > LONGEST_DRAFT {
            return Err(SyncError::TooLarge(format!("a draft may have {LONGEST_DRAFT} bytes")));
        }
        let content = if text.is_empty() { json!({}) } else { json!({ "text": text }) };
        self.put_account_data(user_id, Some(room_id), DRAFT, &content.to_string()).await
    }

    /// The user wants to see nothing any more of what the room has said up to the number `seq`. Never goes back.
    pub async fn clear(&self, user_id: &UserId, room_id: &RoomId, seq: i64) -> Result<(), SyncError> {
        if seq <= self.cleared_upto(user_id, room_id).await? {
            return Ok(());
        }
        self.put_account_data(user_id, Some(room_id), CLEARED, &json!({ "seq": seq }).to_string()).await
    }

    /// Up to which number the user has cleared a room; 0: nothing.
    pub async fn cleared_upto(&self, user_id: &UserId, room_id: &RoomId) -> Result<i64, SyncError> {
        let content = self.shared.store.account_data().find(user_id, Some(room_id), CLEARED).await?;
        let content = content.and_then(|content| serde_json::from_str::<Value>(&content).ok());
        Ok(content.and_then(|content| content["seq"].as_i64()).unwrap_or_default())
    }

    /// Up to which number the user has cleared rooms; those that aren't there, not at all.
    pub async fn cleared(&self, user_id: &UserId) -> Result<HashMap<OwnedRoomId, i64>, SyncError> {
        let rows = self.shared.store.conversations().kept(user_id, &[CLEARED]).await?;
        let cleared = rows.into_iter().filter_map(|(room_id, _, content)| {
            let content: Value = serde_json::from_str(&content).ok()?;
            Some((room_id.parse().ok()?, content["seq"].as_i64()?))
        });
        Ok(cleared.collect())
    }

    /// The user has read a room up to an event, and everything before it. What was read never becomes unread by this.
    pub async fn mark_read(
        &self,
        room: &rooms::LiveRoom,
        user_id: &UserId,
        event: &model::TimelineEvent,
        mark: Mark,
    ) -> Result<(), SyncError> {
        let event_id = event.pdu.event_id.clone();
        let kind = if mark == Mark::Public { ReceiptType::Read } else { ReceiptType::ReadPrivate };
        let thread = ReceiptThread::Unthreaded;
        let mut read = vec![Read { kind: Some(kind), thread: thread.clone(), event_id: event_id.clone() }];
        if mark != Mark::Received && self.marker(room, user_id).await?.is_none_or(|marker| marker < event.position) {
            read.push(Read { kind: None, thread, event_id });
        }
        self.set_read(room, user_id, &read).await
    }

    /// Where the user's marker of what was read stands, if that is an event that is known here.
    async fn marker(&self, room: &rooms::LiveRoom, user_id: &UserId) -> Result<Option<model::Position>, SyncError> {
        let store = &self.shared.store;
        let content = store.account_data().find(user_id, Some(&room.room_id), "m.fully_read").await?;
        let content = content.and_then(|content| serde_json::from_str::<Value>(&content).ok()).unwrap_or_default();
        let Some(Ok(event_id)) = content["event_id"].as_str().map(ruma::EventId::parse) else { return Ok(None) };
        let event = store.events().find(&event_id).await?.filter(|event| event.room_nid == room.nid);
        Ok(event.map(|event| event.position))
    }
}

/// `m.direct` the other way round.
fn rooms_by_user(content: &Value) -> HashMap<OwnedRoomId, OwnedUserId> {
    let mut direct = HashMap::new();
    for (user_id, rooms) in content.as_object().into_iter().flatten() {
        let Ok(user_id) = OwnedUserId::try_from(user_id.as_str()) else { continue };
        let rooms = rooms.as_array().into_iter().flatten().filter_map(|room| room.as_str()?.try_into().ok());
        direct.extend(rooms.map(|room: OwnedRoomId| (room, user_id.clone())));
    }
    direct
}
