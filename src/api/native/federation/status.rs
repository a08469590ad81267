//! How this server sees the one that asks, and nobody else.

use std::collections::BTreeMap;

use model::peer::{PeerPattern, Standing};
use peers::{Scope, trust::Source};
use serde::Serialize;
use utoipa::ToSchema;

use super::Peer;
use crate::native::{Answer, Call, Endpoint, get};

/// How the calling server is seen.
#[derive(Serialize, ToSchema)]
struct PeerStatus {
    /// The calling server.
    #[schema(value_type = String)]
    server_name: ruma::OwnedServerName,
    /// Who sees it so.
    #[schema(value_type = String)]
    seen_by: ruma::OwnedServerName,
    /// `full`, `limited`, `restricted` or `blocked`.
    level: &'static str,
    /// `active`; `inactive`: switched off; `alarmed`: it signs with keys that it was not pinned to.
    standing: &'static str,
    /// How far each capability reaches, by name.
    #[schema(value_type = BTreeMap<String, String>)]
    capabilities: BTreeMap<&'static str, &'static str>,
    /// Whether an admin has set it by name. Otherwise it is seen as the servers of a domain are, as a list says, or
    /// as any server.
    is_named: bool,
    /// The server whose list it is seen by, if it is.
    #[schema(value_type = Option<String>)]
    listed_by: Option<ruma::OwnedServerName>,
    /// Since when that holds, if it was set by name, in milliseconds since 1970.
    since: Option<i64>,
    /// Until when that holds, if it ends, in milliseconds since 1970.
    expires_at: Option<i64>,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![get("/api/v1/federation/peer-status", "How this server sees yours.", status)]
}

async fn status(call: Call<Peer>) -> Answer<PeerStatus> {
    call.caller.check_scope(Scope::Status, &call.services.peers)?;
    let (peers, server) = (&call.services.peers, call.caller.server);
    let trust = peers.trust();
    let regard = trust.regard(&server);
    let row = match server.as_str().parse::<PeerPattern>() {
        Ok(pattern) => trust.get(&pattern).await?.filter(|row| !row.expired),
        Err(_) => None,
    };
    Ok(PeerStatus {
        seen_by: peers.server_name().to_owned(),
        level: regard.level.as_str(),
        standing: match regard.standing {
            Standing::Active => "active",
            Standing::Inactive => "inactive",
            Standing::Alarmed => "alarmed",
        },
        capabilities: regard.grants().into_iter().map(|(name, grant)| (name, grant.as_str())).collect(),
        is_named: row.is_some(),
        listed_by: match trust.source(&server) {
            Source::List { publisher, .. } => Some(publisher),
            _ => None,
        },
        since: row.as_ref().map(|row| row.changed_at),
        expires_at: row.and_then(|row| row.expires_at),
        server_name: server,
    })
}
