//! Full peers tell people here of broadcasts.

use integrations::broadcasts::{Audience, PeerBroadcast, Priority};
use model::{Millis, peer::Capability};
use peers::Scope;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Peer;
use crate::native::{Answer, Call, Endpoint, Nothing, post};

/// A broadcast of the calling server.
#[derive(Deserialize, ToSchema)]
struct ToldBroadcast {
    /// What the calling server calls it: the same one takes effect once.
    id: String,
    /// Who wrote it: somebody of the calling server, or the server itself.
    author: String,
    /// One line of 200 characters at most.
    title: String,
    /// Plain text, 8 KiB at most.
    body: String,
    /// The body with formatting, 16 KiB at most.
    html: Option<String>,
    /// `low`, `normal`, `high` or `urgent`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    priority: Priority,
    /// Whom it is for, as where broadcasts are made; people of other servers than this one are passed over.
    #[schema(value_type = Object)]
    audience: Audience,
    /// When it was published there, milliseconds since 1970.
    published_at: Millis,
    /// From then on nobody is told any more.
    expires_at: Option<Millis>,
    /// It was called back: nobody is told any more.
    #[serde(default)]
    cancelled: bool,
}

/// It was taken.
#[derive(Serialize, ToSchema)]
struct BroadcastTaken {}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![post("/api/v1/federation/broadcasts", "Tells people of this server something.", tell).explained(
        "For full peers. A token needs the scope `broadcasts`. 403 `declined` where the admins of this server don't want \
         broadcasts of others, 400 `nobody_here` where the audience has nobody of this server in it.",
    )]
}

async fn tell(call: Call<Peer, Nothing, ToldBroadcast>) -> Answer<BroadcastTaken> {
    let peers = &call.services.peers;
    call.caller.check(peers, Scope::Broadcasts, Capability::Broadcasts, async |_| Ok(false)).await?;
    let ToldBroadcast { id, author, title, body, html, priority, audience, published_at, expires_at, cancelled } =
        call.body;
    let told = PeerBroadcast { id, author, title, body, html, priority, audience, published_at, expires_at, cancelled };
    let received = call.services.announcements.broadcasts.receive(&call.caller.server, told).await;
    received.map(|()| BroadcastTaken {}).map_err(|error| call.caller.refuse(peers, error))
}
