//! Messages, through the router, beside a client of the Matrix API.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::testing::{Server, with_server};

const MESSAGES: &str = "/api/v1/messages";
const V3: &str = "/_matrix/client/v3";

/// Alice and Bob in a group.
struct Chat<'a> {
    server: &'a Server,
    alice: String,
    bob: String,
    room: String,
}

impl<'a> Chat<'a> {
    async fn begin(server: &'a Server) -> Self {
        let (alice, bob) = (server.register("alice").await.0, server.register("bob").await.0);
        let wish = json!({ "type": "group", "name": "Tea", "members": ["bob@a.test"] });
        let (status, made) = server.ask(Method::POST, "/api/v1/conversations", Some(&alice), wish.to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        let room = made["conversation_id"].as_str().expect("it is told").to_owned();
        server.post(&format!("{V3}/rooms/{room}/join"), Some(&bob), json!({})).await;
        Self { server, alice, bob, room }
    }

    async fn ask(&self, token: &str, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.server.ask(method, path, Some(token), body).await
    }

    async fn say(&self, token: &str, mut message: Value) -> Value {
        message["conversation_id"] = self.room.as_str().into();
        let (status, said) = self.ask(token, Method::POST, MESSAGES, message).await;
        assert_eq!(status, StatusCode::CREATED, "{said}");
        said
    }

    async fn history(&self, token: &str, query: &str) -> Value {
        self.server.get(&format!("{MESSAGES}?conversation_id={}{query}", self.room), Some(token)).await
    }
}

fn seqs(history: &Value) -> Vec<i64> {
    let messages = history["messages"].as_array().expect("a list");
    messages.iter().map(|message| message["seq"].as_i64().expect("a number")).collect()
}

fn texts(history: &Value) -> Vec<String> {
    let messages = history["messages"].as_array().expect("a list").iter();
    messages.filter_map(|message| message["content"]["text"].as_str().map(str::to_owned)).collect()
}

fn id(message: &Value) -> &str {
    message["id"].as_str().expect("an id")
}

#[tokio::test]
async fn history_has_every_number_once_in_pages_of_both_directions() {
    with_server(async |server| {
        let chat = Chat::begin(&server).await;
        for text in ["one", "two", "three", "four", "five"] {
            chat.say(&chat.alice, json!({ "content": text })).await;
        }
        let all = chat.history(&chat.bob, "&limit=200").await;
        let numbers = seqs(&all);
        let last = *numbers.last().expect("there is something");
        assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "from the room's first event on, without a gap");
        assert_eq!((&all["first_seq"], &all["last_seq"], &all["has_more"]), (&json!(1), &json!(last), &json!(false)));

        let mut forward = Vec::new();
        let mut page = chat.history(&chat.bob, "&after_seq=0&limit=3").await;
        loop {
            forward.extend(seqs(&page));
            let Some(next) = page["next"].as_str() else { break };
            page = chat.history(&chat.bob, &format!("&cursor={next}&limit=3")).await;
        }
        assert_eq!(forward, numbers);
        let before = chat.history(&chat.bob, &format!("&before_seq={last}&limit=2")).await;
        assert_eq!(texts(&before), ["three", "four"]);
        let before = chat.history(&chat.bob, &format!("&beforeId={}&limit=1", id(&before["messages"][0]))).await;
        assert_eq!(texts(&before), ["two"]);
        let after = chat.history(&chat.bob, &format!("&afterSeq={}", last - 2)).await;
        assert_eq!(texts(&after), ["four", "five"]);
        assert_eq!(seqs(&chat.history(&chat.bob, &format!("&after_seq={last}")).await), [0; 0]);
        // Without notices it is told which numbers were looked at.
        let said = chat.history(&chat.bob, "&only=messages").await;
        assert_eq!(texts(&said), ["one", "two", "three", "four", "five"]);
        assert_eq!((&said["first_seq"], &said["last_seq"]), (&json!(1), &json!(last)));
        let (status, problem) = chat
            .ask(
                &chat.bob,
                Method::GET,
                &format!("{MESSAGES}?conversation_id={}&before_seq=2&after_seq=1", chat.room),
                Value::Null,
            )
            .await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("invalid")));
    })
    .await;
}

#[tokio::test]
async fn a_message_is_sent_once_for_each_msg_id() {
    with_server(async |server| {
        let chat = Chat::begin(&server).await;
        let message = json!({ "content": { "text": "hi" }, "msg_id": "m1" });
        let first = chat.say(&chat.alice, message.clone()).await;
        assert_eq!(chat.say(&chat.alice, message).await, first);
        assert_eq!(first["msg_id"], "m1");
        // The names of one device are the same on the Matrix API.
        let path = format!("{V3}/rooms/{}/send/m.room.message/m1", chat.room);
        let (_, again) =
            chat.ask(&chat.alice, Method::PUT, &path, json!({ "msgtype": "m.text", "body": "other" })).await;
        assert_eq!(again["event_id"], first["id"]);
        assert_eq!(texts(&chat.history(&chat.bob, "").await), ["hi"]);
        assert_eq!(chat.history(&chat.bob, "&limit=1").await["messages"][0]["msg_id"], Value::Null, "it is Alice's");

        let batch = json!({ "messages": [
            { "conversation_id": chat.room, "content": "a", "msg_id": "m2" },
            { "conversation_id": chat.room, "content": "" },
            { "to": "nobody@a.test", "content": "b" },
            { "to": "bob@a.test", "content": "c" },
        ]});
        let (_, answer) = chat.ask(&chat.alice, Method::POST, &format!("{MESSAGES}/batch"), batch).await;
        let results = answer["results"].as_array().expect("a list");
        let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64()).collect();
        assert_eq!(statuses, [Some(201), Some(400), Some(404), Some(201)], "{answer}");
        assert_eq!(results[2]["code"], "unknown_user");
        let (status, _) =
            chat.ask(&chat.alice, Method::POST, &format!("{MESSAGES}/batch"), json!({ "messages": [] })).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    })
    .await;
}

#[tokio::test]
async fn what_is_edited_recalled_and_reacted_to_shows_on_both_apis() {
    with_server(async |server| {
        let chat = Chat::begin(&server).await;
        let said = chat.say(&chat.alice, json!({ "content": "helo" })).await;
        let path = format!("{MESSAGES}/{}", id(&said));
        let (status, edited) = chat.ask(&chat.alice, Method::PATCH, &path, json!({ "content": "hello" })).await;
        assert_eq!((status, &edited["content"]["text"]), (StatusCode::OK, &json!("hello")));
        assert_eq!(edited["seq"], said["seq"]);
        let (status, _) = chat.ask(&chat.bob, Method::PATCH, &path, json!({ "content": "mine" })).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let matrix = chat.server.get(&format!("{V3}/rooms/{}/event/{}", chat.room, id(&said)), Some(&chat.bob)).await;
        let edit = &matrix["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"];
        assert_eq!(edit["body"], "hello");
        let list = chat.server.get("/api/v1/conversations", Some(&chat.bob)).await;
        assert_eq!(list["conversations"][0]["last_message"]["content"]["text"], "hello");

        let reaction = format!("{path}/reactions/%F0%9F%91%8D");
        for _ in 0..2 {
            let (status, _) = chat.ask(&chat.bob, Method::PUT, &reaction, Value::Null).await;
            assert_eq!(status, StatusCode::NO_CONTENT);
        }
        let one = chat.server.get(&path, Some(&chat.bob)).await;
        assert_eq!(one["reactions"], json!([{ "key": "👍", "count": 1, "mine": true }]));
        assert_eq!(chat.server.get(&path, Some(&chat.alice)).await["reactions"][0]["mine"], false);
        chat.ask(&chat.bob, Method::DELETE, &reaction, Value::Null).await;
        assert_eq!(chat.server.get(&path, Some(&chat.alice)).await["reactions"], Value::Null);

        // Bob may not take back what Alice said, and she may.
        let (status, _) = chat.ask(&chat.bob, Method::POST, &format!("{path}/recall"), json!({})).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let (status, recalled) =
            chat.ask(&chat.alice, Method::POST, &format!("{path}/recall"), json!({ "reason": "typo" })).await;
        assert_eq!((status, &recalled["type"], &recalled["content"]), (StatusCode::OK, &json!("recalled"), &json!({})));
        assert!(recalled["recalled_at"].is_i64());
        let matrix = chat.server.get(&format!("{V3}/rooms/{}/event/{}", chat.room, id(&said)), Some(&chat.bob)).await;
        assert_eq!(matrix["content"], json!({}));
        // A client of the Matrix API takes back, too.
        let own = chat.say(&chat.bob, json!({ "content": "oops" })).await;
        let redact = format!("{V3}/rooms/{}/redact/{}/r1", chat.room, id(&own));
        chat.ask(&chat.bob, Method::PUT, &redact, json!({})).await;
        assert_eq!(chat.server.get(&format!("{MESSAGES}/{}", id(&own)), Some(&chat.alice)).await["type"], "recalled");
        let all = seqs(&chat.history(&chat.alice, "&limit=200").await);
        assert_eq!(all, (1..=all.len() as i64).collect::<Vec<_>>(), "edits, reactions and recalls have numbers");
    })
    .await;
}

#[tokio::test]
async fn what_one_hides_others_see_and_what_one_forwards_says_where_it_is_from() {
    with_server(async |server| {
        let chat = Chat::begin(&server).await;
        let said = chat.say(&chat.alice, json!({ "content": "look", "mentions": { "users": ["bob@a.test"] } })).await;
        assert_eq!(said["mentions"]["users"][0]["user_id"], "@bob:a.test");
        let list = chat.server.get("/api/v1/conversations", Some(&chat.bob)).await;
        assert_eq!(list["conversations"][0]["mention_count"], 1);
        let (status, forwarded) =
            chat.ask(&chat.bob, Method::POST, MESSAGES, json!({ "to": "alice@a.test", "forward": id(&said) })).await;
        assert_eq!((status, &forwarded["content"]["text"]), (StatusCode::CREATED, &json!("look")), "{forwarded}");
        assert_eq!(forwarded["forwarded_from"]["sender"], "@alice:a.test");
        assert_eq!(forwarded["mentions"], Value::Null);

        let (status, _) = chat.ask(&chat.bob, Method::DELETE, &format!("{MESSAGES}/{}", id(&said)), Value::Null).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        assert!(texts(&chat.history(&chat.bob, "").await).is_empty());
        assert_eq!(texts(&chat.history(&chat.alice, "").await), ["look"]);
        let covered = chat.history(&chat.bob, "").await;
        assert_eq!(covered["last_seq"], said["seq"], "it is no loss");

        // Who isn't there sees nothing.
        let carol = chat.server.register("carol").await.0;
        for path in [format!("{MESSAGES}/{}", id(&said)), format!("{MESSAGES}?conversation_id={}", chat.room)] {
            let (status, _) = chat.ask(&carol, Method::GET, &path, Value::Null).await;
            assert!(status == StatusCode::NOT_FOUND || status == StatusCode::FORBIDDEN, "{path}: {status}");
        }
        let refused = json!({ "conversation_id": chat.room, "content": "let me in" });
        assert_eq!(chat.ask(&carol, Method::POST, MESSAGES, refused).await.0, StatusCode::FORBIDDEN);
    })
    .await;
}

#[tokio::test]
async fn in_an_encrypted_conversation_only_what_is_encrypted_is_said() {
    with_server(async |server| {
        let chat = Chat::begin(&server).await;
        let before = json!({ "content": "still open", "msg_id": "m1" });
        let said = chat.say(&chat.alice, before.clone()).await;
        let encryption = format!("{V3}/rooms/{}/state/m.room.encryption", chat.room);
        let megolm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        assert_eq!(chat.ask(&chat.alice, Method::PUT, &encryption, megolm).await.0, StatusCode::OK);

        let refused = |(status, problem): (StatusCode, Value)| {
            assert_eq!(
                (status, &problem["code"]),
                (StatusCode::FORBIDDEN, &json!("encrypted_conversation")),
                "{problem}"
            );
        };
        let plain = json!({ "conversation_id": chat.room, "content": "secret" });
        refused(chat.ask(&chat.alice, Method::POST, MESSAGES, plain.clone()).await);
        let path = format!("{MESSAGES}/{}", id(&said));
        refused(chat.ask(&chat.alice, Method::PATCH, &path, json!({ "content": "still secret" })).await);
        let forward = json!({ "conversation_id": chat.room, "forward": id(&said) });
        refused(chat.ask(&chat.alice, Method::POST, MESSAGES, forward).await);
        // Who isn't in it isn't told that it is encrypted.
        let carol = chat.server.register("carol").await.0;
        let (status, problem) = chat.ask(&carol, Method::POST, MESSAGES, plain).await;
        assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));

        assert_eq!(chat.say(&chat.alice, before).await["id"], said["id"], "what was said before stays said");
        let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgA", "session_id": "s" });
        chat.say(&chat.alice, json!({ "type": "encrypted", "content": content })).await;
        let (status, _) = chat.ask(&chat.bob, Method::PUT, &format!("{path}/reactions/%F0%9F%91%8D"), json!({})).await;
        assert!(status.is_success(), "reactions are never encrypted: {status}");
        let kinds: Vec<_> = chat.history(&chat.bob, "&only=messages").await["messages"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["type"].clone())
            .collect();
        assert_eq!(kinds, ["text", "encrypted"]);
    })
    .await;
}

#[tokio::test]
async fn a_time_that_makes_no_sense_is_refused_and_nothing_is_said() {
    with_server(async |server| {
        let chat = Chat::begin(&server).await;
        let carol = chat.server.register("carol").await.0;
        let refused = async |who: &str, path: &str, wish: Value| {
            let (status, problem) = chat.ask(who, Method::POST, path, wish).await;
            (status.as_u16(), problem["code"].as_str().unwrap_or_default().to_owned())
        };
        let invalid = (400, "invalid".to_owned());
        let later =
            |send_at: i64| json!({ "send_at": send_at, "message": { "conversation_id": chat.room, "content": "x" } });
        let now = i64::from(ruma::MilliSecondsSinceUnixEpoch::now().get());
        let scheduled = format!("{MESSAGES}/scheduled");
        for send_at in [-1, 0, now - 1000, now + 400 * 24 * 3_600_000, i64::MAX] {
            assert_eq!(refused(&chat.alice, &scheduled, later(send_at)).await, invalid, "{send_at}");
        }
        assert_eq!(refused(&carol, &scheduled, later(now + 60_000)).await, (403, "forbidden".into()));
        for lifetime in [
            json!({ "expires_in_ms": 0 }),
            json!({ "expires_in_ms": u64::MAX }),
            json!({ "expires_in_ms": 1000, "burn_after_ms": 1000 }),
            json!({ "burn_after_ms": u64::MAX }),
        ] {
            let mut wish = json!({ "conversation_id": chat.room, "content": "x" });
            wish.as_object_mut().expect("an object").extend(lifetime.as_object().expect("an object").clone());
            assert_eq!(refused(&chat.alice, MESSAGES, wish).await, invalid, "{lifetime}");
        }
        // Among three nobody could say when it was read.
        chat.server
            .post(&format!("{V3}/rooms/{}/invite", chat.room), Some(&chat.alice), json!({ "user_id": "@carol:a.test" }))
            .await;
        chat.server.post(&format!("{V3}/rooms/{}/join", chat.room), Some(&carol), json!({})).await;
        let burning = json!({ "conversation_id": chat.room, "content": "x", "burn_after_ms": 1000 });
        assert_eq!(refused(&chat.alice, MESSAGES, burning).await, invalid);
        assert!(texts(&chat.history(&chat.bob, "").await).is_empty());
        assert!(chat.server.get(&scheduled, Some(&chat.alice)).await["messages"].as_array().is_some_and(Vec::is_empty));
    })
    .await;
}
