//! A room gets a successor, of another version.
//!
//! The successor says which room it follows, and has what that one says of itself: rules, names, who is banned, its addresses and
//! its place in the directory. The old room is left with a tombstone that says where it goes on, and little may be said in it. Nobody
//! but the maker is in the successor at first; what members keep about the room goes with them when they come (`follow.rs`).
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

mod follow;
mod levels;
#[cfg(test)]
mod tests;

use model::{Draft, Pdu, RoomNid};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    api::client::room::create_room::v3::RoomPreset,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room::RoomType,
};
use serde_json::{Map, Value, json, value::to_raw_value};
use tracing::{info, warn};

use crate::{
    NewRoom, RoomError, Rooms, Wish,
    ceiling::CEILING,
    create::{Drafts, create_content},
    live::SharedRoom,
    now,
    send::membership_of,
};

/// What the successor is told as the old room has it, in this order. Power levels are a thing of their own.
const CARRIED: [StateEventType; 10] = [
    StateEventType::RoomServerAcl,
    StateEventType::RoomPolicy,
    StateEventType::RoomEncryption,
    StateEventType::RoomJoinRules,
    StateEventType::RoomHistoryVisibility,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomName,
    StateEventType::RoomTopic,
    StateEventType::RoomAvatar,
    StateEventType::RoomCanonicalAlias,
];
/// So many who are banned stay banned, and so many rooms stay in a space: a room can name any number of both.
const MOST_ENTRIES: usize = 10_000;

/// State that the successor begins with: `(type, state key, content)`.
type Carried = (TimelineEventType, String, Map<String, Value>);

impl Rooms {
    /// Makes a successor of `room`, and closes it. Whoever may send an `m.room.tombstone` may.
    ///
    /// `additional_creators`: who shall be above all levels in the successor besides `user_id`, where its version knows such.
    /// Errors: `UnsupportedVersion`, `NotJoined`, `Forbidden`.
    pub async fn upgrade(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        version: &RoomVersionId,
        additional_creators: &[OwnedUserId],
    ) -> Result<OwnedRoomId, RoomError> {
        let rules = model::rules_of(version).ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
        self.shared.gate.check(user_id)?;
        self.check_joined(room, user_id).await?;
        if !self.power_levels(room).await?.user_can_send_state(user_id, StateEventType::RoomTombstone) {
            return Err(RoomError::Forbidden("your power level does not let you upgrade this room".into()));
        }
        let carried = self.carried(room).await?;
        self.ask_to_create(&as_new(user_id, version, &carried)).await?;
        let mut create = self.create_of_successor(room, user_id, version, additional_creators).await?;

        self.shared.store.ensure_nids(64).await?;
        let nid = RoomNid(self.shared.store.next_nid());
        // Where the hash of its first event is the room's id, that event can't name one that names the room.
        let (successor, tombstone, drafts) = if rules.event_format.require_room_create_room_id {
            let successor = self.found(nid, version.clone(), &mut [])?;
            let tombstone = self.tombstone(room, &successor, user_id).await;
            let tombstone = tombstone.inspect_err(|_| drop(self.shared.live.remove(&successor.room_id)))?;
            name_predecessor(&mut create, room, Some(&tombstone.event_id));
            (successor, Some(tombstone), self.drafts_of_successor(room, user_id, version, &create, carried).await)
        } else {
            name_predecessor(&mut create, room, None);
            let mut drafts = self.drafts_of_successor(room, user_id, version, &create, carried).await?;
            (self.found(nid, version.clone(), &mut drafts)?, None, Ok(drafts))
        };
        let made = match drafts {
            Ok(drafts) => self.append_successor(room, &successor, &drafts).await,
            Err(error) => Err(error),
        };
        made.inspect_err(|_| drop(self.shared.live.remove(&successor.room_id)))?;
        info!(room.id = %room.room_id, user.id = %user_id, successor = %successor.room_id, "a room was upgraded to version {version}");

        match tombstone {
            Some(tombstone) => self.append_whole(room, tombstone).await.map(drop)?,
            None => self.send(room, tombstone_of(user_id, &successor)?).await.map(drop)?,
        }
        self.close(room, user_id).await;
        self.follow_upgrade(&successor, user_id).await;
        Ok(successor.room_id.clone())
    }

    async fn append_successor(
        &self,
        room: &SharedRoom,
        successor: &SharedRoom,
        drafts: &[Draft],
    ) -> Result<(), RoomError> {
        let (from, to) = (room.nid, successor.nid);
        self.append(successor, drafts, None, &move |write| store::aliases::hand_over(write, from, to)).await.map(drop)
    }

    /// What the old room says that the new one says too.
    async fn carried(&self, room: &SharedRoom) -> Result<Vec<Carried>, RoomError> {
        let mut carried = Vec::new();
        for kind in CARRIED.into_iter().chain([StateEventType::from(CEILING)]) {
            if let Some(content) = self.state_content(room, kind.clone()).await? {
                carried.push((TimelineEventType::from(kind.to_string()), String::new(), content));
            }
        }
        let is_space = self.room_type(room).await? == Some(RoomType::Space);
        let before = carried.len();
        for event in self.whole_state(room).await? {
            let Some(state_key) = event.pdu.state_key.clone() else { continue };
            let is_carried = match &event.pdu.kind {
                TimelineEventType::RoomMember => membership_of(&event.pdu) == Some(MembershipState::Ban),
                TimelineEventType::SpaceChild => is_space,
                _ => false,
            };
            let Some(content) = event.pdu.content_as::<Map<String, Value>>().filter(|_| is_carried) else { continue };
            // A room that was taken out of the space.
            if content.is_empty() {
                continue;
            }
            if carried.len() - before == MOST_ENTRIES {
                warn!(room.id = %room.room_id, "only {MOST_ENTRIES} of those who are banned, and of the rooms of a space, go over into the successor");
                break;
            }
            carried.push((event.pdu.kind.clone(), state_key, content));
        }
        Ok(carried)
    }

    async fn room_type(&self, room: &SharedRoom) -> Result<Option<RoomType>, RoomError> {
        let create: Option<Map<String, Value>> = self.state_content(room, StateEventType::RoomCreate).await?;
        Ok(create.and_then(|mut create| serde_json::from_value(create.remove("type")?).ok()))
    }

    async fn create_of_successor(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        version: &RoomVersionId,
        additional_creators: &[OwnedUserId],
    ) -> Result<Map<String, Value>, RoomError> {
        let held: Option<Map<String, Value>> = self.state_content(room, StateEventType::RoomCreate).await?;
        let mut content = held.unwrap_or_default();
        content.retain(|key, _| key == "type" || key == "m.federate");
        create_content(user_id, version, content, additional_creators)
    }

    /// The event that closes the old room, as it will be appended.
    async fn tombstone(&self, room: &SharedRoom, successor: &SharedRoom, user_id: &UserId) -> Result<Pdu, RoomError> {
        let wish = tombstone_of(user_id, successor)?;
        let draft = Draft {
            sender: wish.sender,
            kind: wish.kind,
            content: wish.content,
            state_key: wish.state_key,
            redacts: None,
            origin_server_ts: now(),
        };
        match self.policy_of(room).await? {
            Some(policy) => self.approved(room, &policy, draft).await,
            None => self.seal(room, draft).await,
        }
    }

    /// The first events of the successor.
    async fn drafts_of_successor(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        version: &RoomVersionId,
        create: &Map<String, Value>,
        carried: Vec<Carried>,
    ) -> Result<Vec<Draft>, RoomError> {
        let (first, last) = self.levels_of_successor(room, user_id, version, create).await?;
        let mut drafts: Drafts = self.first_drafts(user_id, create, false).await?;
        drafts.state(TimelineEventType::RoomPowerLevels, "", &first)?;
        // What the old room doesn't say means something else than what new rooms begin with.
        let is_carried = |kind: &TimelineEventType| carried.iter().any(|(carried, ..)| carried == kind);
        for (kind, content) in [
            (TimelineEventType::RoomJoinRules, json!({ "join_rule": "invite" })),
            (TimelineEventType::RoomHistoryVisibility, json!({ "history_visibility": "shared" })),
            (TimelineEventType::RoomGuestAccess, json!({ "guest_access": "forbidden" })),
        ] {
            if !is_carried(&kind) {
                drafts.state(kind, "", &content)?;
            }
        }
        for (kind, state_key, content) in carried {
            drafts.state(kind, &state_key, &content)?;
        }
        if let Some(last) = last {
            drafts.state(TimelineEventType::RoomPowerLevels, "", &last)?;
        }
        Ok(drafts.drafts)
    }

    /// Takes from the old room what isn't its own any more, as far as `user_id` may: the successor is there in any case.
    async fn close(&self, room: &SharedRoom, user_id: &UserId) {
        for kind in [StateEventType::RoomCanonicalAlias, StateEventType::RoomPowerLevels] {
            let closed = match self.state_content(room, kind.clone()).await {
                Ok(Some(content)) => self.close_with(room, user_id, &kind, content).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            match closed {
                Ok(()) | Err(RoomError::Forbidden(_)) => {}
                Err(error) => {
                    warn!(room.id = %room.room_id, error = &error as &dyn std::error::Error, "the {kind} of a room that was upgraded stays as it is");
                }
            }
        }
    }

    async fn close_with(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        kind: &StateEventType,
        held: Map<String, Value>,
    ) -> Result<(), RoomError> {
        let content = match kind {
            StateEventType::RoomPowerLevels => levels::closed(held),
            _ => Map::new(),
        };
        let content = to_raw_value(&content).map_err(|error| RoomError::BadContent(error.to_string()))?;
        self.send(room, state_wish(user_id, kind.to_string().into(), content)).await.map(drop)
    }
}

/// The successor, as those see it who are asked whether it may be made.
fn as_new(user_id: &UserId, version: &RoomVersionId, carried: &[Carried]) -> NewRoom {
    let said = |kind: TimelineEventType, field: &str| {
        let (.., content) = carried.iter().find(|(carried, ..)| *carried == kind)?;
        content.get(field)?.as_str().map(ToOwned::to_owned)
    };
    NewRoom {
        creator: user_id.to_owned(),
        version: Some(version.clone()),
        preset: RoomPreset::PrivateChat,
        creation_content: Map::new(),
        initial_state: Vec::new(),
        power_levels: Map::new(),
        name: said(TimelineEventType::RoomName, "name"),
        topic: said(TimelineEventType::RoomTopic, "topic"),
        alias: None,
        invite: Vec::new(),
        is_direct: false,
        is_listed: false,
    }
}

fn name_predecessor(create: &mut Map<String, Value>, room: &SharedRoom, tombstone: Option<&OwnedEventId>) {
    let mut predecessor = json!({ "room_id": room.room_id });
    if let Some(event_id) = tombstone {
        predecessor["event_id"] = event_id.as_str().into();
    }
    create.insert("predecessor".into(), predecessor);
}

fn tombstone_of(user_id: &UserId, successor: &SharedRoom) -> Result<Wish, RoomError> {
    let content = json!({ "body": "This room has been replaced", "replacement_room": successor.room_id });
    let content = to_raw_value(&content).map_err(|error| RoomError::BadContent(error.to_string()))?;
    Ok(state_wish(user_id, TimelineEventType::RoomTombstone, content))
}

fn state_wish(user_id: &UserId, kind: TimelineEventType, content: Box<serde_json::value::RawValue>) -> Wish {
    Wish { sender: user_id.to_owned(), kind, content, state_key: Some(String::new()), redacts: None, transaction: None }
}
