//! What it costs to decide how far another server is trusted.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use model::{
    SigningKey,
    peer::{Capability, Context, TrustLevel},
};
use peers::{
    Peers, PeersConfig, Trust,
    trust::{Author, PeerChange},
};
use ruma::{ServerName, server_name};
use store::{Location, Store};

use crate::table::Table;

/// So many servers are set by admins.
const PEERS: usize = 1_000;
/// So often each thing is decided.
const TIMES: u32 = 1_000_000;

pub async fn measure(table: &mut Table) {
    eprintln!("trust: {TIMES} decisions, {PEERS} peers");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let location = Location::Sqlite(folder.path().join("trust.db"));
    let store = Store::open(&location, 1, Arc::new(|_| ())).await.expect("the store opens");
    let key = SigningKey::from_seed(server_name!("a.test").to_owned(), "1", &[7; 32]).expect("it is a key");
    let peers = Peers::new(store.clone(), Arc::new(key), PeersConfig::default()).expect("nothing has to be reached");
    let trust = peers.trust();
    for number in 0..PEERS {
        let pattern = format!("p{number}.test").parse().expect("it is the name of a server");
        let change = PeerChange { level: Some(TrustLevel::ALL[number % 4]), ..PeerChange::default() };
        let author = Author { actor: "bench".to_owned(), reason: "to measure".to_owned() };
        trust.change(&pattern, &change, &author, None).await.expect("it can be set");
    }
    for (what, server) in
        [("a peer that is set", server_name!("p999.test")), ("one that is not", server_name!("a.b.unknown.test"))]
    {
        let of_event = each(|| {
            black_box(trust.withholds(server, None));
        });
        let counted = each(|| ask(trust, server));
        table.alone(&format!("decision about an event, {what}"), format!("{} ns", of_event.as_nanos()), "under 1 µs");
        table.alone(&format!("decision about a request, {what}"), format!("{} ns", counted.as_nanos()), "");
    }
    store.close().await;
}

fn ask(trust: &Trust, server: &ServerName) {
    black_box(trust.allow(server, Capability::Events, &Context::inbound())).ok();
}

/// How long it takes, on the average.
fn each(act: impl Fn()) -> Duration {
    let began = Instant::now();
    for _ in 0..TIMES {
        act();
    }
    began.elapsed() / TIMES
}
