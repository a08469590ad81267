//! A room as a fake peer knows it: enough of its state to make events that fit, and any that don't.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{FakePeer, Peer, Reply, fake_peer::now, pdu};

/// What a fake peer knows of a room.
#[derive(Clone, Debug)]
pub struct FakeRoom {
    /// Its id.
    pub id: String,
    /// Its version, "10" to "12".
    pub version: String,
    /// Its current state by type and state key, as events.
    pub state: BTreeMap<(String, String), Value>,
    /// The ids of the events that the next one follows.
    pub heads: Vec<String>,
    /// How deep the next event is.
    pub depth: u64,
    /// Every event that it was told or has made, in order.
    pub events: Vec<Value>,
}

impl FakeRoom {
    /// The id of an event of this room.
    pub fn id_of(&self, event: &Value) -> String {
        pdu::event_id(event, &self.version)
    }

    /// An event that follows what is there, neither hashed nor signed.
    pub fn draft(&self, sender: &str, event_type: &str, state_key: Option<&str>, content: Value) -> Value {
        let mut event = json!({
            "room_id": self.id,
            "sender": sender,
            "type": event_type,
            "content": content,
            "origin_server_ts": now(),
            "depth": self.depth,
            "prev_events": self.heads,
        });
        if let Some(state_key) = state_key {
            event["state_key"] = state_key.into();
        }
        event["auth_events"] = json!(self.auth_of(&event));
        event
    }

    /// Which events of the state say whether `event` may happen.
    fn auth_of(&self, event: &Value) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut wanted = vec![
            ("m.room.power_levels".to_owned(), String::new()),
            ("m.room.member".to_owned(), text(&event["sender"])),
        ];
        if self.version != "12" {
            wanted.push(("m.room.create".to_owned(), String::new()));
        }
        if event["type"] == "m.room.member" {
            wanted.push(("m.room.member".to_owned(), text(&event["state_key"])));
            wanted.push(("m.room.join_rules".to_owned(), String::new()));
            if let Some(via) = event.pointer("/content/join_authorised_via_users_server") {
                wanted.push(("m.room.member".to_owned(), text(via)));
            }
        }
        wanted.sort();
        wanted.dedup();
        wanted.iter().filter_map(|key| self.state.get(key)).map(|event| self.id_of(event)).collect()
    }

    /// Takes an event as the latest.
    pub fn push(&mut self, event: &Value) {
        self.heads = vec![self.id_of(event)];
        self.depth = event["depth"].as_u64().unwrap_or_default() + 1;
        self.remember(event);
    }

    fn remember(&mut self, event: &Value) {
        if let (Some(event_type), Some(state_key)) = (event["type"].as_str(), event["state_key"].as_str()) {
            self.state.insert((event_type.to_owned(), state_key.to_owned()), event.clone());
        }
        self.events.push(event.clone());
    }

    /// Makes, signs and takes a message.
    pub fn say(&mut self, peer: &FakePeer, localpart: &str, text: &str) -> Value {
        self.make(peer, localpart, "m.room.message", None, json!({ "msgtype": "m.text", "body": text }))
    }

    /// Makes, signs and takes any event.
    pub fn make(
        &mut self,
        peer: &FakePeer,
        localpart: &str,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Value {
        let mut event = self.draft(&peer.user(localpart), event_type, state_key, content);
        peer.sign(&mut event, &self.version);
        self.push(&event);
        event
    }

    /// The events that `event` names as its reasons, and theirs, and so on.
    pub fn auth_chain(&self, event: &Value) -> Vec<Value> {
        let mut chain: BTreeMap<String, Value> = BTreeMap::new();
        let mut open = ids(&event["auth_events"]);
        if self.version == "12" && event["type"] != "m.room.create" {
            // Nobody names it there, but a chain without it is none.
            open.extend(self.state.get(&("m.room.create".to_owned(), String::new())).map(|create| self.id_of(create)));
        }
        while let Some(id) = open.pop() {
            if chain.contains_key(&id) {
                continue;
            }
            if let Some(event) = self.events.iter().find(|event| self.id_of(event) == id) {
                open.extend(ids(&event["auth_events"]));
                chain.insert(id, event.clone());
            }
        }
        chain.into_values().collect()
    }

    /// The event with this id.
    pub fn find(&self, event_id: &str) -> Option<Value> {
        self.events.iter().find(|event| self.id_of(event) == event_id).cloned()
    }
}

fn ids(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect()
}

// === rooms of others ===

impl FakePeer {
    /// Joins a room of `server`, which lets everybody in or has invited them.
    pub async fn join(&self, server: &impl Peer, room_id: &str, localpart: &str) -> FakeRoom {
        let user = self.user(localpart);
        let path = format!("/_matrix/federation/v1/make_join/{room_id}/{user}?ver=10&ver=11&ver=12");
        let template = self.get(server, &path).await.ok();
        let version = template["room_version"].as_str().expect("a room version").to_owned();
        let mut event = template["event"].clone();
        event["origin_server_ts"] = now().into();
        self.sign(&mut event, &version);
        let event_id = pdu::event_id(&event, &version);
        let path = format!("/_matrix/federation/v2/send_join/{room_id}/{event_id}");
        let answer = self.put(server, &path, event.clone()).await.ok();

        let mut room = FakeRoom {
            id: room_id.to_owned(),
            version,
            state: BTreeMap::new(),
            heads: Vec::new(),
            depth: 0,
            events: Vec::new(),
        };
        for known in answer["auth_chain"].as_array().into_iter().flatten() {
            room.events.push(known.clone());
        }
        for known in answer["state"].as_array().expect("a joined room has state") {
            room.remember(known);
        }
        // A restricted room's server adds its signature.
        let joined = answer.get("event").filter(|event| event.is_object()).unwrap_or(&event);
        room.push(joined);
        room
    }
}

// === rooms of its own ===

impl FakePeer {
    /// Makes a public room, by itself.
    pub fn create_room(&self, localpart: &str, version: &str) -> FakeRoom {
        let user = self.user(localpart);
        let number: u64 = rand::random();
        let mut room = FakeRoom {
            id: format!("!fake{number}:{}", self.name),
            version: version.to_owned(),
            state: BTreeMap::new(),
            heads: Vec::new(),
            depth: 1,
            events: Vec::new(),
        };
        let mut content = json!({ "room_version": version });
        if version == "10" {
            content["creator"] = user.clone().into();
        }
        let mut create = room.draft(&user, "m.room.create", Some(""), content);
        if version == "12" {
            create.as_object_mut().expect("an event is an object").remove("room_id");
        }
        self.sign(&mut create, version);
        if version == "12" {
            room.id = room.id_of(&create).replacen('$', "!", 1);
        }
        room.push(&create);
        room.make(self, localpart, "m.room.member", Some(&user), json!({ "membership": "join" }));
        let mut levels = json!({ "users": {}, "state_default": 50, "events_default": 0, "users_default": 0 });
        if version != "12" {
            levels["users"][&user] = 100.into();
        }
        room.make(self, localpart, "m.room.power_levels", Some(""), levels);
        room.make(self, localpart, "m.room.join_rules", Some(""), json!({ "join_rule": "public" }));
        let visible = json!({ "history_visibility": "shared" });
        room.make(self, localpart, "m.room.history_visibility", Some(""), visible);
        room
    }

    /// Lets others join `room` as it is now, and see its events.
    pub fn host(&self, room: &FakeRoom) {
        let room = room.clone();
        let name = self.name.clone();
        let (key, key_id) = (self.key().clone(), self.key_id());
        self.answer(move |heard| {
            let path = heard.path.strip_prefix("/_matrix/federation/")?.replace("%21", "!").replace("%40", "@");
            let path = path.replace("%24", "$").replace("%3A", ":");
            let mut parts = path.split('/').skip(1);
            let (what, first, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or_default());
            let state = || room.state.values().cloned().collect::<Vec<_>>();
            let chain = || {
                let mut chain: BTreeMap<String, Value> = BTreeMap::new();
                for event in room.state.values().flat_map(|event| room.auth_chain(event)) {
                    chain.insert(room.id_of(&event), event);
                }
                chain
            };
            match what {
                "make_join" if first == room.id => {
                    let event = room.draft(second, "m.room.member", Some(second), json!({ "membership": "join" }));
                    Some(Reply::Json(200, json!({ "room_version": room.version, "event": event })))
                }
                "send_join" if first == room.id => {
                    let mut event = heard.body.clone();
                    pdu::sign_event(&mut event, &room.version, &name, key_id, &key);
                    let chain: Vec<Value> = chain().into_values().collect();
                    let answer = json!({
                        "origin": name, "members_omitted": false, "event": event, "state": state(), "auth_chain": chain,
                    });
                    Some(Reply::Json(200, answer))
                }
                "state_ids" if first == room.id => {
                    let ids: Vec<String> = room.state.values().map(|event| room.id_of(event)).collect();
                    let chain: Vec<String> = chain().into_keys().collect();
                    Some(Reply::Json(200, json!({ "pdu_ids": ids, "auth_chain_ids": chain })))
                }
                "event" => {
                    let event = room.find(first)?;
                    Some(Reply::Json(200, json!({ "origin": name, "origin_server_ts": now(), "pdus": [event] })))
                }
                "backfill" if first == room.id => {
                    let mut events = room.events.clone();
                    events.reverse();
                    Some(Reply::Json(200, json!({ "origin": name, "origin_server_ts": now(), "pdus": events })))
                }
                _ => None,
            }
        });
    }
}
