//! People look for what was said, in their own script, and find what they may see: once, whatever happens meanwhile.

#![allow(clippy::cloned_ref_to_slice_refs, reason = "a list of one is compared as lists of more are")]

use std::{collections::HashSet, fs};

use federation_tests::{Client, Engine, Network, Server, enc, eventually, on_each_engine};
use serde_json::json;

/// The ids of all that is found by Matrix clients, and how many were counted, page by page.
async fn find_all(client: &Client, text: &str, order: &str, limit: usize) -> (Vec<String>, u64) {
    let criteria = json!({ "search_term": text, "order_by": order, "filter": { "limit": limit } });
    let body = json!({ "search_categories": { "room_events": criteria } });
    let (mut ids, mut next, mut count) = (Vec::new(), None::<String>, 0);
    loop {
        let query = next.as_deref().map(|next| format!("?next_batch={}", enc(next))).unwrap_or_default();
        let answer = client.post(&format!("search{query}"), body.clone()).await.ok();
        let found = &answer["search_categories"]["room_events"];
        count = found["count"].as_u64().expect("it is counted").max(count);
        let results = found["results"].as_array().expect("a list").iter();
        ids.extend(results.map(|result| result["result"]["event_id"].as_str().expect("an id").to_owned()));
        match found["next_batch"].as_str() {
            Some(more) => next = Some(more.to_owned()),
            None => return (ids, count),
        }
    }
}

async fn find(client: &Client, text: &str) -> Vec<String> {
    find_all(client, text, "recent", 50).await.0
}

/// The texts of what is found on the native API.
async fn native(client: &Client, query: &str) -> Vec<String> {
    let answer = client.get(&format!("/api/v1/messages/search?q={query}")).await.ok();
    let messages = answer["messages"].as_array().expect("a list").iter();
    messages.map(|message| message["content"]["text"].as_str().expect("text").to_owned()).collect()
}

async fn redact(client: &Client, room: &str, event: &str) {
    client.put(&format!("rooms/{room}/redact/{}/r{}", enc(event), &event[1..6]), json!({})).await.ok();
}

#[tokio::test]
async fn each_finds_in_ones_own_script_what_one_may_see() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let (carol, dave) = (server.register("carol").await, server.register("dave").await);
        let content = json!({ "history_visibility": "joined" });
        let state = json!([{ "type": "m.room.history_visibility", "state_key": "", "content": content }]);
        let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": state })).await;
        bob.join(&room).await;
        let mut said = Vec::new();
        for text in ["The quick brown fox", "敏捷的棕色狐狸跳过了懒狗", "素早い茶色の狐ガ跳ぶ", "재빠른 갈색 여우가 뛴다"] {
            said.push(alice.say(&room, text).await);
        }
        let words = [("QUICK fo", 0), ("狐狸", 1), ("跳过", 1), ("ｶﾞ", 2), ("茶色", 2), ("갈색", 3), ("여우", 3)];
        for (text, at) in words {
            for who in [&alice, &bob] {
                assert_eq!(find(who, text).await, [said[at].clone()], "{text}");
                assert_eq!(native(who, &enc(text)).await.len(), 1, "{text}");
            }
            // Dave never was there, and Carol comes later.
            assert_eq!(find(&dave, text).await, [""; 0]);
            assert_eq!(native(&dave, &enc(text)).await, [""; 0]);
        }
        assert_eq!(find(&bob, "狐").await, [said[2].clone(), said[1].clone()]);
        carol.join(&room).await;
        let later = alice.say(&room, "a later fox, 狐狸").await;
        assert_eq!(find_all(&carol, "fox", "rank", 10).await, (vec![later.clone()], 1));
        assert_eq!(find(&carol, "狐狸").await, [later.clone()]);
        bob.leave(&room).await;
        let last = alice.say(&room, "the last fox").await;
        assert_eq!(find(&bob, "fox").await, [later.clone(), said[0].clone()]);
        assert_eq!(find(&carol, "fox").await, [last.clone(), later.clone()]);
        assert_eq!(native(&carol, "fox&limit=1").await, ["the last fox"]);

        let edit = json!({
            "msgtype": "m.text", "body": "* the last 熊", "m.new_content": { "msgtype": "m.text", "body": "the last 熊" },
            "m.relates_to": { "rel_type": "m.replace", "event_id": last },
        });
        alice.send(&room, "m.room.message", edit).await.ok();
        assert_eq!(find(&carol, "熊").await, [last.clone()]);
        assert_eq!(native(&carol, "last").await, ["the last 熊"]);
        assert_eq!(find(&carol, "fox").await, [later.clone()]);
        redact(&alice, &room, &later).await;
        redact(&alice, &room, &last).await;
        for text in ["fox", "熊", "狐狸"] {
            assert_eq!(find(&carol, text).await, [""; 0], "{text}");
        }
        let secret = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "fox", "body": "fox" });
        alice.send(&room, "m.room.encrypted", secret).await.ok();
        assert_eq!(find(&carol, "fox").await, [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn two_hundred_are_paged_through_while_others_go_on_talking() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let mut said = HashSet::new();
        for number in 0..200 {
            said.insert(alice.say(&room, &format!("第{number}根针 needle {}", "in hay ".repeat(number % 5))).await);
        }
        let talking = {
            let (bob, room) = (bob.another(), room.clone());
            tokio::spawn(async move {
                loop {
                    bob.say(&room, "one more needle 针").await;
                }
            })
        };
        for (text, order, limit) in
            [("needle hay", "recent", 7), ("needle hay", "rank", 7), ("根针", "recent", 50), ("根针", "rank", 90)]
        {
            let (found, count) = find_all(&alice, text, order, limit).await;
            let once: HashSet<String> = found.iter().cloned().collect();
            let expected = if text == "根针" { 200 } else { 160 };
            assert_eq!((found.len(), once.len(), count), (expected, expected, expected as u64), "{text} {order}");
            assert!(once.is_subset(&said));
        }
        let mut path = format!("/api/v1/messages/search?q={}&limit=30", enc("根针"));
        let mut texts = Vec::new();
        loop {
            let page = bob.get(&path).await.ok();
            texts.extend(
                page["messages"].as_array().expect("a list").iter().map(|one| one["content"]["text"].to_string()),
            );
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/api/v1/messages/search?q={}&limit=30&cursor={next}", enc("根针"));
        }
        talking.abort();
        assert_eq!((texts.len(), texts.iter().collect::<HashSet<_>>().len()), (200, 200));
    })
    .await;
}

#[tokio::test]
async fn the_index_makes_up_for_what_was_before_it_however_often_it_dies() {
    on_each_engine(async |engine| {
        let mut server = Server::builder(&engine).set("search", "enabled", false).start().await;
        let alice = server.register("alice").await;
        let room = alice.create_public_room().await;
        let mut said = Vec::new();
        for number in 0..400 {
            said.push(alice.say(&room, &format!("旧 message {number}")).await);
        }
        redact(&alice, &room, &said.remove(100)).await;
        let body = json!({ "search_categories": { "room_events": { "search_term": "message" } } });
        alice.post("search", body).await.refused(403, "M_FORBIDDEN");
        alice.get("/api/v1/messages/search?q=message").await.problem(403, "search_disabled");
        server.stop().await;
        let config = server.folder().join("config.toml");
        let text = fs::read_to_string(&config).expect("it was written");
        let mut settings: toml::Table = text.parse().expect("it is TOML");
        settings["search"]["enabled"] = true.into();
        fs::write(&config, settings.to_string()).expect("it can be written");

        // It dies before it has begun, in the middle, and while more is said.
        for round in 0..4 {
            server.restart().await;
            for number in 0..15 * round {
                said.push(alice.say(&room, &format!("new 消息 message {round} {number}")).await);
            }
            server.kill();
        }
        server.restart().await;
        let all = eventually("everything is in the index", async || {
            let (found, _) = find_all(&alice, "message", "recent", 100).await;
            (found.len() >= said.len()).then_some(found)
        })
        .await;
        let in_order: Vec<String> = said.iter().rev().cloned().collect();
        assert_eq!(all, in_order, "each once");
        assert_eq!(find(&alice, "旧").await.len(), 399);
        assert_eq!(find(&alice, "消息").await.len(), 90);
        let indexed = server.figure("comity_search_indexed_total").await;
        server.restart().await;
        assert_eq!(find(&alice, "消息").await.len(), 90);
        assert!(server.figure("comity_search_indexed_total").await <= indexed, "nothing is done again");
    })
    .await;
}

#[tokio::test]
async fn history_that_came_from_another_server_is_found_too() {
    on_each_engine(async |engine| {
        let (_network, [a, b]) = Network::start(&engine, ["a.test", "b.test"]).await;
        let alice = a.register_with_secret("alice").await;
        let bob = b.register_with_secret("bob").await;
        let room = alice.create_public_room().await;
        let mut said = Vec::new();
        for number in 0..60 {
            said.push(alice.say(&room, &format!("很久以前 {number}")).await);
        }
        let edit = json!({
            "msgtype": "m.text", "body": "* 改了", "m.new_content": { "msgtype": "m.text", "body": "改了" },
            "m.relates_to": { "rel_type": "m.replace", "event_id": said[10] },
        });
        alice.send(&room, "m.room.message", edit).await.ok();
        redact(&alice, &room, &said[20]).await;
        bob.join_via(&room, &["a.test"]).await;
        // Reading back is what brings it here.
        bob.history(&room).await;
        assert_eq!(find(&bob, "改了").await, [said[10].clone()]);
        let mut expected: HashSet<String> = said.iter().cloned().collect();
        expected.retain(|id| *id != said[10] && *id != said[20]);
        let (found, count) = find_all(&bob, "以前", "recent", 25).await;
        assert_eq!((found.len(), count), (58, 58));
        assert_eq!(found.into_iter().collect::<HashSet<_>>(), expected);

        let reply = alice.say(&room, "以前 and now").await;
        eventually("it has arrived", async || (find(&bob, "以前 now").await == [reply.clone()]).then_some(())).await;
        redact(&alice, &room, &reply).await;
        eventually("it is gone", async || find(&bob, "以前 now").await.is_empty().then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn each_node_finds_what_was_said_at_another_and_one_that_ends_is_followed() {
    let Some(engine) = Engine::postgres() else {
        eprintln!("SKIPPED: nodes share a PostgreSQL, and COMITY_TEST_POSTGRES_URL isn't set");
        return;
    };
    let mut first = Server::start(&engine).await;
    let second = first.another_node().await;
    let alice = first.register("alice").await;
    let there = second.login("alice").await;
    let room = alice.create_public_room().await;
    for number in 0..10 {
        let (here, other) = if number % 2 == 0 { (&alice, &there) } else { (&there, &alice) };
        let id = here.say(&room, &format!("第{number}句")).await;
        assert_eq!(find(other, &format!("第{number}句")).await, [id]);
    }
    // Whichever of them kept the index.
    first.kill();
    let id = there.say(&room, "the last 句").await;
    eventually("the other goes on with the index", async || (find(&there, "last").await == [id.clone()]).then_some(()))
        .await;
    assert_eq!(find(&there, "句").await.len(), 11);
    first.restart().await;
    let id = alice.say(&room, "again").await;
    eventually("it is back", async || (find(&alice, "again").await == [id.clone()]).then_some(())).await;
}
