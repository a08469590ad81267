//! Asking another server.

use std::time::Duration;

use ruma::{
    ServerName,
    api::{OutgoingRequest, federation::authentication::ServerSignatures, path_builder::PathBuilder},
};

use crate::{PeerError, Peers};

impl Peers {
    /// Asks `destination`: finds it, signs the request, and reads the answer. Takes `request_timeout` at most.
    pub async fn ask<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.ask_within(self.shared.config.request_timeout, destination, request).await
    }

    /// As [`Self::ask`], for answers that may be large: states and auth chains.
    pub async fn ask_large<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.ask(destination, request).await
    }

    /// As [`Self::ask`], for what may take longer or must not.
    pub async fn ask_within<R>(
        &self,
        _timeout: Duration,
        _destination: &ServerName,
        _request: R,
    ) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        Err(PeerError::Disabled)
    }
}
