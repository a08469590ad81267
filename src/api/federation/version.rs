//! What this server runs.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1version>

use ruma::api::federation::discovery::get_server_version::v1 as get_version;

use super::check_is_enabled;
use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(version)]
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
