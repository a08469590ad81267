//! What is wrong is refused with the right words, and changes nothing.

use federation_tests::{Answer, Client, Engine, Server, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};

/// A room with a known history, and a fingerprint to tell whether anything in it has changed.
struct Scene {
    server: Server,
    alice: Client,
    bob: Client,
    room: String,
}

impl Scene {
    async fn set(engine: &Engine) -> Self {
        let server = Server::start(engine).await;
        let alice = server.register_with_secret("alice").await;
        let bob = server.register_with_secret("bob").await;
        let room = alice.create_public_room().await;
        alice.say(&room, "the only words").await;
        Self { server, alice, bob, room }
    }

    /// Everything a client can see of the room and the account.
    async fn fingerprint(&self) -> Value {
        let ids: Vec<Value> =
            self.alice.history(&self.room).await.into_iter().map(|event| event["event_id"].clone()).collect();
        json!([
            ids,
            self.alice.get("joined_rooms").await.ok(),
            self.alice.get("devices").await.ok()["devices"].as_array().map(Vec::len),
            self.alice.get("publicRooms").await.ok(),
            self.alice.get("pushrules/").await.ok(),
        ])
    }

    fn send_path(&self, transaction_id: &str) -> String {
        format!("rooms/{}/send/m.room.message/{transaction_id}", self.room)
    }

    async fn put_bytes(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.alice.raw(Method::PUT, path, "application/json", body.into()).await.expect("the server answers")
    }

    async fn post_bytes(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.alice.raw(Method::POST, path, "application/json", body.into()).await.expect("the server answers")
    }
}

/// Tells `story`, then checks that it changed nothing and that the server is well.
async fn changes_nothing(story: impl AsyncFn(&Scene)) {
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine).await;
        let before = scene.fingerprint().await;
        story(&scene).await;
        assert_eq!(scene.fingerprint().await, before, "a refused request has changed something");
        scene.alice.say(&scene.room, "still here").await;
        scene.server.anonymous().get("/health/live").await.ok();
    })
    .await;
}

#[tokio::test]
async fn what_is_no_json_is_called_so() {
    changes_nothing(async |scene| {
        for body in [
            "{",
            "{\"a\":}",
            "not json",
            "{\"msgtype\":\"m.text\",}",
            "{} {}",
            "\u{feff}{}",
            "{'a':1}",
            "[1,2",
            "{\"a\":NaN}",
        ] {
            scene.put_bytes(&scene.send_path("nojson"), body).await.refused(400, "M_NOT_JSON");
            scene.post_bytes("createRoom", body).await.refused(400, "M_NOT_JSON");
            scene.post_bytes("login", body).await.refused(400, "M_NOT_JSON");
            scene.post_bytes("register", body).await.refused(400, "M_NOT_JSON");
        }
    })
    .await;
}

#[tokio::test]
async fn an_empty_body_is_no_message() {
    changes_nothing(async |scene| {
        scene.put_bytes(&scene.send_path("empty"), "").await.refused(400, "M_NOT_JSON");
        scene.post_bytes("login", "").await.refused(400, "M_NOT_JSON");
    })
    .await;
}

#[tokio::test]
async fn what_is_no_utf8_is_no_json() {
    changes_nothing(async |scene| {
        let bodies: [&[u8]; 4] = [
            b"{\"msgtype\":\"m.text\",\"body\":\"\xff\xfe\"}",
            b"\xff\xff",
            b"{\"a\":\"\xc0\xaf\"}",
            b"{\"a\":\"\xed\xa0\x80\"}",
        ];
        for body in bodies {
            scene.put_bytes(&scene.send_path("utf8"), body).await.refused(400, "M_NOT_JSON");
            scene.post_bytes("createRoom", body).await.refused(400, "M_NOT_JSON");
        }
        // A lone surrogate can be written in JSON, but it is no character.
        let lone = scene.put_bytes(&scene.send_path("surrogate"), r#"{"msgtype":"m.text","body":"\ud800"}"#).await;
        assert_eq!(lone.status, 400, "{}", lone.text);
        for path in ["rooms/%ff/state", "profile/%c0%af", "directory/room/%ff", "sync?since=%ff"] {
            let answer = scene.alice.get(path).await;
            assert!(
                (400..500).contains(&answer.status) && !answer.errcode().is_empty(),
                "{path}: {} {}",
                answer.status,
                answer.text
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_type_is_named_by_its_field() {
    changes_nothing(async |scene| {
        let room = &scene.room;
        for (method, path, body, field) in [
            (Method::POST, "createRoom".to_owned(), json!({ "name": 7 }), "name"),
            (Method::POST, "createRoom".to_owned(), json!({ "invite": "@bob:a.test" }), "invite"),
            (Method::POST, "createRoom".to_owned(), json!({ "visibility": ["public"] }), "visibility"),
            (
                Method::POST,
                "createRoom".to_owned(),
                json!({ "initial_state": [{ "type": 3, "content": {} }] }),
                "initial_state",
            ),
            (Method::POST, format!("rooms/{room}/invite"), json!({ "user_id": 5 }), "user_id"),
            (Method::POST, format!("rooms/{room}/invite"), json!({ "user_id": "bob" }), "user_id"),
            (Method::POST, format!("rooms/{room}/kick"), json!({ "user_id": null }), "user_id"),
            (Method::POST, format!("rooms/{room}/ban"), json!({ "user_id": {} }), "user_id"),
            (Method::POST, "login".to_owned(), json!({ "type": 1 }), "type"),
            (Method::POST, "register".to_owned(), json!({ "username": ["a"] }), "username"),
            (
                Method::PUT,
                format!("profile/{}/displayname", scene.alice.user_id),
                json!({ "displayname": 9 }),
                "displayname",
            ),
            (Method::PUT, format!("rooms/{room}/typing/{}", scene.alice.user_id), json!({ "typing": "yes" }), "typing"),
            (Method::POST, "keys/query".to_owned(), json!({ "device_keys": [] }), "device_keys"),
            (Method::POST, "keys/claim".to_owned(), json!({ "one_time_keys": 3 }), "one_time_keys"),
            (Method::POST, "publicRooms".to_owned(), json!({ "limit": "many" }), "limit"),
            (Method::PUT, "sendToDevice/org.example.t/1".to_owned(), json!({ "messages": "hi" }), "messages"),
            (Method::POST, format!("user/{}/filter", scene.alice.user_id), json!({ "room": 1 }), "room"),
            (Method::PUT, format!("directory/list/room/{room}"), json!({ "visibility": 1 }), "visibility"),
            (Method::POST, "refresh".to_owned(), json!({ "refresh_token": 1 }), "refresh_token"),
        ] {
            let answer = scene.alice.attempt(method, &path, Some(&body)).await.expect("the server answers");
            let refusal = answer.refused(400, "M_BAD_JSON");
            let message = refusal["error"].as_str().expect("checked");
            assert!(message.contains(field), "{path} {body}: {message:?} doesn't name {field}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_missing_field_is_named() {
    changes_nothing(async |scene| {
        let room = &scene.room;
        for (path, field) in [
            (format!("rooms/{room}/invite"), "user_id"),
            (format!("rooms/{room}/kick"), "user_id"),
            ("refresh".to_owned(), "refresh_token"),
            ("login".to_owned(), "type"),
        ] {
            let answer = scene.alice.post(&path, json!({})).await;
            assert_eq!(answer.status, 400, "{path}: {}", answer.text);
            assert!(["M_BAD_JSON", "M_MISSING_PARAM"].contains(&answer.errcode()), "{path}: {}", answer.text);
            assert!(
                answer.body["error"].as_str().is_some_and(|error| error.contains(field)),
                "{path}: {}",
                answer.text
            );
        }
    })
    .await;
}

#[tokio::test]
async fn content_that_is_no_object_is_refused() {
    changes_nothing(async |scene| {
        for body in ["[]", "\"text\"", "5", "null", "true"] {
            scene.put_bytes(&scene.send_path("no-object"), body).await.refused(400, "M_BAD_JSON");
            let state = format!("rooms/{}/state/org.example.x/", scene.room);
            scene.put_bytes(&state, body).await.refused(400, "M_BAD_JSON");
        }
    })
    .await;
}

#[tokio::test]
async fn numbers_that_canonical_json_does_not_know_are_refused() {
    changes_nothing(async |scene| {
        for number in ["1.5", "1e400", "9007199254740993", "-9007199254740993", "99999999999999999999999"] {
            let body = format!(r#"{{"msgtype":"m.text","body":"n","number":{number}}}"#);
            scene.put_bytes(&scene.send_path("number"), body).await.refused(400, "M_BAD_JSON");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_too_large() {
    changes_nothing(async |scene| {
        let huge = format!(r#"{{"msgtype":"m.text","body":"{}"}}"#, "x".repeat(20 * 1024 * 1024));
        // A server may stop listening in the middle, which a client sees as a broken connection; then it asks again.
        for path in [scene.send_path("huge"), format!("rooms/{}/state/org.example.x/", scene.room)] {
            match scene.alice.raw(Method::PUT, &path, "application/json", huge.clone().into_bytes()).await {
                Ok(answer) => {
                    answer.refused(413, "M_TOO_LARGE");
                }
                Err(error) => assert!(!error.is_timeout(), "{path}: {error}"),
            }
        }
        // This one is over the limit for sure and small enough to be read to its end.
        let large = format!(r#"{{"msgtype":"m.text","body":"{}"}}"#, "x".repeat(300 * 1024));
        scene.put_bytes(&scene.send_path("large"), large).await.refused(413, "M_TOO_LARGE");
    })
    .await;
}

#[tokio::test]
async fn an_event_over_65536_bytes_is_too_large() {
    changes_nothing(async |scene| {
        let event = |length: usize| json!({ "msgtype": "m.text", "body": "x".repeat(length) });
        scene.alice.put(&scene.send_path("over"), event(65_536)).await.refused(413, "M_TOO_LARGE");
        // The content alone would fit; with its envelope it doesn't.
        scene.alice.put(&scene.send_path("just-over"), event(65_400)).await.refused(413, "M_TOO_LARGE");
        let state = scene.alice.set_state(&scene.room, "org.example.x", "", event(65_536)).await;
        state.refused(413, "M_TOO_LARGE");
        let create = json!({ "initial_state": [{ "type": "org.example.x", "content": event(65_536) }] });
        scene.alice.post("createRoom", create).await.refused(413, "M_TOO_LARGE");
    })
    .await;
}

#[tokio::test]
async fn an_event_just_under_65536_bytes_is_taken() {
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine).await;
        let body = "x".repeat(64_000);
        let event_id = scene.alice.say(&scene.room, &body).await;
        let event = scene.alice.get(&format!("rooms/{}/event/{event_id}", scene.room)).await.ok();
        assert_eq!(event["content"]["body"], body);
    })
    .await;
}

#[tokio::test]
async fn names_over_255_bytes_are_refused() {
    changes_nothing(async |scene| {
        let long = "x".repeat(256);
        let room = &scene.room;
        for (method, path, body) in [
            (Method::PUT, format!("rooms/{room}/send/{long}/t1"), json!({})),
            (Method::PUT, format!("rooms/{room}/state/{long}/key"), json!({})),
            (Method::PUT, format!("rooms/{room}/state/org.example.x/{long}"), json!({})),
            (Method::POST, format!("rooms/{room}/invite"), json!({ "user_id": format!("@{long}:a.test") })),
            (Method::POST, "createRoom".to_owned(), json!({ "room_alias_name": long })),
            (Method::POST, format!("rooms/!{long}:a.test/join"), json!({})),
            (Method::GET, format!("profile/@{long}:a.test"), Value::Null),
            (Method::GET, format!("directory/room/%23{long}:a.test"), Value::Null),
        ] {
            let body = (!body.is_null()).then_some(body);
            let answer = scene.alice.attempt(method, &path, body.as_ref()).await.expect("the server answers");
            assert!([400, 413].contains(&answer.status), "{path}: {} {}", answer.status, answer.text);
            assert!(!answer.errcode().is_empty() && answer.errcode() != "M_UNRECOGNIZED", "{path}: {}", answer.text);
        }
    })
    .await;
}

#[tokio::test]
async fn deep_nesting_is_refused_and_survived() {
    changes_nothing(async |scene| {
        for depth in [1_000, 30_000] {
            let arrays = format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
            let objects = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
            for body in [arrays, objects] {
                for path in [scene.send_path("deep"), format!("rooms/{}/state/org.example.x/", scene.room)] {
                    let answer = scene.put_bytes(&path, body.clone()).await;
                    assert!(
                        [(400, "M_BAD_JSON"), (400, "M_NOT_JSON"), (413, "M_TOO_LARGE")]
                            .contains(&(answer.status, answer.errcode())),
                        "depth {depth}: {} {}",
                        answer.status,
                        answer.text
                    );
                }
                let create = format!(r#"{{"creation_content":{body}}}"#);
                let answer = scene.post_bytes("createRoom", create).await;
                assert!((400..500).contains(&answer.status), "{}", answer.text);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_missing_and_a_wrong_token_are_told_apart() {
    changes_nothing(async |scene| {
        let anonymous = scene.server.anonymous();
        let stranger = anonymous.with_token(Some("never_given_out"));
        for (method, path) in [
            (Method::GET, "sync".to_owned()),
            (Method::GET, "account/whoami".to_owned()),
            (Method::GET, "joined_rooms".to_owned()),
            (Method::POST, "createRoom".to_owned()),
            (Method::POST, "logout".to_owned()),
            (Method::PUT, scene.send_path("no-token")),
            (Method::GET, format!("rooms/{}/state", scene.room)),
            (Method::POST, "keys/query".to_owned()),
        ] {
            let body = (method != Method::GET).then(|| json!({}));
            let missing = anonymous.attempt(method.clone(), &path, body.as_ref()).await.expect("the server answers");
            missing.refused(401, "M_MISSING_TOKEN");
            let wrong = stranger.attempt(method, &path, body.as_ref()).await.expect("the server answers");
            wrong.refused(401, "M_UNKNOWN_TOKEN");
        }
        // The token is asked for before the body is read.
        let broken = anonymous.raw(Method::PUT, &scene.send_path("both"), "application/json", b"{".to_vec()).await;
        broken.expect("the server answers").refused(401, "M_MISSING_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn an_unknown_endpoint_is_not_recognised() {
    changes_nothing(async |scene| {
        for path in [
            "/_matrix/client/v3/nothing/here",
            "/_matrix/client/v99/sync",
            "/_matrix/client/",
            "/_matrix/",
            "/_matrix/nothing",
            "/_matrix/client/v3/sync/more",
            "/_matrix/client/v3/rooms/!x:a.test/nothing",
        ] {
            scene.alice.get(path).await.refused(404, "M_UNRECOGNIZED");
            scene.alice.post(path, json!({})).await.refused(404, "M_UNRECOGNIZED");
            scene.server.anonymous().get(path).await.refused(404, "M_UNRECOGNIZED");
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_method_is_not_recognised() {
    changes_nothing(async |scene| {
        for (method, path) in [
            (Method::DELETE, "sync".to_owned()),
            (Method::PUT, "createRoom".to_owned()),
            (Method::GET, "createRoom".to_owned()),
            (Method::POST, scene.send_path("method")),
            (Method::PATCH, "account/whoami".to_owned()),
            (Method::GET, "logout".to_owned()),
            (Method::DELETE, "/_matrix/client/versions".to_owned()),
        ] {
            let body = (method != Method::GET).then(|| json!({}));
            let answer = scene.alice.attempt(method, &path, body.as_ref()).await.expect("the server answers");
            answer.refused(405, "M_UNRECOGNIZED");
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_can_speak_for_somebody_else() {
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine).await;
        let content =
            json!({ "msgtype": "m.text", "body": "as Bob", "sender": scene.bob.user_id, "user_id": scene.bob.user_id });
        let event_id = scene.alice.send(&scene.room, "m.room.message", content).await.ok()["event_id"].clone();
        let path = format!("rooms/{}/event/{}", scene.room, event_id.as_str().expect("an id"));
        let event = scene.alice.get(&path).await.ok();
        assert_eq!(event["sender"], scene.alice.user_id);

        let before = scene.fingerprint().await;
        let query = format!("{}?user_id={}", scene.send_path("forged"), scene.bob.user_id);
        let masked = scene.alice.put(&query, json!({ "msgtype": "m.text", "body": "?" })).await;
        if masked.status == 200 {
            let path = format!("rooms/{}/event/{}", scene.room, masked.body["event_id"].as_str().expect("an id"));
            assert_eq!(scene.alice.get(&path).await.ok()["sender"], scene.alice.user_id);
        } else {
            assert_eq!(masked.status, 403, "{}", masked.text);
            assert_eq!(scene.fingerprint().await, before);
        }

        let before = scene.fingerprint().await;
        for (path, body) in [
            (
                format!("rooms/{}/state/m.room.member/{}", scene.room, scene.bob.user_id),
                json!({ "membership": "join" }),
            ),
            (format!("rooms/{}/state/org.example.own/{}", scene.room, scene.bob.user_id), json!({})),
            (format!("rooms/{}/typing/{}", scene.room, scene.bob.user_id), json!({ "typing": true })),
            (format!("profile/{}/displayname", scene.bob.user_id), json!({ "displayname": "Alice's puppet" })),
            (format!("presence/{}/status", scene.bob.user_id), json!({ "presence": "online" })),
            (format!("user/{}/account_data/org.example.x", scene.bob.user_id), json!({})),
            (format!("user/{}/rooms/{}/tags/u.x", scene.bob.user_id, scene.room), json!({})),
        ] {
            scene.alice.put(&path, body).await.refused(403, "M_FORBIDDEN");
        }
        assert_eq!(scene.fingerprint().await, before);
    })
    .await;
}

#[tokio::test]
async fn ids_that_are_no_ids_are_invalid() {
    changes_nothing(async |scene| {
        for path in [
            "rooms/not-a-room/state",
            "rooms/@alice:a.test/state",
            "profile/alice",
            "directory/room/no-alias",
            "user/alice/filter/1",
            "presence/alice/status",
        ] {
            let answer = scene.alice.get(path).await;
            assert_eq!((answer.status, answer.errcode()), (400, "M_INVALID_PARAM"), "{path}: {}", answer.text);
        }
        for query in [
            "messages?dir=sideways",
            "messages",
            "messages?dir=b&limit=lots",
            "messages?dir=b&from=nonsense",
            "members?membership=dancing",
        ] {
            let answer = scene.alice.get(&format!("rooms/{}/{query}", scene.room)).await;
            assert_eq!(answer.status, 400, "{query}: {}", answer.text);
            assert!(
                ["M_INVALID_PARAM", "M_MISSING_PARAM", "M_BAD_JSON"].contains(&answer.errcode()),
                "{query}: {}",
                answer.text
            );
        }
        let answer = scene.alice.get("sync?filter=%7Bbroken").await;
        assert_eq!(answer.status, 400, "{}", answer.text);
    })
    .await;
}

#[tokio::test]
async fn state_that_would_break_the_room_is_refused() {
    changes_nothing(async |scene| {
        let room = &scene.room;
        for (event_type, state_key, content) in [
            ("m.room.create", "", json!({ "room_version": "12" })),
            ("m.room.member", "not a user", json!({ "membership": "join" })),
            ("m.room.member", scene.alice.user_id.as_str(), json!({ "membership": "dancing" })),
            ("m.room.member", scene.alice.user_id.as_str(), json!({ "membership": 5 })),
            ("m.room.member", scene.alice.user_id.as_str(), json!({})),
            ("m.room.power_levels", "", json!({ "users": { "not a user": 100 } })),
            ("m.room.power_levels", "", json!({ "users": [] })),
            ("m.room.power_levels", "", json!({ "ban": "high" })),
            ("m.room.canonical_alias", "", json!({ "alias": "#nowhere:a.test" })),
            ("m.room.encryption", "wrong key", json!(5)),
        ] {
            let answer = scene.alice.set_state(room, event_type, state_key, content.clone()).await;
            assert!((400..500).contains(&answer.status), "{event_type} {content}: {} {}", answer.status, answer.text);
            assert!(!answer.errcode().is_empty(), "{event_type} {content}: {}", answer.text);
        }
    })
    .await;
}

#[tokio::test]
async fn the_answers_to_bad_requests_can_be_read_by_browsers() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let http = reqwest::Client::new();
        for path in ["/_matrix/client/v3/sync", "/_matrix/client/v3/nothing", "/_matrix/client/versions"] {
            let url = format!("{}{path}", server.url());
            let answer =
                http.get(&url).header("Origin", "https://app.example").send().await.expect("the server answers");
            let header = |name: &str| {
                answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
            };
            assert_eq!(header("access-control-allow-origin"), "*", "{path}");
            assert!(header("content-type").starts_with("application/json"), "{path}: {}", header("content-type"));
            let preflight = http
                .request(Method::OPTIONS, &url)
                .header("Origin", "https://app.example")
                .header("Access-Control-Request-Method", "PUT")
                .header("Access-Control-Request-Headers", "authorization")
                .send()
                .await
                .expect("the server answers");
            assert!(preflight.status().is_success(), "{path}: {}", preflight.status());
        }
    })
    .await;
}
