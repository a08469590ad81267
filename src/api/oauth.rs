//! The OAuth 2.0 API, and the pages on which people sign in, allow clients to act for them, and look after their sessions.
//!
//! The pages work without scripts, load nothing from elsewhere, and can't be framed. What a page is about stands in its address, so that
//! nothing is kept between two requests but what `users::oauth` keeps for all nodes.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api>

mod account;
mod authorize;
mod form;
mod link;
mod metadata;
mod page;
mod sign_in;
mod sso;
#[cfg(test)]
mod tests;
mod token;
mod visitor;

use crate::{Error, Route, Services};

pub(crate) use metadata::well_known;
pub(crate) use sso::has_sso;

/// Every endpoint and page of this folder.
pub(crate) fn routes() -> Vec<Route> {
    [
        account::routes(),
        authorize::routes(),
        link::routes(),
        metadata::routes(),
        page::routes(),
        sign_in::routes(),
        sso::routes(),
        token::routes(),
    ]
    .concat()
}

/// Where the OAuth 2.0 API is reached; `None`: there is none.
pub(crate) fn base_of(services: &Services) -> Option<&str> {
    services.public_baseurl.as_deref().filter(|_| services.users.config().oauth.enabled)
}

/// The same, for endpoints that aren't there without.
fn base(services: &Services) -> Result<&str, Error> {
    base_of(services).ok_or_else(Error::unrecognized)
}
