//! What was said before one's server came into the room.

use federation_tests::{Client, on_each_engine};
use serde_json::json;

use super::{Two, agree, arrives, becomes, ids_of, share_history, texts_of, three_with_a_notary};

/// More than fits one answer of a server or one page of a client.
const SAID: usize = 230;

async fn speak(client: &Client, room: &str, count: usize) -> Vec<String> {
    let mut said = Vec::new();
    for number in 0..count {
        let text = format!("sentence {number}");
        client.say(room, &text).await;
        said.push(text);
    }
    said
}

#[tokio::test]
async fn who_joins_reads_back_to_the_first_word() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let room = two.alice.create_public_room().await;
        let said = speak(&two.alice, &room, SAID).await;
        two.bob.join_via(&room, &["a.test"]).await;
        let history = two.bob.history(&room).await;
        assert_eq!(texts_of(&history), said);
        assert_eq!(history[0]["type"], "m.room.create", "the history begins with the room");
        assert_eq!(ids_of(&history), ids_of(&two.alice.history(&room).await), "both read the same");

        // What comes now joins up with what was fetched.
        let event_id = two.alice.say(&room, "and on").await;
        arrives(&two.bob, &room, &event_id).await;
        share_history(&room, &[&two.alice, &two.bob]).await;
    })
    .await;
}

#[tokio::test]
async fn a_room_is_read_while_the_server_that_knows_its_past_is_away() {
    let two = Two::meet_mixed().await;
    let room = two.alice.create_public_room().await;
    speak(&two.alice, &room, 30).await;
    two.bob.join_via(&room, &["a.test"]).await;
    two.network.part("a.test", "b.test");
    // What is there is shown; what is not there yet is neither an error nor the end of the room.
    let page = two.bob.get(&format!("rooms/{room}/messages?dir=b&limit=100")).await.ok();
    assert!(page["chunk"].as_array().is_some_and(|chunk| !chunk.is_empty()), "{page}");
    two.network.reunite("a.test", "b.test");
    federation_tests::eventually("the whole history is read", async || {
        (texts_of(&two.bob.history(&room).await).len() == 30).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_past_is_fetched_from_a_second_server_when_the_first_is_away() {
    let (network, [a, b, c]) = three_with_a_notary().await;
    let alice = a.register_with_secret("alice").await;
    let bob = b.register_with_secret("bob").await;
    let carol = c.register_with_secret("carol").await;
    let room = alice.create_public_room().await;
    bob.join_via(&room, &["a.test"]).await;
    let said = speak(&alice, &room, 60).await;
    let last = alice.say(&room, "last").await;
    arrives(&bob, &room, &last).await;
    network.part("a.test", "c.test");
    carol.join_via(&room, &["b.test"]).await;
    let texts = texts_of(&carol.history(&room).await);
    assert_eq!(texts[..60], said[..]);
}

#[tokio::test]
async fn history_that_is_not_shared_stays_closed() {
    let two = Two::meet_mixed().await;
    for visibility in ["joined", "invited"] {
        let state = json!([{
            "type": "m.room.history_visibility", "content": { "history_visibility": visibility },
        }]);
        let room = two.alice.create_room(json!({ "preset": "public_chat", "initial_state": state })).await;
        let secret = two.alice.say(&room, "between us").await;
        two.bob.join_via(&room, &["a.test"]).await;
        becomes(&two.alice, &room, &two.bob.user_id, "join").await;
        let open = two.alice.say(&room, "for all").await;
        arrives(&two.bob, &room, &open).await;
        let history = two.bob.history(&room).await;
        assert!(!ids_of(&history).contains(&secret), "Bob reads what was said before him");
        assert!(!super::is_known(&two.bob, &room, &secret).await);
        // Nor does his server get to see it.
        let link = two.network.link("b.test", "a.test");
        let leaked = link.crossings().into_iter().find(|crossing| {
            let answer = crossing.answer.as_ref().map(|(_, body)| String::from_utf8_lossy(body).into_owned());
            answer.is_some_and(|answer| answer.contains("between us"))
        });
        assert!(leaked.is_none(), "{}", leaked.expect("it is there"));
    }
}

#[tokio::test]
async fn an_event_of_the_past_is_found_by_its_time() {
    let two = Two::meet_mixed().await;
    let room = two.alice.create_public_room().await;
    let first = two.alice.say(&room, "the first").await;
    let event = arrives(&two.alice, &room, &first).await;
    let time = event["origin_server_ts"].as_u64().expect("a time");
    speak(&two.alice, &room, 40).await;
    two.bob.join_via(&room, &["a.test"]).await;
    // Bob's server may not have it yet, and asks around.
    let path = format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts={time}&dir=f");
    let found = two.bob.get(&path).await.ok();
    assert_eq!(found["event_id"], first.as_str(), "{found}");
    agree(&room, &[&two.alice, &two.bob]).await;
}
