//! The rooms that this server shows to everybody.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#published-room-directory>

use rooms::Listing;
use ruma::{
    ServerName, UInt,
    api::client::{
        directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility},
        room::Visibility,
    },
    directory::{Filter, PublicRoomsChunk, PublicRoomsChunkInit},
};

use crate::{Answer, Ask, Error, Route, Services, endpoint};

/// How many rooms a page has when the client doesn't say.
const PAGE: usize = 100;
const LONGEST_PAGE: usize = 500;

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(public_rooms), endpoint(public_rooms_filtered), endpoint(visibility), endpoint(set_visibility)]
}

async fn public_rooms(ask: Ask<get_public_rooms::v3::Request>) -> Answer<get_public_rooms::v3::Response> {
    let request = ask.request;
    let page = page(&ask.services, request.server.as_deref(), request.since, request.limit, &Filter::default()).await?;
    let mut response = get_public_rooms::v3::Response::new(page.chunk);
    response.next_batch = page.next;
    response.prev_batch = page.previous;
    response.total_room_count_estimate = Some(page.total);
    Ok(response)
}

async fn public_rooms_filtered(
    ask: Ask<get_public_rooms_filtered::v3::Request>,
) -> Answer<get_public_rooms_filtered::v3::Response> {
    let request = ask.request;
    let page = page(&ask.services, request.server.as_deref(), request.since, request.limit, &request.filter).await?;
    let mut response = get_public_rooms_filtered::v3::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next;
    response.prev_batch = page.previous;
    response.total_room_count_estimate = Some(page.total);
    Ok(response)
}

struct Page {
    chunk: Vec<PublicRoomsChunk>,
    next: Option<String>,
    previous: Option<String>,
    total: UInt,
}

async fn page(
    services: &Services,
    server: Option<&ServerName>,
    since: Option<String>,
    limit: Option<UInt>,
    filter: &Filter,
) -> Result<Page, Error> {
    if server.is_some_and(|server| server != services.rooms.server_name()) {
        return Err(Error::not_found("server: this server does not talk with other servers yet"));
    }
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
        total: uint(total as u64),
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
