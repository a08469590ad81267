//! What admins did.

use model::peer::PeerPattern;
use peers::trust::AuditEntry;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::staff::{Exporter, Viewer};
use crate::{
    Problem,
    native::{Answer, Call, Endpoint, get},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/audit", "What admins did, the latest first.", list),
        get("/api/v1/admin/audit/verify", "Whether the log is as it was written.", verify),
    ]
}

/// Which entries.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Entries before this number; left out: the latest.
    before: Option<i64>,
    /// Of this peer only.
    peer: Option<String>,
    /// How many at most, 1 to 1000.
    limit: Option<u32>,
}

/// One entry.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
struct Entry(#[schema(value_type = Object)] AuditEntry);

/// Some of the log.
#[derive(Serialize, ToSchema)]
struct Entries {
    /// The latest first.
    entries: Vec<Entry>,
    /// What `before` is on the next page.
    next: Option<i64>,
}

/// Whether the log is whole.
#[derive(Serialize, ToSchema)]
struct Verified {
    /// Whether each entry holds the hash of the one before, and its own.
    intact: bool,
    /// How many entries there are, as far as the log is intact.
    entries: i64,
    /// The first entry that is not as it was written.
    broken_at: Option<i64>,
}

async fn list(call: Call<Viewer, Page>) -> Answer<Entries> {
    let Page { before, peer, limit } = &call.query;
    let wrong = |error| Problem::invalid(format!("`peer`: {error}")).with("field", "peer");
    let peer = peer.as_ref().map(|peer| peer.parse::<PeerPattern>()).transpose().map_err(wrong)?;
    let limit = limit.unwrap_or(100);
    let entries = call.services.peers.trust().audit(*before, peer.as_ref(), limit).await?;
    let next = entries.last().map(|entry| entry.number).filter(|number| *number > 1);
    Ok(Entries { entries: entries.into_iter().map(Entry).collect(), next })
}

async fn verify(call: Call<Exporter>) -> Answer<Verified> {
    Ok(match call.services.peers.trust().verify_audit().await? {
        Ok(entries) => Verified { intact: true, entries, broken_at: None },
        Err(broken) => Verified { intact: false, entries: broken.number - 1, broken_at: Some(broken.number) },
    })
}
