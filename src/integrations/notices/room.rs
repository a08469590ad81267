//! The room that a user has with the server: invited, joined for the user, tagged, and nobody's to write into but the server's.

use std::sync::Arc;

use model::Millis;
use rooms::{LiveRoom, MembershipChange, NewRoom, RoomError, Target};
use ruma::{UserId, api::client::room::create_room::v3::RoomPreset, events::room::member::MembershipState};
use serde_json::{Map, json};
use store::{Write, account_data, notices};
use tracing::debug;

use super::{NoticeError, Shared};
use crate::now;

/// How long somebody may take to make a room, before another does.
const MAKING: Millis = 60_000;
/// How clients know the room.
const TAG: &str = r#"{"tags":{"m.server_notice":{}}}"#;
/// More than anybody has whom the server invites.
const NOBODYS: i64 = 50;

impl Shared {
    /// The notices room of a user, made if there is none, with the user in it.
    pub(super) async fn room_of(&self, sender: &UserId, user_id: &UserId) -> Result<Arc<LiveRoom>, NoticeError> {
        let room = match self.store.notices().marker(user_id).await?.room_id {
            Some(room_id) => self.rooms.get(&room_id).await?,
            None => self.make_room(sender, user_id).await?,
        };
        let membership = self.rooms.membership(&room, user_id).await?;
        if membership != Some(MembershipState::Join) {
            let target = |by: &UserId| Target {
                sender: by.to_owned(),
                user_id: user_id.to_owned(),
                reason: None,
                is_direct: None,
            };
            if membership != Some(MembershipState::Invite) {
                self.rooms.change_membership(&room, MembershipChange::Invite, target(sender)).await?;
            }
            self.rooms.change_membership(&room, MembershipChange::Join, target(user_id)).await?;
            // Who heard of the tag while the room was none of the user's hears of it again.
            let mut write = Write::new();
            account_data::put(&mut write, user_id, Some(&room.room_id), "m.tag", TAG);
            self.store.commit(write).await?;
        }
        Ok(room)
    }

    async fn make_room(&self, sender: &UserId, user_id: &UserId) -> Result<Arc<LiveRoom>, NoticeError> {
        let claim = format!("{:032x}", rand::random::<u128>());
        let mut write = Write::new();
        notices::claim_room(&mut write, user_id, &claim, now(), now() - MAKING);
        self.store.commit(write).await?;
        let marker = self.store.notices().marker(user_id).await?;
        if let Some(room_id) = marker.room_id {
            return Ok(self.rooms.get(&room_id).await?);
        }
        if marker.claim != Some(claim) {
            return Err(NoticeError::Claimed);
        }
        let room = match self.made_before(sender, user_id).await? {
            Some(room) => room,
            None => self.rooms.get(&self.rooms.create(self.new_room(sender, user_id)).await?).await?,
        };
        let mut write = Write::new();
        notices::set_room(&mut write, user_id, &room.room_id);
        // Whatever happens before the user is in it, it has its tag.
        account_data::put(&mut write, user_id, Some(&room.room_id), "m.tag", TAG);
        self.store.commit(write).await?;
        debug!(room.id = %room.room_id, user.id = %user_id, "{user_id} has a room of notices");
        Ok(room)
    }

    /// A room that was made just before the server stopped: nothing but the invitation has happened in it.
    async fn made_before(&self, sender: &UserId, user_id: &UserId) -> Result<Option<Arc<LiveRoom>>, NoticeError> {
        let memberships = self.store.rooms().memberships_of(user_id).await?;
        let invitation =
            memberships.into_iter().find(|row| row.sender == sender && row.membership == MembershipState::Invite);
        match invitation {
            Some(row) => Ok(Some(self.rooms.get(&row.room_id).await?)),
            None => Ok(None),
        }
    }

    fn new_room(&self, sender: &UserId, user_id: &UserId) -> NewRoom {
        NewRoom {
            creator: sender.to_owned(),
            version: None,
            preset: RoomPreset::PrivateChat,
            // Nobody of another server has any business there.
            creation_content: Map::from_iter([("m.federate".to_owned(), json!(false))]),
            initial_state: Vec::new(),
            power_levels: Map::from_iter([
                ("events_default".to_owned(), json!(NOBODYS)),
                ("state_default".to_owned(), json!(NOBODYS)),
                ("invite".to_owned(), json!(NOBODYS)),
            ]),
            name: Some(self.config.name.clone()),
            topic: None,
            alias: None,
            invite: vec![user_id.to_owned()],
            is_direct: false,
            is_listed: false,
        }
    }
}

/// Whether an error is the room's for good, so that trying again will not help.
pub(super) fn is_final(error: &NoticeError) -> bool {
    matches!(
        error,
        NoticeError::Room(
            RoomError::Forbidden(_) | RoomError::BadContent(_) | RoomError::Pdu(_) | RoomError::Invalid(_)
        )
    )
}
