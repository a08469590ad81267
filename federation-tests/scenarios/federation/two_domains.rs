//! People of two domains in one room.

use std::time::Duration;

use federation_tests::{Client, Engine, enc, eventually, on_each_engine};
use serde_json::json;

use super::{Two, agree, arrives, becomes, ids_of, invitation, share_history};

/// The versions in which rooms are shared.
const VERSIONS: [&str; 9] = ["1", "2", "3", "4", "5", "6", "10", "11", "12"];

async fn talk_both_ways(engine: Engine) {
    let two = Two::meet(&engine).await;
    for version in VERSIONS {
        let room = two.room(version).await;
        let question = two.alice.say(&room, "Is there cake over there?").await;
        let heard = arrives(&two.bob, &room, &question).await;
        assert_eq!(heard["sender"], two.alice.user_id.as_str(), "{heard}");
        assert_eq!(heard["content"]["body"], "Is there cake over there?", "{heard}");

        let answer = two.bob.say(&room, "Two kinds.").await;
        let heard = arrives(&two.alice, &room, &answer).await;
        assert_eq!(heard["sender"], two.bob.user_id.as_str(), "{heard}");

        two.bob.set_state(&room, "m.room.topic", "", json!({ "topic": "cake" })).await.refused(403, "M_FORBIDDEN");
        two.alice.set_state(&room, "m.room.topic", "", json!({ "topic": "cake" })).await.ok();
        agree(&room, &[&two.alice, &two.bob]).await;
        share_history(&room, &[&two.alice, &two.bob]).await;
    }
}

#[tokio::test]
async fn two_domains_talk_both_ways_in_rooms_of_each_version() {
    on_each_engine(talk_both_ways).await;
}

#[tokio::test]
async fn a_direct_chat_is_marked_as_one_on_the_other_side() {
    let two = Two::meet_mixed().await;
    let request = json!({ "preset": "trusted_private_chat", "is_direct": true, "invite": [two.bob.user_id] });
    let room = two.alice.create_room(request).await;
    let shown = invitation(&two.bob, &room).await;
    let own = shown.iter().find(|event| event["state_key"] == two.bob.user_id.as_str()).expect("his own membership");
    assert_eq!(own["content"]["is_direct"], true, "{own}");
    two.bob.join(&room).await;
    let event_id = two.bob.say(&room, "just the two of us").await;
    arrives(&two.alice, &room, &event_id).await;
}

#[tokio::test]
async fn what_is_said_arrives_through_sync_in_the_order_it_was_said() {
    let two = Two::meet_mixed().await;
    let room = two.room("12").await;
    let mut since = two.bob.now().await;
    let mut said = Vec::new();
    for number in 0..30 {
        said.push(two.alice.say(&room, &format!("sentence {number}")).await);
    }
    let mut heard = Vec::new();
    // They may well come all at once.
    let filter = format!("&filter={}", enc(&json!({ "room": { "timeline": { "limit": 50 } } }).to_string()));
    eventually("Bob has heard everything", async || {
        let answer = two.bob.sync_with(Some(&since), Duration::from_secs(2), &filter).await.ok();
        since = answer["next_batch"].as_str().expect("next_batch is a string").to_owned();
        let timeline = &answer["rooms"]["join"][&room]["timeline"];
        assert_ne!(timeline["limited"], true, "a reader that follows misses nothing: {timeline}");
        heard.extend(ids_of(timeline["events"].as_array().map(Vec::as_slice).unwrap_or_default()));
        (heard.len() >= said.len()).then_some(())
    })
    .await;
    assert_eq!(heard, said);
}

#[tokio::test]
async fn a_group_of_both_domains_hears_everyone() {
    let two = Two::meet_mixed().await;
    let room = two.public_room().await;
    let anna = two.a.register_with_secret("anna").await;
    let ben = two.b.register_with_secret("ben").await;
    anna.join(&room).await;
    // His server is in the room by now, and needs nobody's help.
    ben.join(&room).await;
    becomes(&two.alice, &room, &ben.user_id, "join").await;
    becomes(&two.bob, &room, &anna.user_id, "join").await;
    let people = [&two.alice, &two.bob, &anna, &ben];
    for speaker in people {
        let event_id = speaker.say(&room, &format!("I am {}", speaker.user_id)).await;
        for listener in people {
            arrives(listener, &room, &event_id).await;
        }
    }
    agree(&room, &people).await;
    share_history(&room, &people).await;
}

#[tokio::test]
async fn two_rooms_do_not_wait_for_each_other() {
    let two = Two::meet_mixed().await;
    let rooms = [two.public_room().await, two.room("11").await];
    let mut sent = Vec::new();
    for number in 0..20 {
        for room in &rooms {
            sent.push((room, two.alice.say(room, &format!("a{number}")).await));
            sent.push((room, two.bob.say(room, &format!("b{number}")).await));
        }
    }
    for (room, event_id) in &sent {
        arrives(&two.alice, room, event_id).await;
        arrives(&two.bob, room, event_id).await;
    }
    for room in &rooms {
        share_history(room, &[&two.alice, &two.bob]).await;
    }
}

#[tokio::test]
async fn what_is_redacted_is_gone_on_the_other_side_too() {
    let two = Two::meet_mixed().await;
    for version in VERSIONS {
        let room = two.room(version).await;
        let slip = two.alice.say(&room, "a slip of the tongue").await;
        arrives(&two.bob, &room, &slip).await;
        let path = format!("rooms/{room}/redact/{}/r{version}", enc(&slip));
        let redaction = two.alice.put(&path, json!({ "reason": "oops" })).await.ok();
        let redaction = redaction["event_id"].as_str().expect("an event id");
        arrives(&two.bob, &room, redaction).await;
        let left = arrives(&two.bob, &room, &slip).await;
        assert!(left["content"].get("body").is_none(), "the words are still there: {left}");
        assert_eq!(left["unsigned"]["redacted_because"]["event_id"], redaction, "{left}");

        // Who may not take back others' words there can't do it from afar either.
        let word = two.alice.say(&room, "this stays").await;
        arrives(&two.bob, &room, &word).await;
        let path = format!("rooms/{room}/redact/{}/f{version}", enc(&word));
        two.bob.put(&path, json!({})).await.refused(403, "M_FORBIDDEN");

        // Alice may take back Bob's.
        let bobs = two.bob.say(&room, "rude").await;
        arrives(&two.alice, &room, &bobs).await;
        two.alice.put(&format!("rooms/{room}/redact/{}/m{version}", enc(&bobs)), json!({})).await.ok();
        federation_tests::eventually("Bob's words are gone at home", async || {
            arrives(&two.bob, &room, &bobs).await["content"].get("body").is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_space_shows_rooms_of_another_domain() {
    let two = Two::meet_mixed().await;
    let named = async |name: &str, preset: &str| {
        two.alice.create_room(json!({ "name": name, "preset": preset, "room_version": "11" })).await
    };
    let (garden, vault) = (named("garden", "public_chat").await, named("vault", "private_chat").await);
    let kind = json!({ "type": "m.space" });
    let space = json!({ "name": "park", "preset": "public_chat", "room_version": "11", "creation_content": kind });
    let park = two.alice.create_room(space).await;
    let own = two.bob.create_room(json!({ "name": "town", "preset": "private_chat", "creation_content": kind })).await;
    let via = json!({ "via": ["a.test"] });
    for (client, space, child) in [(&two.alice, &park, &garden), (&two.alice, &park, &vault), (&two.bob, &own, &park)] {
        client.put(&format!("rooms/{space}/state/m.space.child/{child}"), via.clone()).await.ok();
    }
    let names = async |client: &Client, room: &str| {
        let tree = client.get(&format!("/_matrix/client/v1/rooms/{room}/hierarchy")).await.ok();
        let rooms = tree["rooms"].as_array().expect("a list").clone();
        rooms.iter().map(|room| room["name"].as_str().unwrap_or("?").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&two.bob, &own).await, ["town", "park", "garden"], "nobody is shown what they may not see");
    assert_eq!(names(&two.alice, &park).await, ["park", "garden", "vault"]);
    // One by itself, with who to ask.
    let summary = |room: &str| format!("/_matrix/client/v1/room_summary/{room}?via=a.test");
    let shown = two.bob.get(&summary(&garden)).await.ok();
    assert_eq!((&shown["name"], &shown["membership"]), (&json!("garden"), &json!("leave")), "{shown}");
    two.bob.get(&summary(&vault)).await.refused(404, "M_NOT_FOUND");
}
