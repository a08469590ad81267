//! Answers that are too large to be in memory at once: files.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use http::HeaderMap;
use ruma::{
    ServerName,
    api::{OutgoingRequest, federation::authentication::ServerSignatures, path_builder::PathBuilder},
};

use crate::{
    Failure, PeerError, Peers,
    client::{collect, refused, unreachable},
};

/// A refusal is read whole, and is no longer.
const LONGEST_REFUSAL: usize = 64 << 10;

/// An answer whose body comes piece by piece. Whoever reads it sees to its size, and to an end.
pub struct Streamed {
    /// What stands before the body.
    pub headers: HeaderMap,
    /// The body.
    pub body: BoxStream<'static, Result<Bytes, PeerError>>,
}

impl Peers {
    /// As [`Self::ask`], for an answer that is read piece by piece. Only its head has to be there within
    /// `request_timeout`.
    pub async fn ask_streamed<R>(&self, destination: &ServerName, request: R) -> Result<Streamed, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        let asked = self.signed(destination, request)?;
        let limit = self.shared.config.request_timeout;
        let asking = async {
            let (response, turn) = self.send(destination, asked).await?;
            if !response.status().is_success() {
                return Err(refused(destination, &collect(LONGEST_REFUSAL, destination, response).await?));
            }
            let headers = response.headers().clone();
            let server = destination.to_owned();
            let pieces = response.bytes_stream().map(move |piece| {
                // One more request may be made when this one is over.
                let _ = &turn;
                piece.map_err(|error| unreachable(&server, Failure::Broken, Some(error.into())))
            });
            Ok(Streamed { headers, body: pieces.boxed() })
        };
        self.within(limit, destination, asking).await
    }

    /// Gets what `server` says is at `url`, which is asked for without saying who asks. Only addresses on the public
    /// internet behind HTTPS are; all of it has to be there within `timeout`.
    pub async fn get_elsewhere(
        &self,
        server: &ServerName,
        url: &str,
        timeout: Duration,
    ) -> Result<Streamed, PeerError> {
        let malformed = |reason: String| PeerError::Malformed { server: server.to_owned(), reason };
        let getting = async {
            let url = url::Url::parse(url).map_err(|error| malformed(format!("the address of a file: {error}")))?;
            let web = self.shared.wire.resolver.public_web();
            let response = web.get(url, timeout).await;
            let response = response.map_err(|reason| malformed(format!("the address of a file: {reason}")))?;
            let (headers, server) = (response.headers().clone(), server.to_owned());
            let pieces = response.bytes_stream();
            let body = pieces
                .map(move |piece| piece.map_err(|error| unreachable(&server, Failure::Broken, Some(error.into()))));
            Ok(Streamed { headers, body: body.boxed() })
        };
        self.within(timeout, server, getting).await
    }
}
