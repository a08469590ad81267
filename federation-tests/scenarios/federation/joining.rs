//! Ways into a room of another domain: aliases, other members' servers, knocks, and rooms that vouch for each other.

use federation_tests::{Client, Network, enc, eventually, on_each_engine, via_query};
use serde_json::json;

use super::{Two, agree, arrives, becomes, invitation, share_history, three_with_a_notary};

#[tokio::test]
async fn a_public_room_of_another_domain_is_joined_by_its_alias() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        for version in ["10", "11", "12"] {
            let name = format!("tea{version}");
            let request = json!({ "preset": "public_chat", "room_alias_name": name, "room_version": version });
            let room = two.alice.create_room(request).await;
            let alias = format!("#{name}:a.test");
            let found = two.bob.get(&format!("directory/room/{}", enc(&alias))).await.ok();
            assert_eq!(found["room_id"], room.as_str(), "{found}");
            let servers = found["servers"].as_array().expect("a list of servers");
            assert!(servers.contains(&json!("a.test")), "{found}");

            two.bob.join_via(&alias, &[]).await;
            let event_id = two.alice.say(&room, "welcome").await;
            arrives(&two.bob, &room, &event_id).await;
            agree(&room, &[&two.alice, &two.bob]).await;
        }
        two.bob.get(&format!("directory/room/{}", enc("#nothing:a.test"))).await.refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn the_public_rooms_of_another_domain_are_listed() {
    let two = Two::meet_mixed().await;
    let request = json!({ "preset": "public_chat", "visibility": "public", "name": "The tea room", "topic": "tea" });
    let room = two.alice.create_room(request).await;
    let listed = two.bob.get("publicRooms?server=a.test").await.ok();
    assert_eq!(listed["chunk"][0]["room_id"], room.as_str(), "{listed}");
    assert_eq!(listed["chunk"][0]["name"], "The tea room", "{listed}");
    let search = json!({ "filter": { "generic_search_term": "TEA" } });
    let found = two.bob.post("publicRooms?server=a.test", search).await.ok();
    assert_eq!(found["chunk"].as_array().map(Vec::len), Some(1), "{found}");
    let search = json!({ "filter": { "generic_search_term": "coffee" } });
    let found = two.bob.post("publicRooms?server=a.test", search).await.ok();
    assert_eq!(found["chunk"].as_array().map(Vec::len), Some(0), "{found}");
}

#[tokio::test]
async fn a_private_room_is_closed_to_those_who_know_its_id() {
    let two = Two::meet_mixed().await;
    let room = two.alice.create_room(json!({ "preset": "private_chat" })).await;
    two.bob.try_join_via(&room, &["a.test"]).await.refused(403, "M_FORBIDDEN");
    let answer = two.bob.try_join_via("!nowhere:a.test", &["a.test"]).await;
    assert_eq!(answer.status, 404, "{}", answer.text);
}

#[tokio::test]
async fn a_join_goes_through_the_next_server_when_one_does_not_answer() {
    let (network, [a, b, c]) = three_with_a_notary().await;
    let alice = a.register_with_secret("alice").await;
    let bob = b.register_with_secret("bob").await;
    let carol = c.register_with_secret("carol").await;
    let room = alice.create_public_room().await;
    bob.join_via(&room, &["a.test"]).await;
    let event_id = alice.say(&room, "before Carol").await;
    arrives(&bob, &room, &event_id).await;

    network.part("a.test", "c.test");
    carol.join_via(&room, &["nowhere.test", "a.test", "b.test"]).await;
    becomes(&bob, &room, &carol.user_id, "join").await;
    // She came through Bob's server, which must tell Alice's.
    becomes(&alice, &room, &carol.user_id, "join").await;
    network.reunite("a.test", "c.test");
    let event_id = alice.say(&room, "hello Carol").await;
    arrives(&carol, &room, &event_id).await;
    agree(&room, &[&alice, &bob, &carol]).await;
    share_history(&room, &[&alice, &bob, &carol]).await;
}

// === knocking ===

async fn knock(client: &Client, room: &str) {
    client.post(&format!("knock/{room}?{}", via_query(&["a.test"])), json!({ "reason": "please" })).await.ok();
}

#[tokio::test]
async fn a_knock_from_another_domain_is_heard_and_answered() {
    let two = Two::meet_mixed().await;
    for version in ["10", "12"] {
        let request = json!({
            "preset": "private_chat", "name": "The club", "room_version": version,
            "initial_state": [{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }],
        });
        let room = two.alice.create_room(request).await;
        knock(&two.bob, &room).await;
        becomes(&two.alice, &room, &two.bob.user_id, "knock").await;
        let shown = eventually("Bob sees that he has knocked", async || {
            two.bob.sync(None).await["rooms"]["knock"][&room]["knock_state"]["events"].as_array().cloned()
        })
        .await;
        assert!(shown.iter().any(|event| event["content"]["name"] == "The club"), "{shown:?}");
        two.alice.invite(&room, &two.bob).await;
        invitation(&two.bob, &room).await;
        two.bob.join(&room).await;
        becomes(&two.alice, &room, &two.bob.user_id, "join").await;
        agree(&room, &[&two.alice, &two.bob]).await;
    }
}

#[tokio::test]
async fn a_knock_is_taken_back_or_turned_down() {
    let two = Two::meet_mixed().await;
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = two.alice.create_room(json!({ "preset": "private_chat", "initial_state": rules })).await;
    knock(&two.bob, &room).await;
    becomes(&two.alice, &room, &two.bob.user_id, "knock").await;
    two.bob.leave(&room).await;
    becomes(&two.alice, &room, &two.bob.user_id, "leave").await;
    knock(&two.bob, &room).await;
    becomes(&two.alice, &room, &two.bob.user_id, "knock").await;
    two.alice.act_on(&room, "kick", &two.bob.user_id).await.ok();
    two.bob.try_join_via(&room, &["a.test"]).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn nobody_knocks_where_that_is_not_the_rule() {
    let two = Two::meet_mixed().await;
    let room = two.alice.create_room(json!({ "preset": "private_chat" })).await;
    let answer = two.bob.post(&format!("knock/{room}?{}", via_query(&["a.test"])), json!({})).await;
    answer.refused(403, "M_FORBIDDEN");
}

// === restricted rooms ===

/// A room that the members of `club` may join.
async fn restricted(alice: &Client, club: &str, version: &str) -> String {
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    let rules = json!({ "join_rule": "restricted", "allow": allow });
    let request = json!({
        "preset": "private_chat", "room_version": version,
        "initial_state": [{ "type": "m.room.join_rules", "content": rules }],
    });
    alice.create_room(request).await
}

#[tokio::test]
async fn members_of_one_room_may_join_the_other() {
    let two = Two::meet_mixed().await;
    for version in ["10", "11", "12"] {
        let club = two.alice.create_public_room().await;
        let room = restricted(&two.alice, &club, version).await;
        two.bob.try_join_via(&room, &["a.test"]).await.refused(403, "M_FORBIDDEN");
        two.bob.join_via(&club, &["a.test"]).await;
        two.bob.join_via(&room, &["a.test"]).await;
        becomes(&two.alice, &room, &two.bob.user_id, "join").await;
        let member = two.alice.state(&room, "m.room.member", &two.bob.user_id).await.ok();
        assert_eq!(member["join_authorised_via_users_server"], two.alice.user_id.as_str(), "{member}");
        let event_id = two.bob.say(&room, "let in").await;
        arrives(&two.alice, &room, &event_id).await;
        agree(&room, &[&two.alice, &two.bob]).await;
    }
}

#[tokio::test]
async fn any_server_whose_member_may_invite_vouches_for_a_restricted_join() {
    let (network, [a, b, c]) = Network::start_mixed(["a.test", "b.test", "c.test"]).await;
    let alice = a.register_with_secret("alice").await;
    let bob = b.register_with_secret("bob").await;
    let carol = c.register_with_secret("carol").await;
    let club = alice.create_public_room().await;
    let room = restricted(&alice, &club, "11").await;
    bob.join_via(&club, &["a.test"]).await;
    bob.join_via(&room, &["a.test"]).await;
    carol.join_via(&club, &["a.test"]).await;
    becomes(&bob, &club, &carol.user_id, "join").await;
    network.part("a.test", "c.test");
    carol.join_via(&room, &["b.test"]).await;
    becomes(&alice, &room, &carol.user_id, "join").await;
    let member = alice.state(&room, "m.room.member", &carol.user_id).await.ok();
    assert_eq!(member["join_authorised_via_users_server"], bob.user_id.as_str(), "{member}");
    network.reunite("a.test", "c.test");
    agree(&room, &[&alice, &bob, &carol]).await;
}
