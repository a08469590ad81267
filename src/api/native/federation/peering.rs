//! Other servers offer to be peers, accept an offer, and say that they see this server otherwise.

use peers::{Scope, peering::Notice};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Peer;
use crate::native::{Answer, Call, Endpoint, Nothing, post};

/// A document that servers have signed.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct Document(Value);

/// The calling server sees this one otherwise than was agreed.
#[derive(Deserialize, ToSchema)]
struct ChangedTrust {
    /// Of the offer from which the agreement came.
    id: String,
    /// `full`, `limited`, `restricted`, `blocked` or `inactive`.
    trusted: String,
    /// It holds to the agreement no longer.
    #[serde(default)]
    ended: bool,
    /// Larger with each notice; what is not larger than what was heard before is dropped.
    number: i64,
}

/// It was taken.
#[derive(Serialize, ToSchema)]
struct Taken {}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        post("/api/v1/federation/peering/offer", "Offers to be peers.", offer).explained(
            "The body is an offer, signed by the calling server. An admin of this server looks at it, compares the keys by phone, \
             and accepts it or not.",
        ),
        post("/api/v1/federation/peering/accept", "Accepts an offer of this server's.", accept).explained(
            "The body is an agreement that holds the offer, signed by the calling server. The answer is the same, signed by this \
             server too: it is in force. Who asks again gets the same answer.",
        ),
        post("/api/v1/federation/peering/notice", "Says that the calling server sees this one otherwise.", notice),
    ]
}

async fn offer(call: Call<Peer, Nothing, Document>) -> Answer<Taken> {
    let peers = &call.services.peers;
    call.caller.check_scope(Scope::Peering, peers)?;
    let taken = peers.peering().take(&call.body.0.to_string(), Some(&call.caller.server)).await;
    taken.map(|_| Taken {}).map_err(|error| call.caller.refuse(peers, error))
}

async fn accept(call: Call<Peer, Nothing, Document>) -> Answer<Document> {
    let peers = &call.services.peers;
    call.caller.check_scope(Scope::Peering, peers)?;
    let concluded = peers.peering().conclude(&call.body.0.to_string(), &call.caller.server).await;
    let signed = concluded.map_err(|error| call.caller.refuse(peers, error))?;
    Ok(Document(serde_json::from_str(&signed).unwrap_or_default()))
}

async fn notice(call: Call<Peer, Nothing, ChangedTrust>) -> Answer<Taken> {
    let peers = &call.services.peers;
    call.caller.check_scope(Scope::Peering, peers)?;
    let ChangedTrust { id, trusted, ended, number } = call.body;
    let notice = Notice { id, trusted, ended, number };
    let heard = peers.peering().hear(&notice, &call.caller.server).await;
    heard.map(|()| Taken {}).map_err(|error| call.caller.refuse(peers, error))
}
