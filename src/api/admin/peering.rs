//! Offers to be peers: made here, and made by other servers.

use std::time::Duration;

use model::peer::TrustLevel;
use peers::{
    peering::{Acceptance, OfferWish, PeeringView, Told},
    trust::Author,
};
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::staff::{Admin, Viewer};
use crate::native::{Answer, Call, Endpoint, Nothing, get, post};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/peering", "Offers to be peers, and what became of them, the latest first.", list),
        post("/api/v1/admin/peering", "Offers another server to be peers.", offer).explained(OFFER),
        post(
            "/api/v1/admin/peering/received",
            "Hands in another server's offer that was carried here by hand.",
            receive,
        ),
        post("/api/v1/admin/peering/{id}/accept", "Accepts another server's offer.", accept).explained(ACCEPT),
        post("/api/v1/admin/peering/{id}/withdraw", "Takes an offer back, or declines one.", withdraw),
    ]
}

const OFFER: &str = "The other server is asked for its keys, which become part of the offer. It is handed over at once if that \
    server can be reached, else it is tried again; `document` may as well be carried there by hand. Before that, the admins of both \
    servers say the words of their own server's keys by phone: if `words` are not those of the keys that the other server shows \
    here, somebody stands between the two, and it is refused.";

const ACCEPT: &str = "`words` are those of the other server's keys, as an admin of it says them by phone: if they are not the words \
    of the keys in the offer, somebody stands between the two servers, and it is refused. In force when the other server has signed \
    the agreement too: `state` is `agreed` then.";

/// Offers, and what became of them.
#[derive(Serialize, ToSchema)]
struct Peerings {
    /// This server.
    #[schema(value_type = String)]
    server_name: OwnedServerName,
    /// The words of this server's keys, to be said by phone.
    words: Vec<&'static str>,
    /// The latest first.
    peerings: Vec<Shown>,
}

/// An offer, and what became of it.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(as = Peering, value_type = Object)]
struct Shown(PeeringView);

/// What is offered.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewOffer {
    /// To which server.
    #[schema(value_type = String)]
    server: OwnedServerName,
    /// The words of its keys, as an admin of it has said them by phone.
    words: String,
    /// How far this server will trust it: `full`, `limited` or `restricted`.
    #[schema(value_type = String)]
    level: TrustLevel,
    /// How far it is asked to trust this one; left out: as far.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    ask: Option<TrustLevel>,
    /// How long the offer counts, in seconds: a minute to 30 days.
    #[serde(default = "week")]
    lifetime: u64,
    /// Where this server is, host and port, if its name does not lead there.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    endpoint: Option<OwnedServerName>,
    /// Whom to ask about this server.
    #[serde(default)]
    contact: Option<String>,
    /// Why: for other admins, and for the log.
    reason: String,
}

fn week() -> u64 {
    7 * 24 * 60 * 60
}

/// An offer that was carried here.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Carried {
    /// As the other server signed it.
    #[schema(value_type = Object)]
    offer: Value,
}

/// An offer is accepted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Yes {
    /// The words of the other server's keys, as an admin of it has said them by phone.
    words: String,
    /// How far the other server is trusted; left out: as it asks.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    level: Option<TrustLevel>,
    /// Where this server is, host and port, if its name does not lead there.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    endpoint: Option<OwnedServerName>,
    /// Whom to ask about this server.
    #[serde(default)]
    contact: Option<String>,
    /// Why: for other admins, and for the log.
    reason: String,
}

/// An offer is taken back or declined.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct No {
    /// Why: for other admins, and for the log.
    reason: String,
}

fn author(caller: &Admin, reason: &str) -> Author {
    Author { actor: caller.session.user_id.to_string(), reason: reason.to_owned() }
}

async fn list(call: Call<Viewer>) -> Answer<Peerings> {
    let peers = &call.services.peers;
    let peerings = peers.peering().list().await?.into_iter().map(Shown).collect();
    Ok(Peerings { server_name: peers.server_name().to_owned(), words: peers.peering().our_words(), peerings })
}

async fn offer(call: Call<Admin, Nothing, NewOffer>) -> Answer<Shown> {
    let author = author(&call.caller, &call.body.reason);
    let NewOffer { server, words, level, ask, lifetime, endpoint, contact, .. } = call.body;
    let lifetime = Duration::from_secs(lifetime);
    let wish =
        OfferWish { server, words, give: level, ask: ask.unwrap_or(level), lifetime, told: Told { endpoint, contact } };
    Ok(Shown(call.services.peers.peering().offer(&wish, &author).await?))
}

async fn receive(call: Call<Admin, Nothing, Carried>) -> Answer<Shown> {
    Ok(Shown(call.services.peers.peering().take(&call.body.offer.to_string(), None).await?))
}

async fn accept(call: Call<Admin, Nothing, Yes>) -> Answer<Shown> {
    let id: String = call.argument("id")?;
    let author = author(&call.caller, &call.body.reason);
    let Yes { words, level, endpoint, contact, .. } = call.body;
    let acceptance = Acceptance { words, level, told: Told { endpoint, contact } };
    Ok(Shown(call.services.peers.peering().accept(&id, &acceptance, &author).await?))
}

async fn withdraw(call: Call<Admin, Nothing, No>) -> Answer<Shown> {
    let id: String = call.argument("id")?;
    let author = author(&call.caller, &call.body.reason);
    Ok(Shown(call.services.peers.peering().withdraw(&id, &author).await?))
}
