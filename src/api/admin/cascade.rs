//! How far the directories of full peers were read.

use integrations::cascade;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::staff::{Admin, Viewer};
use crate::native::{Answer, Call, Endpoint, Nothing, get, post};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/cascade", "How far the directories of full peers were read, and what went wrong.", show),
        post("/api/v1/admin/cascade/{server}/ask", "Has a full peer asked for its directory now.", ask)
            .explained("It is done when this has been answered, not before: see `asked_at` of the list."),
    ]
}

/// How directories are shared.
#[derive(Serialize, ToSchema)]
struct CascadeStatus {
    /// Whether they are, as the configuration says.
    enabled: bool,
    /// How far each peer was read, by name.
    peers: Vec<CascadePeer>,
}

/// How far the directory of a peer was read.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct CascadePeer(cascade::PeerStatus);

/// What a peer is asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CascadeAsk {
    /// For everything; otherwise for what has changed.
    #[serde(default)]
    anew: bool,
}

async fn show(call: Call<Viewer>) -> Answer<CascadeStatus> {
    let cascade = &call.services.cascade;
    let peers = cascade.status().await?.into_iter().map(CascadePeer).collect();
    Ok(CascadeStatus { enabled: cascade.is_enabled(), peers })
}

async fn ask(call: Call<Admin, Nothing, CascadeAsk>) -> Answer<Nothing> {
    let server: OwnedServerName = call.argument("server")?;
    let author = call.caller.session.user_id.as_str();
    call.services.cascade.ask_now(author, &server, call.body.anew).await?;
    Ok(Nothing)
}
