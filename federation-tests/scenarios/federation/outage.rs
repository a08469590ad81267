//! A server is down, or the way to it, or what it answers gets lost: what was said arrives, once and in order.

use std::time::{Duration, Instant};

use federation_tests::{Client, Reader, on_each_engine};

use super::{Two, agree, arrives, ids_of, share_history};

/// How many messages an outage holds up.
const SAID: usize = 200;

pub(super) async fn speak(client: &Client, room: &str, count: usize) -> Vec<String> {
    let mut said = Vec::new();
    for number in 0..count {
        said.push(client.say(room, &format!("sentence {number}")).await);
    }
    said
}

/// Reads until everything that was said has been shown, and checks that it was shown in that order.
pub(super) async fn is_shown(reader: &mut Reader, room: &str, said: &[String]) {
    let last = said.last().expect("something was said");
    // As long as more is shown, it may take as long as it likes.
    let (mut moved, mut missing) = (Instant::now(), said.len());
    while missing > 0 {
        let read = reader.step(Duration::from_secs(1)).await;
        let still = said.iter().filter(|event_id| !reader.has_seen(event_id)).count();
        if still < missing {
            (moved, missing) = (Instant::now(), still);
        }
        assert!(moved.elapsed() < federation_tests::PATIENCE, "{last} and {missing} in all were never shown: {read:?}");
    }
    let shown: Vec<&String> = reader.room(room).iter().filter(|event_id| said.contains(event_id)).collect();
    assert_eq!(shown, said.iter().collect::<Vec<_>>(), "shown in another order");
}

#[tokio::test]
async fn what_was_said_while_a_server_was_down_arrives_once_and_in_order() {
    on_each_engine(async |engine| {
        let mut two = Two::meet(&engine).await;
        let room = two.room("12").await;
        let mut reader = Reader::start(two.bob.another()).await;
        two.b.kill();
        let said = speak(&two.alice, &room, SAID).await;
        two.b.restart().await;
        is_shown(&mut reader, &room, &said).await;
        share_history(&room, &[&two.alice, &two.bob]).await;
        agree(&room, &[&two.alice, &two.bob]).await;
    })
    .await;
}

#[tokio::test]
async fn what_was_said_survives_the_death_of_its_sender() {
    on_each_engine(async |engine| {
        let mut two = Two::meet(&engine).await;
        let room = two.room("12").await;
        let mut reader = Reader::start(two.bob.another()).await;
        two.b.kill();
        let mut said = speak(&two.alice, &room, SAID / 2).await;
        // Right after the last acknowledgement, with everything unsent.
        two.a.kill();
        two.a.restart().await;
        said.extend(speak(&two.alice, &room, SAID / 2).await);
        two.b.restart().await;
        is_shown(&mut reader, &room, &said).await;
        share_history(&room, &[&two.alice, &two.bob]).await;
    })
    .await;
}

#[tokio::test]
async fn a_word_from_a_server_that_was_down_wakes_those_who_had_given_it_up() {
    let mut two = Two::meet_mixed().await;
    let room = two.room("12").await;
    two.b.kill();
    let held_up = two.alice.say(&room, "are you there?").await;
    // Long enough for several attempts, so that the next would not come at once.
    tokio::time::sleep(Duration::from_secs(6)).await;
    two.b.restart().await;
    let word = two.bob.say(&room, "I am back").await;
    arrives(&two.alice, &room, &word).await;
    let woken = tokio::time::timeout(Duration::from_secs(5), arrives(&two.bob, &room, &held_up)).await;
    assert!(woken.is_ok(), "the word of the server that was down woke nobody");
}

#[tokio::test]
async fn an_answer_that_gets_lost_changes_nothing() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let room = two.room("12").await;
        let mut reader = Reader::start(two.bob.another()).await;
        // The transaction is taken, its sender does not hear so and sends it again.
        two.network.link("a.test", "b.test").lose_answers(2);
        let said = speak(&two.alice, &room, 5).await;
        is_shown(&mut reader, &room, &said).await;
        share_history(&room, &[&two.alice, &two.bob]).await;
        let sent = two.network.link("a.test", "b.test").crossings();
        let unanswered = sent.iter().filter(|crossing| crossing.answer.is_none()).count();
        assert_eq!(unanswered, 2, "the link has lost what it should");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_comes_twice_counts_once() {
    let two = Two::meet_mixed().await;
    let room = two.room("12").await;
    let mut reader = Reader::start(two.bob.another()).await;
    for link in two.network.links() {
        link.set_faults(federation_tests::Faults { doubled: 1.0, ..Default::default() });
    }
    let said = speak(&two.alice, &room, 20).await;
    is_shown(&mut reader, &room, &said).await;
    let back = two.bob.say(&room, "and back").await;
    arrives(&two.alice, &room, &back).await;
    share_history(&room, &[&two.alice, &two.bob]).await;
}

#[tokio::test]
async fn a_server_that_is_down_stops_nobody_at_home() {
    let mut two = Two::meet_mixed().await;
    let room = two.room("12").await;
    let anna = two.a.register_with_secret("anna").await;
    two.alice.invite(&room, &anna).await;
    anna.join(&room).await;
    two.b.kill();
    let began = std::time::Instant::now();
    for number in 0..20 {
        let event_id = two.alice.say(&room, &format!("among us {number}")).await;
        arrives(&anna, &room, &event_id).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "the outage of others took {:?}", began.elapsed());
    two.b.restart().await;
    federation_tests::eventually("Bob has it all", async || {
        (ids_of(&two.bob.history(&room).await).len() == ids_of(&two.alice.history(&room).await).len()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_name_that_is_not_answered_for_a_while_stops_nothing_for_good() {
    let two = Two::meet_mixed().await;
    let room = two.room("12").await;
    two.network.names.set_deaf("a.test", true);
    // Known addresses and open connections may carry on; what is not known any more must be found again.
    let said = speak(&two.alice, &room, 3).await;
    two.network.names.set_deaf("a.test", false);
    for event_id in &said {
        arrives(&two.bob, &room, event_id).await;
    }
}
