//! Who is connected now, to any node, and ending connections.

use model::{Address, Millis};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sync::feed::{NodeQuestion, OpenConnection, PlaceInList};
use utoipa::{IntoParams, ToSchema};

use super::{
    staff::{Admin, Viewer},
    why::author,
};
use crate::{
    Problem,
    native::{Answer, Call, Endpoint, delete, get},
};

/// How many an answer holds, and how many at most.
const USUAL: usize = 50;
const MOST: usize = 200;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/connections", "Who is connected now, to any node, the oldest connection first.", list)
            .explained(
                "The other nodes are asked over what nodes talk by, and have a second to answer. Those that didn't are in \
                 `silent_nodes`: of them nothing is known.",
            ),
        delete("/api/v1/admin/connections", "Ends the connections of a user, to whichever node.", end).explained(
            "They are closed with the code 4003 (`disconnected`). The session goes on, so that the client may come back: end that \
             too with `DELETE /api/v1/admin/users/{user_id}/sessions/{device_id}`.",
        ),
    ]
}

/// Which connections.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ConnectionsWanted {
    /// Only those of this user.
    user_id: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    limit: Option<u32>,
}

/// Which connections are to end, and why.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ConnectionsToEnd {
    /// Whose.
    user_id: String,
    /// Only those of this device.
    device_id: Option<String>,
    /// For other admins, and for the log.
    reason: String,
}

/// A connection.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminConnection)]
struct ConnectionView {
    /// As Matrix spells it.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it.
    #[schema(value_type = String)]
    address: Address,
    /// From which device.
    device_id: String,
    /// By which protocol: `websocket`.
    protocol: String,
    /// From which IP address.
    ip: String,
    /// Since when, milliseconds since 1970.
    since: Millis,
    /// To which node.
    node: String,
}

impl ConnectionView {
    fn of(node: &str, open: &OpenConnection) -> Self {
        Self {
            user_id: open.user_id.clone(),
            address: open.user_id.clone().into(),
            device_id: open.device_id.clone(),
            protocol: open.protocol.clone().into_owned(),
            ip: open.address.to_string(),
            since: open.since,
            node: node.to_owned(),
        }
    }
}

/// How many connections a node has, or has ended.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminNodeConnections)]
struct NodeCount {
    /// Which node.
    node: String,
    /// How many.
    connections: usize,
}

/// Who is connected.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminConnections)]
struct ConnectionsView {
    /// The oldest first.
    connections: Vec<ConnectionView>,
    /// How many there are at each node that answered, of all users. The first is the one that was asked.
    nodes: Vec<NodeCount>,
    /// Nodes that didn't answer in time. What is connected to them is not in the list.
    silent_nodes: Vec<String>,
    /// What `cursor` is on the next page; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What was ended.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminConnectionsEnded)]
struct EndedView {
    /// How many connections were told to end.
    ended: usize,
    /// At which nodes.
    nodes: Vec<NodeCount>,
    /// Nodes that didn't answer in time. Whether connections to them have ended isn't known.
    silent_nodes: Vec<String>,
}

async fn list(call: Call<Viewer, ConnectionsWanted>) -> Answer<ConnectionsView> {
    let ConnectionsWanted { user_id, cursor, limit } = &call.query;
    let user_id = user_id.as_deref().map(user_of).transpose()?;
    let after = cursor.as_deref().map(read_cursor).transpose()?;
    let limit = limit.map_or(USUAL, |limit| usize::try_from(limit).unwrap_or(MOST)).clamp(1, MOST);
    // One more than is told, to know whether there are more.
    let question = NodeQuestion::List { user_id, after, limit: limit + 1 };
    let replies = call.services.sync.connections().ask_all(question).await;
    let mut found = replies.connections(limit + 1);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|(node, open)| written(&open.place(node)));
    let connections = found.into_iter().map(|(node, open)| ConnectionView::of(node, open)).collect();
    let nodes = replies.replies.iter();
    let nodes = nodes.map(|reply| NodeCount { node: reply.node.clone(), connections: reply.count }).collect();
    Ok(ConnectionsView { connections, nodes, silent_nodes: replies.silent, next })
}

async fn end(call: Call<Admin, ConnectionsToEnd>) -> Answer<EndedView> {
    let ConnectionsToEnd { user_id, device_id, reason } = call.query;
    let user_id = user_of(&user_id)?;
    let author = author(&call.caller, reason);
    let meant = json!({ "device_id": device_id }).to_string();
    let trust = call.services.peers.trust();
    trust.note_act("connections.ended", user_id.as_str(), &author, Some(meant)).await?;
    let question = NodeQuestion::Disconnect { user_id, device_id };
    let replies = call.services.sync.connections().ask_all(question).await;
    let ended = replies.replies.iter().map(|reply| reply.count).sum();
    let nodes = replies.replies.into_iter().filter(|reply| reply.count > 0);
    let nodes = nodes.map(|reply| NodeCount { node: reply.node, connections: reply.count }).collect();
    Ok(EndedView { ended, nodes, silent_nodes: replies.silent })
}

fn user_of(text: &str) -> Result<OwnedUserId, Problem> {
    let address: Result<Address, _> = text.parse();
    let wrong = |error| Problem::invalid(format!("`user_id`: {error}")).with("field", "user_id");
    Ok(address.map_err(wrong)?.user_id().to_owned())
}

fn written(place: &PlaceInList) -> String {
    format!("{}_{}_{}", place.since, place.number, place.node)
}

fn read_cursor(text: &str) -> Result<PlaceInList, Problem> {
    let place = || {
        let mut parts = text.splitn(3, '_');
        let (since, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(PlaceInList { since, number, node: parts.next()?.to_owned() })
    };
    place().ok_or_else(|| Problem::invalid("`cursor` is none that was answered here").with("field", "cursor"))
}
