//! What the black-box tests and the benchmark stand on: the real binary in a folder of its own, and clients that
//! speak to it over its sockets.
//!
//! Invariant: nothing in here knows the server from the inside. A test sees what a user, an operator or a crash sees.
//!
//! A new story is a file in `scenarios/`: start a [`Server`] on each engine with [`on_each_engine`], give it people
//! with [`Server::register`], and wait for conditions with [`Client::sync_until`] or [`eventually`], never for time.

mod authority;
mod broker;
mod browser;
mod bucket;
mod clamd;
mod client;
mod database;
mod fake_peer;
mod fake_room;
mod hook;
mod lines;
mod link;
mod names;
mod native;
mod network;
mod oidc;
pub mod pdu;
mod program;
mod reader;
mod redis;
mod server;
mod smtp;
mod socket;
mod synapse;
mod web;

use std::time::{Duration, Instant};

use authority::http_client;
pub use authority::{Authority, Leaf};
pub use broker::Broker;
pub use browser::{Browser, Visit};
pub use bucket::Bucket;
pub use clamd::{Clamd, Mood};
pub use client::{Answer, Client, enc, shared_secret_mac, via_query};
pub use database::{Database, Engine, on_each_engine};
pub use fake_peer::{FakePeer, Heard, Reply, now};
pub use fake_room::FakeRoom;
pub use hook::{Hook, Said, Told};
pub use link::{Crossing, Faults, Link};
pub use names::{Names, Question};
pub use native::{NativeRequest, claims_of};
pub use network::{FEDERATION_PORT, Network, Peer, Place, service_of};
pub use oidc::OidcProvider;
pub use program::{Program, Received};
pub use reader::Reader;
pub use redis::Redis;
pub use server::{Server, ServerBuilder, Usage, binary};
pub use smtp::{MailSink, Posted};
pub use socket::{Closed, Socket};
pub use synapse::Synapse;
pub use web::Door;

/// How long a condition may take to come true before a test gives it up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until `condition` answers something, and panics with `what` when [`PATIENCE`] is over.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
