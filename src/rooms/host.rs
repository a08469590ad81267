//! Letting other servers' people in and out of the rooms that this server is in.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::sync::Arc;

use model::{
    Draft, Pdu, TimelineEvent,
    peer::{Capability, Context, Direction},
};
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, RoomId, RoomVersionId, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    RoomError, Rooms, Verdict, live::SharedRoom, membership::member_content, now, receive::Checked, send::membership_of,
};

/// An event for another server to complete.
#[derive(Debug)]
pub struct Template {
    /// Which rules its room obeys.
    pub version: RoomVersionId,
    /// Everything but what the other server adds.
    pub event: CanonicalJsonObject,
}

/// What somebody who was let in is told of the room.
#[derive(Debug)]
pub struct Entrance {
    /// The event that let them in, with this server's signature where one was needed.
    pub event: Arc<Pdu>,
    /// What held before.
    pub state: Vec<Arc<TimelineEvent>>,
    /// What allows all that.
    pub auth_chain: Vec<Arc<TimelineEvent>>,
}

impl Rooms {
    /// Places a membership event of a user of `origin` in the room's graph, for `origin` to complete.
    ///
    /// `versions`: which room versions `origin` knows; for leaving, none is asked.
    pub async fn make_membership(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        membership: MembershipState,
        versions: Option<&[RoomVersionId]>,
    ) -> Result<Template, RoomError> {
        if user_id.server_name() != origin {
            return Err(RoomError::Forbidden("the user is of another server than you are".into()));
        }
        let room = self.get_shared_with(room_id, origin).await?;
        if membership != MembershipState::Leave {
            self.check_may_come(&room, user_id).await?;
        }
        if versions.is_some_and(|versions| !versions.contains(&room.version)) {
            return Err(RoomError::IncompatibleVersion(room.version.to_string()));
        }
        let mut content = member_content(&membership, &Default::default(), None, None);
        if membership == MembershipState::Join {
            let current = self.membership(&room, user_id).await?.unwrap_or(MembershipState::Leave);
            if let Some(inviter) = self.authorising_user(&room, user_id, &current).await? {
                content.insert("join_authorised_via_users_server".into(), inviter.as_str().into());
            }
        }
        let draft = Draft {
            sender: user_id.to_owned(),
            kind: TimelineEventType::RoomMember,
            content: to_raw_value(&content).map_err(|error| RoomError::BadContent(error.to_string()))?,
            state_key: Some(user_id.to_string()),
            redacts: None,
            origin_server_ts: now(),
        };
        Ok(Template { version: room.version.clone(), event: self.template(&room, draft).await? })
    }

    /// Lets a user of `origin` in, as the completed event says, and tells what the room is.
    pub async fn let_in(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: CanonicalJsonObject,
    ) -> Result<Entrance, RoomError> {
        let room = self.get_shared_with(room_id, origin).await?;
        let pdu = self.take_membership(&room, origin, event_id, event, MembershipState::Join).await?;
        let event = self.events_by_id(std::slice::from_ref(&pdu.event_id)).await?.pop().ok_or(RoomError::Busy)?;
        let before = match event.state_before {
            Some(snapshot) => self.state_at(snapshot).await?,
            None => return Err(RoomError::Busy),
        };
        let state = self.events(before.values().copied()).await?;
        let mut starts: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id.clone()).collect();
        starts.push(pdu.event_id.clone());
        let auth_chain = self.auth_chain(&starts).await?;
        Ok(Entrance { event: event.pdu.clone(), state, auth_chain })
    }

    /// Lets a user of `origin` go, or takes back an invitation, as the completed event says.
    pub async fn let_go(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: CanonicalJsonObject,
    ) -> Result<(), RoomError> {
        let room = self.get_shared_with(room_id, origin).await?;
        self.take_membership(&room, origin, event_id, event, MembershipState::Leave).await.map(drop)
    }

    /// Takes the knock of a user of `origin`, and tells what the room shows to such.
    pub async fn let_knock(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: CanonicalJsonObject,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let room = self.get_shared_with(room_id, origin).await?;
        let pdu = self.take_membership(&room, origin, event_id, event, MembershipState::Knock).await?;
        self.stripped_state(&room, Some(&pdu)).await
    }

    /// The room, if this server is in it and its access control list lets `origin` take part.
    pub(crate) async fn get_shared_with(&self, room_id: &RoomId, origin: &ServerName) -> Result<SharedRoom, RoomError> {
        let room = self.get(room_id).await?;
        if !self.is_resident(&room).await? {
            return Err(RoomError::UnknownRoom);
        }
        if !self.acl_allows(&room, origin).await? {
            return Err(RoomError::Forbidden("the room's access control list forbids your server".into()));
        }
        Ok(room)
    }

    /// Whether the trust in a user's server is enough for joining, or knocking on, the room.
    async fn check_may_come(&self, room: &SharedRoom, user_id: &UserId) -> Result<(), RoomError> {
        let context = Context::inbound().in_room(self.ceiling(room).await?);
        let is_invited = async |_| {
            let membership = self.membership(room, user_id).await?;
            Ok::<_, RoomError>(matches!(membership, Some(MembershipState::Invite | MembershipState::Join)))
        };
        let trust = self.shared.peers.trust();
        trust.allow_knowing(user_id.server_name(), Capability::Join, &context, is_invited).await?;
        self.check_room_limit(room, user_id.server_name(), Capability::Join, Direction::In).await
    }

    async fn take_membership(
        &self,
        room: &SharedRoom,
        origin: &ServerName,
        event_id: &EventId,
        event: CanonicalJsonObject,
        membership: MembershipState,
    ) -> Result<Pdu, RoomError> {
        let pdu = Pdu::from_peer(event, &room.rules)?;
        let is_wanted = pdu.kind == TimelineEventType::RoomMember
            && pdu.state_key.as_deref() == Some(pdu.sender.as_str())
            && membership_of(&pdu) == Some(membership)
            && pdu.room_id == room.room_id
            && pdu.event_id == *event_id;
        if !is_wanted {
            return Err(RoomError::Invalid("the event is not the one that the path names".into()));
        }
        if pdu.sender.server_name() != origin {
            return Err(RoomError::Forbidden("the user is of another server than you are".into()));
        }
        if membership_of(&pdu) != Some(MembershipState::Leave) {
            self.check_may_come(room, &pdu.sender).await?;
        }
        // Where one of ours lets the user in, this server says so before the signatures are looked at; whether that one may
        // is what the authorisation rules decide.
        let is_ours = authorised_via(&pdu).is_some_and(|user_id| user_id.server_name() == self.server_name());
        let pdu = if is_ours { Pdu::countersign(pdu.object(), &room.rules, &self.shared.key)? } else { pdu };
        let checked = self.shared.peers.keys().check_events(vec![pdu.object()], &room.rules).await.pop();
        let object = match checked {
            Some(Ok(object)) => object,
            Some(Err(error)) => return Err(RoomError::Forbidden(error.to_string())),
            None => return Err(RoomError::Busy),
        };
        let pdu = Pdu::from_peer(object, &room.rules)?;

        let _permit = room.inbox.acquire().await.map_err(|_| RoomError::Busy)?;
        let known = self.events_by_id(std::slice::from_ref(&pdu.event_id)).await?.pop();
        if known.as_ref().is_some_and(|event| event.position.0 != 0) {
            return Ok(pdu);
        }
        let checked = Checked { pdu: pdu.clone(), known: known.map(|event| event.nid) };
        let (mut events, _) = self.with_missing(room, origin, vec![checked]).await?;
        events.retain(|checked| checked.pdu.event_id == pdu.event_id || checked.known.is_none());
        let outcomes = self.settle(room, events, true).await?;
        match outcomes.into_iter().find(|(event_id, _)| *event_id == pdu.event_id) {
            Some((_, Ok(Verdict::Accepted))) => Ok(pdu),
            Some((_, Ok(Verdict::Rejected(reason) | Verdict::SoftFailed(reason)))) => Err(RoomError::Forbidden(reason)),
            Some((_, Err(error))) => Err(RoomError::Forbidden(error.to_string())),
            None => Err(RoomError::Busy),
        }
    }
}

/// Who of the room lets the user in.
fn authorised_via(pdu: &Pdu) -> Option<ruma::OwnedUserId> {
    #[derive(serde::Deserialize)]
    struct Content {
        join_authorised_via_users_server: ruma::OwnedUserId,
    }
    pdu.content_as::<Content>().map(|content| content.join_authorised_via_users_server)
}
