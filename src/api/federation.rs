//! The Matrix server-server API, one file for each group of endpoints.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/>

mod authenticate;
mod devices;
mod events;
mod first_forms;
mod keys;
mod media;
mod membership;
mod openid;
mod public_rooms;
mod query;
mod send;
mod spaces;
#[cfg(test)]
mod tests;
mod trust;
mod version;

use ruma::UserId;

use crate::{Error, Route, Services};

pub use authenticate::Origin;
pub(crate) use authenticate::{read_once, signed_by};

/// Every endpoint of this face.
pub(crate) fn routes() -> Vec<Route> {
    [
        devices::routes(),
        events::routes(),
        first_forms::routes(),
        keys::routes(),
        media::routes(),
        membership::routes(),
        openid::routes(),
        public_rooms::routes(),
        query::routes(),
        send::routes(),
        spaces::routes(),
        version::routes(),
    ]
    .concat()
}

/// Refuses what nobody has to sign, too, where there is no federation.
fn check_is_enabled(services: &Services) -> Result<(), Error> {
    if services.peers.is_enabled() { Ok(()) } else { Err(peers::AuthError::Disabled.into()) }
}

/// Refuses what only another server can know.
fn check_is_ours(services: &Services, user_id: &UserId) -> Result<(), Error> {
    if services.users.is_ours(user_id) {
        Ok(())
    } else {
        Err(Error::not_found(format!("{user_id} is not a user of this server")))
    }
}
