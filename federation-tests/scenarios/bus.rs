//! Other programs are told what happens, and say something, over a real RabbitMQ.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use federation_tests::{Broker, Client, Engine, Program, Server, eventually, on_each_engine};
use serde_json::{Value, json};

pub(super) const VHOST: &str = "im";
const EXCHANGE: &str = "instant_exchange";
const DEAD: &str = "instant_exchange.dead";
pub(super) const SECRET: &str = "a secret of the broker's user";

/// A broker at which the server is `comity` and another program is `crm`.
pub(super) async fn broker(programs: &std::path::Path) -> Broker {
    let broker = Broker::start(programs, "a.test").await;
    broker.make_vhost(VHOST).await;
    for user in ["comity", "crm"] {
        broker.make_user(user, SECRET).await;
    }
    broker.permit("comity", VHOST, ".*", ".*", ".*").await;
    broker.permit("crm", VHOST, "^crm", "^(crm.*|instant_exchange)$", "^(crm.*|instant_exchange)$").await;
    broker
}

async fn server(engine: &Engine, broker: &Broker) -> Server {
    let publishers = vec!["crm chat.message.# crm-bot".to_owned(), "crm system.broadcast".to_owned()];
    let builder = Server::builder(engine).set("bus", "url", broker.url_of("comity", SECRET, VHOST));
    builder.set("bus", "publishers", publishers).start().await
}

/// The other program, which hears of messages from now on, as soon as the server has made the exchange.
pub(super) async fn crm(broker: &Broker) -> Program {
    let mut crm = Program::connect(&broker.url_of("crm", SECRET, VHOST)).await;
    eventually("the exchange is made", async || {
        let (status, _) = broker.api("GET", "/exchanges/im/instant_exchange", None).await;
        (status == 200).then_some(())
    })
    .await;
    crm.hear("crm.messages", EXCHANGE, "chat.message.#").await;
    crm
}

fn routing_key(room: &str) -> String {
    format!("chat.message.conversation.{}", room.replace('!', "%21").replace(':', "%3A").replace('.', "%2E"))
}

fn envelope(id: &str, data: Value) -> Value {
    json!({ "version": 1, "type": "chat.message", "id": id, "time": 1, "origin": "crm", "data": data })
}

async fn texts(client: &Client, room: &str) -> Vec<String> {
    let events = client.history(room).await;
    events.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn what_is_said_is_published_whatever_breaks() {
    let Some(programs) = Broker::programs() else { return };
    let mut broker = broker(&programs).await;
    let mut server = server(&Engine::Sqlite, &broker).await;
    let mut crm = crm(&broker).await;

    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let first = alice.say(&room, "hello").await;
    let heard = crm.next().await;
    assert_eq!(heard.routing_key, routing_key(&room));
    assert_eq!((heard.message_id.as_deref(), heard.user_id.as_deref()), (Some(first.as_str()), Some("comity")));
    let body = &heard.body;
    assert_eq!((&body["version"], &body["type"], &body["id"]), (&json!(1), &json!("chat.message"), &json!(first)));
    assert_eq!((&body["origin"], &body["data"]["sender"]), (&json!("a.test"), &json!("@alice:a.test")));
    assert_eq!((&body["data"]["room_id"], &body["data"]["content"]["body"]), (&json!(room), &json!("hello")));

    // The broker is killed while people talk: they don't notice, and nothing is missing afterwards.
    let mut said = BTreeSet::new();
    for number in 0..20 {
        said.insert(alice.say(&room, &format!("before {number}")).await);
    }
    // A quorum queue that has just been made doesn't survive SIGKILL: it never finds a leader again.
    for queue in ["persistence_queue", "event_process_queue"] {
        eventually(queue, async || (broker.waiting(VHOST, queue).await == Some(0)).then_some(())).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    broker.kill();
    for number in 0..20 {
        said.insert(alice.say(&room, &format!("without {number}")).await);
    }
    // The operator is told what is missing, and how much.
    let probe = server.anonymous();
    eventually("the operator sees it", async || {
        let health = probe.get("/health").await.ok();
        let is_told = health["bus"]["findings"].to_string().contains("nothing is published for");
        (health["status"] == "degraded" && is_told).then_some(())
    })
    .await;
    let ready = probe.get("/health/ready").await;
    assert!(ready.status == 200 && ready.text.starts_with("ready\nbus: "), "people can chat: {}", ready.text);
    eventually("the lag grows", async || (server.figure("comity_bus_lag_positions").await >= 20.0).then_some(())).await;

    // Nor is it when the server dies with all that untold.
    server.restart().await;
    said.insert(alice.say(&room, "after").await);
    broker.restart().await;
    let mut crm = Program::connect(&broker.url_of("crm", SECRET, VHOST)).await;
    crm.listen("crm.messages").await;
    let probe = server.anonymous();
    eventually("all is well", async || (probe.get("/health").await.ok()["status"] == "ok").then_some(())).await;
    while !said.is_empty() {
        said.remove(&crm.next().await.message_id.expect("each has an id"));
    }

    // A queue that somebody deletes is made again, and nobody is told less.
    let (status, _) = broker.api("DELETE", "/queues/im/persistence_queue", None).await;
    assert_eq!(status, 204);
    let again = alice.say(&room, "again").await;
    eventually("the queue is there again", async || broker.waiting(VHOST, "persistence_queue").await).await;
    while crm.next().await.message_id.as_deref() != Some(&again) {}
    for queue in ["persistence_queue", "broadcast_process_queue", "event_process_queue", "instant_exchange.dead"] {
        eventually(queue, async || (broker.waiting(VHOST, queue).await == Some(0)).then_some(())).await;
    }
    eventually("no lag is shown", async || {
        let metrics = server.anonymous().get("/metrics").await.text;
        metrics.lines().any(|line| line == "comity_bus_lag_positions 0").then_some(())
    })
    .await;
    assert!(!server.log().contains(SECRET), "a secret is in the log");
}

#[tokio::test]
async fn other_programs_say_what_they_may_and_no_more() {
    let Some(programs) = Broker::programs() else { return };
    let broker = broker(&programs).await;
    on_each_engine(async |engine| {
        let server = server(&engine, &broker).await;
        let alice = server.register("alice").await;
        let bot = server.register("crm-bot").await;
        let room = alice.create_public_room().await;
        bot.join(&room).await;
        let crm = Program::connect(&broker.url_of("crm", SECRET, VHOST)).await;
        let mut operator = Program::connect(&broker.url(VHOST)).await;
        eventually("the exchange is made", async || {
            let (status, _) = broker.api("GET", "/queues/im/instant_exchange.dead", None).await;
            (status == 200).then_some(())
        })
        .await;
        operator.listen(DEAD).await;

        let key = routing_key(&room);
        let said = |id: &str, data: Value| envelope(id, data).to_string().into_bytes();
        let text = |sender: &str, text: &str| json!({ "sender": sender, "body": text });
        let good = said("1", text("crm-bot@a.test", "an order"));
        for _ in 0..2 {
            assert!(crm.publish(EXCHANGE, &key, Some("crm"), &good).await, "a queue takes it");
        }
        let content = json!({ "sender": "@crm-bot:a.test", "content": { "msgtype": "m.notice", "body": "another" } });
        assert!(crm.publish(EXCHANGE, &key, Some("crm"), &said("2", content)).await);

        let elsewhere = routing_key("!nowhere:a.test");
        let other = envelope("9", json!({})).to_string().replace("chat.message", "system.event").into_bytes();
        let large = said("10", text("crm-bot@a.test", &"x".repeat(300 << 10)));
        let bad: [(&str, Option<&str>, &[u8], &str); 11] = [
            (&key, None, &good, "doesn't say who published it"),
            (&key, Some("crm"), b"garbage", "not an envelope"),
            (
                &key,
                Some("crm"),
                &said("3", text("alice@a.test", "it wasn't me")),
                "doesn't let crm speak as @alice:a.test",
            ),
            (&key, Some("crm"), &said("4", text("bob@b.test", "hi")), "@bob:b.test is no user of this server"),
            (&key, Some("crm"), &said("5", json!({ "sender": "crm-bot@a.test" })), "either `body` or `content`"),
            (&key, Some("crm"), &said("", text("crm-bot@a.test", "no id")), "`id` is empty"),
            (&elsewhere, Some("crm"), &said("6", text("crm-bot@a.test", "where?")), "room"),
            ("chat.message.what", Some("crm"), &said("7", json!({})), "no such routing key"),
            ("system.event", Some("crm"), &other, "doesn't let crm publish with system.event"),
            (&key, Some("crm"), &other, "`type` is system.event"),
            (&key, Some("crm"), &large, "larger than"),
        ];
        for (key, user, body, expected) in bad {
            assert!(crm.publish(EXCHANGE, key, user, body).await, "a queue takes it");
            let buried = operator.next().await;
            let reason = buried.header("x-comity-reason").expect("it says why");
            assert!(reason.contains(expected), "{reason}");
            if key == "system.event" {
                // Two queues have it, so it is found twice.
                operator.next().await;
            }
        }
        // A broadcast is taken once, shown to people, and told on as what has happened.
        let mut monitoring = Program::connect(&broker.url(VHOST)).await;
        let id = format!("maintenance-{}", server.address().replace([':', '.'], "-"));
        monitoring.hear(&id, EXCHANGE, "system.broadcast").await;
        let draft = json!({ "title": "Maintenance", "body": "tonight at ten" });
        let broadcast = envelope(&id, draft).to_string().replace("chat.message", "system.broadcast").into_bytes();
        for _ in 0..2 {
            assert!(crm.publish(EXCHANGE, "system.broadcast", Some("crm"), &broadcast).await, "a queue takes it");
        }
        let shown = eventually("people are shown it", async || {
            let shown = alice.get("/api/v1/broadcasts").await.ok();
            shown["broadcasts"].as_array().filter(|shown| !shown.is_empty()).cloned()
        })
        .await;
        assert_eq!((shown.len(), &shown[0]["title"]), (1, &json!("Maintenance")));
        let told = loop {
            let told = monitoring.next().await;
            if told.user_id.as_deref() == Some("comity") {
                break told;
            }
        };
        assert_eq!((&told.body["id"], &told.body["data"]["body"]), (&json!(id), &json!("tonight at ten")));
        // Who isn't let say by the broker that they are somebody else, can't.
        assert!(crm.publish(EXCHANGE, &key, Some("crm"), &said("8", text("crm-bot@a.test", "the last"))).await);
        eventually("the last one is said", async || {
            texts(&alice, &room).await.contains(&"the last".to_owned()).then_some(())
        })
        .await;
        let mut heard = texts(&alice, &room).await;
        heard.sort();
        assert_eq!(heard, ["an order", "another", "the last"]);
        // The next engine's server has other rooms and the same queues.
        drop(server);
    })
    .await;
}

/// The example of docs/bus.md, as whoever reads that would run it.
#[tokio::test]
async fn the_example_in_the_documents_hears_and_says() {
    let Some(programs) = Broker::programs() else { return };
    let Some(python) = env::var_os("COMITY_TEST_PIKA") else {
        return eprintln!(
            "SKIPPED: COMITY_TEST_PIKA isn't set; federation-tests/run installs it where there is Python"
        );
    };
    let broker = broker(&programs).await;
    let server = server(&Engine::Sqlite, &broker).await;
    let alice = server.register("alice").await;
    let bot = server.register("crm-bot").await;
    let room = alice.create_public_room().await;
    bot.join(&room).await;
    eventually("the exchange is made", async || {
        let (status, _) = broker.api("GET", "/exchanges/im/instant_exchange", None).await;
        (status == 200).then_some(())
    })
    .await;

    let url = broker.url_of("crm", SECRET, VHOST);
    let example = || {
        let mut command = Command::new(&python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/bus.py")).arg(&url);
        command
    };
    let mut listening = example().arg("listen").stdout(Stdio::piped()).spawn().expect("Python runs");
    let output = BufReader::new(listening.stdout.take().expect("it was asked for"));
    eventually("it listens", async || broker.waiting(VHOST, "crm.messages").await).await;
    let said = example().args(["say", &room, "crm-bot@a.test", "a new order"]).status().expect("Python runs");
    assert!(said.success(), "{said}");
    let lines = tokio::task::spawn_blocking(move || output.lines().map_while(Result::ok).take(2).collect::<Vec<_>>());
    eventually("it is said", async || texts(&alice, &room).await.contains(&"a new order".to_owned()).then_some(()))
        .await;
    alice.say(&room, "thanks").await;
    let lines = tokio::time::timeout(federation_tests::PATIENCE, lines).await;
    listening.kill().expect("it runs");
    listening.wait().expect("it ends");
    let expected = [format!("{room} @crm-bot:a.test a new order"), format!("{room} @alice:a.test thanks")];
    assert_eq!(lines.expect("it hears both").expect("it reads"), expected);
}
