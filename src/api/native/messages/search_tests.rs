//! Looking for messages, through the router.

#![allow(clippy::cloned_ref_to_slice_refs, reason = "a list of one is compared as lists of more are")]

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::testing::{Server, with_server};

const V3: &str = "/_matrix/client/v3";

struct Person<'a>(&'a Server, String);

impl<'a> Person<'a> {
    async fn new(server: &'a Server, name: &str) -> Self {
        Self(server, server.register(name).await.0)
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.0.ask(method, path, Some(&self.1), body).await
    }

    async fn say(&self, room: &str, content: Value) -> String {
        let body = json!({ "conversation_id": room, "content": content });
        let (status, said) = self.ask(Method::POST, "/api/v1/messages", body).await;
        assert_eq!(status, StatusCode::CREATED, "{said}");
        said["id"].as_str().expect("an id").to_owned()
    }

    async fn search(&self, query: &str) -> Value {
        self.0.get(&format!("/api/v1/messages/search?{query}"), Some(&self.1)).await
    }

    async fn found(&self, query: &str) -> Vec<String> {
        let answer = self.search(query).await;
        answer["messages"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|message| message["id"].as_str().expect("an id").to_owned())
            .collect()
    }
}

#[tokio::test]
async fn messages_are_found_as_they_read_now_and_as_far_as_one_wants_them() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let wish = json!({ "type": "group", "name": "北京", "members": ["bob@a.test"] });
        let (_, made) = alice.ask(Method::POST, "/api/v1/conversations", wish).await;
        let room = made["conversation_id"].as_str().expect("it is told").to_owned();
        server.post(&format!("{V3}/rooms/{room}/join"), Some(&bob.1), json!({})).await;
        let one = alice.say(&room, json!("明天去北京吗?")).await;
        let two = bob.say(&room, json!("北京 is far")).await;
        let north = "q=%E5%8C%97%E4%BA%AC";
        let answer = bob.search(north).await;
        assert_eq!(
            answer["messages"].as_array().map(Vec::len),
            Some(2),
            "the conversation's name is no message: {answer}"
        );
        let latest = &answer["messages"][0];
        assert_eq!((&latest["id"], &latest["content"]["text"]), (&json!(two), &json!("北京 is far")));
        assert_eq!((&latest["type"], &latest["sender"]["address"]), (&json!("text"), &json!("bob@a.test")));
        assert_eq!((&answer["highlights"], answer.get("next")), (&json!(["北京"]), None));

        for (more, expected) in [
            ("&sender=alice@a.test", vec![one.clone()]),
            ("&sender=@bob:a.test&type=text", vec![two.clone()]),
            ("&type=image", vec![]),
            ("&before=1000", vec![]),
            ("&after=1000", vec![two.clone(), one.clone()]),
            ("&conversation_id=!other:a.test", vec![]),
        ] {
            assert_eq!(bob.found(&format!("{north}{more}")).await, expected, "{more}");
        }
        let of_room = format!("{north}&conversation_id={room}&limit=1");
        let first = bob.search(&of_room).await;
        let next = first["next"].as_str().expect("there is more");
        assert_eq!(bob.found(&format!("{of_room}&cursor={next}")).await, [one.clone()]);

        // An edit, then what one takes out of one's own sight.
        let said = json!({ "content": "南京 is far" });
        assert_eq!(bob.ask(Method::PATCH, &format!("/api/v1/messages/{two}"), said).await.0, StatusCode::OK);
        assert_eq!(bob.found(north).await, [one.clone()]);
        assert_eq!(bob.search("q=far").await["messages"][0]["content"]["text"], "南京 is far");
        let (status, _) = bob.ask(Method::DELETE, &format!("/api/v1/messages/{one}"), Value::Null).await;
        assert!(status.is_success());
        assert_eq!(bob.found(north).await, [""; 0]);
        assert_eq!(alice.found(north).await, [one.clone()]);
        let (status, answer) =
            alice.ask(Method::DELETE, &format!("/api/v1/conversations/{room}/history"), Value::Null).await;
        assert!(status.is_success(), "{answer}");
        assert_eq!(alice.found(north).await, [""; 0]);

        for (query, field) in [("q=", "q"), ("q=x&cursor=w1", "cursor")] {
            let (status, problem) =
                bob.ask(Method::GET, &format!("/api/v1/messages/search?{query}"), Value::Null).await;
            assert_eq!((status.as_u16(), &problem["code"], &problem["field"]), (400, &json!("invalid"), &json!(field)));
        }
    })
    .await;
}
