//! A room is made.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#creation>

use std::{collections::BTreeMap, sync::Arc};

use model::{Draft, RoomNid};
use quick_cache::sync::GuardResult;
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::client::room::create_room::v3::RoomPreset,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::{Map, Value, json, value::RawValue, value::to_raw_value};
use tracing::warn;

use crate::{
    RoomError, Rooms, Transaction,
    live::{Head, LiveRoom, SharedRoom},
    membership::{Change, Target, member_content},
    now,
};

/// What a room shall be like.
#[derive(Clone, Debug)]
pub struct NewRoom {
    /// Who makes it.
    pub creator: OwnedUserId,
    /// Its version; `None`: the default.
    pub version: Option<RoomVersionId>,
    /// Which rules it begins with.
    pub preset: RoomPreset,
    /// More for the content of `m.room.create`.
    pub creation_content: Map<String, Value>,
    /// Events that say more, or other, than the preset: `(type, state key, content)`.
    pub initial_state: Vec<(String, String, Box<RawValue>)>,
    /// Overrides in `m.room.power_levels`.
    pub power_levels: Map<String, Value>,
    /// Its name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Its address.
    pub alias: Option<OwnedRoomAliasId>,
    /// Who is invited.
    pub invite: Vec<OwnedUserId>,
    /// Whether it is a direct chat.
    pub is_direct: bool,
    /// Whether the room directory lists it.
    pub is_listed: bool,
}

impl Rooms {
    /// Makes a room with everything that was asked for, in one write, and answers when it is durable.
    pub async fn create(&self, new: NewRoom) -> Result<OwnedRoomId, RoomError> {
        self.create_new(new, None).await
    }

    /// As [`Self::create`], but the same transaction gives the same room again.
    pub async fn create_once(&self, new: NewRoom, transaction: &Transaction) -> Result<OwnedRoomId, RoomError> {
        if let Some(room_id) = self.created_before(transaction).await? {
            return Ok(room_id);
        }
        match self.create_new(new, Some(transaction)).await {
            Err(error) => self.created_before(transaction).await?.ok_or(error),
            answer => answer,
        }
    }

    async fn created_before(&self, transaction: &Transaction) -> Result<Option<OwnedRoomId>, RoomError> {
        let answer = self.shared.store.events().transaction(&transaction.as_stored()).await?;
        let room_id = answer.map(|answer| {
            RoomId::parse(answer).map_err(|error| store::Error::Corrupt(format!("transactions.answer: {error}")))
        });
        Ok(room_id.transpose()?)
    }

    async fn create_new(&self, new: NewRoom, transaction: Option<&Transaction>) -> Result<OwnedRoomId, RoomError> {
        let shared = &self.shared;
        let version = new.version.clone().unwrap_or_else(|| shared.config.default_version.clone());
        if let Some(alias) = &new.alias
            && shared.store.aliases().find(alias).await?.is_some()
        {
            return Err(RoomError::AliasTaken(alias.to_string()));
        }
        self.ask_to_create(&new).await?;
        shared.store.ensure_nids(64).await?;
        let nid = RoomNid(shared.store.next_nid());
        let mut drafts = self.drafts(&new, &version).await?;
        let room = self.found(nid, version, &mut drafts)?;
        let alias = new.alias.clone();
        let creator = new.creator.clone();
        let is_listed = new.is_listed;
        let room_id = room.room_id.clone();
        let appended = self
            .append(&room, &drafts, None, &move |write| {
                if let Some(alias) = &alias {
                    store::aliases::insert(write, alias, nid, &creator, now());
                }
                if is_listed {
                    store::aliases::set_listed(write, nid, true, now());
                }
                if let Some(transaction) = transaction {
                    store::events::insert_transaction(write, &transaction.as_stored(), room_id.as_str(), now());
                }
            })
            .await;
        if appended.is_err() {
            shared.live.remove(&room.room_id);
        }
        match appended {
            Ok(_) => {
                self.invite_others(&room, &new).await;
                Ok(room.room_id.clone())
            }
            Err(RoomError::Store(store::Error::Duplicate)) if let Some(alias) = new.alias => {
                Err(RoomError::AliasTaken(alias.to_string()))
            }
            // The maker of a room may do everything in it: what is forbidden contradicts the rest.
            Err(RoomError::Forbidden(reason)) => Err(RoomError::InvalidInitialState(reason)),
            Err(error) => Err(error),
        }
    }

    /// Gives a room an id and puts it into memory, before anybody can hear of it, so that there is never another copy.
    ///
    /// Later versions make the id of the create event's hash: a room that is like another in everything becomes a
    /// millisecond younger, so that it isn't the same.
    ///
    /// `drafts`: of those versions, all that are made at once, `m.room.create` first.
    pub(crate) fn found(
        &self,
        nid: RoomNid,
        version: RoomVersionId,
        drafts: &mut [Draft],
    ) -> Result<SharedRoom, RoomError> {
        let shared = &self.shared;
        loop {
            let mut room =
                LiveRoom::new(nid, RoomId::new_v1(self.server_name()), version.clone(), Some(Head::default()))?;
            if !room.rules.event_format.require_room_create_room_id {
                // What the event says, moment included, is fixed in its draft, and so are its hash and its signature.
                let place = model::Place::first(None);
                room.room_id = drafts[0].clone().seal(place, &room.rules, &shared.key)?.room_id;
            }
            let room = Arc::new(room);
            if let GuardResult::Guard(guard) = shared.live.get_value_or_guard(&room.room_id, None) {
                let _ = guard.insert(room.clone());
                return Ok(room);
            }
            for draft in &mut *drafts {
                draft.origin_server_ts += 1;
            }
        }
    }

    /// Invites those of other servers, who can be asked only when the room is there. Who can't be reached is not invited: the
    /// room is made all the same, and its maker may invite again.
    async fn invite_others(&self, room: &SharedRoom, new: &NewRoom) {
        let others = new.invite.iter().filter(|user_id| user_id.server_name() != self.server_name());
        for user_id in others {
            let target = Target {
                sender: new.creator.clone(),
                user_id: user_id.clone(),
                reason: None,
                is_direct: new.is_direct.then_some(true),
            };
            if let Err(error) = self.change_any_membership(room, Change::Invite, target).await {
                warn!(room.id = %room.room_id, user.id = %user_id, error = &error as &dyn std::error::Error, "{user_id} could not be invited into a new room");
            }
        }
    }

    /// That there is a room, and that its maker is in it.
    pub(crate) async fn first_drafts(
        &self,
        creator: &UserId,
        create: &Map<String, Value>,
        is_direct: bool,
    ) -> Result<Drafts, RoomError> {
        let mut drafts = Drafts { sender: creator.to_owned(), moment: now(), drafts: Vec::new() };
        drafts.state(TimelineEventType::RoomCreate, "", create)?;
        let profile = self.profile_for_membership(creator).await?;
        let join = member_content(&MembershipState::Join, &profile, None, is_direct.then_some(false));
        drafts.state(TimelineEventType::RoomMember, creator.as_str(), &join)?;
        Ok(drafts)
    }

    /// The events of the new room, in the order that the specification gives.
    async fn drafts(&self, new: &NewRoom, version: &RoomVersionId) -> Result<Vec<Draft>, RoomError> {
        let rules = model::rules_of(version).ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
        let trusted = if new.preset == RoomPreset::TrustedPrivateChat { &*new.invite } else { &[] };
        let create = create_content(&new.creator, version, new.creation_content.clone(), trusted)?;
        let mut drafts = self.first_drafts(&new.creator, &create, new.is_direct).await?;

        let mut power_levels = initial_power_levels(new, &rules.authorization);
        for (key, value) in &new.power_levels {
            power_levels.insert(key.clone(), value.clone());
        }
        drafts.state(TimelineEventType::RoomPowerLevels, "", &power_levels)?;

        if let Some(alias) = &new.alias {
            drafts.state(TimelineEventType::RoomCanonicalAlias, "", &json!({ "alias": alias }))?;
        }
        let (join_rule, guest_access) = match new.preset {
            RoomPreset::PublicChat => ("public", "forbidden"),
            _ => ("invite", "can_join"),
        };
        let is_set = |kind: &TimelineEventType| {
            new.initial_state.iter().any(|(set, key, _)| *set == kind.to_string() && key.is_empty())
        };
        for (kind, content) in [
            (TimelineEventType::RoomJoinRules, json!({ "join_rule": join_rule })),
            (TimelineEventType::RoomHistoryVisibility, json!({ "history_visibility": "shared" })),
            (TimelineEventType::RoomGuestAccess, json!({ "guest_access": guest_access })),
        ] {
            if !is_set(&kind) {
                drafts.state(kind, "", &content)?;
            }
        }
        for (kind, state_key, content) in &new.initial_state {
            let kind = TimelineEventType::from(kind.clone());
            let is_overridden = match kind {
                TimelineEventType::RoomName => new.name.is_some(),
                TimelineEventType::RoomTopic => new.topic.is_some(),
                TimelineEventType::RoomCreate => true,
                _ => false,
            };
            if !is_overridden {
                drafts.push(kind, state_key, content.clone());
            }
        }
        if let Some(name) = &new.name {
            drafts.state(TimelineEventType::RoomName, "", &json!({ "name": name }))?;
        }
        if let Some(topic) = &new.topic {
            let content = json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic }] } });
            drafts.state(TimelineEventType::RoomTopic, "", &content)?;
        }
        let here = |user_id: &&OwnedUserId| user_id.server_name() == self.server_name();
        for user_id in new.invite.iter().filter(|user_id| **user_id != new.creator).filter(here) {
            let profile = self.profile_for_membership(user_id).await?;
            let invite = member_content(&MembershipState::Invite, &profile, None, new.is_direct.then_some(true));
            drafts.state(TimelineEventType::RoomMember, user_id.as_str(), &invite)?;
        }
        Ok(drafts.drafts)
    }
}

/// What `m.room.create` says. `trusted`: who, where rooms can have several creators, are creators too.
pub(crate) fn create_content(
    creator: &UserId,
    version: &RoomVersionId,
    mut content: Map<String, Value>,
    trusted: &[OwnedUserId],
) -> Result<Map<String, Value>, RoomError> {
    let rules = model::rules_of(version).ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
    content.insert("room_version".into(), version.as_str().into());
    if rules.authorization.use_room_create_sender {
        content.remove("creator");
    } else {
        content.insert("creator".into(), creator.as_str().into());
    }
    if !rules.authorization.additional_room_creators {
        content.remove("additional_creators");
        return Ok(content);
    }
    let mut others: Vec<OwnedUserId> = match content.get("additional_creators") {
        Some(list) => serde_json::from_value(list.clone())
            .map_err(|error| RoomError::Invalid(format!("additional_creators: {error}")))?,
        None => Vec::new(),
    };
    if !trusted.is_empty() {
        others.extend(trusted.iter().cloned());
        others.sort();
        others.dedup();
        others.retain(|user_id| user_id != creator);
    }
    if !others.is_empty() {
        content.insert("additional_creators".into(), json!(others));
    }
    Ok(content)
}

/// Drafts by one sender at one moment.
pub(crate) struct Drafts {
    sender: OwnedUserId,
    moment: i64,
    pub(crate) drafts: Vec<Draft>,
}

impl Drafts {
    pub(crate) fn state(
        &mut self,
        kind: TimelineEventType,
        state_key: &str,
        content: &impl serde::Serialize,
    ) -> Result<(), RoomError> {
        let content = to_raw_value(content).map_err(|error| RoomError::BadContent(error.to_string()))?;
        self.push(kind, state_key, content);
        Ok(())
    }

    pub(crate) fn push(&mut self, kind: TimelineEventType, state_key: &str, content: Box<RawValue>) {
        self.drafts.push(Draft {
            sender: self.sender.clone(),
            kind,
            content,
            state_key: Some(state_key.to_owned()),
            redacts: None,
            origin_server_ts: self.moment,
        });
    }
}

fn initial_power_levels(new: &NewRoom, rules: &ruma::room_version_rules::AuthorizationRules) -> Map<String, Value> {
    let mut users: BTreeMap<&UserId, i64> = BTreeMap::new();
    // Since room version 12 creators stand above all levels and may not be listed.
    if !rules.explicitly_privilege_room_creators {
        users.insert(&new.creator, 100);
        if new.preset == RoomPreset::TrustedPrivateChat {
            users.extend(new.invite.iter().map(|user_id| (&**user_id, 100)));
        }
    }
    let tombstone = if rules.explicitly_privilege_room_creators { 150 } else { 100 };
    let content = json!({
        "users": users,
        "users_default": 0,
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
        "historical": 100,
        "events": {
            "m.room.name": 50,
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.history_visibility": 100,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
            "m.room.tombstone": tombstone,
        },
    });
    let Value::Object(content) = content else { unreachable!("written as an object above") };
    content
}
