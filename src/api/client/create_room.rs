//! Making rooms, and making their successors.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#creation>

use rooms::NewRoom;
use ruma::{
    RoomAliasId, ServerName,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, Response, RoomPreset},
    },
    serde::Raw,
};
use serde_json::{Map, Value, value::RawValue};

use crate::{Answer, Ask, Error, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(create_room)]
}

async fn create_room(ask: Ask<Request>) -> Answer<Response> {
    let rooms = &ask.services.rooms;
    let request = ask.request;
    let is_listed = request.visibility == Visibility::Public;
    let preset = request.preset.unwrap_or(if is_listed { RoomPreset::PublicChat } else { RoomPreset::PrivateChat });
    if !matches!(preset, RoomPreset::PrivateChat | RoomPreset::PublicChat | RoomPreset::TrustedPrivateChat) {
        return Err(Error::bad_json("preset: must be private_chat, public_chat or trusted_private_chat"));
    }
    if !request.invite_3pid.is_empty() {
        return Err(Error::new(
            http::StatusCode::FORBIDDEN,
            "M_THREEPID_DENIED",
            "invite_3pid: this server invites by user id only",
        ));
    }
    let alias =
        request.room_alias_name.as_deref().map(|localpart| parse_alias(localpart, rooms.server_name())).transpose()?;
    let new = NewRoom {
        creator: ask.session.user_id.clone(),
        version: request.room_version,
        preset,
        creation_content: object("creation_content", request.creation_content.as_ref())?,
        initial_state: request.initial_state.iter().map(initial_state).collect::<Result<_, _>>()?,
        power_levels: object("power_level_content_override", request.power_level_content_override.as_ref())?,
        name: request.name,
        topic: request.topic,
        alias,
        invite: request.invite,
        is_direct: request.is_direct,
        is_listed,
    };
    Ok(Response::new(rooms.create(new).await?))
}

fn parse_alias(localpart: &str, server_name: &ServerName) -> Result<ruma::OwnedRoomAliasId, Error> {
    let is_plain =
        !localpart.is_empty() && !localpart.contains([':', '#', '\0']) && !localpart.contains(char::is_whitespace);
    let alias = RoomAliasId::parse(format!("#{localpart}:{server_name}")).ok().filter(|_| is_plain);
    alias.ok_or_else(|| Error::invalid_param("room_alias_name: must be what stands between `#` and `:` of an alias"))
}

fn object<T>(field: &str, raw: Option<&Raw<T>>) -> Result<Map<String, Value>, Error> {
    let Some(raw) = raw else { return Ok(Map::new()) };
    serde_json::from_str(raw.json().get()).map_err(|error| Error::bad_json(format!("{field}: {error}")))
}

fn initial_state<T>(raw: &Raw<T>) -> Result<(String, String, Box<RawValue>), Error> {
    #[derive(serde::Deserialize)]
    struct InitialState {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        state_key: String,
        content: Box<RawValue>,
    }
    let state: InitialState =
        serde_json::from_str(raw.json().get()).map_err(|error| Error::bad_json(format!("initial_state: {error}")))?;
    Ok((state.kind, state.state_key, state.content))
}
