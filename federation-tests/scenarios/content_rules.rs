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
        assert_eq!(tried, json!({ "text": "****" }));
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
