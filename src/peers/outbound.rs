//! Asking addresses that users name: the gateways that push to their phones, the pages they link to.
//!
//! Whoever names an address could name one inside the operator's network. Names are looked up here, and what is not the
//! internet is left out before anything is connected to, so that a name that changes between two looks doesn't help either.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::Method;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::{PeerError, addresses::is_open, client::USER_AGENT, tls};

/// How long a connection may take to be made, with looking the name up.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take, from connecting to its last byte, unless the request says otherwise.
const ANSWER: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(90);

/// `[outbound]`.
#[derive(Clone, Debug, Default)]
pub struct OutboundConfig {
    /// PEM certificates of authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether loopback and private addresses are connected to.
    pub allow_private_addresses: bool,
}

/// Asks addresses that users name. Cheap to clone.
#[derive(Clone)]
pub struct Outbound {
    client: reqwest::Client,
    allow_private_addresses: bool,
}

/// Why such an address was not asked, or its answer not read.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// It is neither `https://` nor `http://`.
    #[error("only addresses that begin with https:// or http:// can be asked")]
    Scheme,
    /// It is inside a private network, and the configuration doesn't allow that.
    #[error("this server doesn't connect to that address; outbound.allow_private_addresses would let it")]
    Closed,
    /// The answer is longer than it may be.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// No connection came about, it broke, or took too long.
    #[error("the address could not be asked")]
    Http(#[from] reqwest::Error),
}

impl Outbound {
    /// Errors: the authorities can't be read.
    pub fn new(config: &OutboundConfig) -> Result<Self, PeerError> {
        let roots = Arc::new(tls::roots("outbound.ca_file", config.ca_file.as_deref())?);
        let allow_private_addresses = config.allow_private_addresses;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::believing(roots)?)
            .dns_resolver(Arc::new(Guarded { allow_private_addresses }))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .pool_idle_timeout(IDLE)
            .no_proxy()
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| PeerError::Configuration(error.to_string()))?;
        Ok(Self { client, allow_private_addresses })
    }

    /// A request that may take 30 seconds. Redirects are answers like others: follow one by a request of its own.
    ///
    /// Errors: [`OutboundError::Scheme`], [`OutboundError::Closed`]. For a name that leads to such an address, sending fails.
    pub fn request(&self, method: Method, url: &Url) -> Result<reqwest::RequestBuilder, OutboundError> {
        if !matches!(url.scheme(), "https" | "http") {
            return Err(OutboundError::Scheme);
        }
        // Nobody looks up what is an address already.
        let literal: Option<IpAddr> = match url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) | None => None,
        };
        if literal.is_some_and(|address| !self.allow_private_addresses && !is_open(address)) {
            return Err(OutboundError::Closed);
        }
        Ok(self.client.request(method, url.clone()))
    }

    /// The whole body of an answer, of at most `most` bytes.
    pub async fn read(answer: reqwest::Response, most: usize) -> Result<Bytes, OutboundError> {
        if answer.content_length().is_some_and(|length| length > most as u64) {
            return Err(OutboundError::TooLarge(most));
        }
        let (mut body, mut pieces) = (BytesMut::new(), answer.bytes_stream());
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if body.len() + piece.len() > most {
                return Err(OutboundError::TooLarge(most));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }
}

/// Looks names up as the system does, and keeps back what must not be connected to.
struct Guarded {
    allow_private_addresses: bool,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private_addresses = self.allow_private_addresses;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let open: Vec<_> = found.filter(|address| allow_private_addresses || is_open(address.ip())).collect();
            if open.is_empty() {
                return Err(Box::from(OutboundError::Closed));
            }
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbound(allow_private_addresses: bool) -> Outbound {
        Outbound::new(&OutboundConfig { ca_file: None, allow_private_addresses }).expect("a client")
    }

    #[tokio::test]
    async fn nobody_is_sent_to_the_operators_own_doors() {
        let outbound = outbound(false);
        for closed in
            ["http://127.0.0.1/", "https://10.0.0.1:8443/", "http://[::1]/", "http://0x7f.1/", "http://2130706433/"]
        {
            let url = closed.parse().expect("a URL");
            assert!(matches!(outbound.request(Method::GET, &url), Err(OutboundError::Closed)), "{closed}");
        }
        let file = "file:///etc/passwd".parse().expect("a URL");
        assert!(matches!(outbound.request(Method::GET, &file), Err(OutboundError::Scheme)));
        // A name that leads there.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://localhost:{}/", listener.local_addr().expect("an address").port());
        let request = outbound.request(Method::GET, &url.parse().expect("a URL")).expect("a name is not looked up yet");
        let error = request.send().await.expect_err("localhost is closed");
        assert!(format!("{error:?}").contains("Closed"), "{error:?}");
    }

    #[tokio::test]
    async fn an_answer_is_read_no_further_than_it_may_be_long() {
        let app = answering(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n0123456789").await;
        for (most, fits) in [(10, true), (9, false)] {
            let request = outbound(true).request(Method::GET, &app).expect("allowed");
            let answer = request.send().await.expect("an answer");
            assert_eq!(Outbound::read(answer, most).await.is_ok(), fits, "{most}");
        }
    }

    /// Answers the same to whoever comes, twice.
    async fn answering(answer: &'static [u8]) -> Url {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.expect("a request"), 0);
                stream.write_all(answer).await.expect("somebody who listens");
            }
        });
        format!("http://localhost:{port}/").parse().expect("a URL")
    }
}
