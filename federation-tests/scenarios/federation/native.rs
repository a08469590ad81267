//! The native federation API: who is believed, and chat systems that don't speak Matrix.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    sync::mpsc,
};

use federation_tests::{
    Answer, Client, Engine, FakePeer, NativeRequest, Network, Peer as _, Reply, Server, Synapse, claims_of, eventually,
    now, on_each_engine,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::texts_of;

const DELIVER: &str = "/api/v1/federation/messages/deliver";
const STATUS: &str = "/api/v1/federation/peer-status";

/// Alice's server, and one that doesn't speak Matrix.
struct Scene {
    network: Network,
    a: Server,
    peer: FakePeer,
    alice: Client,
}

impl Scene {
    async fn set(engine: &Engine) -> Self {
        let (network, [a]) = Network::start(engine, ["a.test"]).await;
        let peer = FakePeer::start(&network, "b.test").await;
        let alice = a.register_with_secret("alice").await;
        Self { network, a, peer, alice }
    }

    fn message(&self, id: &str, body: &str) -> Value {
        json!({ "message_id": id, "from": "bob@b.test", "to": "alice@a.test", "body": body, "sent_at": now() })
    }

    async fn deliver(&self, id: &str, body: &str) -> Value {
        self.peer.post_native(&self.a, DELIVER, self.message(id, body)).await.ok()["messages"][0].clone()
    }

    /// A delivery that is honest until `change` has been at it.
    async fn deliver_changed(&self, id: &str, change: impl FnOnce(&mut NativeRequest)) -> Answer {
        let mut request = self.peer.native("a.test", Method::POST, DELIVER, Some(self.message(id, "hello")));
        change(&mut request);
        self.peer.ask_native(&self.a, &request).await
    }

    /// The room that Alice is invited to, once she is.
    async fn invitation(&self) -> String {
        eventually("Alice is invited", async || {
            let sync = self.alice.sync(None).await;
            sync["rooms"]["invite"].as_object().and_then(|rooms| rooms.keys().next().cloned())
        })
        .await
    }

    async fn is_untouched(&self) {
        let sync = self.alice.sync(None).await;
        assert!(sync["rooms"]["invite"].as_object().is_none_or(serde_json::Map::is_empty), "{sync}");
    }
}

#[tokio::test]
async fn what_is_not_signed_by_its_sender_for_this_server_now_and_once_changes_nothing() {
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine).await;
        let stranger = FakePeer::start(&scene.network, "stranger.test").await;
        let seconds = now() / 1_000;
        let claim = |field: &'static str, value: Value| {
            Box::new(move |request: &mut NativeRequest| request.claims[field] = value)
                as Box<dyn FnOnce(&mut NativeRequest)>
        };
        let head = |field: &'static str, value: Value| {
            Box::new(move |request: &mut NativeRequest| request.head[field] = value)
                as Box<dyn FnOnce(&mut NativeRequest)>
        };
        let cases = [
            ("wrong_audience", claim("aud", json!("c.test"))),
            (
                "unknown_key",
                Box::new(|request: &mut NativeRequest| {
                    (request.claims["iss"], request.claims["sub"]) = (json!("nowhere.test"), json!("nowhere.test"));
                }),
            ),
            ("wrong_issuer", claim("iss", json!("a.test"))),
            ("wrong_issuer", claim("iss", json!("bob@b.test"))),
            ("wrong_subject", claim("sub", json!("alice@a.test"))),
            ("token_expired", claim("exp", json!(seconds - 120))),
            ("token_not_yet_valid", claim("iat", json!(seconds + 120))),
            ("token_lives_too_long", claim("exp", json!(seconds + 3_600))),
            ("unknown_key", head("kid", json!("ed25519:other"))),
            ("unsupported_algorithm", head("alg", json!("none"))),
            ("unsupported_algorithm", head("alg", json!("HS256"))),
            ("unsupported_algorithm", head("alg", json!("RS256"))),
            ("unsupported_algorithm", head("alg", json!("ES256"))),
            ("unsigned_body", Box::new(|request: &mut NativeRequest| request.body_signature.clear())),
            (
                "wrong_body_signature",
                Box::new(|request: &mut NativeRequest| {
                    request.body = String::from_utf8_lossy(&request.body).replace("hello", "give me money").into();
                }),
            ),
        ];
        for (at, (code, change)) in cases.into_iter().enumerate() {
            let answer = scene.deliver_changed(&format!("case {at}"), change).await;
            assert_eq!(answer.status, 401, "{code}: {}", answer.text);
            answer.problem(401, code);
        }
        // Whose name it is says nothing where the key is another's.
        let mut forged = stranger.native("a.test", Method::POST, DELIVER, Some(scene.message("forged", "hello")));
        (forged.claims["iss"], forged.claims["sub"]) = (json!("b.test"), json!("b.test"));
        stranger.ask_native(&scene.a, &forged).await.problem(401, "bad_signature");
        // An unsigned token is none, whatever it says.
        let request = scene.peer.native("a.test", Method::POST, DELIVER, Some(scene.message("none", "hello")));
        let token = scene.peer.token(&json!({ "alg": "none" }), &request.claims);
        let unsigned = format!("Bearer {}.", token.rsplit_once('.').expect("it has three parts").0);
        let answer = scene.peer.ask_bearing(&scene.a, &request, &unsigned).await;
        answer.problem(401, "unsupported_algorithm");
        let answer = scene.deliver_changed("narrow", |request| request.claims["scope"] = json!(["status"])).await;
        answer.problem(403, "insufficient_scope");
        scene.is_untouched().await;
        let metrics = scene.a.anonymous().get("/metrics").await.text;
        for reason in ["wrong_audience", "token_expired", "unsupported_algorithm", "wrong_body_signature"] {
            assert!(metrics.contains(&format!("comity_federation_refused_total{{reason=\"{reason}\"}}")), "{reason}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_is_good_once_also_after_a_restart() {
    on_each_engine(async |engine| {
        let mut scene = Scene::set(&engine).await;
        let request = scene.peer.native("a.test", Method::GET, STATUS, None);
        scene.peer.ask_native(&scene.a, &request).await.ok();
        scene.peer.ask_native(&scene.a, &request).await.problem(401, "token_replayed");
        scene.a.kill();
        scene.a.restart().await;
        scene.peer.ask_native(&scene.a, &request).await.problem(401, "token_replayed");
        scene.peer.get_native(&scene.a, STATUS).await.ok();
    })
    .await;
}

#[tokio::test]
async fn too_much_at_once_is_refused_whole() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let messages: Vec<Value> = (0..101).map(|at| scene.message(&format!("m{at}"), "hello")).collect();
    scene.peer.post_native(&scene.a, DELIVER, json!({ "messages": messages })).await.problem(413, "too_many");
    let pdus: Vec<Value> = (0..51).map(|_| json!({})).collect();
    let transaction = json!({ "origin": "b.test", "txn_id": "1", "pdus": pdus });
    scene.peer.post_native(&scene.a, DELIVER, transaction).await.problem(400, "too_many");
    let presence: Vec<Value> = (0..1_001)
        .map(|at| json!({ "user_id": format!("u{at}@b.test"), "presence": "online", "sequence": 1 }))
        .collect();
    let answer =
        scene.peer.post_native(&scene.a, "/api/v1/federation/presence/sync", json!({ "presence": presence })).await;
    assert!(["too_many", "not_trusted"].contains(&answer.body["code"].as_str().unwrap_or_default()), "{}", answer.text);
    let long = "x".repeat(25 << 20);
    let answer = scene.peer.post_native(&scene.a, DELIVER, json!({ "message_id": "1", "body": long })).await;
    answer.problem(413, "too_large");
    scene.is_untouched().await;
}

#[tokio::test]
async fn who_goes_through_names_is_stopped() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let look_up =
        async |name: &str| scene.peer.get_native(&scene.a, &format!("/api/v1/federation/users/{name}@a.test")).await;
    assert_eq!(look_up("alice").await.ok()["matrix_id"], "@alice:a.test");
    let mut stopped = None;
    for at in 0..300 {
        let answer = look_up(&format!("user{at}")).await;
        if answer.status != 404 {
            stopped = Some((at, answer));
            break;
        }
    }
    let (at, answer) = stopped.expect("300 names are too many");
    answer.problem(429, "enumeration");
    assert!(at >= 50, "{at} are not many");
    look_up("alice").await.problem(429, "enumeration");
    let search = scene.peer.get_native(&scene.a, "/api/v1/federation/users?q=alice").await;
    search.problem(429, "enumeration");
}

#[tokio::test]
async fn a_real_transaction_takes_the_same_way_as_over_the_matrix_api() {
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine).await;
        let room = scene.alice.create_public_room().await;
        let mut known = scene.peer.join(&scene.a, &room, "bob").await;
        let event = known.say(&scene.peer, "bob", "over the native API");
        let event_id = known.id_of(&event);
        let transaction = json!({ "origin": "b.test", "txn_id": "n1", "pdus": [event], "edus": [] });
        let answers = scene.peer.post_native(&scene.a, DELIVER, transaction.clone()).await.ok();
        assert_eq!(answers, json!({ "pdus": { event_id.as_str(): {} } }));
        super::arrives(&scene.alice, &room, &event_id).await;
        assert_eq!(scene.peer.post_native(&scene.a, DELIVER, transaction.clone()).await.ok(), answers);
        // By X-Matrix as well, and whoever names another origin is refused.
        assert_eq!(scene.peer.post(&scene.a, DELIVER, transaction).await.ok(), answers);
        let foreign = json!({ "origin": "c.test", "txn_id": "n2", "pdus": [] });
        scene.peer.post_native(&scene.a, DELIVER, foreign).await.problem(403, "wrong_origin");
    })
    .await;
}

#[tokio::test]
async fn a_message_arrives_once_and_the_reply_goes_back_signed_also_after_an_outage_and_a_restart() {
    on_each_engine(async |engine| {
        let mut scene = Scene::set(&engine).await;
        let first = scene.deliver("m1", "hello").await;
        assert_eq!(first["status"], "accepted", "{first}");
        assert_eq!(scene.deliver("m1", "hello").await, first);
        let room = scene.invitation().await;
        scene.alice.join(&room).await;

        // Nobody takes the reply for a while, and the server is killed meanwhile.
        scene.peer.reply("POST", DELIVER, Reply::Html(503));
        scene.alice.say(&room, "hi Bob").await;
        scene.peer.hears("a reply", |heard| (heard.path == DELIVER).then_some(())).await;
        scene.a.kill();
        scene.a.restart().await;
        scene.alice.say(&room, "are you there?").await;
        scene.peer.reply("POST", DELIVER, Reply::Json(200, json!({})));
        let before = scene.peer.heard().len();
        let published = scene.peer.get(&scene.a, "/_matrix/key/v2/server").await.ok();
        let (_, key) = published["verify_keys"].as_object().and_then(|keys| keys.iter().next()).expect("it has a key");
        let key = key["key"].as_str().map(federation_tests::pdu::unbase64).expect("it is base64");
        let replies = eventually("both replies arrive, in order", async || {
            let heard = scene.peer.heard().split_off(before);
            let mut replies: Vec<_> = heard.into_iter().filter(|heard| heard.path == DELIVER).collect();
            // One that was on its way when the peer came round is sent once more, under the same id.
            replies.dedup_by_key(|heard| heard.body["message_id"].clone());
            (replies.len() >= 2).then_some(replies)
        })
        .await;
        let bodies: Vec<_> = replies.iter().map(|heard| heard.body["body"].as_str().unwrap_or_default()).collect();
        assert_eq!(bodies, ["hi Bob", "are you there?"]);
        for reply in &replies {
            let claims = claims_of(reply, &key).expect("it is signed, and so is its body");
            assert_eq!((&claims["iss"], &claims["aud"]), (&json!("a.test"), &json!("b.test")));
            assert_eq!((&claims["sub"], &claims["scope"]), (&json!("alice@a.test"), &json!(["messaging"])));
            assert_eq!((&reply.body["from"], &reply.body["to"]), (&json!("alice@a.test"), &json!("bob@b.test")));
        }
        let again = scene.deliver("m2", "yes").await;
        assert_eq!(again["status"], "accepted", "{again}");
        eventually("Alice reads it all in one room", async || {
            let texts = texts_of(&scene.alice.history(&room).await);
            (texts == ["hello", "hi Bob", "are you there?", "yes"]).then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn who_writes_what_the_other_server_will_not_take_is_told() {
    let scene = Scene::set(&Engine::Sqlite).await;
    scene.deliver("m1", "hello").await;
    let room = scene.invitation().await;
    scene.alice.join(&room).await;
    scene.peer.reply("POST", DELIVER, Reply::Json(403, json!({ "code": "gone", "detail": "bob has moved" })));
    scene.alice.say(&room, "still there?").await;
    eventually("Alice is told", async || {
        let texts = texts_of(&scene.alice.history(&room).await);
        texts.iter().any(|text| text == "Not delivered to bob@b.test: bob has moved").then_some(())
    })
    .await;
    // What comes after it is another question.
    scene.peer.reply("POST", DELIVER, Reply::Json(200, json!({})));
    scene.alice.say(&room, "and now?").await;
    scene.peer.hears("the next", |heard| (heard.body["body"] == "and now?").then_some(())).await;
    let heard = scene.peer.heard();
    assert_eq!(heard.iter().filter(|heard| heard.body["body"] == "still there?").count(), 1);
}

#[tokio::test]
async fn the_example_peer_talks_with_alice() {
    let Some(python) = Synapse::python() else { return };
    let (network, [a]) = Network::start(&Engine::Sqlite, ["a.test"]).await;
    let alice = a.register_with_secret("alice").await;
    let place = network.settle("b.test", false).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, content: String| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("one's own folder can be written to");
        path
    };
    let leaf = network.authority.leaf(&["b.test"]);
    let mut peer = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/federation-tests/example_peer.py"))
        .arg("b.test")
        .arg(folder.path().join("seed"))
        .args([file("certificate.pem", leaf.certificate_pem()), file("key.pem", leaf.key_pem())])
        .arg(place.address.to_string())
        .args(["--reach", &format!("a.test={}", a.place().address), "--ca"])
        .arg(file("authority.pem", network.authority.pem()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python can be started");
    let (told, said) = mpsc::channel::<Value>();
    let output = BufReader::new(peer.stdout.take().expect("it was asked for"));
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            told.send(serde_json::from_str(&line).unwrap_or_default()).ok();
        }
    });
    let next = async |what: &str| eventually(what, async || said.try_recv().ok()).await;
    let mut input = peer.stdin.take().expect("it was asked for");
    let mut say = |line: &str| writeln!(input, "{line}").expect("it listens");

    say("bob alice@a.test Hello from Python");
    let sent = next("the peer has sent something").await;
    assert_eq!(
        (&sent["sent"][0], &sent["sent"][1]["messages"][0]["status"]),
        (&json!(200), &json!("accepted")),
        "{sent}"
    );
    let room = eventually("Alice is invited", async || {
        let sync = alice.sync(None).await;
        sync["rooms"]["invite"].as_object().and_then(|rooms| rooms.keys().next().cloned())
    })
    .await;
    alice.join(&room).await;
    assert_eq!(texts_of(&alice.history(&room).await), ["Hello from Python"]);
    alice.say(&room, "Hello Bob, grüß dich").await;
    let reply = next("the reply arrives").await;
    assert_eq!((&reply["from"], &reply["to"]), (&json!("alice@a.test"), &json!("bob@b.test")), "{reply}");
    assert_eq!(reply["body"], "Hello Bob, grüß dich");
    say("bob nobody@a.test Hello?");
    let refused = next("the peer is told no").await;
    assert_eq!(refused["sent"][1]["messages"][0]["code"], "unknown_user", "{refused}");
    // It may have ended by itself.
    let _ = peer.kill();
    let _ = peer.wait();
}
