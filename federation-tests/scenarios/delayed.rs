//! Events that are sent later, as clients in calls ask for them: at their time, once, unless they say otherwise until then.

use federation_tests::{Client, Server, enc, eventually, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};

const DELAYED: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";

/// Has the caller's membership in the call end after `delay` milliseconds. Answers by which name.
async fn leave_later(client: &Client, room: &str, delay: u32) -> String {
    let path = format!("rooms/{room}/state/org.test.call/{}?org.matrix.msc4140.delay={delay}", enc(&client.user_id));
    client.put(&path, json!({ "left": true })).await.ok()["delay_id"].as_str().expect("a name").to_owned()
}

async fn dispose(client: &Client, id: &str, action: &str) -> u16 {
    let path = format!("{DELAYED}/{id}/{action}");
    client.another().attempt(Method::POST, &path, Some(&json!({}))).await.expect("it answers").status
}

async fn found(client: &Client, id: &str) -> Value {
    client.get(&format!("{DELAYED}/{id}")).await.ok()
}

async fn call_of(client: &Client, room: &str) -> Value {
    client.state(room, "org.test.call", &client.user_id).await.body
}

#[tokio::test]
async fn who_drops_out_of_a_call_leaves_it_once_and_who_stays_does_not() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let levels = json!({ "events": { "org.test.call": 0 } });
        let room = alice
            .create_room(
                json!({ "preset": "public_chat", "room_version": "11", "power_level_content_override": levels }),
            )
            .await;
        bob.join(&room).await;
        for client in [&alice, &bob] {
            client.set_state(&room, "org.test.call", &client.user_id, json!({ "left": false })).await.ok();
        }

        // Alice goes on saying that she is there; Bob doesn't, and the server ends meanwhile.
        let (hers, his) = (leave_later(&alice, &room, 4000).await, leave_later(&bob, &room, 2000).await);
        assert_eq!(found(&bob, &his).await["delay"], 2000);
        bob.get(&format!("{DELAYED}/{hers}")).await.refused(403, "M_FORBIDDEN");
        server.kill();
        server.restart().await;
        assert_eq!(dispose(&alice, &hers, "restart").await, 200, "whoever knows the name may");
        eventually("Bob has left", async || (call_of(&bob, &room).await["left"] == true).then_some(())).await;
        let settled = found(&bob, &his).await;
        assert!(settled["event_id"].is_string() && settled["finalised_ts"].is_i64(), "{settled}");
        assert_eq!(call_of(&alice, &room).await["left"], false, "her time began anew");

        assert_eq!(dispose(&alice, &hers, "cancel").await, 200);
        assert_eq!(dispose(&alice, &hers, "cancel").await, 200, "a second time is no fault");
        assert_eq!(dispose(&alice, &hers, "send").await, 409, "it is settled");
        assert_eq!(dispose(&alice, "none", "cancel").await, 404);
        assert_eq!(dispose(&bob, &his, "cancel").await, 409);

        // Sent at once, by the older call.
        let now = leave_later(&alice, &room, 60_000).await;
        alice.post(&format!("{DELAYED}/{now}"), json!({ "action": "send" })).await.ok();
        assert_eq!(call_of(&alice, &room).await["left"], true);
        let told = alice.get(DELAYED).await.ok();
        assert_eq!(told["delayed_events"].as_array().map(Vec::len), Some(2), "{told}");
    })
    .await;
}

#[tokio::test]
async fn a_delayed_message_is_one_message_and_what_makes_no_sense_is_refused() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let room = alice.create_public_room().await;
        let later = |txn: &str| format!("/_matrix/client/v3/rooms/{room}/delayed_event/m.room.message/{txn}");
        let message = json!({ "delay": 300, "content": { "msgtype": "m.text", "body": "late" } });
        let first = alice.put(&later("one"), message.clone()).await.ok();
        assert_eq!(alice.put(&later("one"), message.clone()).await.ok(), first, "one request is one event");
        let bodies = async || -> Vec<Value> {
            alice.history(&room).await.iter().map(|event| event["content"]["body"].clone()).collect()
        };
        eventually("it was said", async || bodies().await.contains(&json!("late")).then_some(())).await;

        let too_long = json!({ "delay": 25 * 60 * 60 * 1000_u32, "content": {} });
        let refused = alice.put(&later("two"), too_long).await.refused(400, "M_UNKNOWN");
        assert_eq!(refused["org.matrix.msc4140.errcode"], "M_MAX_DELAY_EXCEEDED");
        alice.put(&later("three"), json!({ "delay": 300, "content": "text" })).await.refused(400, "M_BAD_JSON");
        let nonsense = format!("rooms/{room}/send/m.room.message/four?org.matrix.msc4140.delay=soon");
        alice.put(&nonsense, json!({ "body": "?" })).await.refused(400, "M_INVALID_PARAM");
        let bob = server.register("bob").await;
        bob.put(&later("five"), message).await.refused(403, "M_FORBIDDEN");

        // What can't be sent when its time has come is told.
        let id = alice.put(&later("six"), json!({ "delay": 500, "content": { "body": "gone" } })).await.ok();
        let id = id["delay_id"].as_str().expect("a name").to_owned();
        alice.leave(&room).await;
        let failed = eventually("it was given up", async || {
            let found = found(&alice, &id).await;
            found["error"].is_object().then_some(found)
        })
        .await;
        assert!(failed.get("event_id").is_none(), "{failed}");
    })
    .await;
}
