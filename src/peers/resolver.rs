//! Where a server is.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};
use http::{Method, header};
use quick_cache::sync::Cache;
use rand::RngExt as _;
use ruma::{OwnedServerName, ServerName};

use crate::{
    Failure, PeerError, PeersConfig,
    addresses::is_open,
    lookup::{Addresses, Family, Lookup, Missing},
    well_known::WellKnown,
};

/// Where servers speak to each other if nothing else is said.
const PORT: u16 = 8448;
/// How many servers' places are remembered.
const REMEMBERED: usize = 10_000;
/// A place is looked up again after this, however long its records live; the resolver has a cache of its own.
const LONGEST: Duration = Duration::from_secs(60);
/// How many hosts of an SRV record are looked up.
const MOST_TARGETS: usize = 8;
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

    /// A request to it, by a client that knows where its host is.
    pub(crate) fn request(&self, client: &reqwest::Client, method: Method, uri: &str) -> reqwest::RequestBuilder {
        let request = client.request(method, format!("https://{}{uri}", self.authority()));
        if self.is_literal() { request.header(header::HOST, self.host_header()) } else { request }
    }

    /// Whether the host is an address.
    pub(crate) fn is_literal(&self) -> bool {
        literal(&self.host).is_some()
    }
}

/// A server, and where an admin says that it is.
type Sought = (OwnedServerName, Option<OwnedServerName>);

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
    places: Cache<Sought, Arc<Remembered>>,
}

impl Resolver {
    /// What reaches everything public, and nothing else.
    pub(crate) fn public_web(&self) -> &WellKnown {
        &self.well_known
    }

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

    /// Where `server` is; as it was before, if it can't be found out now. `endpoint`: host and port, where an admin has set it.
    pub(crate) async fn find(
        &self,
        server: &ServerName,
        endpoint: Option<OwnedServerName>,
    ) -> Result<Arc<Place>, PeerError> {
        let sought: Sought = (server.to_owned(), endpoint);
        let remembered = self.places.get(&sought);
        if let Some(remembered) = remembered.as_ref().filter(|remembered| remembered.until > Instant::now()) {
            return remembered.found.clone().map_err(|reason| unresolved(server, reason));
        }
        let (found, until, _) = self.look(server, sought.1.as_deref()).await;
        let before = remembered.and_then(|before| before.found.clone().ok().or_else(|| before.before.clone()));
        let found = match (found, &before) {
            (Ok(place), _) => Ok(Arc::new(place)),
            (Err(_), Some(before)) => Ok(before.clone()),
            (Err(reason), None) => Err(reason),
        };
        self.places.insert(sought, Arc::new(Remembered { found: found.clone(), until, before }));
        found.map_err(|reason| unresolved(server, reason))
    }

    /// The addresses of a host that may be connected to, or why there is none.
    pub(crate) async fn addresses_of(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let mut search = Search { resolver: self, lookups: Vec::new(), until: Instant::now() + LONGEST };
        search.addresses_of(host, port).await
    }

    /// What was found is of no use: look again next time.
    pub(crate) fn forget(&self, server: &ServerName, endpoint: Option<OwnedServerName>) {
        let sought: Sought = (server.to_owned(), endpoint);
        if let Some(remembered) = self.places.get(&sought)
            && let Ok(place) = &remembered.found
        {
            let stale = Remembered { found: Ok(place.clone()), until: Instant::now(), before: None };
            self.places.insert(sought, Arc::new(stale));
        }
    }

    /// Looks `server` up, step by step.
    pub(crate) async fn look(
        &self,
        server: &ServerName,
        endpoint: Option<&ServerName>,
    ) -> (Result<Place, String>, Instant, Vec<Lookup>) {
        let mut search = Search { resolver: self, lookups: Vec::new(), until: Instant::now() + LONGEST };
        let found = match endpoint {
            Some(endpoint) => search.told(server, endpoint).await,
            None => search.run(server).await,
        };
        let until = if found.is_ok() {
            search.until.max(Instant::now() + Duration::from_secs(1))
        } else {
            Instant::now() + SHORTEST
        };
        (found, until, search.lookups)
    }
}

/// One look.
struct Search<'a> {
    resolver: &'a Resolver,
    lookups: Vec<Lookup>,
    until: Instant,
}

impl Search<'_> {
    /// A server of which an admin has said where it is. It is asked there by its own name, and must show a certificate for that, as
    /// where an SRV record leads.
    async fn told(&mut self, server: &ServerName, endpoint: &ServerName) -> Result<Place, String> {
        self.lookups.push(Lookup::Endpoint(endpoint.to_owned()));
        let (host, port) = (endpoint.host(), endpoint.port().unwrap_or(PORT));
        let addresses = match literal(host) {
            // The admin has named this very address, and no name server can turn it into another: it may be a private one. Where a
            // name leads is told by others, and is looked at like everything that others tell.
            Some(ip) => {
                let open = vec![SocketAddr::new(ip, port)];
                let host = host.to_owned();
                self.lookups.push(Lookup::Addresses(Addresses {
                    host,
                    asked: Vec::new(),
                    open: open.clone(),
                    closed: Vec::new(),
                }));
                open
            }
            None => self.addresses_of(host, port).await?,
        };
        Ok(Place { host: server.host().to_owned(), port: None, addresses })
    }

    async fn run(&mut self, server: &ServerName) -> Result<Place, String> {
        if let Some(place) = self.named(server).await {
            return place;
        }
        let host = server.host();
        let delegated = self.resolver.well_known.find(host).await;
        self.lookups.push(Lookup::WellKnown { domain: host.to_owned(), said: delegated.clone() });
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
            let addresses = self.checked(host, Vec::new(), vec![SocketAddr::new(ip, port.unwrap_or(PORT))]);
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
        let found = self.resolver.dns.srv_lookup(format!("{name}.")).await.map_err(Missing::from);
        let targets = found.map(|records| {
            self.until = self.until.min(records.valid_until());
            let services = records.answers().iter().filter_map(|record| match &record.data {
                // A target of `.` says that the service is not there.
                RData::SRV(srv) if !srv.target.is_root() => {
                    let target = srv.target.to_utf8().trim_end_matches('.').to_owned();
                    Some((srv.priority, (srv.weight, target, srv.port)))
                }
                _ => None,
            });
            in_order(services)
        });
        self.lookups.push(Lookup::Services { name: name.to_owned(), found: targets.clone() });
        targets.unwrap_or_default()
    }

    async fn addresses_of(&mut self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if let Some(ip) = literal(host) {
            return self.checked(host, Vec::new(), vec![SocketAddr::new(ip, port)]);
        }
        let name = format!("{}.", host.trim_end_matches('.'));
        let dns = &self.resolver.dns;
        let (v6, v4) = tokio::join!(dns.ipv6_lookup(name.clone()), dns.ipv4_lookup(name));
        let mut asked = Vec::with_capacity(2);
        for (family, found) in [(Family::V6, v6), (Family::V4, v4)] {
            let found = found.map_err(Missing::from).map(|records| {
                self.until = self.until.min(records.valid_until());
                records.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<IpAddr>>()
            });
            asked.push((
                family,
                found.and_then(|found| if found.is_empty() { Err(Missing::NoRecord) } else { Ok(found) }),
            ));
        }
        let found = asked.iter().filter_map(|(_, found)| found.as_ref().ok()).flatten();
        let addresses = found.map(|ip| SocketAddr::new(*ip, port)).collect();
        self.checked(host, asked, addresses)
    }

    /// Only addresses that may be connected to; every one of a name is looked at.
    fn checked(
        &mut self,
        host: &str,
        asked: Vec<(Family, Result<Vec<IpAddr>, Missing>)>,
        addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, String> {
        let (open, closed): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| self.resolver.allow_private_addresses || is_open(address.ip()));
        let addresses = Addresses { host: host.to_owned(), asked, open, closed };
        let usable = match addresses.usable() {
            Ok(usable) => Ok(usable.to_vec()),
            Err(reason) if addresses.closed.is_empty() => Err(format!("{host} has no address: {reason}")),
            Err(reason) => Err(format!("{host}: {reason}")),
        };
        self.lookups.push(Lookup::Addresses(addresses));
        usable
    }
}

/// Those of first priority first, the heavier the more probably.
fn in_order(services: impl Iterator<Item = (u16, (u16, String, u16))>) -> Vec<(String, u16)> {
    let mut by_priority: BTreeMap<u16, Vec<(u16, String, u16)>> = BTreeMap::new();
    for (priority, service) in services {
        by_priority.entry(priority).or_default().push(service);
    }
    let mut targets: Vec<_> = by_priority.into_values().flat_map(in_weighted_order).collect();
    targets.truncate(MOST_TARGETS);
    targets
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

fn unresolved(server: &ServerName, reason: String) -> PeerError {
    if reason.contains("is not on the public internet") {
        let source = Some(reason.into());
        return PeerError::Unreachable { server: server.to_owned(), failure: Failure::Blocked, source };
    }
    PeerError::Unresolved { server: server.to_owned(), reason }
}
