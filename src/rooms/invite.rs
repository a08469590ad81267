//! Invitations across servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>

use std::collections::BTreeMap;

use model::peer::{Capability, Context, Direction, Grant};
use model::{Draft, Pdu};
use ruma::{
    CanonicalJsonObject, OwnedEventId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{RawStrippedState, create_invite},
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::{Value, value::RawValue};

use crate::{
    RoomError, Rooms,
    live::SharedRoom,
    now,
    outside::{raw, with_unsigned},
    send::membership_of,
};

/// What a room shows to those who are asked in or ask to be.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
const STRIPPED: [StateEventType; 8] = [
    StateEventType::RoomCreate,
    StateEventType::RoomJoinRules,
    StateEventType::RoomCanonicalAlias,
    StateEventType::RoomName,
    StateEventType::RoomAvatar,
    StateEventType::RoomTopic,
    StateEventType::RoomEncryption,
    StateEventType::RoomHistoryVisibility,
];

/// Among what an invitation shows: it comes from a server of which little is known, and is to be shown as a request.
const REQUEST: &str = "org.comity.request";

impl Rooms {
    /// Invites a user of another server: that server signs the invitation before it becomes part of the room.
    pub(crate) async fn invite_remote(
        &self,
        room: &SharedRoom,
        draft: Draft,
        user_id: &UserId,
    ) -> Result<OwnedEventId, RoomError> {
        let (sender, server) = (draft.sender.clone(), user_id.server_name());
        let context = Context::outbound().in_room(self.ceiling(room).await?);
        let is_contact = async |_| self.is_contact(&sender, server, Some(user_id)).await;
        self.shared.peers.trust().allow_knowing(server, Capability::FirstContact, &context, is_contact).await?;
        self.check_room_limit(room, server, Capability::FirstContact, Direction::Out).await?;
        let invite = self.seal(room, draft).await?;
        let shown = self.stripped_state(room, Some(&invite)).await?;
        // The first form says nothing of the room's version: it can only be for the rooms that were there then.
        let is_of_old = matches!(room.version, RoomVersionId::V1 | RoomVersionId::V2);
        let first_form = if is_of_old { Some(first_form(&invite, &shown)?) } else { None };
        let request = create_invite::v2::Request::new(
            room.room_id.clone(),
            invite.event_id.clone(),
            room.version.clone(),
            raw(&invite)?,
            shown.into_iter().map(RawStrippedState::Pdu).collect(),
        );
        let (peers, server) = (&self.shared.peers, user_id.server_name());
        let answer = match first_form {
            Some(first_form) => peers.ask_either_with(server, request, first_form).await?,
            None => peers.ask(server, request).await?,
        };
        let signed: CanonicalJsonObject = serde_json::from_str(answer.event.get())
            .map_err(|error| RoomError::BadContent(format!("the signed invitation is malformed: {error}")))?;
        let signed = Pdu::from_peer(signed, &room.rules)?;
        if signed.event_id != invite.event_id {
            return Err(RoomError::Invalid("the other server signed another invitation than it was sent".into()));
        }
        self.append_whole(room, signed).await
    }

    /// Takes an invitation that a third party led to, and that another server has proof of.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>
    pub async fn exchange_invite(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        sender: &UserId,
        invited: &UserId,
        content: Box<RawValue>,
    ) -> Result<(), RoomError> {
        let room = self.get_shared_with(room_id, origin).await?;
        if sender.server_name() != self.server_name() {
            return Err(RoomError::Forbidden("the inviter is not of this server".into()));
        }
        let draft = Draft {
            sender: sender.to_owned(),
            kind: TimelineEventType::RoomMember,
            content,
            state_key: Some(invited.to_string()),
            redacts: None,
            origin_server_ts: now(),
        };
        if invited.server_name() != self.server_name() {
            return self.invite_remote(&room, draft, invited).await.map(drop);
        }
        self.append(&room, &[draft], None, &|_| ()).await.map(drop)
    }

    /// What the room shows to outsiders, as its events; with the membership of who sent `pdu`.
    pub(crate) async fn stripped_state(
        &self,
        room: &SharedRoom,
        pdu: Option<&Pdu>,
    ) -> Result<Vec<Box<serde_json::value::RawValue>>, RoomError> {
        let view = self.view(room).await?;
        let mut wanted: Vec<_> = STRIPPED.iter().filter_map(|kind| view.get(kind.clone(), "")).collect();
        wanted.extend(pdu.and_then(|pdu| view.get(StateEventType::RoomMember, pdu.sender.as_str())));
        self.events(wanted).await?.iter().map(|event| raw(&event.pdu)).collect()
    }

    /// Takes an invitation of a local user by another server: checks it, signs it, and shows it to the user.
    ///
    /// Answers the event with this server's signature.
    pub async fn be_invited(
        &self,
        origin: &ServerName,
        invitation: Invitation<'_>,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let rules = model::rules_of(invitation.version)
            .ok_or_else(|| RoomError::UnsupportedVersion(invitation.version.to_string()))?;
        let pdu = Pdu::from_peer(invitation.event.clone(), &rules)?;
        check_invitation(&pdu, origin, self.server_name(), &invitation)?;
        let signatures = self.shared.peers.keys().check_events(vec![pdu.object()], &rules).await;
        if let Some(Err(error)) = signatures.into_iter().next() {
            return Err(RoomError::Forbidden(error.to_string()));
        }
        let context = Context::inbound();
        let is_contact = async |_| {
            let invited = pdu.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
            match invited {
                Some(invited) => self.is_contact(invited, origin, Some(&pdu.sender)).await,
                None => Ok(false),
            }
        };
        let trust = self.shared.peers.trust();
        let allowed = trust.allow_knowing(origin, Capability::FirstContact, &context, is_contact).await?;
        let room = self.get_or_note(invitation.room_id, invitation.version).await?;
        self.check_room_limit(&room, origin, Capability::FirstContact, Direction::In).await?;
        let signed = Pdu::countersign(pdu.object(), &rules, &self.shared.key)?;
        let answer = signed.object();
        if self.is_resident(&room).await? {
            // Whoever invites sends the event into the room; until then there is nothing to show.
            if !self.acl_allows(&room, origin).await? {
                return Err(RoomError::Forbidden("the room's access control list forbids you".into()));
            }
            return Ok(answer);
        }
        let mut shown = self.checked_stripped(invitation.room_id, invitation.shown, &rules).await;
        if allowed.grant == Grant::Request {
            // Clients that know it show the invitation as a request of a stranger.
            let level = trust.regard(origin).level;
            shown.push(serde_json::json!({
                "type": REQUEST, "state_key": "", "sender": signed.sender, "content": { "level": level },
            }));
        }
        self.note_outside(&room, with_unsigned(signed, "invite_room_state", Value::Array(shown))?).await?;
        Ok(answer)
    }

    #[allow(deprecated, reason = "older servers still send stripped events")]
    /// Of what another server shows of its room, what a client may be shown: whole events reduced to what is stripped.
    async fn checked_stripped(
        &self,
        room_id: &RoomId,
        shown: &[RawStrippedState],
        rules: &ruma::room_version_rules::RoomVersionRules,
    ) -> Vec<Value> {
        let mut stripped = Vec::with_capacity(shown.len());
        for state in shown.iter().take(100) {
            let value = match state {
                RawStrippedState::Stripped(event) => event.deserialize_as::<Value>().ok(),
                RawStrippedState::Pdu(event) => {
                    let object = serde_json::from_str::<CanonicalJsonObject>(event.get()).ok();
                    let believed = match object {
                        Some(object) => self.believed(room_id, vec![object], rules).await.pop(),
                        None => None,
                    };
                    believed.and_then(|pdu| serde_json::from_str(&pdu.json).ok())
                }
                _ => None,
            };
            let Some(Value::Object(event)) = value else { continue };
            let kept: BTreeMap<String, Value> = event
                .into_iter()
                .filter(|(key, _)| matches!(key.as_str(), "type" | "state_key" | "content" | "sender"))
                .collect();
            if kept.len() == 4 {
                stripped.push(serde_json::to_value(kept).unwrap_or_default());
            }
        }
        stripped
    }
}

/// An invitation as it came.
#[derive(Clone, Copy, Debug)]
pub struct Invitation<'a> {
    /// To which room.
    pub room_id: &'a RoomId,
    /// What the other server calls the event.
    pub event_id: &'a OwnedEventId,
    /// Which rules the room obeys.
    pub version: &'a RoomVersionId,
    /// The event, signed by the other server.
    pub event: &'a CanonicalJsonObject,
    /// What the room shows.
    pub shown: &'a [RawStrippedState],
}

/// The invitation as older servers take it: what the room shows is beside what is signed.
fn first_form(invite: &Pdu, shown: &[Box<RawValue>]) -> Result<Box<RawValue>, RoomError> {
    let shown = serde_json::to_value(shown).map_err(|error| RoomError::BadContent(error.to_string()))?;
    raw(&with_unsigned(invite.clone(), "invite_room_state", shown)?)
}

fn check_invitation(
    pdu: &Pdu,
    origin: &ServerName,
    us: &ServerName,
    invitation: &Invitation<'_>,
) -> Result<(), RoomError> {
    let invited = pdu.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
    let is_invitation = pdu.kind == TimelineEventType::RoomMember
        && membership_of(pdu) == Some(MembershipState::Invite)
        && pdu.room_id == *invitation.room_id
        && pdu.event_id == *invitation.event_id;
    if !is_invitation {
        return Err(RoomError::Invalid("the event is not the invitation that the path names".into()));
    }
    if pdu.sender.server_name() != origin {
        return Err(RoomError::Forbidden("the inviter is of another server than you are".into()));
    }
    if invited.is_none_or(|user_id| user_id.server_name() != us) {
        return Err(RoomError::Forbidden("the invited user is not of this server".into()));
    }
    Ok(())
}
