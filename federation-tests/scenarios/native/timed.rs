//! What is said later, and what doesn't stay: at its time, once, everywhere, whatever ends in between.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use federation_tests::{Client, Network, Server, eventually, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};

use super::conversations::{done, everything};

const MESSAGES: &str = "/api/v1/messages";
const SCHEDULED: &str = "/api/v1/messages/scheduled";

fn in_time(ahead: Duration) -> u64 {
    let now = SystemTime::now() + ahead;
    now.duration_since(UNIX_EPOCH).expect("it is later than 1970").as_millis() as u64
}

async fn schedule(client: &Client, ahead: Duration, message: Value) -> Value {
    done(client.post(SCHEDULED, json!({ "send_at": in_time(ahead), "message": message })).await)
}

async fn scheduled(client: &Client) -> Vec<Value> {
    done(client.get(SCHEDULED).await)["messages"].as_array().expect("a list").clone()
}

async fn texts(client: &Client, room: &str) -> Vec<String> {
    let items = everything(client, room).await;
    items.iter().filter_map(|item| item["content"]["text"].as_str()).map(str::to_owned).collect()
}

/// Whether anything in the room's history on the Matrix API says `text`, in whatever place.
async fn is_anywhere(client: &Client, room: &str, text: &str) -> bool {
    client.history(room).await.iter().any(|event| event.to_string().contains(text))
}

#[tokio::test]
async fn what_is_scheduled_is_said_once_at_its_time_whatever_ends_in_between() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let says = |text: &str, id: &str| json!({ "conversation_id": room, "content": text, "msg_id": id });
        let soon = Duration::from_millis(1500);
        let first = schedule(&alice, soon, says("good morning", "s1")).await;
        let again = schedule(&alice, Duration::from_secs(60), says("something else", "s1")).await;
        assert_eq!(first, again, "one name is one message");
        assert_eq!((&first["state"], &first["content"]["text"]), (&json!("waiting"), &json!("good morning")));
        schedule(&alice, soon + soon, says("good night", "s2")).await;
        let withdrawn = schedule(&alice, soon, says("never mind", "s3")).await;
        let path = format!("{SCHEDULED}/{}", withdrawn["scheduled_id"].as_str().expect("it is told"));
        assert_eq!(bob.attempt(Method::DELETE, &path, None).await.expect("it answers").status, 404, "it is Alice's");
        assert_eq!(alice.attempt(Method::DELETE, &path, None).await.expect("it answers").status, 204);
        assert_eq!(scheduled(&alice).await.len(), 2);
        assert!(scheduled(&bob).await.is_empty());
        assert!(texts(&bob, &room).await.is_empty(), "its time hasn't come");

        // It ends around the time of the first, and begins again.
        tokio::time::sleep(soon.saturating_sub(Duration::from_millis(100))).await;
        server.kill();
        server.restart().await;
        let said = eventually("both were said", async || {
            let (said, waiting) = (texts(&bob, &room).await, scheduled(&alice).await);
            (said.len() == 2 && waiting.is_empty()).then_some(said)
        })
        .await;
        assert_eq!(said, ["good morning", "good night"]);
        let items = everything(&alice, &room).await;
        let first = items.iter().find(|item| item["content"]["text"] == "good morning").expect("it was said");
        assert_eq!(first["msg_id"], "s1", "the client finds it by its own name");

        // What can't be said is told.
        schedule(&bob, Duration::from_millis(300), says("let me in", "s4")).await;
        bob.leave(&room).await;
        let failed =
            eventually("it failed", async || scheduled(&bob).await.into_iter().find(|one| one["state"] == "failed"))
                .await;
        assert!(failed["failure"].as_str().is_some_and(|why| !why.is_empty()), "{failed}");
        let path = format!("{SCHEDULED}/{}", failed["scheduled_id"].as_str().expect("it is told"));
        assert_eq!(bob.attempt(Method::DELETE, &path, None).await.expect("it answers").status, 204);
        assert!(scheduled(&bob).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_expires_is_gone_on_both_domains_and_so_is_what_it_was_edited_to() {
    on_each_engine(async |engine| {
        let (_network, [a, b]) = Network::start(&engine, ["a.test", "b.test"]).await;
        let (alice, bob) = (a.register_with_secret("alice").await, b.register_with_secret("bob").await);
        let hello = done(alice.post(MESSAGES, json!({ "to": bob.user_id, "content": "hello" })).await);
        let room = hello["conversation_id"].as_str().expect("it is told").to_owned();
        eventually("bob is invited", async || {
            (!bob.sync(None).await["rooms"]["invite"][&room].is_null()).then_some(())
        })
        .await;
        bob.join(&room).await;

        let short = json!({ "conversation_id": room, "content": "the word is tulip", "expires_in_ms": 4000, "priority": "urgent" });
        let short = done(alice.post(MESSAGES, short).await);
        assert_eq!(short["priority"], "urgent");
        let (expires, sent) = (short["expires_at"].as_i64().expect("a time"), short["sent_at"].as_i64().expect("a time"));
        assert!((sent - 1000..=sent).contains(&(expires - 4000)), "{short}");
        let path = format!("{MESSAGES}/{}", short["id"].as_str().expect("text"));
        let edit = json!({ "content": "the word is orchid" });
        done(alice.attempt(Method::PATCH, &path, Some(&edit)).await.expect("it answers"));
        eventually("bob sees it", async || is_anywhere(&bob, &room, "orchid").await.then_some(())).await;
        for client in [&alice, &bob] {
            eventually("it is gone, with its edit", async || {
                let is_there = is_anywhere(client, &room, "tulip").await || is_anywhere(client, &room, "orchid").await;
                (!is_there).then_some(())
            })
            .await;
            let items = everything(client, &room).await;
            let recalled: Vec<_> = items.iter().filter(|item| item["type"] == "recalled").map(|item| &item["id"]).collect();
            assert_eq!(recalled, [&short["id"]], "one message was taken back, its edit is no other");
            let only = done(client.get(&format!("{MESSAGES}?conversation_id={room}&only=messages")).await);
            assert_eq!(only["messages"].as_array().map(Vec::len), Some(2), "{only}");
        }

        // It goes when it was read, and not before.
        let secret = done(alice.post(MESSAGES, json!({ "conversation_id": room, "content": "for you only", "burn_after_ms": 200 })).await);
        assert_eq!((&secret["burn_after_ms"], secret.get("expires_at")), (&json!(200), None));
        // A client of the Matrix API may say how long something stays, too.
        let lifetime = json!({ "expires_at": in_time(Duration::from_secs(3)) });
        let content = json!({ "msgtype": "m.text", "body": "from matrix", "org.comity.lifetime": lifetime });
        bob.send(&room, "m.room.message", content).await.ok();
        eventually("it comes", async || is_anywhere(&alice, &room, "from matrix").await.then_some(())).await;
        eventually("it expires", async || (!is_anywhere(&alice, &room, "from matrix").await).then_some(())).await;
        assert!(is_anywhere(&bob, &room, "for you only").await, "nobody has read it yet");
        let id = secret["id"].as_str().expect("text");
        bob.post(&format!("rooms/{room}/receipt/m.read/{id}"), json!({})).await.ok();
        for client in [&alice, &bob] {
            eventually("it is gone", async || (!is_anywhere(client, &room, "for you only").await).then_some(())).await;
        }
    })
    .await;
}
