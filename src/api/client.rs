//! The Matrix client-server API, one file for each group of endpoints.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/>

mod account;
#[cfg(test)]
mod account_tests;
mod admin_register;
mod capabilities;
mod devices;
mod login;
mod profile;
mod register;

use crate::Route;

/// Every endpoint of this face.
pub(crate) fn routes() -> Vec<Route> {
    [
        account::routes(),
        admin_register::routes(),
        capabilities::routes(),
        devices::routes(),
        login::routes(),
        profile::routes(),
        register::routes(),
    ]
    .concat()
}
