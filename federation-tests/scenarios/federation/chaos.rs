//! Everything goes wrong at once, for a while: links are cut, slow, forgetful and repeat themselves, servers die, and
//! people write and change everything meanwhile. Then it is repaired, and all servers come to say the same.
//!
//! `COMITY_CHAOS_SEED` repeats a run as far as dice are concerned, `COMITY_CHAOS_SECONDS` makes it longer.

mod damage;
mod people;

use std::{
    collections::{BTreeMap, HashSet},
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use damage::Damage;
use federation_tests::{Client, FakePeer, Network, Server};
use futures_util::future::join_all;
use people::{Ledger, Troublemaker, Writer};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{becomes, state_ids};

const NAMES: [&str; 3] = ["a.test", "b.test", "c.test"];
/// The versions of the rooms; who makes them takes turns.
const ROOMS: [&str; 4] = ["12", "11", "10", "12"];
/// How long things go wrong, unless the environment says otherwise.
const SECONDS: u64 = 30;
/// How long the servers may take to agree when nothing is wrong any more.
const RECOVERY: Duration = Duration::from_secs(120);

/// Three servers, and on each somebody who is always in every room and somebody who is thrown out of them.
struct World {
    network: Network,
    servers: [Server; 3],
    steady: Vec<Client>,
    troublemakers: Vec<Client>,
    rooms: Vec<String>,
}

impl World {
    async fn make() -> Self {
        let (network, servers) = Network::start_mixed(NAMES).await;
        let steady = join_all(servers.iter().map(|server| server.register_with_secret("steady"))).await;
        let troublemakers = join_all(servers.iter().map(|server| server.register_with_secret("trouble"))).await;
        let mut world = Self { network, servers, steady, troublemakers, rooms: Vec::new() };
        world.rooms = join_all(ROOMS.iter().enumerate().map(|(number, version)| world.room(number, version))).await;
        world
    }

    /// A public room in which the steady ones can do everything.
    async fn room(&self, number: usize, version: &str) -> String {
        let maker = &self.steady[number % 3];
        let mut users = json!({});
        for client in self.steady.iter().filter(|client| version != "12" || client.user_id != maker.user_id) {
            users[&client.user_id] = 100.into();
        }
        let levels = json!({ "users": users });
        let request =
            json!({ "preset": "public_chat", "room_version": version, "power_level_content_override": levels });
        let room = maker.create_room(request).await;
        // A server tells of its people those servers of which it knows that they are in the room.
        for people in [&self.steady, &self.troublemakers] {
            for client in people.iter().filter(|client| client.user_id != maker.user_id) {
                client.join_via(&room, &[NAMES[number % 3]]).await;
            }
            for observer in &self.steady {
                for client in people {
                    becomes(observer, &room, &client.user_id, "join").await;
                }
            }
        }
        room
    }

    fn is_steady(&self, user_id: &Value) -> bool {
        self.steady.iter().any(|client| *user_id == client.user_id.as_str())
    }

    /// Lets everybody do what they do until `stop`. What was acknowledged is in the ledgers.
    fn set_to_work(&self, seed: u64, stop: &CancellationToken) -> JoinSet<Ledger> {
        let troublemakers: Arc<[String]> = self.troublemakers.iter().map(|client| client.user_id.clone()).collect();
        let mut work = JoinSet::new();
        for (number, room) in self.rooms.iter().enumerate() {
            for (place, client) in self.steady.iter().enumerate() {
                let seed = seed.wrapping_add((10 * number + place) as u64);
                let writer = Writer::new(client.another(), room.clone(), troublemakers.clone(), seed);
                work.spawn(writer.run(stop.clone()));
            }
            for (place, client) in self.troublemakers.iter().enumerate() {
                let seed = seed.wrapping_add((10 * number + place + 5) as u64);
                work.spawn(Troublemaker::new(client.another(), room.clone(), seed).run(stop.clone()));
            }
        }
        work
    }
}

#[tokio::test]
async fn after_a_time_of_chaos_every_room_is_the_same_everywhere_and_nothing_is_lost() {
    let seed = number_of("COMITY_CHAOS_SEED").unwrap_or_else(rand::random);
    let seconds = number_of("COMITY_CHAOS_SECONDS").unwrap_or(SECONDS);
    eprintln!("COMITY_CHAOS_SEED={seed}");
    let mut world = World::make().await;
    let stop = CancellationToken::new();
    let work = world.set_to_work(seed, &stop);

    let mut damage = Damage::new(&world.network, seed);
    damage.go_on(&mut world.servers, Duration::from_secs(seconds)).await;
    stop.cancel();
    damage.repair(&mut world.servers).await;
    let ledgers = work.join_all().await;
    let events: usize = ledgers.iter().map(|ledger| ledger.sent.len()).sum();
    eprintln!("{events} events were acknowledged; {damage}");
    assert!(events > 100, "there was no load to speak of: {events} events");

    let began = Instant::now();
    close(&world).await;
    join_all(world.rooms.iter().map(|room| one_history(&world, room, &ledgers))).await;
    join_all(world.rooms.iter().map(|room| one_state(&world, room))).await;
    eprintln!("all servers agree after {:?}", began.elapsed());
    every_server_knows_what_was_acknowledged(&world, &ledgers).await;
    for ledger in &ledgers {
        ledger.repeated_requests_get_the_same_answer().await;
    }
}

fn number_of(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Asks again and again until `condition` has no complaint, and panics with the last one when [`RECOVERY`] is over.
async fn recovers(mut condition: impl AsyncFnMut() -> Result<(), String>) {
    let deadline = Instant::now() + RECOVERY;
    while let Err(complaint) = condition().await {
        assert!(Instant::now() < deadline, "{RECOVERY:?} after the end of the chaos: {complaint}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// In each room one server after the other has a last word, so that all branches of its graph come together.
async fn close(world: &World) {
    let rooms = world.rooms.iter().map(async |room| {
        for speaker in &world.steady {
            let last_word = speaker.say(room, "is everything well?").await;
            recovers(async || {
                for listener in &world.steady {
                    let answer = listener.get(&format!("rooms/{room}/event/{last_word}")).await;
                    if answer.status != 200 {
                        let (from, to) = (&speaker.user_id, &listener.user_id);
                        return Err(format!(
                            "{last_word} of {from} in {room} has not arrived at {to}: {}",
                            answer.text
                        ));
                    }
                }
                Ok(())
            })
            .await;
        }
    });
    join_all(rooms).await;
}

/// What the steady ones did is the same in all histories, and holds everything of theirs that was acknowledged.
///
/// Not so what the others did: a server that knows already that somebody is banned doesn't show what they said meanwhile.
async fn one_history(world: &World, room: &str, ledgers: &[Ledger]) {
    let firm = ledgers.iter().filter(|ledger| ledger.is_firm && ledger.room == room);
    let firm: HashSet<&str> = firm.flat_map(|ledger| &ledger.sent).map(|sent| sent.event_id.as_str()).collect();
    recovers(async || {
        let mut views = Vec::new();
        for client in &world.steady {
            let view = history(world, client, room).await;
            if let Some(lost) = firm.iter().find(|event_id| !view.contains_key(**event_id)) {
                let count = firm.iter().filter(|event_id| !view.contains_key(**event_id)).count();
                return Err(format!("{} does not know {lost} of {room}, and {count} in all", client.user_id));
            }
            views.push(view);
        }
        for (client, view) in world.steady.iter().zip(&views) {
            let other = views.iter().find(|other| *other != view);
            let differs =
                |(event_id, event): &(&String, &Value)| other.is_some_and(|other| other.get(*event_id) != Some(event));
            if let Some((event_id, event)) = view.iter().find(differs) {
                let other = other.and_then(|other| other.get(event_id));
                return Err(format!("for {} {event_id} of {room} is {event}, for another {other:?}", client.user_id));
            }
        }
        Ok(())
    })
    .await;
}

/// What a member can read of what the steady ones did, by id. Nothing is there twice.
async fn history(world: &World, client: &Client, room: &str) -> BTreeMap<String, Value> {
    let mut view = BTreeMap::new();
    let mut seen = HashSet::new();
    for mut event in client.history(room).await {
        let event_id = event["event_id"].as_str().expect("an event has an id").to_owned();
        assert!(seen.insert(event_id.clone()), "{} is shown {event_id} of {room} twice", client.user_id);
        // An invitation of somebody who is in the room by then is as little to be seen as what the banned say.
        let is_invitation = event["content"]["membership"] == "invite";
        if world.is_steady(&event["sender"]) && !is_invitation {
            event.as_object_mut().expect("an event is an object").remove("unsigned");
            view.insert(event_id, event);
        }
    }
    view
}

/// The room's state is the same for all, event by event.
async fn one_state(world: &World, room: &str) {
    recovers(async || {
        let first = state_ids(&world.steady[0], room).await;
        for client in &world.steady[1..] {
            let other = state_ids(client, room).await;
            if first != other {
                let here: Vec<_> = first.iter().filter(|(key, id)| other.get(key) != Some(id)).collect();
                let there: Vec<_> = other.iter().filter(|(key, id)| first.get(key) != Some(id)).collect();
                return Err(format!("{room}: one has {here:?}, {} has {there:?}", client.user_id));
            }
        }
        Ok(())
    })
    .await;
}

/// A server that comes into the rooms at the end can ask each of the three for every event that was acknowledged,
/// whether it is shown there or not.
async fn every_server_knows_what_was_acknowledged(world: &World, ledgers: &[Ledger]) {
    let peer = FakePeer::start(&world.network, "auditor.test").await;
    for (number, room) in world.rooms.iter().enumerate() {
        peer.join(&world.servers[number % 3], room, "auditor").await;
        for observer in &world.steady {
            becomes(observer, room, &peer.user("auditor"), "join").await;
        }
    }
    for server in &world.servers {
        for ledger in ledgers {
            for sent in &ledger.sent {
                let path = format!("/_matrix/federation/v1/event/{}", sent.event_id);
                let answer = peer.get(server, &path).await;
                let what = format!("{} {} ({}) of {}", sent.event_id, sent.path, sent.content, ledger.client.user_id);
                assert_eq!(answer.status, 200, "{} has lost {what}: {}", server.name(), answer.text);
            }
        }
    }
}
