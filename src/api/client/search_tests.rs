//! Looking for what was said, as a client meets it.

#![allow(clippy::cloned_ref_to_slice_refs, reason = "a list of one is compared as lists of more are")]

use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use serde_json::{Value, json};

use super::NextBatch;
use crate::testing::{Server, refusal, with_server};

const V3: &str = "/_matrix/client/v3";

/// Somebody with a client.
struct Person<'a> {
    server: &'a Server,
    token: String,
    id: String,
}

impl<'a> Person<'a> {
    async fn new(server: &'a Server, name: &str) -> Self {
        Self { server, token: server.register(name).await.0, id: format!("@{name}:a.test") }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.server.post(&format!("{V3}/{path}"), Some(&self.token), body).await
    }

    async fn put(&self, path: &str, body: Value) -> Value {
        let path = format!("{V3}/{path}");
        let (status, answer) = self.server.ask(Method::PUT, &path, Some(&self.token), body.to_string()).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn create(&self, wish: Value) -> String {
        self.post("createRoom", wish).await["room_id"].as_str().expect("it is told").to_owned()
    }

    async fn send(&self, room: &str, kind: &str, content: Value) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let transaction = NEXT.fetch_add(1, Ordering::Relaxed);
        let sent = self.put(&format!("rooms/{room}/send/{kind}/{transaction}"), content).await;
        sent["event_id"].as_str().expect("it is told").to_owned()
    }

    async fn say(&self, room: &str, body: &str) -> String {
        self.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
    }

    async fn edit(&self, room: &str, event: &str, body: &str) -> String {
        let new = json!({ "msgtype": "m.text", "body": body });
        let relation = json!({ "rel_type": "m.replace", "event_id": event });
        let content =
            json!({ "msgtype": "m.text", "body": format!("* {body}"), "m.new_content": new, "m.relates_to": relation });
        self.send(room, "m.room.message", content).await
    }

    async fn redact(&self, room: &str, event: &str) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let transaction = NEXT.fetch_add(1, Ordering::Relaxed);
        self.put(&format!("rooms/{room}/redact/{event}/r{transaction}"), json!({})).await;
    }

    async fn ask(&self, criteria: Value) -> Value {
        self.ask_on(criteria, None).await
    }

    async fn ask_on(&self, criteria: Value, next: Option<&str>) -> Value {
        let query = next.map(|next| format!("?next_batch={}", next.replace('@', "%40"))).unwrap_or_default();
        let body = json!({ "search_categories": { "room_events": criteria } });
        self.post(&format!("search{query}"), body).await["search_categories"]["room_events"].clone()
    }

    /// The ids of what is found, the latest first.
    async fn find(&self, text: &str) -> Vec<String> {
        ids(&self.ask(json!({ "search_term": text, "order_by": "recent" })).await)
    }

    async fn refused(&self, body: Value) -> (u16, String) {
        refusal(self.server.ask(Method::POST, &format!("{V3}/search"), Some(&self.token), body.to_string()).await)
    }
}

fn ids(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().expect("a list").iter();
    results.map(|result| result["result"]["event_id"].as_str().expect("an id").to_owned()).collect()
}

fn nothing() -> Vec<String> {
    Vec::new()
}

#[tokio::test]
async fn what_was_just_said_is_found_in_each_script() {
    with_server(async |server| {
        let alice = Person::new(&server, "alice").await;
        let room = alice.create(json!({ "name": "下午茶 Club", "topic": "紅茶 and cake" })).await;
        for (said, found_by) in [
            ("hello, world", vec!["hello", "WORLD", "wor", "world hello"]),
            ("我爱北京天安门", vec!["北京", "天安门", "爱", "门"]),
            ("東京タワーに行きました", vec!["東京", "ﾀﾜｰ", "行きました", "に"]),
            ("안녕하세요 여러분", vec!["안녕", "하세요", "여러분", "요"]),
            ("ＦＵＬＬ ｗｉｄｔｈ", vec!["full", "Width"]),
            ("I don’t", vec!["don't"]),
            ("well done 👍🏽", vec!["👍", "done 👍🏿"]),
        ] {
            let id = alice.say(&room, said).await;
            for text in found_by {
                assert_eq!(alice.find(text).await, [id.clone()], "{text}: {said}");
            }
        }
        assert_eq!(alice.find("京北").await, nothing());
        assert_eq!(alice.find("orld").await, nothing());
        assert_eq!(alice.find("… ?").await, nothing());

        // By name and topic, where that is asked for.
        let keys = |keys: Value| json!({ "search_term": "茶", "keys": keys });
        assert_eq!(alice.ask(json!({ "search_term": "茶" })).await["count"], 2);
        for (wanted, kind) in [("content.name", "m.room.name"), ("content.topic", "m.room.topic")] {
            let answer = alice.ask(keys(json!([wanted]))).await;
            assert_eq!((&answer["count"], &answer["results"][0]["result"]["type"]), (&json!(1), &json!(kind)));
        }
        assert_eq!(alice.ask(keys(json!(["content.body"]))).await["results"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn an_answer_has_rank_context_groups_state_and_highlights() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let room = alice.create(json!({ "preset": "public_chat" })).await;
        bob.post(&format!("join/{room}"), json!({})).await;
        let mut said = Vec::new();
        for number in 1..8 {
            let speaker = if number % 2 == 0 { &alice } else { &bob };
            said.push(speaker.say(&room, &format!("Message number {number}")).await);
        }
        let answer = alice
            .ask(json!({
                "search_term": "Message 4", "order_by": "recent", "filter": { "limit": 1 }, "include_state": true,
                "event_context": { "before_limit": 2, "after_limit": 1, "include_profile": true },
                "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
            }))
            .await;
        assert_eq!((&answer["count"], &answer["highlights"]), (&json!(1), &json!(["message", "4"])));
        let result = &answer["results"][0];
        assert!(result["rank"].as_f64().is_some_and(|rank| rank > 0.0 && rank < 1.0), "{result}");
        assert_eq!((&result["result"]["event_id"], &result["result"]["room_id"]), (&json!(said[3]), &json!(room)));
        assert_eq!(result["result"]["user_id"], json!(alice.id));
        let context = &result["context"];
        let bodies = |side: &str| {
            let events = context[side].as_array().expect("a list").iter();
            events.map(|event| event["content"]["body"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(bodies("events_before"), ["Message number 3", "Message number 2"]);
        assert_eq!(bodies("events_after"), ["Message number 5"]);
        assert_eq!(context["profile_info"][&bob.id]["displayname"], "bob");
        let start = context["start"].as_str().expect("a token");
        let path = format!("{V3}/rooms/{room}/messages?dir=b&limit=1&from={start}");
        assert_eq!(server.get(&path, Some(&alice.token)).await["chunk"][0]["content"]["body"], "Message number 1");
        assert_eq!(answer["groups"]["room_id"][&room]["results"], json!([said[3]]));
        assert_eq!(answer["groups"]["sender"][&alice.id]["results"], json!([said[3]]));
        let state = answer["state"][&room].as_array().expect("a list");
        assert!(state.iter().any(|event| event["type"] == "m.room.create"));

        // A page of one group, and the next one.
        let grouped = json!({
            "search_term": "message", "filter": { "limit": 3 }, "groupings": { "group_by": [{ "key": "sender" }] },
        });
        let first = alice.ask(grouped.clone()).await;
        let of_bob = first["groups"]["sender"][&bob.id].clone();
        let next = of_bob["next_batch"].as_str().expect("there is more");
        let mut found: Vec<String> = serde_json::from_value(of_bob["results"].clone()).expect("ids");
        found.extend(ids(&alice.ask_on(grouped, Some(next)).await));
        found.sort();
        let mut expected: Vec<_> = said.iter().step_by(2).cloned().collect();
        expected.sort();
        assert_eq!(found, expected);

        assert!(alice.ask(json!({ "search_term": "message" })).await["results"][0].get("context").is_none());
        let body = json!({ "search_categories": {} });
        assert_eq!(alice.post("search", body).await, json!({ "search_categories": {} }));
        let refused = (400, "M_INVALID_PARAM".to_owned());
        for criteria in [
            json!({ "search_term": "x", "order_by": "taste" }),
            json!({ "search_term": "x", "keys": ["content.colour"] }),
            json!({ "search_term": "x", "groupings": { "group_by": [{ "key": "moon" }] } }),
        ] {
            assert_eq!(alice.refused(json!({ "search_categories": { "room_events": criteria } })).await, refused);
        }
        assert_eq!(alice.refused(json!({})).await, (400, "M_BAD_JSON".to_owned()));
        let token = Some(alice.token.as_str());
        let (status, _) = server.ask(Method::POST, &format!("{V3}/search?next_batch=1_x_"), token, "{}").await;
        assert_eq!(status, 400);
    })
    .await;
}

#[tokio::test]
async fn pages_have_everything_once_in_both_orders() {
    with_server(async |server| {
        let alice = Person::new(&server, "alice").await;
        let room = alice.create(json!({})).await;
        let mut said = Vec::new();
        for number in 0..20 {
            said.push(alice.say(&room, &format!("Message number {number}{}", " and more".repeat(number % 4))).await);
        }
        let recent = json!({ "search_term": "Message", "order_by": "recent", "filter": { "limit": 10 } });
        let first = alice.ask(recent.clone()).await;
        assert_eq!((&first["count"], ids(&first)), (&json!(20), said[10..].iter().rev().cloned().collect()));
        alice.say(&room, "A message that came meanwhile").await;
        let second = alice.ask_on(recent.clone(), first["next_batch"].as_str()).await;
        assert_eq!((&second["count"], ids(&second)), (&json!(20), said[..10].iter().rev().cloned().collect()));
        let third = alice.ask_on(recent, second["next_batch"].as_str()).await;
        assert_eq!((&third["count"], &third["results"], third.get("next_batch")), (&json!(20), &json!([]), None));

        let ranked = json!({ "search_term": "number", "filter": { "limit": 3 } });
        let (mut found, mut next, mut ranks) = (Vec::new(), None::<String>, Vec::new());
        loop {
            let page = alice.ask_on(ranked.clone(), next.as_deref()).await;
            found.extend(ids(&page));
            ranks.extend(page["results"].as_array().expect("a list").iter().map(|result| result["rank"].as_f64()));
            alice.say(&room, "number").await;
            let Some(more) = page["next_batch"].as_str() else { break };
            next = Some(more.to_owned());
        }
        assert!(ranks.is_sorted_by(|one, next| one >= next), "{ranks:?}");
        found.sort();
        said.sort();
        assert_eq!(found, said, "what comes later isn't part of it");
    })
    .await;
}

#[tokio::test]
async fn edits_and_redactions_are_found_by_what_is_left() {
    with_server(async |server| {
        let alice = Person::new(&server, "alice").await;
        let room = alice.create(json!({})).await;
        let (one, two) = (alice.say(&room, "message one").await, alice.say(&room, "message two").await);
        assert_eq!(alice.find("message").await, [two.clone(), one.clone()]);
        alice.redact(&room, &one).await;
        for order in ["rank", "recent"] {
            let answer = alice.ask(json!({ "search_term": "message", "order_by": order })).await;
            assert_eq!((&answer["count"], ids(&answer)), (&json!(1), vec![two.clone()]));
        }

        let edit = alice.edit(&room, &two, "翻译好了").await;
        assert_eq!(alice.find("message").await, nothing());
        let answer = alice.ask(json!({ "search_term": "翻译" })).await;
        assert_eq!(ids(&answer), [two.clone()], "the edit itself is no result");
        let bundle = &answer["results"][0]["result"]["unsigned"]["m.relations"]["m.replace"];
        assert_eq!(bundle["event_id"], json!(edit));
        let latest = alice.edit(&room, &two, "третье").await;
        assert_eq!(alice.find("翻译").await, nothing());
        assert_eq!(alice.find("ТРЕТЬЕ").await, [two.clone()]);
        alice.redact(&room, &latest).await;
        assert_eq!(alice.find("третье").await, nothing());
        assert_eq!(alice.find("翻译").await, [two.clone()], "the edit before holds again");
        alice.redact(&room, &two).await;
        assert_eq!(alice.find("翻译").await, nothing());
    })
    .await;
}

#[tokio::test]
async fn people_find_what_they_may_see_and_nothing_else() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let visibility = |visibility: &str| {
            let content = json!({ "history_visibility": visibility });
            json!({
                "preset": "public_chat",
                "initial_state": [{ "type": "m.room.history_visibility", "state_key": "", "content": content }],
            })
        };
        let (joined, shared) = (alice.create(visibility("joined")).await, alice.create(visibility("shared")).await);
        let hidden = alice.say(&joined, "secret before").await;
        let before = alice.say(&shared, "secret before").await;
        assert_eq!(bob.find("secret").await, nothing(), "a stranger");
        for room in [&joined, &shared] {
            bob.post(&format!("join/{room}"), json!({})).await;
        }
        let answer = bob.ask(json!({ "search_term": "secret" })).await;
        assert_eq!((ids(&answer), &answer["count"]), (vec![before.clone()], &json!(1)), "not even by counting");
        let during = alice.say(&joined, "secret during").await;
        assert_eq!(bob.find("secret").await, [during.clone(), before.clone()]);
        bob.post(&format!("rooms/{joined}/leave"), json!({})).await;
        alice.say(&joined, "secret after").await;
        alice.edit(&joined, &during, "changed when he was gone").await;
        assert_eq!(bob.find("secret").await, [before.clone()], "the index knows the edit only");
        assert_eq!(bob.find("changed").await, nothing(), "he doesn't see the edit");
        assert_eq!(alice.find("changed").await, [during]);
        assert_eq!(alice.find("secret before").await, [before.clone(), hidden]);

        // Whoever is ignored, rooms that aren't asked for, and rooms that were forgotten.
        let path = format!("user/{}/account_data/m.ignored_user_list", bob.id);
        bob.put(&path, json!({ "ignored_users": { &alice.id: {} } })).await;
        assert_eq!(bob.find("secret").await, nothing());
        bob.put(&path, json!({ "ignored_users": {} })).await;
        assert_eq!(bob.find("secret").await, [before.clone()]);
        for (filter, count) in [
            (json!({ "rooms": [joined] }), 0),
            (json!({ "not_rooms": [shared] }), 0),
            (json!({ "rooms": [shared] }), 1),
            (json!({ "senders": [bob.id] }), 0),
            (json!({ "senders": [] }), 0),
            (json!({ "senders": [alice.id] }), 1),
            (json!({ "not_types": ["m.room.mess*"] }), 0),
            (json!({ "contains_url": true }), 0),
        ] {
            let answer = bob.ask(json!({ "search_term": "secret before", "filter": filter })).await;
            assert_eq!(answer["count"], count, "{filter}");
        }
        bob.post(&format!("rooms/{shared}/leave"), json!({})).await;
        assert_eq!(bob.find("secret").await, [before]);
        bob.post(&format!("rooms/{shared}/forget"), json!({})).await;
        assert_eq!(bob.find("secret").await, nothing());

        let encrypted = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "secret", "body": "secret" });
        let closed = bob.create(json!({})).await;
        bob.send(&closed, "m.room.encrypted", encrypted).await;
        assert_eq!(bob.find("secret").await, nothing());
    })
    .await;
}

#[test]
fn a_token_is_read_as_it_was_written() {
    for text in ["7_p12_", "0_w-5.9.100.3_!room_with:a.test", "3_p-1_@some_body:a.test"] {
        assert_eq!(NextBatch::read(text).expect("it is one").write(), text);
    }
    for text in ["", "7", "7_p12", "x_p1_", "7_z_", "7_p1_@", "7__"] {
        assert_eq!(NextBatch::read(text), None, "{text}");
    }
}
