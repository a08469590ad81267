//! A domain on two nodes, and another one that is reached over AMQP alone: each node hears what it is answered, and at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use federation_tests::{Broker, Client, Engine, FakePeer, Network, PATIENCE, Redis, Server, eventually};
use serde_json::{Value, json};

use super::{
    amqp::{readers, server},
    arrives,
    trust::patch,
};

/// How often each of the two says something, and types.
const ROUNDS: usize = 15;
/// An answer that the wrong node has read is asked for again after a minute; this is far below.
const PROMPT: Duration = Duration::from_secs(10);

/// What every peer may ask that isn't blocked.
const PROFILE: &str = "/_matrix/federation/v1/query/profile?user_id=@alice:a.test";

/// How often `peer` has received each transaction over its broker, as a copy of all that comes shows.
async fn received(broker: &Broker, peer: &str, seen: &mut BTreeMap<String, usize>) {
    for message in broker.messages(peer, "copies", false).await {
        let envelope: Value = serde_json::from_str(message["payload"].as_str().expect("text")).expect("JSON");
        if envelope["kind"] == "transaction" {
            *seen.entry(envelope["transaction_id"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
    }
}

async fn types(client: &Client, room: &str, typing: bool) {
    let path = format!("rooms/{room}/typing/{}", client.user_id);
    client.put(&path, json!({ "typing": typing, "timeout": 30_000 })).await.ok();
}

/// How many transactions a node has sent over the broker that were answered, and how many wait for that.
async fn sent(client: &Client) -> (usize, usize) {
    let metrics = client.get("/metrics").await.text;
    let figure = |name: &str| -> usize {
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or_default() as usize
    };
    let answered = metrics.lines().filter(|line| {
        line.starts_with("comity_federation_sent_total{") && line.contains("amqp") && line.contains("\"ok\"")
    });
    let answered = answered.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as usize;
    (answered, figure("comity_federation_amqp_pending "))
}

#[tokio::test(flavor = "multi_thread")]
async fn over_amqp_each_node_hears_what_it_is_answered() {
    let (Some(programs), Some(engine)) = (Broker::programs(), Engine::postgres()) else { return };
    let (of_a, of_b) = tokio::join!(Broker::start(&programs, "a.test"), Broker::start(&programs, "b.test"));
    let network = Network::new();
    let first = server(&network, &engine, "a.test", &of_a).await;
    let b = server(&network, &Engine::Sqlite, "b.test", &of_b).await;
    of_a.open_line("b.test").await;
    of_b.open_line("a.test").await;
    let mut second = first.another_node().await;
    for (server, peer) in [(&first, "b.test"), (&b, "a.test")] {
        let change = json!({ "level": "full", "transport": "amqp", "reason": "a story" });
        patch(&server.admin().await, peer, change).await.ok();
    }
    of_a.shovel_to("a.test", "b.test", &of_b).await;
    of_b.shovel_to("b.test", "a.test", &of_a).await;
    of_b.listen_in("a.test", "fed.in.a.test", "copies").await;
    eventually("both nodes read what b.test sends", async || (readers(&of_a, "b.test").await == Some(2)).then_some(()))
        .await;

    let alice = first.register_with_secret("alice").await;
    let carol = second.register_with_secret("carol").await;
    let bob = b.register_with_secret("bob").await;
    let room = alice.create_public_room().await;
    carol.join(&room).await;
    bob.join_via(&room, &["a.test"]).await;
    // What was sent while the nodes shared out what is to be done may be sent again.
    for client in [&alice, &carol] {
        arrives(&bob, &room, &client.say(&room, "do you read me?").await).await;
    }
    nothing_is_under_way(&[&alice, &carol]).await;
    received(&of_b, "a.test", &mut BTreeMap::new()).await;
    let before = [sent(&alice).await.0, sent(&carol).await.0];

    // What is typed each node sends by itself, and one of them sends the rest.
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        for client in [&alice, &carol] {
            let began = Instant::now();
            types(client, &room, true).await;
            let said = client.say(&room, &format!("round {round}")).await;
            types(client, &room, false).await;
            arrives(&bob, &room, &said).await;
            slowest = slowest.max(began.elapsed());
        }
    }
    let began = Instant::now();
    nothing_is_under_way(&[&alice, &carol]).await;
    eprintln!("over AMQP from two nodes: {slowest:?} at worst, and all was answered {:?} later", began.elapsed());
    assert!(slowest < PROMPT && began.elapsed() < PROMPT, "a node heard nothing of its answer: {slowest:?}");
    let mut seen = BTreeMap::new();
    let by_each = [sent(&alice).await.0 - before[0], sent(&carol).await.0 - before[1]];
    assert!(by_each.iter().all(|sent| *sent > 0), "both nodes have sent something: {by_each:?}");
    eventually("the peer has got what was answered", async || {
        received(&of_b, "a.test", &mut seen).await;
        (seen.len() >= by_each.iter().sum()).then_some(())
    })
    .await;
    assert!(seen.values().all(|times| *times == 1), "one was sent twice: {seen:?}");
    assert_eq!(seen.len(), by_each.iter().sum::<usize>(), "each transaction is answered");

    // A node dies; the other one takes over what it was to send, and is answered.
    second.kill();
    let mut said = Vec::new();
    for number in 0..10 {
        said.push(alice.say(&room, &format!("without her: {number}")).await);
    }
    let began = Instant::now();
    for said in &said {
        arrives(&bob, &room, said).await;
    }
    nothing_is_under_way(&[&alice]).await;
    eprintln!("after the death of a node all was answered within {:?}", began.elapsed());
    assert!(began.elapsed() < PATIENCE);
    // It comes back by the same name, to its queue.
    second.restart().await;
    for client in [&carol, &alice] {
        arrives(&bob, &room, &client.say(&room, "all together").await).await;
    }
}

/// How many of twenty requests of a peer, half of them to each node, are let pass.
async fn let_pass(peer: &FakePeer, nodes: [&Server; 2]) -> usize {
    let mut passed = 0;
    for number in 0..20 {
        let answer = peer.get(nodes[number % 2], PROFILE).await;
        assert!(matches!(answer.status, 200 | 429), "{} {}", answer.status, answer.text);
        passed += usize::from(answer.status == 200);
        if answer.status == 429 {
            assert!(answer.body["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0), "{}", answer.text);
        }
    }
    passed
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_asks_is_counted_over_both_nodes() {
    let (Some(program), Some(engine)) = (Redis::program(), Engine::postgres()) else { return };
    let mut redis = Redis::start(&program).await;
    let network = Network::new();
    let first = network.server(&engine, "a.test").await.set("cache", "url", redis.url()).start().await;
    let second = first.another_node().await;
    let admin = first.admin().await;
    first.register_with_secret("alice").await;
    let peers = [FakePeer::start(&network, "c.test").await, FakePeer::start(&network, "d.test").await];
    let blocked = FakePeer::start(&network, "e.test").await;
    for peer in &peers {
        let limits = json!({ "requests": { "per_second": 0.01, "burst": 6 } });
        patch(&admin, &peer.name, json!({ "level": "limited", "limits": limits, "reason": "a story" })).await.ok();
    }
    patch(&admin, &blocked.name, json!({ "level": "blocked", "reason": "a story" })).await.ok();
    for node in [&first, &second] {
        eventually("the node has heard of the last change", async || {
            (blocked.get(node, PROFILE).await.status == 403).then_some(())
        })
        .await;
    }
    // One or two may slip through before the nodes have heard of each other.
    let passed = let_pass(&peers[0], [&first, &second]).await;
    assert!((6..=8).contains(&passed), "{passed} of 20 passed");
    // Without the cache each node counts by itself.
    redis.kill();
    let passed = let_pass(&peers[1], [&first, &second]).await;
    assert_eq!(passed, 12, "six at each");
}

/// Waits until no transaction waits for its answer.
async fn nothing_is_under_way(clients: &[&Client]) {
    eventually("all is answered", async || {
        for client in clients {
            if sent(client).await.1 > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
}
