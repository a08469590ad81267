//! Offers of files, through the router. Nobody is on duty here who would send what was accepted.

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::testing::{Server, with_server};

const TRANSFERS: &str = "/api/v1/files/transfers";
const REQUESTS: &str = "/api/v1/friends/requests";

/// Alice and Bob, who are friends, and a file of Alice's.
struct Scene<'a> {
    server: &'a Server,
    alice: String,
    bob: String,
    bobs_address: String,
    mxc_uri: String,
}

impl<'a> Scene<'a> {
    async fn new(server: &'a Server) -> Self {
        let (alice, _) = server.register("alice").await;
        let (bob, bobs_id) = (server.register("bob").await.0, "@bob:a.test".to_owned());
        let asked = server.post(REQUESTS, Some(&alice), json!({ "to": bobs_id })).await;
        let id = asked["id"].as_str().expect("it has an id");
        server.post(&format!("{REQUESTS}/{id}/accept"), Some(&bob), json!({})).await;
        let request = Request::post("/api/v1/files?filename=plan.txt").header("content-type", "text/plain");
        let request = request.header("authorization", format!("Bearer {alice}")).body(Body::from("the plan"));
        let response = server.answer(request.expect("the test asks well")).await;
        let body = response.into_body().collect().await.expect("the body is in memory").to_bytes();
        let file: Value = serde_json::from_slice(&body).expect("it is JSON");
        let mxc_uri = file["mxc_uri"].as_str().expect("it has a name").to_owned();
        Self { server, alice, bob, bobs_address: bobs_id, mxc_uri }
    }

    async fn offer(&self, more: Value) -> (u16, Value) {
        let mut offer = json!({ "to": self.bobs_address, "mxc_uri": self.mxc_uri });
        for (key, value) in more.as_object().into_iter().flatten() {
            offer[key] = value.clone();
        }
        self.ask(Method::POST, TRANSFERS, &self.alice, offer).await
    }

    async fn ask(&self, method: Method, path: &str, token: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.server.ask(method, path, Some(token), body).await;
        (status.as_u16(), answer)
    }

    async fn state(&self, transfer: &Value) -> Value {
        self.server.get(&path(transfer, ""), Some(&self.bob)).await["state"].clone()
    }

    /// Says something by the Matrix API.
    async fn say(&self, token: &str, transfer: &Value, kind: &str, content: Value) {
        let room = transfer["conversation_id"].as_str().expect("it is somewhere");
        let path = format!("/_matrix/client/v3/rooms/{room}/send/{kind}/{}", rand::random::<u64>());
        let (status, answer) = self.ask(Method::PUT, &path, token, content).await;
        assert_eq!(status, 200, "{answer}");
    }
}

fn path(transfer: &Value, act: &str) -> String {
    format!("{TRANSFERS}/{}{act}", transfer["id"].as_str().unwrap_or_else(|| panic!("no id in {transfer}")))
}

#[tokio::test]
async fn what_was_accepted_can_be_taken_back_until_it_was_sent() {
    with_server(async |server| {
        let scene = Scene::new(&server).await;
        let (status, offer) = scene.offer(json!({})).await;
        assert_eq!((status, &offer["state"]), (201, &json!("pending")), "{offer}");
        let (status, accepted) = scene.ask(Method::POST, &path(&offer, "/accept"), &scene.bob, Value::Null).await;
        assert_eq!((status, &accepted["state"], &accepted["message_id"]), (200, &json!("accepted"), &Value::Null));
        // As another server of who offers would say it, or a client.
        let relates_to = json!({ "rel_type": "m.reference", "event_id": offer["id"] });
        let withdrawn = json!({ "answer": "withdrawn", "m.relates_to": relates_to });
        scene.say(&scene.bob, &offer, "org.comity.transfer.answer", withdrawn.clone()).await;
        assert_eq!(scene.state(&offer).await, "accepted", "it isn't Bob's to take back");
        scene.say(&scene.alice, &offer, "org.comity.transfer.answer", withdrawn.clone()).await;
        assert_eq!(scene.state(&offer).await, "withdrawn");

        // Once the message with the file is there, it stays.
        let (_, offer) = scene.offer(json!({})).await;
        let sent =
            json!({ "msgtype": "m.file", "body": "x", "url": scene.mxc_uri, "org.comity.transfer": offer["id"] });
        scene.say(&scene.bob, &offer, "m.room.message", sent.clone()).await;
        assert_eq!(scene.state(&offer).await, "pending", "it isn't Bob's to send");
        scene.say(&scene.alice, &offer, "m.room.message", sent).await;
        assert_eq!(scene.state(&offer).await, "accepted");
        let relates_to = json!({ "rel_type": "m.reference", "event_id": offer["id"] });
        let withdrawn = json!({ "answer": "withdrawn", "m.relates_to": relates_to });
        scene.say(&scene.alice, &offer, "org.comity.transfer.answer", withdrawn).await;
        assert_eq!(scene.state(&offer).await, "accepted");
    })
    .await;
}

#[tokio::test]
async fn an_offer_is_answered_by_whom_it_was_made_to_and_goes_when_it_is_recalled() {
    with_server(async |server| {
        let scene = Scene::new(&server).await;
        let (_, offer) = scene.offer(json!({ "message": "as promised" })).await;
        let reaction =
            |key: &str| json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": offer["id"], "key": key } });
        scene.say(&scene.alice, &offer, "m.reaction", reaction("\u{2705}")).await;
        scene.say(&scene.bob, &offer, "m.reaction", reaction("\u{1f44d}")).await;
        assert_eq!(scene.state(&offer).await, "pending");
        scene.say(&scene.bob, &offer, "m.reaction", reaction("\u{274c}")).await;
        assert_eq!(scene.state(&offer).await, "refused");

        let (_, offer) = scene.offer(json!({})).await;
        let id = offer["id"].as_str().expect("it has an id");
        let recalled = scene.ask(Method::POST, &format!("/api/v1/messages/{id}/recall"), &scene.alice, json!({})).await;
        assert!(recalled.0 < 300, "{}", recalled.1);
        let seen = server.get(&path(&offer, ""), Some(&scene.bob)).await;
        assert_eq!((&seen["state"], &seen["name"]), (&json!("withdrawn"), &Value::Null), "{seen}");
        let (status, problem) = scene.ask(Method::POST, &path(&offer, "/accept"), &scene.bob, Value::Null).await;
        assert_eq!((status, &problem["code"]), (409, &json!("transfer_closed")));
    })
    .await;
}

#[tokio::test]
async fn what_makes_no_sense_is_not_offered() {
    with_server(async |server| {
        let scene = Scene::new(&server).await;
        let wrong = [
            (json!({ "mxc_uri": "https://a.test/x" }), 400, "invalid"),
            (json!({ "mxc_uri": "mxc://a.test/nothing" }), 404, "not_found"),
            (json!({ "mxc_uri": "mxc://b.test/theirs" }), 404, "not_found"),
            (json!({ "to": "nobody@a.test" }), 404, "unknown_user"),
            (json!({ "to": "somebody@b.test" }), 409, "not_joined_yet"),
            (json!({ "expires_in_ms": 1 }), 400, "invalid"),
            (json!({ "message": "x".repeat(501) }), 400, "invalid"),
        ];
        for (more, status, code) in wrong {
            let (answered, problem) = scene.offer(more.clone()).await;
            assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{more}: {problem}");
        }
        let named = json!({ "msg_id": "one" });
        let (first, second) = (scene.offer(named.clone()).await.1, scene.offer(named).await.1);
        assert_eq!(first["id"], second["id"]);
        let list = server.get(&format!("{TRANSFERS}?direction=out"), Some(&scene.alice)).await;
        assert_eq!(list["transfers"].as_array().map(Vec::len), Some(1), "{list}");
    })
    .await;
}
