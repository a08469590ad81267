//! Where this server is found, and what it runs.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#server-discovery>

use ruma::api::federation::discovery::{discover_homeserver, get_server_version::v1 as get_version};

use super::check_is_enabled;
use crate::{Answer, Ask, Error, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(well_known), endpoint(version)]
}

async fn well_known(ask: Ask<discover_homeserver::Request>) -> Answer<discover_homeserver::Response> {
    let server = ask.services.config.well_known_server.clone();
    let server = server.ok_or_else(|| Error::not_found("this server has no `federation.well_known_server`"))?;
    Ok(discover_homeserver::Response::new(server))
}

async fn version(ask: Ask<get_version::Request>) -> Answer<get_version::Response> {
    check_is_enabled(&ask.services)?;
    let mut server = get_version::Server::new();
    server.name = Some("Comity".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = get_version::Response::new();
    response.server = Some(server);
    Ok(response)
}
