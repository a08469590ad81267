//! Users of other domains as they are remembered here: asked for once, shown while their servers are away.

use std::time::{Duration, Instant};

use federation_tests::{Client, Engine, FakePeer, Network, Reply, Server, ServerBuilder, eventually, on_each_engine};
use serde_json::{Value, json};

const QUERY: &str = "/_matrix/federation/v1/query/profile";

/// Alice's server, and one whose users she would like to know.
struct Scene {
    network: Network,
    a: Server,
    peer: FakePeer,
    alice: Client,
}

impl Scene {
    async fn set(engine: &Engine) -> Self {
        Self::set_with(engine, |server| server).await
    }

    async fn set_with(engine: &Engine, settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let network = Network::new();
        let a = settings(network.server(engine, "a.test").await).start().await;
        let peer = FakePeer::start(&network, "b.test").await;
        let alice = a.register_with_secret("alice").await;
        Self { network, a, peer, alice }
    }

    fn calls_bob(&self, name: &str) {
        self.peer.reply(
            "GET",
            QUERY,
            Reply::Json(200, json!({ "displayname": name, "avatar_url": "mxc://b.test/face" })),
        );
    }

    async fn bob(&self) -> Value {
        self.alice.get("/api/v1/users/bob@b.test").await.ok()
    }

    /// How often the other server was asked for somebody.
    fn asked(&self) -> usize {
        self.peer.heard().iter().filter(|heard| heard.path == QUERY).count()
    }
}

#[tokio::test]
async fn a_user_elsewhere_is_found_by_either_spelling_and_asked_for_once() {
    on_each_engine(async |engine| {
        let mut scene = Scene::set(&engine).await;
        scene.calls_bob("Bob");
        let bob = scene.bob().await;
        let [fetched_at, expires_at] = ["fetched_at", "expires_at"].map(|field| bob[field].as_i64().expect("a time"));
        assert_eq!(expires_at - fetched_at, 60 * 60 * 1_000);
        let expected = json!({
            "user_id": "@bob:b.test", "address": "bob@b.test", "display_name": "Bob", "avatar_url": "mxc://b.test/face",
            "status": null, "stale": false, "fetched_at": fetched_at, "expires_at": expires_at,
        });
        assert_eq!(bob, expected);
        for spelling in ["bob@b.test", "@bob:b.test", "%40bob%3Ab.test", "bob@B.test"] {
            assert_eq!(scene.alice.get(&format!("/api/v1/users/{spelling}")).await.ok(), expected, "{spelling}");
        }
        let profile = scene.alice.get("profile/@bob:b.test").await.ok();
        assert_eq!(profile, json!({ "displayname": "Bob", "avatar_url": "mxc://b.test/face" }));
        assert_eq!(scene.asked(), 1);

        scene.a.restart().await;
        assert_eq!(scene.bob().await, expected, "it outlasts a crash");
        assert_eq!(scene.asked(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_hundred_look_ups_at_once_ask_once() {
    let scene = Scene::set(&Engine::Sqlite).await;
    scene.calls_bob("Bob");
    let looks = (0..100).map(|_| scene.bob());
    for bob in futures_util::future::join_all(looks).await {
        assert_eq!(bob["display_name"], "Bob", "{bob}");
    }
    assert_eq!(scene.asked(), 1);
}

#[tokio::test]
async fn while_their_server_is_away_what_it_said_before_is_shown_with_a_mark() {
    on_each_engine(async |engine| {
        let mut scene = Scene::set_with(&engine, |server| server.set("federation", "remote_user_fresh", "1s")).await;
        scene.calls_bob("Bob");
        assert_eq!(scene.bob().await["stale"], false);
        scene.network.link("a.test", "b.test").cut();
        let bob = eventually("what is known of Bob is old", async || {
            let bob = scene.bob().await;
            (bob["stale"] == true).then_some(bob)
        })
        .await;
        assert_eq!(bob["display_name"], "Bob", "{bob}");
        let [fetched_at, stale_since] = ["fetched_at", "stale_since"].map(|field| bob[field].as_i64().expect("a time"));
        assert!(stale_since > fetched_at, "{bob}");
        let profile = scene.alice.get("profile/@bob:b.test").await.ok();
        assert_eq!(profile["displayname"], "Bob", "Matrix has no mark: {profile}");
        scene.a.restart().await;
        assert_eq!(scene.bob().await["stale"], true);

        scene.calls_bob("Bert");
        scene.network.link("a.test", "b.test").mend();
        // After a pause of half a minute, or at once after a restart.
        scene.a.restart().await;
        eventually("Bob's new name is known", async || {
            let bob = scene.bob().await;
            (bob["display_name"] == "Bert").then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn that_there_is_no_such_user_is_remembered_too() {
    let scene = Scene::set_with(&Engine::Sqlite, |server| server.set("federation", "remote_user_missing", "2s")).await;
    for _ in 0..3 {
        let problem = scene.alice.get("/api/v1/users/nobody@b.test").await;
        assert_eq!((problem.status, &problem.body["code"]), (404, &json!("not_found")), "{}", problem.text);
        scene.alice.get("profile/@nobody:b.test").await.refused(404, "M_NOT_FOUND");
    }
    assert_eq!(scene.asked(), 1);
    scene.calls_bob("Bob");
    eventually("who has made an account since is found", async || {
        let answer = scene.alice.get("/api/v1/users/nobody@b.test").await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(scene.asked(), 2);
}

#[tokio::test]
async fn a_server_that_does_not_tell_or_is_away_or_does_not_exist_is_named_in_the_refusal() {
    let scene = Scene::set(&Engine::Sqlite).await;
    let refused = async |address: &str| {
        let problem = scene.alice.get(&format!("/api/v1/users/{address}")).await;
        (problem.status, problem.body["code"].as_str().unwrap_or_default().to_owned(), problem.text)
    };
    let no = json!({ "errcode": "M_FORBIDDEN", "error": "we tell nobody" });
    scene.peer.reply("GET", QUERY, Reply::Json(403, no));
    let (status, code, text) = refused("bob@b.test").await;
    assert_eq!((status, &*code, text.contains("we tell nobody")), (403, "refused_by_peer", true), "{text}");
    // A proxy's word is none about a user.
    scene.peer.reply("GET", QUERY, Reply::Html(404));
    let (status, code, text) = refused("carol@b.test").await;
    assert_eq!((status, &*code), (502, "peer_unreachable"), "{text}");
    let (status, code, text) = refused("dave@nowhere.test").await;
    assert_eq!((status, &*code), (502, "peer_unreachable"), "{text}");
    assert!(text.contains("nowhere.test"), "{text}");
    for nonsense in ["bob", "bob@", "bob@b_test", "a:b@b.test"] {
        let (status, code, text) = refused(nonsense).await;
        assert_eq!((status, &*code), (400, "invalid"), "{nonsense}: {text}");
    }
}

#[tokio::test]
async fn a_new_name_that_a_membership_tells_is_known_without_asking() {
    on_each_engine(async |engine| {
        let scene = Scene::set(&engine).await;
        scene.calls_bob("Bob");
        let room = scene.alice.create_public_room().await;
        let mut joined = scene.peer.join(&scene.a, &room, "bob").await;
        assert_eq!(scene.bob().await["display_name"], "Bob");
        let asked = scene.asked();
        let renamed = json!({ "membership": "join", "displayname": "Bert" });
        let event = joined.make(&scene.peer, "bob", "m.room.member", Some("@bob:b.test"), renamed);
        // His server says the same when it is asked to confirm it.
        scene.calls_bob("Bert");
        scene.peer.deliver(&scene.a, &event).await;
        eventually("Bob's new name is known", async || {
            let bob = scene.bob().await;
            (bob["display_name"] == "Bert").then_some(())
        })
        .await;
        assert!(scene.asked() <= asked + 1, "asked {} times", scene.asked() - asked);
    })
    .await;
}

#[tokio::test]
async fn who_shares_a_room_sees_whether_somebody_elsewhere_is_there() {
    let two = super::Two::meet_mixed().await;
    two.room("12").await;
    let path = format!("/api/v1/users/{}", two.bob.user_id);
    for (presence, status) in [("unavailable", "online"), ("offline", "offline")] {
        two.bob.put(&format!("presence/{}/status", two.bob.user_id), json!({ "presence": presence })).await.ok();
        eventually(&format!("Bob is {status} for Alice"), async || {
            (two.alice.get(&path).await.ok()["status"] == status).then_some(())
        })
        .await;
    }
}

/// What a look-up costs at the API when it asks nobody. The figure is for whoever reads it: machines differ, and this build
/// is not optimised.
#[tokio::test]
async fn a_look_up_of_what_is_known_is_quick() {
    for engine in [Some(Engine::Sqlite), Engine::postgres()].into_iter().flatten() {
        let scene = Scene::set(&engine).await;
        scene.calls_bob("Bob");
        scene.bob().await;
        let mut took = Vec::new();
        for _ in 0..1_000 {
            let began = Instant::now();
            scene.bob().await;
            took.push(began.elapsed());
        }
        took.sort();
        let [median, p99] = [took[500], took[990]];
        eprintln!("{engine:?}: a look-up of what is known takes {median:?}, p99 {p99:?}");
        assert_eq!(scene.asked(), 1);
        // What people are promised; the aim is a hundredth of it.
        assert!(p99 < Duration::from_millis(100), "p99 {p99:?}");
    }
}
