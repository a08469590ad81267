//! Where a server is.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};
use quick_cache::sync::Cache;
use rand::RngExt as _;
use ruma::{OwnedServerName, ServerName};

use crate::{Failure, PeerError, PeersConfig, addresses::is_open, well_known::WellKnown};

/// Where servers speak to each other if nothing else is said.
const PORT: u16 = 8448;
/// How many servers' places are remembered.
const REMEMBERED: usize = 10_000;
/// A place is looked up again after this, however long its records live; the resolver has a cache of its own.
const LONGEST: Duration = Duration::from_secs(60);
/// A name that led nowhere is not tried again for this long.
const SHORTEST: Duration = Duration::from_secs(10);

/// Where a server is, and by what name it is asked there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The `Host` header, and the name in the certificate, without a port where it is one.
    pub host: String,
    /// The port, if it is part of the host's name.
    pub port: Option<u16>,
    /// Where to connect to, preferred first.
    pub addresses: Vec<SocketAddr>,
}

impl Place {
    /// What stands in the URL between `https://` and the path.
    pub(crate) fn authority(&self) -> String {
        match (self.port, self.is_literal()) {
            (Some(port), _) => format!("{}:{port}", self.host),
            (None, true) => format!("{}:{PORT}", self.host),
            (None, false) => self.host.clone(),
        }
    }

    /// The `Host` header.
    pub fn host_header(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// Whether the host is an address.
    pub(crate) fn is_literal(&self) -> bool {
        literal(&self.host).is_some()
    }
}

/// What was tried, and what came of it.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was tried.
    pub what: String,
    /// What came of it.
    pub outcome: Result<String, String>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(found) => write!(f, "{}: {found}", self.what),
            Err(reason) => write!(f, "{}: no ({reason})", self.what),
        }
    }
}

struct Remembered {
    found: Result<Arc<Place>, String>,
    until: Instant,
    /// What was found before, for when nothing is.
    before: Option<Arc<Place>>,
}

/// Finds servers, and remembers where they are.
pub(crate) struct Resolver {
    dns: TokioResolver,
    well_known: WellKnown,
    allow_private_addresses: bool,
    places: Cache<OwnedServerName, Arc<Remembered>>,
}

impl Resolver {
    pub(crate) fn new(config: &PeersConfig, tls: &rustls::ClientConfig) -> Result<Self, PeerError> {
        let broken = |error: NetError| PeerError::Configuration(format!("federation.nameservers: {error}"));
        let mut builder = if config.nameservers.is_empty() {
            TokioResolver::builder_tokio().map_err(broken)?
        } else {
            let servers = config.nameservers.iter().map(|address| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
                NameServerConfig::new(address.ip(), true, connections.into())
            });
            let all = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            TokioResolver::builder_with_config(all, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(3);
        options.attempts = 2;
        options.negative_max_ttl = Some(Duration::from_secs(300));
        let dns = builder.build().map_err(broken)?;
        Ok(Self {
            well_known: WellKnown::new(dns.clone(), config, tls)?,
            dns,
            allow_private_addresses: config.allow_private_addresses,
            places: Cache::new(REMEMBERED),
        })
    }

    /// Where `server` is; as it was before, if it can't be found out now.
    pub(crate) async fn find(&self, server: &ServerName) -> Result<Arc<Place>, PeerError> {
        let remembered = self.places.get(server);
        if let Some(remembered) = remembered.as_ref().filter(|remembered| remembered.until > Instant::now()) {
            return remembered.found.clone().map_err(|reason| unresolved(server, reason));
        }
        let (found, until, _) = self.look(server).await;
        let before = remembered.and_then(|before| before.found.clone().ok().or_else(|| before.before.clone()));
        let found = match (found, &before) {
            (Ok(place), _) => Ok(Arc::new(place)),
            (Err(_), Some(before)) => Ok(before.clone()),
            (Err(reason), None) => Err(reason),
        };
        self.places.insert(server.to_owned(), Arc::new(Remembered { found: found.clone(), until, before }));
        found.map_err(|reason| unresolved(server, reason))
    }

    /// What was found is of no use: look again next time.
    pub(crate) fn forget(&self, server: &ServerName) {
        if let Some(remembered) = self.places.get(server)
            && let Ok(place) = &remembered.found
        {
            let stale = Remembered { found: Ok(place.clone()), until: Instant::now(), before: None };
            self.places.insert(server.to_owned(), Arc::new(stale));
        }
    }

    /// Looks `server` up, step by step.
    pub(crate) async fn look(&self, server: &ServerName) -> (Result<Place, String>, Instant, Vec<Step>) {
        let mut search = Search { resolver: self, steps: Vec::new(), until: Instant::now() + LONGEST };
        let found = search.run(server).await;
        let until = if found.is_ok() {
            search.until.max(Instant::now() + Duration::from_secs(1))
        } else {
            Instant::now() + SHORTEST
        };
        (found, until, search.steps)
    }
}

/// One look.
struct Search<'a> {
    resolver: &'a Resolver,
    steps: Vec<Step>,
    until: Instant,
}

impl Search<'_> {
    async fn run(&mut self, server: &ServerName) -> Result<Place, String> {
        if let Some(place) = self.named(server).await {
            return place;
        }
        let host = server.host();
        let delegated = self.resolver.well_known.find(host).await;
        self.note(format!("https://{host}/.well-known/matrix/server"), delegated.as_ref().map(ToString::to_string));
        if let Ok(delegated) = delegated {
            if let Some(place) = self.named(&delegated).await {
                return place;
            }
            return self.discovered(delegated.host()).await;
        }
        self.discovered(host).await
    }

    /// A server whose name says where it is: by its address, or by its port.
    async fn named(&mut self, server: &ServerName) -> Option<Result<Place, String>> {
        let (host, port) = (server.host(), server.port());
        if let Some(ip) = literal(host) {
            let addresses = self.checked(host, vec![SocketAddr::new(ip, port.unwrap_or(PORT))]);
            return Some(addresses.map(|addresses| Place { host: host.to_owned(), port, addresses }));
        }
        let port = port?;
        let addresses = self.addresses_of(host, port).await;
        Some(addresses.map(|addresses| Place { host: host.to_owned(), port: Some(port), addresses }))
    }

    /// A server whose place is told by records.
    async fn discovered(&mut self, host: &str) -> Result<Place, String> {
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            let targets = self.services(&format!("{service}.{host}")).await;
            let mut addresses = Vec::new();
            for (target, port) in &targets {
                if let Ok(found) = self.addresses_of(target, *port).await {
                    addresses.extend(found);
                }
            }
            if !addresses.is_empty() {
                return Ok(Place { host: host.to_owned(), port: None, addresses });
            }
            if !targets.is_empty() {
                return Err(format!("no server that {service}.{host} names has an address"));
            }
        }
        let addresses = self.addresses_of(host, PORT).await?;
        Ok(Place { host: host.to_owned(), port: None, addresses })
    }

    /// The targets of SRV records, in the order in which they are to be tried.
    async fn services(&mut self, name: &str) -> Vec<(String, u16)> {
        let answer = self.resolver.dns.srv_lookup(format!("{name}.")).await;
        let lookup = match answer {
            Ok(lookup) => lookup,
            Err(error) => {
                self.note(format!("SRV {name}"), Err::<String, _>(&reason_of(&error)));
                return Vec::new();
            }
        };
        self.until = self.until.min(lookup.valid_until());
        let mut by_priority: HashMap<u16, Vec<(u16, String, u16)>> = HashMap::new();
        for record in lookup.answers() {
            // A target of `.` says that the service is not there.
            if let RData::SRV(srv) = &record.data
                && !srv.target.is_root()
            {
                let target = srv.target.to_utf8().trim_end_matches('.').to_owned();
                by_priority.entry(srv.priority).or_default().push((srv.weight, target, srv.port));
            }
        }
        let mut priorities: Vec<u16> = by_priority.keys().copied().collect();
        priorities.sort_unstable();
        let mut targets = Vec::new();
        for priority in priorities {
            targets.extend(in_weighted_order(by_priority.remove(&priority).unwrap_or_default()));
        }
        let told: Vec<String> = targets.iter().map(|(target, port)| format!("{target}:{port}")).collect();
        self.note(format!("SRV {name}"), Ok::<_, &String>(told.join(", ")));
        targets
    }

    async fn addresses_of(&mut self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if let Some(ip) = literal(host) {
            return self.checked(host, vec![SocketAddr::new(ip, port)]);
        }
        match self.resolver.dns.lookup_ip(format!("{}.", host.trim_end_matches('.'))).await {
            Ok(found) => {
                self.until = self.until.min(found.as_lookup().valid_until());
                let addresses = found.iter().map(|ip| SocketAddr::new(ip, port)).collect();
                self.checked(host, addresses)
            }
            Err(error) => {
                let reason = reason_of(&error);
                self.note(format!("addresses of {host}"), Err::<String, _>(&reason));
                Err(format!("{host} has no address: {reason}"))
            }
        }
    }

    /// Only addresses that may be connected to; every one of a name is looked at.
    fn checked(&mut self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
        let (open, closed): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| self.resolver.allow_private_addresses || is_open(address.ip()));
        let told = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if open.is_empty() {
            let reason = format!(
                "{} is not on the public internet; federation.allow_private_addresses would let it be",
                told(&closed)
            );
            self.note(format!("addresses of {host}"), Err::<String, _>(&reason));
            return Err(format!("{host}: {reason}"));
        }
        self.note(format!("addresses of {host}"), Ok::<_, &String>(told(&open)));
        Ok(open)
    }

    fn note(&mut self, what: String, outcome: Result<impl Into<String>, &(impl ToString + ?Sized)>) {
        let outcome = outcome.map(Into::into).map_err(ToString::to_string);
        self.steps.push(Step { what, outcome });
    }
}

/// Of one priority, each is as likely to come first as its weight says.
fn in_weighted_order(mut records: Vec<(u16, String, u16)>) -> Vec<(String, u16)> {
    let mut ordered = Vec::with_capacity(records.len());
    while !records.is_empty() {
        let total: u32 = records.iter().map(|(weight, ..)| u32::from(*weight)).sum();
        let mut drawn = rand::rng().random_range(0..=total);
        let at = records.iter().position(|(weight, ..)| {
            let is_it = drawn <= u32::from(*weight);
            drawn = drawn.saturating_sub(u32::from(*weight));
            is_it
        });
        let (_, target, port) = records.remove(at.unwrap_or(0));
        ordered.push((target, port));
    }
    ordered
}

/// `1.2.3.4` or `[2001:db8::1]`.
fn literal(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match inner {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

fn reason_of(error: &NetError) -> String {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(_)) => "there is no such record".to_owned(),
        error => error.to_string(),
    }
}

fn unresolved(server: &ServerName, reason: String) -> PeerError {
    if reason.contains("is not on the public internet") {
        let source = Some(reason.into());
        return PeerError::Unreachable { server: server.to_owned(), failure: Failure::Blocked, source };
    }
    PeerError::Unresolved { server: server.to_owned(), reason }
}
