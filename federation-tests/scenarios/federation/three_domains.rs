//! Three domains in one room, of which one is gone for a while.

use federation_tests::{Client, Network, Server, on_each_engine};
use serde_json::json;

use super::{agree, arrives, becomes, share_history};

struct Three {
    network: Network,
    servers: [Server; 3],
    people: [Client; 3],
    room: String,
}

impl Three {
    async fn meet(network: Network, servers: [Server; 3]) -> Self {
        let people = [
            servers[0].register_with_secret("alice").await,
            servers[1].register_with_secret("bob").await,
            servers[2].register_with_secret("carol").await,
        ];
        let room = people[0].create_public_room().await;
        for person in &people[1..] {
            person.join_via(&room, &["a.test"]).await;
        }
        for person in &people {
            for other in &people {
                becomes(person, &room, &other.user_id, "join").await;
            }
        }
        Self { network, servers, people, room }
    }

    fn everyone(&self) -> [&Client; 3] {
        self.people.each_ref()
    }
}

/// One server dies; the two others go on, and it catches up.
async fn goes_on_without(three: &mut Three, gone: usize) {
    let before = three.people[gone].say(&three.room, "my last words").await;
    for person in &three.people {
        arrives(person, &three.room, &before).await;
    }
    three.servers[gone].kill();
    let rest: Vec<usize> = (0..3).filter(|number| *number != gone).collect();
    let mut said = Vec::new();
    for number in 0..10 {
        for &speaker in &rest {
            let event_id = three.people[speaker].say(&three.room, &format!("{speaker} says {number}")).await;
            for &listener in &rest {
                arrives(&three.people[listener], &three.room, &event_id).await;
            }
            said.push(event_id);
        }
    }
    let name = format!("without {gone}");
    let topic = json!({ "topic": name });
    // Alice alone has the power; when it is her server that is gone, nobody names anything.
    if gone != 0 {
        three.people[0].set_state(&three.room, "m.room.topic", "", topic).await.ok();
    }
    three.servers[gone].restart().await;
    for event_id in &said {
        arrives(&three.people[gone], &three.room, event_id).await;
    }
    agree(&three.room, &three.everyone()).await;
    share_history(&three.room, &three.everyone()).await;
    let after = three.people[gone].say(&three.room, "I am back").await;
    for person in &three.people {
        arrives(person, &three.room, &after).await;
    }
}

#[tokio::test]
async fn a_server_dies_and_the_other_two_go_on() {
    on_each_engine(async |engine| {
        let (network, servers) = Network::start(&engine, ["a.test", "b.test", "c.test"]).await;
        let mut three = Three::meet(network, servers).await;
        goes_on_without(&mut three, 2).await;
    })
    .await;
}

#[tokio::test]
async fn the_server_that_made_the_room_dies_and_the_room_goes_on() {
    let (network, servers) = Network::start_mixed(["a.test", "b.test", "c.test"]).await;
    let mut three = Three::meet(network, servers).await;
    goes_on_without(&mut three, 0).await;
}

#[tokio::test]
async fn two_servers_that_cannot_reach_each_other_meet_through_the_third() {
    let (network, servers) = Network::start_mixed(["a.test", "b.test", "c.test"]).await;
    let three = Three::meet(network, servers).await;
    let [alice, bob, carol] = three.everyone();
    three.network.part("a.test", "b.test");
    let from_alice = alice.say(&three.room, "can you hear me?").await;
    arrives(carol, &three.room, &from_alice).await;
    // What Carol says follows it: Bob's server misses that, and has nobody but hers to ask.
    let from_carol = carol.say(&three.room, "I can").await;
    arrives(bob, &three.room, &from_carol).await;
    arrives(bob, &three.room, &from_alice).await;
    let from_bob = bob.say(&three.room, "so can I").await;
    arrives(carol, &three.room, &from_bob).await;
    let answer = carol.say(&three.room, "he can").await;
    arrives(alice, &three.room, &answer).await;
    arrives(alice, &three.room, &from_bob).await;
    three.network.reunite("a.test", "b.test");
    agree(&three.room, &three.everyone()).await;
    share_history(&three.room, &three.everyone()).await;
}
