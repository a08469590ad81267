//! Words that people don't get past with.

use federation_tests::{Client, Server, enc, eventually, on_each_engine};
use http::Method;
use serde_json::{Value, json};

async fn put_set(admin: &Client, name: &str, set: Value) -> Value {
    let path = format!("/api/v1/admin/word-sets/{name}");
    admin.attempt(Method::PUT, &path, Some(&set)).await.expect("the server answers").ok()
}

async fn latest(client: &Client, room: &str) -> Value {
    client.history(room).await.last().expect("something was said")["content"].clone()
}

#[tokio::test]
async fn what_admins_don_t_want_said_is_refused_or_said_otherwise() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let (admin, alice) = (server.admin().await, server.register("alice").await);
        let room = alice.create_public_room().await;
        let set = put_set(&admin, "secrets", json!({ "action": "reject", "words": ["project x", "机密"] })).await;
        assert_eq!((&set["version"], &set["words"][1]), (&1.into(), &"机密".into()));
        put_set(&admin, "rude", json!({ "action": "replace", "words": ["damn"] })).await;

        for text in ["what of Project X?", "这是机密文件", "ｐｒｏｊｅｃｔ　ｘ"] {
            let content = json!({ "msgtype": "m.text", "body": text });
            alice.send(&room, "m.room.message", content).await.refused(403, "M_FORBIDDEN");
        }
        alice.set_state(&room, "m.room.topic", "", json!({ "topic": "project x" })).await.refused(403, "M_FORBIDDEN");
        alice.say(&room, "projects x and goddamn things").await;
        assert_eq!(latest(&alice, &room).await["body"], "projects x and goddamn things");
        let content = json!({
            "msgtype": "m.text", "body": "Damn!", "format": "org.matrix.custom.html", "formatted_body": "<b>Da</b>mn!",
        });
        alice.send(&room, "m.room.message", content).await.ok();
        assert_eq!(latest(&alice, &room).await, json!({ "msgtype": "m.text", "body": "****!" }));
        // What is encrypted is not looked into.
        let sealed = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "damn", "body": "project x" });
        alice.send(&room, "m.room.encrypted", sealed.clone()).await.ok();
        assert_eq!(latest(&alice, &room).await, sealed);

        let tried = admin.post("/api/v1/admin/word-sets/try", json!({ "text": "damn" })).await.ok();
        assert_eq!(tried, json!({ "text": "****", "held_by": [], "tagged_by": [] }));
        server.restart().await;
        let content = json!({ "msgtype": "m.text", "body": "project x" });
        alice.send(&room, "m.room.message", content).await.refused(403, "M_FORBIDDEN");
        assert_eq!(admin.delete("/api/v1/admin/word-sets/secrets").await.status, 204);
        alice.say(&room, "project x").await;
        for (name, set) in [
            ("UP", json!({ "action": "reject", "words": ["a"] })),
            ("empty", json!({ "action": "reject", "words": [] })),
            ("unseen", json!({ "action": "reject", "words": ["\u{200b}"] })),
        ] {
            let path = format!("/api/v1/admin/word-sets/{}", enc(name));
            let answer = admin.attempt(Method::PUT, &path, Some(&set)).await.expect("the server answers");
            answer.problem(400, "invalid");
        }
        alice.get("/api/v1/admin/word-sets").await.problem(403, "forbidden");
    })
    .await;
}

#[tokio::test]
async fn what_is_held_is_said_when_a_moderator_lets_it_through() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let (admin, alice, bob) = (server.admin().await, server.register("alice").await, server.register("bob").await);
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        put_set(&admin, "trade", json!({ "action": "hold", "words": ["sell"] })).await;
        put_set(&admin, "rude", json!({ "action": "replace", "words": ["damn"] })).await;
        let content = |text: &str| json!({ "msgtype": "m.text", "body": text });
        let path = |name: &str| format!("rooms/{}/send/m.room.message/{name}", enc(&room));
        let tell = async |name: &str, text: &str| bob.put(&path(name), content(text)).await;
        tell("one", "I sell a damn boat").await.refused(403, "M_FORBIDDEN");
        tell("one", "I sell a damn boat").await.refused(403, "M_FORBIDDEN");
        tell("two", "I sell a car").await.refused(403, "M_FORBIDDEN");
        let message = json!({
            "conversation_id": room, "msg_id": "three", "type": "text", "content": { "text": "sell!" },
        });
        bob.post("/api/v1/messages", message).await.problem(403, "held_for_moderator");
        bob.set_state(&room, "m.room.topic", "", json!({ "topic": "sell" })).await.refused(403, "M_FORBIDDEN");
        bob.say(&room, "hello").await;

        // Its sender sees it, and may take it back.
        let mine = bob.get("/api/v1/messages/scheduled").await.ok();
        let mine = mine["messages"].as_array().expect("a list").clone();
        assert_eq!(mine.len(), 3, "{mine:?}");
        assert_eq!((&mine[0]["state"], mine[0].get("failure")), (&json!("held"), None), "{mine:?}");
        let third = mine.iter().find(|message| message["msg_id"] == "three").expect("it waits");
        let take_back = format!("/api/v1/messages/scheduled/{}", third["scheduled_id"].as_str().expect("an id"));
        assert_eq!(bob.delete(&take_back).await.status, 204);

        alice.get("/api/v1/admin/held").await.problem(403, "forbidden");
        server.restart().await;
        let first = admin.get("/api/v1/admin/held?limit=1").await.ok();
        let (boat, next) = (&first["messages"][0], first["next"].as_str().expect("there is more"));
        assert_eq!((&boat["user_id"], &boat["held_for"]), (&json!(bob.user_id), &json!(["trade"])), "{boat}");
        assert_eq!(boat["content"]["text"], "I sell a damn boat", "{boat}");
        let rest = admin.get(&format!("/api/v1/admin/held?cursor={next}")).await.ok();
        let rest = rest["messages"].as_array().expect("a list").clone();
        assert_eq!(rest.len(), 1, "{rest:?}");
        let decide = async |held: &Value, what: &str| {
            let path = format!("/api/v1/admin/held/{}/{what}", held["held_id"].as_str().expect("an id"));
            admin.post(&path, json!({ "reason": "cars are dealt with elsewhere" })).await
        };
        decide(boat, "let_through").await.ok();
        decide(boat, "turn_down").await.problem(404, "not_found");
        decide(&rest[0], "turn_down").await.ok();
        eventually("what was let through is said, as it may be", async || {
            (latest(&alice, &room).await["body"] == "I sell a **** boat").then_some(())
        })
        .await;
        let again = tell("one", "I sell a damn boat").await.ok();
        assert_eq!(again["event_id"], alice.history(&room).await.last().expect("it was said")["event_id"]);
        let mine = bob.get("/api/v1/messages/scheduled").await.ok();
        let failure = mine["messages"][0]["failure"].as_str().expect("why");
        assert!(failure.ends_with("cars are dealt with elsewhere"), "{mine}");
        let audit = admin.get("/api/v1/admin/audit?limit=2").await.ok().to_string();
        assert!(audit.contains("message.turned_down") && !audit.contains("boat"), "{audit}");
    })
    .await;
}

#[tokio::test]
async fn what_is_tagged_is_said_and_comes_before_moderators() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let (admin, alice) = (server.admin().await, server.register("alice").await);
        let room = alice.create_public_room().await;
        put_set(&admin, "trade", json!({ "action": "tag", "words": ["sell"] })).await;
        let said = alice.say(&room, "I sell a boat").await;
        alice.say(&room, "hello").await;
        let reports = admin.get("/api/v1/admin/reports").await.ok();
        let reports = reports["reports"].as_array().expect("a list");
        assert_eq!(reports.len(), 1, "{reports:?}");
        let report = &reports[0];
        assert_eq!((&report["message_id"], &report["user_id"]), (&json!(said), &json!(alice.user_id)), "{report}");
        assert_eq!((&report["reason"], &report["reporter"]), (&json!("it has words of trade"), &json!("a.test")));
    })
    .await;
}

#[tokio::test]
async fn another_node_looks_for_them_within_moments() {
    let Some(engine) = federation_tests::Engine::postgres() else { return };
    let one = Server::start(&engine).await;
    let other = one.another_node().await;
    let admin = one.admin().await;
    let alice = other.register("alice").await;
    let room = alice.create_public_room().await;
    put_set(&admin, "rude", json!({ "action": "reject", "words": ["damn"] })).await;
    eventually("the other node refuses it", async || {
        let content = json!({ "msgtype": "m.text", "body": "damn" });
        (alice.send(&room, "m.room.message", content).await.status == 403).then_some(())
    })
    .await;
}
