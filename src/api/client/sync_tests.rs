//! Stories of what clients hear by `/sync`.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::testing::{Server, refusal, with_server};

/// A client with its token and its device.
struct Client<'a> {
    server: &'a Server,
    user_id: String,
    token: String,
    since: String,
}

impl<'a> Client<'a> {
    async fn new(server: &'a Server, name: &str) -> Self {
        let (token, _) = server.register(name).await;
        Self { server, user_id: format!("@{name}:a.test"), token, since: String::new() }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.server.post(&format!("/_matrix/client/v3/{path}"), Some(&self.token), body).await
    }

    async fn put(&self, path: &str, body: Value) -> Value {
        let path = format!("/_matrix/client/v3/{path}");
        let (status, answer) = self.server.ask(Method::PUT, &path, Some(&self.token), body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    /// What is new since the last time.
    async fn sync(&mut self) -> Value {
        let answer = self.sync_with("").await;
        self.since = answer["next_batch"].as_str().expect("every answer has a token").to_owned();
        answer
    }

    async fn sync_with(&self, query: &str) -> Value {
        let since = if self.since.is_empty() { String::new() } else { format!("&since={}", self.since) };
        self.server.get(&format!("/_matrix/client/v3/sync?set_presence=online{since}{query}"), Some(&self.token)).await
    }

    async fn create_room(&self, body: Value) -> String {
        self.post("createRoom", body).await["room_id"].as_str().expect("a room has an id").to_owned()
    }

    async fn join(&self, room: &str) {
        self.post(&format!("rooms/{room}/join"), json!({})).await;
    }

    async fn say(&self, room: &str, text: &str) -> String {
        let body = json!({ "msgtype": "m.text", "body": text });
        let sent = self.put(&format!("rooms/{room}/send/m.room.message/{text}"), body).await;
        sent["event_id"].as_str().expect("an event has an id").to_owned()
    }
}

fn texts(room: &Value) -> Vec<String> {
    let events = room["timeline"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

fn types(events: &Value) -> Vec<String> {
    let events = events.as_array().cloned().unwrap_or_default();
    let mut types: Vec<String> = events.iter().filter_map(|event| event["type"].as_str().map(str::to_owned)).collect();
    types.sort();
    types
}

#[tokio::test]
async fn a_new_client_hears_of_its_rooms_and_then_of_what_is_new() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Tea" })).await;
        alice.say(&room, "one").await;

        let first = alice.sync().await;
        let joined = &first["rooms"]["join"][&room];
        assert_eq!(texts(joined), ["one"]);
        assert_eq!(joined["summary"]["m.joined_member_count"], 1);
        assert_eq!(
            joined["timeline"]["events"][0]["unsigned"]["membership"], "leave",
            "the room was made before anybody was in"
        );
        assert_eq!(types(&first["account_data"]["events"]), ["m.push_rules"]);
        assert_eq!(first["device_one_time_keys_count"], json!({}));

        assert_eq!(alice.sync().await["rooms"], Value::Null);
        alice.say(&room, "two").await;
        let again = alice.sync_with("").await;
        assert_eq!(texts(&again["rooms"]["join"][&room]), ["two"]);
        assert_eq!(
            alice.sync().await["rooms"]["join"][&room]["timeline"]["limited"],
            false,
            "the same since, the same"
        );
        let own = &again["rooms"]["join"][&room]["timeline"]["events"][0];
        assert_eq!(own["unsigned"]["transaction_id"], "two");
    })
    .await;
}

#[tokio::test]
async fn a_gap_is_told_with_the_state_that_changed_in_it() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        alice.sync().await;
        alice.put(&format!("rooms/{room}/state/m.room.topic/"), json!({ "topic": "first" })).await;
        alice.put(&format!("rooms/{room}/state/m.room.topic/"), json!({ "topic": "second" })).await;
        for number in 0..12 {
            alice.say(&room, &format!("n{number}")).await;
        }
        let answer = alice.sync().await;
        let joined = &answer["rooms"]["join"][&room];
        assert_eq!(joined["timeline"]["limited"], true);
        assert_eq!(texts(joined).len(), 10);
        assert_eq!(types(&joined["state"]["events"]), ["m.room.topic"]);
        assert_eq!(joined["state"]["events"][0]["content"]["topic"], "second");

        let prev_batch = joined["timeline"]["prev_batch"].as_str().expect("a timeline has a token");
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=2&from={prev_batch}");
        let before = server.get(&path, Some(&alice.token)).await;
        let bodies: Vec<_> =
            before["chunk"].as_array().expect("a page").iter().map(|e| e["content"]["body"].clone()).collect();
        assert_eq!(bodies, ["n1", "n0"], "what lies before the gap goes on where the timeline began");
    })
    .await;
}

#[tokio::test]
async fn who_is_invited_joins_and_leaves_hears_of_each() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let mut bob = Client::new(&server, "bob").await;
        let room = alice.create_room(json!({ "preset": "private_chat", "name": "Tea" })).await;
        alice.say(&room, "before").await;
        alice.sync().await;
        bob.sync().await;

        alice.post(&format!("rooms/{room}/invite"), json!({ "user_id": bob.user_id })).await;
        let invited = bob.sync().await;
        let state = types(&invited["rooms"]["invite"][&room]["invite_state"]["events"]);
        assert!(state.contains(&"m.room.name".to_owned()) && state.contains(&"m.room.member".to_owned()), "{state:?}");

        bob.join(&room).await;
        let joined = bob.sync().await;
        let joined = &joined["rooms"]["join"][&room];
        assert_eq!(joined["summary"]["m.joined_member_count"], 2);
        assert!(joined["summary"]["m.heroes"].is_null(), "the room has a name of its own");
        assert!(texts(joined).contains(&"before".to_owned()), "shared history is seen by who joins");
        let seen = alice.sync().await;
        assert_eq!(seen["device_lists"]["changed"], json!([bob.user_id]));

        alice.say(&room, "hello").await;
        bob.post(&format!("rooms/{room}/leave"), json!({})).await;
        alice.say(&room, "after").await;
        let left = bob.sync().await;
        assert_eq!(texts(&left["rooms"]["leave"][&room]), ["hello"]);
        assert_eq!(left["device_lists"]["left"], json!([alice.user_id]));
        assert_eq!(bob.sync().await["rooms"], Value::Null);
        assert_eq!(alice.sync().await["device_lists"]["left"], json!([bob.user_id]));

        let filter = "&filter={\"room\":{\"include_leave\":true}}";
        bob.since.clear();
        let initial = bob.sync_with(&urlencoded(filter)).await;
        assert!(initial["rooms"]["leave"][&room].is_object(), "{initial}");
        assert_eq!(bob.sync_with("").await["rooms"], Value::Null);
    })
    .await;
}

#[tokio::test]
async fn history_before_a_join_is_hidden_where_the_room_says_so() {
    with_server(async |server| {
        let alice = Client::new(&server, "alice").await;
        let mut bob = Client::new(&server, "bob").await;
        let hidden = json!([{ "type": "m.room.history_visibility", "state_key": "",
            "content": { "history_visibility": "joined" } }]);
        let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": hidden })).await;
        alice.say(&room, "secret").await;
        bob.join(&room).await;
        alice.say(&room, "open").await;
        let answer = bob.sync().await;
        assert_eq!(texts(&answer["rooms"]["join"][&room]), ["open"]);
    })
    .await;
}

#[tokio::test]
async fn unread_messages_are_counted_until_they_are_read() {
    with_server(async |server| {
        let alice = Client::new(&server, "alice").await;
        let mut bob = Client::new(&server, "bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        bob.sync().await;
        let counts = |answer: &Value| {
            let unread = &answer["rooms"]["join"][&room]["unread_notifications"];
            (unread["notification_count"].as_u64(), unread["highlight_count"].as_u64())
        };
        let first = alice.say(&room, "one").await;
        alice.say(&room, "two").await;
        let mention = json!({ "msgtype": "m.text", "body": "hi", "m.mentions": { "user_ids": [bob.user_id] } });
        let last = alice.put(&format!("rooms/{room}/send/m.room.message/m"), mention).await;
        assert_eq!(counts(&bob.sync().await), (Some(3), Some(1)));

        bob.post(&format!("rooms/{room}/receipt/m.read/{first}"), json!({})).await;
        let read = bob.sync().await;
        assert_eq!(counts(&read), (Some(2), Some(1)));
        assert_eq!(types(&read["rooms"]["join"][&room]["ephemeral"]["events"]), ["m.receipt"]);

        let last = last["event_id"].as_str().expect("an event has an id");
        bob.post(&format!("rooms/{room}/receipt/m.read.private/{last}"), json!({})).await;
        assert_eq!(counts(&bob.sync().await), (Some(0), Some(0)));
        bob.post(&format!("rooms/{room}/receipt/m.read.private/{first}"), json!({})).await;
        assert_eq!(bob.sync().await["rooms"], Value::Null, "a receipt never goes back");

        let thread = json!({ "msgtype": "m.text", "body": "in a thread",
            "m.relates_to": { "rel_type": "m.thread", "event_id": first } });
        alice.put(&format!("rooms/{room}/send/m.room.message/t"), thread).await;
        let filter = urlencoded("&filter={\"room\":{\"timeline\":{\"unread_thread_notifications\":true}}}");
        let answer = bob.sync_with(&filter).await;
        let joined = &answer["rooms"]["join"][&room];
        assert_eq!(joined["unread_notifications"]["notification_count"], 0);
        assert_eq!(joined["unread_thread_notifications"][&first]["notification_count"], 1);
        assert_eq!(counts(&bob.sync().await), (Some(1), Some(0)));

        let listed = server.get("/_matrix/client/v3/notifications?limit=3", Some(&bob.token)).await;
        let read: Vec<_> =
            listed["notifications"].as_array().expect("a list").iter().map(|n| n["read"].clone()).collect();
        assert_eq!(read, [json!(false), json!(true), json!(true)]);
    })
    .await;
}

#[tokio::test]
async fn private_receipts_stay_private_and_typing_is_heard_by_others() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let bob = Client::new(&server, "bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let event = alice.say(&room, "one").await;
        alice.sync().await;
        bob.post(&format!("rooms/{room}/receipt/m.read.private/{event}"), json!({})).await;
        assert_eq!(alice.sync().await["rooms"], Value::Null);
        let both = json!({ "m.read": event, "m.fully_read": event });
        bob.post(&format!("rooms/{room}/read_markers"), both).await;
        let ephemeral = &alice.sync().await["rooms"]["join"][&room]["ephemeral"]["events"];
        assert!(ephemeral[0]["content"][&event]["m.read"][&bob.user_id]["ts"].is_u64(), "{ephemeral}");

        bob.put(&format!("rooms/{room}/typing/{}", bob.user_id), json!({ "typing": true, "timeout": 9000 })).await;
        let ephemeral = &alice.sync().await["rooms"]["join"][&room]["ephemeral"]["events"];
        assert_eq!(*ephemeral, json!([{ "type": "m.typing", "content": { "user_ids": [bob.user_id] } }]));
        bob.put(&format!("rooms/{room}/typing/{}", bob.user_id), json!({ "typing": false })).await;
        let ephemeral = &alice.sync().await["rooms"]["join"][&room]["ephemeral"]["events"];
        assert_eq!(ephemeral[0]["content"]["user_ids"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn messages_to_devices_come_once_in_order_and_survive_a_lost_answer() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let bob = Client::new(&server, "bob").await;
        alice.sync().await;
        for number in 0..130 {
            let messages = json!({ "messages": { &alice.user_id: { "*": { "n": number } } } });
            bob.put(&format!("sendToDevice/m.test/{number}"), messages.clone()).await;
            bob.put(&format!("sendToDevice/m.test/{number}"), messages).await;
        }
        let numbers = |answer: &Value| -> Vec<u64> {
            let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
            events.iter().filter_map(|event| event["content"]["n"].as_u64()).collect()
        };
        assert_eq!(numbers(&alice.sync_with("").await), (0..100).collect::<Vec<_>>());
        assert_eq!(numbers(&alice.sync().await), (0..100).collect::<Vec<_>>(), "the first answer was lost");
        assert_eq!(numbers(&alice.sync().await), (100..130).collect::<Vec<_>>());
        assert_eq!(numbers(&alice.sync().await), [0; 0]);
    })
    .await;
}

#[tokio::test]
async fn account_data_tags_and_push_rules_reach_the_users_other_devices() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let room = alice.create_room(json!({})).await;
        alice.sync().await;
        let user = alice.user_id.clone();
        alice.put(&format!("user/{user}/account_data/org.test"), json!({ "a": 1 })).await;
        alice.put(&format!("user/{user}/rooms/{room}/tags/m.favourite"), json!({ "order": 0.5 })).await;
        let rule = json!({ "pattern": "tea", "actions": ["notify"] });
        alice.put("pushrules/global/content/tea", rule).await;
        let answer = alice.sync().await;
        assert_eq!(types(&answer["account_data"]["events"]), ["m.push_rules", "org.test"]);
        let of_room = &answer["rooms"]["join"][&room]["account_data"]["events"];
        assert_eq!(of_room[0]["content"]["tags"]["m.favourite"]["order"], 0.5);
        let enabled = server.get("/_matrix/client/v3/pushrules/global/content/tea/enabled", Some(&alice.token)).await;
        assert_eq!(enabled, json!({ "enabled": true }));
        let path = format!("/_matrix/client/v3/user/{user}/account_data/org.test");
        assert_eq!(server.get(&path, Some(&alice.token)).await, json!({ "a": 1 }));
    })
    .await;
}

#[tokio::test]
async fn what_ignored_people_say_is_left_out() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let bob = Client::new(&server, "bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let ignored = json!({ "ignored_users": { &bob.user_id: {} } });
        alice.put(&format!("user/{}/account_data/m.ignored_user_list", alice.user_id), ignored).await;
        alice.sync().await;
        bob.say(&room, "noise").await;
        assert_eq!(alice.sync().await["rooms"], Value::Null);
        let other = bob.create_room(json!({ "invite": [alice.user_id] })).await;
        assert_eq!(alice.sync().await["rooms"]["invite"][&other], Value::Null);
    })
    .await;
}

#[tokio::test]
async fn filters_choose_rooms_types_and_senders() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let bob = Client::new(&server, "bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let other = alice.create_room(json!({})).await;
        bob.join(&room).await;
        alice.sync().await;
        alice.say(&room, "mine").await;
        alice.say(&other, "elsewhere").await;
        bob.say(&room, "yours").await;

        let filter = json!({ "room": { "not_rooms": [other], "timeline": { "senders": [bob.user_id] } } });
        let stored = alice.post(&format!("user/{}/filter", alice.user_id), filter.clone()).await;
        let again = alice.post(&format!("user/{}/filter", alice.user_id), filter).await;
        assert_eq!(stored, again);
        let filter_id = stored["filter_id"].as_str().expect("a filter has an id");
        let answer = alice.sync_with(&format!("&filter={filter_id}")).await;
        assert_eq!(texts(&answer["rooms"]["join"][&room]), ["yours"]);
        assert_eq!(answer["rooms"]["join"][&other], Value::Null);

        let lazy = urlencoded("&filter={\"room\":{\"state\":{\"lazy_load_members\":true},\"timeline\":{\"limit\":1}}}");
        alice.since.clear();
        let answer = alice.sync_with(&lazy).await;
        let members = answer["rooms"]["join"][&room]["state"]["events"].as_array().cloned().unwrap_or_default();
        let mut members: Vec<_> =
            members.iter().filter(|e| e["type"] == "m.room.member").map(|e| e["state_key"].clone()).collect();
        members.sort_by_key(|member| member.to_string());
        assert_eq!(members, [json!(alice.user_id), json!(bob.user_id)]);
    })
    .await;
}

#[tokio::test]
async fn presence_is_heard_by_those_who_share_a_room() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let bob = Client::new(&server, "bob").await;
        let carol = Client::new(&server, "carol").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        alice.sync().await;
        alice.sync().await;
        bob.put(&format!("presence/{}/status", bob.user_id), json!({ "presence": "unavailable", "status_msg": "tea" }))
            .await;
        carol.put(&format!("presence/{}/status", carol.user_id), json!({ "presence": "online" })).await;
        let heard = alice.sync().await;
        let events = heard["presence"]["events"].as_array().cloned().unwrap_or_default();
        assert_eq!(events.len(), 1, "{heard}");
        assert_eq!(events[0]["sender"], json!(bob.user_id));
        assert_eq!(events[0]["content"]["status_msg"], "tea");
        let path = format!("/_matrix/client/v3/presence/{}/status", bob.user_id);
        assert_eq!(server.get(&path, Some(&alice.token)).await["presence"], "unavailable");
        assert_eq!(refusal(server.ask(Method::GET, &path, Some(&carol.token), "").await).0, 403);
    })
    .await;
}

#[tokio::test]
async fn a_token_that_we_never_gave_is_refused() {
    with_server(async |server| {
        let alice = Client::new(&server, "alice").await;
        for token in ["nonsense", "s999999999", "s-1", "t5"] {
            let path = format!("/_matrix/client/v3/sync?since={token}");
            let refused = refusal(server.ask(Method::GET, &path, Some(&alice.token), "").await);
            assert_eq!(refused, (400, "M_INVALID_PARAM".to_owned()), "{token}");
        }
        let path = "/_matrix/client/v3/sync?filter=77";
        assert_eq!(refusal(server.ask(Method::GET, path, Some(&alice.token), "").await).0, 400);
    })
    .await;
}

#[tokio::test]
async fn a_long_poll_ends_as_soon_as_something_happens() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let bob = Client::new(&server, "bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        alice.sync().await;
        alice.sync().await;
        let waits = alice.sync_with("&timeout=30000");
        let speaks = async {
            // Alice waits by now, or will see it at once: either way she hears of it.
            tokio::task::yield_now().await;
            bob.say(&room, "hello").await;
        };
        let (answer, ()) = tokio::join!(waits, speaks);
        assert_eq!(texts(&answer["rooms"]["join"][&room]), ["hello"]);
    })
    .await;
}

#[tokio::test]
async fn a_redacted_message_is_told_without_its_content() {
    with_server(async |server| {
        let mut alice = Client::new(&server, "alice").await;
        let room = alice.create_room(json!({})).await;
        let event = alice.say(&room, "oops").await;
        alice.put(&format!("rooms/{room}/redact/{event}/1"), json!({ "reason": "typo" })).await;
        let answer = alice.sync().await;
        let events = answer["rooms"]["join"][&room]["timeline"]["events"].as_array().cloned().unwrap_or_default();
        let redacted = events.iter().find(|e| e["event_id"] == json!(event)).expect("it is still there");
        assert_eq!(redacted["content"], json!({}));
        assert_eq!(redacted["unsigned"]["redacted_because"]["content"]["reason"], "typo");
        assert_eq!(redacted["unsigned"]["redacted_by"], redacted["unsigned"]["redacted_because"]["event_id"]);
        assert_eq!(events.last().map(|e| e["redacts"].clone()), Some(json!(event)));
    })
    .await;
}

fn urlencoded(query: &str) -> String {
    query.replace('{', "%7B").replace('}', "%7D").replace('"', "%22")
}
