//! The list of servers that this one publishes.

use model::peer::Capability;
use peers::{Scope, lists::PATH};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Peer;
use crate::native::{Answer, Call, Endpoint, get};

/// A list of servers as it is signed: who publishes it, its version, until when it is good, how far each server may be trusted at
/// most and by which keys it is known, and the publisher's signature over all of that as canonical JSON.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct SignedFederationList(Value);

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get(PATH, "The list of servers that this one publishes for others to go by.", list)
            .explained("404 `no_list` where it publishes none. A token needs the scope `status`."),
    ]
}

async fn list(call: Call<Peer>) -> Answer<SignedFederationList> {
    let peers = &call.services.peers;
    // Whoever may talk with this server at all.
    call.caller.check(peers, Scope::Status, Capability::Events, async |_| Ok(false)).await?;
    Ok(SignedFederationList(peers.lists().published().await?))
}
