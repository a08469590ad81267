//! Who is in a room.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-membership>

use std::collections::HashSet;

use model::Draft;
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId,
    events::{
        StateEventType, TimelineEventType,
        room::{
            join_rules::{AllowRule, JoinRule, RoomJoinRulesEventContent},
            member::MembershipState,
        },
    },
};
use serde_json::{Map, Value, value::to_raw_value};
use store::Write;

use crate::{RoomError, Rooms, live::SharedRoom, now, outside::MOST_SERVERS};

/// What shall become of somebody's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Come in.
    Join,
    /// Be asked in by somebody.
    Invite,
    /// Ask to be asked in.
    Knock,
    /// Go, or decline an invitation, or take a knock back.
    Leave,
    /// Be put out by somebody.
    Kick,
    /// Be put out and kept out.
    Ban,
    /// Be kept out no longer.
    Unban,
}

/// Whom it concerns, and what is said of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Who acts.
    pub sender: OwnedUserId,
    /// Whose membership changes.
    pub user_id: OwnedUserId,
    /// Why.
    pub reason: Option<String>,
    /// For an invitation: whether the room is a direct chat.
    pub is_direct: Option<bool>,
}

/// Name and avatar, as an `m.room.member` event repeats them.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub(crate) struct MemberProfile {
    #[serde(rename = "displayname")]
    pub(crate) display_name: Option<String>,
    pub(crate) avatar_url: Option<String>,
}

impl Rooms {
    /// Changes a membership, if the room's rules allow it. What holds already is not repeated.
    ///
    /// Spec, of rooms that can't be left: <https://spec.matrix.org/v1.19/client-server-api/#server-notices>
    pub async fn change_membership(&self, room: &SharedRoom, change: Change, target: Target) -> Result<(), RoomError> {
        if change == Change::Leave && self.shared.store.notices().is_notices_room(&room.room_id).await? {
            return Err(RoomError::NoticesRoom);
        }
        if change != Change::Leave {
            self.shared.gate.check(&target.sender)?;
        }
        match change {
            Change::Join => {
                self.ask_to_join(&room.room_id, Some(room), &target.user_id, target.reason.as_deref()).await?;
            }
            Change::Invite => self.ask_to_invite(room, &target).await?,
            _ => {}
        }
        let user_id = target.user_id.clone();
        self.change_any_membership(room, change, target).await?;
        if change == Change::Join {
            self.follow_upgrade(room, &user_id).await;
        }
        Ok(())
    }

    /// As [`Self::change_membership`], for what nobody is asked about, or was.
    pub(crate) async fn change_any_membership(
        &self,
        room: &SharedRoom,
        change: Change,
        target: Target,
    ) -> Result<(), RoomError> {
        if !self.is_resident(room).await? {
            return self.change_outside(room, change, &target).await;
        }
        let current = self.membership(room, &target.user_id).await?.unwrap_or(MembershipState::Leave);
        let wanted = match change {
            Change::Join => MembershipState::Join,
            Change::Invite => MembershipState::Invite,
            Change::Knock => MembershipState::Knock,
            Change::Leave | Change::Kick | Change::Unban => MembershipState::Leave,
            Change::Ban => MembershipState::Ban,
        };
        match (change, &current) {
            (Change::Join, MembershipState::Join) | (Change::Ban, MembershipState::Ban) => return Ok(()),
            (Change::Knock, MembershipState::Knock) => return Ok(()),
            (Change::Invite, MembershipState::Join) => {
                return Err(RoomError::Forbidden(format!("{} is in the room already", target.user_id)));
            }
            (Change::Invite, MembershipState::Ban) => {
                return Err(RoomError::Forbidden(format!("{} is banned from the room", target.user_id)));
            }
            (Change::Leave, MembershipState::Leave | MembershipState::Ban) => return Err(RoomError::NotJoined),
            (Change::Kick, MembershipState::Leave | MembershipState::Ban) => {
                return Err(RoomError::Forbidden(format!("{} is not in the room", target.user_id)));
            }
            (Change::Unban, now) if *now != MembershipState::Ban => {
                return Err(RoomError::Forbidden(format!("{} is not banned from the room", target.user_id)));
            }
            _ => {}
        }

        let names_itself = matches!(change, Change::Join | Change::Invite | Change::Knock);
        let profile =
            if names_itself { self.profile_for_membership(&target.user_id).await? } else { MemberProfile::default() };
        let mut content = member_content(&wanted, &profile, target.reason.as_deref(), target.is_direct);
        if change == Change::Join
            && let Some(inviter) = self.authorising_user(room, &target.user_id, &current).await?
        {
            content.insert("join_authorised_via_users_server".into(), inviter.as_str().into());
        }
        if change == Change::Invite && target.user_id.server_name() != self.server_name() {
            let draft = member_draft(&target.sender, &target.user_id, &content)?;
            return self.invite_remote(room, draft, &target.user_id).await.map(drop);
        }
        self.append_member(room, &target.sender, &target.user_id, &content).await
    }

    /// Joins a room, whichever servers are in it.
    ///
    /// `via`: servers that may be in the room, preferred first. A room that this server isn't in yet is joined through the
    /// first of them that answers, and its state is stored before this returns.
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>
    pub async fn join(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        via: &[OwnedServerName],
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let room = self.known(room_id).await?;
        self.ask_to_join(room_id, room.as_ref(), user_id, reason.as_deref()).await?;
        self.join_known(room_id, room, user_id, via, reason).await?;
        if let Some(room) = self.known(room_id).await? {
            self.follow_upgrade(&room, user_id).await;
        }
        Ok(())
    }

    /// `room`: if it is known here.
    async fn join_known(
        &self,
        room_id: &RoomId,
        room: Option<SharedRoom>,
        user_id: &UserId,
        via: &[OwnedServerName],
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        if let Some(room) = &room
            && self.is_resident(room).await?
        {
            let (sender, target) = (user_id.to_owned(), user_id.to_owned());
            let target = Target { sender, user_id: target, reason: reason.clone(), is_direct: None };
            match self.change_any_membership(room, Change::Join, target).await {
                // Somebody on another server may let in whom nobody here may.
                Err(RoomError::NobodyToAuthorise) => {}
                answer => return answer,
            }
        }
        let servers = self.servers_to_ask(room_id, room.as_ref(), user_id, via).await?;
        self.join_through(room_id, user_id, &servers, reason.as_deref()).await
    }

    /// Knocks on a room, whichever servers are in it. `via` as for [`Self::join`].
    pub async fn knock(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        via: &[OwnedServerName],
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        self.shared.gate.check(user_id)?;
        let room = self.known(room_id).await?;
        if let Some(room) = &room
            && self.is_resident(room).await?
        {
            let (sender, target) = (user_id.to_owned(), user_id.to_owned());
            let target = Target { sender, user_id: target, reason, is_direct: None };
            return self.change_membership(room, Change::Knock, target).await;
        }
        let servers = self.servers_to_ask(room_id, room.as_ref(), user_id, via).await?;
        self.knock_outside(room_id, user_id, &servers, reason.as_deref()).await
    }

    async fn known(&self, room_id: &RoomId) -> Result<Option<SharedRoom>, RoomError> {
        match self.get(room_id).await {
            Ok(room) => Ok(Some(room)),
            Err(RoomError::UnknownRoom) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Which servers may let `user_id` into the room, the likeliest first.
    async fn servers_to_ask(
        &self,
        room_id: &RoomId,
        room: Option<&SharedRoom>,
        user_id: &UserId,
        via: &[OwnedServerName],
    ) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut servers = via.to_vec();
        if let Some(room) = room {
            let row = self.outside_membership(room, user_id).await?;
            servers.extend(row.map(|row| row.sender.server_name().to_owned()));
            servers.extend(self.view(room).await?.servers.keys().cloned());
        }
        servers.extend(room_id.server_name().map(ToOwned::to_owned));
        let mut seen = HashSet::new();
        servers.retain(|server| *server != *self.server_name() && seen.insert(server.clone()));
        servers.truncate(MOST_SERVERS);
        if servers.is_empty() && room.is_none() {
            return Err(RoomError::UnknownRoom);
        }
        Ok(servers)
    }

    /// Acts on a room that this server isn't in.
    async fn change_outside(&self, room: &SharedRoom, change: Change, target: &Target) -> Result<(), RoomError> {
        match change {
            Change::Leave => self.leave_outside(room, &target.user_id, target.reason.as_deref()).await,
            Change::Join => {
                let reason = target.reason.clone();
                Box::pin(self.join_known(&room.room_id, Some(room.clone()), &target.user_id, &[], reason)).await
            }
            Change::Knock => Box::pin(self.knock(&room.room_id, &target.user_id, &[], target.reason.clone())).await,
            _ => Err(RoomError::NotJoined),
        }
    }

    /// Repeats a user's name and avatar in the rooms that the user is in, after they changed.
    pub async fn update_profile(&self, user_id: &UserId) -> Result<(), RoomError> {
        let profile = self.profile_for_membership(user_id).await?;
        for membership in self.shared.store.rooms().memberships_of(user_id).await? {
            if membership.membership != MembershipState::Join {
                continue;
            }
            let room = self.get(&membership.room_id).await?;
            let event = self.state_event(&room, StateEventType::RoomMember, user_id.as_str()).await?;
            let Some(mut content) = event.and_then(|event| event.pdu.content_as::<Map<String, Value>>()) else {
                continue;
            };
            set_profile(&mut content, &profile);
            // Who authorised a join has no say in what the member is called.
            content.remove("join_authorised_via_users_server");
            match self.append_member(&room, user_id, user_id, &content).await {
                // Left meanwhile: nothing to repeat.
                Ok(()) | Err(RoomError::Forbidden(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The user wants to hear no more of a room that the user has left.
    pub async fn forget(&self, room: &SharedRoom, user_id: &UserId) -> Result<(), RoomError> {
        let standing = match self.is_resident(room).await? {
            true => self.membership(room, user_id).await?,
            false => self.outside_membership(room, user_id).await?.map(|row| row.membership),
        };
        match standing {
            Some(MembershipState::Leave | MembershipState::Ban) => {}
            None => return Err(RoomError::UnknownRoom),
            Some(_) => return Err(RoomError::StillJoined),
        }
        let mut write = Write::new();
        store::rooms::forget(&mut write, room.nid, user_id, now());
        self.shared.store.commit(write).await?;
        Ok(())
    }

    /// The rooms that `user_id` is in.
    pub async fn joined_rooms(&self, user_id: &UserId) -> Result<Vec<OwnedRoomId>, RoomError> {
        let memberships = self.shared.store.rooms().memberships_of(user_id).await?;
        Ok(memberships
            .into_iter()
            .filter(|row| row.membership == MembershipState::Join)
            .map(|row| row.room_id)
            .collect())
    }

    /// Takes a user out of every room, as far as that goes: who has no account any more is in no room.
    pub async fn leave_all(&self, user_id: &UserId) -> Result<(), RoomError> {
        for row in self.shared.store.rooms().memberships_of(user_id).await? {
            let is_in =
                matches!(row.membership, MembershipState::Join | MembershipState::Invite | MembershipState::Knock);
            if !is_in {
                continue;
            }
            let room = self.get(&row.room_id).await?;
            let target =
                Target { sender: user_id.to_owned(), user_id: user_id.to_owned(), reason: None, is_direct: None };
            match self.change_any_membership(&room, Change::Leave, target).await {
                // Out of it by now.
                Ok(()) | Err(RoomError::NotJoined | RoomError::Forbidden(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn append_member(
        &self,
        room: &SharedRoom,
        sender: &UserId,
        user_id: &UserId,
        content: &Map<String, Value>,
    ) -> Result<(), RoomError> {
        let draft = member_draft(sender, user_id, content)?;
        self.append(room, &[draft], None, &|_| ()).await.map(drop)
    }

    /// For a join that the room allows to members of other rooms: a member here who could invite.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>
    pub(crate) async fn authorising_user(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        current: &MembershipState,
    ) -> Result<Option<OwnedUserId>, RoomError> {
        if matches!(current, MembershipState::Invite | MembershipState::Join) {
            return Ok(None);
        }
        let rules: Option<RoomJoinRulesEventContent> = self.state_content(room, StateEventType::RoomJoinRules).await?;
        let Some(JoinRule::Restricted(restricted) | JoinRule::KnockRestricted(restricted)) =
            rules.map(|content| content.join_rule)
        else {
            return Ok(None);
        };
        let mut is_allowed = false;
        for rule in &restricted.allow {
            let AllowRule::RoomMembership(rule) = rule else { continue };
            let Ok(other) = self.get(&rule.room_id).await else { continue };
            is_allowed |= self.membership(&other, user_id).await? == Some(MembershipState::Join);
        }
        if !is_allowed {
            return Err(RoomError::Forbidden("you are in none of the rooms whose members may join".into()));
        }
        let power_levels = self.power_levels(room).await?;
        let members = self.shared.store.rooms().members(room.nid, &MembershipState::Join).await?;
        let inviter = members
            .into_iter()
            .map(|member| member.user_id)
            .find(|member| member.server_name() == self.server_name() && power_levels.user_can_invite(member));
        inviter.map(Some).ok_or(RoomError::NobodyToAuthorise)
    }

    /// What a user is called, for an `m.room.member` event.
    pub(crate) async fn profile_for_membership(&self, user_id: &UserId) -> Result<MemberProfile, RoomError> {
        let mut profile = MemberProfile::default();
        for (field, json) in self.shared.store.profiles().get(user_id).await? {
            let place = match field.as_str() {
                "displayname" => &mut profile.display_name,
                "avatar_url" => &mut profile.avatar_url,
                _ => continue,
            };
            *place = serde_json::from_str(&json).ok();
        }
        Ok(profile)
    }
}

pub(crate) fn member_draft(
    sender: &UserId,
    user_id: &UserId,
    content: &Map<String, Value>,
) -> Result<Draft, RoomError> {
    Ok(Draft {
        sender: sender.to_owned(),
        kind: TimelineEventType::RoomMember,
        content: to_raw_value(content).map_err(|error| RoomError::BadContent(error.to_string()))?,
        state_key: Some(user_id.to_string()),
        redacts: None,
        origin_server_ts: now(),
    })
}

/// The content of an `m.room.member` event.
pub(crate) fn member_content(
    membership: &MembershipState,
    profile: &MemberProfile,
    reason: Option<&str>,
    is_direct: Option<bool>,
) -> Map<String, Value> {
    let mut content = Map::new();
    content.insert("membership".into(), membership.as_str().into());
    set_profile(&mut content, profile);
    if let Some(reason) = reason {
        content.insert("reason".into(), reason.into());
    }
    if is_direct == Some(true) {
        content.insert("is_direct".into(), true.into());
    }
    content
}

fn set_profile(content: &mut Map<String, Value>, profile: &MemberProfile) {
    for (key, value) in [("displayname", &profile.display_name), ("avatar_url", &profile.avatar_url)] {
        match value {
            Some(value) => content.insert(key.into(), value.as_str().into()),
            None => content.remove(key),
        };
    }
}
