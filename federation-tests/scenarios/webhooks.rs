//! Addresses that are told what happens here.

use federation_tests::{Client, Hook, Server, eventually, on_each_engine};
use serde_json::{Value, json};

/// The ids of the messages that a hook took, each as often as it came, while it answered with success.
fn messages(hook: &Hook) -> Vec<Value> {
    hook.told().iter().flat_map(|told| told.json()["messages"].as_array().cloned().unwrap_or_default()).collect()
}

fn has(hook: &Hook, id: &str) -> bool {
    messages(hook).iter().any(|message| message["id"] == id)
}

async fn webhook(admin: &Client, id: &Value) -> Value {
    let all = admin.get("/api/v1/admin/webhooks").await.ok();
    let found = all["webhooks"].as_array().expect("a list").iter().find(|webhook| webhook["id"] == *id);
    found.cloned().expect("it is there")
}

async fn make(admin: &Client, wish: Value) -> Value {
    let made = admin.post("/api/v1/admin/webhooks", wish).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.body
}

#[tokio::test]
async fn an_address_is_told_everything_whatever_breaks() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let admin = server.admin().await;
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let before = alice.say(&room, "before it was there").await;
        let hook = Hook::start().await;
        let wish = json!({ "url": hook.url(), "keys": ["chat.message.#"] });
        let made = make(&admin, wish).await;
        let (id, secret) = (made["id"].clone(), made["secret"].as_str().expect("it is told once").to_owned());

        let first = alice.say(&room, "hello").await;
        eventually("it is told", async || has(&hook, &first).then_some(())).await;
        let told = hook.told().pop().expect("a request");
        assert!(told.is_signed_with(&secret) && !told.is_signed_with("another"));
        let message = messages(&hook).pop().expect("a message");
        assert_eq!((&message["type"], &message["data"]["content"]["body"]), (&json!("chat.message"), &json!("hello")));
        assert!(!has(&hook, &before), "it is told what happens from now on");

        // It doesn't take what it is told, the server is killed meanwhile, and then it takes it.
        hook.answer(500);
        let second = alice.say(&room, "while it was ill").await;
        eventually("it fails", async || (webhook(&admin, &id).await["failing_since"].is_i64()).then_some(())).await;
        let ill = webhook(&admin, &id).await;
        assert!(
            ill["lag"].as_i64() > Some(0) && ill["last_error"].as_str().is_some_and(|error| error.contains("500")),
            "{ill}"
        );
        server.restart().await;
        let third = alice.say(&room, "after a crash").await;
        hook.answer(204);
        let asked = hook.told().len();
        eventually("it is told the rest", async || has(&hook, &third).then_some(())).await;
        assert!(hook.told()[asked..].iter().any(|told| told.json().to_string().contains(&second)));
        eventually("it is well again", async || webhook(&admin, &id).await["failing_since"].is_null().then_some(()))
            .await;

        // It wants nothing any more, until an admin has it told all again.
        hook.answer(410);
        alice.say(&room, "one more").await;
        eventually("it is stopped", async || webhook(&admin, &id).await["stopped_at"].is_i64().then_some(())).await;
        hook.answer(200);
        let replay = format!("/api/v1/admin/webhooks/{}/replay", id.as_str().expect("a text"));
        assert_eq!(admin.post(&replay, json!({ "from": 0 })).await.status, 204);
        eventually("it is told what came before it was there", async || has(&hook, &before).then_some(())).await;

        // Nobody but who runs the server may look, and no secret is in the log, or in the list.
        alice.get("/api/v1/admin/webhooks").await.problem(403, "forbidden");
        assert!(!server.log().contains(&secret) && !webhook(&admin, &id).await.to_string().contains(&secret));
        for (wish, field) in [
            (json!({ "url": "ftp://hook.test/", "keys": ["#"] }), "url"),
            (json!({ "url": "https://us:them@hook.test/", "keys": ["#"] }), "url"),
            (json!({ "url": hook.url(), "keys": [] }), "keys"),
            (json!({ "url": hook.url(), "keys": ["chat.massage.#"] }), "keys"),
        ] {
            let problem = admin.post("/api/v1/admin/webhooks", wish).await.problem(400, "invalid");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(field)), "{problem}");
        }
        admin.post(&replay, json!({ "from": 1_000_000_000 })).await.problem(400, "invalid");
        let removed = admin.delete(&format!("/api/v1/admin/webhooks/{}", id.as_str().expect("a text"))).await;
        assert_eq!(removed.status, 204);
        admin.post(&replay, json!({ "from": 0 })).await.problem(404, "not_found");
    })
    .await;
}

#[tokio::test]
async fn what_an_address_refuses_is_kept_and_the_next_is_told() {
    let server = Server::start(&federation_tests::Engine::Sqlite).await;
    let admin = server.admin().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let hook = Hook::start().await;
    hook.answer(422);
    let made = make(&admin, json!({ "url": hook.url(), "keys": ["chat.message.#"] })).await;
    let refused = alice.say(&room, "something odd").await;
    let path = format!("/api/v1/admin/webhooks/{}/dead-letters", made["id"].as_str().expect("a text"));
    let letters = eventually("it is given up", async || {
        let letters = admin.get(&path).await.ok();
        (!letters["dead_letters"].as_array().expect("a list").is_empty()).then_some(letters)
    })
    .await;
    let letter = &letters["dead_letters"][0];
    assert_eq!(
        (&letter["envelope"]["id"], &letter["reason"]),
        (&json!(refused), &json!("status 422 Unprocessable Entity"))
    );
    hook.answer(200);
    let already = hook.told().len();
    let next = alice.say(&room, "something else").await;
    eventually("the next is told", async || {
        let told = hook.told();
        told[already.min(told.len())..].iter().any(|told| told.json().to_string().contains(&next)).then_some(())
    })
    .await;
    let at = letter["at"].as_i64().expect("a moment");
    assert_eq!(admin.delete(&format!("{path}?upto={at}")).await.status, 204);
    assert_eq!(admin.get(&path).await.ok()["dead_letters"], json!([]));
}
