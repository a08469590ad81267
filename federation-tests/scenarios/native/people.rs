//! People on the native API: themselves, whom they block, and how they become friends, on one server and across two domains.

use federation_tests::{Client, Engine, Network, Server, enc, eventually, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};

const ME: &str = "/api/v1/users/me";
const FRIENDS: &str = "/api/v1/friends";
const REQUESTS: &str = "/api/v1/friends/requests";

async fn patch(client: &Client, path: &str, change: Value) -> Value {
    client.attempt(Method::PATCH, path, Some(&change)).await.expect("the server answers").ok()
}

/// Asks for friendship.
async fn befriend(client: &Client, to: &str) -> Value {
    client.post(REQUESTS, json!({ "to": to, "message": "it's me" })).await.ok()
}

fn id_of(request: &Value) -> &str {
    request["id"].as_str().unwrap_or_else(|| panic!("no id in {request}"))
}

/// Says `accept` or `refuse` to a request.
async fn say(client: &Client, request: &Value, word: &str) {
    let answer = client.post(&format!("{REQUESTS}/{}/{word}", id_of(request)), json!({})).await;
    assert!(matches!(answer.status, 200 | 204), "{word}: {}", answer.text);
}

/// Waits until a request to the client waits for an answer, and answers it.
async fn is_asked_by(client: &Client, address: &str) -> Value {
    eventually(&format!("{} is asked by {address}", client.user_id), async || {
        let page = client.get(&format!("{REQUESTS}?direction=in")).await.ok();
        page["requests"].as_array()?.iter().find(|one| one["address"] == address).cloned()
    })
    .await
}

/// Waits until a request has become `state` as the client sees it.
async fn becomes(client: &Client, request: &Value, state: &str) {
    eventually(&format!("{} sees that a request is {state}", client.user_id), async || {
        let answer = client.get(&format!("{REQUESTS}/{}", id_of(request))).await;
        (answer.body["state"] == state).then_some(())
    })
    .await;
}

/// Waits until somebody is a friend of the client, and answers the friend.
async fn has_friend(client: &Client, address: &str) -> Value {
    eventually(&format!("{} has the friend {address}", client.user_id), async || {
        let answer = client.get(&format!("{FRIENDS}/{address}")).await;
        (answer.status == 200).then_some(answer.body)
    })
    .await
}

/// What changed among the client's friends since `version`, which moves on: friends, and who is none any more.
async fn changes(client: &Client, version: &mut i64) -> (Vec<String>, Vec<String>) {
    let page = client.get(&format!("{FRIENDS}?since={version}")).await.ok();
    *version = page["version"].as_i64().unwrap_or_else(|| panic!("no version in {page}"));
    let names = |field: &str| {
        let list = page[field].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|one| one["address"].as_str().map(str::to_owned)).collect()
    };
    (names("friends"), names("removed"))
}

/// Two domains, Alice in one and Bob in the other.
async fn two_domains(engine: &Engine) -> (Network, [Server; 2], Client, Client) {
    let (network, servers) = Network::start(engine, ["a.test", "b.test"]).await;
    let (alice, bob) = (servers[0].register_with_secret("alice").await, servers[1].register_with_secret("bob").await);
    (network, servers, alice, bob)
}

#[tokio::test]
async fn people_change_what_others_see_of_them_and_block_whom_they_like() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let (alice, bob) = (server.register_with_secret("alice").await, server.register_with_secret("bob").await);
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let change =
            json!({ "display_name": "Alice A.", "status_msg": "at tea", "fields": { "m.tz": "Europe/Paris" } });
        let me = patch(&alice, ME, change).await;
        assert_eq!((&me["display_name"], &me["status_msg"]), (&json!("Alice A."), &json!("at tea")), "{me}");
        assert_eq!(bob.state(&room, "m.room.member", &alice.user_id).await.ok()["displayname"], "Alice A.");
        let status = format!("presence/{}/status", enc(&alice.user_id));
        assert_eq!(bob.get(&status).await.ok()["status_msg"], "at tea");
        alice.put("/api/v1/users/me/presence", json!({ "status": "busy" })).await;
        assert_eq!(bob.get(&status).await.ok()["presence"], "unavailable");

        // What somebody blocked says doesn't come, as for any Matrix client that ignores somebody.
        let mut since = bob.now().await;
        let blocked = "/api/v1/users/me/blocked/alice@a.test";
        assert_eq!(bob.put(blocked, json!({})).await.status, 204);
        server.restart().await;
        bob.get(blocked).await.ok();
        alice.say(&room, "can you hear me?").await;
        assert_eq!(bob.delete(blocked).await.status, 204);
        let heard = alice.say(&room, "and now?").await;
        let answer = bob.sync_until_event(&mut since, &room, &heard).await;
        assert_eq!(answer["content"]["body"], "and now?");
        bob.get(blocked).await.problem(404, "not_found");
    })
    .await;
}

#[tokio::test]
async fn somebody_of_another_domain_is_found_asked_and_becomes_a_friend() {
    on_each_engine(async |engine| {
        let (_network, mut servers, alice, bob) = two_domains(&engine).await;
        let found = alice.get("/api/v1/users/bob@b.test").await.ok();
        assert_eq!(found["user_id"], bob.user_id.as_str());
        let request = befriend(&alice, "bob@b.test").await;
        assert_eq!(request["state"], "pending", "{request}");
        let asked = is_asked_by(&bob, "alice@a.test").await;
        let shown = json!([asked["id"], asked["message"], asked["display_name"], asked["conversation_id"]]);
        assert_eq!(shown, json!([request["id"], "it's me", "alice", request["conversation_id"]]));

        // Neither of the two servers has it in memory only.
        for server in &mut servers {
            server.restart().await;
        }
        assert_eq!(befriend(&alice, "bob@b.test").await["id"], request["id"], "asking again is asking once");
        say(&bob, &asked, "accept").await;
        let (hers, his) = (has_friend(&alice, "bob@b.test").await, has_friend(&bob, "alice@a.test").await);
        assert_eq!(hers["conversation_id"], his["conversation_id"]);
        becomes(&alice, &request, "accepted").await;
        becomes(&bob, &request, "accepted").await;
        alice.post(REQUESTS, json!({ "to": "bob@b.test" })).await.problem(409, "already_friends");

        // They talk in the room that Matrix clients show as a direct chat.
        let room = hers["conversation_id"].as_str().expect("there is a room").to_owned();
        let event = alice.say(&room, "there you are").await;
        eventually("Bob reads what Alice says", async || {
            (bob.get(&format!("rooms/{room}/event/{event}")).await.status == 200).then_some(())
        })
        .await;
        for (one, other) in [(&alice, &bob), (&bob, &alice)] {
            let direct = one.get(&format!("user/{}/account_data/m.direct", enc(&one.user_id))).await.ok();
            assert_eq!(direct, json!({ &other.user_id: [room] }));
        }

        // What Alice notes is hers; what Bob calls himself is news to her.
        let (mut of_alice, mut of_bob) = (0, 0);
        assert_eq!(changes(&alice, &mut of_alice).await.0, ["bob@b.test"]);
        changes(&bob, &mut of_bob).await;
        patch(&alice, &format!("{FRIENDS}/bob@b.test"), json!({ "remark": "Bobby", "tags": ["tea"] })).await;
        assert_eq!(changes(&alice, &mut of_alice).await, (vec!["bob@b.test".to_owned()], Vec::new()));
        assert_eq!(changes(&bob, &mut of_bob).await, (Vec::new(), Vec::new()));
        patch(&bob, ME, json!({ "display_name": "Robert" })).await;
        eventually("Alice hears of Bob's new name", async || {
            (has_friend(&alice, "bob@b.test").await["display_name"] == "Robert").then_some(())
        })
        .await;
        assert_eq!(changes(&alice, &mut of_alice).await.0, ["bob@b.test"]);

        // Bob ends it for both.
        changes(&bob, &mut of_bob).await;
        assert_eq!(bob.delete(&format!("{FRIENDS}/alice@a.test?mutual=true")).await.status, 204);
        assert_eq!(changes(&bob, &mut of_bob).await.1, ["alice@a.test"]);
        eventually("Alice has no friend any more", async || {
            (alice.get(&format!("{FRIENDS}/bob@b.test")).await.status == 404).then_some(())
        })
        .await;
        assert_eq!(changes(&alice, &mut of_alice).await.1, ["bob@b.test"]);
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_or_taken_back_is_so_in_both_domains() {
    on_each_engine(async |engine| {
        let (_network, _servers, alice, bob) = two_domains(&engine).await;
        let request = befriend(&alice, "bob@b.test").await;
        say(&bob, &is_asked_by(&bob, "alice@a.test").await, "refuse").await;
        becomes(&alice, &request, "refused").await;
        becomes(&bob, &request, "refused").await;

        let request = befriend(&alice, "bob@b.test").await;
        let asked = is_asked_by(&bob, "alice@a.test").await;
        assert_eq!(alice.delete(&format!("{REQUESTS}/{}", id_of(&request))).await.status, 204);
        becomes(&bob, &asked, "withdrawn").await;
        let room = request["conversation_id"].as_str().expect("there is a room");
        let sync = bob.sync(None).await;
        assert!(sync["rooms"]["invite"].get(room).is_none(), "the invitation is still there: {sync}");
        let answer = bob.post(&format!("{REQUESTS}/{}/accept", id_of(&asked)), json!({})).await;
        answer.problem(409, "request_closed");

        // He blocks her with his next no, and hears no more of her.
        befriend(&alice, "bob@b.test").await;
        let asked = is_asked_by(&bob, "alice@a.test").await;
        let answer = bob.post(&format!("{REQUESTS}/{}/refuse", id_of(&asked)), json!({ "block": true })).await;
        assert_eq!(answer.status, 204, "{}", answer.text);
        becomes(&alice, &asked, "refused").await;
        let request = befriend(&alice, "bob@b.test").await;
        becomes(&bob, &request, "pending").await;
        let page = bob.get(&format!("{REQUESTS}?direction=in")).await.ok();
        assert_eq!(page["requests"], json!([]), "he has blocked her");
    })
    .await;
}

#[tokio::test]
async fn who_has_only_a_matrix_client_answers_by_joining_or_declining() {
    on_each_engine(async |engine| {
        let (_network, servers, alice, bob) = two_domains(&engine).await;
        let carol = servers[1].register_with_secret("carol").await;
        let mut rooms = Vec::new();
        for (other, address) in [(&bob, "bob@b.test"), (&carol, "carol@b.test")] {
            let request = befriend(&alice, address).await;
            let room = request["conversation_id"].as_str().expect("there is a room").to_owned();
            let shown = eventually("the invitation is there", async || {
                other.sync(None).await["rooms"]["invite"][&room]["invite_state"]["events"].as_array().cloned()
            })
            .await;
            let own = shown.iter().find(|event| event["state_key"] == other.user_id.as_str()).expect("a membership");
            assert_eq!((&own["content"]["reason"], &own["content"]["is_direct"]), (&json!("it's me"), &json!(true)));
            rooms.push((request, room));
        }
        bob.join(&rooms[0].1).await;
        carol.leave(&rooms[1].1).await;
        has_friend(&alice, "bob@b.test").await;
        has_friend(&bob, "alice@a.test").await;
        becomes(&alice, &rooms[1].0, "refused").await;
        alice.get(&format!("{FRIENDS}/carol@b.test")).await.problem(404, "not_friends");
    })
    .await;
}

#[tokio::test]
async fn where_both_ask_at_once_one_answer_is_enough() {
    on_each_engine(async |engine| {
        let (_network, _servers, alice, bob) = two_domains(&engine).await;
        let (hers, his) = tokio::join!(befriend(&alice, "bob@b.test"), befriend(&bob, "alice@a.test"));
        // Who came second has said yes by it, unless the two crossed on their way: then one of them says yes now.
        if hers["state"] == "pending" && his["state"] == "pending" {
            say(&alice, &is_asked_by(&alice, "bob@b.test").await, "accept").await;
        }
        let (hers, his) = (has_friend(&alice, "bob@b.test").await, has_friend(&bob, "alice@a.test").await);
        assert_eq!(hers["conversation_id"], his["conversation_id"]);
        for one in [&alice, &bob] {
            eventually("nobody is asked any more", async || {
                (one.get(REQUESTS).await.ok()["requests"] == json!([])).then_some(())
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn of_a_restricted_server_only_friends_may_invite() {
    let (_network, servers, alice, bob) = two_domains(&Engine::Sqlite).await;
    let carol = servers[1].register_with_secret("carol").await;
    befriend(&alice, "bob@b.test").await;
    say(&bob, &is_asked_by(&bob, "alice@a.test").await, "accept").await;
    has_friend(&alice, "bob@b.test").await;
    // That they talk directly counts by itself; here only that they are friends is to count.
    alice.put(&format!("user/{}/account_data/m.direct", enc(&alice.user_id)), json!({})).await.ok();
    let admin = servers[0].admin().await;
    patch(&admin, "/api/v1/admin/peers/b.test", json!({ "level": "restricted", "reason": "a story" })).await;
    let invite = async |from: &Client| {
        let room = from.create_room(json!({ "preset": "private_chat" })).await;
        from.post(&format!("rooms/{room}/invite"), json!({ "user_id": alice.user_id })).await.status
    };
    assert_eq!(invite(&bob).await, 200);
    assert_eq!(invite(&carol).await, 403);
    // Who is removed is none any more.
    assert_eq!(alice.delete(&format!("{FRIENDS}/bob@b.test")).await.status, 204);
    assert_eq!(invite(&bob).await, 403);
}
