//! How far a server must be trusted to take part in a room, where the room demands it.
//!
//! A room says so by a state event of the type [`CEILING`], `{"minimum": "full"}`. People of this server can't bring in members of
//! servers that are trusted less, and such can't join through it. What their people say all the same, by way of servers that take
//! them in, is part of the room's graph, as it must be for all servers to agree; but nobody here is shown it until the trust rises.
//!
//! With `"server_acl": true` beside it, servers that don't know of this obey it too, by the means of Matrix: `kept_acl.rs`.

use std::sync::LazyLock;

use model::{
    StateKey, StateMap, TimelineEvent,
    peer::{Capability, Direction, TrustLevel},
};
use ruma::{OwnedUserId, ServerName, UserId, events::StateEventType};
use serde::Deserialize;

use crate::{RoomError, Rooms, live::SharedRoom};

/// The type of the state event by which a room demands trust.
pub const CEILING: &str = "org.comity.room.trust";

static KEY: LazyLock<StateKey> = LazyLock::new(|| (StateEventType::from(CEILING), String::new()));

#[derive(Deserialize)]
pub(crate) struct Content {
    pub(crate) minimum: TrustLevel,
    /// Whether the server of who says this is to keep a matching `m.room.server_acl`: `true`, or anything else.
    #[serde(default)]
    server_acl: serde_json::Value,
}

impl Content {
    /// Whether the room's access control list is to be kept.
    pub(crate) fn wants_acl(&self) -> bool {
        self.server_acl == true
    }
}

impl Rooms {
    /// What the room demands now.
    pub async fn ceiling(&self, room: &SharedRoom) -> Result<Option<TrustLevel>, RoomError> {
        let view = self.view(room).await?;
        self.ceiling_in(&view.state).await
    }

    /// What a room in this state demands. A demand that can't be understood is none.
    pub(crate) async fn ceiling_in(&self, state: &StateMap) -> Result<Option<TrustLevel>, RoomError> {
        let Some(nid) = state.get(&*KEY) else { return Ok(None) };
        Ok(self.event(*nid).await?.pdu.content_as::<Content>().map(|content| content.minimum))
    }

    /// Refuses that somebody of `server` comes into the room, or is brought there, if people of it are in as many rooms here as an
    /// admin has set. Those who come by way of others can't be kept out.
    pub(crate) async fn check_room_limit(
        &self,
        room: &SharedRoom,
        server: &ServerName,
        capability: Capability,
        direction: Direction,
    ) -> Result<(), RoomError> {
        let trust = self.trust();
        let Some(limit) = trust.room_limit(server) else { return Ok(()) };
        if self.has_server(room, server).await? || self.shared.store.rooms().count_of_server(server).await? < limit {
            return Ok(());
        }
        Ok(trust.refuse_room(server, capability, direction)?)
    }

    /// Whether people are not shown the event, for want of trust in its sender's server.
    pub fn withholds(&self, event: &TimelineEvent) -> bool {
        let trust = self.shared.peers.trust();
        event.withheld_below.is_some_and(|least| !trust.shows(event.pdu.sender.server_name(), least))
    }

    /// Whether `user_id` of this server is in a room together with somebody of `server`.
    pub async fn shares_room(&self, user_id: &UserId, server: &ServerName) -> Result<bool, RoomError> {
        Ok(self.shared.store.rooms().shares_a_room_with(user_id, server).await?)
    }

    /// Whether `user_id` of this server has talked with `other`, or with anybody of `server` if that isn't said, of their own
    /// accord: there is a direct chat, or they are friends.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#direct-messaging>
    pub async fn is_contact(
        &self,
        user_id: &UserId,
        server: &ServerName,
        other: Option<&UserId>,
    ) -> Result<bool, RoomError> {
        let direct = self.shared.store.account_data().find(user_id, None, "m.direct").await?;
        let direct = direct.and_then(|json| {
            serde_json::from_str::<std::collections::BTreeMap<OwnedUserId, serde::de::IgnoredAny>>(&json).ok()
        });
        let mut contacts = direct.iter().flat_map(|direct| direct.keys());
        let talks = contacts.any(|contact| match other {
            Some(other) => contact == other,
            None => contact.server_name() == server,
        });
        let friends = self.shared.store.friends();
        Ok(match other {
            _ if talks => true,
            Some(other) => friends.are_friends(user_id, other).await?,
            None => friends.has_friend_at(user_id, server).await?,
        })
    }
}
