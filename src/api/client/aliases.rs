//! What rooms are called.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-aliases>

use ruma::api::client::{
    alias::{create_alias, delete_alias, get_alias},
    room::aliases,
};

use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(create), endpoint(remove), endpoint(find), endpoint(list)]
}

async fn create(ask: Ask<create_alias::v3::Request>) -> Answer<create_alias::v3::Response> {
    let room = ask.services.rooms.get(&ask.request.room_id).await?;
    ask.services.rooms.add_alias(&room, &ask.request.room_alias, &ask.session.user_id).await?;
    Ok(create_alias::v3::Response::new())
}

async fn remove(ask: Ask<delete_alias::v3::Request>) -> Answer<delete_alias::v3::Response> {
    ask.services.rooms.remove_alias(&ask.request.room_alias, &ask.session.user_id).await?;
    Ok(delete_alias::v3::Response::new())
}

async fn find(ask: Ask<get_alias::v3::Request>) -> Answer<get_alias::v3::Response> {
    let (room_id, servers) = ask.services.rooms.look_up(&ask.request.room_alias).await?;
    Ok(get_alias::v3::Response::new(room_id, servers))
}

async fn list(ask: Ask<aliases::v3::Request>) -> Answer<aliases::v3::Response> {
    let room = ask.services.rooms.get(&ask.request.room_id).await?;
    let aliases = ask.services.rooms.aliases_of(&room, &ask.session.user_id).await?;
    Ok(aliases::v3::Response::new(aliases))
}
