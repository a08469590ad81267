//! Many write at the same time, many read along, and nobody skips or repeats anything.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use federation_tests::{Engine, PATIENCE, Reader, Server, enc, on_each_engine};
use tokio::{sync::Barrier, task::JoinSet};

const ROOMS: usize = 4;
const WRITERS: usize = 16;
const READERS: usize = 12;
const MESSAGES: usize = 60;

/// Reads until it has seen `total` messages, and a little longer to notice repeats.
async fn read(mut reader: Reader, total: usize, rooms: Arc<Vec<String>>) -> Reader {
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let seen: usize = rooms.iter().map(|room| reader.room(room).len()).sum();
        if seen >= total {
            break;
        }
        if reader.step(Duration::from_secs(5)).await.expect("the server answers") > 0 {
            deadline = Instant::now() + PATIENCE;
        }
        assert!(Instant::now() < deadline, "{} saw {seen} of {total} events and no more", reader.client().user_id);
    }
    let late = reader.step(Duration::from_millis(300)).await.expect("the server answers");
    assert_eq!(late, 0, "{} was shown more than was written", reader.client().user_id);
    reader
}

async fn writers_and_readers_at_once(engine: Engine) {
    let server = Server::start(&engine).await;
    let owner = server.register_with_secret("owner").await;
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        rooms.push(owner.create_public_room().await);
    }
    let rooms = Arc::new(rooms);
    let mut people = Vec::new();
    for number in 0..WRITERS {
        let client = server.register_with_secret(&format!("u{number}")).await;
        for room in rooms.iter() {
            client.join(room).await;
        }
        people.push(client);
    }
    let total = WRITERS * MESSAGES;
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        // Some ask for so little at a time that they have to fill gaps.
        let filter = enc(&format!(r#"{{"room":{{"timeline":{{"limit":{}}}}}}}"#, [100, 20, 1][number % 3]));
        let client = people[number % WRITERS].another();
        let reader = Reader::start_with(client, &format!("&filter={filter}")).await;
        readers.spawn(read(reader, total, rooms.clone()));
    }
    let start = Arc::new(Barrier::new(WRITERS));
    let mut writers = JoinSet::new();
    for (number, client) in people.iter().enumerate() {
        let (client, rooms, start) = (client.another(), rooms.clone(), start.clone());
        writers.spawn(async move {
            start.wait().await;
            let mut sent = Vec::new();
            for message in 0..MESSAGES {
                let room = (number + message) % ROOMS;
                sent.push((room, client.say(&rooms[room], &format!("{number}:{message}")).await));
            }
            sent
        });
    }
    let sent: Vec<(usize, String)> = writers.join_all().await.into_iter().flatten().collect();
    let readers = readers.join_all().await;
    let gaps: usize = readers.iter().map(|reader| reader.gaps).sum();
    eprintln!("{total} messages, {READERS} readers, {gaps} gaps filled");

    for (number, room) in rooms.iter().enumerate() {
        let history = owner.history(room).await;
        let written: Vec<&str> = history
            .iter()
            .filter(|event| event["type"] == "m.room.message")
            .filter_map(|event| event["event_id"].as_str())
            .collect();
        let in_room = sent.iter().filter(|(sent_to, _)| *sent_to == number);
        assert!(in_room.clone().all(|(_, id)| written.contains(&id.as_str())), "an acknowledged message is missing");
        assert_eq!(written.len(), in_room.count(), "{room} has more messages than were acknowledged");
        for reader in &readers {
            assert_eq!(reader.room(room), written, "{} read {room} differently", reader.client().user_id);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_skips_or_repeats_an_event_while_many_write() {
    on_each_engine(writers_and_readers_at_once).await;
}

async fn joins_and_messages_at_once(engine: Engine) {
    let server = Server::start(&engine).await;
    let owner = server.register_with_secret("owner").await;
    let room = owner.create_public_room().await;
    let mut reader = Reader::start(owner.another()).await;
    let mut tasks = JoinSet::new();
    for number in 0..WRITERS {
        let client = server.register_with_secret(&format!("u{number}")).await;
        let room = room.clone();
        tasks.spawn(async move {
            client.join(&room).await;
            client.say(&room, "here I am").await;
            client.leave(&room).await;
            client.join(&room).await;
            client.say(&room, "here I am again").await
        });
    }
    let last_words = tasks.join_all().await;
    let deadline = Instant::now() + PATIENCE;
    while !last_words.iter().all(|event_id| reader.has_seen(event_id)) {
        reader.step(Duration::from_secs(1)).await.expect("the server answers");
        assert!(Instant::now() < deadline, "the owner missed somebody's last words");
    }
    assert_eq!(reader.room(&room).len(), WRITERS * 5, "join, say, leave, join, say for each");
    let members = owner.get(&format!("rooms/{room}/joined_members")).await.ok();
    assert_eq!(members["joined"].as_object().map(serde_json::Map::len), Some(WRITERS + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_comes_and_goes_at_once_leaves_a_room_in_order() {
    on_each_engine(joins_and_messages_at_once).await;
}
