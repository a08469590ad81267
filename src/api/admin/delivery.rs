//! What becomes of what other servers are sent.

use axum::body::Body;
use federation::ledger::{Cursor, Figures, Retrying};
use model::Millis;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::staff::{Exporter, Tender, Viewer};
use crate::{
    Problem,
    native::{Answer, Call, Endpoint, File, get, post},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/deliveries", "How well each server is reached: what it got, and how long that took.", figures),
        get("/api/v1/admin/deliveries/export", "What became of each event at each server, as JSON lines.", export)
            .explained("Rows in the order in which outcomes became known; `after` is the `cursor` of the last row that one has."),
        get("/api/v1/admin/destinations", "The servers that can't be reached, and those that catch up.", destinations),
        post("/api/v1/admin/destinations/{server}/retry", "Tries a server at once, as if it had never failed.", retry),
    ]
}

/// Of what time.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Since {
    /// Milliseconds since 1970; counted from the beginning of that day. Left out: the last seven days.
    since: Option<Millis>,
    /// Of this server only.
    #[param(value_type = Option<String>)]
    server: Option<OwnedServerName>,
}

/// How well servers are reached.
#[derive(Serialize, ToSchema)]
struct Deliveries {
    /// All together, or the one that was asked for.
    #[schema(value_type = Object)]
    total: Figures,
    /// Each by itself.
    #[schema(value_type = Vec<Object>)]
    servers: Vec<Figures>,
}

/// Where to go on.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct From {
    /// The `cursor` of the last row that one has; left out: from the beginning.
    after: Option<String>,
    /// How many rows at most, 1 to 1000.
    limit: Option<usize>,
}

/// Servers that are not well.
#[derive(Serialize, ToSchema)]
struct Destinations {
    /// By name.
    #[schema(value_type = Vec<Object>)]
    destinations: Vec<Retrying>,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
struct Retried {
    /// Whether the server was left alone, and is tried now.
    woken: bool,
}

async fn figures(call: Call<Viewer, Since>) -> Answer<Deliveries> {
    const WEEK: Millis = 7 * 24 * 60 * 60 * 1_000;
    let now: Millis = ruma::MilliSecondsSinceUnixEpoch::now().get().into();
    let since = call.query.since.unwrap_or(now - WEEK);
    let (ledger, server) = (&call.services.ledger, call.query.server.as_deref());
    let total = ledger.figures(server, since).await?;
    let servers = match server {
        Some(_) => Vec::new(),
        None => ledger.figures_of_each(since).await?,
    };
    Ok(Deliveries { total, servers })
}

async fn export(call: Call<Exporter, From>) -> Answer<File> {
    let From { after, limit } = &call.query;
    let after = match after {
        Some(after) => after
            .parse::<Cursor>()
            .map_err(|error| Problem::invalid(format!("`after`: {error}")).with("field", "after"))?,
        None => Cursor::default(),
    };
    let rows = call.services.ledger.export(after, limit.unwrap_or(1_000)).await?;
    let lines = rows.iter().filter_map(|row| serde_json::to_string(row).ok()).map(|line| line + "\n");
    let body = Body::from(lines.collect::<String>());
    Ok(File { content_type: "application/x-ndjson", name: "deliveries.jsonl".to_owned(), body })
}

async fn destinations(call: Call<Viewer>) -> Answer<Destinations> {
    Ok(Destinations { destinations: call.services.ledger.destinations() })
}

async fn retry(call: Call<Tender>) -> Answer<Retried> {
    let server: OwnedServerName = call.argument("server")?;
    Ok(Retried { woken: call.services.ledger.retry(&server) })
}
