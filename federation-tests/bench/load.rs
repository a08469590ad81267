//! Sends into many rooms: as fast as it goes, then at half of that.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use federation_tests::{Client, Engine, Server, Usage};
use serde_json::json;
use tokio::task::LocalSet;

use crate::{Arguments, limit, metrics, people, table::Table, wire::Wire};

/// Before the clock starts: caches fill, connections open.
const WARM_UP: Duration = Duration::from_secs(2);
/// How many bytes people write in a message here.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and then it thinks twice about having done so.";

/// Sends one message after the other into one room.
pub struct Sender {
    wire: Wire,
    number: usize,
    /// The room.
    pub room: String,
    /// How many it has sent so far.
    pub sent: usize,
    /// The id of the last one.
    pub last: String,
}

impl Sender {
    async fn send(&mut self) {
        self.sent += 1;
        let Self { wire, number, room, sent, last } = self;
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/s{number}-{sent}");
        let body = format!(r#"{{"msgtype":"m.text","body":"{number} {sent} {TEXT}"}}"#);
        let answer = wire.exchange("PUT", &path, Some(&body)).await;
        assert_eq!(answer.status, 200, "a send was answered {}", answer.body);
        answer.text("event_id").expect("an event id").clone_into(last);
    }
}

pub async fn measure(server: &Server, engine: &Engine, arguments: &Arguments, table: &mut Table) {
    eprintln!("sends: making {} rooms", arguments.rooms);
    let mut senders = senders(server, "sender", arguments).await;
    eprintln!("sends: as fast as it goes");
    full_load(&mut senders, WARM_UP).await;

    let batches = metrics::histogram(server, "comity_writer_batch_size").await;
    let commits = metrics::histogram(server, "comity_writer_commit_seconds").await;
    let before = (server.usage(), Usage::of(std::process::id()));
    let began = Instant::now();
    let sent = full_load(&mut senders, arguments.duration()).await;
    let rate = sent as f64 / began.elapsed().as_secs_f64();
    let after = (server.usage(), Usage::of(std::process::id()));
    let batch = metrics::histogram(server, "comity_writer_batch_size").await.mean_since(batches);
    let commit = metrics::histogram(server, "comity_writer_commit_seconds").await.mean_since(commits);
    let per_thousand = |before: Usage, after: Usage| (after.cpu_seconds - before.cpu_seconds) * 1000.0 / sent as f64;

    eprintln!("sends: at half of {rate:.0}/s");
    let mut times = half_load(&mut senders, rate / 2.0, arguments.duration()).await;
    drop(senders);

    eprintln!("limits: raw inserts and signatures");
    let batch_size = batch.map_or(arguments.senders / 2, |batch| batch.round() as usize).max(1);
    let inserts = limit::inserts(engine, arguments.rooms, batch_size, arguments.duration() / 2).await;
    let signatures = limit::signatures(Duration::from_secs(1));

    table.against("sends", rate, inserts, "/s", "at least 4000/s on SQLite; ratio to raw inserts 0.5");
    table.against("sends, against signatures of one core", rate, signatures, "/s", "");
    table.percentiles("send at half load", &mut times, ["under 3 ms", "under 30 ms"]);
    let server_cpu = per_thousand(before.0, after.0);
    table.alone("server CPU for 1000 sends", format!("{server_cpu:.3} s"), "at most 0.25 s");
    table.alone("generator CPU for 1000 sends", format!("{:.3} s", per_thousand(before.1, after.1)), "");
    if let (Some(batch), Some(commit)) = (batch, commit) {
        table.alone("writes in one commit, mean", format!("{batch:.1}"), "");
        table.alone("time of one commit, mean", format!("{:.2} ms", commit * 1000.0), "");
    }
}

/// Senders who take turns in the rooms that are measured. `prefix`: what their names begin with, new for this server.
pub async fn senders(server: &Server, prefix: &str, arguments: &Arguments) -> Vec<Sender> {
    let owners: Vec<Client> = people(server, prefix, arguments.rooms).await;
    let mut rooms = Vec::new();
    for (number, owner) in owners.iter().enumerate() {
        rooms.push(owner.create_room(json!({ "preset": "public_chat", "name": format!("Room {number}") })).await);
    }
    let mut senders = Vec::new();
    for number in 0..arguments.senders {
        let room = number % arguments.rooms;
        let wire = Wire::connect(&server.address(), &owners[room]).await;
        senders.push(Sender { wire, number, room: rooms[room].clone(), sent: 0, last: String::new() });
    }
    senders
}

/// Every sender sends again as soon as it is answered. Answers how many sends there were.
pub async fn full_load(senders: &mut Vec<Sender>, duration: Duration) -> usize {
    let until = Instant::now() + duration;
    let count = Rc::new(RefCell::new(0));
    let counted = count.clone();
    on_all(senders, move |mut sender| {
        let count = counted.clone();
        async move {
            while Instant::now() < until {
                sender.send().await;
                *count.borrow_mut() += 1;
            }
            sender
        }
    })
    .await;
    count.take()
}

/// All senders together send `rate` times a second. Answers how long each send took; a send that began late because
/// the one before was slow counts from the moment in which it should have begun.
async fn half_load(senders: &mut Vec<Sender>, rate: f64, duration: Duration) -> Vec<Duration> {
    let began = Instant::now();
    let interval = Duration::from_secs_f64(senders.len() as f64 / rate);
    let offset = interval / senders.len() as u32;
    let times = Rc::new(RefCell::new(Vec::new()));
    let recorded = times.clone();
    on_all(senders, move |mut sender| {
        let times = recorded.clone();
        async move {
            let mut due = began + offset * sender.number as u32;
            while due < began + duration {
                tokio::time::sleep_until(due.into()).await;
                // The timer's own grain, a millisecond, is not the server's fault; a late predecessor is.
                let woken = Instant::now();
                let from = if woken.duration_since(due) < Duration::from_millis(2) { woken } else { due };
                sender.send().await;
                times.borrow_mut().push(from.elapsed());
                due += interval;
            }
            sender
        }
    })
    .await;
    times.take()
}

/// Runs `work` for each sender at once on this thread, and takes the senders back.
async fn on_all<F, W>(senders: &mut Vec<Sender>, work: W)
where
    F: Future<Output = Sender> + 'static,
    W: Fn(Sender) -> F,
{
    let local = LocalSet::new();
    let tasks: Vec<_> = senders.drain(..).map(|sender| local.spawn_local(work(sender))).collect();
    local
        .run_until(async {
            for task in tasks {
                senders.push(task.await.expect("a sender goes on to its end"));
            }
        })
        .await;
}
