//! Both sides of a split go on alone, and agree when they meet again.

use federation_tests::{Engine, FakePeer, Network, Reply, on_each_engine};
use serde_json::json;

use super::{Two, agree, arrives, becomes, share_history, state_becomes};

/// Gives Bob as much to say as state needs.
async fn promote(two: &Two, room: &str, level: u64) {
    let mut levels = two.alice.state(room, "m.room.power_levels", "").await.ok();
    levels["users"][&two.bob.user_id] = level.into();
    two.alice.set_state(room, "m.room.power_levels", "", levels.clone()).await.ok();
    state_becomes(&two.bob, room, "m.room.power_levels", &levels).await;
}

#[tokio::test]
async fn both_sides_change_state_and_then_agree() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        for version in ["1", "2", "3", "10", "11", "12"] {
            let room = two.room(version).await;
            promote(&two, &room, 50).await;
            two.network.part("a.test", "b.test");

            let mut said = Vec::new();
            for number in 0..5 {
                said.push(two.alice.say(&room, &format!("a{number}")).await);
                said.push(two.bob.say(&room, &format!("b{number}")).await);
            }
            two.alice.set_state(&room, "m.room.topic", "", json!({ "topic": "Alice's" })).await.ok();
            two.bob.set_state(&room, "m.room.topic", "", json!({ "topic": "Bob's" })).await.ok();
            two.alice.set_state(&room, "m.room.name", "", json!({ "name": "named by Alice" })).await.ok();
            two.bob.set_state(&room, "m.room.pinned_events", "", json!({ "pinned": [said[0]] })).await.ok();
            two.network.reunite("a.test", "b.test");

            for event_id in &said {
                arrives(&two.alice, &room, event_id).await;
                arrives(&two.bob, &room, event_id).await;
            }
            share_history(&room, &[&two.alice, &two.bob]).await;
            agree(&room, &[&two.alice, &two.bob]).await;
            // What only one side has changed stays changed.
            let name = two.bob.state(&room, "m.room.name", "").await.ok();
            assert_eq!(name["name"], "named by Alice");
            let pinned = two.alice.state(&room, "m.room.pinned_events", "").await.ok();
            assert_eq!(pinned["pinned"][0], said[0].as_str());

            // The room goes on from there as one.
            let event_id = two.bob.say(&room, "together again").await;
            arrives(&two.alice, &room, &event_id).await;
            agree(&room, &[&two.alice, &two.bob]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_was_banned_behind_the_split_is_banned_after_it() {
    let two = Two::meet_mixed().await;
    for version in ["1", "10", "12"] {
        let room = two.room(version).await;
        promote(&two, &room, 50).await;
        two.network.part("a.test", "b.test");
        two.alice.act_on(&room, "ban", &two.bob.user_id).await.ok();
        // He does not know it yet.
        two.bob.set_state(&room, "m.room.topic", "", json!({ "topic": "I am in charge" })).await.ok();
        let word = two.bob.say(&room, "still here").await;
        two.network.reunite("a.test", "b.test");

        becomes(&two.bob, &room, &two.bob.user_id, "ban").await;
        let after = two.alice.say(&room, "gone").await;
        arrives(&two.alice, &room, &after).await;
        assert_eq!(two.alice.membership(&room, &two.bob.user_id).await.as_deref(), Some("ban"));
        let topic = two.alice.state(&room, "m.room.topic", "").await;
        assert_ne!(topic.body["topic"], "I am in charge", "a banned user's change of state counts");
        // What he said while he was banned is not part of what Alice sees.
        let history = two.alice.history(&room).await;
        assert!(!super::ids_of(&history).contains(&word), "a banned user was heard");
    }
}

#[tokio::test]
async fn powers_taken_behind_the_split_are_gone_after_it() {
    let two = Two::meet_mixed().await;
    let room = two.room("12").await;
    promote(&two, &room, 50).await;
    two.network.part("a.test", "b.test");
    let mut levels = two.alice.state(&room, "m.room.power_levels", "").await.ok();
    levels["users"].as_object_mut().expect("a map of users").remove(&two.bob.user_id);
    two.alice.set_state(&room, "m.room.power_levels", "", levels).await.ok();
    two.bob.set_state(&room, "m.room.topic", "", json!({ "topic": "I have the power" })).await.ok();
    two.network.reunite("a.test", "b.test");
    agree(&room, &[&two.alice, &two.bob]).await;
    federation_tests::eventually("Bob's topic does not count", async || {
        let topic = two.bob.state(&room, "m.room.topic", "").await;
        (topic.body["topic"] != "I have the power").then_some(())
    })
    .await;
    two.bob.set_state(&room, "m.room.topic", "", json!({ "topic": "again" })).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn people_who_came_on_either_side_are_all_there_afterwards() {
    let two = Two::meet_mixed().await;
    let room = two.public_room().await;
    two.network.part("a.test", "b.test");
    let anna = two.a.register_with_secret("anna").await;
    let ben = two.b.register_with_secret("ben").await;
    anna.join(&room).await;
    ben.join(&room).await;
    two.network.reunite("a.test", "b.test");
    becomes(&two.alice, &room, &ben.user_id, "join").await;
    becomes(&two.bob, &room, &anna.user_id, "join").await;
    agree(&room, &[&two.alice, &two.bob, &anna, &ben]).await;
}

#[tokio::test]
async fn three_that_were_each_alone_agree() {
    let (network, [a, b, c]) = Network::start_mixed(["a.test", "b.test", "c.test"]).await;
    let alice = a.register_with_secret("alice").await;
    let bob = b.register_with_secret("bob").await;
    let carol = c.register_with_secret("carol").await;
    let room = alice.create_room(json!({
        "preset": "public_chat",
        "power_level_content_override": { "events": { "m.room.topic": 0 } },
    }));
    let room = room.await;
    let people = [&alice, &bob, &carol];
    for person in [&bob, &carol] {
        person.join_via(&room, &["a.test"]).await;
    }
    for person in people {
        becomes(person, &room, &carol.user_id, "join").await;
        becomes(person, &room, &bob.user_id, "join").await;
    }
    for (one, other) in [("a.test", "b.test"), ("a.test", "c.test"), ("b.test", "c.test")] {
        network.part(one, other);
    }
    for person in people {
        person.say(&room, "is anybody there?").await;
        person.set_state(&room, "m.room.topic", "", json!({ "topic": person.user_id })).await.ok();
        person.say(&room, "nobody").await;
    }
    for (one, other) in [("a.test", "b.test"), ("a.test", "c.test"), ("b.test", "c.test")] {
        network.reunite(one, other);
    }
    share_history(&room, &people).await;
    agree(&room, &people).await;
    let event_id = carol.say(&room, "there you are").await;
    for person in people {
        arrives(person, &room, &event_id).await;
    }
    agree(&room, &people).await;
}

#[tokio::test]
async fn what_comes_after_refused_events_ends_the_branches_before_them() {
    // In one transaction, and each in one of its own.
    for at_once in [true, false] {
        let network = Network::new();
        let server = network.server(&Engine::Sqlite, "a.test").await.start().await;
        let peer = FakePeer::start(&network, "b.test").await;
        let alice = server.register_with_secret("alice").await;
        let id = alice.create_public_room().await;
        peer.join(&server, &id, "bob").await;
        let mut room = peer.join(&server, &id, "carol").await;
        // The peer doesn't know that Bob is banned: what he says is kept, and not shown; what Carol says after it is shown.
        let banned = alice.act_on(&id, "ban", &peer.user("bob")).await;
        assert_eq!(banned.status, 200, "{}", banned.body);
        let mut said = vec![room.say(&peer, "carol", "one")];
        said.push(room.say(&peer, "bob", "two"));
        // He changes his name too: that is part of the state in which Carol speaks.
        let named = json!({ "membership": "join", "displayname": "Robert" });
        let bob = peer.user("bob");
        said.push(room.make(&peer, "bob", "m.room.member", Some(&bob), named));
        said.push(room.say(&peer, "carol", "four"));
        let said: Vec<&serde_json::Value> = said.iter().collect();
        if at_once {
            peer.send(&server, &said).await;
        } else {
            for event in &said {
                peer.send(&server, &[event]).await;
            }
        }
        let last = room.id_of(said[3]);
        arrives(&alice, &id, &last).await;
        let history = alice.history(&id).await;
        assert!(history.iter().all(|event| event["content"]["body"] != "two"), "{history:#?}");

        let bob = alice.state(&id, "m.room.member", &peer.user("bob")).await.ok();
        assert_eq!(bob["membership"], "ban", "{at_once}");
        let answer = alice.say(&id, "five").await;
        let event = peer
            .hears("Alice's answer", |heard| {
                let pdus = heard.body["pdus"].as_array()?;
                pdus.iter().find(|event| room.id_of(event) == answer).cloned()
            })
            .await;
        let follows: Vec<&str> =
            event["prev_events"].as_array().expect("it has some").iter().filter_map(|id| id.as_str()).collect();
        assert_eq!(follows.len(), 2, "the ban, and what Carol said last: {follows:?}, {at_once}");
        assert!(follows.contains(&last.as_str()), "{follows:?}");
    }
}

#[tokio::test]
async fn what_was_missing_until_now_is_no_new_end_of_the_room() {
    let network = Network::new();
    let server = network.server(&Engine::Sqlite, "a.test").await.start().await;
    let peer = FakePeer::start(&network, "b.test").await;
    let alice = server.register_with_secret("alice").await;
    let id = alice.create_public_room().await;
    let mut room = peer.join(&server, &id, "bob").await;
    let kept_back = room.say(&peer, "bob", "one");
    let later = room.say(&peer, "bob", "two");
    // The peer tells what the state was, and not what is missing.
    let mut known = room.clone();
    known.events.retain(|event| room.id_of(event) != room.id_of(&kept_back));
    peer.host(&known);
    peer.answer(|heard| heard.path.contains("/get_missing_events/").then(|| Reply::Json(200, json!({ "events": [] }))));
    peer.deliver(&server, &later).await;
    arrives(&alice, &id, &room.id_of(&later)).await;
    peer.deliver(&server, &kept_back).await;
    arrives(&alice, &id, &room.id_of(&kept_back)).await;

    let answer = alice.say(&id, "three").await;
    let event = peer
        .hears("Alice's answer", |heard| {
            let pdus = heard.body["pdus"].as_array()?;
            pdus.iter().find(|event| room.id_of(event) == answer).cloned()
        })
        .await;
    assert_eq!(event["prev_events"], json!([room.id_of(&later)]));
}
