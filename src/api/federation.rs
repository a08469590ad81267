//! The Matrix server-server API, one file for each group of endpoints.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/>

mod authenticate;
mod events;
mod keys;
mod membership;
mod spaces;
#[cfg(test)]
mod tests;
mod version;

use crate::{Error, Route, Services};

pub use authenticate::Origin;

/// Every endpoint of this face.
pub(crate) fn routes() -> Vec<Route> {
    [events::routes(), keys::routes(), membership::routes(), spaces::routes(), version::routes()].concat()
}

/// Refuses what nobody has to sign, too, where there is no federation.
fn check_is_enabled(services: &Services) -> Result<(), Error> {
    if services.peers.is_enabled() { Ok(()) } else { Err(peers::AuthError::Disabled.into()) }
}
