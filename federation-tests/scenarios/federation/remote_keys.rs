//! Devices and their keys, across domains.

use std::time::Duration;

use federation_tests::{Client as Raw, Engine, Network, eventually, on_each_engine};
use matrix_sdk::{Client, config::SyncSettings, ruma::OwnedRoomId};
use serde_json::{Value, json};

use super::Two;
use crate::{
    encrypted::{encrypted_room, say},
    sdk,
};

/// A device of `client`'s with an identity key and so many one-time keys.
async fn upload_keys(client: &Raw, one_time_keys: usize) {
    let (user, device) = (&client.user_id, &client.device_id);
    let keys: serde_json::Map<String, Value> = (0..one_time_keys)
        .map(|number| {
            let key =
                json!({ "key": format!("once{number:04}"), "signatures": { user: { format!("ed25519:{device}"): "s" } } });
            (format!("signed_curve25519:AAAA{number}"), key)
        })
        .collect();
    let device_keys = json!({
        "user_id": user, "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { format!("curve25519:{device}"): "curve", format!("ed25519:{device}"): "ed" },
        "signatures": { user: { format!("ed25519:{device}"): "signature" } },
    });
    client.post("keys/upload", json!({ "device_keys": device_keys, "one_time_keys": keys })).await.ok();
}

/// What is known of a user's devices, as `client` asks for it.
async fn query(client: &Raw, user_id: &str) -> Value {
    let answer = client.post("keys/query", json!({ "device_keys": { user_id: [] } })).await.ok();
    answer["device_keys"][user_id].clone()
}

#[tokio::test]
async fn device_keys_of_another_domain_are_found() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        upload_keys(&two.alice, 3).await;
        // They need not share a room for that.
        let devices = query(&two.bob, &two.alice.user_id).await;
        let keys = &devices[&two.alice.device_id];
        assert_eq!(keys["keys"][format!("ed25519:{}", two.alice.device_id)], "ed", "{devices}");
        assert_eq!(keys["user_id"], two.alice.user_id.as_str(), "{devices}");
    })
    .await;
}

#[tokio::test]
async fn each_one_time_key_is_claimed_once_from_another_domain() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        upload_keys(&two.alice, 2).await;
        let wanted = json!({ two.alice.user_id.clone(): { two.alice.device_id.clone(): "signed_curve25519" } });
        let mut claimed = Vec::new();
        for _ in 0..3 {
            let answer = two.bob.post("keys/claim", json!({ "one_time_keys": wanted })).await.ok();
            let keys = answer["one_time_keys"][&two.alice.user_id][&two.alice.device_id].as_object().cloned();
            claimed.extend(keys.into_iter().flatten().map(|(id, _)| id));
        }
        claimed.sort();
        assert_eq!(claimed, ["signed_curve25519:AAAA0", "signed_curve25519:AAAA1"]);
        let answer = two.alice.post("keys/upload", json!({})).await.ok();
        assert_eq!(answer["one_time_key_counts"]["signed_curve25519"].as_u64().unwrap_or_default(), 0, "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_named_among_the_failures() {
    let two = Two::meet_mixed().await;
    two.network.part("a.test", "b.test");
    let wanted =
        json!({ "device_keys": { two.alice.user_id.clone(): [], two.bob.user_id.clone(): [] }, "timeout": 3000 });
    upload_keys(&two.bob, 1).await;
    let answer = two.bob.post("keys/query", wanted).await.ok();
    assert!(answer["failures"].get("a.test").is_some(), "{answer}");
    assert!(answer["device_keys"][&two.bob.user_id].get(&two.bob.device_id).is_some(), "{answer}");
}

#[tokio::test]
async fn a_new_device_is_announced_to_the_other_domain() {
    let two = Two::meet_mixed().await;
    two.room("12").await;
    upload_keys(&two.alice, 1).await;
    let mut since = two.bob.now().await;
    let known = eventually("Bob knows Alice's device", async || {
        let devices = query(&two.bob, &two.alice.user_id).await;
        devices.get(&two.alice.device_id).map(|_| devices.as_object().map_or(0, serde_json::Map::len))
    })
    .await;
    assert_eq!(known, 1);
    let phone = two.a.login("alice").await;
    upload_keys(&phone, 1).await;
    eventually("Bob is told of a change and sees the new device", async || {
        two.bob
            .sync_until(&mut since, |answer| {
                let changed = answer["device_lists"]["changed"].as_array()?;
                changed.contains(&json!(two.alice.user_id)).then_some(())
            })
            .await;
        query(&two.bob, &two.alice.user_id).await.get(&phone.device_id).map(|_| ())
    })
    .await;

    // And that it has gone.
    phone.post("logout", json!({})).await.ok();
    eventually("Bob no longer sees it", async || {
        query(&two.bob, &two.alice.user_id).await.get(&phone.device_id).is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn device_changes_missed_during_an_outage_are_caught_up_with() {
    let mut two = Two::meet_mixed().await;
    two.room("12").await;
    upload_keys(&two.alice, 1).await;
    eventually("Bob knows Alice's device", async || {
        query(&two.bob, &two.alice.user_id).await.get(&two.alice.device_id).map(|_| ())
    })
    .await;
    two.b.kill();
    let mut phones = Vec::new();
    for _ in 0..3 {
        let phone = two.a.login("alice").await;
        upload_keys(&phone, 1).await;
        phones.push(phone);
    }
    two.b.restart().await;
    eventually("Bob knows all of Alice's devices", async || {
        let devices = query(&two.bob, &two.alice.user_id).await;
        phones.iter().all(|phone| devices.get(&phone.device_id).is_some()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn messages_to_a_device_arrive_once_even_through_an_outage() {
    let mut two = Two::meet_mixed().await;
    two.room("12").await;
    let mut since = two.bob.now().await;
    two.b.kill();
    for number in 0..5 {
        let messages = json!({ two.bob.user_id.clone(): { two.bob.device_id.clone(): { "number": number } } });
        let path = format!("sendToDevice/org.example.note/t{number}");
        two.alice.put(&path, json!({ "messages": messages })).await.ok();
    }
    // Alice's server dies with them unsent.
    two.a.kill();
    two.a.restart().await;
    two.b.restart().await;
    let mut numbers = Vec::new();
    two.bob
        .sync_until(&mut since, |answer| {
            for event in answer["to_device"]["events"].as_array().into_iter().flatten() {
                assert_eq!(event["sender"], two.alice.user_id.as_str(), "{event}");
                numbers.extend(event["content"]["number"].as_u64());
            }
            (numbers.len() >= 5).then_some(())
        })
        .await;
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
}

// === with the SDK, which believes only the specification ===

async fn two_whisper(engine: Engine) {
    let (network, [a, b]) = Network::start(&engine, ["a.test", "b.test"]).await;
    let alice = sdk::register(&a, "alice").await;
    let bob = sdk::register(&b, "bob").await;
    let room = encrypted_room(&alice, &bob).await;
    say(&alice, &room, "nobody else can read this").await;
    let heard = sdk::sync_until_message(&bob, &room, "nobody else can read this").await;
    let info = heard.encryption_info().expect("it came encrypted");
    assert_eq!(Some(info.sender.as_ref()), alice.user_id());
    say(&bob, &room, "nor this").await;
    sdk::sync_until_message(&alice, &room, "nor this").await;
    for crossing in network.crossings() {
        assert!(!String::from_utf8_lossy(&crossing.body).contains("nobody else"), "in the clear: {crossing}");
    }
    a_later_device_reads_on(&alice, &bob, &room, &b).await;
}

async fn a_later_device_reads_on(alice: &Client, bob: &Client, room: &OwnedRoomId, b: &federation_tests::Server) {
    let phone = sdk::login(b, "bob").await;
    sdk::sync_until_members(&phone, room, 2).await;
    let bob_id = bob.user_id().expect("logged in");
    let phone_id = phone.device_id().expect("logged in");
    eventually("Alice knows Bob's new device", async || {
        alice.sync_once(SyncSettings::new().timeout(Duration::ZERO)).await.ok()?;
        alice.encryption().get_device(bob_id, phone_id).await.ok()?
    })
    .await;
    say(alice, room, "to the phone as well").await;
    sdk::sync_until_message(&phone, room, "to the phone as well").await;
}

#[tokio::test]
async fn two_people_of_two_domains_whisper_in_an_encrypted_room() {
    on_each_engine(two_whisper).await;
}
