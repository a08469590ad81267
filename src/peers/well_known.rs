//! `/.well-known/matrix/server`: a domain says which server speaks for it.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver>

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use hickory_resolver::TokioResolver;
use http::{StatusCode, header};
use quick_cache::sync::Cache;
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use crate::{Failure, PeerError, PeersConfig, addresses::is_open, client::failure_of};

/// No answer is longer.
const LONGEST_ANSWER: usize = 50 << 10;
const REDIRECTS: usize = 5;
const TIMEOUT: Duration = Duration::from_secs(10);
const DOMAINS: usize = 10_000;
/// Spec: "Servers should respect the cache control headers present on the response, or use a sensible default when headers
/// are not present. The recommended sensible default is 24 hours. Servers should additionally impose a maximum cache time
/// for responses: 48 hours is recommended. Errors are recommended to be cached for up to an hour."
const DEFAULT_LIFE: Duration = Duration::from_hours(24);
const LONGEST_LIFE: Duration = Duration::from_hours(48);
const SHORTEST_LIFE: Duration = Duration::from_mins(5);
/// Most domains have none, and nobody waits long for one that is added.
const LIFE_OF_NONE: Duration = Duration::from_mins(15);
/// That nothing answered may pass sooner.
const LIFE_OF_FAILURE: Duration = Duration::from_mins(1);

/// What domains say, as far as it was asked.
pub(crate) struct WellKnown {
    client: reqwest::Client,
    allow_private_addresses: bool,
    said: Cache<String, Arc<Said>>,
}

/// Why a domain names no server.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unnamed {
    /// Nobody answers there.
    #[error("{reason}")]
    Unreachable {
        /// What failed: the connection, TLS, time.
        failure: Failure,
        /// The innermost reason.
        reason: String,
    },
    /// The answer is an error.
    #[error("HTTP status {0}")]
    Status(StatusCode),
    /// It led to where nobody goes on to, or in circles.
    #[error("it is redirected to {0}, where it is not followed: too often, not to https, or to a private address")]
    Redirected(String),
    /// The answer is no JSON object with `m.server`.
    #[error("the answer names no server: {0}")]
    Malformed(String),
    /// What it names can't be the name of a server.
    #[error("the answer names `{0}`, which can't be the name of a server")]
    Misnamed(String),
}

struct Said {
    server: Result<OwnedServerName, Unnamed>,
    until: Instant,
    /// What was said before, for when nobody answers.
    before: Option<OwnedServerName>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "m.server")]
    server: String,
}

impl WellKnown {
    pub(crate) fn new(dns: TokioResolver, config: &PeersConfig, tls: &rustls::ClientConfig) -> Result<Self, PeerError> {
        let allow_private_addresses = config.allow_private_addresses;
        let policy = redirect::Policy::custom(move |attempt| {
            let leads_astray =
                attempt.url().scheme() != "https" || leads_inside(attempt.url(), allow_private_addresses);
            if attempt.previous().len() > REDIRECTS || leads_astray { attempt.stop() } else { attempt.follow() }
        });
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .dns_resolver(Arc::new(Guarded { dns, allow_private_addresses }))
            .redirect(policy)
            .connect_timeout(config.connect_timeout.min(TIMEOUT))
            .timeout(config.request_timeout.min(TIMEOUT))
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .map_err(|error| PeerError::Configuration(error.to_string()))?;
        Ok(Self { client, allow_private_addresses, said: Cache::new(DOMAINS) })
    }

    /// Which server speaks for `domain`, or why nobody is named.
    pub(crate) async fn find(&self, domain: &str) -> Result<OwnedServerName, Unnamed> {
        let said = self.said.get(domain);
        if let Some(said) = said.as_ref().filter(|said| said.until > Instant::now()) {
            return said.server.clone();
        }
        let before = said.and_then(|said| said.server.clone().ok().or_else(|| said.before.clone()));
        let (mut server, life) = self.ask(domain).await;
        // Nobody answers now: what was said before still holds.
        if let (Err(_), Some(before)) = (&server, before.as_ref().filter(|_| life == LIFE_OF_FAILURE)) {
            server = Ok(before.clone());
        }
        let until = Instant::now() + life;
        self.said.insert(domain.to_owned(), Arc::new(Said { server: server.clone(), until, before }));
        server
    }

    /// Gets what is at `url`, if that is on the public internet and behind HTTPS, and so is wherever it leads on to.
    pub(crate) async fn get(&self, url: url::Url, timeout: Duration) -> Result<reqwest::Response, String> {
        if url.scheme() != "https" || leads_inside(&url, self.allow_private_addresses) {
            return Err("it is no address on the public internet behind HTTPS".to_owned());
        }
        let response = self.client.get(url).timeout(timeout).send().await.map_err(|error| root_cause(&error))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(format!("HTTP status {status}")),
        }
    }

    async fn ask(&self, domain: &str) -> (Result<OwnedServerName, Unnamed>, Duration) {
        let unreachable = |error: reqwest::Error| {
            let (failure, reason) = (failure_of(&error), root_cause(&error));
            (Err(Unnamed::Unreachable { failure, reason }), LIFE_OF_FAILURE)
        };
        let malformed = |reason: String| (Err(Unnamed::Malformed(reason)), LIFE_OF_NONE);
        let request = self.client.get(format!("https://{domain}/.well-known/matrix/server"));
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return unreachable(error),
        };
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            return (Err(Unnamed::Redirected(to.chars().take(200).collect())), LIFE_OF_NONE);
        }
        if !status.is_success() {
            let life = if status.is_server_error() { LIFE_OF_FAILURE } else { LIFE_OF_NONE };
            return (Err(Unnamed::Status(status)), life);
        }
        let life = life_of(response.headers());
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) if body.len() + chunk.len() <= LONGEST_ANSWER => body.extend_from_slice(&chunk),
                Ok(_) => return malformed(format!("it is longer than {LONGEST_ANSWER} bytes")),
                Err(error) => return unreachable(error),
            }
        }
        match serde_json::from_slice::<Answer>(&body) {
            Ok(answer) => match ServerName::parse(&*answer.server) {
                Ok(server) => (Ok(server), life),
                Err(_) => (Err(Unnamed::Misnamed(answer.server.chars().take(200).collect())), LIFE_OF_NONE),
            },
            Err(error) => malformed(error.to_string()),
        }
    }
}

/// How long an answer may be believed.
fn life_of(headers: &http::HeaderMap) -> Duration {
    let directives = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    for directive in directives.split(',').map(|directive| directive.trim().to_ascii_lowercase()) {
        if directive == "no-store" || directive == "no-cache" {
            return SHORTEST_LIFE;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=").and_then(|age| age.parse().ok()) {
            return Duration::from_secs(seconds).clamp(SHORTEST_LIFE, LONGEST_LIFE);
        }
    }
    DEFAULT_LIFE
}

/// Whether a URL names an address of this server's own network.
fn leads_inside(url: &url::Url, allow_private_addresses: bool) -> bool {
    match url.host() {
        _ if allow_private_addresses => false,
        Some(url::Host::Ipv4(v4)) => !is_open(v4.into()),
        Some(url::Host::Ipv6(v6)) => !is_open(v6.into()),
        _ => false,
    }
}

/// Looks names up for one connection at a time, and leaves out addresses that are never connected to.
struct Guarded {
    dns: TokioResolver,
    allow_private_addresses: bool,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (dns, allow_private_addresses) = (self.dns.clone(), self.allow_private_addresses);
        Box::pin(async move {
            let found = dns.lookup_ip(format!("{}.", name.as_str().trim_end_matches('.'))).await?;
            let open: Vec<SocketAddr> = found
                .iter()
                .filter(|ip| allow_private_addresses || is_open(*ip))
                .map(|ip| SocketAddr::new(ip, 0))
                .collect();
            if open.is_empty() {
                return Err("none of its addresses is on the public internet".into());
            }
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

/// The innermost reason of an error, which is what an operator wants to know.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
