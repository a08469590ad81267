//! Whoever sends something sees what becomes of it at the other domains.

use federation_tests::{Client, Engine, FakePeer, Network, Reply, enc, eventually, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Two, arrives};

/// What `client` is told of the delivery of an event.
async fn delivery(client: &Client, room: &str, event_id: &str) -> federation_tests::Answer {
    client.get(&format!("/api/v1/rooms/{}/events/{}/delivery", enc(room), enc(event_id))).await
}

/// Waits until an event has come so far, and answers what is told of it.
async fn comes_to(client: &Client, room: &str, event_id: &str, state: &str) -> Value {
    eventually(&format!("{event_id} is {state}"), async || {
        let told = delivery(client, room, event_id).await.ok();
        (told["state"] == state).then_some(told)
    })
    .await
}

/// Waits until an event stands so with the only other server, and answers what is told of that.
async fn stands(client: &Client, room: &str, event_id: &str, state: &str) -> Value {
    eventually(&format!("{event_id} is {state} there"), async || {
        let told = delivery(client, room, event_id).await.ok();
        assert_eq!(told["destinations"].as_array().map(Vec::len), Some(1), "{told}");
        let there = told["destinations"][0].clone();
        (there["state"] == state).then_some(there)
    })
    .await
}

#[tokio::test]
async fn what_is_said_to_a_server_that_is_cut_off_is_queued_with_the_reason_and_delivered_when_it_heals() {
    on_each_engine(async |engine| {
        let mut two = Two::meet(&engine).await;
        let room = two.room("12").await;
        let before = two.alice.say(&room, "can you hear me?").await;
        comes_to(&two.alice, &room, &before, "delivered").await;

        two.network.link("a.test", "b.test").cut();
        let event_id = two.alice.say(&room, "and now?").await;
        let queued = eventually("the reason is known", async || {
            let there = stands(&two.alice, &room, &event_id, "queued").await;
            (there["reason"].is_string() && there["next_try_at"].is_u64()).then_some(there)
        })
        .await;
        assert_eq!(queued["server"], "b.test");
        assert!(["connect", "tls", "broken", "timeout"].contains(&queued["reason"].as_str().unwrap_or("")), "{queued}");
        assert!(queued["failing_since"].as_u64() >= queued["queued_at"].as_u64(), "{queued}");
        assert!(queued["accepted_at"].is_null(), "{queued}");
        assert_eq!(delivery(&two.alice, &room, &event_id).await.ok()["state"], "sent");

        // Whoever starts again knows what it owes, and why.
        two.a.kill();
        two.a.restart().await;
        let again = stands(&two.alice, &room, &event_id, "queued").await;
        assert_eq!(again["queued_at"], queued["queued_at"]);
        assert!(again["failing_since"].as_u64() <= queued["next_try_at"].as_u64(), "{again}");

        two.network.link("a.test", "b.test").mend();
        let told = comes_to(&two.alice, &room, &event_id, "delivered").await;
        let there = &told["destinations"][0];
        assert_eq!((&there["server"], &there["state"]), (&json!("b.test"), &json!("accepted")));
        assert!(there["accepted_at"].as_u64() > there["queued_at"].as_u64(), "{there}");
        assert!(there["reason"].is_null() && there["next_try_at"].is_null(), "{there}");
        assert_eq!(told["read_by"], json!([]));

        arrives(&two.bob, &room, &event_id).await;
        two.bob.post(&format!("rooms/{room}/receipt/m.read/{event_id}"), json!({})).await.ok();
        let told = comes_to(&two.alice, &room, &event_id, "read").await;
        assert_eq!(told["read_by"], json!([two.bob.user_id]));
        comes_to(&two.alice, &room, &before, "read").await;
    })
    .await;
}

#[tokio::test]
async fn one_event_of_a_transaction_is_refused_with_its_reason_until_the_peer_fetches_it() {
    on_each_engine(async |engine| {
        let (network, [a]) = Network::start(&engine, ["a.test"]).await;
        let peer = FakePeer::start(&network, "picky.test").await;
        let alice = a.register_with_secret("alice").await;
        let room = alice.create_public_room().await;
        let known = peer.join(&a, &room, "mallory").await;
        peer.reply("PUT", "/_matrix/federation/v1/send/", Reply::Html(502));
        let mut said = Vec::new();
        for text in ["one", "two", "three"] {
            said.push(alice.say(&room, text).await);
        }
        eventually("the reason is known", async || {
            stands(&alice, &room, &said[2], "queued").await["reason"]
                .as_str()
                .map(|reason| assert_eq!(reason, "server"))
        })
        .await;
        peer.answer(move |heard| {
            let pdus =
                heard.path.starts_with("/_matrix/federation/v1/send/").then(|| heard.body["pdus"].as_array())??;
            let answers = pdus.iter().map(|event| {
                let is_unwanted = event["content"]["body"] == "two";
                (known.id_of(event), if is_unwanted { json!({ "error": "not in my house" }) } else { json!({}) })
            });
            let answers: serde_json::Map<String, Value> = answers.collect();
            Some(Reply::Json(200, json!({ "pdus": answers })))
        });

        let refused = stands(&alice, &room, &said[1], "refused").await;
        assert_eq!((&refused["server"], &refused["reason"]), (&json!("picky.test"), &json!("not in my house")));
        assert!(refused["accepted_at"].is_null(), "{refused}");
        for event_id in [&said[0], &said[2]] {
            assert_eq!(comes_to(&alice, &room, event_id, "delivered").await["destinations"][0]["state"], "accepted");
        }
        assert_eq!(delivery(&alice, &room, &said[1]).await.ok()["state"], "sent");

        let path = format!("/_matrix/federation/v1/event/{}", enc(&said[1]));
        peer.ask(&a, Method::GET, &path, None).await.ok();
        let told = comes_to(&alice, &room, &said[1], "delivered").await;
        assert_eq!(told["destinations"][0]["state"], "pulled");
        assert!(told["destinations"][0]["accepted_at"].as_u64() >= refused["queued_at"].as_u64(), "{told}");
    })
    .await;
}

#[tokio::test]
async fn only_who_may_read_an_event_learns_what_became_of_it_and_only_where_it_was_sent() {
    let (network, [a]) = Network::start(&Engine::Sqlite, ["a.test"]).await;
    let peer = FakePeer::start(&network, "b.test").await;
    let (alice, eve) = (a.register_with_secret("alice").await, a.register_with_secret("eve").await);
    let room = alice.create_public_room().await;
    let event_id = alice.say(&room, "for those who are here").await;
    let told = delivery(&alice, &room, &event_id).await.ok();
    assert_eq!((&told["state"], &told["destinations"]), (&json!("delivered"), &json!([])));

    let other_room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let hidden = alice.say(&other_room, "for me").await;
    let mut there = peer.join(&a, &room, "bob").await;
    let theirs = there.say(&peer, "bob", "from elsewhere");
    peer.deliver(&a, &theirs).await;
    let theirs = there.id_of(&theirs);
    arrives(&alice, &room, &theirs).await;

    for (who, room, event_id, status, code) in [
        (&eve, &other_room, &hidden, 404, "not_found"),
        (&alice, &room, &hidden, 404, "not_found"),
        (&alice, &room, &theirs, 404, "not_found"),
        (&alice, &"!nowhere:a.test".to_owned(), &event_id, 404, "not_found"),
        (&alice, &"nowhere".to_owned(), &event_id, 400, "invalid"),
        (&a.anonymous(), &room, &event_id, 401, "missing_token"),
    ] {
        let answer = delivery(who, room, event_id).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{}", answer.text);
    }
}
