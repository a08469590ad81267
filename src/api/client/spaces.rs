//! What rooms tell to those who might join them, and the rooms of a space.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#spaces>

use rooms::{Branch, Listing, TreeRequest};
use ruma::{
    UInt,
    api::client::{
        room::get_summary,
        space::{SpaceHierarchyRoomsChunk, get_hierarchy},
    },
    room::{JoinRuleKind, JoinRuleSummary, RestrictedSummary, RoomSummary},
};

use crate::{Answer, Ask, Error, Route, endpoint};

/// How many rooms a page has when the client doesn't say.
const PAGE: usize = 50;
const LONGEST_PAGE: usize = 100;

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(summary), endpoint(hierarchy)]
}

async fn summary(ask: Ask<get_summary::v1::Request>) -> Answer<get_summary::v1::Response> {
    let rooms = &ask.services.rooms;
    let (room_id, mut via) = rooms.resolve(&ask.request.room_id_or_alias).await?;
    via.extend(ask.request.via.iter().cloned());
    // Strangers don't make this server ask others.
    let user_id = ask.session.as_ref().map(|session| &*session.user_id);
    let via = if user_id.is_some() { &via[..] } else { &[] };
    let (listing, membership) = rooms.summary(&room_id, user_id, via).await?;
    let mut response = get_summary::v1::Response::new(summarise(listing));
    response.membership = membership;
    Ok(response)
}

async fn hierarchy(ask: Ask<get_hierarchy::v1::Request>) -> Answer<get_hierarchy::v1::Response> {
    let request = ask.request;
    let number = |number: Option<UInt>| number.map(|number| usize::try_from(u64::from(number)).unwrap_or(usize::MAX));
    let max_depth = number(request.max_depth);
    // Pages of one walk belong together, and so do their tokens.
    let walk = format!("{}{}", max_depth.map_or("all".to_owned(), |depth| depth.to_string()), request.suggested_only);
    let skip = match &request.from {
        Some(token) => skip_of(token, &walk)?,
        None => 0,
    };
    let limit = number(request.limit).unwrap_or(PAGE).clamp(1, LONGEST_PAGE);
    let wanted = TreeRequest { max_depth, suggested_only: request.suggested_only, skip, limit };
    let tree = ask.services.rooms.tree(&request.room_id, &ask.session.user_id, wanted).await?;
    let mut response = get_hierarchy::v1::Response::new();
    response.next_batch = tree.has_more.then(|| format!("h{}~{walk}", skip + tree.rooms.len()));
    response.rooms = tree.rooms.into_iter().map(chunk).collect();
    Ok(response)
}

fn skip_of(token: &str, walk: &str) -> Result<usize, Error> {
    let parts = token.strip_prefix('h').and_then(|rest| rest.split_once('~'));
    let skip = parts.filter(|(_, of)| *of == walk).and_then(|(skip, _)| skip.parse().ok());
    skip.ok_or_else(|| Error::invalid_param("from: not a token for these max_depth and suggested_only"))
}

fn chunk(branch: Branch) -> SpaceHierarchyRoomsChunk {
    SpaceHierarchyRoomsChunk::new(summarise(branch.listing), branch.children)
}

pub(crate) fn summarise(listing: Listing) -> RoomSummary {
    let allowed = RestrictedSummary::new(listing.allowed_room_ids);
    let join_rule = match listing.join_rule {
        JoinRuleKind::Restricted => JoinRuleSummary::Restricted(allowed),
        JoinRuleKind::KnockRestricted => JoinRuleSummary::KnockRestricted(allowed),
        kind => kind.into(),
    };
    let joined = UInt::new_saturating(listing.joined);
    let mut summary =
        RoomSummary::new(listing.room_id, join_rule, listing.guest_can_join, joined, listing.world_readable);
    summary.canonical_alias = listing.canonical_alias;
    summary.name = listing.name;
    summary.topic = listing.topic;
    summary.avatar_url = listing.avatar_url;
    summary.room_type = listing.room_type;
    summary.encryption = listing.encryption;
    summary.room_version = listing.version;
    summary
}
