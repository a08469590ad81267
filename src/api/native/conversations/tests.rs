//! Conversations, through the router.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::testing::{Server, with_server};

const CONVERSATIONS: &str = "/api/v1/conversations";

/// Somebody with a client of the native API.
struct Person<'a> {
    server: &'a Server,
    token: String,
}

impl<'a> Person<'a> {
    async fn new(server: &'a Server, name: &str) -> Self {
        Self { server, token: server.register(name).await.0 }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.server.ask(method, path, Some(&self.token), body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.server.get(path, Some(&self.token)).await
    }

    #[track_caller]
    fn done(answer: (StatusCode, Value)) -> Value {
        assert!(answer.0.is_success(), "{answer:?}");
        answer.1
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        Self::done(self.ask(Method::POST, path, body).await)
    }

    async fn say(&self, room: &str, text: &str) -> Value {
        self.post("/api/v1/messages", json!({ "conversation_id": room, "content": text })).await
    }

    async fn begin(&self, body: Value) -> String {
        let made = self.post(CONVERSATIONS, body).await;
        made["conversation_id"].as_str().expect("it is told").to_owned()
    }
}

#[tokio::test]
async fn a_direct_conversation_is_one_whoever_begins_it() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let wish = json!({ "type": "direct", "members": ["bob@a.test"] });
        let room = alice.begin(wish.clone()).await;
        assert_eq!(alice.begin(wish).await, room, "there is one");

        let invited = bob.get(&format!("{CONVERSATIONS}?state=invited")).await;
        let invitation = &invited["conversations"][0];
        assert_eq!(invitation["conversation_id"], room.as_str());
        assert_eq!((&invitation["type"], &invitation["state"]), (&json!("direct"), &json!("invited")));
        assert_eq!(invitation["other"]["address"], "alice@a.test");
        // Bob says something to her: he comes in by that.
        let said =
            bob.post("/api/v1/messages", json!({ "to": "@alice:a.test", "content": "hi", "msg_id": "m1" })).await;
        assert_eq!(said["conversation_id"], room.as_str());
        assert_eq!(said["msg_id"], "m1");

        let listed = alice.get(CONVERSATIONS).await;
        let one = &listed["conversations"][0];
        assert_eq!((&one["type"], &one["name"]), (&json!("direct"), &json!("bob")));
        assert_eq!((&one["unread_count"], &one["member_count"]), (&json!(1), &json!(2)));
        assert_eq!(one["last_message"]["content"]["text"], "hi");
        assert_eq!(one["last_message"]["seq"], one["last_seq"]);
        assert_eq!(bob.get(&format!("{CONVERSATIONS}/{room}")).await["other"]["user_id"], "@alice:a.test");
        // What Matrix clients see of it.
        let path = "/_matrix/client/v3/user/@bob:a.test/account_data/m.direct";
        assert_eq!(bob.get(path).await, json!({ "@alice:a.test": [room] }));
        let nobody = json!({ "type": "direct", "members": ["nobody@a.test"] });
        let (status, problem) = alice.ask(Method::POST, CONVERSATIONS, nobody).await;
        assert_eq!((status.as_u16(), &problem["code"]), (404, &json!("unknown_user")));
    })
    .await;
}

#[tokio::test]
async fn a_group_is_made_once_for_each_key_and_lists_go_by_what_was_said_last() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let wish = json!({ "type": "group", "name": "Tea", "members": ["bob@a.test"], "idempotency_key": "k1" });
        let tea = alice.begin(wish.clone()).await;
        assert_eq!(alice.begin(wish).await, tea);
        let cake = alice.begin(json!({ "type": "group", "name": "Cake" })).await;
        let ids = async |person: &Person<'_>, query: &str| -> Vec<String> {
            let list = person.get(&format!("{CONVERSATIONS}{query}")).await["conversations"].clone();
            let list = list.as_array().expect("a list").iter();
            list.map(|one| one["conversation_id"].as_str().expect("text").to_owned()).collect()
        };
        assert_eq!(ids(&alice, "").await, [cake.clone(), tea.clone()]);
        alice.say(&tea, "now").await;
        assert_eq!(ids(&alice, "").await, [tea.clone(), cake.clone()]);
        // A topic is no reason to stand above.
        let topic = format!("/_matrix/client/v3/rooms/{cake}/state/m.room.topic/");
        alice.say(&cake, "later").await;
        alice.say(&tea, "now!").await;
        alice.ask(Method::PUT, &topic, json!({ "topic": "sweet" })).await;
        assert_eq!(ids(&alice, "").await, [tea.clone(), cake.clone()]);

        let first = alice.get(&format!("{CONVERSATIONS}?limit=1")).await;
        let next = first["next"].as_str().expect("there is more");
        assert_eq!(ids(&alice, &format!("?limit=1&cursor={next}")).await, std::slice::from_ref(&cake));
        assert_eq!(alice.get(&format!("{CONVERSATIONS}?limit=1&cursor={next}")).await["next"], Value::Null);

        bob.post(&format!("{CONVERSATIONS}/{tea}/join"), Value::Null).await;
        let members = alice.get(&format!("{CONVERSATIONS}/{tea}/members")).await;
        let roles: Vec<_> =
            members["members"].as_array().expect("a list").iter().map(|one| one["role"].clone()).collect();
        assert_eq!(roles, ["owner", "member"]);
        let (status, _) = bob.ask(Method::GET, &format!("{CONVERSATIONS}/{cake}"), Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        bob.post(&format!("{CONVERSATIONS}/{tea}/leave"), Value::Null).await;
        assert!(ids(&bob, "").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn settings_are_those_that_matrix_clients_see() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let tea = alice.begin(json!({ "type": "group", "name": "Tea", "members": ["bob@a.test"] })).await;
        bob.post(&format!("{CONVERSATIONS}/{tea}/join"), Value::Null).await;
        let path = format!("{CONVERSATIONS}/{tea}/settings");
        let wish = json!({ "pinned": true, "muted": true, "draft": "I think" });
        let set = Person::done(bob.ask(Method::PATCH, &path, wish).await);
        assert_eq!((&set["pinned"], &set["muted"], &set["draft"]), (&json!(true), &json!(true), &json!("I think")));
        let tags = format!("/_matrix/client/v3/user/@bob:a.test/rooms/{tea}/tags");
        assert_eq!(bob.get(&tags).await["tags"]["m.favourite"], json!({}));
        let rule = format!("/_matrix/client/v3/pushrules/global/override/{tea}");
        assert_eq!(bob.get(&rule).await["actions"], json!([]));
        assert_eq!(
            bob.get(&format!("{CONVERSATIONS}?pinned=true")).await["conversations"].as_array().map(Vec::len),
            Some(1)
        );

        alice.say(&tea, "quiet").await;
        assert_eq!(bob.get(&format!("{CONVERSATIONS}/{tea}")).await["unread_count"], 0, "muted");
        let unset = json!({ "pinned": false, "muted": false, "draft": "" });
        let set = Person::done(bob.ask(Method::PATCH, &path, unset).await);
        assert_eq!((&set["pinned"], &set["muted"], &set["draft"]), (&json!(false), &json!(false), &Value::Null));
        assert_eq!(bob.get(&tags).await["tags"], json!({}));
        let (status, _) = bob.ask(Method::GET, &rule, Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND);

        // What is cleared is cleared for one.
        let (status, _) = bob.ask(Method::DELETE, &format!("{CONVERSATIONS}/{tea}/history"), Value::Null).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        let history = format!("/api/v1/messages?conversation_id={tea}");
        assert_eq!(bob.get(&history).await["messages"], json!([]));
        assert_eq!(bob.get(&format!("{CONVERSATIONS}/{tea}")).await["last_message"], Value::Null);
        alice.say(&tea, "new").await;
        assert_eq!(bob.get(&history).await["messages"].as_array().map(Vec::len), Some(1));
        assert!(alice.get(&history).await["messages"].as_array().is_some_and(|all| all.len() > 2));
    })
    .await;
}

#[tokio::test]
async fn what_was_read_is_read_on_both_apis_and_never_goes_back() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let tea = alice.begin(json!({ "type": "group", "name": "Tea", "members": ["bob@a.test"] })).await;
        bob.post(&format!("{CONVERSATIONS}/{tea}/join"), Value::Null).await;
        let said: Vec<Value> =
            vec![alice.say(&tea, "one").await, alice.say(&tea, "two").await, alice.say(&tea, "three").await];
        let path = format!("{CONVERSATIONS}/{tea}");
        assert_eq!(bob.get(&path).await["unread_count"], 3);
        let seq = |at: usize| said[at]["seq"].as_i64().expect("a number");
        let state = bob.post(&format!("{path}/read"), json!({ "up_to": said[1]["id"] })).await;
        assert_eq!((&state["unread_count"], &state["read_seq"]), (&json!(1), &json!(seq(1))));
        let state = bob.post(&format!("{path}/read"), json!({ "seq": seq(0) })).await;
        assert_eq!(state["read_seq"], seq(1), "never back");
        let id = said[1]["id"].as_str().expect("text");
        let readers = alice.get(&format!("/api/v1/messages/{id}/readers")).await;
        assert_eq!(readers["readers"][0]["address"], "bob@a.test");

        // What was missed.
        let summary = bob.get("/api/im/offline/summary").await;
        assert_eq!(
            (&summary["total_unread"], &summary["conversations"][0]["conversation_id"]),
            (&json!(1), &json!(tea))
        );
        let missed = bob.get(&format!("/api/im/offline/{tea}")).await;
        assert_eq!(missed["messages"].as_array().map(Vec::len), Some(1));
        assert_eq!(missed["messages"][0]["content"]["text"], "three");
        let ack = json!({ "acks": [{ "conversationId": tea, "seq": seq(2) }] });
        let state = bob.post("/api/im/offline/ack", ack.clone()).await;
        assert_eq!(state["conversations"][0]["unread_count"], 0);
        assert_eq!(bob.post("/api/im/offline/ack", ack).await, state, "once more does nothing");
        let id = said[2]["id"].as_str().expect("text");
        let readers = alice.get(&format!("/api/v1/messages/{id}/readers")).await;
        assert_eq!(readers["readers"], json!([]), "what was only received isn't told as read");
        let page = bob.get(&format!("/api/chat/messages/session/{tea}/page?offset=1&limit=1")).await;
        assert_eq!(page["messages"][0]["content"]["text"], "two");
        let page = bob.get(&format!("/api/chat/messages/session/{tea}?beforeId={id}&limit=1")).await;
        assert_eq!(page["messages"][0]["content"]["text"], "two");
    })
    .await;
}
