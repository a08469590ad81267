//! One deployment on two nodes: two processes, one PostgreSQL, with a Redis between them, or a RabbitMQ, or nothing.

mod admin;
mod presence;

use std::time::{Duration, Instant};

use federation_tests::{Broker, Client, Engine, Network, PATIENCE, Reader, Redis, Server, eventually};
use tokio::task::JoinSet;

const MESSAGES: usize = 100;

/// Two nodes of one deployment.
struct Nodes {
    // In this order, so that the second ends before the database goes.
    second: Server,
    first: Server,
    redis: Option<Redis>,
    broker: Option<Broker>,
}

impl Nodes {
    async fn start(redis: Option<Redis>, broker: Option<Broker>) -> Option<Self> {
        let Some(engine) = Engine::postgres() else {
            eprintln!("SKIPPED: nodes share a PostgreSQL, and COMITY_TEST_POSTGRES_URL isn't set");
            return None;
        };
        let mut builder = Server::builder(&engine);
        if let Some(redis) = &redis {
            builder = builder.set("cache", "url", redis.url());
        }
        if let Some(broker) = &broker {
            builder = builder.set("bus", "url", broker.server_url().await);
        }
        let first = builder.start().await;
        let second = first.another_node().await;
        Some(Self { second, first, redis, broker })
    }

    /// With a Redis, where there is one.
    async fn with_redis() -> Option<Self> {
        Self::start(Some(Redis::start(&Redis::program()?).await), None).await
    }

    /// Alice at the first node and Bob at the second, in one room.
    async fn people(&self) -> (Client, Client, String) {
        self.people_called("alice", "bob").await
    }

    /// Two people at a node each, in one room.
    async fn people_called(&self, at_first: &str, at_second: &str) -> (Client, Client, String) {
        let alice = self.first.register_with_secret(at_first).await;
        let bob = self.second.register_with_secret(at_second).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        (alice, bob, room)
    }
}

/// How long it takes until each of them hears what the other says, half of the times.
async fn median_way(alice: &Client, bob: &Client, room: &str) -> Duration {
    let mut ways = Vec::new();
    for number in 0..20 {
        let (speaker, listener) = if number % 2 == 0 { (alice, bob) } else { (bob, alice) };
        let mut since = listener.now().await;
        let listening = {
            let (listener, room) = (listener.another(), room.to_owned());
            tokio::spawn(async move {
                listener
                    .sync_until(&mut since, |answer| {
                        let events = answer["rooms"]["join"][&room]["timeline"]["events"].as_array()?;
                        events.iter().any(|event| event["content"]["body"] == format!("{number}")).then(Instant::now)
                    })
                    .await
            })
        };
        // The other one is to be waiting by then; if it isn't, that is no harm.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let began = Instant::now();
        speaker.say(room, &number.to_string()).await;
        ways.push(listening.await.expect("it hears it").saturating_duration_since(began));
    }
    ways.sort_unstable();
    eprintln!(
        "from one node to the other: {:?} at best, {:?} half of the times, {:?} at worst",
        ways[0], ways[10], ways[19]
    );
    ways[10]
}

/// Reads until it has seen `total` messages, and a little longer to notice repeats.
async fn read(mut reader: Reader, total: usize, room: String) -> Vec<String> {
    let began = Instant::now();
    while reader.room(&room).len() < total {
        reader.step(Duration::from_secs(2)).await.expect("the node answers");
        assert!(began.elapsed() < 2 * PATIENCE, "{} of {total} were seen, and no more", reader.room(&room).len());
    }
    assert_eq!(reader.step(Duration::from_millis(300)).await, Ok(0), "more was shown than was said");
    reader.room(&room).to_vec()
}

/// Both speak at once, at a node each, and are read at both. Each message is seen once by everybody, and in one order.
/// `meanwhile`: what happens to the nodes.
async fn everybody_hears_everything(
    nodes: &mut Nodes,
    people: (&Client, &Client, &str),
    meanwhile: impl AsyncFnOnce(&mut Nodes),
) {
    let (alice, bob, room) = people;
    let mut readers = JoinSet::new();
    for client in [alice, bob] {
        let reader = Reader::start(client.another()).await;
        readers.spawn(read(reader, 2 * MESSAGES, room.to_owned()));
    }
    let mut writers = JoinSet::new();
    for client in [alice, bob] {
        let (client, room) = (client.another(), room.to_owned());
        writers.spawn(async move {
            let mut sent = Vec::new();
            for number in 0..MESSAGES {
                sent.push(client.say(&room, &format!("message {number}")).await);
            }
            sent
        });
    }
    meanwhile(nodes).await;
    let sent = writers.join_all().await;
    let seen = readers.join_all().await;
    assert_eq!(seen[0], seen[1], "both nodes tell one order");
    for sent in &sent {
        let of_one: Vec<&String> = seen[0].iter().filter(|id| sent.contains(id)).collect();
        assert_eq!(of_one, sent.iter().collect::<Vec<_>>(), "what one says keeps its order");
    }
}

/// A client that goes from node to node hears everything once.
async fn a_wanderer_skips_and_repeats_nothing(nodes: &Nodes, people: (&Client, &Client, &str)) {
    let (alice, bob, room) = people;
    let at = |node: &Server| {
        let mut client = node.anonymous();
        client.user_id.clone_from(&bob.user_id);
        client.device_id.clone_from(&bob.device_id);
        client.token.clone_from(&bob.token);
        client
    };
    let ends = [at(&nodes.first), at(&nodes.second)];
    let mut since = bob.now().await;
    let mut seen = Vec::new();
    let mut sent = Vec::new();
    for number in 0..40 {
        sent.push(alice.say(room, &format!("step {number}")).await);
        // What was just said at the first node is in the token that the second is asked with.
        for end in [number % 2, (number + 1) % 2] {
            let answer = ends[end].sync_with(Some(&since), Duration::ZERO, "").await.ok();
            let events = answer["rooms"]["join"][room]["timeline"]["events"].as_array().cloned().unwrap_or_default();
            seen.extend(events.iter().map(|event| event["event_id"].as_str().expect("an id").to_owned()));
            answer["next_batch"].as_str().expect("a token").clone_into(&mut since);
        }
    }
    ends[1]
        .sync_until(&mut since, |answer| {
            let events = answer["rooms"]["join"][room]["timeline"]["events"].as_array().cloned().unwrap_or_default();
            seen.extend(events.iter().map(|event| event["event_id"].as_str().expect("an id").to_owned()));
            (seen.len() >= sent.len()).then_some(())
        })
        .await;
    assert_eq!(seen, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_at_one_node_is_heard_at_the_other() {
    let Some(mut nodes) = Nodes::with_redis().await else { return };
    let (alice, bob, room) = nodes.people().await;
    let way = median_way(&alice, &bob, &room).await;
    assert!(way < Duration::from_millis(500), "a wake-up is prompt: {way:?}");
    everybody_hears_everything(&mut nodes, (&alice, &bob, &room), async |_| {}).await;
    a_wanderer_skips_and_repeats_nothing(&nodes, (&alice, &bob, &room)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_the_nodes_hear_of_each_other_too() {
    let Some(mut nodes) = Nodes::start(None, None).await else { return };
    let (alice, bob, room) = nodes.people().await;
    let way = median_way(&alice, &bob, &room).await;
    assert!(way < Duration::from_secs(3), "each looks once a second: {way:?}");
    everybody_hears_everything(&mut nodes, (&alice, &bob, &room), async |_| {}).await;
    a_wanderer_skips_and_repeats_nothing(&nodes, (&alice, &bob, &room)).await;
}

/// A node that looks only once a second hears half of what is said later than that.
const PROMPT: Duration = Duration::from_millis(250);

/// Waits until the nodes wake each other.
async fn are_prompt(alice: &Client, bob: &Client, room: &str) {
    let began = Instant::now();
    while median_way(alice, bob, room).await > PROMPT {
        assert!(began.elapsed() < 2 * PATIENCE, "the nodes don't wake each other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_broker_the_nodes_wake_each_other_where_there_is_no_redis() {
    let Some(programs) = Broker::programs() else { return };
    let Some(mut nodes) = Nodes::start(None, Some(Broker::start(&programs, "a.test").await)).await else { return };
    let (alice, bob, room) = nodes.people().await;
    are_prompt(&alice, &bob, &room).await;
    let (_, queues) = nodes.broker.as_ref().expect("it was started").api("GET", "/queues/im", None).await;
    let own: Vec<_> = queues.as_array().expect("a list").iter().filter(|queue| is_of_a_node(queue)).collect();
    assert_eq!(own.len(), 2, "{queues}");
    for queue in own {
        assert_eq!((&queue["exclusive"], &queue["auto_delete"]), (&true.into(), &true.into()), "{queue}");
        assert_eq!(queue["arguments"]["x-max-length"], 1_000, "{queue}");
    }
    everybody_hears_everything(&mut nodes, (&alice, &bob, &room), async |_| {}).await;

    // Without it each node looks by itself, and when it is back they wake each other again.
    nodes.broker.as_mut().expect("it was started").kill();
    let way = median_way(&alice, &bob, &room).await;
    assert!(way < Duration::from_secs(3), "each looks once a second: {way:?}");
    everybody_hears_everything(&mut nodes, (&alice, &bob, &room), async |nodes| {
        nodes.broker.as_mut().expect("it was started").restart().await;
    })
    .await;
    are_prompt(&alice, &bob, &room).await;
    a_wanderer_skips_and_repeats_nothing(&nodes, (&alice, &bob, &room)).await;
}

fn is_of_a_node(queue: &serde_json::Value) -> bool {
    queue["name"].as_str().is_some_and(|name| name.starts_with("comity.nodes."))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_the_nodes_wake_each_other_over_the_broker() {
    let (Some(programs), Some(program)) = (Broker::programs(), Redis::program()) else { return };
    let (redis, broker) = (Redis::start(&program).await, Broker::start(&programs, "a.test").await);
    let Some(mut nodes) = Nodes::start(Some(redis), Some(broker)).await else { return };
    let (alice, bob, room) = nodes.people().await;
    are_prompt(&alice, &bob, &room).await;
    everybody_hears_everything(&mut nodes, (&alice, &bob, &room), async |nodes| {
        nodes.redis.as_mut().expect("it was started").kill();
    })
    .await;
    are_prompt(&alice, &bob, &room).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_loses_anything_when_redis_is_killed_restarted_and_flushed() {
    let Some(mut nodes) = Nodes::with_redis().await else { return };
    let (alice, bob, room) = nodes.people().await;
    everybody_hears_everything(&mut nodes, (&alice, &bob, &room), async |nodes| {
        let redis = nodes.redis.as_mut().expect("it was started");
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            redis.kill();
            tokio::time::sleep(Duration::from_millis(200)).await;
            redis.restart().await;
            redis.say("FLUSHALL").await;
        }
    })
    .await;
    // It comes back by itself, and with it the promptness.
    let began = Instant::now();
    while median_way(&alice, &bob, &room).await > Duration::from_millis(500) {
        assert!(began.elapsed() < 2 * PATIENCE, "the nodes didn't find Redis again");
    }
    nodes.redis.as_mut().expect("it was started").kill();
    everybody_hears_everything(&mut nodes, (&alice, &bob, &room), async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_and_messages_are_counted_over_both_nodes() {
    let (Some(program), Some(engine)) = (Redis::program(), Engine::postgres()) else { return };
    let mut redis = Redis::start(&program).await;
    let rate = |per_second: f64, burst: i64| {
        toml::Table::from_iter([("per_second".to_owned(), per_second.into()), ("burst".to_owned(), burst.into())])
    };
    let first = Server::builder(&engine)
        .set("cache", "url", redis.url())
        .set("accounts", "failed_logins_allowed", 3)
        .set("rate_limits", "enabled", true)
        .set("rate_limits", "messages", rate(0.01, 6))
        .set("rate_limits", "login", rate(10.0, 1_000))
        .start()
        .await;
    let second = first.another_node().await;
    let alice = first.register_with_secret("alice").await;
    let room = alice.create_public_room().await;

    // Out of one bucket, whichever node is asked.
    let there = second.login("alice").await;
    let mut taken = Vec::new();
    for number in 0..10 {
        let client = if number % 2 == 0 { &alice } else { &there };
        let content = serde_json::json!({ "msgtype": "m.text", "body": format!("{number}") });
        taken.push(client.send(&room, "m.room.message", content).await.status);
    }
    assert_eq!(taken, [200, 200, 200, 200, 200, 200, 429, 429, 429, 429]);

    // After three wrong ones each costs a wait that doubles: of a second, of two, of four. The other node has seen none of them.
    let mut wrong = 0;
    eventually("five passwords were wrong", async || {
        wrong += usize::from(first.anonymous().try_login("alice", "a guess").await.status == 403);
        (wrong == 5).then_some(())
    })
    .await;
    let right = second.anonymous().try_login("alice", "alice's password").await;
    assert_eq!(right.status, 429, "the right one has to wait too, at both: {}", right.text);

    // Without Redis nobody is locked out: each node counts what it has seen itself.
    redis.kill();
    eventually("who is right gets in while the cache is away", async || {
        (second.anonymous().try_login("alice", "alice's password").await.status == 200).then_some(())
    })
    .await;
}

/// One domain on two nodes, another beside it. What is owed when a node dies, the other one sends.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_owed_to_another_server_is_sent_by_the_other_node() {
    let Some(engine) = Engine::postgres() else { return };
    for redis in [true, false] {
        let redis = match Redis::program().filter(|_| redis) {
            Some(program) => Some(Redis::start(&program).await),
            None => None,
        };
        let network = Network::new();
        let mut builder = network.server(&engine, "a.test").await;
        if let Some(redis) = &redis {
            builder = builder.set("cache", "url", redis.url());
        }
        let mut first = builder.start().await;
        let mut b = network.server(&Engine::Sqlite, "b.test").await.start().await;
        let mut second = first.another_node().await;
        let alice = first.register_with_secret("alice").await;
        let carol = second.register_with_secret("carol").await;
        let bob = b.register_with_secret("bob").await;
        let room = alice.create_public_room().await;
        carol.join(&room).await;
        bob.join_via(&room, &["a.test"]).await;
        let mut reader = Reader::start(bob.another()).await;

        let hello = [alice.say(&room, "hello").await, carol.say(&room, "hello").await];
        is_read(&mut reader, &hello).await;

        // The first node has a part of what is to be done that the second had not, and the other way round.
        for round in 0..2 {
            b.kill();
            let mut owed = Vec::new();
            for number in 0..20 {
                owed.push(alice.say(&room, &format!("{round}: {number}, at the first")).await);
                owed.push(carol.say(&room, &format!("{round}: {number}, at the second")).await);
            }
            let (dying, living) = if round == 0 { (&mut first, &second) } else { (&mut second, &first) };
            dying.kill();
            let died = Instant::now();
            b.restart().await;
            is_read(&mut reader, &owed).await;
            eprintln!("all that was owed arrived {:?} after the death of a node", died.elapsed());
            assert!(!living.log().contains("ERROR"), "the living node had no trouble");
            dying.restart().await;
            let (at_first, at_second) = (alice.say(&room, "still there").await, carol.say(&room, "so am I").await);
            is_read(&mut reader, &[at_first, at_second]).await;
            shares_are_even(&first, &second).await;
        }
        let seen = reader.room(&room).len();
        assert_eq!(reader.step(Duration::from_millis(300)).await, Ok(0), "{seen} events, and no more");
        drop(second);
        drop(first);
    }
}

/// Waits until each of the nodes does half of what only one may do.
async fn shares_are_even(first: &Server, second: &Server) {
    for node in [first, second] {
        eventually("the nodes share what is to be done", async || {
            let metrics = node.anonymous().get("/metrics").await.text;
            metrics.contains("comity_node_parts 32").then_some(())
        })
        .await;
    }
}

/// Waits until all of these were read.
async fn is_read(reader: &mut Reader, sent: &[String]) {
    let began = Instant::now();
    while !sent.iter().all(|event_id| reader.has_seen(event_id)) {
        let _ = reader.step(Duration::from_secs(1)).await;
        let missing = sent.iter().filter(|event_id| !reader.has_seen(event_id)).count();
        assert!(began.elapsed() < 2 * PATIENCE, "{missing} of {} were never read", sent.len());
    }
}
