//! An account's life: made, used, protected, ended.

use federation_tests::{Client, Engine, Server, on_each_engine, shared_secret_mac};
use reqwest::Method;
use serde_json::{Value, json};

/// Asks for something behind user-interactive authentication: once without, to get a session, then with the password.
async fn with_password(
    client: &Client,
    method: Method,
    path: &str,
    mut body: Value,
    password: &str,
) -> federation_tests::Answer {
    let challenge = client.attempt(method.clone(), path, Some(&body)).await.expect("the server answers");
    assert_eq!(challenge.status, 401, "{path} was answered {}", challenge.text);
    assert!(challenge.body["flows"].is_array(), "{path} was refused without flows: {}", challenge.text);
    body["auth"] = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": client.localpart() },
        "password": password,
        "session": challenge.body["session"],
    });
    client.attempt(method, path, Some(&body)).await.expect("the server answers")
}

#[tokio::test]
async fn registration_asks_for_its_stage_and_then_makes_the_account() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let client = server.anonymous();
        let request = json!({ "username": "alice", "password": "correct horse" });
        let challenge = client.post("register", request.clone()).await;
        assert_eq!(challenge.status, 401);
        let flows = challenge.body["flows"].as_array().expect("flows");
        assert!(flows.iter().any(|flow| flow["stages"] == json!(["m.login.dummy"])), "{flows:?}");
        assert!(challenge.body["params"].is_object());

        let mut with_auth = request.clone();
        with_auth["auth"] = json!({ "type": "m.login.dummy", "session": challenge.body["session"] });
        let made = client.post("register", with_auth.clone()).await.ok();
        assert_eq!(made["user_id"], "@alice:a.test");
        assert!(made["access_token"].is_string() && made["device_id"].is_string(), "{made}");

        client.post("register", request).await.refused(400, "M_USER_IN_USE");
        client.try_login("alice", "correct horse").await.ok();
    })
    .await;
}

#[tokio::test]
async fn a_session_of_registration_that_was_never_given_out_is_refused() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let auth = json!({ "type": "m.login.dummy", "session": "made up" });
        let answer = server
            .anonymous()
            .post("register", json!({ "username": "alice", "password": "correct horse", "auth": auth }))
            .await;
        assert!((400..500).contains(&answer.status), "{}", answer.text);
        server.anonymous().try_login("alice", "correct horse").await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn registration_can_leave_out_the_login() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let client = server.anonymous();
        let auth = json!({ "type": "m.login.dummy" });
        let request = json!({ "username": "alice", "password": "correct horse", "inhibit_login": true, "auth": auth });
        let made = client.post("register", request).await.ok();
        assert!(made.get("access_token").is_none() && made.get("device_id").is_none(), "{made}");
    })
    .await;
}

#[tokio::test]
async fn names_are_checked_before_they_are_given() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        server.register("alice").await;
        let client = server.anonymous();
        let available = client.get("register/available?username=bob").await.ok();
        assert_eq!(available["available"], true);
        client.get("register/available?username=alice").await.refused(400, "M_USER_IN_USE");
        client.get("register/available?username=not%20a%20name").await.refused(400, "M_INVALID_USERNAME");
        let overlong = "a".repeat(256);
        client.get(&format!("register/available?username={overlong}")).await.refused(400, "M_INVALID_USERNAME");
        let request = json!({ "username": "not a name", "password": "correct horse" });
        client.post("register", request).await.refused(400, "M_INVALID_USERNAME");
    })
    .await;
}

#[tokio::test]
async fn a_registration_token_opens_the_door_and_a_wrong_one_does_not() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine).set("registration", "token", "open-sesame").start().await;
        let client = server.anonymous();
        let mut request = json!({ "username": "alice", "password": "correct horse" });
        let challenge = client.post("register", request.clone()).await;
        assert_eq!(challenge.status, 401);
        let stages = challenge.body["flows"][0]["stages"].as_array().expect("stages").clone();
        assert!(stages.contains(&json!("m.login.registration_token")), "{stages:?}");

        let session = &challenge.body["session"];
        request["auth"] = json!({ "type": "m.login.dummy", "session": session });
        let dummy_only = client.post("register", request.clone()).await;
        assert_eq!(dummy_only.status, 401, "the dummy stage opened a door with a token: {}", dummy_only.text);
        request["auth"] = json!({ "type": "m.login.registration_token", "token": "wrong", "session": session });
        let wrong = client.post("register", request.clone()).await;
        assert_eq!((wrong.status, wrong.errcode()), (401, "M_UNAUTHORIZED"), "{}", wrong.text);
        request["auth"] = json!({ "type": "m.login.registration_token", "token": "open-sesame", "session": session });
        let right = client.post("register", request).await;
        assert_eq!(right.status, 200, "{}", right.text);

        let validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token=";
        assert_eq!(client.get(&format!("{validity}open-sesame")).await.ok()["valid"], true);
        assert_eq!(client.get(&format!("{validity}wrong")).await.ok()["valid"], false);
    })
    .await;
}

#[tokio::test]
async fn closed_registration_lets_nobody_in_but_who_knows_the_secret() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine).set("registration", "enabled", false).start().await;
        let client = server.anonymous();
        let auth = json!({ "type": "m.login.dummy" });
        let request = json!({ "username": "alice", "password": "correct horse", "auth": auth });
        client.post("register", request).await.refused(403, "M_FORBIDDEN");

        let made = server.register_with_secret("bob").await;
        assert_eq!(made.get("account/whoami").await.ok()["user_id"], "@bob:a.test");
    })
    .await;
}

#[tokio::test]
async fn the_shared_secret_is_checked_and_its_proof_works_once() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let client = server.anonymous();
        let path = "/_synapse/admin/v1/register";
        let nonce = client.get(path).await.ok()["nonce"].clone();
        let mut request = json!({
            "nonce": nonce, "username": "mallory", "password": "p", "admin": true, "mac": "00".repeat(20),
        });
        assert_eq!(client.post(path, request.clone()).await.status, 403);
        request["nonce"] = json!("never given out");
        assert!([400, 403].contains(&client.post(path, request).await.status));
        server.anonymous().try_login("mallory", "p").await.refused(403, "M_FORBIDDEN");

        let alice = server.register_with_secret("alice").await;
        assert_eq!(alice.user_id, "@alice:a.test");

        let nonce = client.get(path).await.ok()["nonce"].as_str().expect("a nonce").to_owned();
        let mac = shared_secret_mac(server.shared_secret(), &nonce, "bob", "p", false);
        let proven = json!({ "nonce": nonce, "username": "bob", "password": "p", "admin": false, "mac": mac });
        let mut promoted = proven.clone();
        promoted["admin"] = json!(true);
        assert_eq!(client.post(path, promoted).await.status, 403, "the proof doesn't cover the role");
        let made = client.post(path, proven.clone()).await.ok();
        let again = client.post(path, proven).await;
        assert!([400, 403].contains(&again.status), "the same proof worked twice: {}", again.text);
        client.with_token(made["access_token"].as_str()).get("account/whoami").await.ok();
    })
    .await;
}

#[tokio::test]
async fn login_takes_the_right_password_and_tells_nothing_about_a_wrong_one() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let client = server.anonymous();
        let flows = client.get("login").await.ok();
        let types: Vec<&str> =
            flows["flows"].as_array().expect("flows").iter().filter_map(|flow| flow["type"].as_str()).collect();
        assert!(types.contains(&"m.login.password"), "{types:?}");

        let wrong = client.try_login("alice", "wrong").await.refused(403, "M_FORBIDDEN");
        let nobody = client.try_login("nobody", "wrong").await.refused(403, "M_FORBIDDEN");
        assert_eq!(wrong, nobody, "the answer tells whether the account exists");

        let by_full_id = client.try_login("@alice:a.test", "alice's password").await.ok();
        assert_eq!(by_full_id["user_id"], alice.user_id);
        client.try_login("@alice:elsewhere.test", "alice's password").await.refused(403, "M_FORBIDDEN");
        let unknown = json!({ "type": "m.login.smoke-signals" });
        assert_eq!(client.post("login", unknown).await.status, 400);
    })
    .await;
}

#[tokio::test]
async fn whoami_names_user_and_device() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let me = alice.get("account/whoami").await.ok();
        assert_eq!(me["user_id"], alice.user_id);
        assert_eq!(me["device_id"], alice.device_id);
        assert!(!me["is_guest"].as_bool().unwrap_or_default(), "{me}");
    })
    .await;
}

#[tokio::test]
async fn a_login_to_a_known_device_ends_its_old_session() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let request = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "alice's password",
            "device_id": alice.device_id,
        });
        let again = server.anonymous().post("login", request).await.ok();
        assert_eq!(again["device_id"], alice.device_id);
        alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        server.anonymous().with_token(again["access_token"].as_str()).get("account/whoami").await.ok();
    })
    .await;
}

#[tokio::test]
async fn a_refresh_token_renews_the_session_once() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        server.register("alice").await;
        let client = server.anonymous();
        let identifier = json!({ "type": "m.id.user", "user": "alice" });
        let request = json!({
            "type": "m.login.password", "identifier": identifier, "password": "alice's password", "refresh_token": true,
        });
        let session = client.post("login", request).await.ok();
        assert!(session["expires_in_ms"].as_u64().is_some_and(|ms| ms > 0), "{session}");
        let renewal = json!({ "refresh_token": session["refresh_token"] });
        let renewed = client.post("refresh", renewal.clone()).await.ok();
        assert_ne!(renewed["access_token"], session["access_token"]);
        let token = renewed["access_token"].as_str().expect("a token");
        client.with_token(Some(token)).get("account/whoami").await.ok();

        // The new access token has been used, so the old refresh token is over.
        client.post("refresh", renewal).await.refused(401, "M_UNKNOWN_TOKEN");
        client.post("refresh", json!({ "refresh_token": "made up" })).await.refused(401, "M_UNKNOWN_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn a_login_token_logs_in_once() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let path = "/_matrix/client/v1/login/get_token";
        let answer = with_password(&alice, Method::POST, path, json!({}), "alice's password").await.ok();
        let request = json!({ "type": "m.login.token", "token": answer["login_token"] });
        let session = server.anonymous().post("login", request.clone()).await.ok();
        assert_eq!(session["user_id"], alice.user_id);
        assert_ne!(session["device_id"], alice.device_id);
        server.anonymous().post("login", request).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn logout_ends_one_session_and_logout_all_ends_all() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let first = server.register("alice").await;
        let second = server.login("alice").await;
        let third = server.login("alice").await;
        first.post("logout", json!({})).await.ok();
        first.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        second.get("account/whoami").await.ok();
        let devices = second.get("devices").await.ok();
        assert_eq!(devices["devices"].as_array().map(Vec::len), Some(2), "{devices}");

        second.post("logout/all", json!({})).await.ok();
        second.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        third.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        server.login("alice").await;
    })
    .await;
}

#[tokio::test]
async fn a_token_stays_dead_after_a_restart_and_a_live_one_lives() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let gone = server.register("alice").await;
        let here = server.login("alice").await;
        gone.post("logout", json!({})).await.ok();
        server.kill();
        server.restart().await;
        here.get("account/whoami").await.ok();
        gone.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn devices_are_listed_named_and_removed_with_the_password() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let phone = server.login("alice").await;
        let tablet = server.login("alice").await;
        let path = format!("devices/{}", phone.device_id);
        alice.put(&path, json!({ "display_name": "the phone" })).await.ok();
        let device = alice.get(&path).await.ok();
        assert_eq!(device["display_name"], "the phone");
        assert_eq!(device["device_id"], phone.device_id);
        alice.get("devices/NOSUCHDEVICE").await.refused(404, "M_NOT_FOUND");

        let wrong = with_password(&alice, Method::DELETE, &path, json!({}), "wrong").await;
        assert_eq!((wrong.status, wrong.errcode()), (401, "M_FORBIDDEN"), "{}", wrong.text);
        phone.get("account/whoami").await.ok();
        with_password(&alice, Method::DELETE, &path, json!({}), "alice's password").await.ok();
        phone.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");

        let several = json!({ "devices": [tablet.device_id] });
        with_password(&alice, Method::POST, "delete_devices", several, "alice's password").await.ok();
        tablet.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        let left = alice.get("devices").await.ok();
        assert_eq!(left["devices"].as_array().map(Vec::len), Some(1), "{left}");

        let bob = server.register("bob").await;
        bob.get(&format!("devices/{}", alice.device_id)).await.refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn a_new_password_replaces_the_old_one_and_ends_other_sessions() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let other = server.login("alice").await;
        let request = json!({ "new_password": "a better one", "logout_devices": true });
        let wrong = with_password(&alice, Method::POST, "account/password", request.clone(), "wrong").await;
        assert_eq!((wrong.status, wrong.errcode()), (401, "M_FORBIDDEN"), "{}", wrong.text);
        server.login("alice").await;

        with_password(&alice, Method::POST, "account/password", request, "alice's password").await.ok();
        alice.get("account/whoami").await.ok();
        other.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        server.anonymous().try_login("alice", "alice's password").await.refused(403, "M_FORBIDDEN");
        server.anonymous().try_login("alice", "a better one").await.ok();
    })
    .await;
}

#[tokio::test]
async fn a_new_password_can_leave_other_sessions_alone() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let other = server.login("alice").await;
        let request = json!({ "new_password": "a better one", "logout_devices": false });
        with_password(&alice, Method::POST, "account/password", request, "alice's password").await.ok();
        other.get("account/whoami").await.ok();
    })
    .await;
}

#[tokio::test]
async fn a_deactivated_account_leaves_its_rooms_and_never_comes_back() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = bob.create_public_room().await;
        alice.join(&room).await;

        with_password(&alice, Method::POST, "account/deactivate", json!({}), "alice's password").await.ok();
        alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        let login = server.anonymous().try_login("alice", "alice's password").await;
        assert_eq!(login.status, 403, "{}", login.text);
        assert!(["M_USER_DEACTIVATED", "M_FORBIDDEN"].contains(&login.errcode()), "{}", login.text);
        server.anonymous().get("register/available?username=alice").await.refused(400, "M_USER_IN_USE");
        federation_tests::eventually("Alice has left", async || {
            let members = bob.get(&format!("rooms/{room}/joined_members")).await.ok();
            members["joined"].get(&alice.user_id).is_none().then_some(())
        })
        .await;
    })
    .await;
}

async fn wrong_passwords_run_into_a_wall(engine: Engine) {
    /// More guesses than anybody's bad memory needs.
    const GUESSES: usize = 100;
    let server = Server::builder(&engine).set("rate_limits", "enabled", true).start().await;
    server.register_with_secret("alice").await;
    let client = server.anonymous();
    let mut guesses = 0;
    let refusal = loop {
        let answer = client.try_login("alice", "a guess").await;
        if answer.status == 429 {
            break answer.refused(429, "M_LIMIT_EXCEEDED");
        }
        answer.refused(403, "M_FORBIDDEN");
        guesses += 1;
        assert!(guesses < GUESSES, "{GUESSES} wrong passwords in a row and no end");
    };
    assert!(refusal["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{refusal}");
}

#[tokio::test]
async fn wrong_passwords_run_into_a_wall_before_long() {
    on_each_engine(wrong_passwords_run_into_a_wall).await;
}

#[tokio::test]
async fn behind_a_proxy_each_address_has_its_own_limit() {
    /// As many as the limit allows at once, and one.
    const TOO_MANY: usize = 4;
    let burst =
        |burst: i64| toml::Table::from_iter([("per_second".into(), 0.001.into()), ("burst".into(), burst.into())]);
    let ask = async |server: &Server, said: &str| {
        let url = format!("{}/_matrix/client/v3/login", server.url());
        let body = json!({
            "type": "m.login.password", "password": "a guess",
            "identifier": { "type": "m.id.user", "user": format!("nobody{}", rand::random::<u64>()) },
        });
        let request = reqwest::Client::new().post(url).header("x-forwarded-for", said).body(body.to_string());
        request.send().await.expect("an answer").status().as_u16()
    };
    for (proxies, expected) in [(vec!["127.0.0.0/8"], [429, 403, 429]), (vec![], [429, 429, 429])] {
        let builder = Server::builder(&Engine::Sqlite).set("listen", "trusted_proxies", proxies);
        let builder = builder.set("rate_limits", "enabled", true);
        let server = builder.set("rate_limits", "login", burst(TOO_MANY as i64 - 1)).start().await;
        for number in 1..=TOO_MANY {
            let status = ask(&server, "203.0.113.5").await;
            assert_eq!(status, if number < TOO_MANY { 403 } else { 429 }, "attempt {number}");
        }
        // The same address again, another one, and the first one, which says to be a third.
        let again = [
            ask(&server, "203.0.113.5").await,
            ask(&server, "203.0.113.6").await,
            ask(&server, "203.0.113.7, 203.0.113.5").await,
        ];
        assert_eq!(again, expected);
    }
}

#[tokio::test]
async fn profiles_have_a_name_a_face_and_fields_of_their_own() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let mine = format!("profile/{}", alice.user_id);
        alice.put(&format!("{mine}/displayname"), json!({ "displayname": "Alice" })).await.ok();
        alice.put(&format!("{mine}/avatar_url"), json!({ "avatar_url": "mxc://a.test/face" })).await.ok();
        alice.put(&format!("{mine}/org.example.pet"), json!({ "org.example.pet": { "kind": "cat" } })).await.ok();
        let profile = bob.get(&mine).await.ok();
        assert_eq!(
            profile,
            json!({ "displayname": "Alice", "avatar_url": "mxc://a.test/face", "org.example.pet": { "kind": "cat" } })
        );
        let field = bob.get(&format!("{mine}/org.example.pet")).await.ok();
        assert_eq!(field, json!({ "org.example.pet": { "kind": "cat" } }));

        alice.delete(&format!("{mine}/org.example.pet")).await.ok();
        bob.get(&format!("{mine}/org.example.pet")).await.refused(404, "M_NOT_FOUND");
        bob.get("profile/@nobody:a.test").await.refused(404, "M_NOT_FOUND");
        let theft = bob.put(&format!("{mine}/displayname"), json!({ "displayname": "Bob's now" })).await;
        theft.refused(403, "M_FORBIDDEN");
        let huge = json!({ "org.example.pet": "x".repeat(70_000) });
        alice.put(&format!("{mine}/org.example.pet"), huge).await.refused(400, "M_PROFILE_TOO_LARGE");
        assert_eq!(bob.get(&mine).await.ok()["displayname"], "Alice");
    })
    .await;
}

#[tokio::test]
async fn capabilities_tell_what_can_be_done() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let capabilities = alice.get("capabilities").await.ok()["capabilities"].clone();
        let versions = &capabilities["m.room_versions"];
        assert_eq!(versions["default"], "12");
        for version in 6..=12 {
            assert_eq!(versions["available"][version.to_string()], "stable", "{versions}");
        }
        assert_ne!(capabilities["m.change_password"]["enabled"], false);
        server.anonymous().get("capabilities").await.refused(401, "M_MISSING_TOKEN");
    })
    .await;
}
