//! Reading rooms, as a client meets it.

use http::Method;
use serde_json::{Value, json};

use crate::testing::{Server, refusal, with_server};

const V3: &str = "/_matrix/client/v3";
const V1: &str = "/_matrix/client/v1";

/// Somebody with a client.
struct Person<'a> {
    server: &'a Server,
    token: String,
}

impl<'a> Person<'a> {
    async fn new(server: &'a Server, name: &str) -> Self {
        Self { server, token: server.register(name).await.0 }
    }

    async fn get(&self, path: &str) -> Value {
        self.server.get(path, Some(&self.token)).await
    }

    async fn refused(&self, path: &str) -> (u16, String) {
        refusal(self.server.ask(Method::GET, path, Some(&self.token), "").await)
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.server.post(path, Some(&self.token), body).await
    }

    async fn put(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.server.ask(Method::PUT, path, Some(&self.token), body.to_string()).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn create(&self, wish: Value) -> String {
        let made = self.post(&format!("{V3}/createRoom"), wish).await;
        made["room_id"].as_str().expect("it is told").to_owned()
    }

    async fn join(&self, room: &str) {
        self.post(&format!("{V3}/join/{room}"), json!({})).await;
    }

    /// Sends an event, and answers its id.
    async fn send(&self, room: &str, kind: &str, content: Value) -> String {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let transaction = NEXT.fetch_add(1, Ordering::Relaxed);
        let sent = self.put(&format!("{V3}/rooms/{room}/send/{kind}/{transaction}"), content).await;
        sent["event_id"].as_str().expect("it is told").to_owned()
    }

    async fn say(&self, room: &str, body: &str) -> String {
        self.send(room, "m.room.message", text(body)).await
    }

    /// Says something that relates to another event.
    async fn relate(&self, room: &str, rel_type: &str, parent: &str, body: &str) -> String {
        let mut content = text(body);
        content["m.relates_to"] = json!({ "rel_type": rel_type, "event_id": parent });
        if rel_type == "m.replace" {
            content["m.new_content"] = text(body);
        }
        self.send(room, "m.room.message", content).await
    }

    async fn event(&self, room: &str, event: &str) -> Value {
        self.get(&format!("{V3}/rooms/{room}/event/{event}")).await
    }

    /// What `/messages` shows, oldest first, of the bodies of messages.
    async fn bodies(&self, room: &str) -> Vec<String> {
        let page = self.get(&format!("{V3}/rooms/{room}/messages?dir=f&limit=100")).await;
        let events = page["chunk"].as_array().expect("a list").iter();
        events.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    }
}

fn text(body: &str) -> Value {
    json!({ "msgtype": "m.text", "body": body })
}

fn ids(events: &Value) -> Vec<&str> {
    events.as_array().expect("a list").iter().map(|event| event["event_id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn an_event_tells_of_its_latest_edit_its_references_and_its_thread() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let room = alice.create(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let said = alice.say(&room, "tea?").await;
        assert_eq!(alice.event(&room, &said).await["unsigned"]["m.relations"], Value::Null);

        alice.relate(&room, "m.replace", &said, "tea at four?").await;
        let edit = alice.relate(&room, "m.replace", &said, "tea at five?").await;
        bob.relate(&room, "m.replace", &said, "somebody else's words").await;
        let reference = bob.relate(&room, "m.reference", &said, "see there").await;
        alice.relate(&room, "m.thread", &said, "with milk?").await;
        let answer = bob.relate(&room, "m.thread", &said, "no milk").await;
        let changed = bob.relate(&room, "m.replace", &answer, "no milk, thanks").await;

        let relations = alice.event(&room, &said).await["unsigned"]["m.relations"].clone();
        assert_eq!(relations["m.replace"]["event_id"], edit.as_str());
        assert_eq!(relations["m.reference"]["chunk"], json!([{ "event_id": reference }]));
        let thread = &relations["m.thread"];
        assert_eq!(thread["count"], 2);
        assert_eq!(thread["current_user_participated"], true);
        assert_eq!(thread["latest_event"]["event_id"], answer.as_str());
        let of_latest = &thread["latest_event"]["unsigned"]["m.relations"];
        assert_eq!(of_latest["m.replace"]["event_id"], changed.as_str());

        let page = alice.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=50")).await;
        let listed = page["chunk"].as_array().expect("a list").iter().find(|event| event["event_id"] == said.as_str());
        assert_eq!(listed.expect("it is there")["unsigned"]["m.relations"]["m.thread"]["count"], 2);

        // What is redacted counts no more.
        bob.put(&format!("{V3}/rooms/{room}/redact/{answer}/r1"), json!({})).await;
        alice.put(&format!("{V3}/rooms/{room}/redact/{edit}/r2"), json!({})).await;
        let relations = bob.event(&room, &said).await["unsigned"]["m.relations"].clone();
        assert_eq!(relations["m.thread"]["count"], 1);
        assert_eq!(relations["m.thread"]["current_user_participated"], false);
        assert_eq!(relations["m.replace"]["content"]["body"], "tea at four?");
    })
    .await;
}

#[tokio::test]
async fn relations_are_listed_also_those_of_relations() {
    with_server(async |server| {
        let alice = Person::new(&server, "alice").await;
        let room = alice.create(json!({})).await;
        let said = alice.say(&room, "tea?").await;
        let answer = alice.relate(&room, "m.thread", &said, "yes").await;
        let edit = alice.relate(&room, "m.replace", &answer, "yes!").await;
        let path = format!("{V1}/rooms/{room}/relations/{said}");

        assert_eq!(ids(&alice.get(&path).await["chunk"]), [answer.as_str()]);
        let all = alice.get(&format!("{path}?recurse=true")).await;
        assert_eq!(ids(&all["chunk"]), [edit.as_str(), answer.as_str()]);
        assert_eq!(all["recursion_depth"], 3);
        let edits = alice.get(&format!("{path}/m.replace?recurse=true&dir=f")).await;
        assert_eq!(ids(&edits["chunk"]), [edit.as_str()]);
        assert_eq!(ids(&alice.get(&format!("{path}/m.thread/m.room.message")).await["chunk"]), [answer.as_str()]);

        let first = alice.get(&format!("{path}?recurse=true&limit=1")).await;
        let next = first["next_batch"].as_str().expect("there is more");
        let second = alice.get(&format!("{path}?recurse=true&limit=1&from={next}")).await;
        assert_eq!(ids(&second["chunk"]), [answer.as_str()]);
    })
    .await;
}

#[tokio::test]
async fn threads_are_listed_by_their_latest_answer() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let room = alice.create(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let (tea, cake) = (alice.say(&room, "tea").await, alice.say(&room, "cake").await);
        bob.relate(&room, "m.thread", &cake, "which?").await;
        alice.relate(&room, "m.thread", &tea, "green").await;
        let path = format!("{V1}/rooms/{room}/threads");

        assert_eq!(ids(&bob.get(&path).await["chunk"]), [tea.as_str(), cake.as_str()]);
        assert_eq!(ids(&bob.get(&format!("{path}?include=participated")).await["chunk"]), [cake.as_str()]);
        let first = bob.get(&format!("{path}?limit=1")).await;
        let next = first["next_batch"].as_str().expect("there is more");
        assert_eq!(ids(&bob.get(&format!("{path}?limit=1&from={next}")).await["chunk"]), [cake.as_str()]);
        assert_eq!(bob.refused(&format!("{path}?include=some")).await, (400, "M_INVALID_PARAM".into()));
    })
    .await;
}

#[tokio::test]
async fn who_left_sees_the_room_as_it_was() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let room = alice.create(json!({ "preset": "public_chat", "name": "before" })).await;
        bob.join(&room).await;
        alice.say(&room, "one").await;
        bob.post(&format!("{V3}/rooms/{room}/leave"), json!({})).await;
        let after = alice.say(&room, "two").await;
        alice.put(&format!("{V3}/rooms/{room}/state/m.room.name/"), json!({ "name": "after" })).await;
        // An invitation that is declined, and a ban, take nothing back.
        alice.post(&format!("{V3}/rooms/{room}/invite"), json!({ "user_id": "@bob:a.test" })).await;
        bob.post(&format!("{V3}/rooms/{room}/leave"), json!({})).await;
        alice.post(&format!("{V3}/rooms/{room}/ban"), json!({ "user_id": "@bob:a.test" })).await;
        let carol = Person::new(&server, "carol").await;
        carol.join(&room).await;
        let now = alice.get(&format!("{V3}/sync?timeout=0")).await["next_batch"].as_str().expect("text").to_owned();

        assert_eq!(bob.bodies(&room).await, ["one"]);
        assert_eq!(bob.get(&format!("{V3}/rooms/{room}/state/m.room.name")).await, json!({ "name": "before" }));
        assert_eq!(bob.refused(&format!("{V3}/rooms/{room}/event/{after}")).await, (404, "M_NOT_FOUND".into()));
        let members = bob.get(&format!("{V3}/rooms/{room}/members?at={now}")).await.to_string();
        assert!(!members.contains("carol"), "{members}");
        let latest = bob.get(&format!("{V1}/rooms/{room}/timestamp_to_event?dir=b&ts=99999999999999")).await;
        assert_ne!(latest["event_id"], after.as_str());
        bob.post(&format!("{V3}/rooms/{room}/forget"), json!({})).await;
        assert_eq!(bob.refused(&format!("{V3}/rooms/{room}/messages?dir=b")).await, (403, "M_FORBIDDEN".into()));
    })
    .await;
}

#[tokio::test]
async fn what_an_ignored_user_says_is_not_shown_and_what_the_room_is_stays() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let room = alice.create(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let said = alice.say(&room, "hello").await;
        let noise = bob.relate(&room, "m.thread", &said, "noise").await;
        let path = format!("{V3}/user/@alice:a.test/account_data/m.ignored_user_list");
        alice.put(&path, json!({ "ignored_users": { "@bob:a.test": {} } })).await;

        assert_eq!(alice.bodies(&room).await, ["hello"]);
        assert_eq!(alice.refused(&format!("{V3}/rooms/{room}/event/{noise}")).await.0, 404);
        assert_eq!(alice.event(&room, &said).await["unsigned"]["m.relations"], Value::Null);
        let member = alice.get(&format!("{V3}/rooms/{room}/state/m.room.member/@bob:a.test")).await;
        assert_eq!(member["membership"], "join");
    })
    .await;
}

#[tokio::test]
async fn a_room_tells_what_it_is_to_those_who_may_come_in() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let wish = json!({ "preset": "public_chat", "name": "Tea", "room_alias_name": "tea", "room_version": "11" });
        let open = alice.create(wish).await;
        let closed = alice.create(json!({ "preset": "private_chat" })).await;

        let summary = bob.get(&format!("{V1}/room_summary/%23tea:a.test")).await;
        assert_eq!(
            summary,
            json!({
                "room_id": open, "name": "Tea", "canonical_alias": "#tea:a.test",
                "num_joined_members": 1, "world_readable": false, "guest_can_join": false, "room_version": "11",
                "membership": "leave",
            })
        );
        let to_anybody = server.get(&format!("{V1}/room_summary/{open}"), None).await;
        assert_eq!((&to_anybody["name"], &to_anybody["membership"]), (&json!("Tea"), &Value::Null));
        assert_eq!(bob.refused(&format!("{V1}/room_summary/{closed}")).await, (404, "M_NOT_FOUND".into()));
        alice.post(&format!("{V3}/rooms/{closed}/invite"), json!({ "user_id": "@bob:a.test" })).await;
        assert_eq!(bob.get(&format!("{V1}/room_summary/{closed}")).await["membership"], "invite");
    })
    .await;
}

#[tokio::test]
async fn a_space_shows_its_rooms_in_its_order_as_far_as_one_may_see_them() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let space = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
        let (root, inner) = (alice.create(space.clone()).await, alice.create(space).await);
        let (open, deep) = (
            alice.create(json!({ "preset": "public_chat" })).await,
            alice.create(json!({ "preset": "public_chat" })).await,
        );
        let secret = alice.create(json!({ "preset": "private_chat" })).await;
        let gone = alice.create(json!({ "preset": "public_chat" })).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": root }]);
        let rule = json!({ "join_rule": "restricted", "allow": allow });
        let initial_state = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
        let members_only = alice.create(json!({ "preset": "private_chat", "initial_state": initial_state })).await;
        let children = [
            (&root, &members_only, json!({ "via": ["a.test"] })),
            (&root, &inner, json!({ "via": ["a.test"], "order": "a" })),
            (&root, &open, json!({ "via": ["a.test"], "order": "b", "suggested": true })),
            (&root, &secret, json!({ "via": ["a.test"], "order": "0" })),
            (&root, &gone, json!({ "via": ["a.test"] })),
            (&root, &gone, json!({})),
            (&inner, &deep, json!({ "via": ["a.test"] })),
            (&inner, &root, json!({ "via": ["a.test"] })),
        ];
        for (space, child, content) in children {
            alice.put(&format!("{V3}/rooms/{space}/state/m.space.child/{child}"), content).await;
        }
        let path = format!("{V1}/rooms/{root}/hierarchy");
        let shown = async |person: &Person<'_>, query: &str| {
            let page = person.get(&format!("{path}{query}")).await;
            let rooms = page["rooms"].as_array().expect("a list").iter();
            rooms.map(|room| room["room_id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
        };
        let of = |rooms: &[&String]| rooms.iter().map(|room| (*room).clone()).collect::<Vec<_>>();

        assert_eq!(shown(&bob, "").await, of(&[&root, &inner, &deep, &open]));
        bob.join(&root).await;
        assert_eq!(shown(&bob, "").await, of(&[&root, &inner, &deep, &open, &members_only]));
        assert_eq!(shown(&alice, "?max_depth=1").await, of(&[&root, &secret, &inner, &open, &members_only]));
        assert_eq!(shown(&bob, "?suggested_only=true").await, of(&[&root, &open]));
        assert_eq!(shown(&bob, "?limit=2").await, of(&[&root, &inner]));
        let first = bob.get(&format!("{path}?limit=2")).await;
        let next = first["next_batch"].as_str().expect("there is more");
        assert_eq!(shown(&bob, &format!("?limit=9&from={next}")).await, of(&[&deep, &open, &members_only]));
        let other_walk = bob.refused(&format!("{path}?max_depth=1&from={next}")).await;
        assert_eq!(other_walk, (400, "M_INVALID_PARAM".into()));
        let told = first["rooms"][0]["children_state"].as_array().expect("a list");
        let order: Vec<_> = told.iter().map(|child| child["state_key"].as_str().expect("a room id")).collect();
        assert_eq!(order, [&secret, &inner, &open, &members_only]);
        let hidden = bob.refused(&format!("{V1}/rooms/{secret}/hierarchy")).await;
        assert_eq!(hidden, (403, "M_FORBIDDEN".into()));
    })
    .await;
}

#[tokio::test]
async fn people_are_found_by_those_who_may_meet_them() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let hermit = Person::new(&server, "hermit_99").await;
        let path = format!("{V3}/profile/@bob:a.test/displayname");
        bob.put(&path, json!({ "displayname": "Zoë \"100%\" Bob" })).await;
        let found = async |person: &Person<'_>, term: &str| {
            let answer = person.post(&format!("{V3}/user_directory/search"), json!({ "search_term": term })).await;
            let results = answer["results"].as_array().expect("a list").iter();
            results.map(|user| user["user_id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
        };

        assert!(found(&alice, "zo").await.is_empty(), "they share no room");
        assert_eq!(found(&alice, "@hermit_99:a.test").await, ["@hermit_99:a.test"]);
        assert_eq!(found(&alice, "hermit_99").await, ["@hermit_99:a.test"]);
        let room = alice.create(json!({ "preset": "private_chat", "invite": ["@bob:a.test"] })).await;
        assert!(found(&alice, "zo").await.is_empty(), "who is only invited is not in the room");
        bob.join(&room).await;
        for term in ["zo", "Zoë", "BO", " \"100% ", "100%\"", "@bob"] {
            assert_eq!(found(&alice, term).await, ["@bob:a.test"], "{term}");
        }
        for term in ["a.test", "%", "_", "alice", "", "nobody"] {
            let people = found(&alice, term).await;
            assert!(people.is_empty() || term == "%", "{term}: {people:?}");
        }
        assert!(found(&hermit, "bob:").await.is_empty());
        assert!(found(&hermit, "zo").await.is_empty());
        let public = bob.create(json!({ "preset": "public_chat" })).await;
        assert_eq!(found(&hermit, "zo").await, ["@bob:a.test"], "{public} is open to all");
    })
    .await;
}
