//! Many write, many read, all at once: no reader skips or repeats an event, and a broken order of positions is noticed.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use model::{Committed, Position, SigningKey};
use rooms::{MembershipChange, NewRoom, Rooms, RoomsConfig, Target, Wish};
use ruma::{
    OwnedRoomId, OwnedUserId, api::client::room::create_room::v3::RoomPreset, presence::PresenceState, server_name,
};
use serde_json::{Map, Value, json, value::to_raw_value};
use store::{OnCommit, Store, testing::on_each_engine_heard};
use sync::{
    Notifier, Sync, SyncConfig, SyncRequest, SyncToken,
    feed::{FeedRequest, News, Start},
    sliding::{Form, RoomWanted, SlidingList, SlidingRequest},
};
use tokio_util::sync::CancellationToken;

const ROOMS: usize = 3;
const WRITERS: usize = 6;
const READERS: usize = 6;
const MESSAGES: usize = 40;
/// The test's own patience; every wait in it ends much sooner.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a reader heard of each room, in order.
type Heard = Vec<(OwnedRoomId, Vec<String>)>;

fn config() -> SyncConfig {
    // Small memories, so that readers come to their ends and the store must help out.
    SyncConfig { presence: false, recent_events_per_room: 16, ..SyncConfig::default() }
}

fn user(name: &str) -> OwnedUserId {
    format!("@{name}:a.test").try_into().expect("it is a user id")
}

struct Server {
    rooms: Rooms,
    sync: Sync,
    joined: Vec<OwnedRoomId>,
}

impl Server {
    async fn new(store: Store, notifier: Notifier) -> Self {
        let key = SigningKey::from_seed(server_name!("a.test").to_owned(), "1", &[1; 32]).expect("it is a key id");
        let rooms = Rooms::new(
            store.clone(),
            peers::testing::alone(server_name!("a.test"), store.clone()),
            Arc::new(key),
            RoomsConfig::default(),
        );
        let sync = Sync::new(store, rooms.clone(), notifier, config(), CancellationToken::new());
        Self { rooms, sync, joined: Vec::new() }
    }

    /// Rooms that every writer and every reader has joined.
    async fn make_rooms(&mut self) {
        for _ in 0..ROOMS {
            let new = NewRoom {
                creator: user("writer0"),
                version: None,
                preset: RoomPreset::PublicChat,
                creation_content: Map::new(),
                initial_state: Vec::new(),
                power_levels: Map::new(),
                name: None,
                topic: None,
                alias: None,
                invite: Vec::new(),
                is_direct: false,
                is_listed: false,
            };
            let room_id = self.rooms.create(new).await.expect("the room is made");
            let room = self.rooms.get(&room_id).await.expect("the room is there");
            let writers = (1..WRITERS).map(|number| user(&format!("writer{number}")));
            for user_id in writers.chain((0..READERS).map(|number| user(&format!("reader{number}")))) {
                let target = Target { sender: user_id.clone(), user_id, reason: None, is_direct: None };
                let joined = self.rooms.change_membership(&room, MembershipChange::Join, target).await;
                joined.expect("everybody may join");
            }
            self.joined.push(room_id);
        }
    }

    async fn write(&self, writer: usize) {
        for number in 0..MESSAGES {
            let room = self.rooms.get(&self.joined[(writer + number) % ROOMS]).await.expect("the room is there");
            let content = json!({ "msgtype": "m.text", "body": format!("{writer}-{number}") });
            let wish = Wish {
                sender: user(&format!("writer{writer}")),
                kind: "m.room.message".into(),
                content: to_raw_value(&content).expect("it is JSON"),
                state_key: None,
                redacts: None,
                transaction: None,
            };
            self.rooms.send(&room, wish).await.expect("a member may speak");
        }
    }

    async fn ask(&self, reader: usize, since: Option<String>, timeout: Duration) -> Value {
        let filter = json!({ "room": { "timeline": { "limit": 100, "types": ["m.room.message"] } } });
        let request = SyncRequest {
            user_id: user(&format!("reader{reader}")),
            device_id: "D".into(),
            since,
            filter: Some(serde_json::from_value(Value::String(filter.to_string())).expect("it is a filter")),
            full_state: false,
            timeout,
            set_presence: PresenceState::Offline,
            use_state_after: false,
        };
        let answer = self.sync.sync(request).await.expect("a member may read");
        serde_json::from_str(&answer.render(0)).expect("an answer is JSON")
    }

    /// Reads until everything that was said has been heard, or nothing more comes. `None`: an answer was limited.
    async fn read(&self, reader: usize, since: String) -> Heard {
        let mut heard: Heard = self.joined.iter().map(|room_id| (room_id.clone(), Vec::new())).collect();
        let mut since = since;
        let began = Instant::now();
        let mut quiet = 0;
        let mut lost_answers = 0;
        loop {
            let total: usize = heard.iter().map(|(_, events)| events.len()).sum();
            if total >= WRITERS * MESSAGES || quiet > 20 || began.elapsed() > PATIENCE {
                return heard;
            }
            let answer = self.ask(reader, Some(since.clone()), Duration::from_millis(100)).await;
            // Now and then an answer is lost on its way, and the same is asked again.
            lost_answers += 1;
            if lost_answers % 5 == 0 {
                continue;
            }
            since = answer["next_batch"].as_str().expect("an answer has a token").to_owned();
            let before = total;
            for (room_id, events) in &mut heard {
                let timeline = &answer["rooms"]["join"][room_id.as_str()]["timeline"];
                assert_ne!(timeline["limited"], true, "the limit is beyond what is said");
                for event in timeline["events"].as_array().into_iter().flatten() {
                    events.push(event["event_id"].as_str().expect("an event has an id").to_owned());
                }
            }
            let total: usize = heard.iter().map(|(_, events)| events.len()).sum();
            quiet = if total > before { 0 } else { quiet + 1 };
        }
    }

    /// As [`Self::read`], by a feed: a few things at a time, and now and then the connection breaks in the middle of them.
    async fn follow(&self, reader: usize, since: String) -> Heard {
        /// How many things are read at once: less than come at once.
        const PIECE: usize = 5;

        let mut heard: Heard = self.joined.iter().map(|room_id| (room_id.clone(), Vec::new())).collect();
        let (began, mut total, mut quiet, mut pieces) = (Instant::now(), 0, 0, 0);
        let connect = async |since: String| {
            let resume = Some(since);
            let request = FeedRequest {
                user_id: user(&format!("reader{reader}")),
                device_id: "D".into(),
                resume,
                most_missed: 9_999,
            };
            let (feed, start) = self.sync.feed(request).await.expect("a member may read");
            assert_eq!(start, Start::Resumed);
            feed
        };
        let mut since = since;
        let mut feed = connect(since.clone()).await;
        while total < WRITERS * MESSAGES && quiet < 20 && began.elapsed() < PATIENCE {
            quiet += usize::from(tokio::time::timeout(Duration::from_millis(100), feed.changed()).await.is_err());
            let mut items = feed.read(PIECE).await.expect("a member may read");
            assert!(items.is_sorted_by_key(|item| item.position), "a feed is in order");
            pieces += 1;
            let breaks = pieces % 4 == 0;
            if breaks {
                items.truncate(items.len().div_ceil(2));
            }
            for item in items {
                since = SyncToken { position: item.position, to_device: None }.to_string();
                let News::Event { shown, .. } = item.news else { continue };
                let room = heard.iter_mut().find(|(room_id, _)| *room_id == shown.event.pdu.room_id);
                if let Some((_, events)) = room.filter(|_| shown.kind.as_ref() == "m.room.message") {
                    events.push(shown.event.pdu.event_id.to_string());
                    (total, quiet) = (total + 1, 0);
                }
            }
            if breaks {
                feed = connect(since.clone()).await;
            }
        }
        heard
    }

    fn window(reader: usize, last: usize, pos: Option<String>) -> SlidingRequest {
        let wanted = RoomWanted { timeline_limit: 100, ..RoomWanted::default() };
        let list = SlidingList { ranges: Some(vec![(0, last)]), wanted, ..SlidingList::default() };
        SlidingRequest {
            user_id: user(&format!("reader{reader}")),
            device_id: "D".into(),
            conn_id: "race".into(),
            pos,
            timeout: Duration::from_millis(100),
            set_presence: PresenceState::Offline,
            lists: [("all".to_owned(), list)].into(),
            subscriptions: Default::default(),
            extensions: Default::default(),
        }
    }

    async fn slide_once(&self, reader: usize, last: usize, pos: Option<String>) -> Value {
        let answer = self.sync.sliding_sync(&Self::window(reader, last, pos)).await.expect("a member may read");
        serde_json::from_str(&answer.render(Form::Deployed, None, 0)).expect("an answer is JSON")
    }

    /// As [`Self::read`], through a window that now shows one room, now all of them: what happened out of sight is told later.
    async fn slide(&self, reader: usize, pos: String) -> Heard {
        let mut heard: Heard = self.joined.iter().map(|room_id| (room_id.clone(), Vec::new())).collect();
        let (began, mut pos, mut total, mut quiet, mut answers) = (Instant::now(), pos, 0, 0, 0);
        while total < WRITERS * MESSAGES && quiet < 20 && began.elapsed() < PATIENCE {
            answers += 1;
            let last = if answers % 3 == 0 { ROOMS } else { 0 };
            let answer = self.slide_once(reader, last, Some(pos.clone())).await;
            // Now and then an answer is lost on its way, and the same is asked again, of another window.
            if answers % 5 == 0 {
                continue;
            }
            pos = answer["pos"].as_str().expect("an answer has a position").to_owned();
            quiet += 1;
            for (room_id, events) in &mut heard {
                let room = &answer["rooms"][room_id.as_str()];
                assert_ne!(room["limited"], true, "the limit is beyond what is said");
                let timeline = room["timeline"].as_array().into_iter().flatten();
                for event in timeline.filter(|event| event["type"] == "m.room.message") {
                    events.push(event["event_id"].as_str().expect("an event has an id").to_owned());
                    (total, quiet) = (total + 1, 0);
                }
            }
        }
        heard
    }

    /// The messages of each room, in order.
    async fn said(&self, store: &Store) -> Heard {
        let mut said = Vec::new();
        for room_id in &self.joined {
            let room = self.rooms.get(room_id).await.expect("the room is there");
            let direction = ruma::api::Direction::Forward;
            let events = store.events().timeline(room.nid, Position(i64::MIN), None, usize::MAX, direction).await;
            let events = events.expect("the store reads").into_iter();
            let messages = events.filter(|event| event.pdu.kind.to_string() == "m.room.message");
            said.push((room_id.clone(), messages.map(|event| event.pdu.event_id.to_string()).collect()));
        }
        said
    }
}

/// What is wrong with what the readers heard.
async fn race(store: Store, notifier: Notifier) -> Vec<String> {
    let mut server = Server::new(store.clone(), notifier).await;
    server.make_rooms().await;
    let server = Arc::new(server);
    let mut readers = Vec::new();
    for reader in 0..READERS {
        let first = match reader % 3 {
            2 => server.slide_once(reader, ROOMS, None).await["pos"].clone(),
            _ => server.ask(reader, None, Duration::ZERO).await["next_batch"].clone(),
        };
        let since = first.as_str().expect("an answer has a token").to_owned();
        let server = server.clone();
        readers.push(tokio::spawn(async move {
            match reader % 3 {
                0 => server.read(reader, since).await,
                1 => server.follow(reader, since).await,
                _ => server.slide(reader, since).await,
            }
        }));
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let server = server.clone();
        writers.push(tokio::spawn(async move { server.write(writer).await }));
    }
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    let said = server.said(&store).await;
    let mut faults = Vec::new();
    for (number, reader) in readers.into_iter().enumerate() {
        let heard = reader.await.expect("no reader panics");
        for ((room_id, heard), (_, said)) in heard.iter().zip(&said) {
            if heard == said {
                continue;
            }
            let distinct: HashSet<&String> = heard.iter().collect();
            let skipped = said.iter().filter(|event| !distinct.contains(event)).count();
            let repeated = heard.len() - distinct.len();
            faults
                .push(format!("reader {number} in {room_id}: {skipped} skipped, {repeated} repeated, or out of order"));
        }
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_skips_or_repeats_an_event_while_many_write() {
    let listener = || {
        let notifier = Notifier::new(&config());
        let ear = notifier.clone();
        (Arc::new(move |committed: Committed| ear.ingest(&committed)) as OnCommit, notifier)
    };
    on_each_engine_heard(listener, async |store, notifier| {
        assert_eq!(race(store, notifier).await, Vec::<String>::new());
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_skips_or_repeats_an_event_when_memory_is_lost_now_and_then() {
    let listener = || {
        let notifier = Notifier::new(&config());
        let ear = notifier.clone();
        let told = Mutex::new((0, Position(0)));
        let forgetful = move |committed: Committed| {
            let mut told = told.lock().expect("not poisoned");
            told.0 += 1;
            if told.0 % 25 == 0 {
                // As after a commit of another node, or whose answer got lost.
                ear.ingest(&Committed { upto: told.1, changes: Arc::new([]), gap: true, foreign: true });
            }
            told.1 = committed.upto;
            ear.ingest(&committed);
        };
        (Arc::new(forgetful) as OnCommit, notifier)
    };
    on_each_engine_heard(listener, async |store, notifier| {
        assert_eq!(race(store, notifier).await, Vec::<String>::new());
        Ok::<_, store::Error>(())
    })
    .await;
}

/// As if positions became visible out of order: every few commits, one is told to be visible before what it brought is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broken_order_of_positions_is_noticed() {
    let listener = || {
        let notifier = Notifier::new(&config());
        let ear = notifier.clone();
        let held: Mutex<(usize, Option<Committed>)> = Mutex::new((0, None));
        let broken = move |committed: Committed| {
            let mut held = held.lock().expect("not poisoned");
            held.0 += 1;
            if held.0 > 40 && held.0.is_multiple_of(4) {
                // A later position is shown first; what lies before it comes with the next commit.
                ear.ingest(&Committed { upto: committed.upto, changes: Arc::new([]), gap: false, foreign: false });
                held.1 = Some(committed);
                return;
            }
            ear.ingest(&committed);
            if let Some(late) = held.1.take() {
                ear.ingest(&late);
            }
        };
        (Arc::new(broken) as OnCommit, notifier)
    };
    on_each_engine_heard(listener, async |store, notifier| {
        let faults = race(store, notifier).await;
        assert!(!faults.is_empty(), "readers heard everything although positions became visible out of order");
        Ok::<_, store::Error>(())
    })
    .await;
}
