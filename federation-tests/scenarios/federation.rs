//! Stories between servers of different domains.

mod admin;
mod amqp;
mod backfill;
mod bad_events;
mod bad_peers;
mod before_hooks;
mod broadcasts;
mod cascade;
mod chaos;
mod discovery;
mod doctor;
mod ephemeral;
mod joining;
mod ledger;
mod levels;
mod links;
mod lists;
mod memberships;
mod native;
mod nodes;
mod outage;
mod peering;
mod remote_keys;
mod remote_users;
mod server_keys;
mod silence;
mod split;
mod synapse;
mod three_domains;
mod trust;
mod two_domains;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use federation_tests::{Client, Engine, Network, PATIENCE, Server, enc, eventually};
use serde_json::{Value, json};

/// Two domains, and somebody in each.
struct Two {
    network: Network,
    a: Server,
    b: Server,
    alice: Client,
    bob: Client,
}

impl Two {
    async fn meet(engine: &Engine) -> Self {
        let (network, [a, b]) = Network::start(engine, ["a.test", "b.test"]).await;
        Self::people(network, a, b).await
    }

    /// One on SQLite, the other on PostgreSQL if there is one.
    async fn meet_mixed() -> Self {
        let (network, [a, b]) = Network::start_mixed(["a.test", "b.test"]).await;
        Self::people(network, a, b).await
    }

    async fn people(network: Network, a: Server, b: Server) -> Self {
        let alice = a.register_with_secret("alice").await;
        let bob = b.register_with_secret("bob").await;
        Self { network, a, b, alice, bob }
    }

    /// A private room of Alice's that Bob has joined because she invited him.
    async fn room(&self, version: &str) -> String {
        let request = json!({ "preset": "private_chat", "room_version": version, "invite": [self.bob.user_id] });
        let room = self.alice.create_room(request).await;
        invitation(&self.bob, &room).await;
        self.bob.join(&room).await;
        becomes(&self.alice, &room, &self.bob.user_id, "join").await;
        room
    }

    /// A room of Alice's that anybody may join, as Bob has done.
    async fn public_room(&self) -> String {
        let room = self.alice.create_public_room().await;
        self.bob.join_via(&room, &["a.test"]).await;
        becomes(&self.alice, &room, &self.bob.user_id, "join").await;
        room
    }
}

/// Waits until a user is invited to `room`, and answers what the invitation shows of it.
async fn invitation(client: &Client, room: &str) -> Vec<Value> {
    eventually(&format!("{} is invited to {room}", client.user_id), async || {
        client.sync(None).await["rooms"]["invite"][room]["invite_state"]["events"].as_array().cloned()
    })
    .await
}

/// Waits until `client` can read an event, and answers it.
async fn arrives(client: &Client, room: &str, event_id: &str) -> Value {
    eventually(&format!("{event_id} arrives at {}", client.user_id), async || {
        let answer = client.get(&format!("rooms/{room}/event/{}", enc(event_id))).await;
        (answer.status == 200).then_some(answer.body)
    })
    .await
}

/// Whether `client` can read an event now.
async fn is_known(client: &Client, room: &str, event_id: &str) -> bool {
    client.get(&format!("rooms/{room}/event/{}", enc(event_id))).await.status == 200
}

/// Three servers, of which `b.test` vouches for the keys of the others: where two can't see each other, somebody must.
async fn three_with_a_notary() -> (Network, [Server; 3]) {
    let network = Network::new();
    let start = async |name| {
        let server = network.server(&Engine::Sqlite, name).await;
        server.set("federation", "trusted_key_servers", vec!["b.test"]).start().await
    };
    let servers = [start("a.test").await, start("b.test").await, start("c.test").await];
    (network, servers)
}

/// Waits until the room as `client` sees it has `user_id` in it as `membership`.
async fn becomes(client: &Client, room: &str, user_id: &str, membership: &str) {
    eventually(&format!("{} sees {user_id} {membership} in {room}", client.user_id), async || {
        (client.membership(room, user_id).await.as_deref() == Some(membership)).then_some(())
    })
    .await;
}

/// Waits until a piece of state is `content` for `client`.
async fn state_becomes(client: &Client, room: &str, event_type: &str, content: &Value) {
    eventually(&format!("{} sees {event_type} {content} in {room}", client.user_id), async || {
        (client.state(room, event_type, "").await.body == *content).then_some(())
    })
    .await;
}

/// The state of a room as a member sees it: ids by type and state key.
async fn state_ids(client: &Client, room: &str) -> BTreeMap<(String, String), String> {
    let state = client.get(&format!("rooms/{room}/state")).await.ok();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text in {state}")).to_owned();
    let events = state.as_array().unwrap_or_else(|| panic!("no list: {state}")).iter();
    events.map(|event| ((text(&event["type"]), text(&event["state_key"])), text(&event["event_id"]))).collect()
}

/// Waits until all of them see the same state, event by event.
async fn agree(room: &str, clients: &[&Client]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut views = Vec::new();
        for client in clients {
            views.push(state_ids(client, room).await);
        }
        let Some(other) = views.iter().find(|view| **view != views[0]) else { return };
        let disputed: Vec<_> = views[0].iter().filter(|(key, id)| other.get(key) != Some(id)).collect();
        let missing: Vec<_> = other.iter().filter(|(key, id)| views[0].get(key) != Some(id)).collect();
        assert!(Instant::now() < deadline, "no agreement on {room}: one has {disputed:#?}, another {missing:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until all of them can read the same events, in whichever order.
async fn share_history(room: &str, clients: &[&Client]) {
    eventually(&format!("the members of {room} know the same events"), async || {
        let mut views = Vec::new();
        for client in clients {
            let mut ids = ids_of(&client.history(room).await);
            let count = ids.len();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), count, "{} was shown an event twice", client.user_id);
            views.push(ids);
        }
        views.iter().all(|view| *view == views[0]).then_some(())
    })
    .await;
}

/// The ids of events.
fn ids_of(events: &[Value]) -> Vec<String> {
    events.iter().filter_map(|event| event["event_id"].as_str().map(str::to_owned)).collect()
}

/// The texts of the messages among events.
fn texts_of(events: &[Value]) -> Vec<String> {
    let messages = events.iter().filter(|event| event["type"] == "m.room.message");
    messages.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}
