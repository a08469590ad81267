//! The rooms that this server shows to everybody, for other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#published-room-directory>

use model::peer::{Capability, Context, Grant};
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
    let trust = services.peers.trust();
    let allowed = trust.allow(origin, Capability::PublicRooms, &Context::inbound())?;
    let mut page = local_page(services, since, limit, filter).await?;
    if allowed.grant == Grant::Listed {
        // What is listed for peers is what says how far a peer must be trusted for it.
        let level = trust.regard(origin).level;
        let mut listed = Vec::with_capacity(page.chunk.len());
        for chunk in page.chunk {
            let room = services.rooms.get(&chunk.room_id).await?;
            if services.rooms.ceiling(&room).await?.is_some_and(|least| least <= level) {
                listed.push(chunk);
            }
        }
        page.total = None;
        page.chunk = listed;
    }
    Ok(page)
}
