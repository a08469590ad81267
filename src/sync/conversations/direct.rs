//! The conversation of two: found where the user's clients note it, or made.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use model::Position;
use rooms::{MembershipChange, NewRoom, RoomError, Target};
use ruma::{
    OwnedRoomId, UserId, api::client::room::create_room::v3::RoomPreset, events::room::member::MembershipState,
};
use serde_json::Map;

use crate::{Sync, SyncError};

impl Sync {
    /// The room in which the user talks with `other` alone, made if there is none, and whether it was. Of several, the one in
    /// which something happened last. Who was invited by `other` to such a room comes in by this.
    ///
    /// On one node, two who ask at once get one room. Errors: of a new one, why `other` can't be invited; there is no room then.
    pub async fn direct_room(&self, user_id: &UserId, other: &UserId) -> Result<(OwnedRoomId, bool), SyncError> {
        let mut hasher = DefaultHasher::new();
        user_id.hash(&mut hasher);
        let locks = &self.shared.direct;
        let _one_at_a_time = locks[hasher.finish() as usize % locks.len()].lock().await;
        if let Some(room_id) = self.find_direct(user_id, other, true).await? {
            return Ok((room_id, false));
        }
        if let Some(room_id) = self.invited_by(user_id, other).await? {
            self.shared.rooms.join(&room_id, user_id, &[], None).await?;
            self.shared.rooms.mark_direct(user_id, other, &room_id).await?;
            return Ok((room_id, false));
        }
        let room_id = self.make_direct(user_id, other).await?;
        self.shared.rooms.mark_direct(user_id, other, &room_id).await?;
        Ok((room_id, true))
    }

    /// The user comes into a room to which the user is invited; a direct one is noted as that.
    pub async fn accept(&self, user_id: &UserId, room_id: &ruma::RoomId) -> Result<(), SyncError> {
        let rooms = &self.shared.rooms;
        let row = match rooms.get(room_id).await {
            Ok(room) => self.shared.store.rooms().membership(room.nid, user_id).await?,
            Err(RoomError::UnknownRoom) => None,
            Err(error) => return Err(error.into()),
        };
        rooms.join(room_id, user_id, &[], None).await?;
        let invitation = row.filter(|row| row.membership == MembershipState::Invite);
        if let Some(row) = invitation
            && self.is_direct(&row).await?
        {
            rooms.mark_direct(user_id, &row.sender, room_id).await?;
        }
        Ok(())
    }

    /// The room in which the user talks with `other` alone and both are; of several, the one in which something happened last.
    pub async fn common_direct_room(&self, user_id: &UserId, other: &UserId) -> Result<Option<OwnedRoomId>, SyncError> {
        self.find_direct(user_id, other, false).await
    }

    /// `or_invited`: `other` need not have come into it yet.
    async fn find_direct(
        &self,
        user_id: &UserId,
        other: &UserId,
        or_invited: bool,
    ) -> Result<Option<OwnedRoomId>, SyncError> {
        let rooms = &self.shared.rooms;
        let mut found: Option<(Position, OwnedRoomId)> = None;
        for (room_id, _) in self.direct_rooms(user_id).await?.into_iter().filter(|(_, with)| with == other) {
            let Ok(room) = rooms.get(&room_id).await else { continue };
            let is_there = rooms.membership(&room, user_id).await? == Some(MembershipState::Join);
            let answers = match rooms.membership(&room, other).await? {
                Some(MembershipState::Join) => true,
                Some(MembershipState::Invite) => or_invited,
                _ => false,
            };
            if !is_there || !answers {
                continue;
            }
            let latest = self.shared.store.events().latest_position(room.nid).await?.unwrap_or_default();
            if found.as_ref().is_none_or(|(position, _)| *position < latest) {
                found = Some((latest, room_id));
            }
        }
        Ok(found.map(|(_, room_id)| room_id))
    }

    /// A room for two into which `other` has invited the user.
    async fn invited_by(&self, user_id: &UserId, other: &UserId) -> Result<Option<OwnedRoomId>, SyncError> {
        for row in self.shared.store.rooms().memberships_of(user_id).await? {
            if row.membership == MembershipState::Invite && row.sender == other && self.is_direct(&row).await? {
                return Ok(Some(row.room_id));
            }
        }
        Ok(None)
    }

    /// Whether an invitation says that it is to a conversation of two.
    async fn is_direct(&self, invitation: &store::rooms::MembershipRow) -> Result<bool, SyncError> {
        #[derive(serde::Deserialize)]
        struct Content {
            #[serde(default)]
            is_direct: bool,
        }
        let event = self.shared.events.by_nid(invitation.event_nid).await?;
        let content = event.and_then(|event| event.event.pdu.content_as::<Content>());
        Ok(content.is_some_and(|content| content.is_direct))
    }

    async fn make_direct(&self, user_id: &UserId, other: &UserId) -> Result<OwnedRoomId, SyncError> {
        let rooms = &self.shared.rooms;
        let new = NewRoom {
            creator: user_id.to_owned(),
            version: None,
            preset: RoomPreset::TrustedPrivateChat,
            creation_content: Map::new(),
            initial_state: Vec::new(),
            power_levels: Map::new(),
            name: None,
            topic: None,
            alias: None,
            invite: vec![other.to_owned()],
            is_direct: true,
            is_listed: false,
        };
        let room_id = rooms.create(new).await?;
        let room = rooms.get(&room_id).await?;
        if rooms.membership(&room, other).await?.is_some() {
            return Ok(room_id);
        }
        // Somebody of another server, who couldn't be invited when the room was made. Once more, and then it is known why.
        let invite =
            Target { sender: user_id.to_owned(), user_id: other.to_owned(), reason: None, is_direct: Some(true) };
        let Err(error) = rooms.change_membership(&room, MembershipChange::Invite, invite).await else {
            return Ok(room_id);
        };
        let own = Target { sender: user_id.to_owned(), user_id: user_id.to_owned(), reason: None, is_direct: None };
        rooms.change_membership(&room, MembershipChange::Leave, own).await?;
        rooms.forget(&room, user_id).await?;
        Err(error.into())
    }
}
