//! Who brought a token to a third party, which asks us.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#openid>

use ruma::api::federation::openid::get_openid_userinfo::v1 as userinfo;

use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(user_info)]
}

/// Third parties are no servers: it works without federation, too.
async fn user_info(ask: Ask<userinfo::Request>) -> Answer<userinfo::Response> {
    let user_id = ask.services.users.openid_user(&ask.request.access_token).await?;
    Ok(userinfo::Response::new(user_id))
}
