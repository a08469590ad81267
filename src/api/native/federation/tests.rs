//! What other servers get on the native API, and what those get who aren't.

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use model::{Millis, SigningKey, peer::TrustLevel};
use peers::testing::{authorization, bearer, body_signature, claims, key_of, token_head};
use ruma::{ServerName, server_name};
use serde_json::{Value, json};

use crate::testing::{Server, with_federating_server};

const USER: &str = "/api/v1/federation/users/alice@a.test";
const DELIVER: &str = "/api/v1/federation/messages/deliver";

fn us() -> &'static ServerName {
    server_name!("a.test")
}

fn them() -> SigningKey {
    key_of(server_name!("b.test"))
}

fn now() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later than 1970");
    since.as_secs().try_into().expect("and not much later")
}

/// A request of b.test with a token whose claims are changed by `change`.
async fn ask(
    server: &Server,
    method: Method,
    path: &str,
    body: Option<Value>,
    change: impl FnOnce(&mut Value),
) -> (StatusCode, Value) {
    let key = them();
    let mut claims = claims(&key, us(), &rand::random::<u64>().to_string(), now());
    change(&mut claims);
    let body = body.map_or_else(String::new, |body| body.to_string());
    let mut request = Request::builder().method(method).uri(path);
    request = request.header(header::AUTHORIZATION, bearer(&key, &token_head(&key), &claims));
    if !body.is_empty() {
        request = request.header("x-comity-signature", body_signature(&key, body.as_bytes()));
    }
    let response = server.answer(request.body(Body::from(body)).expect("the test asks well")).await;
    let status = response.status();
    let body = response.into_body().collect().await.expect("it is in memory").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn get(server: &Server, path: &str) -> (StatusCode, Value) {
    ask(server, Method::GET, path, None, |_| ()).await
}

async fn post(server: &Server, path: &str, body: Value) -> (StatusCode, Value) {
    ask(server, Method::POST, path, Some(body), |_| ()).await
}

fn problem((status, body): (StatusCode, Value)) -> (u16, String) {
    assert_eq!(body["status"], json!(status.as_u16()), "{body}");
    (status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_server_is_believed_by_its_token_or_by_its_signature() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        server.register("alice").await;
        let expected = json!({ "user_id": "alice@a.test", "matrix_id": "@alice:a.test", "display_name": "alice" });
        assert_eq!(get(&server, USER).await, (StatusCode::OK, expected.clone()));
        let other = "/api/v1/federation/users/@alice:a.test";
        assert_eq!(get(&server, other).await, (StatusCode::OK, expected.clone()));
        let signed = authorization(&them(), us(), &Method::GET, USER, None);
        assert_eq!(server.ask_as(Method::GET, USER, signed, "").await, (StatusCode::OK, expected));

        let refused = server.ask(Method::GET, USER, None, "").await;
        assert_eq!(problem(refused), (401, "missing_token".to_owned()));
        let wrong = authorization(&them(), server_name!("c.test"), &Method::GET, USER, None);
        assert_eq!(problem(server.ask_as(Method::GET, USER, wrong, "").await), (401, "wrong_destination".to_owned()));
        let expired = ask(&server, Method::GET, USER, None, |claims| claims["exp"] = json!(now() - 60)).await;
        assert_eq!(problem(expired), (401, "token_expired".to_owned()));
        let narrow = ask(&server, Method::GET, USER, None, |claims| claims["scope"] = json!(["presence"])).await;
        assert_eq!(problem(narrow), (403, "insufficient_scope".to_owned()));
        let (alice, _) = server.register("alice2").await;
        assert_eq!(problem(server.ask(Method::GET, USER, Some(&alice), "").await), (401, "malformed_token".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn what_a_server_learns_is_bounded_by_its_trust() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        let (alice, _) = server.register("alice").await;
        server.trust(server_name!("b.test"), TrustLevel::Limited).await;
        let search = async |q: &str| get(&server, &format!("/api/v1/federation/users?q={q}")).await;
        let (_, found) = search("alice").await;
        assert_eq!(found["users"][0]["user_id"], "alice@a.test");
        assert_eq!(search("alic").await.1, json!({ "users": [], "limited": false }));
        assert_eq!(problem(search("al").await), (400, "bad_search_term".to_owned()));
        assert_eq!(problem(get(&server, "/api/v1/federation/users").await), (400, "invalid".to_owned()));
        let nobody = get(&server, "/api/v1/federation/users/bob@a.test").await;
        assert_eq!(problem(nobody), (404, "unknown_user".to_owned()));
        assert_eq!(problem(get(&server, "/api/v1/federation/users/bob").await), (400, "invalid".to_owned()));

        let news = json!({ "presence": [{ "user_id": "bob@b.test", "presence": "online", "sequence": 1 }] });
        let (status, refused) = post(&server, "/api/v1/federation/presence/sync", news).await;
        assert_eq!((status.as_u16(), &refused["code"]), (403, &json!("not_trusted")));
        assert_eq!(refused["rule"], "limited.presence.no");
        server.trust(server_name!("b.test"), TrustLevel::Full).await;
        assert_eq!(search("alic").await.1["users"][0]["user_id"], "alice@a.test");

        let path = "/api/v1/users/me/discoverability";
        assert_eq!(server.get(path, Some(&alice)).await, json!({ "by_other_servers": true }));
        let hidden = json!({ "by_other_servers": false }).to_string();
        assert_eq!(server.ask(Method::PUT, path, Some(&alice), hidden).await.0, StatusCode::NO_CONTENT);
        assert_eq!(search("alice").await.1["users"], json!([]));
        assert_eq!(problem(get(&server, USER).await), (404, "unknown_user".to_owned()));
        let strange = server.ask(Method::PUT, path, Some(&alice), r#"{"by_other_servers":1,"x":2}"#).await;
        assert_eq!(problem(strange), (400, "invalid".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_server_sees_how_it_is_seen() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        server.trust(server_name!("b.test"), TrustLevel::Limited).await;
        let (status, seen) = get(&server, "/api/v1/federation/peer-status").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!((&seen["server_name"], &seen["seen_by"]), (&json!("b.test"), &json!("a.test")));
        assert_eq!((&seen["level"], &seen["standing"]), (&json!("limited"), &json!("active")));
        assert_eq!((&seen["capabilities"]["presence"], &seen["is_named"]), (&json!("no"), &json!(true)));
        assert!(seen["since"].as_i64().is_some_and(|since| since > 0) && seen["expires_at"].is_null(), "{seen}");
        // Who may do nothing may still know that.
        server.trust(server_name!("b.test"), TrustLevel::Blocked).await;
        assert_eq!(get(&server, "/api/v1/federation/peer-status").await.1["level"], "blocked");
    })
    .await;
}

#[tokio::test]
async fn a_message_in_the_simple_form_becomes_one_event_in_a_room_of_two() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        let (alice, _) = server.register("alice").await;
        let message = |id: &str, body: &str| {
            json!({ "message_id": id, "from": "bob@b.test", "to": "alice@a.test", "body": body, "sent_at": 5 })
        };
        let deliver = async |body| post(&server, DELIVER, body).await;
        let (status, first) = deliver(message("1", "hello")).await;
        assert_eq!((status, &first["messages"][0]["status"]), (StatusCode::OK, &json!("accepted")), "{first}");
        assert_eq!(deliver(message("1", "hello again")).await.1, first);

        let sync = server.get("/_matrix/client/v3/sync", Some(&alice)).await;
        let invited = sync["rooms"]["invite"].as_object().expect("she is invited");
        assert_eq!(invited.len(), 1, "{invited:?}");
        let (room, shown) = invited.iter().next().expect("there is one");
        let shown = shown["invite_state"]["events"].as_array().expect("it is shown");
        let guest = "@_bridge_bob=40b.test:a.test";
        let of_guest = shown.iter().find(|event| event["state_key"] == guest).expect("who invites is shown");
        assert_eq!(of_guest["content"]["displayname"], "bob@b.test (via bridge)");
        server.post(&format!("/_matrix/client/v3/join/{room}"), Some(&alice), json!({})).await;

        let many = json!({ "messages": [message("2", "second"), { "message_id": "3" }, message("4", "third")] });
        let (_, told) = deliver(many).await;
        let statuses: Vec<_> = told["messages"].as_array().into_iter().flatten().map(|one| &one["status"]).collect();
        assert_eq!(statuses, ["accepted", "refused", "accepted"]);
        assert_eq!((&told["messages"][1]["message_id"], &told["messages"][1]["code"]), (&json!("3"), &json!("invalid")));
        let page = format!("/_matrix/client/v3/rooms/{room}/messages?dir=f&limit=50");
        let page = server.get(&page, Some(&alice)).await;
        let messages = page["chunk"].as_array().into_iter().flatten().filter(|event| event["type"] == "m.room.message");
        let bodies: Vec<_> = messages.map(|event| (&event["sender"], &event["content"]["body"])).collect();
        let by_guest = |body| (json!(guest), json!(body));
        let expected = [by_guest("hello"), by_guest("second"), by_guest("third")];
        assert_eq!(bodies, expected.iter().map(|(sender, body)| (sender, body)).collect::<Vec<_>>());

        for (change, code) in [
            (json!({ "from": "carol@c.test" }), "foreign_user"),
            (json!({ "from": "alice\u{202e}@b.test" }), "invalid"),
            (json!({ "to": "nobody@a.test" }), "unknown_user"),
            (json!({ "to": "alice@c.test" }), "unknown_user"),
            (json!({ "to": guest }), "unknown_user"),
            (json!({ "to": "alice" }), "invalid"),
            (json!({ "body": " " }), "invalid"),
            (json!({ "body": "x".repeat(40_000) }), "invalid"),
            (json!({ "message_id": "" }), "invalid"),
            (json!({ "message_id": "x".repeat(256) }), "invalid"),
        ] {
            let mut message = message(&format!("wrong {code}"), "hello");
            for (field, value) in change.as_object().expect("it is one") {
                message[field] = value.clone();
            }
            let (_, told) = deliver(message).await;
            let told = &told["messages"][0];
            assert_eq!((&told["status"], &told["code"]), (&json!("refused"), &json!(code)), "{change}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_is_taken_as_far_as_its_server_is_trusted() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        server.register("alice").await;
        let (carol, _) = server.register("carol").await;
        let b = server_name!("b.test");
        let deliver = async |id: &str, to: &str| {
            let body = json!({ "message_id": id, "from": "bob@b.test", "to": to, "body": "hello" });
            let (_, told) = post(&server, DELIVER, body).await;
            let text = |field: &str| told["messages"][0][field].as_str().unwrap_or_default().to_owned();
            (text("status"), text("code"))
        };
        let refused = ("refused".to_owned(), "not_trusted".to_owned());
        server.trust(b, TrustLevel::Restricted).await;
        assert_eq!(deliver("1", "alice@a.test").await, refused);
        server.trust(b, TrustLevel::Limited).await;
        assert_eq!(deliver("2", "alice@a.test").await.0, "accepted");
        server.trust(b, TrustLevel::Restricted).await;
        assert_eq!(deliver("3", "alice@a.test").await.0, "accepted", "they have talked before");
        assert_eq!(deliver("4", "carol@a.test").await, refused);
        let direct = json!({ "@bob:b.test": [] }).to_string();
        let path = "/_matrix/client/v3/user/@carol:a.test/account_data/m.direct";
        assert_eq!(server.ask(Method::PUT, path, Some(&carol), direct).await.0, StatusCode::OK);
        assert_eq!(deliver("4", "carol@a.test").await.0, "accepted", "she counts him among her contacts");
        server.trust(b, TrustLevel::Blocked).await;
        assert_eq!(deliver("5", "alice@a.test").await, refused);
        let transaction = json!({ "txn_id": "1", "pdus": [] });
        assert_eq!(problem(post(&server, DELIVER, transaction).await), (403, "not_trusted".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn presence_counts_in_the_order_of_its_numbers() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        let (alice, _) = server.register("alice").await;
        server.trust(server_name!("b.test"), TrustLevel::Full).await;
        let message = json!({ "message_id": "1", "from": "bob@b.test", "to": "alice@a.test", "body": "hello" });
        post(&server, DELIVER, message).await;
        let sync = server.get("/_matrix/client/v3/sync", Some(&alice)).await;
        let room = sync["rooms"]["invite"].as_object().and_then(|rooms| rooms.keys().next()).expect("she is invited");
        server.post(&format!("/_matrix/client/v3/join/{room}"), Some(&alice), json!({})).await;

        let tell = async |presence: Value| post(&server, "/api/v1/federation/presence/sync", presence).await.1;
        let of_bob = |presence: &str, sequence: i64| {
            json!({ "presence": [{ "user_id": "bob@b.test", "presence": presence, "sequence": sequence }] })
        };
        let outcome = |taken: u32, stale: u32| json!({ "taken": taken, "stale": stale, "unconcerned": 0, "refused": [] });
        assert_eq!(tell(of_bob("online", 7)).await, outcome(1, 0));
        assert_eq!(tell(of_bob("offline", 7)).await, outcome(0, 1));
        assert_eq!(tell(of_bob("offline", 3)).await, outcome(0, 1));
        let seen = async || {
            let path = "/_matrix/client/v3/presence/@_bridge_bob=40b.test:a.test/status";
            server.get(path, Some(&alice)).await["presence"].clone()
        };
        assert_eq!(seen().await, "online");
        assert_eq!(tell(of_bob("unavailable", 8)).await, outcome(1, 0));
        assert_eq!(seen().await, "unavailable");

        let others = json!({ "presence": [
            { "user_id": "carol@c.test", "presence": "online", "sequence": 1 },
            { "user_id": "dave@b.test", "presence": "online", "sequence": 1 },
            { "user_id": "bob@b.test", "presence": "online", "sequence": -1 },
        ] });
        let refused = json!([
            { "user_id": "carol@c.test", "code": "foreign_user" },
            { "user_id": "bob@b.test", "code": "invalid" },
        ]);
        assert_eq!(tell(others).await, json!({ "taken": 0, "stale": 0, "unconcerned": 1, "refused": refused }));
        let many: Vec<Value> = (0..1_001).map(|_| of_bob("online", 9)["presence"][0].clone()).collect();
        assert_eq!(tell(json!({ "presence": many })).await["code"], "too_many");
    })
    .await;
}

#[tokio::test]
async fn who_has_left_is_written_to_in_another_room() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        let (alice, _) = server.register("alice").await;
        let invitation = async || {
            let sync = server.get("/_matrix/client/v3/sync", Some(&alice)).await;
            let invited = sync["rooms"]["invite"].as_object().cloned().unwrap_or_default();
            assert!(invited.len() <= 1, "{invited:?}");
            invited.keys().next().cloned()
        };
        let deliver = async |id: &str| {
            let body = json!({ "message_id": id, "from": "bob@b.test", "to": "@alice:a.test", "body": "hello" });
            let (_, told) = post(&server, DELIVER, body).await;
            assert_eq!(told["messages"][0]["status"], "accepted", "{told}");
        };
        deliver("1").await;
        let first = invitation().await.expect("she is invited");
        server.post(&format!("/_matrix/client/v3/rooms/{first}/leave"), Some(&alice), json!({})).await;
        // What was delivered already brings nobody back.
        deliver("1").await;
        assert_eq!(invitation().await, None);
        deliver("2").await;
        assert_ne!(invitation().await.expect("she is invited again"), first);
    })
    .await;
}

#[tokio::test]
async fn a_body_is_one_thing_and_no_more_than_fits() {
    with_federating_server(&[server_name!("b.test")], async |server| {
        let deliver = async |body| problem(post(&server, DELIVER, body).await);
        assert_eq!(deliver(json!({})).await, (400, "unclear_form".to_owned()));
        let both = json!({ "txn_id": "1", "pdus": [], "message_id": "1" });
        assert_eq!(deliver(both).await, (400, "unclear_form".to_owned()));
        assert_eq!(deliver(json!({ "message_id": "1" })).await, (400, "invalid".to_owned()));
        assert_eq!(deliver(json!({ "pdus": [] })).await, (400, "invalid".to_owned()));
        let many: Vec<Value> = (0..101).map(|_| json!({})).collect();
        assert_eq!(deliver(json!({ "messages": many })).await, (413, "too_many".to_owned()));
        assert_eq!(deliver(json!({ "txn_id": "1", "pdus": many })).await, (400, "too_many".to_owned()));
        let foreign = json!({ "txn_id": "1", "origin": "c.test", "pdus": [] });
        assert_eq!(deliver(foreign).await, (403, "wrong_origin".to_owned()));
        let (status, taken) =
            post(&server, DELIVER, json!({ "transaction_id": "1", "origin": "b.test", "pdus": [] })).await;
        assert_eq!((status, taken), (StatusCode::OK, json!({ "pdus": {} })));
    })
    .await;
}
