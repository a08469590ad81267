//! Two domains with a broker each: transactions travel over AMQP, and no broker is believed.

use std::time::{Duration, Instant};

use federation_tests::{Broker, Client, Engine, FakePeer, Network, PATIENCE, Reader, Server, eventually, now, pdu};
use serde_json::{Value, json};

use super::{
    Two, agree, arrives,
    outage::{is_shown, speak},
    share_history,
    trust::patch,
};

/// How many messages wait while the broker of the other domain is away …
const SAID: usize = 120;
/// … and while one's own is.
const PENDING: usize = 1_000;

/// Two domains, and their brokers.
struct Linked {
    two: Two,
    brokers: [Broker; 2],
    admins: [Client; 2],
}

/// How brokers are linked.
#[derive(Clone, Copy, PartialEq)]
enum Link {
    Shovels,
    Upstreams,
}

impl Linked {
    /// `None`: there is no RabbitMQ here.
    async fn meet(link: Link) -> Option<Self> {
        let programs = Broker::programs()?;
        let brokers: [Broker; 2] =
            tokio::join!(Broker::start(&programs, "a.test"), Broker::start(&programs, "b.test")).into();
        let network = Network::new();
        let engines = [Engine::Sqlite, Engine::postgres().unwrap_or(Engine::Sqlite)];
        let a = server(&network, &engines[0], "a.test", &brokers[0]).await;
        let b = server(&network, &engines[1], "b.test", &brokers[1]).await;
        let [of_a, of_b] = &brokers;
        of_a.open_line("b.test").await;
        of_b.open_line("a.test").await;
        let admins = [a.admin().await, b.admin().await];
        let two = Two::people(network, a, b).await;
        let linked = Self { two, brokers, admins };
        let [of_a, of_b] = &linked.brokers;
        linked.set("auto").await;
        match link {
            Link::Shovels => {
                of_a.shovel_to("a.test", "b.test", of_b).await;
                of_b.shovel_to("b.test", "a.test", of_a).await;
            }
            Link::Upstreams => {
                // What is pulled is what somebody here waits for: the server's queue is there first.
                linked.is_read(of_a, "b.test").await;
                linked.is_read(of_b, "a.test").await;
                of_a.pull_from("a.test", "b.test", of_b).await;
                of_b.pull_from("b.test", "a.test", of_a).await;
            }
        }
        Some(linked)
    }

    async fn set(&self, transport: &str) {
        for (admin, peer) in self.admins.iter().zip(["b.test", "a.test"]) {
            let change = json!({ "level": "full", "transport": transport, "reason": "a story" });
            assert_eq!(patch(admin, peer, change).await.ok()["settings"]["transport"], transport);
        }
    }

    /// Waits until the server of `broker` reads what `peer` sends.
    async fn is_read(&self, broker: &Broker, peer: &str) {
        eventually(&format!("what {peer} sends is read"), async || {
            (readers(broker, peer).await == Some(1)).then_some(())
        })
        .await;
    }

    /// How many transactions went over HTTPS, each way.
    fn over_https(&self) -> [usize; 2] {
        [("a.test", "b.test"), ("b.test", "a.test")].map(|(from, to)| {
            let crossings = self.two.network.link(from, to).crossings();
            crossings.iter().filter(|crossing| crossing.path.contains("/send/")).count()
        })
    }
}

pub(super) async fn server(network: &Network, engine: &Engine, name: &str, broker: &Broker) -> Server {
    network.server(engine, name).await.set("bus", "url", broker.server_url().await).start().await
}

/// How many read what `peer` sends; `None`: there is no such queue.
pub(super) async fn readers(broker: &Broker, peer: &str) -> Option<u64> {
    let (_, queue) = broker.api("GET", &format!("/queues/fed.{peer}/fed.in.{peer}"), None).await;
    queue["consumers"].as_u64()
}

/// Both say something, and both read it.
async fn converse(two: &Two, room: &str) {
    for (speaker, listener) in [(&two.alice, &two.bob), (&two.bob, &two.alice)] {
        let said = speaker.say(room, "do you read me?").await;
        arrives(listener, room, &said).await;
    }
}

#[tokio::test]
async fn over_shovels_everything_arrives_once_whatever_brokers_do() {
    let Some(mut linked) = Linked::meet(Link::Shovels).await else { return };
    linked.set("amqp").await;
    let before = linked.over_https();
    let room = linked.two.room("12").await;
    converse(&linked.two, &room).await;

    // What passes comes over too.
    let two = &linked.two;
    let mut since = two.alice.now().await;
    let path = format!("rooms/{room}/typing/{}", two.bob.user_id);
    two.bob.put(&path, json!({ "typing": true, "timeout": 30_000 })).await.ok();
    let is_seen = |answer: &Value, section: &str, what: &str| answer[section].to_string().contains(what).then_some(());
    two.alice.sync_until(&mut since, |answer| is_seen(answer, "rooms", "m.typing")).await;
    let status = json!({ "presence": "unavailable", "status_msg": "in the garden" });
    two.bob.put(&format!("presence/{}/status", two.bob.user_id), status).await.ok();
    two.alice.sync_until(&mut since, |answer| is_seen(answer, "presence", "in the garden")).await;
    assert_eq!(linked.over_https(), before, "a transaction went over HTTPS");

    // The broker of the other domain dies, and is started again later.
    let mut reader = Reader::start(two.bob.another()).await;
    linked.brokers[1].kill();
    let mut said = speak(&linked.two.alice, &room, SAID).await;
    linked.brokers[1].restart().await;
    is_shown(&mut reader, &room, &said).await;
    // So does one's own, cleanly.
    linked.brokers[0].stop().await;
    said.extend(speak(&linked.two.alice, &room, PENDING).await);
    linked.brokers[0].restart().await;
    is_shown(&mut reader, &room, &said).await;
    converse(&linked.two, &room).await;
    share_history(&room, &[&linked.two.alice, &linked.two.bob]).await;
    agree(&room, &[&linked.two.alice, &linked.two.bob]).await;
    assert_eq!(linked.over_https(), before, "a transaction went over HTTPS");

    // Who is trusted less sends nothing over the broker from then on, and is read no more.
    let (two, of_b) = (&linked.two, &linked.brokers[1]);
    patch(&linked.admins[1], "a.test", json!({ "level": "limited", "reason": "a story" })).await.ok();
    eventually("nobody reads what a.test sends", async || (readers(of_b, "a.test").await == Some(0)).then_some(()))
        .await;
    let unheard = two.alice.say(&room, "and now?").await;
    let refused = two.b.log();
    assert!(refused.contains("its transport is `amqp`") && refused.contains("broadcasts"), "nobody is told");
    patch(&linked.admins[1], "a.test", json!({ "level": "full", "reason": "a story" })).await.ok();
    arrives(&two.bob, &room, &unheard).await;
}

#[tokio::test]
async fn over_upstreams_a_transaction_takes_the_broker_when_https_fails_and_goes_back() {
    let Some(linked) = Linked::meet(Link::Upstreams).await else { return };
    let two = &linked.two;
    let room = two.room("12").await;
    converse(two, &room).await;
    let mut readers = [Reader::start(two.bob.another()).await, Reader::start(two.alice.another()).await];
    assert!(linked.over_https().iter().all(|count| *count > 0), "with both, HTTPS is taken");

    assert_eq!(line(&linked).await["transport"], "https");

    // HTTPS is cut while people talk.
    let mut said = speak(&two.alice, &room, 5).await;
    two.network.part("a.test", "b.test");
    let began = Instant::now();
    said.extend(speak(&two.alice, &room, 20).await);
    is_shown(&mut readers[0], &room, &said).await;
    let answer = speak(&two.bob, &room, 20).await;
    is_shown(&mut readers[1], &room, &answer).await;
    let took = began.elapsed();
    assert!(took < PATIENCE, "it took {took:?} to go another way");
    let over_the_broker = line(&linked).await;
    assert_eq!(over_the_broker["transport"], "amqp", "{over_the_broker}");
    assert!(
        over_the_broker["last_failure"].as_str().is_some_and(|why| why.starts_with("https: ")),
        "{over_the_broker}"
    );

    // It is back, and taken again within seconds. Both ways are up now.
    let before = linked.over_https();
    two.network.reunite("a.test", "b.test");
    let began = Instant::now();
    let mut more = Vec::new();
    while linked.over_https().iter().zip(before).any(|(now, before)| *now < before + 3) {
        assert!(began.elapsed() < PATIENCE, "nobody has gone back to HTTPS");
        more.push(two.alice.say(&room, "which way?").await);
        let back = two.bob.say(&room, "this way").await;
        arrives(&two.alice, &room, &back).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    is_shown(&mut readers[0], &room, &more).await;
    // And lost again, this time so that requests vanish.
    for link in two.network.links() {
        link.set_faults(federation_tests::Faults { lost_answers: 1.0, ..Default::default() });
    }
    let more = speak(&two.alice, &room, 20).await;
    is_shown(&mut readers[0], &room, &more).await;
    for link in two.network.links() {
        link.set_faults(federation_tests::Faults::default());
    }
    share_history(&room, &[&two.alice, &two.bob]).await;
    agree(&room, &[&two.alice, &two.bob]).await;
}

/// How the first of the two sends to the other.
async fn line(linked: &Linked) -> Value {
    let bus = linked.admins[0].get("/api/v1/admin/bus").await.ok();
    let lines = bus["lines"].as_array().cloned().unwrap_or_default();
    lines.into_iter().find(|line| line["peer"] == "b.test").unwrap_or_else(|| panic!("there is no line: {bus}"))
}

/// A transaction in an envelope, as `peer` sends it.
fn envelope(peer: &FakePeer, id: &str, changes: Value) -> Value {
    let mut envelope = json!({
        "type": "org.comity.envelope", "version": 1, "kind": "transaction", "origin": peer.name, "destination": "b.test",
        "transaction_id": id, "sent_at": now(), "body": { "origin_server_ts": now(), "pdus": [], "edus": [] },
    });
    for (field, value) in changes.as_object().expect("changes are an object") {
        envelope[field] = value.clone();
    }
    pdu::sign(&mut envelope, &peer.name, peer.key_id(), peer.key());
    envelope
}

#[tokio::test]
async fn what_nobody_can_believe_is_set_aside_and_stops_nothing() {
    let Some(programs) = Broker::programs() else { return };
    let broker = Broker::start(&programs, "b.test").await;
    let network = Network::new();
    let server = server(&network, &Engine::Sqlite, "b.test", &broker).await;
    let (peer, other) = (FakePeer::start(&network, "c.test").await, FakePeer::start(&network, "d.test").await);
    broker.open_line("c.test").await;
    broker.listen_in("c.test", "fed.out.c.test", "answers").await;
    let admin = server.admin().await;
    patch(&admin, "c.test", json!({ "level": "full", "transport": "amqp", "reason": "a story" })).await.ok();
    eventually("what c.test sends is read", async || (readers(&broker, "c.test").await == Some(1)).then_some(())).await;

    let first = envelope(&peer, "the first", json!({}));
    let mut changed = envelope(&peer, "changed", json!({}));
    changed["body"]["pdus"] = json!([{ "type": "m.room.message" }]);
    let mut unsigned = envelope(&peer, "unsigned", json!({}));
    unsigned["signatures"] = json!({});
    let mut by_another = envelope(&peer, "by another", json!({}));
    pdu::sign(&mut by_another, "d.test", other.key_id(), other.key());
    let mut forged = envelope(&peer, "forged", json!({ "signatures": {} }));
    forged.as_object_mut().expect("an object").remove("signatures");
    pdu::sign(&mut forged, "c.test", other.key_id(), other.key());
    let bad = [
        ("no JSON \u{1}".to_owned(), "malformed"),
        (json!({ "pdus": [] }).to_string(), "malformed"),
        (envelope(&peer, "more", json!({ "server_name": "c.test" })).to_string(), "malformed"),
        (changed.to_string(), "bad_signature"),
        (forged.to_string(), "bad_signature"),
        (unsigned.to_string(), "unsigned"),
        (by_another.to_string(), "unsigned"),
        (envelope(&other, "of another", json!({})).to_string(), "wrong_origin"),
        (envelope(&peer, "for another", json!({ "destination": "a.test" })).to_string(), "wrong_destination"),
        (envelope(&peer, "old", json!({ "sent_at": now() - 20 * 60_000 })).to_string(), "expired"),
        (envelope(&peer, "early", json!({ "sent_at": now() + 10 * 60_000 })).to_string(), "from_the_future"),
        (first.to_string(), "replayed"),
    ];
    broker.publish_in("c.test", "transaction", &first.to_string()).await;
    for (payload, _) in &bad {
        broker.publish_in("c.test", "transaction", payload).await;
    }
    let too_many: Vec<Value> = (0..51).map(|number| json!({ "depth": number })).collect();
    let body = json!({ "origin_server_ts": now(), "pdus": too_many, "edus": [] });
    broker.publish_in("c.test", "transaction", &envelope(&peer, "too many", json!({ "body": body })).to_string()).await;
    broker.publish_in("c.test", "transaction", &envelope(&peer, "the last", json!({})).to_string()).await;

    // Each transaction that may be believed is answered, in order and signed; nothing else is.
    let mut answers: Vec<Value> = Vec::new();
    eventually("the last is answered", async || {
        for message in broker.messages("c.test", "answers", false).await {
            answers.push(serde_json::from_str(message["payload"].as_str().expect("text")).expect("JSON"));
        }
        answers.iter().any(|answer| answer["transaction_id"] == "the last").then_some(())
    })
    .await;
    let said: Vec<_> = answers.iter().map(|answer| (&answer["transaction_id"], &answer["body"]["status"])).collect();
    let expected = [(json!("the first"), json!(200)), (json!("too many"), json!(400)), (json!("the last"), json!(200))];
    assert_eq!(said, expected.iter().map(|(id, status)| (id, status)).collect::<Vec<_>>());
    for answer in &answers {
        assert_eq!((&answer["origin"], &answer["kind"]), (&json!("b.test"), &json!("response")), "{answer}");
        assert!(answer["signatures"]["b.test"].is_object(), "{answer}");
    }
    let mut buried = Vec::new();
    eventually("all that is bad is set aside", async || {
        buried = broker.messages("c.test", "fed.dead.c.test", true).await;
        (buried.len() >= bad.len()).then_some(())
    })
    .await;
    let reasons: Vec<_> = buried.iter().map(|message| &message["properties"]["headers"]["x-comity-reason"]).collect();
    assert_eq!(reasons, bad.iter().map(|(_, reason)| reason).collect::<Vec<_>>());
    assert_eq!(buried[1]["payload"], bad[1].0, "it is kept as it came");
    let metrics = server.anonymous().get("/metrics").await.text;
    let counted = r#"comity_federation_amqp_refused_total{reason="bad_signature"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn who_asks_for_a_broker_that_is_not_there_is_told_so() {
    let network = Network::new();
    let server = network.server(&Engine::Sqlite, "a.test").await.start().await;
    let admin = server.admin().await;
    let wish = json!({ "level": "full", "transport": "amqp", "reason": "a story" });
    patch(&admin, "*.b.test", wish.clone()).await.problem(400, "invalid");
    patch(&admin, "b.test", wish.clone()).await.ok();
    eventually("the log says so", async || server.log().contains("`[bus] url` is not set").then_some(())).await;

    let Some(programs) = Broker::programs() else { return };
    let broker = Broker::start(&programs, "c.test").await;
    let server = self::server(&network, &Engine::Sqlite, "c.test", &broker).await;
    let admin = server.admin().await;
    // Nobody needs a link who goes either way.
    patch(&admin, "d.test", json!({ "level": "full", "reason": "a story" })).await.ok();
    patch(&admin, "b.test", wish).await.ok();
    eventually("the log says so", async || server.log().contains("/fed.b.test").then_some(())).await;
    assert!(!server.log().contains("/fed.d.test"), "{}", server.log());
    // When somebody makes what was missing, it is found.
    for peer in ["b.test", "d.test"] {
        broker.open_line(peer).await;
        eventually("the line is read", async || (readers(&broker, peer).await == Some(1)).then_some(())).await;
    }
}
