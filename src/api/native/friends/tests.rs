//! Friends on one server, through the router.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::testing::{Server, with_server};

const REQUESTS: &str = "/api/v1/friends/requests";
const FRIENDS: &str = "/api/v1/friends";

/// Somebody who asks.
struct Person<'a> {
    server: &'a Server,
    token: String,
}

impl<'a> Person<'a> {
    async fn new(server: &'a Server, name: &str) -> Self {
        Self { server, token: server.register(name).await.0 }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.server.ask(method, path, Some(&self.token), body).await;
        (status.as_u16(), answer)
    }

    async fn get(&self, path: &str) -> Value {
        self.server.get(path, Some(&self.token)).await
    }

    async fn befriend(&self, to: &str) -> Value {
        self.server.post(REQUESTS, Some(&self.token), json!({ "to": to, "message": "hello" })).await
    }

    /// Says `accept` or `refuse`.
    async fn say(&self, request: &Value, word: &str) -> (u16, Value) {
        let id = request["id"].as_str().expect("a request has an id");
        self.ask(Method::POST, &format!("{REQUESTS}/{id}/{word}"), Value::Null).await
    }

    /// The states of the requests, the latest first.
    async fn states(&self, query: &str) -> Vec<(String, String)> {
        let page = self.get(&format!("{REQUESTS}?{query}")).await;
        let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
        let list = page["requests"].as_array().cloned().unwrap_or_default();
        list.iter().map(|one| (text(one, "address"), text(one, "state"))).collect()
    }

    /// Friends and strangers since `since`, and the version.
    async fn changes(&self, since: i64) -> (Vec<String>, Vec<String>, i64) {
        let page = self.get(&format!("{FRIENDS}?since={since}")).await;
        let names = |field: &str| {
            let list = page[field].as_array().cloned().unwrap_or_default();
            list.iter().map(|one| one["address"].as_str().unwrap_or_default().to_owned()).collect()
        };
        (names("friends"), names("removed"), page["version"].as_i64().expect("there is a version"))
    }
}

fn code((status, problem): (u16, Value)) -> (u16, String) {
    (status, problem["code"].as_str().unwrap_or_default().to_owned())
}

fn pair(address: &str, state: &str) -> Vec<(String, String)> {
    vec![(address.to_owned(), state.to_owned())]
}

#[tokio::test]
async fn who_is_asked_and_says_yes_is_a_friend_on_both_sides() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let (_, _, before) = alice.changes(0).await;
        let request = alice.befriend("bob@a.test").await;
        assert_eq!((&request["direction"], &request["state"]), (&json!("out"), &json!("pending")), "{request}");
        let again = alice.befriend("@bob:a.test").await;
        assert_eq!(again["id"], request["id"], "asking again is asking once");
        let page = bob.get(&format!("{REQUESTS}?direction=in")).await;
        let got = &page["requests"][0];
        let shown = json!([got["id"], got["address"], got["display_name"], got["message"], got["direction"]]);
        assert_eq!(shown, json!([request["id"], "alice@a.test", "alice", "hello", "in"]));
        assert!(bob.states("direction=out").await.is_empty());

        // Matrix clients see an invitation to a direct room, with the same words.
        let sync = bob.get("/_matrix/client/v3/sync").await;
        let room = request["conversation_id"].as_str().expect("it has a room");
        let shown = sync["rooms"]["invite"][room]["invite_state"]["events"].as_array().cloned().unwrap_or_default();
        let own = shown.iter().find(|event| event["state_key"] == "@bob:a.test").expect("his membership");
        assert_eq!((&own["content"]["reason"], &own["content"]["is_direct"]), (&json!("hello"), &json!(true)));

        assert_eq!(code(alice.say(&request, "accept").await), (403, "forbidden".into()));
        let (status, accepted) = bob.say(&request, "accept").await;
        assert_eq!((status, &accepted["state"]), (200, &json!("accepted")), "{accepted}");
        assert_eq!(bob.say(&request, "accept").await.0, 200, "once more does nothing");
        assert_eq!(code(bob.say(&request, "refuse").await), (409, "request_closed".into()));
        let expected = json!({
            "user_id": "@bob:a.test", "address": "bob@a.test", "conversation_id": room, "display_name": "bob",
            "avatar_url": null, "remark": null, "tags": [], "blocked": false,
        });
        assert_eq!(alice.get(FRIENDS).await["friends"], json!([expected]));
        assert_eq!(alice.changes(before).await.0, ["bob@a.test"]);
        assert_eq!(bob.changes(0).await.0, ["alice@a.test"]);
        for (one, name, other) in [(&alice, "alice", "@bob:a.test"), (&bob, "bob", "@alice:a.test")] {
            let path = format!("/_matrix/client/v3/user/@{name}:a.test/account_data/m.direct");
            assert_eq!(one.get(&path).await, json!({ other: [room] }), "Matrix clients show it as a direct chat");
        }
        let refused = alice.ask(Method::POST, REQUESTS, json!({ "to": "bob@a.test" })).await;
        assert_eq!(code(refused), (409, "already_friends".into()));
    })
    .await;
}

#[tokio::test]
async fn requests_are_refused_blocked_withdrawn_and_made_again() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let first = alice.befriend("bob@a.test").await;
        assert_eq!(bob.say(&first, "refuse").await.0, 204);
        assert_eq!(bob.say(&first, "refuse").await.0, 204);
        assert_eq!(code(bob.say(&first, "accept").await), (409, "request_closed".into()));
        assert!(alice.states("").await.is_empty() && bob.states("").await.is_empty());
        assert_eq!(alice.states("state=all").await, pair("bob@a.test", "refused"));

        let second = alice.befriend("bob@a.test").await;
        assert_ne!(second["id"], first["id"]);
        assert_eq!(second["conversation_id"], first["conversation_id"], "the room that she is still in is used again");
        let path = format!("{REQUESTS}/{}", second["id"].as_str().expect("an id"));
        assert_eq!(code(bob.ask(Method::DELETE, &path, Value::Null).await), (403, "forbidden".into()));
        assert_eq!(alice.ask(Method::DELETE, &path, Value::Null).await.0, 204);
        assert_eq!(alice.ask(Method::DELETE, &path, Value::Null).await.0, 204);
        assert_eq!(bob.states("state=all").await, pair("alice@a.test", "withdrawn"));
        let joined = alice.get("/_matrix/client/v3/joined_rooms").await;
        assert_eq!(joined, json!({ "joined_rooms": [] }), "nobody is left alone in a room");
        let direct = alice.get("/_matrix/client/v3/user/@alice:a.test/account_data/m.direct").await;
        assert_eq!(direct, json!({}));

        let third = alice.befriend("bob@a.test").await;
        let id = third["id"].as_str().expect("an id");
        let (status, _) = bob.ask(Method::POST, &format!("{REQUESTS}/{id}/refuse"), json!({ "block": true })).await;
        assert_eq!(status, 204);
        assert_eq!(bob.get("/api/v1/users/me/blocked").await["blocked"][0]["address"], "alice@a.test");
        alice.befriend("bob@a.test").await;
        assert!(bob.states("").await.is_empty(), "he hears no more of her");
        bob.ask(Method::DELETE, "/api/v1/users/me/blocked/alice@a.test", Value::Null).await;
        assert_eq!(bob.states("").await, pair("alice@a.test", "pending"));
    })
    .await;
}

#[tokio::test]
async fn friends_are_noted_removed_and_taken_back() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        let request = alice.befriend("bob@a.test").await;
        bob.say(&request, "accept").await;
        let (_, _, version) = alice.changes(0).await;
        let path = format!("{FRIENDS}/bob@a.test");
        let note = json!({ "remark": " Bobby ", "groups": ["tea", "work", "tea"] });
        let (status, noted) = alice.ask(Method::PATCH, &path, note).await;
        assert_eq!(
            (status, &noted["remark"], &noted["tags"]),
            (200, &json!("Bobby"), &json!(["tea", "work"])),
            "{noted}"
        );
        let (now, gone, version) = {
            let changed = alice.changes(version).await;
            assert!(changed.2 > version);
            changed
        };
        assert_eq!((now, gone), (vec!["bob@a.test".to_owned()], Vec::new()));
        let (now, gone, version) = alice.changes(version).await;
        assert!(now.is_empty() && gone.is_empty(), "nothing changed since");
        for wrong in [json!({ "remark": "x".repeat(101) }), json!({ "tags": [""] }), json!({ "colour": "red" })] {
            assert_eq!(code(alice.ask(Method::PATCH, &path, wrong).await), (400, "invalid".into()));
        }
        // A new name is a change.
        bob.ask(Method::PATCH, "/api/v1/users/me", json!({ "display_name": "Robert" })).await;
        let (now, _, version) = alice.changes(version).await;
        assert_eq!(now, ["bob@a.test"]);
        assert_eq!(alice.get(&path).await["display_name"], "Robert");

        // One-sided: he isn't told.
        assert_eq!(alice.ask(Method::DELETE, &path, Value::Null).await.0, 204);
        assert_eq!(code(alice.ask(Method::DELETE, &path, Value::Null).await), (404, "not_friends".into()));
        let (now, gone, version) = alice.changes(version).await;
        assert_eq!((now, gone), (Vec::new(), vec!["bob@a.test".to_owned()]));
        assert_eq!(bob.changes(0).await.0, ["alice@a.test"]);
        // Who has removed somebody that still counts them as a friend need not ask again.
        assert_eq!(alice.befriend("bob@a.test").await["state"], "accepted");
        let (now, _, version) = alice.changes(version).await;
        assert_eq!(now, ["bob@a.test"]);
        assert_eq!(alice.get(&path).await["remark"], "Bobby", "what she noted is still there");

        // Both: he must be asked.
        let (_, _, his) = bob.changes(0).await;
        assert_eq!(alice.ask(Method::DELETE, &format!("{path}?mutual=true"), Value::Null).await.0, 204);
        assert_eq!(alice.changes(version).await.1, ["bob@a.test"]);
        assert_eq!(bob.changes(his).await.1, ["alice@a.test"]);
        assert_eq!(bob.states("state=all").await, pair("alice@a.test", "ended"));
        // He asks her, and as she asks him in turn, that is a yes.
        let his = bob.befriend("alice@a.test").await;
        assert_eq!(his["state"], "pending");
        let hers = alice.befriend("bob@a.test").await;
        assert_eq!((&hers["id"], &hers["state"]), (&his["id"], &json!("accepted")));
        assert_eq!(alice.get(FRIENDS).await["friends"].as_array().map(Vec::len), Some(1));
    })
    .await;
}

#[tokio::test]
async fn who_removed_a_friend_who_did_not_is_asked_again() {
    with_server(async |server| {
        let (alice, bob) = (Person::new(&server, "alice").await, Person::new(&server, "bob").await);
        bob.say(&alice.befriend("bob@a.test").await, "accept").await;
        bob.ask(Method::DELETE, &format!("{FRIENDS}/alice@a.test"), Value::Null).await;
        let request = alice.befriend("bob@a.test").await;
        assert_eq!(request["state"], "pending", "{request}");
        assert_eq!(bob.states("").await, pair("alice@a.test", "pending"));
        bob.say(&request, "accept").await;
        for (one, other) in [(&alice, "bob@a.test"), (&bob, "alice@a.test")] {
            let friends = one.get(FRIENDS).await["friends"].clone();
            assert_eq!(friends.as_array().map(Vec::len), Some(1), "{friends}");
            assert_eq!(
                (&friends[0]["address"], &friends[0]["conversation_id"]),
                (&json!(other), &request["conversation_id"])
            );
        }
    })
    .await;
}

#[tokio::test]
async fn what_can_not_be_is_refused_with_a_code() {
    with_server(async |server| {
        let alice = Person::new(&server, "alice").await;
        let ask = async |body: Value| code(alice.ask(Method::POST, REQUESTS, body).await);
        assert_eq!(ask(json!({ "to": "alice@a.test" })).await, (400, "invalid".into()));
        assert_eq!(ask(json!({ "to": "nobody@a.test" })).await, (404, "not_found".into()));
        assert_eq!(ask(json!({ "to": "nobody" })).await, (400, "invalid".into()));
        assert_eq!(ask(json!({ "to": "bob@a.test", "message": "x".repeat(501) })).await, (400, "invalid".into()));
        // This server talks with no other, and leaves no room behind that came to nothing.
        assert_eq!(ask(json!({ "to": "bob@b.test" })).await, (403, "forbidden".into()));
        assert_eq!(alice.get("/_matrix/client/v3/joined_rooms").await, json!({ "joined_rooms": [] }));
        for (method, path) in [
            (Method::GET, "$nothing"),
            (Method::DELETE, "$nothing"),
            (Method::POST, "$nothing/accept"),
            (Method::POST, "$nothing/refuse"),
        ] {
            let refused = alice.ask(method, &format!("{REQUESTS}/{path}"), Value::Null).await;
            assert_eq!(code(refused), (404, "not_found".into()), "{path}");
        }
        assert_eq!(code(alice.ask(Method::GET, &format!("{REQUESTS}?from=x"), Value::Null).await).0, 400);
        assert_eq!(code(alice.ask(Method::GET, &format!("{FRIENDS}/bob@b.test"), Value::Null).await).1, "not_friends");
        assert_eq!(server.ask(Method::GET, FRIENDS, None, "").await.0, StatusCode::UNAUTHORIZED);
    })
    .await;
}

#[tokio::test]
async fn pages_lead_to_each_other() {
    with_server(async |server| {
        let alice = Person::new(&server, "alice").await;
        let names = ["bob", "carol", "dave"];
        for name in names {
            let other = Person::new(&server, name).await;
            other.befriend("alice@a.test").await;
        }
        let first = alice.get(&format!("{REQUESTS}?direction=in&limit=2")).await;
        let next = first["next"].as_str().expect("there is more");
        let second = alice.get(&format!("{REQUESTS}?direction=in&limit=2&from={next}")).await;
        let requests = [&first, &second].map(|page| page["requests"].as_array().cloned().unwrap_or_default()).concat();
        let asked: Vec<_> = requests.iter().map(|one| one["display_name"].as_str().unwrap_or_default()).collect();
        assert_eq!(asked, ["dave", "carol", "bob"]);
        for request in &requests {
            alice.say(request, "accept").await;
        }
        let (mut version, mut found) = (0, Vec::new());
        loop {
            let page = alice.get(&format!("{FRIENDS}?limit=1&since={version}")).await;
            version = page["version"].as_i64().expect("there is a version");
            found.extend(page["friends"].as_array().cloned().unwrap_or_default());
            if page["has_more"] == false {
                break;
            }
        }
        let found: Vec<_> = found.iter().map(|one| one["display_name"].as_str().unwrap_or_default()).collect();
        assert_eq!(found, ["dave", "carol", "bob"]);
    })
    .await;
}
