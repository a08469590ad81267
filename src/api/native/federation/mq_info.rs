//! How the calling server logs in at this one's broker.

use model::peer::Capability;
use peers::{LinksError, Scope, links};
use serde::Serialize;
use utoipa::ToSchema;

use super::Peer;
use crate::native::{Answer, Call, Endpoint, Unkept, get};

/// Where this server's broker is, and the virtual host, the user and the password there that were made for the calling server
/// alone; the exchange to which its shovel may publish, and the one from which its upstream may fetch; and of what this server
/// makes its own links.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct MqInfo(links::Offer);

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![get(links::PATH, "How the calling server logs in at this one's broker.", mq_info).explained(
        "Only for a server that is trusted fully, by a row of its own: 403 `not_trusted` or `no_link` otherwise. A token needs the \
         scope `cascade`. 404 `no_broker` where there is none; 503 `link_not_ready` while it is being made.",
    )]
}

async fn mq_info(call: Call<Peer>) -> Answer<Unkept<MqInfo>> {
    let peers = &call.services.peers;
    call.caller.check(peers, Scope::Cascade, Capability::Broadcasts, async |_| Ok(false)).await?;
    let given = match &call.services.links {
        Some(links) => links.give(&call.caller.server).await,
        None => Err(LinksError::NoBroker),
    };
    given.map(|offer| Unkept(MqInfo(offer))).map_err(|error| call.caller.refuse(peers, error))
}
