//! A deployment of two nodes whose RabbitMQ and Redis die while people talk: in turn, and together. Nobody notices but other
//! programs, which are told later.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use federation_tests::{Broker, Client, Engine, PATIENCE, Program, Reader, Redis, Server};
use tokio::task::JoinHandle;

use crate::bus::{SECRET, VHOST, broker, crm};

/// How many sentences each says in each stretch of a story.
const SENTENCES: usize = 20;

/// Somebody who talks without end.
struct Talker {
    said: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    talking: JoinHandle<Vec<String>>,
}

impl Talker {
    fn start(client: Client, room: String) -> Self {
        let (said, enough) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stop) = (said.clone(), enough.clone());
        let talking = tokio::spawn(async move {
            let mut sent = Vec::new();
            while !stop.load(Relaxed) {
                sent.push(client.say(&room, &format!("sentence {}", sent.len())).await);
                count.store(sent.len(), Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            sent
        });
        Self { said, enough, talking }
    }

    /// Waits until some more has been said.
    async fn goes_on(&self) {
        let (before, began) = (self.said.load(Relaxed), Instant::now());
        while self.said.load(Relaxed) < before + SENTENCES {
            assert!(!self.talking.is_finished(), "a sentence was refused");
            assert!(began.elapsed() < PATIENCE, "nobody can talk any more");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The ids of all that was said, in order.
    async fn ends(self) -> Vec<String> {
        self.enough.store(true, Relaxed);
        self.talking.await.expect("every sentence was taken")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_talk_on_while_rabbitmq_and_redis_die_in_turn_and_together() {
    let (Some(programs), Some(redis), Some(engine)) = (Broker::programs(), Redis::program(), Engine::postgres()) else {
        eprintln!("SKIPPED: this needs PostgreSQL, RabbitMQ and Redis");
        return;
    };
    let mut broker = broker(&programs).await;
    let mut redis = Redis::start(&redis).await;
    let builder = Server::builder(&engine).set("cache", "url", redis.url());
    let first = builder.set("bus", "url", broker.url_of("comity", SECRET, VHOST)).start().await;
    let second = first.another_node().await;
    crm(&broker).await;

    let alice = first.register_with_secret("alice").await;
    let bob = second.register_with_secret("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let mut readers = [Reader::start(alice.another()).await, Reader::start(bob.another()).await];
    let talkers = [Talker::start(alice.another(), room.clone()), Talker::start(bob.another(), room.clone())];
    let go_on = async || tokio::join!(talkers[0].goes_on(), talkers[1].goes_on());

    go_on().await;
    // Redis first: a quorum queue that has just been made doesn't survive SIGKILL.
    for (kills_redis, kills_broker) in [(true, false), (false, true), (true, true)] {
        if kills_redis {
            redis.kill();
        }
        if kills_broker {
            broker.kill();
        }
        go_on().await;
        if kills_redis {
            redis.restart().await;
        }
        if kills_broker {
            broker.restart().await;
        }
        go_on().await;
    }
    let [of_alice, of_bob] = talkers;
    let said = [of_alice.ends().await, of_bob.ends().await];

    // Everybody has read all of it, in the order in which it was said, and the program is told all of it.
    for reader in &mut readers {
        let began = Instant::now();
        while !said.iter().flatten().all(|event_id| reader.has_seen(event_id)) {
            reader.step(Duration::from_secs(1)).await.expect("the node answers");
            assert!(began.elapsed() < 2 * PATIENCE, "something was lost");
        }
        for said in &said {
            let shown: Vec<&String> = reader.room(&room).iter().filter(|event_id| said.contains(event_id)).collect();
            assert_eq!(shown, said.iter().collect::<Vec<_>>(), "what one says keeps its order, and is shown once");
        }
    }
    let mut crm = Program::connect(&broker.url_of("crm", SECRET, VHOST)).await;
    crm.listen("crm.messages").await;
    let mut untold: BTreeSet<String> = said.into_iter().flatten().collect();
    while !untold.is_empty() {
        untold.remove(&crm.next().await.message_id.expect("each has an id"));
    }
}
