//! Somebody who does everything by any face.

use std::{collections::BTreeMap, fmt};

use federation_tests::{Answer, Client, Socket, enc, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    super::conversations::done,
    plan::{Act, Face, Texts},
};

const MESSAGES: &str = "/api/v1/messages";
const V1: &str = "/_matrix/client/v1";

/// Somebody on one device, with a WebSocket open.
pub(super) struct Person {
    pub(super) client: Client,
    pub(super) socket: Socket,
    /// What the WebSocket has told of the conversation.
    pub(super) told: Texts,
    /// How many things were done.
    count: usize,
}

impl fmt::Debug for Person {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.client.user_id)
    }
}

impl Person {
    pub(super) async fn new(client: Client) -> Self {
        let socket = Socket::open(&client).await;
        Self { client, socket, told: Texts::new(), count: 0 }
    }

    pub(super) async fn is_invited(&self, room: &str) -> bool {
        !self.client.sync(None).await["rooms"]["invite"][room].is_null()
    }

    /// Does these things, one after the other, and answers the ids of what was said. `settled`: the ids of what everybody has.
    pub(super) async fn act(
        &mut self,
        room: &str,
        acts: Vec<(Face, Act)>,
        settled: &BTreeMap<usize, String>,
    ) -> Vec<(usize, String)> {
        let mut ids = settled.clone();
        let mut said = Vec::new();
        for (face, act) in acts {
            self.count += 1;
            match act {
                Act::Say { message, text, reply_to } => {
                    let reply_to = reply_to.map(|of| ids[&of].clone());
                    let id = self.say(room, face, &text, reply_to).await;
                    ids.insert(message, id.clone());
                    said.push((message, id));
                }
                Act::Edit { message, text } => self.edit(room, face, &ids[&message], &text).await,
                Act::Recall { message } => self.recall(room, face, &ids[&message]).await,
                Act::React { message, key } => self.react(room, face, &ids[&message], key).await,
                Act::Unreact { message, key } => self.unreact(room, face, &ids[&message], key).await,
                Act::Read { message } => self.read(room, face, &ids[&message]).await,
                Act::Rename { name } => self.rename(room, face, &name).await,
            }
        }
        said
    }

    async fn say(&mut self, room: &str, face: Face, text: &str, reply_to: Option<String>) -> String {
        let msg_id = format!("m{}", self.count);
        let answer = match face {
            Face::Matrix => {
                let mut content = json!({ "msgtype": "m.text", "body": text });
                if let Some(reply_to) = reply_to {
                    content["m.relates_to"] = json!({ "m.in_reply_to": { "event_id": reply_to } });
                }
                self.put(&format!("rooms/{room}/send/m.room.message/{msg_id}"), content).await["event_id"].clone()
            }
            Face::Rest => {
                let message =
                    json!({ "conversation_id": room, "content": text, "msg_id": msg_id, "reply_to": reply_to });
                self.insist(Method::POST, MESSAGES, message).await["id"].clone()
            }
            Face::Socket => {
                let frame = json!({
                    "type": "send", "msg_id": msg_id, "conversation_id": room,
                    "message": { "content": text, "reply_to": reply_to },
                });
                self.ask_socket(frame, |answer| answer["msg_id"] == msg_id.as_str()).await["id"].clone()
            }
        };
        answer.as_str().expect("it has an id").to_owned()
    }

    async fn edit(&mut self, room: &str, face: Face, id: &str, text: &str) {
        if face != Face::Matrix {
            self.insist(Method::PATCH, &format!("{MESSAGES}/{id}"), json!({ "content": text })).await;
            return;
        }
        let content = json!({
            "msgtype": "m.text", "body": format!("* {text}"), "m.new_content": { "msgtype": "m.text", "body": text },
            "m.relates_to": { "rel_type": "m.replace", "event_id": id },
        });
        self.put(&format!("rooms/{room}/send/m.room.message/e{}", self.count), content).await;
    }

    async fn recall(&mut self, room: &str, face: Face, id: &str) {
        if face == Face::Matrix {
            self.put(&format!("rooms/{room}/redact/{id}/r{}", self.count), json!({})).await;
        } else {
            self.insist(Method::POST, &format!("{MESSAGES}/{id}/recall"), json!({})).await;
        }
    }

    async fn react(&mut self, room: &str, face: Face, id: &str, key: &str) {
        if face == Face::Matrix {
            let content = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": id, "key": key } });
            self.put(&format!("rooms/{room}/send/m.reaction/a{}", self.count), content).await;
        } else {
            self.insist(Method::PUT, &format!("{MESSAGES}/{id}/reactions/{}", enc(key)), Value::Null).await;
        }
    }

    async fn unreact(&mut self, room: &str, face: Face, id: &str, key: &str) {
        if face != Face::Matrix {
            self.insist(Method::DELETE, &format!("{MESSAGES}/{id}/reactions/{}", enc(key)), Value::Null).await;
            return;
        }
        let made = self.annotations(room, id).await;
        let own = made
            .iter()
            .find(|one| one["sender"] == self.client.user_id && one["content"]["m.relates_to"]["key"] == key)
            .expect("it was made");
        let own = own["event_id"].as_str().expect("an id").to_owned();
        self.put(&format!("rooms/{room}/redact/{own}/u{}", self.count), json!({})).await;
    }

    async fn read(&mut self, room: &str, face: Face, id: &str) {
        match face {
            Face::Matrix => {
                self.insist(Method::POST, &format!("rooms/{room}/receipt/m.read/{id}"), json!({})).await;
            }
            Face::Rest => {
                let path = format!("/api/v1/conversations/{room}/read");
                self.insist(Method::POST, &path, json!({ "up_to": id })).await;
            }
            Face::Socket => {
                let number = self.count;
                let frame = json!({ "type": "read", "conversation_id": room, "message_id": id, "id": number });
                self.ask_socket(frame, |answer| answer["id"] == number).await;
            }
        }
    }

    async fn rename(&mut self, room: &str, face: Face, name: &str) {
        if face == Face::Matrix {
            self.put(&format!("rooms/{room}/state/m.room.name/"), json!({ "name": name })).await;
        } else {
            self.insist(Method::PATCH, &format!("/api/v1/groups/{room}"), json!({ "name": name })).await;
        }
    }

    /// The reactions to a message, as the Matrix API lists them.
    pub(super) async fn annotations(&self, room: &str, id: &str) -> Vec<Value> {
        let path = format!("{V1}/rooms/{room}/relations/{id}/m.annotation?limit=100");
        done(self.client.get(&path).await)["chunk"].as_array().expect("a list").clone()
    }

    async fn put(&self, path: &str, body: Value) -> Value {
        self.insist(Method::PUT, path, body).await
    }

    /// Asks until the room isn't too busy, which it says when nothing was done.
    async fn insist(&self, method: Method, path: &str, body: Value) -> Value {
        let body = Some(body).filter(|body| !body.is_null());
        let answer = eventually("the room has time", async || {
            let answer: Answer = self.client.attempt(method.clone(), path, body.as_ref()).await.expect("it answers");
            (answer.status != 503).then_some(answer)
        });
        done(answer.await)
    }

    async fn ask_socket(&mut self, frame: Value, is_answer: impl Fn(&Value) -> bool) -> Value {
        loop {
            self.socket.say(frame.clone()).await;
            let answer = loop {
                let frame = self.socket.take().await.expect("it stays open");
                if matches!(frame["type"].as_str(), Some("sent" | "refused" | "done" | "error")) && is_answer(&frame) {
                    break frame;
                }
                self.note(&frame);
            };
            if matches!(answer["type"].as_str(), Some("sent" | "done")) {
                return answer;
            }
            assert_eq!(answer["problem"]["status"], 503, "{self:?} asked {frame} and got {answer}");
        }
    }
}
