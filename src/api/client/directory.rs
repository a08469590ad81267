//! The rooms that this server shows to everybody.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#published-room-directory>

use std::time::Duration;

use rooms::Listing;
use ruma::{
    ServerName, UInt,
    api::{
        client::{
            directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility},
            room::Visibility,
        },
        federation::directory::{get_public_rooms::v1 as get, get_public_rooms_filtered::v1 as filtered},
    },
    directory::{Filter, PublicRoomsChunk, PublicRoomsChunkInit},
};

use crate::{Answer, Ask, Error, Route, Services, endpoint};

/// How many rooms a page has when the client doesn't say.
const PAGE: usize = 100;
const LONGEST_PAGE: usize = 500;
/// How long another server may take to show its directory.
const PATIENCE: Duration = Duration::from_secs(20);

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(public_rooms), endpoint(public_rooms_filtered), endpoint(visibility), endpoint(set_visibility)]
}

async fn public_rooms(ask: Ask<get_public_rooms::v3::Request>) -> Answer<get_public_rooms::v3::Response> {
    let page = match other_server(&ask.services, ask.request.server.as_deref()) {
        Some(server) => {
            // What this server asks for somebody, it asks for a user of its own.
            ask.user().await?;
            let mut request = get::Request::new();
            request.limit = ask.request.limit;
            request.since.clone_from(&ask.request.since);
            let page = ask.services.peers.ask_within(PATIENCE, server, request).await?;
            Page {
                chunk: page.chunk,
                next: page.next_batch,
                previous: page.prev_batch,
                total: page.total_room_count_estimate,
            }
        }
        None => local_page(&ask.services, ask.request.since, ask.request.limit, &Filter::default()).await?,
    };
    let mut response = get_public_rooms::v3::Response::new(page.chunk);
    response.next_batch = page.next;
    response.prev_batch = page.previous;
    response.total_room_count_estimate = page.total;
    Ok(response)
}

async fn public_rooms_filtered(
    ask: Ask<get_public_rooms_filtered::v3::Request>,
) -> Answer<get_public_rooms_filtered::v3::Response> {
    let request = ask.request;
    let page = match other_server(&ask.services, request.server.as_deref()) {
        Some(server) => {
            let mut wanted = filtered::Request::new();
            wanted.limit = request.limit;
            wanted.since = request.since;
            wanted.filter = request.filter;
            let page = ask.services.peers.ask_within(PATIENCE, server, wanted).await?;
            Page {
                chunk: page.chunk,
                next: page.next_batch,
                previous: page.prev_batch,
                total: page.total_room_count_estimate,
            }
        }
        None => local_page(&ask.services, request.since, request.limit, &request.filter).await?,
    };
    let mut response = get_public_rooms_filtered::v3::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next;
    response.prev_batch = page.previous;
    response.total_room_count_estimate = page.total;
    Ok(response)
}

/// Whose directory is asked for, if it isn't ours.
fn other_server<'a>(services: &Services, server: Option<&'a ServerName>) -> Option<&'a ServerName> {
    server.filter(|server| !services.peers.is_us(server))
}

/// Some of the rooms of a directory.
pub(crate) struct Page {
    pub(crate) chunk: Vec<PublicRoomsChunk>,
    /// The token of the page after it.
    pub(crate) next: Option<String>,
    /// The token of the page before it.
    pub(crate) previous: Option<String>,
    /// About how many there are in all.
    pub(crate) total: Option<UInt>,
}

/// A page of this server's directory.
pub(crate) async fn local_page(
    services: &Services,
    since: Option<String>,
    limit: Option<UInt>,
    filter: &Filter,
) -> Result<Page, Error> {
    let wrong_token = || Error::invalid_param("since: not a token of this server");
    let skip: usize = match since {
        Some(token) => token.strip_prefix('p').and_then(|place| place.parse().ok()).ok_or_else(wrong_token)?,
        None => 0,
    };
    let limit = limit.and_then(|limit| usize::try_from(u64::from(limit)).ok()).unwrap_or(PAGE).clamp(1, LONGEST_PAGE);
    let (listings, total) = services.rooms.directory(filter, skip, limit).await?;
    let end = skip + listings.len();
    Ok(Page {
        chunk: listings.into_iter().map(chunk).collect(),
        next: (end < total).then(|| format!("p{end}")),
        previous: (skip > 0).then(|| format!("p{}", skip.saturating_sub(limit))),
        total: Some(uint(total as u64)),
    })
}

fn chunk(listing: Listing) -> PublicRoomsChunk {
    let mut chunk = PublicRoomsChunk::from(PublicRoomsChunkInit {
        num_joined_members: uint(listing.joined),
        room_id: listing.room_id,
        world_readable: listing.world_readable,
        guest_can_join: listing.guest_can_join,
    });
    chunk.canonical_alias = listing.canonical_alias;
    chunk.name = listing.name;
    chunk.topic = listing.topic;
    chunk.avatar_url = listing.avatar_url;
    chunk.join_rule = listing.join_rule;
    chunk.room_type = listing.room_type;
    chunk
}

fn uint(number: u64) -> UInt {
    UInt::new_saturating(number)
}

async fn visibility(ask: Ask<get_room_visibility::v3::Request>) -> Answer<get_room_visibility::v3::Response> {
    let room = ask.services.rooms.get(&ask.request.room_id).await?;
    let is_listed = ask.services.rooms.is_listed(&room).await?;
    let visibility = if is_listed { Visibility::Public } else { Visibility::Private };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

async fn set_visibility(ask: Ask<set_room_visibility::v3::Request>) -> Answer<set_room_visibility::v3::Response> {
    let is_listed = match ask.request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        other => return Err(Error::invalid_param(format!("visibility: {other} is neither public nor private"))),
    };
    let room = ask.services.rooms.get(&ask.request.room_id).await?;
    ask.services.rooms.set_listed(&room, &ask.session.user_id, is_listed).await?;
    Ok(set_room_visibility::v3::Response::new())
}
