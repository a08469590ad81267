//! As many messages as possible from one server to the other, until the other has them all.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use federation_tests::{Client, enc};

use super::{Limits, Pair, TRANSACTION, join_through, newcomer};
use crate::{
    Arguments,
    load::{self, Sender},
    table::Table,
    wire::Wire,
};

/// Before the clock starts: caches fill, connections open.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long after the last send everything must have come.
const DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks for what hasn't come yet.
const LOOK: Duration = Duration::from_millis(5);

pub async fn measure(pair: &Pair, limits: &Limits, arguments: &Arguments, table: &mut Table) {
    eprintln!("federation: as fast as it goes, from {} rooms", arguments.rooms);
    let mut senders = load::senders(&pair.a, "sender", arguments).await;
    let (reader, mut reading) = newcomer(&pair.b, "reader").await;
    let rooms: BTreeSet<String> = senders.iter().map(|sender| sender.room.clone()).collect();
    for room in &rooms {
        join_through(&mut reading, room, pair.a.name()).await;
    }
    load::full_load(&mut senders, WARM_UP).await;
    all_arrived(&mut reading, &senders).await;

    let (before, began) = (pair.cpu_seconds(), Instant::now());
    let sent = load::full_load(&mut senders, arguments.duration()).await as f64;
    let sending = began.elapsed();
    all_arrived(&mut reading, &senders).await;
    let time = began.elapsed();
    let cpu = pair.cpu_seconds() - before;

    let all: usize = senders.iter().map(|sender| sender.sent).sum();
    let share = delivered(&reader, &rooms).await as f64 / all as f64;
    let rate = sent * share / time.as_secs_f64();
    table.against("PDUs from A to B", rate, limits.inserts, "/s", "at least 3000/s");
    table.against("PDUs, against signature checks of one core", rate, limits.checks, "/s", "");
    let requests = limits.requests[1];
    table.against("transactions if full, against HTTPS requests", rate / TRANSACTION as f64, requests, "/s", "");
    table.alone("sends on A meanwhile", format!("{:.0}/s", sent / sending.as_secs_f64()), "");
    let behind = (time - sending).as_secs_f64() * 1000.0;
    table.alone("from the last send until B has all", format!("{behind:.0} ms"), "");
    table.alone("delivered", format!("{:.2} % of {all}", share * 100.0), "100 %");
    let cpu = cpu * 1000.0 / sent;
    table.alone("CPU of both servers for 1000 messages", format!("{cpu:.3} s"), "at most 0.8 s");
}

/// Waits until the last message of every sender is there: the order within a room is kept, so the others are too, which
/// [`delivered`] makes sure of afterwards.
async fn all_arrived(wire: &mut Wire, senders: &[Sender]) {
    let deadline = Instant::now() + DEADLINE;
    for Sender { room, last, .. } in senders.iter().filter(|sender| !sender.last.is_empty()) {
        let path = format!("/_matrix/client/v3/rooms/{}/event/{}", enc(room), enc(last));
        while wire.exchange("GET", &path, None).await.status != 200 {
            if Instant::now() >= deadline {
                eprintln!("federation: gave up waiting for {last} after {DEADLINE:?}");
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// How many different messages `client` can read in `rooms`.
async fn delivered(client: &Client, rooms: &BTreeSet<String>) -> usize {
    let mut found = HashSet::new();
    for room in rooms {
        let events = client.pages(room, "b", None, None).await;
        let messages = events.iter().filter(|event| event["type"] == "m.room.message");
        found.extend(messages.filter_map(|event| event["event_id"].as_str().map(str::to_owned)));
    }
    found.len()
}
