//! Asking another server.

use std::{
    collections::HashMap,
    error::Error as StdError,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, header};
use metrics::{counter, histogram};
use quick_cache::sync::Cache;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use ruma::{
    CanonicalJsonValue, OwnedServerName, ServerName,
    api::{
        IncomingResponse, OutgoingBody as _, OutgoingRequest, auth_scheme::NoAuthentication,
        federation::authentication::ServerSignatures, path_builder::PathBuilder,
    },
};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Failure, PeerError, Peers, PeersConfig,
    lookup::Lookup,
    resolver::{Place, Resolver},
    tls,
    well_known::root_cause,
    x_matrix,
};

/// No ordinary answer is longer.
pub(crate) const ORDINARY: usize = 16 << 20;
/// No state of a room is longer.
const LARGE: usize = 256 << 20;
/// Whoever asks for the state of a large room waits so much longer.
const LARGE_TIMES: u32 = 4;
/// How many requests to one server are under way at once.
const AT_ONCE: usize = 16;
/// For how many hosts it is remembered where connections lead.
const HOSTS: usize = 20_000;
const IDLE: Duration = Duration::from_secs(90);
pub(crate) const USER_AGENT: &str = concat!("Comity/", env!("CARGO_PKG_VERSION"));

/// What requests to other servers are made with.
pub(crate) struct Wire {
    pub(crate) resolver: Resolver,
    /// For hosts whose port is part of their name.
    explicit: Route,
    /// For hosts whose port was found out.
    discovered: Route,
    busy: Mutex<HashMap<OwnedServerName, Weak<Semaphore>>>,
}

/// A client, and where the hosts are that it connects to.
struct Route {
    client: reqwest::Client,
    hosts: Arc<Hosts>,
}

struct Hosts(Cache<String, Arc<[SocketAddr]>>);

impl Resolve for Hosts {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.0.get(name.as_str());
        Box::pin(async move {
            let found = found.ok_or("it was forgotten where the host is")?;
            Ok(Box::new(Vec::from(&*found).into_iter()) as Addrs)
        })
    }
}

impl Wire {
    pub(crate) fn new(config: &PeersConfig) -> Result<Self, PeerError> {
        let tls = tls::client_config(config, &Arc::new(tls::roots_of_peers(config)?))?;
        Ok(Self {
            resolver: Resolver::new(config, &tls)?,
            explicit: Route::new(config, &tls)?,
            discovered: Route::new(config, &tls)?,
            busy: Mutex::default(),
        })
    }

    /// Whose turn it is to ask `server`.
    fn turns(&self, server: &ServerName) -> Arc<Semaphore> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = busy.get(server).and_then(Weak::upgrade) {
            return turns;
        }
        busy.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        busy.insert(server.to_owned(), Arc::downgrade(&turns));
        turns
    }
}

impl Route {
    fn new(config: &PeersConfig, tls: &rustls::ClientConfig) -> Result<Self, PeerError> {
        let hosts = Arc::new(Hosts(Cache::new(HOSTS)));
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .dns_resolver(hosts.clone())
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(Duration::from_secs(60))
            .tcp_nodelay(true)
            .no_proxy()
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| PeerError::Configuration(error.to_string()))?;
        Ok(Self { client, hosts })
    }
}

impl Peers {
    /// For requests to addresses that an admin has set: it trusts the same authorities, follows no redirects, and looks names up as
    /// the system does.
    pub fn plain_client(&self) -> Result<reqwest::Client, PeerError> {
        let config = &self.shared.config;
        let tls = tls::client_config(config, &Arc::new(tls::roots_of_peers(config)?))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(IDLE)
            .no_proxy()
            .user_agent(USER_AGENT);
        client.build().map_err(|error| PeerError::Configuration(error.to_string()))
    }
}

/// Finds servers, and does no more: for an operator who wants to know how.
pub struct Finder(Resolver);

impl Finder {
    /// As the server would, by the same configuration.
    pub fn new(config: &PeersConfig) -> Result<Self, PeerError> {
        let roots = Arc::new(tls::roots_of_peers(config)?);
        Ok(Self(Resolver::new(config, &tls::client_config(config, &roots)?)?))
    }

    /// Every step of finding `server` by its name, and where it is. What an admin has set is left aside.
    pub async fn trace(&self, server: &ServerName) -> (Vec<Lookup>, Result<Place, String>) {
        let (found, _, lookups) = self.0.look(server, None).await;
        (lookups, found)
    }
}

/// A request before it has a place to go.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// How long to wait for an answer, and how much of it to read.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    timeout: Duration,
    bytes: usize,
}

impl Peers {
    /// Asks `destination`: finds it, signs the request, and reads the answer. Takes `request_timeout` at most.
    ///
    /// Errors: what became of it, by [`PeerError::failure`].
    pub async fn ask<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.ask_within(self.shared.config.request_timeout, destination, request).await
    }

    /// As [`Self::ask`], for answers that may be large: states and auth chains. They may take four times as long.
    pub async fn ask_large<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.ask_signed(self.large(), destination, request).await
    }

    pub(crate) fn ordinary(&self) -> Bounds {
        Bounds { timeout: self.shared.config.request_timeout, bytes: ORDINARY }
    }

    pub(crate) fn large(&self) -> Bounds {
        Bounds { timeout: self.shared.config.request_timeout * LARGE_TIMES, bytes: LARGE }
    }

    /// As [`Self::ask`], for what may take longer or must not.
    pub async fn ask_within<R>(
        &self,
        timeout: Duration,
        destination: &ServerName,
        request: R,
    ) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.ask_signed(Bounds { timeout, bytes: ORDINARY }, destination, request).await
    }

    /// Asks what anybody may ask.
    pub async fn ask_unsigned<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = NoAuthentication>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        let asked = asked(destination, request)?;
        let answer = self.exchange(self.ordinary(), destination, asked).await?;
        read::<R>(destination, answer)
    }

    async fn ask_signed<R>(
        &self,
        bounds: Bounds,
        destination: &ServerName,
        request: R,
    ) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        let asked = self.signed(destination, request)?;
        let answer = self.exchange(bounds, destination, asked).await?;
        read::<R>(destination, answer)
    }

    /// A request on another server's native API, and what it answered, in `bytes` at most, if that is no refusal.
    pub(crate) async fn exchange_native(
        &self,
        destination: &ServerName,
        asked: Asked,
        bytes: usize,
    ) -> Result<http::Response<Bytes>, PeerError> {
        let bounds = Bounds { timeout: self.shared.config.request_timeout, bytes };
        let answer = self.exchange(bounds, destination, asked).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(refused(destination, &answer)) }
    }

    /// One of ruma's requests, taken apart and signed.
    pub(crate) fn signed<R>(&self, destination: &ServerName, request: R) -> Result<Asked, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures>,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.sign(destination, asked(destination, request)?)
    }

    /// Says who asks, if the trust in `destination` lets it be asked.
    pub(crate) fn sign(&self, destination: &ServerName, mut asked: Asked) -> Result<Asked, PeerError> {
        self.trust().admit_asking(destination, &asked.uri)?;
        let ours = |error: String| PeerError::Configuration(error);
        let content: Option<CanonicalJsonValue> = match asked.body.is_empty() {
            true => None,
            false => Some(serde_json::from_slice(&asked.body).map_err(|error| ours(error.to_string()))?),
        };
        let header = x_matrix::sign(&self.shared.key, destination, &asked.method, &asked.uri, content.as_ref());
        asked.headers.insert(header::AUTHORIZATION, header.map_err(|error| ours(error.to_string()))?);
        Ok(asked)
    }

    /// One request and its answer, between connecting and the last byte within `bounds`.
    pub(crate) async fn exchange(
        &self,
        bounds: Bounds,
        destination: &ServerName,
        asked: Asked,
    ) -> Result<http::Response<Bytes>, PeerError> {
        self.within(bounds.timeout, destination, self.exchange_at_leisure(bounds.bytes, destination, asked)).await
    }

    /// What becomes of asking `destination` within `limit`: counted, and remembered where it matters.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        destination: &ServerName,
        asking: impl Future<Output = Result<T, PeerError>>,
    ) -> Result<T, PeerError> {
        if !self.is_enabled() {
            return Err(PeerError::Disabled);
        }
        if self.is_us(destination) {
            return Err(PeerError::Configuration("this server would ask itself".into()));
        }
        let began = Instant::now();
        let answer = tokio::time::timeout(limit, asking)
            .await
            .unwrap_or_else(|_| Err(unreachable(destination, Failure::Timeout, None)));
        if matches!(&answer, Ok(_) | Err(PeerError::Refused { .. })) {
            self.trust().note_answered(destination);
        }
        if let Err(PeerError::Unreachable { .. }) = &answer {
            self.shared.wire.resolver.forget(destination, self.trust().endpoint(destination));
        }
        let outcome = answer.as_ref().err().map_or("answered", |error| error.failure().word());
        counter!("comity_federation_requests_total", "outcome" => outcome).increment(1);
        histogram!("comity_federation_request_seconds").record(began.elapsed().as_secs_f64());
        answer
    }

    async fn exchange_at_leisure(
        &self,
        limit: usize,
        destination: &ServerName,
        asked: Asked,
    ) -> Result<http::Response<Bytes>, PeerError> {
        let (response, _turn) = self.send(destination, asked).await?;
        collect(limit, destination, response).await
    }

    /// Sends a request, and answers once the head of its answer is there. The turn is for as long as the rest is read.
    pub(crate) async fn send(
        &self,
        destination: &ServerName,
        asked: Asked,
    ) -> Result<(reqwest::Response, OwnedSemaphorePermit), PeerError> {
        let wire = &self.shared.wire;
        let place = wire.resolver.find(destination, self.trust().endpoint(destination)).await?;
        let turns = wire.turns(destination);
        let turn = turns.acquire_owned().await.map_err(|_| unreachable(destination, Failure::Ours, None))?;
        let route = if place.port.is_some() { &wire.explicit } else { &wire.discovered };
        if !place.is_literal() {
            route.hosts.0.insert(place.host.to_ascii_lowercase(), place.addresses.clone().into());
        }
        let request = place.request(&route.client, asked.method, &asked.uri).headers(asked.headers).body(asked.body);
        let response = request.send().await.map_err(|error| failed(destination, error))?;
        Ok((response, turn))
    }
}

/// Reads an answer whole.
pub(crate) async fn collect(
    limit: usize,
    destination: &ServerName,
    response: reqwest::Response,
) -> Result<http::Response<Bytes>, PeerError> {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = BytesMut::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| unreachable(destination, Failure::Broken, Some(error.into())))?;
        if body.len() + chunk.len() > limit {
            let reason = format!("the answer is longer than {limit} bytes");
            return Err(PeerError::Malformed { server: destination.to_owned(), reason });
        }
        body.extend_from_slice(&chunk);
    }
    let mut answer = http::Response::new(body.freeze());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// Takes one of ruma's requests apart.
pub(crate) fn asked<R>(destination: &ServerName, request: R) -> Result<Asked, PeerError>
where
    R: OutgoingRequest,
    R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
{
    let ours = |reason: String| PeerError::Configuration(format!("the request can't be made: {reason}"));
    let request = request
        .try_into_http_request_inner(&format!("https://{destination}"), ())
        .map_err(|error| ours(error.to_string()))?;
    let (mut parts, body) = request.into_parts();
    if let Some(content_type) = body.content_type() {
        parts.headers.entry(header::CONTENT_TYPE).or_insert(content_type);
    }
    let body: Vec<u8> =
        body.try_into_buf().map_err(|error| ours(Into::<ruma::api::error::IntoHttpError>::into(error).to_string()))?;
    let uri = parts.uri.path_and_query().map_or("/", |uri| uri.as_str()).to_owned();
    Ok(Asked { method: parts.method, uri, headers: parts.headers, body: body.into() })
}

/// Reads the answer as what was asked for.
pub(crate) fn read<R: OutgoingRequest>(
    destination: &ServerName,
    answer: http::Response<Bytes>,
) -> Result<R::IncomingResponse, PeerError> {
    if answer.status().is_success() {
        let (parts, body) = answer.into_parts();
        return R::IncomingResponse::try_from_http_response_inner(http::Response::from_parts(parts, &*body))
            .map_err(|error| PeerError::Malformed { server: destination.to_owned(), reason: error.to_string() });
    }
    Err(refused(destination, &answer))
}

pub(crate) fn refused(destination: &ServerName, answer: &http::Response<Bytes>) -> PeerError {
    #[derive(Default, Deserialize)]
    struct Refusal {
        errcode: Option<String>,
        error: Option<String>,
        /// As a problem document of a native API says it.
        code: Option<String>,
        detail: Option<String>,
        retry_after_ms: Option<u64>,
    }
    let status = answer.status();
    let said: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
    let in_header = || {
        let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    };
    let message = said.error.or(said.detail).unwrap_or_else(|| status.to_string());
    PeerError::Refused {
        server: destination.to_owned(),
        status: status.as_u16(),
        errcode: said.errcode.or(said.code),
        // It is shown to people and written to the log: no more of it than that needs.
        message: message.chars().filter(|char| !char.is_control()).take(300).collect(),
        retry_after: said.retry_after_ms.map(Duration::from_millis).or_else(in_header),
    }
}

/// What failed before there was an answer.
pub(crate) fn failed(destination: &ServerName, error: reqwest::Error) -> PeerError {
    let reason = root_cause(&error);
    unreachable(destination, failure_of(&error), Some(reason.into()))
}

pub(crate) fn failure_of(error: &reqwest::Error) -> Failure {
    let is_tls = causes(error).any(|cause| {
        cause.is::<rustls::Error>()
            || cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|io| io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()))
    });
    match () {
        () if is_tls => Failure::Tls,
        () if error.is_timeout() => Failure::Timeout,
        () if error.is_connect() => Failure::Connect,
        () => Failure::Broken,
    }
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

pub(crate) fn unreachable(
    destination: &ServerName,
    failure: Failure,
    source: Option<Box<dyn StdError + Send + Sync>>,
) -> PeerError {
    PeerError::Unreachable { server: destination.to_owned(), failure, source }
}
