//! Sliding sync: windows of the room list, as Element X and its like speak it.

mod lists;
mod merged;
mod rooms;
mod sdk;
mod streams;

use std::time::Duration;

use federation_tests::{Answer, Client, Engine, Server};
use serde_json::{Value, json};

const DEPLOYED: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const MERGED: &str = "/_matrix/client/v4/sync";

/// One connection of a device, in the form that clients speak today.
struct Connection<'a> {
    client: &'a Client,
    conn_id: String,
    /// What the last answer said to go on from.
    pos: Option<String>,
}

impl<'a> Connection<'a> {
    fn new(client: &'a Client, conn_id: &str) -> Self {
        Self { client, conn_id: conn_id.to_owned(), pos: None }
    }

    /// Asks once; the position stays where it is.
    async fn ask(&self, timeout: Duration, body: &Value) -> Answer {
        let mut body = body.clone();
        body["conn_id"] = self.conn_id.clone().into();
        let pos = self.pos.as_ref().map(|pos| format!("&pos={pos}")).unwrap_or_default();
        self.client.post(&format!("{DEPLOYED}?timeout={}{pos}", timeout.as_millis()), body).await
    }

    /// Asks for what there is, and goes on from there.
    async fn now(&mut self, body: &Value) -> Value {
        self.wait(Duration::ZERO, body).await
    }

    /// Waits for something, and goes on from there.
    async fn wait(&mut self, timeout: Duration, body: &Value) -> Value {
        let answer = self.ask(timeout, body).await.ok();
        self.pos = Some(answer["pos"].as_str().unwrap_or_else(|| panic!("no pos in {answer}")).to_owned());
        answer
    }
}

/// A list of all rooms from the first to the one at `last`.
fn window(last: usize, timeline_limit: usize) -> Value {
    json!({ "lists": { "all": {
        "ranges": [[0, last]],
        "timeline_limit": timeline_limit,
        "required_state": [["m.room.create", ""], ["m.room.name", ""], ["m.room.member", "$ME"], ["m.room.member", "$LAZY"]],
    } } })
}

fn rooms_of(answer: &Value) -> Vec<&str> {
    let mut ids: Vec<&str> =
        answer["rooms"].as_object().map(|rooms| rooms.keys().map(String::as_str).collect()).unwrap_or_default();
    ids.sort_unstable();
    ids
}

fn sorted<'a>(ids: &[&'a str]) -> Vec<&'a str> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

fn bodies(room: &Value) -> Vec<&str> {
    let timeline = room["timeline"].as_array().map_or(&[][..], Vec::as_slice);
    timeline.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

/// `type state_key` of each state event told.
fn state_of(room: &Value) -> Vec<String> {
    let events = room["required_state"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut keys: Vec<String> =
        events.iter().map(|event| format!("{} {}", text(&event["type"]), text(&event["state_key"]))).collect();
    keys.sort_unstable();
    keys
}

async fn people<const N: usize>(engine: &Engine, names: [&str; N]) -> (Server, [Client; N]) {
    let server = Server::start(engine).await;
    let mut clients = Vec::with_capacity(N);
    for name in names {
        clients.push(server.register_with_secret(name).await);
    }
    let Ok(clients) = clients.try_into() else { unreachable!("as many clients as names") };
    (server, clients)
}
