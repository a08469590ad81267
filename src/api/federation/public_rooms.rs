//! The rooms that this server shows to everybody, for other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#published-room-directory>

use ruma::{
    ServerName, UInt,
    api::federation::directory::{get_public_rooms::v1 as get, get_public_rooms_filtered::v1 as filtered},
    directory::Filter,
};

use crate::{
    Answer, Ask, Error, Route, Services,
    client::directory::{Page, local_page},
    endpoint,
};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(public_rooms), endpoint(public_rooms_filtered)]
}

async fn public_rooms(ask: Ask<get::Request>) -> Answer<get::Response> {
    let page =
        page(&ask.services, &ask.session.server, ask.request.since, ask.request.limit, &Filter::default()).await?;
    let mut response = get::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next;
    response.prev_batch = page.previous;
    response.total_room_count_estimate = page.total;
    Ok(response)
}

async fn public_rooms_filtered(ask: Ask<filtered::Request>) -> Answer<filtered::Response> {
    let page =
        page(&ask.services, &ask.session.server, ask.request.since, ask.request.limit, &ask.request.filter).await?;
    let mut response = filtered::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next;
    response.prev_batch = page.previous;
    response.total_room_count_estimate = page.total;
    Ok(response)
}

async fn page(
    services: &Services,
    origin: &ServerName,
    since: Option<String>,
    limit: Option<UInt>,
    filter: &Filter,
) -> Result<Page, Error> {
    if !services.config.public_rooms_for_servers {
        return Err(Error::forbidden("this server does not show its public rooms to other servers"));
    }
    let mut page = local_page(services, since, limit, filter).await?;
    let room_ids = page.chunk.iter().map(|chunk| &*chunk.room_id);
    if let Some(listed) = services.rooms.listed_for(origin, room_ids).await? {
        page.total = None;
        page.chunk.retain(|chunk| listed.contains(&chunk.room_id));
    }
    Ok(page)
}
