//! Two servers that speak to each other by TLS on loopback, next to what TLS, signatures and the disk allow at most.

mod carrier;
mod flood;
mod joins;
mod latency;
mod profiles;

use std::time::Duration;

use federation_tests::{Client, Engine, Network, Server, enc};

use crate::{Arguments, limit, table::Table, wire::Wire};

/// The two servers. What is measured goes from `a` to `b`.
pub struct Pair {
    a: Server,
    b: Server,
    /// How they find each other; also where fake peers can be settled.
    network: Network,
}

/// What this machine could do if there were nothing else to do.
struct Limits {
    /// Signatures that one core checks in a second.
    checks: f64,
    /// Messages that are written durably in a second, in commits of the size of a transaction.
    inserts: f64,
    /// Requests by TLS in a second: one at a time, and many at once.
    requests: [f64; 2],
}

/// So many events travel together at most, by the specification.
const TRANSACTION: usize = 50;
/// So many requests are on their way at once when as many as possible are made.
const REQUESTS_AT_ONCE: usize = 32;
/// How long any join may take.
const JOIN_DEADLINE: Duration = Duration::from_secs(300);

pub async fn measure(engine: &Engine, arguments: &Arguments, table: &mut Table) {
    let limits = Limits::measure(engine, arguments).await;
    let pair = Pair::start(engine).await;
    // First of all: nothing is known about the other server yet.
    profiles::measure(&pair, arguments, table).await;
    latency::measure(&pair, arguments, table).await;
    flood::measure(&pair, &limits, arguments, table).await;
    joins::of_middle_rooms(&pair, arguments, table).await;
    joins::of_a_large_room(&pair, &limits, arguments, table).await;
    drop(pair);
    carrier::measure(engine, arguments, table).await;
    limits.tell(table);
}

impl Pair {
    async fn start(engine: &Engine) -> Self {
        let network = Network::direct();
        let [a, b] = network.start_servers([("a.test", engine.clone()), ("b.test", engine.clone())]).await;
        Self { a, b, network }
    }

    /// Seconds of processor time that both have used so far.
    fn cpu_seconds(&self) -> f64 {
        self.a.usage().cpu_seconds + self.b.usage().cpu_seconds
    }
}

impl Limits {
    async fn measure(engine: &Engine, arguments: &Arguments) -> Self {
        eprintln!("limits: signature checks, raw inserts, requests by TLS");
        let second = Duration::from_secs(1);
        Self {
            checks: limit::checks(second),
            inserts: limit::inserts(engine, arguments.rooms, TRANSACTION, arguments.duration() / 2).await,
            requests: [limit::requests(1, second).await, limit::requests(REQUESTS_AT_ONCE, second).await],
        }
    }

    fn tell(&self, table: &mut Table) {
        let Self { checks, inserts, requests: [alone, many] } = self;
        table.alone("limit: signature checks of one core", format!("{checks:.0}/s"), "");
        table.alone(&format!("limit: inserts in commits of {TRANSACTION}"), format!("{inserts:.0}/s"), "");
        table.alone("limit: HTTPS requests of one pair, one at a time", format!("{alone:.0}/s"), "");
        table.alone(&format!("limit: the same, {REQUESTS_AT_ONCE} at a time"), format!("{many:.0}/s"), "");
    }
}

/// Lets the client of `wire` join a room that the server `via` knows.
async fn join_through(wire: &mut Wire, room: &str, via: &str) {
    let path = format!("/_matrix/client/v3/join/{}?server_name={via}&via={via}", enc(room));
    let answer = tokio::time::timeout(JOIN_DEADLINE, wire.exchange("POST", &path, Some("{}"))).await;
    let answer = answer.unwrap_or_else(|_| panic!("joining {room} through {via} took longer than {JOIN_DEADLINE:?}"));
    assert_eq!(answer.status, 200, "joining {room} through {via} was answered {}", answer.body);
}

/// A new account of `server` with a connection of its own.
async fn newcomer(server: &Server, localpart: &str) -> (Client, Wire) {
    let client = server.register_with_secret(localpart).await;
    let wire = Wire::connect(&server.address(), &client).await;
    (client, wire)
}
