//! What other servers ask of this one's people and rooms by name.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#querying-for-information>

use model::peer::Capability;
use ruma::api::federation::query::{get_profile_information::v1 as profile, get_room_information::v1 as directory};

use super::{check_is_ours, trust::allow_about};
use crate::{Answer, Ask, Error, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(query_profile), endpoint(query_directory)]
}

async fn query_profile(ask: Ask<profile::Request>) -> Answer<profile::Response> {
    let profile::Request { user_id, field, .. } = ask.request;
    check_is_ours(&ask.services, &user_id)?;
    let allowed = allow_about(&ask.services, &ask.session.server, Capability::Profiles, &user_id).await?;
    let mut fields = ask.services.users.profile_as_granted(&user_id, allowed.grant).await?;
    if let Some(field) = field {
        fields.retain(|name, _| name == field.as_str());
    }
    Ok(fields.into_iter().collect())
}

async fn query_directory(ask: Ask<directory::Request>) -> Answer<directory::Response> {
    let rooms = &ask.services.rooms;
    let alias = &ask.request.room_alias;
    if alias.server_name() != rooms.server_name() {
        return Err(Error::not_found(format!("{alias} is not an alias of this server")));
    }
    let (room_id, servers) = rooms.look_up(alias).await?;
    Ok(directory::Response::new(room_id, servers))
}
