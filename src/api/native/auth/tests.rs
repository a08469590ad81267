//! Logging in, as a client of the native API sees it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::testing::{Server, with_server};

/// Asks, and answers the status and the code of the problem, if it is one.
async fn told(server: &Server, method: Method, path: &str, token: Option<&str>, body: Value) -> (u16, String) {
    let (status, answer) = server.ask(method, path, token, body.to_string()).await;
    (status.as_u16(), answer["code"].as_str().unwrap_or_default().to_owned())
}

async fn register(server: &Server, name: &str) -> Value {
    let body = json!({ "name": name, "password": "a password", "display_name": "Alice A.", "device_name": "phone" });
    let (status, session) = server.ask(Method::POST, "/api/v1/auth/register", None, body.to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{session}");
    session
}

fn text<'a>(session: &'a Value, field: &str) -> &'a str {
    session[field].as_str().unwrap_or_else(|| panic!("no {field} in {session}"))
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("it has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("it is base64")).expect("it is JSON")
}

#[tokio::test]
async fn a_session_of_either_face_opens_both() {
    with_server(async |server| {
        let session = register(&server, "alice").await;
        assert_eq!((text(&session, "user_id"), text(&session, "address")), ("@alice:a.test", "alice@a.test"));
        assert_eq!((text(&session, "token_type"), &session["expires_in_ms"]), ("Bearer", &json!(900_000)));
        let token = text(&session, "access_token");
        let who = server.get("/_matrix/client/v3/account/whoami", Some(token)).await;
        assert_eq!((&who["user_id"], &who["device_id"]), (&json!("@alice:a.test"), &session["device_id"]));
        server.get("/_matrix/client/v3/sync?timeout=0", Some(token)).await;
        let name = server.get("/_matrix/client/v3/profile/@alice:a.test/displayname", None).await;
        assert_eq!(name["displayname"], "Alice A.");

        let claims = claims(token);
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("a.test"), &json!("alice@a.test")));
        assert_eq!(claims["sid"], session["device_id"]);
        let keys = server.get("/api/v1/auth/jwks.json", None).await;
        let head: Value = serde_json::from_slice(
            &URL_SAFE_NO_PAD.decode(token.split('.').next().expect("there is a head")).expect("it is base64"),
        )
        .expect("it is JSON");
        assert_eq!((&head["kid"], &head["alg"]), (&keys["keys"][0]["kid"], &json!("EdDSA")));

        let (matrix, _) = server.register("bob").await;
        let sessions = server.get("/api/v1/auth/sessions", Some(&matrix)).await;
        assert_eq!(sessions["sessions"][0]["is_current"], true);
    })
    .await;
}

#[tokio::test]
async fn a_user_is_let_in_by_any_spelling_and_nobody_else_is() {
    with_server(async |server| {
        register(&server, "alice").await;
        let login = async |user: &str, password: &str| {
            let body = json!({ "user": user, "password": password });
            told(&server, Method::POST, "/api/v1/auth/login", None, body).await
        };
        for user in ["alice", "Alice", "alice@a.test", "@alice:a.test", "alice@A.Test"] {
            assert_eq!(login(user, "a password").await, (200, String::new()), "{user}");
        }
        for (user, password) in
            [("alice", "a guess"), ("nobody", "a password"), ("alice@b.test", "a password"), ("", "")]
        {
            assert_eq!(login(user, password).await, (401, "wrong_credentials".into()), "{user}");
        }
        let unknown = json!({ "user": "alice", "password": "a password", "extra": 1 });
        assert_eq!(told(&server, Method::POST, "/api/v1/auth/login", None, unknown).await, (400, "invalid".into()));
        let taken = json!({ "name": "alice", "password": "a password" });
        assert_eq!(told(&server, Method::POST, "/api/v1/auth/register", None, taken).await, (409, "name_taken".into()));
        for (name, password, code) in [("Alice", "a password", "invalid_name"), ("carol", "", "weak_password")] {
            let body = json!({ "name": name, "password": password });
            assert_eq!(told(&server, Method::POST, "/api/v1/auth/register", None, body).await, (400, code.into()));
        }
    })
    .await;
}

#[tokio::test]
async fn tokens_are_renewed_and_one_that_comes_back_ends_the_session() {
    with_server(async |server| {
        let first = register(&server, "alice").await;
        let path = "/api/v1/auth/refresh";
        let with = |session: &Value| json!({ "refresh_token": session["refresh_token"] });
        let second = server.post(path, None, with(&first)).await;
        assert_ne!(first["access_token"], second["access_token"]);
        assert_eq!(first["device_id"], second["device_id"]);
        assert_eq!(claims(text(&second, "access_token"))["sid"], second["device_id"]);
        server.get("/api/v1/auth/sessions", Some(text(&second, "access_token"))).await;
        assert_eq!(told(&server, Method::POST, path, None, with(&first)).await, (401, "refresh_token_reused".into()));
        let token = Some(text(&second, "access_token"));
        assert_eq!(told(&server, Method::GET, "/api/v1/auth/sessions", token, json!({})).await.0, 401);
        assert_eq!(told(&server, Method::POST, path, None, with(&second)).await, (401, "unknown_refresh_token".into()));
        let made_up = json!({ "refresh_token": "crt_made.1.up" });
        assert_eq!(told(&server, Method::POST, path, None, made_up).await, (401, "unknown_refresh_token".into()));
    })
    .await;
}

#[tokio::test]
async fn sessions_are_listed_and_ended_one_by_one_and_all_at_once() {
    with_server(async |server| {
        let phone = register(&server, "alice").await;
        let login = async || {
            let body = json!({ "user": "alice", "password": "a password", "device_name": "laptop" });
            server.post("/api/v1/auth/login", None, body).await
        };
        let laptop = login().await;
        let path = "/api/v1/auth/sessions";
        let listed = server.get(path, Some(text(&phone, "access_token"))).await;
        let names: Vec<_> =
            listed["sessions"].as_array().expect("a list").iter().map(|one| &one["device_name"]).collect();
        assert_eq!(names, ["phone", "laptop"]);

        let token = Some(text(&phone, "access_token"));
        let one = format!("{path}/{}", text(&laptop, "device_id"));
        assert_eq!(told(&server, Method::DELETE, &one, token, json!({})).await.0, 204);
        assert_eq!(told(&server, Method::DELETE, &one, token, json!({})).await, (404, "not_found".into()));
        let ended = told(&server, Method::GET, path, Some(text(&laptop, "access_token")), json!({})).await;
        assert_eq!(ended, (401, "unknown_token".into()));

        let tablet = login().await;
        assert_eq!(told(&server, Method::POST, "/api/v1/auth/logout_all", token, json!({})).await.0, 204);
        for session in [&phone, &tablet] {
            assert_eq!(told(&server, Method::GET, path, Some(text(session, "access_token")), json!({})).await.0, 401);
        }
        let last = login().await;
        let token = Some(text(&last, "access_token"));
        assert_eq!(told(&server, Method::POST, "/api/v1/auth/logout", token, json!({})).await.0, 204);
        assert_eq!(told(&server, Method::POST, "/api/v1/auth/logout", token, json!({})).await.0, 401);
    })
    .await;
}

#[tokio::test]
async fn who_knows_the_old_password_sets_another() {
    with_server(async |server| {
        let phone = register(&server, "alice").await;
        let laptop =
            server.post("/api/v1/auth/login", None, json!({ "user": "alice", "password": "a password" })).await;
        let (path, token) = ("/api/v1/auth/password", Some(text(&phone, "access_token")));
        let change = async |old: &str, new: &str| {
            told(&server, Method::PUT, path, token, json!({ "old_password": old, "new_password": new })).await
        };
        assert_eq!(change("a guess", "another").await, (403, "wrong_credentials".into()));
        assert_eq!(change("a password", "").await, (400, "weak_password".into()));
        assert_eq!(change("a password", "another").await.0, 204);
        assert_eq!(change("another", "a third").await.0, 204, "this session goes on");
        let other =
            told(&server, Method::POST, "/api/v1/auth/logout", Some(text(&laptop, "access_token")), json!({})).await;
        assert_eq!(other.0, 401);
        let body = json!({ "user": "alice", "password": "a third" });
        server.post("/api/v1/auth/login", None, body).await;
    })
    .await;
}

#[tokio::test]
async fn what_needs_an_admin_or_a_mailer_says_so() {
    with_server(async |server| {
        let alice = register(&server, "alice").await;
        let token = Some(text(&alice, "access_token"));
        assert_eq!(
            told(&server, Method::GET, "/api/v1/admin/approvals", token, json!({})).await,
            (403, "forbidden".into())
        );
        let approve = "/api/v1/admin/approvals/bob@a.test/approve";
        assert_eq!(told(&server, Method::POST, approve, token, json!({})).await, (403, "forbidden".into()));
        let code = json!({ "email": "a@b.example", "purpose": "reset" });
        let path = "/api/v1/auth/verification_codes";
        assert_eq!(told(&server, Method::POST, path, None, code).await, (400, "no_email".into()));
        let state = server.get("/api/v1/auth/second_factor", token).await;
        assert_eq!(state, json!({ "enabled": false, "recovery_codes": 0 }));
        let wrong = json!({ "password": "a guess" });
        let refused = told(&server, Method::POST, "/api/v1/auth/second_factor", token, wrong).await;
        assert_eq!(refused, (403, "wrong_credentials".into()));
    })
    .await;
}
