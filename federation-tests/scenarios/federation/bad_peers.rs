//! Requests that are not what they claim to be, and rooms that are none of the asker's business.

use federation_tests::{Answer, Client, Engine, FakePeer, Network, Server, on_each_engine, pdu};
use reqwest::Method;
use serde_json::{Value, json};

/// Alice's server, and one that would like to know more than it may.
struct Scene {
    network: Network,
    a: Server,
    peer: FakePeer,
    alice: Client,
}

impl Scene {
    async fn set(engine: &Engine) -> Self {
        let (network, [a]) = Network::start(engine, ["a.test"]).await;
        let peer = FakePeer::start(&network, "mallory.test").await;
        let alice = a.register_with_secret("alice").await;
        Self { network, a, peer, alice }
    }

    /// A request that is good, but for its `Authorization`.
    async fn try_as(&self, header: Option<&str>) -> Answer {
        self.peer.ask_with(&self.a, Method::GET, &self.path(), None, header).await
    }

    fn path(&self) -> String {
        format!("/_matrix/federation/v1/query/profile?user_id={}", self.alice.user_id)
    }
}

fn is_unauthorized(what: &str, answer: &Answer) {
    assert_eq!(answer.status, 401, "{what} was answered {}", answer.text);
    assert!(["M_UNAUTHORIZED", "M_FORBIDDEN"].contains(&answer.errcode()), "{what} was answered {}", answer.text);
    let message = answer.body["error"].as_str().unwrap_or_default();
    assert!(message.len() > 10, "{what} was refused without an explanation: {}", answer.text);
}

#[tokio::test]
async fn only_what_is_signed_by_its_origin_for_this_server_is_obeyed() {
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine).await;
        let other = FakePeer::start(&scene.network, "other.test").await;
        let path = scene.path();
        let good = scene.peer.authorization("a.test", "GET", &path, None);
        scene.try_as(Some(&good)).await.ok();
        // The same once more is the same question once more.
        scene.try_as(Some(&good)).await.ok();

        let peer = &scene.peer;
        let cases = [
            ("unsigned", None),
            ("of another kind", Some("Bearer token".to_owned())),
            ("empty", Some("X-Matrix ".to_owned())),
            ("garbled", Some("X-Matrix origin=,,==\"".to_owned())),
            ("with a signature that is none", Some(good.replace("sig=\"", "sig=\"!"))),
            ("without a signature", good.split(",sig=").next().map(str::to_owned)),
            ("with an unknown key", Some(good.replace("ed25519:fake", "ed25519:other"))),
            ("for another destination", Some(peer.authorization("b.test", "GET", &path, None))),
            ("with another method", Some(peer.authorization("a.test", "PUT", &path, None))),
            ("for another path", Some(peer.authorization("a.test", "GET", "/_matrix/federation/v1/version", None))),
            ("with content that is not there", Some(peer.authorization("a.test", "GET", &path, Some(&json!({}))))),
            ("in another's name", Some(peer.authorization_of("other.test", "a.test", "GET", &path, None, peer.key()))),
            (
                "with another's key",
                Some(peer.authorization_of("mallory.test", "a.test", "GET", &path, None, other.key())),
            ),
            (
                "in this server's own name",
                Some(peer.authorization_of("a.test", "a.test", "GET", &path, None, peer.key())),
            ),
        ];
        for (what, header) in cases {
            is_unauthorized(what, &scene.try_as(header.as_deref()).await);
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_whose_keys_cannot_be_had_is_not_believed() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let path = scene.path();
    let header = scene.peer.authorization_of("nowhere.test", "a.test", "GET", &path, None, scene.peer.key());
    is_unauthorized("from a server that nobody finds", &scene.try_as(Some(&header)).await);
}

#[tokio::test]
async fn a_key_that_has_expired_proves_nothing() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let late = FakePeer::start(&scene.network, "late.test").await;
    let mut keys = late.published_keys();
    keys["valid_until_ts"] = json!(1_000_000);
    pdu::sign(&mut keys, "late.test", late.key_id(), late.key());
    late.reply("GET", "/_matrix/key/v2/server", federation_tests::Reply::Json(200, keys));
    let path = scene.path();
    let header = late.authorization("a.test", "GET", &path, None);
    let answer = late.ask_with(&scene.a, Method::GET, &path, None, Some(&header)).await;
    is_unauthorized("signed with an expired key", &answer);
}

#[tokio::test]
async fn content_that_was_changed_on_the_way_is_refused() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let path = "/_matrix/federation/v1/send/t1";
    let body = |edus: Value| json!({ "origin": "mallory.test", "origin_server_ts": 1, "pdus": [], "edus": edus });
    let header = scene.peer.authorization("a.test", "PUT", path, Some(&body(json!([]))));
    let changed = body(json!([{ "edu_type": "m.presence", "content": {} }]));
    let answer = scene.peer.ask_with(&scene.a, Method::PUT, path, Some(changed), Some(&header)).await;
    is_unauthorized("changed", &answer);
    let answer = scene.peer.ask_with(&scene.a, Method::PUT, path, None, Some(&header)).await;
    assert!([400, 401].contains(&answer.status), "emptied: {}", answer.text);
}

#[tokio::test]
async fn a_transaction_in_anothers_name_is_refused() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let body = json!({ "origin": "other.test", "origin_server_ts": 1, "pdus": [], "edus": [] });
    let answer = scene.peer.put(&scene.a, "/_matrix/federation/v1/send/t1", body).await;
    assert!([400, 401, 403].contains(&answer.status), "{}", answer.text);
}

#[tokio::test]
async fn a_server_that_is_not_in_a_room_learns_nothing_of_it() {
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine).await;
        let room = scene.alice.create_room(json!({ "preset": "private_chat" })).await;
        let event_id = scene.alice.say(&room, "between us").await;
        let mallory = scene.peer.user("mallory");
        let v1 = "/_matrix/federation/v1";
        let gets = [
            format!("{v1}/event/{event_id}"),
            format!("{v1}/state/{room}?event_id={event_id}"),
            format!("{v1}/state_ids/{room}?event_id={event_id}"),
            format!("{v1}/event_auth/{room}/{event_id}"),
            format!("{v1}/backfill/{room}?v={event_id}&limit=10"),
            format!("{v1}/make_join/{room}/{mallory}?ver=12"),
            format!("{v1}/make_leave/{room}/{mallory}"),
            format!("{v1}/make_knock/{room}/{mallory}?ver=12"),
            format!("{v1}/timestamp_to_event/{room}?ts=0&dir=f"),
            format!("{v1}/hierarchy/{room}"),
        ];
        for path in gets {
            let answer = scene.peer.get(&scene.a, &path).await;
            assert!([403, 404].contains(&answer.status), "{path}: {} {}", answer.status, answer.text);
            assert!(!answer.text.contains("between us"), "{path}: {}", answer.text);
        }
        let wanted = json!({ "earliest_events": [], "latest_events": [event_id], "limit": 10 });
        let answer = scene.peer.post(&scene.a, &format!("{v1}/get_missing_events/{room}"), wanted).await;
        assert!([403, 404].contains(&answer.status), "{}", answer.text);
    })
    .await;
}

#[tokio::test]
async fn nobody_joins_for_users_of_another_server() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let room = scene.alice.create_public_room().await;
    for user in ["@alice:a.test", "@somebody:a.test", "@somebody:other.test"] {
        let path = format!("/_matrix/federation/v1/make_join/{room}/{user}?ver=12");
        let answer = scene.peer.get(&scene.a, &path).await;
        assert_eq!(answer.status, 403, "{user}: {}", answer.text);
    }
    let path = format!("/_matrix/federation/v1/make_join/{room}/{}?ver=1&ver=2", scene.peer.user("m"));
    let answer = scene.peer.get(&scene.a, &path).await.refused(400, "M_INCOMPATIBLE_ROOM_VERSION");
    assert_eq!(answer["room_version"], "12", "{answer}");
}

#[tokio::test]
async fn a_join_that_is_not_the_one_that_was_offered_is_refused() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let room = scene.alice.create_public_room().await;
    let mallory = scene.peer.user("mallory");
    let path = format!("/_matrix/federation/v1/make_join/{room}/{mallory}?ver=12");
    let template = scene.peer.get(&scene.a, &path).await.ok()["event"].clone();
    let changes: [(&str, Value); 5] = [
        ("sender", json!("@alice:a.test")),
        ("state_key", json!("@alice:a.test")),
        ("type", json!("m.room.topic")),
        ("room_id", json!("!other:a.test")),
        ("content", json!({ "membership": "ban" })),
    ];
    for (field, value) in changes {
        let mut event = template.clone();
        event["origin_server_ts"] = json!(federation_tests::now());
        event[field] = value;
        scene.peer.sign(&mut event, "12");
        let id = pdu::event_id(&event, "12");
        let path = format!("/_matrix/federation/v2/send_join/{room}/{id}");
        let answer = scene.peer.put(&scene.a, &path, event).await;
        assert!([400, 403].contains(&answer.status), "{field}: {} {}", answer.status, answer.text);
    }
    let mut unsigned = template.clone();
    unsigned["origin_server_ts"] = json!(federation_tests::now());
    pdu::add_hash(&mut unsigned);
    let path = format!("/_matrix/federation/v2/send_join/{room}/{}", pdu::event_id(&unsigned, "12"));
    let answer = scene.peer.put(&scene.a, &path, unsigned).await;
    assert!([400, 401, 403].contains(&answer.status), "unsigned: {} {}", answer.status, answer.text);
    let members = scene.alice.get(&format!("rooms/{room}/joined_members")).await.ok();
    assert_eq!(members["joined"].as_object().map(serde_json::Map::len), Some(1), "{members}");
}

#[tokio::test]
async fn an_invitation_must_be_by_its_sender_and_to_somebody_here() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let other = FakePeer::start(&scene.network, "other.test").await;
    let room = scene.peer.create_room("mallory", "12");
    let invite = |invited: &str, signer: &FakePeer| {
        let content = json!({ "membership": "invite" });
        let mut event = room.draft(&scene.peer.user("mallory"), "m.room.member", Some(invited), content);
        pdu::add_hash(&mut event);
        pdu::sign_event(&mut event, "12", &scene.peer.name, scene.peer.key_id(), signer.key());
        event
    };
    let ask = async |event: Value| {
        let id = room.id_of(&event);
        let create = room.state[&("m.room.create".to_owned(), String::new())].clone();
        let body = json!({ "room_version": "12", "event": event, "invite_room_state": [create] });
        scene.peer.put(&scene.a, &format!("/_matrix/federation/v2/invite/{}/{id}", room.id), body).await
    };
    let refused = [
        ("signed with another's key", invite(&scene.alice.user_id, &other)),
        ("to somebody elsewhere", invite("@bob:b.test", &scene.peer)),
        ("to nobody", invite("@nobody:a.test", &scene.peer)),
    ];
    for (what, event) in refused {
        let answer = ask(event).await;
        assert!([400, 401, 403, 404].contains(&answer.status), "{what}: {} {}", answer.status, answer.text);
    }
    let good = invite(&scene.alice.user_id, &scene.peer);
    let answer = ask(good).await.ok();
    assert!(answer["event"]["signatures"].get("a.test").is_some(), "it bears both signatures: {answer}");
    super::invitation(&scene.alice, &room.id).await;
    assert_eq!(scene.alice.sync(None).await["rooms"]["invite"].as_object().map(serde_json::Map::len), Some(1));
}

#[tokio::test]
async fn what_is_no_request_is_answered_as_such() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let peer = &scene.peer;
    peer.get(&scene.a, "/_matrix/federation/v1/nothing").await.refused(404, "M_UNRECOGNIZED");
    peer.post(&scene.a, "/_matrix/federation/v1/version", json!({})).await.refused(405, "M_UNRECOGNIZED");
    peer.get(&scene.a, "/_matrix/federation/v1/query/profile").await.refused(400, "M_MISSING_PARAM");
    let answer = peer.put(&scene.a, "/_matrix/federation/v1/send/t1", json!({ "pdus": "many" })).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    let path = "/_matrix/federation/v1/send/t2";
    let client = peer.speaker(&scene.a);
    let answer = client.raw(Method::PUT, path, "application/json", b"{ not json".to_vec()).await.expect("an answer");
    assert!([400, 401].contains(&answer.status), "{}", answer.text);
}
