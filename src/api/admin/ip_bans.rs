//! Addresses that are kept out.

use ipnet::IpNet;
use model::Millis;
use serde::{Deserialize, Serialize};
use store::ip_bans::IpBanRow;
use utoipa::{IntoParams, ToSchema};

use super::{
    staff::{Admin, Viewer},
    why::author,
};
use crate::{
    Problem,
    native::{Answer, Call, Endpoint, Nothing, delete, get, put},
};

/// How many an answer holds, and how many at most.
const USUAL: u32 = 50;
const MOST: u32 = 200;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/ip-bans", "Addresses that are kept out, by network.", list)
            .explained("Those that ran out are told for 30 days more."),
        put("/api/v1/admin/ip-bans", "Keeps an address or a network out, or changes until when.", ban).explained(
            "On every face and every node, within a second: 403 `address_banned`, or `M_FORBIDDEN` on the Matrix APIs. Open \
             WebSockets from there are closed. Addresses of the machine that the server runs on are never kept out. Behind a reverse proxy, \
             the address is the one that it passes on, if `listen.trusted_proxies` names the proxy.",
        ),
        delete("/api/v1/admin/ip-bans", "Lets an address or a network in again.", lift),
    ]
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct BansWanted {
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    limit: Option<u32>,
}

/// A network that is kept out.
#[derive(Serialize, ToSchema)]
#[schema(as = IpBan)]
struct BanView {
    /// `203.0.113.0/24`.
    network: String,
    /// For other admins.
    reason: String,
    /// Who did it.
    banned_by: String,
    /// When, milliseconds since 1970.
    banned_at: Millis,
    /// From then on it counts for nothing; absent: it lasts until it is lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Millis>,
}

impl From<IpBanRow> for BanView {
    fn from(row: IpBanRow) -> Self {
        let IpBanRow { network, reason, banned_by, banned_at, expires_at, .. } = row;
        Self { network, reason, banned_by, banned_at, expires_at }
    }
}

/// Some of what is kept out.
#[derive(Serialize, ToSchema)]
#[schema(as = IpBans)]
struct BansView {
    /// By network, as it is written.
    ip_bans: Vec<BanView>,
    /// What `cursor` is on the next page; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What is to be kept out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IpBanWish)]
struct BanWish {
    /// An address or a network: `203.0.113.7`, `203.0.113.0/24`, `2001:db8::/32`.
    network: String,
    /// For other admins, and for the log.
    reason: String,
    /// Until when, milliseconds since 1970; left out: until it is lifted.
    expires_at: Option<Millis>,
}

/// What is to be let in again.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct BanToLift {
    /// As it was banned: `203.0.113.0/24`.
    network: String,
    /// For other admins, and for the log.
    reason: String,
}

async fn list(call: Call<Viewer, BansWanted>) -> Answer<BansView> {
    let limit = call.query.limit.unwrap_or(USUAL).clamp(1, MOST);
    let after = call.query.cursor.as_deref().unwrap_or_default();
    let found = call.services.users.ip_bans(after, limit).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|last| last.network.clone())).flatten();
    Ok(BansView { ip_bans: found.into_iter().map(Into::into).collect(), next })
}

async fn ban(call: Call<Admin, Nothing, BanWish>) -> Answer<BanView> {
    let BanWish { network, reason, expires_at } = call.body;
    let (network, author) = (read(&network)?, author(&call.caller, reason));
    Ok(call.services.users.ban_network(network, expires_at, call.address, &author).await?.into())
}

async fn lift(call: Call<Admin, BanToLift>) -> Answer<Nothing> {
    let BanToLift { network, reason } = call.query;
    let (network, author) = (read(&network)?, author(&call.caller, reason));
    call.services.users.lift_ban(network, &author).await?;
    Ok(Nothing)
}

/// An address alone is a network of one.
fn read(text: &str) -> Result<IpNet, Problem> {
    let text = text.trim();
    let address = || text.parse::<std::net::IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    text.parse().or_else(|_| address()).map_err(|_| {
        let detail = "`network` is an IP address or a network, such as 203.0.113.7 or 203.0.113.0/24";
        Problem::invalid(detail).with("field", "network")
    })
}
