//! The Matrix client-server API, one file for each group of endpoints.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/>

mod account;
#[cfg(test)]
mod account_tests;
mod admin_register;
mod capabilities;
mod create_room;
mod devices;
mod history;
mod keys;
mod login;
mod membership;
mod profile;
mod register;
mod send;
mod sync;

use crate::Route;

/// Every endpoint of this face.
pub(crate) fn routes() -> Vec<Route> {
    [
        account::routes(),
        admin_register::routes(),
        capabilities::routes(),
        create_room::routes(),
        devices::routes(),
        history::routes(),
        keys::routes(),
        login::routes(),
        membership::routes(),
        profile::routes(),
        register::routes(),
        send::routes(),
        sync::routes(),
    ]
    .concat()
}
