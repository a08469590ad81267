//! The way out: other servers, or in tests a script.

use std::time::Duration;

use futures_util::future::BoxFuture;
use peers::{PeerError, Peers};
use ruma::{
    ServerName,
    api::federation::transactions::send_transaction_message::v1::{Request, Response},
};

/// How transactions get to other servers.
pub trait Way: Send + Sync + 'static {
    /// Sends a transaction, and waits for its answer, `timeout` at most.
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Response, PeerError>>;
}

impl Way for Peers {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Response, PeerError>> {
        Box::pin(self.ask_within(timeout, destination, request))
    }
}
