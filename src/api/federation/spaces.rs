//! The rooms of a space, for other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#spaces>

use ruma::api::federation::space::{SpaceHierarchyParentSummary, get_hierarchy};

use crate::{Answer, Ask, Route, client::spaces::summarise, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(hierarchy)]
}

async fn hierarchy(ask: Ask<get_hierarchy::v1::Request>) -> Answer<get_hierarchy::v1::Response> {
    let get_hierarchy::v1::Request { room_id, suggested_only, .. } = &ask.request;
    let (space, rooms, hidden) = ask.services.rooms.branches_for(&ask.session.server, room_id, *suggested_only).await?;
    let summary = SpaceHierarchyParentSummary::new(summarise(space.listing), space.children);
    let mut answer = get_hierarchy::v1::Response::new(summary);
    answer.children = rooms.into_iter().map(|room| summarise(room.listing)).collect();
    answer.inaccessible_children = hidden;
    Ok(answer)
}
