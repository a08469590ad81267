//! What other servers send: events, and what goes with them.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use federation::Incoming;
use ruma::api::federation::transactions::send_transaction_message::v1 as send_transaction;

use super::check_is_enabled;
use crate::{Answer, Ask, Error, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(send)]
}

async fn send(ask: Ask<send_transaction::Request>) -> Answer<send_transaction::Response> {
    check_is_enabled(&ask.services)?;
    let send_transaction::Request { transaction_id, origin, pdus, edus, .. } = ask.request;
    if origin != ask.session.server {
        let sender = &ask.session.server;
        return Err(Error::forbidden(format!("`origin` is {origin}, and the request is signed by {sender}")));
    }
    let transaction_id = transaction_id.to_string();
    let incoming = Incoming { origin: ask.session.server, transaction_id, pdus, edus };
    Ok(send_transaction::Response::new(ask.services.inbound.receive(incoming).await?))
}
