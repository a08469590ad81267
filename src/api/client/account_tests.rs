//! Accounts and sessions, as a client meets them.

use http::Method;
use serde_json::{Value, json};

use crate::testing::{Server, refusal, with_server};

const V3: &str = "/_matrix/client/v3";

async fn try_login(server: &Server, body: Value) -> (u16, String) {
    refusal(server.ask(Method::POST, &format!("{V3}/login"), None, body.to_string()).await)
}

#[tokio::test]
async fn a_newcomer_registers_logs_in_and_out() {
    with_server(async |server| {
        let wish = json!({ "username": "alice", "password": "a password", "initial_device_display_name": "phone" });
        let (status, asked) = server.ask(Method::POST, &format!("{V3}/register"), None, wish.to_string()).await;
        assert_eq!((status.as_u16(), &asked["flows"]), (401, &json!([{ "stages": ["m.login.dummy"] }])));
        assert_eq!(asked["params"], json!({}));
        let mut again = wish.clone();
        again["auth"] = json!({ "type": "m.login.dummy", "session": asked["session"] });
        let made = server.post(&format!("{V3}/register"), None, again).await;
        assert_eq!(made["user_id"], "@alice:a.test");

        let identifier = json!({ "type": "m.id.user", "user": "alice" });
        let login = json!({ "type": "m.login.password", "identifier": identifier, "password": "a password" });
        let session = server.post(&format!("{V3}/login"), None, login).await;
        let token = session["access_token"].as_str().expect("it is text");
        assert_eq!(session["well_known"]["m.homeserver"]["base_url"], "https://chat.a.test");
        let me = server.get(&format!("{V3}/account/whoami"), Some(token)).await;
        assert_eq!(me, json!({ "user_id": "@alice:a.test", "device_id": session["device_id"] }));
        let devices = server.get(&format!("{V3}/devices"), Some(token)).await;
        assert_eq!(devices["devices"].as_array().map(Vec::len), Some(2));

        server.post(&format!("{V3}/logout"), Some(token), json!({})).await;
        let whoami = server.ask(Method::GET, &format!("{V3}/account/whoami"), Some(token), "").await;
        assert_eq!(refusal(whoami), (401, "M_UNKNOWN_TOKEN".into()));
    })
    .await;
}

#[tokio::test]
async fn a_login_that_cannot_be_is_told_what_is_wrong() {
    with_server(async |server| {
        server.register("alice").await;
        let alice = json!({ "type": "m.id.user", "user": "alice" });
        let password =
            |identifier: Value| json!({ "type": "m.login.password", "identifier": identifier, "password": "x" });
        assert_eq!(try_login(&server, json!({})).await, (400, "M_BAD_JSON".into()));
        assert_eq!(try_login(&server, json!([])).await, (400, "M_BAD_JSON".into()));
        assert_eq!(try_login(&server, json!({ "type": 7 })).await, (400, "M_BAD_JSON".into()));
        assert_eq!(try_login(&server, json!({ "type": "m.login.magic" })).await, (400, "M_UNKNOWN".into()));
        assert_eq!(try_login(&server, json!({ "type": "m.login.token" })).await, (400, "M_MISSING_PARAM".into()));
        assert_eq!(try_login(&server, json!({ "type": "m.login.password" })).await, (400, "M_MISSING_PARAM".into()));
        assert_eq!(try_login(&server, password(alice)).await, (403, "M_FORBIDDEN".into()));
        let by_mail = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "a@a.test" });
        assert_eq!(try_login(&server, password(by_mail)).await, (400, "M_UNKNOWN".into()));
        let legacy = json!({ "type": "m.login.password", "user": "@alice:a.test", "password": "a password" });
        assert_eq!(try_login(&server, legacy).await.0, 200);
    })
    .await;
}

#[tokio::test]
async fn guests_and_taken_names_are_refused_by_their_own_codes() {
    with_server(async |server| {
        server.register("alice").await;
        let ask = async |path: &str, body: Value| {
            refusal(server.ask(Method::POST, &format!("{V3}{path}"), None, body.to_string()).await)
        };
        assert_eq!(ask("/register?kind=guest", json!({})).await, (403, "M_GUEST_ACCESS_FORBIDDEN".into()));
        assert_eq!(ask("/register", json!({ "username": "alice" })).await, (400, "M_USER_IN_USE".into()));
        assert_eq!(ask("/register", json!({ "username": "Ä" })).await, (400, "M_INVALID_USERNAME".into()));
        let available = async |name: &str| {
            let path = format!("{V3}/register/available?username={name}");
            refusal(server.ask(Method::GET, &path, None, "").await)
        };
        assert_eq!(available("alice").await, (400, "M_USER_IN_USE".into()));
        assert_eq!(available("bob").await.0, 200);
    })
    .await;
}

#[tokio::test]
async fn a_device_is_deleted_once_the_password_is_shown() {
    with_server(async |server| {
        let (token, device_id) = server.register("alice").await;
        let path = format!("{V3}/devices/{device_id}");
        let (status, asked) = server.ask(Method::DELETE, &path, Some(&token), "").await;
        assert_eq!(status.as_u16(), 401);
        let auth = |password: &str| {
            let identifier = json!({ "type": "m.id.user", "user": "alice" });
            let auth = json!({ "type": "m.login.password", "identifier": identifier, "password": password,
                "session": asked["session"] });
            json!({ "auth": auth }).to_string()
        };
        let wrong = server.ask(Method::DELETE, &path, Some(&token), auth("guess")).await;
        assert_eq!(refusal(wrong), (401, "M_FORBIDDEN".into()));
        let (status, _) = server.ask(Method::DELETE, &path, Some(&token), auth("a password")).await;
        assert_eq!(status.as_u16(), 200);
        assert_eq!(server.ask(Method::GET, &path, Some(&token), "").await.0.as_u16(), 401);
    })
    .await;
}

#[tokio::test]
async fn a_profile_is_changed_by_its_owner_and_read_by_all() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let (bob, _) = server.register("bob").await;
        let profile = format!("{V3}/profile/@alice:a.test");
        let put = async |token: &str, field: &str, body: Value| {
            refusal(server.ask(Method::PUT, &format!("{profile}/{field}"), Some(token), body.to_string()).await)
        };
        assert_eq!(put(&alice, "displayname", json!({ "displayname": "Alice" })).await.0, 200);
        assert_eq!(put(&alice, "m.tz", json!({ "m.tz": "Europe/Paris" })).await.0, 200);
        assert_eq!(put(&bob, "displayname", json!({ "displayname": "B" })).await, (403, "M_FORBIDDEN".into()));
        assert_eq!(put(&alice, "displayname", json!({})).await, (400, "M_MISSING_PARAM".into()));
        assert_eq!(put("x", "displayname", json!({})).await, (401, "M_UNKNOWN_TOKEN".into()));
        assert_eq!(server.get(&profile, None).await, json!({ "displayname": "Alice", "m.tz": "Europe/Paris" }));
        let name = server.get(&format!("{profile}/displayname"), None).await;
        assert_eq!(name, json!({ "displayname": "Alice" }));
        let avatar = server.ask(Method::GET, &format!("{profile}/avatar_url"), None, "").await;
        assert_eq!(refusal(avatar), (404, "M_NOT_FOUND".into()));
        let (status, _) = server.ask(Method::DELETE, &format!("{profile}/m.tz"), Some(&alice), "").await;
        assert_eq!(status.as_u16(), 200);
    })
    .await;
}

#[tokio::test]
async fn an_account_is_closed_by_its_owner() {
    with_server(async |server| {
        let (token, _) = server.register("alice").await;
        let auth = json!({ "type": "m.login.password", "password": "a password",
            "identifier": { "type": "m.id.user", "user": "alice" } });
        let path = format!("{V3}/account/deactivate");
        let closed = server.post(&path, Some(&token), json!({ "auth": auth, "erase": true })).await;
        assert_eq!(closed["id_server_unbind_result"], "no-support");
        let legacy = json!({ "type": "m.login.password", "user": "alice", "password": "a password" });
        assert_eq!(try_login(&server, legacy).await, (403, "M_USER_DEACTIVATED".into()));
        let path = format!("{V3}/profile/@alice:a.test");
        assert_eq!(refusal(server.ask(Method::GET, &path, None, "").await), (404, "M_NOT_FOUND".into()));
    })
    .await;
}

#[tokio::test]
async fn the_server_says_what_it_is_able_to_do() {
    with_server(async |server| {
        let (token, _) = server.register("alice").await;
        let versions = server.get("/_matrix/client/versions", None).await;
        assert!(versions["versions"].as_array().is_some_and(|versions| versions.contains(&json!("v1.11"))));
        let answer = server.get(&format!("{V3}/capabilities"), Some(&token)).await;
        assert_eq!(answer["capabilities"]["m.room_versions"]["default"], "12");
        assert_eq!(answer["capabilities"]["m.3pid_changes"]["enabled"], false);
        let well_known = server.get("/.well-known/matrix/client", None).await;
        assert_eq!(well_known["m.homeserver"]["base_url"], "https://chat.a.test");
        let flows = server.get(&format!("{V3}/login"), None).await;
        assert_eq!(flows["flows"][0]["type"], "m.login.password");
    })
    .await;
}
