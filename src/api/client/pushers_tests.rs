//! Pushers, asked for as clients do.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::testing::{Server, with_server};

const SET: &str = "/_matrix/client/v3/pushers/set";
const LIST: &str = "/_matrix/client/v3/pushers";

fn wish() -> Value {
    json!({
        "kind": "http", "app_id": "org.example.app", "pushkey": "key", "app_display_name": "App",
        "device_display_name": "Phone", "profile_tag": "xyz", "lang": "en",
        "data": { "url": "https://push.example/_matrix/push/v1/notify", "format": "event_id_only", "brand": "x" },
    })
}

fn but(change: impl FnOnce(&mut Value)) -> Value {
    let mut wish = wish();
    change(&mut wish);
    wish
}

async fn set(server: &Server, token: &str, wish: Value) -> (StatusCode, Value) {
    server.ask(Method::POST, SET, Some(token), wish.to_string()).await
}

async fn list(server: &Server, token: &str) -> Vec<Value> {
    let (status, answer) = server.ask(Method::GET, LIST, Some(token), "").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["pushers"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn a_pusher_is_shown_as_it_was_set_until_it_is_removed() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        assert!(list(&server, &alice).await.is_empty());
        assert_eq!(set(&server, &alice, wish()).await, (StatusCode::OK, json!({})));
        let shown = list(&server, &alice).await;
        let fields = wish();
        for (name, value) in fields.as_object().expect("an object") {
            assert_eq!(&shown[0][name], value, "{name}");
        }
        assert_eq!(shown[0]["org.matrix.msc3881.enabled"], true);
        assert!(shown[0]["org.matrix.msc3881.device_id"].is_string());

        let disabled = but(|wish| wish["org.matrix.msc3881.enabled"] = false.into());
        set(&server, &alice, disabled).await;
        let shown = list(&server, &alice).await;
        assert_eq!((shown.len(), &shown[0]["org.matrix.msc3881.enabled"]), (1, &json!(false)));

        let removed = json!({ "kind": null, "app_id": "org.example.app", "pushkey": "key" });
        assert_eq!(set(&server, &alice, removed).await.0, StatusCode::OK);
        assert!(list(&server, &alice).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_pushkey_is_one_user_s_unless_it_is_appended() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let (bob, _) = server.register("bob").await;
        set(&server, &alice, wish()).await;
        set(&server, &bob, but(|wish| wish["append"] = true.into())).await;
        assert_eq!((list(&server, &alice).await.len(), list(&server, &bob).await.len()), (1, 1));
        set(&server, &bob, wish()).await;
        assert_eq!((list(&server, &alice).await.len(), list(&server, &bob).await.len()), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn what_no_pusher_can_be_is_refused() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let refused = async |wish: Value, errcode: &str| {
            let (status, answer) = set(&server, &alice, wish).await;
            assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some(errcode)), "{answer}");
        };
        refused(but(|wish| wish["lang"] = Value::Null), "M_MISSING_PARAM").await;
        refused(json!({ "app_id": "x", "pushkey": "y" }), "M_MISSING_PARAM").await;
        refused(but(|wish| wish["kind"] = "pigeon".into()), "M_INVALID_PARAM").await;
        refused(but(|wish| wish["data"]["url"] = "https://push.example/elsewhere".into()), "M_INVALID_PARAM").await;
        refused(but(|wish| wish["pushkey"] = 7.into()), "M_BAD_JSON").await;
        refused(but(|wish| wish["pushkey"] = "k".repeat(513).into()), "M_INVALID_PARAM").await;
        let letter = but(|wish| {
            wish["kind"] = "email".into();
            wish["app_id"] = "m.email".into();
            wish["pushkey"] = "alice@mail.example".into();
        });
        refused(letter, "M_UNKNOWN").await;
        for number in 0..100 {
            set(&server, &alice, but(|wish| wish["pushkey"] = number.to_string().into())).await;
        }
        refused(wish(), "M_UNKNOWN").await;
    })
    .await;
}

#[tokio::test]
async fn a_pusher_goes_with_the_session_that_set_it() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let body = json!({
            "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "a password",
        });
        let (_, session) = server.ask(Method::POST, "/_matrix/client/v3/login", None, body.to_string()).await;
        let phone = session["access_token"].as_str().expect("a token").to_owned();
        set(&server, &phone, wish()).await;
        set(&server, &alice, but(|wish| wish["pushkey"] = "other".into())).await;
        // Switched off from another session, it stays that of the first.
        set(&server, &alice, but(|wish| wish["org.matrix.msc3881.enabled"] = false.into())).await;
        assert_eq!(list(&server, &alice).await.len(), 2);
        server.ask(Method::POST, "/_matrix/client/v3/logout", Some(&phone), "{}").await;
        let left = list(&server, &alice).await;
        assert_eq!((left.len(), &left[0]["pushkey"]), (1, &json!("other")));
    })
    .await;
}

#[tokio::test]
async fn a_link_that_is_not_ours_ends_nothing() {
    with_server(async |server| {
        for method in [Method::GET, Method::POST] {
            let path = "/_synapse/client/unsubscribe?pusher=x&token=bm90aGluZw";
            let request = http::Request::builder().method(method).uri(path).body(axum::body::Body::empty());
            let answer = server.answer(request.expect("the test asks well")).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND);
            assert!(answer.headers().contains_key(http::header::CONTENT_SECURITY_POLICY));
        }
    })
    .await;
}
