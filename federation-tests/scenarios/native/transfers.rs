//! Files that somebody offers somebody, on one server and across two domains, with native clients and with those of Matrix.

use federation_tests::{Answer, Client, Network, Server, enc, eventually, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};

const TRANSFERS: &str = "/api/v1/files/transfers";
const REQUESTS: &str = "/api/v1/friends/requests";

/// Alice and Bob get a conversation, by being friends.
async fn befriend(alice: &Client, bob: &Client, address: &str) {
    let asked = alice.post(REQUESTS, json!({ "to": address })).await.ok();
    let id = asked["id"].as_str().expect("it has an id").to_owned();
    eventually("Bob is asked", async || {
        let answer = bob.post(&format!("{REQUESTS}/{id}/accept"), json!({})).await;
        (answer.status == 200).then_some(())
    })
    .await;
    eventually("they are friends", async || {
        let answer = alice.get(&format!("/api/v1/friends/{address}")).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

async fn upload(client: &Client, bytes: &[u8]) -> Value {
    let answer = client.raw(Method::POST, "/api/v1/files?filename=plan.txt", "text/plain", bytes.to_vec()).await;
    made(answer.expect("the server answers"))
}

/// What was made.
fn made(answer: Answer) -> Value {
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body
}

async fn offer(client: &Client, to: &str, file: &Value) -> Value {
    let offer = json!({ "to": to, "mxc_uri": file["mxc_uri"], "message": "as promised" });
    made(client.post(TRANSFERS, offer).await)
}

fn path(transfer: &Value, act: &str) -> String {
    format!("{TRANSFERS}/{}{act}", transfer["id"].as_str().unwrap_or_else(|| panic!("no id in {transfer}")))
}

/// Waits until somebody is offered something, and answers that.
async fn is_offered(client: &Client) -> Value {
    eventually(&format!("{} is offered a file", client.user_id), async || {
        let page = client.get(&format!("{TRANSFERS}?direction=in")).await.ok();
        page["transfers"].as_array()?.first().cloned()
    })
    .await
}

/// Waits until an offer is `state` as the client sees it, with its file where that is `accepted`.
async fn becomes(client: &Client, transfer: &Value, state: &str) -> Value {
    eventually(&format!("{} sees that an offer is {state}", client.user_id), async || {
        let seen = client.get(&path(transfer, "")).await.body;
        let is_whole = state != "accepted" || seen["message_id"].is_string();
        (seen["state"] == state && is_whole).then_some(seen)
    })
    .await
}

/// What a client reads in the message with the file.
async fn received(client: &Client, transfer: &Value) -> (Value, String) {
    let id = transfer["message_id"].as_str().expect("it was sent");
    let message = client.get(&format!("/api/v1/messages/{id}")).await.ok();
    let url = message["content"]["url"].as_str().unwrap_or_else(|| panic!("no file in {message}")).to_owned();
    let content = client.get(&format!("/api/v1/files/{}/content", url.trim_start_matches("mxc://"))).await;
    (message, content.text)
}

/// Alice offers Bob files, and Bob answers in every way.
async fn live(alice: &Client, bob: &Client, to: &str) {
    let file = upload(alice, b"the plan").await;
    let made = offer(alice, to, &file).await;
    assert_eq!((&made["state"], &made["direction"]), (&json!("pending"), &json!("out")), "{made}");
    let got = is_offered(bob).await;
    assert_eq!((&got["id"], &got["name"], &got["size"]), (&made["id"], &json!("plan.txt"), &json!(8)), "{got}");
    assert_eq!((&got["sha256"], &got["message"]), (&file["sha256"], &json!("as promised")), "{got}");
    // Nothing that Bob can see says where the file is.
    let room = got["conversation_id"].as_str().expect("it is somewhere").to_owned();
    let id = got["id"].as_str().expect("it has an id");
    let event = bob.get(&format!("rooms/{}/event/{}", enc(&room), enc(id))).await.ok();
    assert!(!event.to_string().contains("mxc://"), "{event}");
    let notified = bob.get("/api/v1/notifications?kind=file_transfer").await.ok();
    assert_eq!(notified["notifications"][0]["transfer_id"], got["id"], "{notified}");

    bob.post(&path(&got, "/accept"), json!({})).await.ok();
    let taken = becomes(bob, &got, "accepted").await;
    let (message, content) = received(bob, &taken).await;
    assert_eq!((&message["type"], content.as_str()), (&json!("file"), "the plan"), "{message}");
    assert_eq!(message["sender"]["user_id"], alice.user_id, "it is Alice who sends it");
    assert_eq!(becomes(alice, &made, "accepted").await["message_id"], taken["message_id"]);
    assert!(
        bob.get(&format!("{TRANSFERS}?direction=in")).await.ok()["transfers"].as_array().is_some_and(Vec::is_empty)
    );
    let after = bob.get("/api/v1/notifications?kind=file_transfer").await.ok();
    assert!(after["notifications"].as_array().is_some_and(Vec::is_empty), "{after}");
    // What is answered stays so.
    bob.post(&path(&got, "/accept"), json!({})).await.ok();
    bob.post(&path(&got, "/refuse"), json!({})).await.problem(409, "transfer_closed");
    alice.delete(&path(&made, "")).await.problem(409, "transfer_closed");

    let unwanted = offer(alice, to, &file).await;
    bob.post(&path(&is_offered(bob).await, "/refuse"), json!({})).await.ok();
    assert_eq!(becomes(alice, &unwanted, "refused").await["message_id"], Value::Null);

    let regretted = offer(alice, to, &file).await;
    let seen = is_offered(bob).await;
    bob.delete(&path(&seen, "")).await.problem(403, "forbidden");
    alice.post(&path(&regretted, "/accept"), json!({})).await.problem(403, "forbidden");
    alice.delete(&path(&regretted, "")).await.ok();
    becomes(bob, &seen, "withdrawn").await;
    bob.post(&path(&seen, "/accept"), json!({})).await.problem(409, "transfer_closed");

    // Who has a client that knows nothing of all this reads what to do, and does it.
    let third = offer(alice, to, &file).await;
    let seen = is_offered(bob).await;
    let id = seen["id"].as_str().expect("it has an id");
    let shown = bob.get(&format!("rooms/{}/event/{}", enc(&room), enc(id))).await.ok();
    assert!(shown["content"]["body"].as_str().is_some_and(|body| body.contains('\u{2705}')), "{shown}");
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": id, "key": "\u{2705}" } });
    bob.send(&room, "m.reaction", reaction).await.ok();
    let taken = becomes(alice, &third, "accepted").await;
    assert_eq!(received(alice, &taken).await.1, "the plan");
}

#[tokio::test]
async fn a_file_that_is_offered_comes_when_it_is_accepted() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let eve = server.register("eve").await;
        let name = server.name().to_owned();
        let file = upload(&alice, b"too early").await;
        let to = format!("bob@{name}");
        let early = json!({ "to": to, "mxc_uri": file["mxc_uri"] });
        alice.post(TRANSFERS, early).await.problem(409, "not_joined_yet");
        befriend(&alice, &bob, &to).await;
        live(&alice, &bob, &to).await;
        // Nobody offers another's file, or hears of what is offered to others.
        let stolen = json!({ "to": format!("alice@{name}"), "mxc_uri": file["mxc_uri"] });
        bob.post(TRANSFERS, stolen).await.problem(404, "not_found");
        let made = offer(&alice, &to, &file).await;
        eve.get(&path(&made, "")).await.problem(404, "not_found");
        eve.post(&path(&made, "/accept"), json!({})).await.problem(404, "not_found");
        let all = bob.get(&format!("{TRANSFERS}?state=all&limit=2")).await.ok();
        assert_eq!(all["transfers"].as_array().map(Vec::len), Some(2));
        let next = all["next"].as_str().expect("there are more");
        let rest = bob.get(&format!("{TRANSFERS}?state=all&from={next}")).await.ok();
        assert!(rest["transfers"].as_array().is_some_and(|rest| rest.len() >= 3), "{rest}");
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_offered_across_domains_comes_from_the_server_of_who_offers_it() {
    on_each_engine(async |engine| {
        let (_network, [a, b]) = Network::start(&engine, ["a.test", "b.test"]).await;
        let (alice, bob) = (a.register_with_secret("alice").await, b.register_with_secret("bob").await);
        befriend(&alice, &bob, "bob@b.test").await;
        live(&alice, &bob, "bob@b.test").await;
    })
    .await;
}
