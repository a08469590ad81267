//! The process dies without a warning, again and again, while people write and read.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use federation_tests::{Client, Engine, PATIENCE, Reader, Server, on_each_engine};
use rand::RngExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// How often the server dies.
const ROUNDS: usize = 8;
const ROOMS: usize = 3;
const WRITERS: usize = 9;
const READERS: usize = 4;
/// How long a writer may wait for a server that is being started again.
const OUTAGE: Duration = Duration::from_secs(90);

/// A send that the server has acknowledged.
#[derive(Clone, Debug)]
struct Sent {
    path: String,
    body: String,
    event_id: String,
}

/// Writes one message after the other and repeats each under its transaction id until it is acknowledged.
async fn write(client: Client, writer: usize, room: String, stop: Arc<AtomicBool>) -> Vec<Sent> {
    let mut sent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = sent.len();
        let path = format!("rooms/{room}/send/m.room.message/w{writer}-{number}");
        let body = format!("{writer}:{number}");
        let content = json!({ "msgtype": "m.text", "body": body });
        let answer = acknowledged(&client, Method::PUT, &path, &content).await;
        let event_id = answer["event_id"].as_str().expect("an event id").to_owned();
        sent.push(Sent { path, body, event_id });
    }
    sent
}

/// Sets the same piece of state to one number after the other. Answers the last that was acknowledged.
async fn count(client: Client, room: String, stop: Arc<AtomicBool>) -> u64 {
    let mut number = 0;
    let path = format!("rooms/{room}/state/org.example.count/");
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        acknowledged(&client, Method::PUT, &path, &json!({ "number": number })).await;
    }
    number
}

/// Asks until there is an answer. Only an outage may stand in between, never a refusal.
async fn acknowledged(client: &Client, method: Method, path: &str, body: &Value) -> Value {
    let deadline = Instant::now() + OUTAGE;
    loop {
        match client.attempt(method.clone(), path, Some(body)).await {
            Ok(answer) if answer.status < 500 => return answer.ok(),
            _ => assert!(Instant::now() < deadline, "{path} wasn't answered for {OUTAGE:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads on from one `since` to the next, through every outage, until it has seen all of `wanted`.
async fn read(mut reader: Reader, stop: Arc<AtomicBool>) -> Reader {
    while !stop.load(Ordering::Relaxed) {
        if reader.step(Duration::from_millis(500)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    reader
}

async fn killed_again_and_again(engine: Engine) {
    let mut server = Server::start(&engine).await;
    let owner = server.register_with_secret("owner").await;
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        rooms.push(owner.create_public_room().await);
    }
    let mut writers = JoinSet::new();
    let mut readers = JoinSet::new();
    let stop_writing = Arc::new(AtomicBool::new(false));
    let stop_reading = Arc::new(AtomicBool::new(false));
    let mut people = Vec::new();
    for number in 0..WRITERS.max(READERS) {
        let client = server.register_with_secret(&format!("u{number}")).await;
        for room in &rooms {
            client.join(room).await;
        }
        people.push(client);
    }
    for client in people.iter().take(READERS) {
        readers.spawn(read(Reader::start(client.another()).await, stop_reading.clone()));
    }
    for (number, client) in people.iter().take(WRITERS).enumerate() {
        writers.spawn(write(client.another(), number, rooms[number % ROOMS].clone(), stop_writing.clone()));
    }
    let counter = tokio::spawn(count(owner.another(), rooms[0].clone(), stop_writing.clone()));

    for round in 1..=ROUNDS {
        let lifetime = Duration::from_millis(rand::rng().random_range(20..700));
        tokio::time::sleep(lifetime).await;
        server.kill();
        eprintln!("round {round}: killed after {lifetime:?}");
        server.restart().await;
    }
    stop_writing.store(true, Ordering::Relaxed);
    let sent: Vec<Sent> = writers.join_all().await.into_iter().flatten().collect();
    let counted = counter.await.expect("the counting writer ended well");
    // One last death, right after the last acknowledgement.
    server.kill();
    server.restart().await;
    stop_reading.store(true, Ordering::Relaxed);
    let mut readers = readers.join_all().await;
    eprintln!("{} messages were acknowledged", sent.len());
    assert!(sent.len() > ROUNDS, "there was no load to speak of: {} messages", sent.len());

    every_acknowledged_event_is_there_once(&owner, &rooms, &sent).await;
    for reader in &mut readers {
        the_reader_missed_nothing(reader, &rooms, &sent).await;
    }
    let state = owner.state(&rooms[0], "org.example.count", "").await.ok();
    assert_eq!(state["number"], counted, "the last acknowledged state holds");
    a_repeated_send_gets_the_same_answer(&owner, &people, &rooms, &sent).await;
}

async fn every_acknowledged_event_is_there_once(owner: &Client, rooms: &[String], sent: &[Sent]) {
    let mut found: HashMap<String, (String, usize)> = HashMap::new();
    for room in rooms {
        let history = owner.history(room).await;
        let mut ids = HashSet::new();
        let mut last_of_writer: HashMap<String, u64> = HashMap::new();
        for event in &history {
            let id = event["event_id"].as_str().expect("every event has an id");
            assert!(ids.insert(id), "{id} is in {room} twice");
            let Some(body) = event["content"]["body"].as_str() else { continue };
            found.entry(body.to_owned()).or_insert((id.to_owned(), 0)).1 += 1;
            let (writer, number) = body.split_once(':').expect("writer:number");
            let number: u64 = number.parse().expect("a number");
            let before = last_of_writer.insert(writer.to_owned(), number);
            assert_eq!(number, before.map_or(0, |before| before + 1), "{body} comes after {before:?} in {room}");
        }
        let forwards = owner.pages(room, "f", None, None).await;
        let mut forward_ids = forwards.iter().map(|event| &event["event_id"]);
        assert!(
            forward_ids.by_ref().eq(history.iter().map(|event| &event["event_id"])),
            "{room} reads differently forwards"
        );
        let members = owner.get(&format!("rooms/{room}/joined_members")).await.ok();
        assert_eq!(
            members["joined"].as_object().map(serde_json::Map::len),
            Some(WRITERS.max(READERS) + 1),
            "{members}"
        );
    }
    for Sent { body, event_id, .. } in sent {
        let (id, count) =
            found.remove(body).unwrap_or_else(|| panic!("{body} was acknowledged as {event_id} and is lost"));
        assert_eq!((&id, count), (event_id, 1), "{body} is there {count} times");
    }
    assert!(found.is_empty(), "there are messages that nobody was told about: {found:?}");
}

async fn the_reader_missed_nothing(reader: &mut Reader, rooms: &[String], sent: &[Sent]) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(missed) = sent.iter().find(|sent| !reader.has_seen(&sent.event_id)) {
        let news = reader.step(Duration::from_secs(1)).await.expect("the server is well again");
        assert!(news > 0 || Instant::now() < deadline, "{} never saw {missed:?}", reader.client().user_id);
    }
    for room in rooms {
        let history = reader.client().history(room).await;
        let shown = reader.room(room);
        let first = shown.first().expect("there was news in every room");
        let from_there = history.iter().skip_while(|event| event["event_id"] != first.as_str());
        let expected: Vec<&str> = from_there.filter_map(|event| event["event_id"].as_str()).collect();
        assert_eq!(shown, expected, "{} was shown {room} in another order", reader.client().user_id);
    }
}

async fn a_repeated_send_gets_the_same_answer(owner: &Client, people: &[Client], rooms: &[String], sent: &[Sent]) {
    let before = owner.history(&rooms[0]).await.len();
    for sent in sent.iter().rev().step_by(sent.len().div_ceil(40)) {
        let writer: usize = sent.body.split(':').next().and_then(|writer| writer.parse().ok()).expect("writer:number");
        let content = json!({ "msgtype": "m.text", "body": sent.body });
        let again = people[writer].put(&sent.path, content).await.ok();
        assert_eq!(again["event_id"], sent.event_id, "{} got another event after the crash", sent.path);
    }
    assert_eq!(owner.history(&rooms[0]).await.len(), before, "repeated sends have made new events");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed_again_and_again() {
    on_each_engine(killed_again_and_again).await;
}
