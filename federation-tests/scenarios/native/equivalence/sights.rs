//! What somebody sees of the conversation, by each face.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::{Duration, Instant},
};

use federation_tests::PATIENCE;
use serde_json::Value;

use super::{
    super::conversations::{done, everything},
    faces::Person,
    plan::{Reactions, Texts},
};

impl Person {
    /// Waits until this person sees `expected`.
    pub(super) async fn agree<T: PartialEq + Debug>(&self, what: &str, expected: &T, see: impl AsyncFn(&Self) -> T) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = see(self).await;
            if seen == *expected {
                return;
            }
            assert!(Instant::now() < deadline, "{what} of {self:?}:\nseen     {seen:?}\nexpected {expected:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    // === REST ===

    pub(super) async fn items(&self, room: &str) -> Vec<Value> {
        everything(&self.client, room).await
    }

    pub(super) async fn texts(&self, room: &str) -> Texts {
        self.items(room).await.iter().filter_map(said).collect()
    }

    pub(super) async fn order(&self, room: &str) -> Vec<String> {
        self.items(room).await.iter().filter_map(said).map(|(id, _)| id).collect()
    }

    pub(super) async fn reactions(&self, room: &str) -> Reactions {
        let items = self.items(room).await;
        let of = |item: &Value| {
            let keys: BTreeMap<String, usize> = item["reactions"]
                .as_array()?
                .iter()
                .map(|one| (word(&one["key"]), one["count"].as_u64().unwrap_or(0) as usize))
                .collect();
            (item["type"] != "recalled").then(|| (word(&item["id"]), keys))
        };
        items.iter().filter_map(of).collect()
    }

    pub(super) async fn members(&self, room: &str) -> BTreeSet<String> {
        let list = done(self.client.get(&format!("/api/v1/conversations/{room}/members")).await);
        let members = list["members"].as_array().expect("a list").iter();
        members.filter(|one| one["state"] == "joined").map(|one| word(&one["user_id"])).collect()
    }

    pub(super) async fn name(&self, room: &str) -> String {
        word(&self.conversation(room).await["name"])
    }

    pub(super) async fn unread(&self, room: &str) -> Value {
        self.conversation(room).await["unread_count"].clone()
    }

    pub(super) async fn readers(&self, message: &str) -> BTreeSet<String> {
        let list = done(self.client.get(&format!("/api/v1/messages/{message}/readers")).await);
        list["readers"].as_array().expect("a list").iter().map(|one| word(&one["user_id"])).collect()
    }

    async fn conversation(&self, room: &str) -> Value {
        done(self.client.get(&format!("/api/v1/conversations/{room}")).await)
    }

    // === Matrix ===

    async fn said_on_matrix(&self, room: &str) -> Vec<(String, Option<String>)> {
        let mut events = self.client.history(room).await;
        if events.last().is_some_and(|event| event["type"] == "m.room.create") {
            events.reverse();
        }
        let of = |event: &Value| {
            if event["type"] != "m.room.message" || event["content"]["m.relates_to"]["rel_type"] == "m.replace" {
                return None;
            }
            let edit = &event["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"]["body"];
            let text = edit.as_str().or_else(|| event["content"]["body"].as_str()).map(str::to_owned);
            Some((word(&event["event_id"]), text))
        };
        // What was taken back and edited nothing looks the same whether it was a message or an edit; nobody takes edits back.
        events.iter().filter_map(of).collect()
    }

    pub(super) async fn texts_on_matrix(&self, room: &str) -> Texts {
        self.said_on_matrix(room).await.into_iter().collect()
    }

    pub(super) async fn order_on_matrix(&self, room: &str) -> Vec<String> {
        self.said_on_matrix(room).await.into_iter().map(|(id, _)| id).collect()
    }

    pub(super) async fn reactions_on_matrix(&self, room: &str, texts: &Texts) -> Reactions {
        let mut all = Reactions::new();
        for id in texts.iter().filter(|(_, text)| text.is_some()).map(|(id, _)| id) {
            for one in self.annotations(room, id).await {
                let key = word(&one["content"]["m.relates_to"]["key"]);
                *all.entry(id.clone()).or_default().entry(key).or_default() += 1;
            }
        }
        all
    }

    pub(super) async fn members_on_matrix(&self, room: &str) -> BTreeSet<String> {
        let joined = self.client.get(&format!("rooms/{room}/joined_members")).await.ok();
        joined["joined"].as_object().expect("an object").keys().cloned().collect()
    }

    pub(super) async fn name_on_matrix(&self, room: &str) -> String {
        word(&self.client.state(room, "m.room.name", "").await.ok()["name"])
    }

    pub(super) async fn unread_on_matrix(&self, room: &str) -> Value {
        self.client.sync(None).await["rooms"]["join"][room]["unread_notifications"]["notification_count"].clone()
    }

    /// Who has read as far as just this message, as far as a sync of now tells.
    pub(super) async fn readers_on_matrix(&self, room: &str, message: &str) -> BTreeSet<String> {
        let sync = self.client.sync(None).await;
        let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
        let receipts = events.iter().filter(|event| event["type"] == "m.receipt");
        let read = receipts.filter_map(|event| event["content"][message]["m.read"].as_object());
        read.flat_map(|users| users.keys().cloned()).collect()
    }

    // === the WebSocket ===

    /// Waits until the WebSocket has told `expected`.
    pub(super) async fn socket_shows(&mut self, expected: &Texts) {
        while self.told != *expected {
            let frame = tokio::time::timeout(PATIENCE, self.socket.take()).await;
            let Ok(frame) = frame else {
                panic!("the WebSocket of {self:?}:\ntold     {:?}\nexpected {expected:?}", self.told);
            };
            let frame = frame.expect("it stays open");
            self.note(&frame);
        }
    }

    /// Takes in what a frame tells, as a client does.
    pub(super) fn note(&mut self, frame: &Value) {
        let item = &frame["data"];
        match frame["type"].as_str() {
            Some("message") => {
                if let Some((id, text)) = said(item) {
                    self.told.entry(id).or_insert(text);
                }
            }
            Some("notice") => {
                // Of a change of the conversation it is nothing.
                let changed = item["content"]["message_id"].as_str().unwrap_or_default();
                let Some(text) = self.told.get_mut(changed) else { return };
                match item["content"]["kind"].as_str() {
                    Some("edited") => *text = item["content"]["content"]["text"].as_str().map(str::to_owned),
                    Some("recalled") => *text = None,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Forgets what the WebSocket has told, and takes what REST shows.
    pub(super) fn begin_anew(&mut self, items: &[Value]) {
        self.told = items.iter().filter_map(said).collect();
    }
}

/// The id of a message and what it says; nothing for what is no message.
fn said(item: &Value) -> Option<(String, Option<String>)> {
    let text = match item["type"].as_str()? {
        "text" => Some(word(&item["content"]["text"])),
        "recalled" => None,
        _ => return None,
    };
    Some((word(&item["id"]), text))
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
