//! Who is there is one thing for all nodes, whichever of them sees somebody.

use std::time::{Duration, Instant};

use federation_tests::{Client, Redis};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::Nodes;

/// Who isn't seen by any node any more is gone by then: after half a minute, or twice that if it was the node that died.
const GONE: Duration = Duration::from_secs(120);
/// Longer than it takes to be gone from one node.
const LONG_ENOUGH: Duration = Duration::from_secs(40);

/// A device that syncs until it is stopped, or its node dies.
struct Device(JoinHandle<()>);

impl Device {
    fn start(client: &Client) -> Self {
        let client = client.another();
        Self(tokio::spawn(async move {
            let mut path = "sync?timeout=5000".to_owned();
            while let Ok(answer) = client.try_get(&path).await {
                let since = answer.body["next_batch"].as_str().expect("a token");
                path = format!("sync?timeout=5000&since={since}");
            }
        }))
    }

    fn stop(self) {
        self.0.abort();
    }
}

/// Somebody who looks at others, by syncing at one node.
struct Watcher {
    client: Client,
    since: String,
}

impl Watcher {
    async fn of(client: Client) -> Self {
        let since = client.now().await;
        Self { client, since }
    }

    /// What the next sync says of the presence of `user`, in order.
    async fn hears(&mut self, user: &Client) -> Vec<Value> {
        let answer = self.client.sync_with(Some(&self.since), Duration::from_secs(1), "").await.ok();
        answer["next_batch"].as_str().expect("a token").clone_into(&mut self.since);
        let events = answer["presence"]["events"].as_array().cloned().unwrap_or_default();
        events
            .into_iter()
            .filter(|event| event["sender"] == *user.user_id)
            .map(|event| event["content"].clone())
            .collect()
    }

    /// Syncs until `user` is seen as `presence`, and asks, too.
    async fn sees(&mut self, user: &Client, presence: &str) -> Value {
        let began = Instant::now();
        let mut heard = Vec::new();
        while heard.last().is_none_or(|content: &Value| content["presence"] != presence) {
            heard.extend(self.hears(user).await);
            assert!(began.elapsed() < GONE, "{} never saw {} {presence}: {heard:?}", self.client.user_id, user.user_id);
        }
        let path = format!("presence/{}/status", user.user_id);
        assert_eq!(self.client.get(&path).await.ok()["presence"], presence, "{} asks", self.client.user_id);
        eprintln!("{} saw {} {presence} after {:?}", self.client.user_id, user.user_id, began.elapsed());
        heard.pop().expect("it was heard")
    }
}

/// For `time`, none of them hears that `user` is offline.
async fn stays(watchers: &mut [&mut Watcher], user: &Client, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        for watcher in &mut *watchers {
            for content in watcher.hears(user).await {
                assert_ne!(content["presence"], "offline", "{} {:?}", watcher.client.user_id, began.elapsed());
            }
        }
    }
}

async fn says(client: &Client, presence: &str, status: &str) {
    let status = json!({ "presence": presence, "status_msg": status });
    client.put(&format!("presence/{}/status", client.user_id), status).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_is_there_as_long_as_any_node_says_so() {
    let Some(mut nodes) = Nodes::with_redis().await else { return };
    let (bob, dave, room) = nodes.people_called("bob", "dave").await;
    let alice = nodes.first.register_with_secret("alice").await;
    let alice_there = nodes.second.login("alice").await;
    let carol = nodes.second.register_with_secret("carol").await;
    for client in [&alice, &carol] {
        client.join(&room).await;
    }
    let (mut bob, mut dave) = (Watcher::of(bob).await, Watcher::of(dave).await);

    // Whoever comes to one node is seen at both.
    let here = Device::start(&alice);
    bob.sees(&alice, "online").await;
    dave.sees(&alice, "online").await;
    let there = Device::start(&alice_there);
    let carols = Device::start(&carol);
    for watcher in [&mut bob, &mut dave] {
        watcher.sees(&carol, "online").await;
    }
    // What she says of herself at one node holds at the other one.
    says(&alice_there, "unavailable", "at tea").await;
    for watcher in [&mut bob, &mut dave] {
        assert_eq!(watcher.sees(&alice, "unavailable").await["status_msg"], "at tea");
    }
    says(&alice, "online", "back").await;
    for watcher in [&mut bob, &mut dave] {
        assert_eq!(watcher.sees(&alice, "online").await["status_msg"], "back");
    }

    // She leaves one node and is seen by the other one. Redis forgetting everything changes nothing.
    here.stop();
    nodes.redis.as_ref().expect("it was started").say("FLUSHALL").await;
    stays(&mut [&mut bob, &mut dave], &alice, LONG_ENOUGH).await;

    // The node dies that sees her, and Carol.
    nodes.second.kill();
    there.stop();
    carols.stop();
    let died = Instant::now();
    bob.sees(&carol, "offline").await;
    let said = format!("presence/{}/status", alice.user_id);
    while bob.client.get(&said).await.ok()["presence"] != "offline" {
        bob.hears(&alice).await;
        assert!(died.elapsed() < GONE, "alice is there for ever");
    }
    eprintln!("those whom a dead node had seen were gone {:?} later", died.elapsed());

    // It comes back, and so does she; who comes and goes while Redis is away does so all the same.
    nodes.second.restart().await;
    let there = Device::start(&alice_there);
    bob.sees(&alice, "online").await;
    let redis: &mut Redis = nodes.redis.as_mut().expect("it was started");
    redis.kill();
    stays(&mut [&mut bob], &alice, Duration::from_secs(5)).await;
    there.stop();
    bob.sees(&alice, "offline").await;
    let here = Device::start(&alice);
    bob.sees(&alice, "online").await;
    redis.restart().await;
    stays(&mut [&mut bob], &alice, LONG_ENOUGH).await;
    here.stop();
}
