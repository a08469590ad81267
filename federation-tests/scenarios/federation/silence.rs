//! Peers that answer nonsense, never, or for ever; and those that ask that way. Nobody else may notice.

use std::time::{Duration, Instant};

use federation_tests::{Client, Engine, FakePeer, Network, Reply, Server, enc};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::arrives;

/// The longest that a client waits for another server to say nothing.
const TOO_LONG: Duration = Duration::from_secs(50);

struct Scene {
    network: Network,
    a: Server,
    peer: FakePeer,
    alice: Client,
}

impl Scene {
    async fn set() -> Self {
        let (network, [a]) = Network::start(&Engine::Sqlite, ["a.test"]).await;
        let peer = FakePeer::start(&network, "odd.test").await;
        let alice = a.register_with_secret("alice").await;
        Self { network, a, peer, alice }
    }

    /// Asks for somebody's profile there, and answers status and duration.
    async fn ask(&self) -> (u16, Duration) {
        let began = Instant::now();
        let answer = self.alice.get(&format!("profile/{}", enc(&self.peer.user("somebody")))).await;
        (answer.status, began.elapsed())
    }
}

#[tokio::test]
async fn nonsense_is_an_error_and_no_more() {
    let scene = Scene::set().await;
    let nonsense = [
        Reply::Bytes(b"{ \"displayname\": ".to_vec()),
        Reply::Bytes(vec![0xff; 2000]),
        Reply::Bytes(Vec::new()),
        Reply::Bytes(b"[1, 2]".to_vec()),
        Reply::Json(200, json!({ "displayname": 7 })),
        Reply::Html(502),
        Reply::Html(200),
        Reply::HangUp,
        Reply::Json(500, json!({ "errcode": "M_UNKNOWN", "error": "oh" })),
        // Twenty thousand brackets and no end.
        Reply::Bytes(vec![b'['; 20_000]),
    ];
    for reply in nonsense {
        let said = format!("{reply:?}").chars().take(60).collect::<String>();
        scene.peer.reply("GET", "/_matrix/federation/v1/query/profile", reply);
        let (status, took) = scene.ask().await;
        assert!(status >= 400, "{said} was answered {status}");
        assert!(took < Duration::from_secs(10), "{said} took {took:?}");
    }
    scene.peer.reply("GET", "/_matrix/federation/v1/query/profile", Reply::Json(200, json!({ "displayname": "Odd" })));
    federation_tests::eventually("a peer that comes to its senses is heard", async || {
        (scene.ask().await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redirect_leads_nowhere_that_is_forbidden() {
    let scene = Scene::set().await;
    // Ordinary endpoints have no redirects; what they would lead to is not asked.
    let trap = FakePeer::start(&scene.network, "trap.test").await;
    let address = scene.network.address("trap.test");
    let elsewhere = format!("https://trap.test:{}/secret", address.port());
    scene.peer.reply("GET", "/_matrix/federation/v1/query/profile", Reply::Redirect(elsewhere));
    let (status, _) = scene.ask().await;
    assert!(status >= 400, "{status}");
    assert!(trap.heard().is_empty(), "{:?}", trap.heard());
}

#[tokio::test]
async fn silence_and_endless_words_have_an_end_and_others_do_not_wait() {
    let scene = Scene::set().await;
    let good = FakePeer::start(&scene.network, "good.test").await;
    good.reply("GET", "/_matrix/federation/v1/query/profile", Reply::Json(200, json!({ "displayname": "Good" })));
    let mut peers = Vec::new();
    for (name, reply) in [("never.test", Reply::Never), ("drip.test", Reply::Drip), ("endless.test", Reply::Endless)] {
        let peer = FakePeer::start(&scene.network, name).await;
        peer.reply("GET", "/_matrix/federation/v1/query/profile", reply);
        peers.push(peer);
    }
    let waiting = peers.iter().map(|peer| async {
        let began = Instant::now();
        let answer = scene.alice.get(&format!("profile/{}", enc(&peer.user("somebody")))).await;
        assert!(answer.status >= 400, "{}: {}", peer.name, answer.text);
        assert!(began.elapsed() < TOO_LONG, "{} took {:?}", peer.name, began.elapsed());
    });
    let before = scene.a.usage().resident_kb;
    let others = async {
        for _ in 0..20 {
            let began = Instant::now();
            scene.alice.get(&format!("profile/{}", enc(&good.user("somebody")))).await.ok();
            assert!(began.elapsed() < Duration::from_secs(3), "the silence of others took {:?}", began.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    futures_util::future::join(futures_util::future::join_all(waiting), others).await;
    let grown = scene.a.usage().resident_kb.saturating_sub(before);
    assert!(grown < 100_000, "endless words were kept: {grown} kB");
}

#[tokio::test]
async fn a_join_through_a_server_that_says_nonsense_fails_and_leaves_nothing() {
    let scene = Scene::set().await;
    let room = scene.peer.create_room("owner", "12");
    scene.peer.host(&room);
    // Until the very last step everything is as it should be.
    for reply in [
        Reply::Json(200, json!({})),
        Reply::Json(200, json!({ "state": [], "auth_chain": [], "event": {} })),
        Reply::Json(200, json!({ "state": ["x"], "auth_chain": [1] })),
        Reply::Bytes(b"{".to_vec()),
        Reply::HangUp,
    ] {
        let said = format!("{reply:?}");
        scene.peer.reply("PUT", "/_matrix/federation/v2/send_join/", reply);
        let answer = scene.alice.try_join_via(&room.id, &["odd.test"]).await;
        assert!(answer.status >= 400, "{said} was answered {}", answer.text);
        assert!(answer.status != 500, "{said} was answered {}", answer.text);
        let rooms = scene.alice.get("joined_rooms").await.ok();
        assert_eq!(rooms["joined_rooms"], json!([]), "{said}");
    }
    // With a server that knows what to say, the same room can be joined.
    scene.peer.host(&room);
    scene.alice.join_via(&room.id, &["odd.test"]).await;
    let event_id = scene.alice.say(&room.id, "finally").await;
    arrives(&scene.alice, &room.id, &event_id).await;
    scene.peer.hears("Alice's word", |heard| heard.body["pdus"].to_string().contains("finally").then_some(())).await;
}

#[tokio::test]
async fn a_joined_room_whose_state_is_a_lie_is_not_joined() {
    let scene = Scene::set().await;
    let other = FakePeer::start(&scene.network, "other.test").await;
    // Whoever signs for others, by a power level that its owner never gave.
    let mut room = scene.peer.create_room("owner", "12");
    let key = ("m.room.power_levels".to_owned(), String::new());
    let mut levels = room.state[&key].clone();
    levels["signatures"] = json!({});
    federation_tests::pdu::sign_event(&mut levels, "12", "odd.test", other.key_id(), other.key());
    for event in room.events.iter_mut().filter(|event| event["type"] == "m.room.power_levels") {
        event.clone_from(&levels);
    }
    room.state.insert(key, levels);
    scene.peer.host(&room);
    let answer = scene.alice.try_join_via(&room.id, &["odd.test"]).await;
    // Either nothing is believed, or all but the lie.
    if answer.status == 200 {
        let levels = scene.alice.state(&room.id, "m.room.power_levels", "").await;
        assert_eq!(levels.status, 404, "a lie became the state of the room: {}", levels.text);
    }
}

#[tokio::test]
async fn slow_askers_hold_nobody_up_and_are_hung_up_on() {
    let scene = Scene::set().await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        // Connected, and then not a word, not even of TLS.
        slow.push(TcpStream::connect(scene.a.federation_address()).await.expect("a connection"));
    }
    for stream in slow.iter_mut().take(50) {
        // The beginning of a TLS record that never goes on.
        let _ = stream.write_all(&[22, 3, 1]).await;
    }
    let began = Instant::now();
    for _ in 0..5 {
        scene.a.federation().get("/_matrix/key/v2/server").await.ok();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let deadline = Instant::now() + Duration::from_secs(60);
    for stream in &slow {
        while !is_closed(stream) {
            assert!(Instant::now() < deadline, "a connection without a word is kept");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn is_closed(stream: &TcpStream) -> bool {
    let mut byte = [0];
    match stream.try_read(&mut byte) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_read_to_its_end() {
    let scene = Scene::set().await;
    let before = scene.a.usage().resident_kb;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = sent.clone();
    let flood = futures_util::stream::repeat_with(move || {
        counted.fetch_add(64 * 1024, std::sync::atomic::Ordering::Relaxed);
        vec![b' '; 64 * 1024]
    });
    let path = "/_matrix/federation/v1/send/endless";
    let header = scene.peer.authorization("a.test", "PUT", path, Some(&json!({})));
    let answer = scene.peer.pour(&scene.a, path, &header, flood).await;
    if let Some(status) = answer {
        assert!([400, 401, 408, 413].contains(&status), "{status}");
    }
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(sent < 200 << 20, "{sent} bytes were read");
    let grown = scene.a.usage().resident_kb.saturating_sub(before);
    assert!(grown < 150_000, "they were kept: {grown} kB");
    scene.a.federation().get("/_matrix/key/v2/server").await.ok();
}
