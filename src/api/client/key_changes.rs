//! Whose devices changed.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges>

use ruma::api::client::keys::get_key_changes;

use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(changes)]
}

async fn changes(ask: Ask<get_key_changes::v3::Request>) -> Answer<get_key_changes::v3::Response> {
    let lists = ask.services.sync.key_changes(&ask.session.user_id, &ask.request.from, &ask.request.to).await?;
    Ok(get_key_changes::v3::Response::new(lists.changed, lists.left))
}
