//! Tokens by which a user proves to a third party who they are.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#openid>

use ruma::{api::client::account::request_openid_token::v3 as request_token, authentication::TokenType};
use users::OPENID_LIFETIME;

use super::check_is_self;
use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(request)]
}

async fn request(ask: Ask<request_token::Request>) -> Answer<request_token::Response> {
    check_is_self(&ask.session, &ask.request.user_id)?;
    let token = ask.services.users.issue_openid_token(&ask.session.user_id);
    let server = ask.services.peers.server_name().to_owned();
    Ok(request_token::Response::new(token, TokenType::Bearer, server, OPENID_LIFETIME))
}
