//! Domains that can find and believe each other, on loopback and without root.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as Guard},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Authority, Crossing, Engine, Link, Names, Server, ServerBuilder,
    link::cross,
    server::kept,
    web::{self, NoAnswer},
};

/// The port of servers that name no other.
pub const FEDERATION_PORT: u16 = 8448;
/// Nobody listens there but a network that says: these addresses are mine.
const GUARD_PORT: u16 = 20_448;
/// How much of what was said is told when a test has failed.
const LAST_WORDS: usize = 80;

/// A private internet: names, an authority for certificates, addresses, and the links between servers.
///
/// Each server has a loopback address of its own, 127.x.y.n, where it listens at 8448. What leads there is an SRV record
/// that differs from server to server, for its port is that of the [`Link`] between the two.
pub struct Network {
    /// Who vouches for its servers.
    pub authority: Authority,
    /// What names lead to.
    pub names: Names,
    addresses: Addresses,
    linked: bool,
    members: Mutex<BTreeMap<String, Member>>,
    links: Mutex<HashMap<(String, String), Arc<Link>>>,
    wire: Wire,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Clone, Debug)]
struct Member {
    address: SocketAddr,
    /// Whether it asks others by itself, so that there are links from it.
    asks: bool,
}

/// Where something of the network is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its server name.
    pub name: String,
    /// Where it listens to other servers.
    pub address: SocketAddr,
    /// Who answers its questions for names.
    pub resolver: SocketAddr,
}

/// A server that others can ask.
pub trait Peer {
    /// Where it is.
    fn place(&self) -> &Place;
}

impl Network {
    /// A network without servers, whose servers will be linked by [`Link`]s.
    pub fn new() -> Self {
        Self::build(true)
    }

    /// A network whose servers reach each other without anything in between, for measurements.
    pub fn direct() -> Self {
        Self::build(false)
    }

    fn build(linked: bool) -> Self {
        Self {
            authority: Authority::new(),
            names: Names::default(),
            addresses: Addresses::claim(),
            linked,
            members: Mutex::default(),
            links: Mutex::default(),
            wire: Wire::default(),
            tasks: Mutex::default(),
        }
    }

    /// A network with these servers, started side by side on `engine`.
    pub async fn start<const N: usize>(engine: &Engine, names: [&str; N]) -> (Self, [Server; N]) {
        let network = Self::new();
        let servers = network.start_servers(names.map(|name| (name, engine.clone()))).await;
        (network, servers)
    }

    /// A network in which SQLite and PostgreSQL take turns, as far as there is a PostgreSQL.
    pub async fn start_mixed<const N: usize>(names: [&str; N]) -> (Self, [Server; N]) {
        let network = Self::new();
        let mut turn = 0;
        let engines = names.map(|name| {
            turn += 1;
            let engine = if turn % 2 == 0 { Engine::postgres() } else { None };
            (name, engine.unwrap_or(Engine::Sqlite))
        });
        let servers = network.start_servers(engines).await;
        (network, servers)
    }

    /// Starts servers side by side.
    pub async fn start_servers<const N: usize>(&self, servers: [(&str, Engine); N]) -> [Server; N] {
        let mut builders = Vec::new();
        for (name, engine) in servers {
            builders.push(self.server(&engine, name).await);
        }
        let servers = join_all(builders.into_iter().map(ServerBuilder::start)).await;
        servers.try_into().unwrap_or_else(|_| panic!("each was started"))
    }

    /// A server called `name`, whose settings are still open.
    pub async fn server(&self, engine: &Engine, name: &str) -> ServerBuilder {
        let place = self.settle(name, true).await;
        Server::builder(engine).federated(&place, &self.authority)
    }

    /// Gives `name` an address, and records and links that lead there. `asks`: whether it will ask others by itself.
    ///
    /// A name with a port has no records but an address: nothing else is asked for about it.
    pub async fn settle(&self, name: &str, asks: bool) -> Place {
        let ip = self.addresses.next();
        let (host, port) = name.split_once(':').unwrap_or((name, ""));
        let address = SocketAddr::new(ip, port.parse().unwrap_or(FEDERATION_PORT));
        self.names.host(host, &[ip]);
        if port.is_empty() {
            self.names.service(&service_of(name), &[(10, 0, FEDERATION_PORT, name)]);
        }
        let resolver = self.resolver(name).await;
        let others: Vec<(String, Member)> =
            self.members().iter().map(|(name, member)| (name.clone(), member.clone())).collect();
        if self.linked && asks {
            for (other, member) in others {
                if !member.asks {
                    continue;
                }
                self.link_up(name, &other, member.address).await;
                self.link_up(&other, name, address).await;
            }
        }
        self.members().insert(name.to_owned(), Member { address, asks });
        Place { name: name.to_owned(), address, resolver }
    }

    /// The way from one server to another.
    #[track_caller]
    pub fn link(&self, from: &str, to: &str) -> Arc<Link> {
        let links = self.links.lock().expect("nobody panics while holding it");
        let link = links.get(&(from.to_owned(), to.to_owned()));
        link.unwrap_or_else(|| panic!("there is no link from {from} to {to}")).clone()
    }

    /// All links.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.links.lock().expect("nobody panics while holding it").values().cloned().collect()
    }

    /// Cuts the links between `one` and `other`, both ways.
    pub fn part(&self, one: &str, other: &str) {
        self.link(one, other).cut();
        self.link(other, one).cut();
    }

    /// The opposite of [`Self::part`].
    pub fn reunite(&self, one: &str, other: &str) {
        self.link(one, other).mend();
        self.link(other, one).mend();
    }

    /// What went over all links, in order.
    pub fn crossings(&self) -> Vec<Crossing> {
        self.wire.crossings(|_| true)
    }

    /// Where the server called `name` listens to others.
    #[track_caller]
    pub fn address(&self, name: &str) -> SocketAddr {
        self.members().get(name).unwrap_or_else(|| panic!("there is no {name}")).address
    }

    /// An address of the network that nobody has.
    pub fn spare_ip(&self) -> IpAddr {
        self.addresses.next()
    }

    /// Serves `/.well-known/matrix/server` of `domain` at `port`, which says that its server is `server`, and answers where.
    pub async fn delegate(&self, domain: &str, server: &str, port: u16) -> SocketAddr {
        let ip = self.addresses.next();
        self.names.host(domain, &[ip]);
        let address = SocketAddr::new(ip, port);
        let listener = web::listen(address).await;
        let acceptor = self.authority.leaf(&[domain]).acceptor();
        let answer = json!({ "m.server": server }).to_string();
        let handler = move |request: axum::extract::Request| {
            let answer = answer.clone();
            let found = request.uri().path() == "/.well-known/matrix/server";
            async move {
                let status = if found { 200 } else { 404 };
                let response =
                    axum::http::Response::builder().status(status).header("content-type", "application/json");
                response.body(answer.into()).map_err(|_| NoAnswer)
            }
        };
        self.spawn(web::serve(listener, acceptor, handler, || async { Some(CancellationToken::new()) }));
        address
    }

    /// The port at which servers ask for well-known files, if this user may listen there.
    pub fn well_known_port() -> Option<u16> {
        const HTTPS: u16 = 443;
        Guard::bind((Ipv4Addr::new(127, 19, 1, 1), HTTPS)).ok().map(|_| HTTPS)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().expect("nobody panics while holding it").spawn(task);
    }

    async fn resolver(&self, viewer: &str) -> SocketAddr {
        let mut tasks = JoinSet::new();
        let address = self.names.serve(Ipv4Addr::LOCALHOST.into(), viewer, &mut tasks).await;
        self.spawn(async move {
            tasks.join_all().await;
        });
        address
    }

    async fn link_up(&self, from: &str, to: &str, target: SocketAddr) {
        if to.contains(':') {
            // Its name says where it is, and no record can say otherwise.
            return;
        }
        let listener = web::listen(SocketAddr::new(target.ip(), 0)).await;
        let port = listener.local_addr().expect("it is bound").port();
        self.names.service_for(from, &service_of(to), &[(10, 0, port, to)]);
        let link = Arc::new(Link::new(from, to, target, self.authority.client(), self.wire.clone()));
        let acceptor = self.authority.leaf(&[to]).acceptor();
        let (crossing, alive) = (link.clone(), link.clone());
        let handler = move |request| cross(crossing.clone(), request);
        self.spawn(web::serve(listener, acceptor, handler, move || alive.clone().alive()));
        let mut links = self.links.lock().expect("nobody panics while holding it");
        links.insert((from.to_owned(), to.to_owned()), link);
    }

    fn members(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Member>> {
        self.members.lock().expect("nobody panics while holding it")
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let crossings = self.crossings();
        if !thread::panicking() || crossings.is_empty() {
            return;
        }
        let lines: Vec<String> = crossings.iter().map(Crossing::to_string).collect();
        if let Some(folder) = kept() {
            let _ = std::fs::write(folder.join("crossings"), lines.join("\n"));
        }
        let lines = &lines[lines.len().saturating_sub(LAST_WORDS)..];
        let _ = writeln!(std::io::stderr(), "--- between the servers ---\n{}\n--- end ---", lines.join("\n"));
    }
}

/// The name of the SRV record that leads to `domain`.
pub fn service_of(domain: &str) -> String {
    format!("_matrix-fed._tcp.{domain}")
}

/// A /24 of loopback that no other network of this machine uses at the time.
struct Addresses {
    net: [u8; 3],
    next: AtomicU8,
    _guard: Guard,
}

impl Addresses {
    fn claim() -> Self {
        // Beginning at one's own number makes a clash with another test process rare; the guard makes it harmless.
        let first = std::process::id() % 50_000;
        for offset in 0..50_000 {
            let number = (first + offset) % 50_000;
            let (x, y) = (number / 250 + 20, number % 250 + 1);
            let net = [127, x as u8, y as u8];
            let address = Ipv4Addr::new(net[0], net[1], net[2], 254);
            if let Ok(guard) = Guard::bind((address, GUARD_PORT)) {
                return Self { net, next: AtomicU8::new(1), _guard: guard };
            }
        }
        panic!("every loopback address is taken");
    }

    fn next(&self) -> IpAddr {
        let [a, b, c] = self.net;
        let last = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(last < 250, "the network is full");
        Ipv4Addr::new(a, b, c, last).into()
    }
}

/// What was said between the servers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wire {
    log: Arc<Mutex<Vec<Crossing>>>,
}

impl Wire {
    pub(crate) fn note(&self, crossing: Crossing) -> usize {
        let mut log = self.log.lock().expect("nobody panics while holding it");
        log.push(crossing);
        log.len() - 1
    }

    pub(crate) fn answered(&self, number: usize, status: u16, body: axum::body::Bytes) {
        let mut log = self.log.lock().expect("nobody panics while holding it");
        log[number].answer = Some((status, body));
    }

    pub(crate) fn crossings(&self, wanted: impl Fn(&Crossing) -> bool) -> Vec<Crossing> {
        let log = self.log.lock().expect("nobody panics while holding it");
        log.iter().filter(|crossing| wanted(crossing)).cloned().collect()
    }
}
