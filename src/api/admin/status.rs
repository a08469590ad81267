//! How the server is, and how much there is on it.

use integrations::statistics::Day;
use model::Millis;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::staff::Viewer;
use crate::native::{Answer, Call, Endpoint, get};

/// How many days are told, and how many at most.
const USUAL: u32 = 30;
const MOST: u32 = 366;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/status", "How the server is, and how much there is on it.", status)
            .explained("What has to be counted is counted no more than once a minute: `counted_at` says when."),
        get("/api/v1/admin/statistics", "How much was said on each day.", statistics).explained(
            "Counted since this server counts; what other nodes have counted within half a minute is not in it.",
        ),
    ]
}

/// Something that the server works with, and what is wrong with it.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerDependency)]
struct DependencyView {
    /// What.
    name: &'static str,
    /// What is wrong with it; none: nothing is.
    findings: Vec<String>,
}

/// How many people there are.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerUsers)]
struct UsersView {
    /// Accounts that are open.
    accounts: i64,
    /// Those of them that are suspended or locked.
    restricted: i64,
    /// Accounts that were closed.
    deactivated: i64,
    /// How many people were seen within a day.
    active_in_a_day: i64,
    /// How many people were seen within 30 days.
    active_in_a_month: i64,
    /// How many accounts wait for approval.
    awaiting_approval: i64,
}

/// How the server is.
#[derive(Serialize, ToSchema)]
struct ServerStatus {
    /// What it is called.
    server_name: String,
    /// Which version of it runs.
    version: &'static str,
    /// The node that answers.
    node: String,
    /// All nodes of the deployment, those that were lost of late among them; none: nobody shares the database.
    nodes: Vec<String>,
    /// What it works with besides the database.
    dependencies: Vec<DependencyView>,
    /// How many WebSockets are open to this node.
    connections: usize,
    /// The people.
    users: UsersView,
    /// How many rooms there are.
    rooms: i64,
    /// Under how many names there are files.
    files: i64,
    /// How many bytes these files have together.
    file_bytes: i64,
    /// How many reports wait for a decision.
    reports_waiting: i64,
    /// How many events other servers are still owed, each counted for each of them.
    federation_backlog: i64,
    /// How many servers can't be reached now, or catch up.
    destinations_in_trouble: usize,
    /// When what is counted was counted, milliseconds since 1970.
    counted_at: Millis,
}

/// How many days.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DaysWanted {
    /// How many, today among them, 1 to 366; left out: 30.
    days: Option<u32>,
}

/// What was said on a day.
#[derive(Serialize, ToSchema)]
#[schema(as = StatisticsDay)]
struct DayView {
    /// When it began, in UTC, milliseconds since 1970.
    began_at: Millis,
    /// Messages of anybody.
    messages: i64,
    /// Messages of users of this server.
    local_messages: i64,
}

/// What was said.
#[derive(Serialize, ToSchema)]
#[schema(as = Statistics)]
struct DaysView {
    /// Today last.
    days: Vec<DayView>,
}

async fn status(call: Call<Viewer>) -> Answer<ServerStatus> {
    let services = &call.services;
    let census = services.statistics.census().await?;
    let connections = services.sync.connections();
    let dependencies = services.dependencies.iter();
    let dependencies =
        dependencies.map(|dependency| DependencyView { name: dependency.name(), findings: dependency.findings() });
    Ok(ServerStatus {
        server_name: services.peers.server_name().to_string(),
        version: env!("CARGO_PKG_VERSION"),
        node: connections.node().to_owned(),
        nodes: services.store.node_names().await?,
        dependencies: dependencies.collect(),
        connections: connections.count(),
        users: UsersView {
            accounts: census.there.accounts,
            restricted: census.there.restricted,
            deactivated: census.there.deactivated,
            active_in_a_day: census.active_in_a_day,
            active_in_a_month: census.active_in_a_month,
            awaiting_approval: census.approvals_waiting,
        },
        rooms: census.there.rooms,
        files: census.there.files,
        file_bytes: census.there.file_bytes,
        reports_waiting: census.reports_waiting,
        federation_backlog: census.there.owed,
        destinations_in_trouble: services.ledger.destinations().len(),
        counted_at: census.counted_at,
    })
}

async fn statistics(call: Call<Viewer, DaysWanted>) -> Answer<DaysView> {
    let days = call.services.statistics.days(call.query.days.unwrap_or(USUAL).clamp(1, MOST)).await?;
    let shown = |Day { began_at, messages, local_messages }| DayView { began_at, messages, local_messages };
    Ok(DaysView { days: days.into_iter().map(shown).collect() })
}
