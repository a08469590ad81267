//! Which server asks.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#authentication>

use std::{net::IpAddr, time::Duration};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{StatusCode, request::Parts};
use http_body_util::BodyExt as _;
use peers::{AuthError, Peers};
use ruma::{OwnedServerName, ServerName, api::federation::authentication::ServerSignatures};
use tokio::{sync::SemaphorePermit, time::timeout};

use crate::{Authenticate, Error, Needs, Services, endpoint::Incoming};

/// No request between servers is larger: a transaction has 50 events of 64 KiB and 100 messages beside them.
const MAX_BODY: usize = 25 << 20;
/// What every request may have; more has to fit into what all large bodies may have together.
const SMALL_BODY: usize = 64 << 10;
/// How long a server may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The server that has signed a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name.
    pub server: OwnedServerName,
}

impl Authenticate for ServerSignatures {
    type Session = Origin;

    const NEEDS: Needs = Needs::Server;

    async fn authenticate(parts: &Parts, body: &mut Incoming, _: IpAddr, services: &Services) -> Result<Origin, Error> {
        let peers = &services.peers;
        let origin = signed_by::<Error>(parts, body, peers).await?;
        if let Err(error) = peers.trust().admit_request(&origin.server, parts.uri.path()) {
            peers.note_refusal(Some(&origin.server), "untrusted", &error);
            return Err(error.into());
        }
        peers.note_heard(&origin.server);
        Ok(origin)
    }
}

/// Which server has signed a request, on any of the faces; what it is trusted with is another question. `E`: how the face
/// refuses.
pub(crate) async fn signed_by<E>(parts: &Parts, body: &mut Incoming, peers: &Peers) -> Result<Origin, E>
where
    E: From<Error> + From<AuthError>,
{
    // What no key can make right is refused before anything of the body is read, and before anybody is asked.
    let claim = peers.claim_of(&parts.headers).map_err(|error| refuse(peers, None, error))?;
    let read = read_once(body, &claim.origin, peers).await?;
    let signed = peers.verify_request(&claim, &parts.method, &parts.uri, read).await;
    *body = Incoming::Read(signed.map_err(|error| refuse(peers, Some(&claim.origin), error))?);
    Ok(Origin { server: claim.origin })
}

fn refuse(peers: &Peers, origin: Option<&ServerName>, error: AuthError) -> AuthError {
    peers.note_refusal(origin, error.reason(), &error);
    error
}

/// Reads the body of a request that says to be of `claimed`, which has proved nothing yet.
pub(crate) async fn read_once(body: &mut Incoming, claimed: &ServerName, peers: &Peers) -> Result<Bytes, Error> {
    match std::mem::replace(body, Incoming::Read(Bytes::new())) {
        Incoming::Read(read) => Ok(read),
        Incoming::Unread(body) => read_body(body, peers).await.map_err(|(reason, error)| {
            peers.note_refusal(Some(claimed), reason, &"its body could not be read");
            error
        }),
    }
}

/// With one word for why it failed.
async fn read_body(body: Body, peers: &Peers) -> Result<Bytes, (&'static str, Error)> {
    timeout(BODY_TIMEOUT, collect(body, peers)).await.unwrap_or_else(|_| {
        let message = "the body did not arrive in time";
        Err(("slow_body", Error::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", message)))
    })
}

async fn collect(mut body: Body, peers: &Peers) -> Result<Bytes, (&'static str, Error)> {
    let mut read = BytesMut::new();
    let mut space: Option<SemaphorePermit<'_>> = None;
    while let Some(frame) = body.frame().await {
        let broken = |_| ("broken_body", Error::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", "the body broke off"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if read.len() + data.len() > MAX_BODY {
            let message = format!("the body is larger than {MAX_BODY} bytes");
            return Err(("large_body", Error::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)));
        }
        read.extend_from_slice(&data);
        let taken = SMALL_BODY + space.as_ref().map_or(0, SemaphorePermit::num_permits);
        if let Some(more) = read.len().checked_sub(taken).and_then(|more| u32::try_from(more).ok())
            && more > 0
        {
            // Whoever waited here would hold what others wait for.
            let Ok(permit) = peers.large_bodies().try_acquire_many(more) else {
                let error = Error::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "too much arrives at once");
                return Err(("overloaded", error.with("retry_after_ms", 5_000)));
            };
            match &mut space {
                Some(space) => space.merge(permit),
                None => space = Some(permit),
            }
        }
    }
    Ok(read.freeze())
}
