//! What the trust in a peer allows and refuses, on the real binary.

use federation_tests::{Answer, Client, Engine, FakePeer, Network, enc, eventually, on_each_engine};
use model::peer::{Capability, Grant, TABLE, TrustLevel};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Two, agree, arrives, becomes, is_known, share_history, state_becomes};

/// Somebody who may decide about peers.
pub(super) async fn patch(admin: &Client, peer: &str, change: Value) -> Answer {
    let path = format!("/api/v1/admin/peers/{}", enc(peer));
    admin.attempt(Method::PATCH, &path, Some(&change)).await.expect("the server answers")
}

async fn trust(admin: &Client, peer: &str, level: TrustLevel) -> Value {
    patch(admin, peer, json!({ "level": level, "reason": "a story" })).await.ok()
}

#[tokio::test]
async fn each_capability_is_at_each_level_what_the_table_says() {
    let network = Network::new();
    let server = network.server(&Engine::Sqlite, "a.test").await.start().await;
    let peer = FakePeer::start(&network, "b.test").await;
    let (admin, alice) = (server.admin().await, server.register_with_secret("alice").await);
    let room = alice.create_public_room().await;
    let uploaded = alice.raw(Method::POST, "/_matrix/media/v3/upload", "text/plain", "hello".into());
    let uploaded = uploaded.await.expect("it is taken").ok();
    let media =
        uploaded["content_uri"].as_str().expect("it has a name").rsplit('/').next().unwrap_or_default().to_owned();
    // How each of them is asked for. What isn't a request has a story of its own.
    let probe = |capability| {
        let path = match capability {
            Capability::Profiles => format!("query/profile?user_id={}", enc(&alice.user_id)),
            Capability::Join => format!("make_join/{}/{}?ver=12", enc(&room), enc("@bob:b.test")),
            Capability::Events => format!("query/directory?room_alias={}", enc("#nowhere:a.test")),
            Capability::Devices => format!("user/devices/{}", enc(&alice.user_id)),
            Capability::PublicRooms => "publicRooms".to_owned(),
            Capability::Media => format!("media/download/{media}"),
            _ => return None,
        };
        Some(format!("/_matrix/federation/v1/{path}"))
    };
    let mut probed = 0;
    for level in TrustLevel::ALL {
        trust(&admin, "b.test", level).await;
        for row in &TABLE {
            let Some(path) = probe(row.capability) else { continue };
            let answer = peer.get(&server, &path).await;
            // Nobody of b.test is in a room here, is a contact of Alice's, or is invited.
            let hangs_on_nothing = !matches!(
                row.capability.at(level),
                Grant::No | Grant::Acquainted | Grant::Contacts | Grant::Invited | Grant::Shared
            );
            assert_eq!(answer.status != 403, hangs_on_nothing, "{} at {level}: {}", row.word, answer.body);
            if answer.status == 403 {
                let rule = format!("{level}.{}", row.word);
                let is_named = level == TrustLevel::Blocked || answer.body["error"].to_string().contains(&rule);
                assert!(is_named, "the peer's admin is told by which rule: {}", answer.body);
            }
            probed += 1;
        }
    }
    assert_eq!(probed, 6 * 4);

    // One capability can be set apart from the level, and the whole peer can be switched off.
    trust(&admin, "b.test", TrustLevel::Full).await;
    let profile = probe(Capability::Profiles).expect("there is one");
    let no = json!({ "overrides": { "profiles": { "grant": "no", "reason": "asked to" } }, "reason": "a story" });
    patch(&admin, "b.test", no).await.ok();
    peer.get(&server, &profile).await.refused(403, "M_FORBIDDEN");
    let undone = patch(&admin, "b.test", json!({ "overrides": { "profiles": null }, "reason": "a story" })).await.ok();
    peer.get(&server, &profile).await.ok();
    let off = patch(&admin, "b.test", json!({ "active": false, "reason": "a story" })).await.ok();
    assert!(
        peer.get(&server, &profile).await.refused(403, "M_FORBIDDEN")["error"].to_string().contains("peer.inactive")
    );
    // Who looked at an older revision is told.
    let late = json!({ "active": true, "reason": "a story", "revision": undone["revision"] });
    patch(&admin, "b.test", late).await.problem(409, "conflict");
    let now = json!({ "active": true, "reason": "a story", "revision": off["revision"] });
    patch(&admin, "b.test", now).await.ok();
    peer.get(&server, &profile).await.ok();

    // All of it is in the log, and the log is whole.
    let audit = admin.get("/api/v1/admin/audit?peer=b.test").await.ok();
    let entries = audit["entries"].as_array().expect("it is a list");
    assert_eq!(entries.len(), 9, "{audit}");
    assert!(entries.iter().all(|entry| entry["actor"] == "@root:a.test" && entry["reason"] == "a story"));
    assert_eq!(admin.get("/api/v1/admin/audit/verify").await.ok()["intact"], true);
    // What happened can be tried with another level.
    let tried = eventually("what was done is written down", async || {
        let path = "/api/v1/admin/peers/b.test/simulate";
        let tried = admin.post(path, json!({ "level": "blocked", "days": 7 })).await.ok();
        let acts = tried["acts"].as_array().cloned().unwrap_or_default();
        acts.into_iter().find(|act| act["capability"] == "public_rooms")
    })
    .await;
    assert_eq!((&tried["allowed"], &tried["refused"]), (&json!(0), &json!(4)), "{tried}");
    // Alice is nobody to decide.
    alice.get("/api/v1/admin/peers").await.problem(403, "forbidden");
}

#[tokio::test]
async fn what_a_server_says_that_a_room_does_not_trust_is_withheld_until_it_does() {
    on_each_engine(async |engine| {
        let (_network, [a, b, c]) = Network::start(&engine, ["a.test", "b.test", "c.test"]).await;
        let admin = a.admin().await;
        trust(&admin, "c.test", TrustLevel::Restricted).await;
        let alice = a.register_with_secret("alice").await;
        let bob = b.register_with_secret("bob").await;
        let carol = c.register_with_secret("carol").await;
        let room = alice.create_public_room().await;
        alice.set_state(&room, "org.comity.room.trust", "", json!({ "minimum": "full" })).await.ok();
        bob.join_via(&room, &["a.test"]).await;
        becomes(&alice, &room, &bob.user_id, "join").await;
        // Not through a server that obeys the room, and nobody of it brings her in; but Bob's server takes her in.
        let refused = carol.try_join_via(&room, &["a.test"]).await;
        assert_eq!(refused.status, 403, "{}", refused.body);
        let invited = alice.act_on(&room, "invite", &carol.user_id).await;
        assert!(invited.refused(403, "M_FORBIDDEN")["error"].to_string().contains("ceiling.full"));
        carol.join_via(&room, &["b.test"]).await;
        becomes(&bob, &room, &carol.user_id, "join").await;

        let mut since = alice.now().await;
        let from_carol = carol.say(&room, "can anybody hear me?").await;
        arrives(&bob, &room, &from_carol).await;
        let from_bob = bob.say(&room, "I can").await;
        // What Bob says follows it: when Alice has that, her server has it all.
        alice.sync_until_event(&mut since, &room, &from_bob).await;
        assert!(!is_known(&alice, &room, &from_carol).await);
        let history = alice.history(&room).await;
        assert!(history.iter().all(|event| event["sender"] != carol.user_id.as_str()), "{history:#?}");
        assert_eq!(alice.membership(&room, &carol.user_id).await, None);
        let whole = alice.sync(None).await.to_string();
        assert!(!whole.contains(carol.user_id.as_str()), "{whole}");

        // The state was the same all the time, event by event.
        trust(&admin, "c.test", TrustLevel::Full).await;
        arrives(&alice, &room, &from_carol).await;
        agree(&room, &[&alice, &bob, &carol]).await;
        share_history(&room, &[&alice, &bob, &carol]).await;
        // What a blocked server has said already stays readable.
        trust(&admin, "c.test", TrustLevel::Blocked).await;
        let later = carol.say(&room, "and now?").await;
        arrives(&bob, &room, &later).await;
        let from_bob = bob.say(&room, "not any more").await;
        arrives(&alice, &room, &from_bob).await;
        assert!(!is_known(&alice, &room, &later).await);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_nobody_has_set_is_trusted_as_the_configuration_says() {
    let network = Network::new();
    let server = network.server(&Engine::Sqlite, "a.test").await;
    let mut server = server.set("federation", "default_trust", "blocked").start().await;
    let (known, unknown) = (FakePeer::start(&network, "b.test").await, FakePeer::start(&network, "c.test").await);
    let (admin, alice) = (server.admin().await, server.register_with_secret("alice").await);
    let profile = format!("/_matrix/federation/v1/query/profile?user_id={}", enc(&alice.user_id));
    for peer in [&known, &unknown] {
        peer.get(&server, &profile).await.refused(403, "M_FORBIDDEN");
    }
    trust(&admin, "B.Test", TrustLevel::Limited).await;
    known.get(&server, &profile).await.ok();
    unknown.get(&server, &profile).await.refused(403, "M_FORBIDDEN");
    // The other way too: nobody here asks a server that is blocked anything.
    let asked = alice.get(&format!("profile/{}", enc(&unknown.user("carol")))).await;
    assert_eq!(asked.status, 403, "{}", asked.body);
    assert!(unknown.heard().iter().all(|heard| !heard.path.contains("query/profile")));
    server.restart().await;
    known.get(&server, &profile).await.ok();
    unknown.get(&server, &profile).await.refused(403, "M_FORBIDDEN");
    // Nobody becomes a peer of themselves, and what makes no sense is refused with what would.
    patch(&admin, "a.test", json!({ "level": "full", "reason": "a story" })).await.problem(400, "invalid");
    let nonsense = patch(&admin, "d.test", json!({ "level": "best", "reason": "a story" })).await;
    assert!(nonsense.problem(400, "invalid")["detail"].to_string().contains("restricted"));
    let silent = patch(&admin, "d.test", json!({ "level": "full", "reason": "" })).await;
    assert!(silent.problem(400, "invalid")["detail"].to_string().contains("reason"));
}

/// Who types in the room, as an answer of a sync has it.
fn typists(answer: &Value, room: &str) -> Option<Vec<String>> {
    let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    let typing = events.iter().find(|event| event["type"] == "m.typing")?;
    serde_json::from_value(typing["content"]["user_ids"].clone()).ok()
}

#[tokio::test]
async fn what_passes_is_told_and_heard_as_far_as_a_peer_is_trusted() {
    let two = Two::meet_mixed().await;
    let admin = two.a.admin().await;
    trust(&admin, "b.test", TrustLevel::Limited).await;
    let room = two.room("12").await;
    let types = async |who: &Client, typing: bool| {
        let path = format!("rooms/{room}/typing/{}", who.user_id);
        who.put(&path, json!({ "typing": typing, "timeout": 60_000 })).await.ok();
    };
    let read_me = two.alice.say(&room, "read me").await;
    arrives(&two.bob, &room, &read_me).await;
    let mut since = two.alice.now().await;
    types(&two.alice, true).await;
    types(&two.bob, true).await;
    two.bob.post(&format!("rooms/{room}/receipt/m.read/{read_me}"), json!({})).await.ok();
    // Receipts are told at this level. They come after who types: what would have come has come.
    let seen = two.alice.sync_until(&mut since, |answer| {
        assert!(!typists(answer, &room).unwrap_or_default().contains(&two.bob.user_id), "{answer}");
        assert!(!answer["presence"].to_string().contains(&two.bob.user_id), "{answer}");
        answer["rooms"]["join"][&room]["ephemeral"].to_string().contains("m.read").then_some(())
    });
    seen.await;
    // Each transaction is answered before the next: by the second message all that went before has been heard.
    for (speaker, listener) in [(&two.bob, &two.alice), (&two.alice, &two.bob)] {
        for text in ["one", "two"] {
            let said = speaker.say(&room, text).await;
            arrives(listener, &room, &said).await;
        }
    }
    assert!(!typists(&two.alice.sync(None).await, &room).unwrap_or_default().contains(&two.bob.user_id));
    let told = |kind: &str| {
        let crossings = two.network.link("a.test", "b.test").crossings();
        crossings.iter().any(|crossing| String::from_utf8_lossy(&crossing.body).contains(kind))
    };
    assert!(!told("m.typing") && !told("m.presence"));

    trust(&admin, "b.test", TrustLevel::Full).await;
    let mut of_bob = two.bob.now().await;
    for who in [&two.alice, &two.bob] {
        types(who, false).await;
        types(who, true).await;
    }
    let by = |who: &Client| {
        let user_id = who.user_id.clone();
        let room = room.clone();
        move |answer: &Value| typists(answer, &room)?.contains(&user_id).then_some(())
    };
    two.bob.sync_until(&mut of_bob, by(&two.alice)).await;
    two.alice.sync_until(&mut since, by(&two.bob)).await;
}

#[tokio::test]
async fn a_room_that_wants_it_keeps_out_whom_its_server_does_not_trust_by_the_means_of_matrix() {
    on_each_engine(async |engine| {
        let (network, [a, b, c]) = Network::start(&engine, ["a.test", "b.test", "c.test"]).await;
        let admin = a.admin().await;
        let alice = a.register_with_secret("alice").await;
        let bob = b.register_with_secret("bob").await;
        let carol = c.register_with_secret("carol").await;
        let room = alice.create_public_room().await;
        let by_hand = json!({ "allow": ["*"], "deny": ["spam.test"], "allow_ip_literals": true });
        alice.set_state(&room, "m.room.server_acl", "", by_hand).await.ok();
        for guest in [&bob, &carol] {
            guest.join_via(&room, &["a.test"]).await;
            becomes(&alice, &room, &guest.user_id, "join").await;
        }
        becomes(&bob, &room, &carol.user_id, "join").await;
        let demand = json!({ "minimum": "full", "server_acl": true });
        alice.set_state(&room, "org.comity.room.trust", "", demand).await.ok();
        let denies = |ours: &[&str]| {
            let deny: Vec<&str> = ["spam.test"].iter().chain(ours).copied().collect();
            let record = json!({ "deny": ours });
            json!({ "allow": ["*"], "deny": deny, "allow_ip_literals": true, "org.comity.room.trust": record })
        };

        trust(&admin, "c.test", TrustLevel::Restricted).await;
        for member in [&alice, &bob] {
            state_becomes(member, &room, "m.room.server_acl", &denies(&["c.test"])).await;
        }
        let acls = admin.get("/api/v1/admin/room-acls").await.ok();
        assert_eq!(acls["rooms"][0]["room_id"], room.as_str(), "{acls}");
        assert_eq!((&acls["rooms"][0]["denied"], &acls["rooms"][0]["problem"]), (&json!(["c.test"]), &Value::Null));
        // c.test is refused at both, though b.test knows nothing of what a.test thinks of it.
        let unheard = carol.say(&room, "can anybody hear me?").await;
        for to in ["a.test", "b.test"] {
            eventually(&format!("{to} refuses it"), async || {
                let crossings = network.link("c.test", to).crossings();
                let answers = crossings.iter().filter_map(|crossing| crossing.answer.as_ref());
                let mut answers = answers.filter_map(|(_, body)| serde_json::from_slice::<Value>(body).ok());
                answers.any(|answer| answer["pdus"][&unheard]["error"].is_string()).then_some(())
            })
            .await;
        }
        assert!(!is_known(&bob, &room, &unheard).await);

        trust(&admin, "c.test", TrustLevel::Full).await;
        for member in [&alice, &bob, &carol] {
            state_becomes(member, &room, "m.room.server_acl", &denies(&[])).await;
        }
        let heard = carol.say(&room, "and now?").await;
        for member in [&alice, &bob] {
            arrives(member, &room, &heard).await;
        }
        // Whoever takes the demand back gets their own list back, but for the record.
        trust(&admin, "*.corp.test", TrustLevel::Blocked).await;
        state_becomes(&alice, &room, "m.room.server_acl", &denies(&["*.corp.test"])).await;
        alice.set_state(&room, "org.comity.room.trust", "", json!({ "minimum": "full" })).await.ok();
        state_becomes(&alice, &room, "m.room.server_acl", &denies(&[])).await;
        // It was written when something changed, and at no other time.
        let history = alice.history(&room).await;
        let lists = history.iter().filter(|event| event["type"] == "m.room.server_acl");
        assert_eq!(lists.count(), 5, "{history:#?}");
    })
    .await;
}

#[tokio::test]
async fn who_comes_into_a_room_and_is_not_trusted_by_default_is_denied_there() {
    let network = Network::new();
    let a = network.server(&Engine::Sqlite, "a.test").await.set("federation", "default_trust", "limited").start().await;
    let b = network.server(&Engine::Sqlite, "b.test").await.start().await;
    let c = network.server(&Engine::Sqlite, "c.test").await.start().await;
    let admin = a.admin().await;
    trust(&admin, "b.test", TrustLevel::Full).await;
    let alice = a.register_with_secret("alice").await;
    let bob = b.register_with_secret("bob").await;
    let carol = c.register_with_secret("carol").await;
    let room = alice.create_public_room().await;
    let demand = json!({ "minimum": "full", "server_acl": true });
    alice.set_state(&room, "org.comity.room.trust", "", demand).await.ok();
    bob.join_via(&room, &["a.test"]).await;
    becomes(&alice, &room, &bob.user_id, "join").await;
    assert_eq!(alice.state(&room, "m.room.server_acl", "").await.status, 404, "nobody is to be denied");
    // Not by a.test, but b.test takes her in, and tells a.test.
    carol.join_via(&room, &["b.test"]).await;
    let list = |denied: &[&str]| json!({ "allow": ["*"], "deny": denied, "org.comity.room.trust": { "deny": denied } });
    for member in [&alice, &bob] {
        state_becomes(member, &room, "m.room.server_acl", &list(&["c.test"])).await;
    }
    // Gone is not forgiven: she could come in again by the same way.
    alice.act_on(&room, "kick", &carol.user_id).await.ok();
    becomes(&bob, &room, &carol.user_id, "leave").await;
    trust(&admin, "d.test", TrustLevel::Blocked).await;
    state_becomes(&bob, &room, "m.room.server_acl", &list(&["c.test", "d.test"])).await;
    trust(&admin, "c.test", TrustLevel::Full).await;
    state_becomes(&bob, &room, "m.room.server_acl", &list(&["d.test"])).await;
}

#[tokio::test]
async fn a_list_is_not_kept_in_the_name_of_somebody_who_may_not_change_it() {
    let (_network, [a, b]) = Network::start(&Engine::Sqlite, ["a.test", "b.test"]).await;
    let (admin, of_b) = (a.admin().await, b.admin().await);
    let alice = a.register_with_secret("alice").await;
    let bob = b.register_with_secret("bob").await;
    // Bob may demand trust, and nothing else.
    let room = alice.create_public_room().await;
    bob.join_via(&room, &["a.test"]).await;
    becomes(&alice, &room, &bob.user_id, "join").await;
    let mut levels = alice.state(&room, "m.room.power_levels", "").await.ok();
    levels["events"]["org.comity.room.trust"] = json!(0);
    alice.set_state(&room, "m.room.power_levels", "", levels.clone()).await.ok();
    state_becomes(&bob, &room, "m.room.power_levels", &levels).await;
    trust(&admin, "evil.test", TrustLevel::Blocked).await;
    trust(&of_b, "bad.test", TrustLevel::Blocked).await;
    let demand = json!({ "minimum": "limited", "server_acl": true });
    bob.set_state(&room, "org.comity.room.trust", "", demand.clone()).await.ok();
    let problem = eventually("b.test says what stands in the way", async || {
        let acls = of_b.get("/api/v1/admin/room-acls").await.ok();
        acls["rooms"][0]["problem"].as_str().map(str::to_owned)
    })
    .await;
    assert!(problem.contains("@bob:b.test") && problem.contains("may not change"), "{problem}");
    // Nor does a.test do it: it was not one of its people who asked.
    state_becomes(&alice, &room, "org.comity.room.trust", &demand).await;
    assert_eq!(admin.get("/api/v1/admin/room-acls").await.ok()["rooms"], json!([]));
    assert_eq!(alice.state(&room, "m.room.server_acl", "").await.status, 404);
    // When Bob may, it is done, by what b.test thinks.
    levels["events"]["m.room.server_acl"] = json!(0);
    alice.set_state(&room, "m.room.power_levels", "", levels).await.ok();
    let record = json!({ "deny": ["bad.test"] });
    let list = json!({ "allow": ["*"], "deny": ["bad.test"], "org.comity.room.trust": record });
    state_becomes(&alice, &room, "m.room.server_acl", &list).await;
}

#[tokio::test]
async fn a_peer_is_where_an_admin_says_and_nowhere_else() {
    let network = Network::new();
    let server = network.server(&Engine::Sqlite, "a.test").await;
    // Everything in this network is at private addresses.
    let server = server.set("federation", "allow_private_addresses", false).start().await;
    let peer = FakePeer::start(&network, "b.test").await;
    let (admin, alice) = (server.admin().await, server.register_with_secret("alice").await);
    let reaches = async |name: &str| {
        alice.get(&format!("profile/{}", enc(&peer.user(name)))).await;
        let heard = peer.heard();
        let asked = heard.iter().find(|heard| heard.path.contains("query/profile") && heard.query.contains(name));
        // By its own name, wherever it is.
        asked.is_some_and(|asked| asked.host == "b.test" && asked.sni.as_deref() == Some("b.test"))
    };
    assert!(!reaches("one").await, "its name leads to an address that is not open");
    let set = async |endpoint: String| {
        patch(&admin, "b.test", json!({ "endpoint": endpoint, "level": "full", "reason": "a story" })).await
    };
    // An address that the admin names is the admin's own decision.
    let address = network.address("b.test").to_string();
    assert_eq!(set(address.clone()).await.ok()["settings"]["endpoint"], address);
    let examined = admin.post("/api/v1/admin/servers/b.test/examine", json!({})).await.ok();
    assert!(reaches("two").await);
    let findings = examined["findings"].as_array().expect("it is a list").iter();
    let says_so = |finding: &&Value| finding["seen"].to_string().contains(&format!("is at {address}"));
    assert_eq!(findings.filter(says_so).count(), 2, "{examined}");
    // Where a name leads is not.
    set("b.test:8448".to_owned()).await.ok();
    assert!(!reaches("three").await);
    set(address.clone()).await.ok();
    assert!(reaches("four").await);
    assert_eq!(set(String::new()).await.ok()["settings"].get("endpoint"), None);
    assert!(!reaches("five").await);

    for (pattern, endpoint) in
        [("*.b.test", &*address), ("b.test:9999", &address), ("b.test", "b.test"), ("b.test", "b test:1")]
    {
        let change = json!({ "endpoint": endpoint, "level": "full", "reason": "a story" });
        let refused = patch(&admin, pattern, change).await.problem(400, "invalid");
        assert!(refused["detail"].to_string().contains("endpoint"), "{pattern} {endpoint}: {refused}");
    }
}

#[tokio::test]
async fn people_of_a_peer_come_into_as_many_rooms_as_an_admin_has_set() {
    let two = Two::meet_mixed().await;
    let admin = two.a.admin().await;
    let limit = async |rooms: u64| {
        let change = json!({ "level": "full", "limits": { "rooms": rooms }, "reason": "a story" });
        patch(&admin, "b.test", change).await.ok();
    };
    let first = two.public_room().await;
    limit(1).await;
    let second = two.alice.create_public_room().await;
    let refused = two.bob.try_join_via(&second, &["a.test"]).await.refused(403, "M_FORBIDDEN");
    assert!(refused["error"].to_string().contains("limit.rooms"), "{refused}");
    // Nor is anybody brought in, or out.
    let invited = two.alice.act_on(&second, "invite", &two.bob.user_id).await;
    assert!(invited.refused(403, "M_FORBIDDEN")["error"].to_string().contains("limit.rooms"));
    let theirs = two.bob.create_public_room().await;
    let invited = two.bob.act_on(&theirs, "invite", &two.alice.user_id).await;
    assert_eq!(invited.status, 403, "{}", invited.body);
    // Into a room where some of them are others may come.
    let bert = two.b.register_with_secret("bert").await;
    bert.join_via(&first, &["a.test"]).await;
    becomes(&two.alice, &first, &bert.user_id, "join").await;
    limit(2).await;
    two.bob.join_via(&second, &["a.test"]).await;
    becomes(&two.alice, &second, &two.bob.user_id, "join").await;
    // Who goes makes room.
    limit(1).await;
    two.bob.post(&format!("rooms/{second}/leave"), json!({})).await.ok();
    becomes(&two.alice, &second, &two.bob.user_id, "leave").await;
    for guest in [&two.bob, &bert] {
        guest.post(&format!("rooms/{first}/leave"), json!({})).await.ok();
        becomes(&two.alice, &first, &guest.user_id, "leave").await;
    }
    two.bob.join_via(&second, &["a.test"]).await;
}
