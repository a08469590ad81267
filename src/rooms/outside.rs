//! Rooms that this server isn't in: what is known of them from invitations and knocks, and making oneself known to them.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::{collections::HashSet, sync::Arc};

use model::{Change, Draft, EventNid, Pdu, Place, Position, RoomNid, SnapshotNid, TimelineEvent};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::federation::membership::{create_knock_event, create_leave_event, prepare_knock_event, prepare_leave_event},
    events::{TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue, value::to_raw_value};
use store::{Arg, RoomVersion, Write, events, rooms::MembershipRow, rooms::RoomRow};
use tracing::info;

use crate::{
    RoomError, Rooms,
    friends::note_request,
    live::{LiveRoom, SharedRoom},
    membership::member_content,
    now,
    outliers::outlier,
};

/// Of so many servers one is asked after the other.
pub(crate) const MOST_SERVERS: usize = 8;

impl Rooms {
    /// What `user_id` is to a room that this server isn't in.
    pub(crate) async fn outside_membership(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
    ) -> Result<Option<MembershipRow>, RoomError> {
        Ok(self.shared.store.rooms().membership(room.nid, user_id).await?)
    }

    /// The room, known from now on if it wasn't.
    pub(crate) async fn get_or_note(&self, room_id: &RoomId, version: &RoomVersionId) -> Result<SharedRoom, RoomError> {
        match self.get(room_id).await {
            Err(RoomError::UnknownRoom) => {}
            known => return known,
        }
        self.shared.store.ensure_nids(1).await?;
        let nid = RoomNid(self.shared.store.next_nid());
        let mut write = Write::new();
        store::rooms::put_room(
            &mut write,
            &RoomRow {
                nid,
                room_id: room_id.to_owned(),
                room_version: version.clone(),
                version: RoomVersion::default(),
                extremities: Vec::new(),
                snapshot: SnapshotNid(0),
            },
        );
        match self.shared.store.commit(write).await {
            Ok(_) | Err(store::Error::Duplicate) => self.get(room_id).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Notes what an event makes of a local user in a room that this server isn't in.
    pub(crate) async fn note_outside(&self, room: &LiveRoom, pdu: Pdu) -> Result<(), RoomError> {
        let shared = &self.shared;
        let Some(membership) = crate::send::membership_of(&pdu) else {
            return Err(RoomError::BadContent("not a membership event".into()));
        };
        let known = self.events_by_id(std::slice::from_ref(&pdu.event_id)).await?.pop();
        // Where makers choose ids, another event may have the same.
        if known.as_ref().is_some_and(|event| event.room_nid != room.nid || event.pdu.state() != pdu.state()) {
            return Err(RoomError::Invalid("another event has the event's id".into()));
        }
        shared.store.ensure_nids(1).await?;
        let nid = known.as_ref().map_or_else(|| EventNid(shared.store.next_nid()), |event| event.nid);
        let event = Arc::new(outlier(nid, room.nid, Arc::new(pdu), None));
        let mut write = Write::new();
        let offset = write.position();
        if known.is_none() {
            events::insert(&mut write, &event, Arg::NoInt);
        }
        let profile: crate::membership::MemberProfile = event.pdu.content_as().unwrap_or_default();
        store::rooms::put_membership(
            &mut write,
            room.nid,
            event.pdu.state_key.as_deref().unwrap_or_default(),
            &membership,
            &event.pdu.sender,
            nid,
            Arg::Position(offset),
            profile.display_name.as_deref(),
            profile.avatar_url.as_deref(),
        );
        note_request(&mut write, self.server_name(), &event, &Arg::Position(offset));
        write.tell(offset, Change::OutsideMembership(event));
        shared.store.commit(write).await?;
        Ok(())
    }

    /// Declines an invitation to a room that this server isn't in, or takes a knock back: tells the server it came by, and is
    /// done with it whatever that says.
    pub(crate) async fn leave_outside(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let row = self.outside_membership(room, user_id).await?.ok_or(RoomError::NotJoined)?;
        if !matches!(row.membership, MembershipState::Invite | MembershipState::Knock) {
            return Err(RoomError::NotJoined);
        }
        let mut left = None;
        for server in self.servers_to_tell(room, &row).await? {
            match self.leave_through(room, user_id, reason, &server).await {
                Ok(pdu) => {
                    left = Some(pdu);
                    break;
                }
                Err(error) => {
                    info!(room.id = %room.room_id, user.id = %user_id, server.name = %server, error = &error as &dyn std::error::Error,
                        "{server} did not take a refusal; the invitation is gone here all the same");
                }
            }
        }
        let pdu = match left {
            Some(pdu) => pdu,
            None => self.leave_alone(room, user_id, reason)?,
        };
        self.note_outside(room, pdu).await
    }

    /// Whoever invited, the server that the room is named after, and those that the state shown beside it is of.
    async fn servers_to_tell(&self, room: &SharedRoom, row: &MembershipRow) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut servers = vec![row.sender.server_name().to_owned()];
        servers.extend(room.room_id.server_name().map(ToOwned::to_owned));
        servers.extend(senders_shown(&self.event(row.event_nid).await?.pdu));
        let mut known = HashSet::new();
        servers.retain(|server| *server != *self.server_name() && known.insert(server.clone()));
        servers.truncate(MOST_SERVERS);
        Ok(servers)
    }

    async fn leave_through(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        reason: Option<&str>,
        server: &OwnedServerName,
    ) -> Result<Pdu, RoomError> {
        let peers = &self.shared.peers;
        let request = prepare_leave_event::v1::Request::new(room.room_id.clone(), user_id.to_owned());
        let template = peers.ask(server, request).await?;
        let mut wish = Map::new();
        wish.insert("membership".into(), "leave".into());
        wish.extend(reason.map(|reason| ("reason".to_owned(), Value::from(reason))));
        let pdu = self.complete(&room.room_id, user_id, &template.event, wish, &room.rules)?;
        let raw = raw(&pdu)?;
        let request = create_leave_event::v2::Request::new(room.room_id.clone(), pdu.event_id.clone(), raw);
        peers.ask_either(server, request).await?;
        Ok(pdu)
    }

    /// An event that only this server will ever see.
    fn leave_alone(&self, room: &SharedRoom, user_id: &UserId, reason: Option<&str>) -> Result<Pdu, RoomError> {
        let content = member_content(&MembershipState::Leave, &Default::default(), reason, None);
        let draft = Draft {
            sender: user_id.to_owned(),
            kind: TimelineEventType::RoomMember,
            content: to_raw_value(&content).map_err(|error| RoomError::BadContent(error.to_string()))?,
            state_key: Some(user_id.to_string()),
            redacts: None,
            origin_server_ts: now(),
        };
        let place = Place::first(Some(&room.room_id));
        Ok(draft.seal(place, &room.rules, &self.shared.key)?)
    }

    /// Knocks on a room that this server isn't in, through the first of `servers` that answers.
    pub(crate) async fn knock_outside(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        servers: &[OwnedServerName],
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let peers = &self.shared.peers;
        let mut last = RoomError::NotFound("no server of the room is known: name one with `via`".into());
        for server in servers {
            let mut request = prepare_knock_event::v1::Request::new(room_id.to_owned(), user_id.to_owned());
            request.ver = model::supported_room_versions().to_vec();
            let template = match peers.ask(server, request).await {
                Ok(template) => template,
                Err(error) => {
                    last = error.into();
                    continue;
                }
            };
            let version = template.room_version;
            let rules = model::rules_of(&version).ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
            let profile = self.profile_for_membership(user_id).await?;
            let wish = member_content(&MembershipState::Knock, &profile, reason, None);
            let pdu = self.complete(room_id, user_id, &template.event, wish, &rules)?;
            let request = create_knock_event::v1::Request::new(room_id.to_owned(), pdu.event_id.clone(), raw(&pdu)?);
            match peers.ask(server, request).await {
                Ok(answer) => {
                    let shown = serde_json::to_value(&answer.knock_room_state).unwrap_or_default();
                    let room = self.get_or_note(room_id, &version).await?;
                    return self.note_outside(&room, with_unsigned(pdu, "knock_room_state", shown)?).await;
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// Completes and signs an event that another server placed in its room's graph.
    ///
    /// `wish`: the content; what the other server alone can know of it is kept. Refuses a template of another event than
    /// was asked for.
    pub(crate) fn complete(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        template: &RawValue,
        wish: Map<String, Value>,
        rules: &RoomVersionRules,
    ) -> Result<Pdu, RoomError> {
        let malformed = |what: &str| RoomError::Invalid(format!("the other server's template is malformed: {what}"));
        let mut object: CanonicalJsonObject =
            serde_json::from_str(template.get()).map_err(|error| malformed(&error.to_string()))?;
        for (field, expected) in [
            ("room_id", room_id.as_str()),
            ("type", "m.room.member"),
            ("sender", user_id.as_str()),
            ("state_key", user_id.as_str()),
        ] {
            if object.get(field).and_then(CanonicalJsonValue::as_str) != Some(expected) {
                return Err(malformed(field));
            }
        }
        let Some(CanonicalJsonValue::Object(content)) = object.get_mut("content") else {
            return Err(malformed("content"));
        };
        // Of what the other server says, only who lets the user in counts.
        content.retain(|key, _| key == "join_authorised_via_users_server");
        for (key, value) in wish {
            content.insert(key, value.try_into().map_err(|_| malformed("content"))?);
        }
        for field in ["event_id", "hashes", "signatures", "unsigned", "redacts"] {
            object.remove(field);
        }
        let moment = ruma::Int::new(now()).ok_or_else(|| malformed("origin_server_ts"))?;
        object.insert("origin_server_ts".into(), CanonicalJsonValue::Integer(moment));
        let sealed = Pdu::seal(object, rules, &self.shared.key)?;
        Ok(Pdu::from_peer(sealed.object(), rules)?)
    }
}

/// The event as it is sent.
pub(crate) fn raw(pdu: &Pdu) -> Result<Box<RawValue>, RoomError> {
    RawValue::from_string(pdu.json.to_string()).map_err(|error| RoomError::BadContent(error.to_string()))
}

/// The event with something told beside it, which nobody signs.
pub(crate) fn with_unsigned(pdu: Pdu, key: &str, value: Value) -> Result<Pdu, RoomError> {
    let mut object: Value =
        serde_json::from_str(&pdu.json).map_err(|error| RoomError::BadContent(error.to_string()))?;
    object["unsigned"] = serde_json::json!({ key: value });
    Ok(Pdu::from_stored(pdu.event_id, object.to_string().into(), pdu.rejected)?)
}

/// The servers whose users sent the state that goes with an invitation or a knock.
fn senders_shown(pdu: &Pdu) -> Vec<OwnedServerName> {
    #[derive(Deserialize)]
    struct Given {
        unsigned: Shown,
    }
    #[derive(Deserialize)]
    struct Shown {
        #[serde(alias = "invite_room_state", alias = "knock_room_state")]
        state: Vec<Sent>,
    }
    #[derive(Deserialize)]
    struct Sent {
        sender: OwnedUserId,
    }
    let shown = serde_json::from_str::<Given>(&pdu.json).map(|given| given.unsigned.state).unwrap_or_default();
    shown.into_iter().map(|event| event.sender.server_name().to_owned()).collect()
}

/// A [`TimelineEvent`] of an event that begins what this server has of a room.
pub(crate) fn first_event(nid: EventNid, room_nid: RoomNid, pdu: Arc<Pdu>, before: SnapshotNid) -> TimelineEvent {
    TimelineEvent { position: Position(0), ..outlier(nid, room_nid, pdu, Some(before)) }
}
