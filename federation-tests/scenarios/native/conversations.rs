//! Alice on the native API and Bob on the Matrix API are in one conversation, and see the same of it.

use federation_tests::{Answer, Client, Engine, Network, Server, eventually, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const CONVERSATIONS: &str = "/api/v1/conversations";
const MESSAGES: &str = "/api/v1/messages";

#[track_caller]
pub(super) fn done(answer: Answer) -> Value {
    assert!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.text);
    answer.body
}

/// Somebody says something on the native API.
async fn say(client: &Client, message: Value) -> Value {
    done(client.post(MESSAGES, message).await)
}

/// Everything of a conversation, as the native API pages it forward, with each page's word on what it covers checked.
pub(super) async fn everything(client: &Client, room: &str) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    let mut page = done(client.get(&format!("{MESSAGES}?conversation_id={room}&after_seq=0&limit=7")).await);
    loop {
        let messages = page["messages"].as_array().expect("a list").clone();
        let seqs: Vec<i64> = messages.iter().map(|one| one["seq"].as_i64().expect("a number")).collect();
        if let (Some(first), Some(last)) = (seqs.first(), seqs.last()) {
            assert!(page["first_seq"].as_i64() <= Some(*first) && page["last_seq"].as_i64() >= Some(*last), "{page}");
        }
        items.extend(messages);
        let Some(next) = page["next"].as_str() else { return items };
        page = done(client.get(&format!("{MESSAGES}?conversation_id={room}&cursor={next}&limit=7")).await);
    }
}

/// The numbers of a conversation are 1, 2, 3 … for somebody who sees all of it.
#[track_caller]
fn assert_gapless(items: &[Value]) {
    let seqs: Vec<i64> = items.iter().filter_map(|one| one["seq"].as_i64()).collect();
    assert_eq!(seqs, (1..=items.len() as i64).collect::<Vec<_>>());
}

/// What was said, by whom: as the native API tells it,
fn said(items: &[Value]) -> Vec<(String, String)> {
    let of = |item: &Value| {
        let text = match item["type"].as_str()? {
            "text" => item["content"]["text"].as_str()?,
            "recalled" => "(recalled)",
            _ => return None,
        };
        Some((item["sender"]["user_id"].as_str()?.to_owned(), text.to_owned()))
    };
    items.iter().filter_map(of).collect()
}

/// and as the Matrix API does, edits applied.
async fn said_on_matrix(client: &Client, room: &str) -> Vec<(String, String)> {
    let events = client.history(room).await;
    let of = |event: &Value| {
        if event["type"] != "m.room.message" || event["content"]["m.relates_to"]["rel_type"] == "m.replace" {
            return None;
        }
        let edit = &event["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"]["body"];
        let text = edit.as_str().or_else(|| event["content"]["body"].as_str()).unwrap_or("(recalled)");
        Some((event["sender"].as_str()?.to_owned(), text.to_owned()))
    };
    let mut said: Vec<_> = events.iter().filter_map(of).collect();
    if events.first().map(|event| &event["type"]) != Some(&json!("m.room.create")) {
        said.reverse();
    }
    said
}

async fn conversation(client: &Client, room: &str) -> Value {
    done(client.get(&format!("{CONVERSATIONS}/{room}")).await)
}

/// What Bob's Matrix client counts as unread.
async fn unread_on_matrix(client: &Client, room: &str) -> Value {
    client.sync(None).await["rooms"]["join"][room]["unread_notifications"]["notification_count"].clone()
}

/// Alice writes to Bob, who answers on the Matrix API; both change their minds, and read. `bobs`: where Bob is.
async fn chat(alice: &Client, bob: &Client) -> String {
    let first = say(alice, json!({ "to": bob.user_id, "content": "hello", "msg_id": "m1" })).await;
    let again = say(alice, json!({ "to": bob.user_id, "content": "hello", "msg_id": "m1" })).await;
    assert_eq!(first["id"], again["id"], "sent once");
    let room = first["conversation_id"].as_str().expect("it is told").to_owned();
    eventually("bob is invited", async || {
        let rooms = bob.sync(None).await["rooms"]["invite"].clone();
        (!rooms[&room].is_null()).then_some(())
    })
    .await;
    bob.join(&room).await;
    eventually("alice sees bob come", async || (conversation(alice, &room).await["member_count"] == 2).then_some(()))
        .await;

    let answer = bob.say(&room, "hi alice").await;
    let got = eventually("alice gets the answer", async || {
        Some(conversation(alice, &room).await).filter(|one| one["last_message"]["id"] == answer.as_str())
    })
    .await;
    assert_eq!((&got["type"], &got["unread_count"]), (&json!("direct"), &json!(1)));
    assert_eq!(got["last_message"]["is_federated"], alice.user_id.split(':').nth(1) != bob.user_id.split(':').nth(1));
    // She reads on the native API, and his client shows it.
    done(alice.post(&format!("{CONVERSATIONS}/{room}/read"), json!({ "up_to": answer })).await);
    assert_eq!(conversation(alice, &room).await["unread_count"], 0);
    eventually("bob's client shows that alice has read", async || {
        let ephemeral = bob.sync(None).await["rooms"]["join"][&room]["ephemeral"]["events"].clone();
        ephemeral.to_string().contains(&format!("\"{answer}\":{{\"m.read\":{{\"{}\"", alice.user_id)).then_some(())
    })
    .await;

    // She edits and takes back; he takes back on the Matrix API.
    let typo = say(alice, json!({ "conversation_id": room, "content": "see yuo", "reply_to": answer })).await;
    let path = format!("{MESSAGES}/{}", typo["id"].as_str().expect("text"));
    let edit = alice.attempt(Method::PATCH, &path, Some(&json!({ "content": "see you" }))).await;
    assert_eq!(done(edit.expect("it answers"))["content"]["text"], "see you");
    let secret = say(alice, json!({ "conversation_id": room, "content": "my password" })).await;
    let path = format!("{MESSAGES}/{}/recall", secret["id"].as_str().expect("text"));
    assert_eq!(done(alice.post(&path, json!({})).await)["type"], "recalled");
    // What both say at once may come in another order to each server.
    eventually("bob sees the recall", async || {
        said_on_matrix(bob, &room).await.contains(&(alice.user_id.clone(), "(recalled)".to_owned())).then_some(())
    })
    .await;
    let oops = bob.say(&room, "oops").await;
    bob.put(&format!("rooms/{room}/redact/{oops}/r1"), json!({})).await.ok();
    let last = bob.say(&room, "bye").await;
    eventually("alice gets the last word", async || {
        (conversation(alice, &room).await["last_message"]["id"] == last.as_str()).then_some(())
    })
    .await;
    room
}

fn expected(alice: &Client, bob: &Client) -> Vec<(String, String)> {
    [(alice, "hello"), (bob, "hi alice"), (alice, "see you"), (alice, "(recalled)"), (bob, "(recalled)"), (bob, "bye")]
        .map(|(who, text)| (who.user_id.clone(), text.to_owned()))
        .to_vec()
}

#[tokio::test]
async fn one_conversation_is_the_same_on_both_apis_of_a_server() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = chat(&alice, &bob).await;
        let items = everything(&alice, &room).await;
        assert_gapless(&items);
        assert_eq!(said(&items), expected(&alice, &bob));
        assert_eq!(said_on_matrix(&bob, &room).await, expected(&alice, &bob));
        // The numbers are the conversation's, not the reader's.
        let bobs = everything(&bob, &room).await;
        let ids = |items: &[Value]| items.iter().map(|one| (one["id"].clone(), one["seq"].clone())).collect::<Vec<_>>();
        assert_eq!(ids(&items), ids(&bobs));
        assert_eq!(unread_on_matrix(&bob, &room).await, conversation(&bob, &room).await["unread_count"]);
        // What Bob reads on his Matrix client is read on the native API.
        bob.post(
            &format!("rooms/{room}/receipt/m.read/{}", items.last().expect("items")["id"].as_str().expect("text")),
            json!({}),
        )
        .await
        .ok();
        let read = conversation(&bob, &room).await;
        assert_eq!((&read["unread_count"], &read["read_seq"]), (&json!(0), &read["last_seq"]));
    })
    .await;
}

#[tokio::test]
async fn one_conversation_is_the_same_on_both_apis_of_two_domains() {
    on_each_engine(async |engine| {
        let (_network, [a, b]) = Network::start(&engine, ["a.test", "b.test"]).await;
        let (alice, bob) = (a.register_with_secret("alice").await, b.register_with_secret("bob").await);
        let room = chat(&alice, &bob).await;
        let items = everything(&alice, &room).await;
        assert_gapless(&items);
        assert_eq!(said(&items), expected(&alice, &bob));
        assert_eq!(said_on_matrix(&bob, &room).await, expected(&alice, &bob));

        // Bob's server counts for itself, from where it came in; what was before has no number.
        let bobs = everything(&bob, &room).await;
        assert_gapless(&bobs);
        let all = done(bob.get(&format!("{MESSAGES}?conversation_id={room}&limit=200")).await);
        let all = all["messages"].as_array().expect("a list").clone();
        assert_eq!(said(&all), expected(&alice, &bob), "with what came before Bob, oldest first");
        assert!(all[0]["seq"].is_null() && all.last().expect("items")["seq"].is_i64(), "{all:?}");
        let members = async |client: &Client| {
            let list = done(client.get(&format!("{CONVERSATIONS}/{room}/members")).await)["members"].clone();
            list.as_array()
                .expect("a list")
                .iter()
                .map(|one| (one["address"].clone(), one["role"].clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(members(&alice).await, members(&bob).await);
        assert_eq!(members(&alice).await.len(), 2);
        // Who can't be reached isn't written to, and nothing is left behind.
        let before = done(alice.get(CONVERSATIONS).await)["conversations"].as_array().map(Vec::len);
        let refused = alice.post(MESSAGES, json!({ "to": "nobody@b.test", "content": "anybody?" })).await;
        assert!(refused.status >= 400, "{}", refused.text);
        assert_eq!(done(alice.get(CONVERSATIONS).await)["conversations"].as_array().map(Vec::len), before);
    })
    .await;
}

/// Many senders at once, each on a node of its own choice; every message has its number, and none is given twice.
async fn crowd(nodes: &[&Server]) {
    let alice = nodes[0].register_with_secret("alice").await;
    let bob = nodes[nodes.len() - 1].register_with_secret("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let mut senders = JoinSet::new();
    for number in 0..40 {
        let (client, room) = (if number % 2 == 0 { alice.another() } else { bob.another() }, room.clone());
        senders.spawn(async move {
            let wish =
                json!({ "conversation_id": room, "content": number.to_string(), "msg_id": format!("n{number}") });
            // A busy room says so, and the same id is the same message.
            for _ in 0..20 {
                let answer = client.post(MESSAGES, wish.clone()).await;
                if answer.status == 201 {
                    return answer.body["id"].as_str().expect("an id").to_owned();
                }
                assert!(matches!(answer.status, 429 | 503), "{}", answer.text);
            }
            panic!("message {number} could not be sent");
        });
    }
    let sent = senders.join_all().await;
    let items = eventually("both see all of it", async || {
        let (one, other) = (everything(&alice, &room).await, everything(&bob, &room).await);
        (one == other || one.len() == other.len()).then_some(one)
    })
    .await;
    assert_gapless(&items);
    let ids: Vec<&str> = items.iter().filter_map(|one| one["id"].as_str()).collect();
    assert!(sent.iter().all(|id| ids.iter().filter(|known| *known == id).count() == 1));
}

#[tokio::test]
async fn many_senders_leave_no_gap_in_the_numbers() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        crowd(&[&server]).await;
    })
    .await;
}

#[tokio::test]
async fn two_nodes_give_no_number_twice() {
    let Some(engine) = Engine::postgres() else {
        eprintln!("SKIPPED: nodes share a PostgreSQL, and COMITY_TEST_POSTGRES_URL isn't set");
        return;
    };
    let first = Server::start(&engine).await;
    let second = first.another_node().await;
    crowd(&[&first, &second]).await;
}
