//! Making the successor of a room, of another version.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

use ruma::api::client::room::upgrade_room::v3::{Request, Response};

use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(upgrade)]
}

async fn upgrade(ask: Ask<Request>) -> Answer<Response> {
    let request = ask.request;
    let rooms = &ask.services.rooms;
    let room = rooms.get(&request.room_id).await?;
    let user_id = &ask.session.user_id;
    let successor = rooms.upgrade(&room, user_id, &request.new_version, &request.additional_creators).await?;
    Ok(Response::new(successor))
}
