//! Synapse as a peer like any other.

use federation_tests::{Client, Engine, FakePeer, Network, Server, Synapse, enc, eventually, pdu};
use serde_json::{Value, json};

use super::{agree, arrives, becomes, invitation, is_known, texts_of};

/// Comity on one side, Synapse on the other.
struct Pair {
    network: Network,
    comity: Server,
    synapse: Synapse,
    alice: Client,
    sam: Client,
}

impl Pair {
    async fn meet(python: std::path::PathBuf) -> Self {
        let network = Network::new();
        let comity = network.server(&Engine::postgres().unwrap_or(Engine::Sqlite), "a.test").await.start().await;
        let synapse = Synapse::start(&network, &python, "s.test").await;
        let alice = comity.register_with_secret("alice").await;
        let sam = synapse.register("sam").await;
        Self { network, comity, synapse, alice, sam }
    }

    /// Both ways round: who makes the room, who comes into it, and where the former is.
    fn ways(&self) -> [(&Client, &Client, &str); 2] {
        [(&self.alice, &self.sam, "a.test"), (&self.sam, &self.alice, "s.test")]
    }
}

const VERSIONS: [&str; 3] = ["10", "11", "12"];

async fn exchange(room: &str, one: &Client, other: &Client) {
    for (speaker, listener) in [(one, other), (other, one)] {
        let event_id = speaker.say(room, &format!("{} speaks\nin two\tlines", speaker.user_id)).await;
        arrives(listener, room, &event_id).await;
    }
}

#[tokio::test]
async fn synapse_and_comity_chat_in_rooms_of_either_and_each_version() {
    let Some(python) = Synapse::python() else { return };
    let pair = Pair::meet(python).await;
    for version in VERSIONS {
        for (host, guest, _) in pair.ways() {
            invited(host, guest, version).await;
        }
        for (host, guest, server) in pair.ways() {
            through_an_alias(host, guest, server, version).await;
        }
    }
}

/// A private room by invitation; messages, redaction, kick, ban.
async fn invited(host: &Client, guest: &Client, version: &str) {
    let request = json!({ "preset": "private_chat", "room_version": version, "invite": [guest.user_id] });
    let room = host.create_room(request).await;
    invitation(guest, &room).await;
    guest.join(&room).await;
    becomes(host, &room, &guest.user_id, "join").await;
    exchange(&room, host, guest).await;
    agree(&room, &[host, guest]).await;

    let slip = guest.say(&room, "a slip of the tongue").await;
    arrives(host, &room, &slip).await;
    guest.put(&format!("rooms/{room}/redact/{slip}/slip"), json!({ "reason": "oops" })).await.ok();
    eventually("the slip is gone", async || {
        arrives(host, &room, &slip).await["content"].get("body").is_none().then_some(())
    })
    .await;

    host.act_on(&room, "kick", &guest.user_id).await.ok();
    becomes(guest, &room, &guest.user_id, "leave").await;
    let answer = guest.send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "but" })).await;
    answer.refused(403, "M_FORBIDDEN");
    host.act_on(&room, "ban", &guest.user_id).await.ok();
    guest
        .try_join_via(&room, &[host.user_id.split(':').next_back().unwrap_or_default()])
        .await
        .refused(403, "M_FORBIDDEN");
    host.act_on(&room, "unban", &guest.user_id).await.ok();
    host.invite(&room, guest).await;
    invitation(guest, &room).await;
    guest.join(&room).await;
    becomes(host, &room, &guest.user_id, "join").await;
    exchange(&room, host, guest).await;
    agree(&room, &[host, guest]).await;
}

/// A public room by its alias; its history; leaving and coming back.
async fn through_an_alias(host: &Client, guest: &Client, server: &str, version: &str) {
    let name = format!("tea{version}");
    let request = json!({ "preset": "public_chat", "room_version": version, "room_alias_name": name });
    let room = host.create_room(request).await;
    let said: Vec<String> = (0..30).map(|number| format!("sentence {number}")).collect();
    for sentence in &said {
        host.say(&room, sentence).await;
    }
    guest.join_via(&format!("#{name}:{server}"), &[]).await;
    eventually("the whole history", async || (texts_of(&guest.history(&room).await) == said).then_some(())).await;
    exchange(&room, host, guest).await;
    guest.leave(&room).await;
    becomes(host, &room, &guest.user_id, "leave").await;
    let meanwhile = host.say(&room, "meanwhile").await;
    guest.join_via(&room, &[server]).await;
    becomes(host, &room, &guest.user_id, "join").await;
    exchange(&room, host, guest).await;
    eventually("what was said meanwhile", async || {
        let history = guest.history(&room).await;
        history.iter().any(|event| event["event_id"] == meanwhile.as_str()).then_some(())
    })
    .await;
    agree(&room, &[host, guest]).await;
}

#[tokio::test]
async fn synapse_and_comity_show_each_other_what_passes() {
    let Some(python) = Synapse::python() else { return };
    let pair = Pair::meet(python).await;
    let request = json!({ "preset": "private_chat", "invite": [pair.sam.user_id] });
    let room = pair.alice.create_room(request).await;
    invitation(&pair.sam, &room).await;
    pair.sam.join(&room).await;
    becomes(&pair.alice, &room, &pair.sam.user_id, "join").await;
    for (one, other, _) in pair.ways() {
        receipts_and_typing(&room, one, other).await;
        presence(one, other).await;
        profiles(&room, one, other).await;
        device_keys(one, other).await;
    }
    rejected_invitation(&pair).await;
}

async fn receipts_and_typing(room: &str, one: &Client, other: &Client) {
    let event_id = one.say(room, "read me").await;
    arrives(other, room, &event_id).await;
    let mut since = one.now().await;
    let ephemeral = |answer: &Value, event_type: &str| {
        let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
        events.iter().find(|event| event["type"] == event_type).cloned()
    };
    other.post(&format!("rooms/{room}/receipt/m.read/{event_id}"), json!({})).await.ok();
    one.sync_until(&mut since, |answer| {
        let receipts = ephemeral(answer, "m.receipt")?;
        receipts["content"][&event_id]["m.read"].get(&other.user_id).map(|_| ())
    })
    .await;
    let path = format!("rooms/{room}/typing/{}", other.user_id);
    other.put(&path, json!({ "typing": true, "timeout": 30_000 })).await.ok();
    one.sync_until(&mut since, |answer| {
        let typing = ephemeral(answer, "m.typing")?;
        (typing["content"]["user_ids"] == json!([other.user_id])).then_some(())
    })
    .await;
    other.put(&path, json!({ "typing": false })).await.ok();
}

async fn presence(one: &Client, other: &Client) {
    let mut since = one.now().await;
    let words = format!("seen by {}", one.user_id);
    let status = json!({ "presence": "unavailable", "status_msg": words });
    other.put(&format!("presence/{}/status", other.user_id), status).await.ok();
    one.sync_until(&mut since, |answer| {
        let events = answer["presence"]["events"].as_array()?;
        events.iter().find(|event| event["content"]["status_msg"] == words.as_str()).map(|_| ())
    })
    .await;
}

async fn profiles(room: &str, one: &Client, other: &Client) {
    let path = format!("profile/{}", enc(&other.user_id));
    let name = format!("{}, friend of {}", other.localpart(), one.localpart());
    other.put(&format!("{path}/displayname"), json!({ "displayname": name })).await.ok();
    eventually("the new name in the room", async || {
        let member = one.state(room, "m.room.member", &other.user_id).await.ok();
        (member["displayname"] == name.as_str()).then_some(())
    })
    .await;
    eventually("the new name when asked for", async || {
        (one.get(&path).await.body["displayname"] == name.as_str()).then_some(())
    })
    .await;
}

async fn device_keys(one: &Client, other: &Client) {
    let (user, device) = (&other.user_id, &other.device_id);
    let signatures = json!({ user: { format!("ed25519:{device}"): "c2lnbmF0dXJl" } });
    let device_keys = json!({
        "user_id": user, "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { format!("curve25519:{device}"): "Y3VydmU", format!("ed25519:{device}"): "ZWQ" },
        "signatures": signatures,
    });
    let once = json!({ "signed_curve25519:AAAAAQ": { "key": "b25jZQ", "signatures": signatures } });
    let mut since = one.now().await;
    other.post("keys/upload", json!({ "device_keys": device_keys, "one_time_keys": once })).await.ok();
    one.sync_until(&mut since, |answer| {
        let changed = answer["device_lists"]["changed"].as_array()?;
        changed.contains(&json!(user)).then_some(())
    })
    .await;
    eventually("the keys when asked for", async || {
        let answer = one.post("keys/query", json!({ "device_keys": { user: [] } })).await.ok();
        let keys = &answer["device_keys"][user][device]["keys"];
        (keys[format!("ed25519:{device}")] == "ZWQ").then_some(())
    })
    .await;
    let wanted = json!({ "one_time_keys": { user: { device: "signed_curve25519" } } });
    let claimed = one.post("keys/claim", wanted).await.ok();
    assert_eq!(claimed["one_time_keys"][user][device]["signed_curve25519:AAAAAQ"]["key"], "b25jZQ", "{claimed}");
    let messages = json!({ "messages": { user: { device: { "from": one.user_id } } } });
    let mut since = other.now().await;
    one.put(&format!("sendToDevice/org.example.note/{}", one.localpart()), messages).await.ok();
    other
        .sync_until(&mut since, |answer| {
            let events = answer["to_device"]["events"].as_array()?;
            events.iter().find(|event| event["sender"] == one.user_id.as_str()).map(|_| ())
        })
        .await;
}

async fn rejected_invitation(pair: &Pair) {
    for (host, guest, _) in pair.ways() {
        let room = host.create_room(json!({ "preset": "private_chat", "invite": [guest.user_id] })).await;
        invitation(guest, &room).await;
        let secret = host.say(&room, "not for the invited").await;
        guest.leave(&room).await;
        becomes(host, &room, &guest.user_id, "leave").await;
        assert!(!is_known(guest, &room, &secret).await);
    }
}

#[tokio::test]
async fn synapse_and_comity_agree_after_a_split() {
    let Some(python) = Synapse::python() else { return };
    let pair = Pair::meet(python).await;
    for version in VERSIONS {
        for (host, guest, _) in pair.ways() {
            let levels = json!({ "events": { "m.room.topic": 0 } });
            let request = json!({
                "preset": "private_chat", "room_version": version, "invite": [guest.user_id],
                "power_level_content_override": levels,
            });
            let room = host.create_room(request).await;
            invitation(guest, &room).await;
            guest.join(&room).await;
            becomes(host, &room, &guest.user_id, "join").await;
            pair.network.part("a.test", "s.test");
            let mut said = Vec::new();
            for person in [host, guest] {
                said.push(person.say(&room, "alone").await);
                person.set_state(&room, "m.room.topic", "", json!({ "topic": person.user_id })).await.ok();
                said.push(person.say(&room, "still alone").await);
            }
            pair.network.reunite("a.test", "s.test");
            // A word from each wakes the other.
            for person in [host, guest] {
                said.push(person.say(&room, "together").await);
            }
            for event_id in &said {
                arrives(host, &room, event_id).await;
                arrives(guest, &room, event_id).await;
            }
            agree(&room, &[host, guest]).await;
        }
    }
    drop((pair.comity, pair.synapse));
}

/// What the other stories believe of the fake peer is what Synapse believes of it.
#[tokio::test]
async fn synapse_takes_the_fake_peer_for_a_server_and_its_lies_for_lies() {
    let Some(python) = Synapse::python() else { return };
    let network = Network::new();
    let synapse = Synapse::start(&network, &python, "s.test").await;
    let sam = synapse.register("sam").await;
    for version in VERSIONS {
        let peer = FakePeer::start(&network, &format!("fake{version}.test")).await;
        let id = sam.create_room(json!({ "preset": "public_chat", "room_version": version })).await;
        let mut room = peer.join(&synapse, &id, "mallory").await;
        let good = room.say(&peer, "mallory", "I am real enough");
        peer.deliver(&synapse, &good).await;
        arrives(&sam, &id, &room.id_of(&good)).await;
        let answer = sam.say(&id, "so you are").await;
        let told = peer.hears("Sam's answer", |heard| {
            let pdus = heard.body["pdus"].as_array()?;
            pdus.iter().find(|pdu| pdu["content"]["body"] == "so you are").cloned()
        });
        assert_eq!(room.id_of(&told.await), answer, "both sides count the same id");

        let mut unsigned = room.draft(&peer.user("mallory"), "m.room.message", None, json!({ "body": "a lie" }));
        pdu::add_hash(&mut unsigned);
        let results = peer.send(&synapse, &[&unsigned]).await;
        assert!(results[room.id_of(&unsigned)].get("error").is_some(), "{results}");
        let mut changed = room.draft(&peer.user("mallory"), "m.room.message", None, json!({ "body": "a lie" }));
        peer.sign(&mut changed, version);
        changed["content"]["body"] = json!("another");
        peer.deliver(&synapse, &changed).await;
        assert_eq!(arrives(&sam, &id, &room.id_of(&changed)).await["content"], json!({}));

        let own = peer.create_room("owner", version);
        peer.host(&own);
        sam.join_via(&own.id, &[&peer.name]).await;
    }
}
