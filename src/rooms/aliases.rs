//! What rooms are called.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-aliases>

use std::time::Duration;

use peers::PeerError;
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId, UserId,
    api::federation::query::get_room_information::v1 as get_room_information,
    events::{StateEventType, TimelineEventType},
};
use serde_json::{Map, Value, value::to_raw_value};
use store::Write;

use crate::{RoomError, Rooms, Wish, live::SharedRoom, now};

/// How many servers of a room are told with its alias.
const MOST_SERVERS: usize = 100;
/// How long another server may take to say which room is called so.
const PATIENCE: Duration = Duration::from_secs(10);

impl Rooms {
    /// The id of a room, and the servers that may know more of it; an id by itself names none.
    pub async fn resolve(&self, room: &RoomOrAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        match <&RoomId>::try_from(room) {
            Ok(room_id) => Ok((room_id.to_owned(), Vec::new())),
            Err(alias) => self.look_up(alias).await,
        }
    }

    /// The room that is called `alias` by the server that the alias is of, and servers in it, those first that surely
    /// are.
    pub async fn look_up(&self, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        let unknown = || RoomError::NotFound(format!("no room is called {alias}"));
        if alias.server_name() != self.server_name() {
            return self.ask_for_alias(alias).await;
        }
        let (nid, _) = self.shared.store.aliases().find(alias).await?.ok_or_else(unknown)?;
        let row = self.shared.store.rooms().find_by_nid(nid).await?.ok_or_else(unknown)?;
        let room = self.get(&row.room_id).await?;
        let mut servers = self.servers_in(&room).await?.to_vec();
        servers.sort_by_key(|server| server != self.server_name());
        servers.truncate(MOST_SERVERS);
        Ok((row.room_id, servers))
    }

    async fn ask_for_alias(&self, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        let request = get_room_information::Request::new(alias.to_owned());
        let asked = self.shared.peers.ask_within(PATIENCE, alias.server_name(), request).await;
        let answer = asked.map_err(|error| match error {
            PeerError::Refused { status: 404, .. } => RoomError::NotFound(format!("no room is called {alias}")),
            error => RoomError::Peer(error),
        })?;
        let mut servers = answer.servers;
        servers.truncate(MOST_SERVERS);
        if servers.is_empty() {
            servers.push(alias.server_name().to_owned());
        }
        Ok((answer.room_id, servers))
    }

    /// Calls the room `alias`. Whoever is in the room may.
    pub async fn add_alias(&self, room: &SharedRoom, alias: &RoomAliasId, user_id: &UserId) -> Result<(), RoomError> {
        if alias.server_name() != self.server_name() {
            return Err(RoomError::Invalid(format!("{alias} is not an alias of this server")));
        }
        self.check_joined(room, user_id).await?;
        let mut write = Write::new();
        store::aliases::insert(&mut write, alias, room.nid, user_id, now());
        match self.shared.store.commit(write).await {
            Err(store::Error::Duplicate) => Err(RoomError::AliasExists(alias.to_string())),
            answer => Ok(answer.map(drop)?),
        }
    }

    /// No room is called `alias` any more. Whoever made the alias may, and who may name the room.
    pub async fn remove_alias(&self, alias: &RoomAliasId, user_id: &UserId) -> Result<(), RoomError> {
        let unknown = || RoomError::NotFound(format!("no room is called {alias}"));
        let (nid, creator) = self.shared.store.aliases().find(alias).await?.ok_or_else(unknown)?;
        let row = self.shared.store.rooms().find_by_nid(nid).await?.ok_or_else(unknown)?;
        let room = self.get(&row.room_id).await?;
        let power_levels = self.power_levels(&room).await?;
        let may_name = power_levels.user_can_send_state(user_id, StateEventType::RoomCanonicalAlias);
        if creator != user_id && !may_name {
            return Err(RoomError::Forbidden("only its maker or who may name the room removes an alias".into()));
        }
        let mut write = Write::new();
        store::aliases::remove(&mut write, alias);
        self.shared.store.commit(write).await?;
        if may_name {
            self.unname(&room, alias, user_id).await?;
        }
        Ok(())
    }

    /// What the room is called. Members may ask, and everybody may of a room that all can read.
    pub async fn aliases_of(&self, room: &SharedRoom, user_id: &UserId) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
        self.sight(room, user_id).await?;
        Ok(self.shared.store.aliases().of_room(room.nid).await?)
    }

    /// Takes a removed alias out of what the room says of itself.
    async fn unname(&self, room: &SharedRoom, alias: &RoomAliasId, user_id: &UserId) -> Result<(), RoomError> {
        let content: Option<Map<String, Value>> = self.state_content(room, StateEventType::RoomCanonicalAlias).await?;
        let Some(mut content) = content else { return Ok(()) };
        let before = content.clone();
        if content.get("alias").is_some_and(|named| named == alias.as_str()) {
            content.remove("alias");
        }
        if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
            others.retain(|other| other != alias.as_str());
        }
        if content == before {
            return Ok(());
        }
        let wish = Wish {
            sender: user_id.to_owned(),
            kind: TimelineEventType::RoomCanonicalAlias,
            content: to_raw_value(&content).map_err(|error| RoomError::BadContent(error.to_string()))?,
            state_key: Some(String::new()),
            redacts: None,
            transaction: None,
        };
        match self.send(room, wish).await {
            // The alias is gone all the same; what the room says of itself is for those who are in it.
            Ok(_) | Err(RoomError::Forbidden(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
