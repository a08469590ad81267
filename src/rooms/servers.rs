//! Which servers are in a room, and which may be.

use std::sync::Arc;

use model::RoomNid;
use ruma::{
    OwnedServerName, ServerName,
    events::{StateEventType, room::server_acl::RoomServerAclEventContent},
};

use crate::{RoomError, Rooms, live::SharedRoom};

impl Rooms {
    /// The servers with members in the room, this one included, in no particular order.
    pub async fn servers_in(&self, room: &SharedRoom) -> Result<Arc<[OwnedServerName]>, RoomError> {
        Ok(self.view(room).await?.servers.keys().cloned().collect())
    }

    /// As [`Self::servers_in`], by the room's number.
    pub async fn servers_in_nid(&self, nid: RoomNid) -> Result<Arc<[OwnedServerName]>, RoomError> {
        let ids = self.shared.store.rooms().ids(&[nid]).await?;
        let (_, room_id) = ids.into_iter().next().ok_or(RoomError::UnknownRoom)?;
        let room = self.get(&room_id).await?;
        self.servers_in(&room).await
    }

    /// Whether somebody of this server is in the room, so that what happens in it is sent here.
    pub async fn is_resident(&self, room: &SharedRoom) -> Result<bool, RoomError> {
        Ok(self.view(room).await?.servers.contains_key(self.server_name()))
    }

    /// Whether somebody of `server` is in the room.
    pub async fn has_server(&self, room: &SharedRoom, server: &ServerName) -> Result<bool, RoomError> {
        Ok(self.view(room).await?.servers.contains_key(server))
    }

    /// Whether the room's access control list lets `server` take part.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-access-control-lists-acls-for-rooms>
    pub async fn acl_allows(&self, room: &SharedRoom, server: &ServerName) -> Result<bool, RoomError> {
        let acl = self.state_event(room, StateEventType::RoomServerAcl, "").await?;
        let Some(acl) = acl else { return Ok(true) };
        // Spec: a list without rules allows nobody; one that can't be read is as good as that to those who obey it.
        Ok(acl.pdu.content_as::<RoomServerAclEventContent>().is_none_or(|acl| acl.is_allowed(server)))
    }
}
