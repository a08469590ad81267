//! The keys with which servers prove who they are.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use federation_tests::{Client, Engine, FakePeer, Network, Server, eventually, on_each_engine, pdu};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Two, arrives, is_known};

/// Whether `object` is signed by `server` with one of the keys that `published` shows.
fn is_signed(object: &Value, server: &str, published: &Value) -> bool {
    let signatures = object["signatures"][server].as_object();
    signatures.into_iter().flatten().any(|(key_id, signature)| {
        let key = published["verify_keys"][key_id]["key"].as_str().unwrap_or_default();
        let key = STANDARD_NO_PAD.decode(key).expect("a key is base64 without padding");
        pdu::is_signature(signature.as_str().unwrap_or_default(), &key, object)
    })
}

#[tokio::test]
async fn a_server_publishes_its_keys_signed_by_themselves() {
    on_each_engine(async |engine| {
        let (_network, [a]) = Network::start(&engine, ["a.test"]).await;
        let keys = a.federation().get("/_matrix/key/v2/server").await.ok();
        assert_eq!(keys["server_name"], "a.test", "{keys}");
        assert_eq!(keys["verify_keys"].as_object().map(serde_json::Map::len), Some(1), "{keys}");
        assert!(is_signed(&keys, "a.test", &keys), "{keys}");
        let valid_for = keys["valid_until_ts"].as_u64().expect("a time").saturating_sub(federation_tests::now());
        // Others trust it for no more than seven days, and ask again after half of that time.
        assert!((60 * 60 * 1000..=7 * 24 * 60 * 60 * 1000).contains(&valid_for), "valid for {valid_for} ms");
    })
    .await;
}

#[tokio::test]
async fn a_server_names_its_software_to_others() {
    let (_network, [a]) = Network::start(&Engine::Sqlite, ["a.test"]).await;
    let version = a.federation().get("/_matrix/federation/v1/version").await.ok();
    assert_eq!(version["server"]["name"], "Comity", "{version}");
    assert!(version["server"]["version"].is_string(), "{version}");
}

#[tokio::test]
async fn a_server_vouches_for_the_keys_of_others() {
    on_each_engine(async |engine| {
        let (network, [a]) = Network::start(&engine, ["a.test"]).await;
        let peer = FakePeer::start(&network, "p.test").await;
        let own = a.federation().get("/_matrix/key/v2/server").await.ok();

        let wanted = json!({ "server_keys": { "p.test": { peer.key_id(): { "minimum_valid_until_ts": 0 } } } });
        let answer = a.federation().post("/_matrix/key/v2/query", wanted).await.ok();
        let vouched = &answer["server_keys"][0];
        assert_eq!(vouched["server_name"], "p.test", "{answer}");
        assert!(is_signed(vouched, "p.test", vouched), "{answer}");
        assert!(is_signed(vouched, "a.test", &own), "{answer}");

        let answer = a.federation().get("/_matrix/key/v2/query/p.test").await.ok();
        assert_eq!(answer["server_keys"][0]["server_name"], "p.test", "{answer}");
        let answer = a.federation().get("/_matrix/key/v2/query/nowhere.test").await.ok();
        assert_eq!(answer["server_keys"], json!([]), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn keys_that_do_not_fit_their_server_are_not_believed() {
    let (network, [a]) = Network::start(&Engine::Sqlite, ["a.test"]).await;
    let honest = FakePeer::start(&network, "honest.test").await;
    let liar = FakePeer::start(&network, "liar.test").await;
    // The liar serves somebody else's keys, properly signed by that one.
    let stolen = honest.published_keys();
    liar.reply("GET", "/_matrix/key/v2/server", federation_tests::Reply::Json(200, stolen));
    let answer = a.federation().get("/_matrix/key/v2/query/liar.test").await.ok();
    assert_eq!(answer["server_keys"], json!([]), "{answer}");
}

fn run_keys(server: &Server, arguments: &[&str]) -> String {
    let output = std::process::Command::new(federation_tests::binary())
        .args(["keys", "--config"])
        .arg(server.folder().join("config.toml"))
        .args(arguments)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "keys {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test]
async fn a_key_that_was_replaced_is_still_believed_for_what_it_has_signed() {
    let mut two = Two::meet_mixed().await;
    let room = two.public_room().await;
    let before = two.alice.say(&room, "by the old key").await;
    let old = two.a.federation().get("/_matrix/key/v2/server").await.ok();
    let old_id = old["verify_keys"].as_object().and_then(|keys| keys.keys().next()).expect("a key").clone();

    two.a.stop().await;
    run_keys(&two.a, &["rotate"]);
    two.a.restart().await;
    let new = two.a.federation().get("/_matrix/key/v2/server").await.ok();
    assert!(new["verify_keys"].get(&old_id).is_none(), "{new}");
    assert_eq!(new["old_verify_keys"][&old_id]["key"], old["verify_keys"][&old_id]["key"], "{new}");
    assert!(new["old_verify_keys"][&old_id]["expired_ts"].is_u64(), "{new}");

    let after = two.alice.say(&room, "by the new key").await;
    arrives(&two.bob, &room, &after).await;
    // A server that comes now has to believe both.
    let c = two.network.server(&Engine::Sqlite, "c.test").await.start().await;
    let carol = c.register_with_secret("carol").await;
    carol.join_via(&room, &["a.test"]).await;
    let history = carol.history(&room).await;
    for event_id in [&before, &after] {
        assert!(history.iter().any(|event| event["event_id"] == event_id.as_str()), "{event_id} is missing");
    }
}

/// Puts a foreign key into the place of a server's own.
fn replace_key(server: &Server) {
    let file = server.folder().join("keys/signing.key");
    let line = format!("ed25519 foreign {}\n", STANDARD_NO_PAD.encode([66; 32]));
    std::fs::write(file, line).expect("it can be written over");
}

#[tokio::test]
async fn who_is_pinned_may_change_its_key_but_nobody_may_change_it_for_them() {
    let mut two = Two::meet_mixed().await;
    let room = two.public_room().await;
    let admin = two.b.admin().await;
    let of_a = "/api/v1/admin/peers/a.test";
    let pins = async |admin: &Client| {
        let view = admin.get(of_a).await.ok();
        (view["settings"]["pinned_keys"].clone(), view["standing"].clone())
    };
    let in_use = async |server: &Server| {
        let published = server.federation().get("/_matrix/key/v2/server").await.ok();
        let keys = published["verify_keys"].as_object().expect("they are listed").clone();
        keys.into_iter().map(|(key_id, key)| (key_id, key["key"].clone())).collect::<Value>()
    };
    let first = in_use(&two.a).await;
    let pin = json!({ "level": "full", "pinned_keys": first, "reason": "we compared them by phone" });
    admin.attempt(Method::PATCH, of_a, Some(&pin)).await.expect("the server answers").ok();
    let before = two.alice.say(&room, "by the pinned key").await;
    arrives(&two.bob, &room, &before).await;

    // Twice, so that each time it is the key before that has signed.
    for _ in 0..2 {
        let old = in_use(&two.a).await;
        two.a.stop().await;
        run_keys(&two.a, &["rotate"]);
        two.a.restart().await;
        let new = in_use(&two.a).await;
        assert_ne!(new, old);
        let said = two.alice.say(&room, "by a new key").await;
        arrives(&two.bob, &room, &said).await;
        assert_eq!(pins(&admin).await, (new, json!("active")));
        let answered = two.bob.say(&room, "I hear you").await;
        arrives(&two.alice, &room, &answered).await;
    }
    let log = admin.get("/api/v1/admin/audit?peer=a.test").await.ok();
    let rotations = log["entries"].as_array().expect("it is a list").iter();
    assert_eq!(rotations.filter(|entry| entry["action"] == "peer.keys_rotated").count(), 2, "{log}");

    // Somebody has the server, and a key of their own.
    let pinned = pins(&admin).await.0;
    two.a.stop().await;
    replace_key(&two.a);
    two.a.restart().await;
    let forged = two.alice.say(&room, "by a foreign key").await;
    eventually("b.test raises an alarm", async || (pins(&admin).await.1 == "alarmed").then_some(())).await;
    assert_eq!(pins(&admin).await.0, pinned);
    assert!(!is_known(&two.bob, &room, &forged).await);
}
