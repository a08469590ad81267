//! What can happen in and to a room.

use federation_tests::{Client, Engine, Network, Server, enc, eventually, on_each_engine};
use serde_json::{Value, json};

/// Every room version this server makes.
const VERSIONS: [&str; 7] = ["6", "7", "8", "9", "10", "11", "12"];

async fn people<const N: usize>(engine: &Engine, names: [&str; N]) -> (Server, [Client; N]) {
    let server = Server::start(engine).await;
    let mut clients = Vec::with_capacity(N);
    for name in names {
        clients.push(server.register_with_secret(name).await);
    }
    let Ok(clients) = clients.try_into() else { unreachable!("as many clients as names") };
    (server, clients)
}

fn ids(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event_id"].as_str().expect("every event has an id")).collect()
}

fn bodies(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn every_room_version_can_be_lived_in() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        for version in VERSIONS {
            let room = alice.create_room(json!({ "room_version": version, "preset": "private_chat" })).await;
            let create = alice.state(&room, "m.room.create", "").await.ok();
            assert_eq!(create["room_version"], version);
            // Spec, room version 12: the room id is the create event's id with another sigil.
            assert_eq!(room.contains(':'), version != "12", "version {version} has the room id {room}");
            let creator_is_named = create.get("creator").is_some();
            assert_eq!(creator_is_named, version.parse::<u8>().is_ok_and(|number| number <= 10), "version {version}");
            let levels = alice.state(&room, "m.room.power_levels", "").await.ok();
            assert_eq!(levels["users"].get(&alice.user_id).is_some(), version != "12", "version {version}: {levels}");

            alice.invite(&room, &bob).await;
            bob.join(&room).await;
            let said = bob.say(&room, "hello").await;
            let redact = format!("rooms/{room}/redact/{said}/r-{version}");
            bob.put(&redact, json!({ "reason": "typo" })).await.ok();
            let event = alice.get(&format!("rooms/{room}/event/{said}")).await.ok();
            assert_eq!(event["content"], json!({}), "version {version}: {event}");
            alice.set_state(&room, "m.room.topic", "", json!({ "topic": "versions" })).await.ok();
            bob.set_state(&room, "m.room.topic", "", json!({ "topic": "mine" })).await.refused(403, "M_FORBIDDEN");
            let path = format!("rooms/{room}/kick");
            alice.post(&path, json!({ "user_id": bob.user_id, "reason": "end of the test" })).await.ok();
            bob.send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "?" }))
                .await
                .refused(403, "M_FORBIDDEN");
        }
        let unknown = alice.post("createRoom", json!({ "room_version": "elephant" })).await;
        unknown.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    })
    .await;
}

#[tokio::test]
async fn presets_furnish_a_room() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        for (preset, join_rule, guest_access) in [
            ("private_chat", "invite", "can_join"),
            ("trusted_private_chat", "invite", "can_join"),
            ("public_chat", "public", "forbidden"),
        ] {
            let room = alice.create_room(json!({ "preset": preset, "invite": [bob.user_id] })).await;
            assert_eq!(alice.state(&room, "m.room.join_rules", "").await.ok()["join_rule"], join_rule, "{preset}");
            let history = alice.state(&room, "m.room.history_visibility", "").await.ok();
            assert_eq!(history["history_visibility"], "shared", "{preset}");
            let guests = alice.state(&room, "m.room.guest_access", "").await;
            // Spec: without the event, guests are forbidden.
            let guests = if guests.status == 404 { json!("forbidden") } else { guests.ok()["guest_access"].clone() };
            assert_eq!(guests, guest_access, "{preset}");
            bob.join(&room).await;
            // Only the trusted preset gives the invited as much power as the creator has.
            let topic = bob.set_state(&room, "m.room.topic", "", json!({ "topic": "Bob's" })).await;
            assert_eq!(
                topic.status,
                if preset == "trusted_private_chat" { 200 } else { 403 },
                "{preset}: {}",
                topic.text
            );
        }
        let unknown = alice.post("createRoom", json!({ "preset": "bouncy_castle" })).await;
        unknown.refused(400, "M_BAD_JSON");
    })
    .await;
}

#[tokio::test]
async fn a_room_is_made_as_asked() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice
            .create_room(json!({
                "name": "The Library",
                "topic": "quiet, please",
                "room_alias_name": "library",
                "visibility": "public",
                "preset": "public_chat",
                "creation_content": { "m.federate": false, "org.example.shelf": 7 },
                "initial_state": [
                    { "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } },
                    { "type": "org.example.rule", "state_key": "food", "content": { "allowed": false } },
                ],
                "power_level_content_override": { "events_default": 25 },
                "invite": [bob.user_id],
                "is_direct": true,
            }))
            .await;
        let create = alice.state(&room, "m.room.create", "").await.ok();
        assert_eq!((&create["m.federate"], &create["org.example.shelf"]), (&json!(false), &json!(7)));
        assert_eq!(alice.state(&room, "m.room.name", "").await.ok()["name"], "The Library");
        assert_eq!(alice.state(&room, "m.room.topic", "").await.ok()["topic"], "quiet, please");
        assert_eq!(alice.state(&room, "m.room.canonical_alias", "").await.ok()["alias"], "#library:a.test");
        assert_eq!(alice.state(&room, "m.room.join_rules", "").await.ok()["join_rule"], "knock");
        assert_eq!(alice.state(&room, "org.example.rule", "food").await.ok()["allowed"], false);
        assert_eq!(alice.state(&room, "m.room.power_levels", "").await.ok()["events_default"], 25);
        let invitation = alice.state(&room, "m.room.member", &bob.user_id).await.ok();
        assert_eq!((&invitation["membership"], &invitation["is_direct"]), (&json!("invite"), &json!(true)));
        let listed = alice.get("publicRooms").await.ok();
        assert!(listed["chunk"].as_array().is_some_and(|rooms| rooms.iter().any(|entry| entry["room_id"] == room)));

        bob.join(&room).await;
        bob.send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "psst" }))
            .await
            .refused(403, "M_FORBIDDEN");
        let taken = alice.post("createRoom", json!({ "room_alias_name": "library" })).await;
        taken.refused(400, "M_ROOM_IN_USE");
    })
    .await;
}

#[tokio::test]
async fn who_is_invited_may_join_and_who_is_not_may_not() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        let room = alice.create_room(json!({ "preset": "private_chat" })).await;
        carol.post(&format!("rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
        carol
            .post(&format!("rooms/{room}/invite"), json!({ "user_id": carol.user_id }))
            .await
            .refused(403, "M_FORBIDDEN");
        alice.invite(&room, &bob).await;
        bob.join(&room).await;
        bob.join(&room).await;
        let joined = bob.get("joined_rooms").await.ok();
        assert_eq!(joined, json!({ "joined_rooms": [room] }));

        alice.invite(&room, &carol).await;
        carol.leave(&room).await;
        carol.post(&format!("rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
        carol.post("rooms/!nowhere:a.test/join", json!({})).await.refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn the_kicked_may_return_and_the_banned_may_not_until_unbanned() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        carol.join(&room).await;
        let on = |who: &Client| json!({ "user_id": who.user_id, "reason": "manners" });
        bob.post(&format!("rooms/{room}/kick"), on(&carol)).await.refused(403, "M_FORBIDDEN");
        bob.post(&format!("rooms/{room}/ban"), on(&carol)).await.refused(403, "M_FORBIDDEN");

        alice.post(&format!("rooms/{room}/kick"), on(&bob)).await.ok();
        let member = alice.state(&room, "m.room.member", &bob.user_id).await.ok();
        assert_eq!((&member["membership"], &member["reason"]), (&json!("leave"), &json!("manners")));
        bob.join(&room).await;

        alice.post(&format!("rooms/{room}/ban"), on(&bob)).await.ok();
        assert_eq!(alice.state(&room, "m.room.member", &bob.user_id).await.ok()["membership"], "ban");
        bob.post(&format!("rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
        alice.post(&format!("rooms/{room}/invite"), on(&bob)).await.refused(403, "M_FORBIDDEN");
        alice.post(&format!("rooms/{room}/unban"), on(&bob)).await.ok();
        bob.join(&room).await;
    })
    .await;
}

#[tokio::test]
async fn who_knocks_waits_for_the_door_to_be_opened() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
        let room = alice.create_room(json!({ "preset": "private_chat", "initial_state": [rule] })).await;
        bob.post(&format!("rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
        bob.post(&format!("knock/{room}"), json!({ "reason": "let me in" })).await.ok();
        let knock = alice.state(&room, "m.room.member", &bob.user_id).await.ok();
        assert_eq!((&knock["membership"], &knock["reason"]), (&json!("knock"), &json!("let me in")));
        let seen = bob.sync(None).await;
        assert!(seen["rooms"]["knock"][&room]["knock_state"]["events"].is_array(), "{seen}");
        alice.invite(&room, &bob).await;
        bob.join(&room).await;

        let closed = alice.create_room(json!({ "preset": "private_chat" })).await;
        bob.post(&format!("knock/{closed}"), json!({})).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn a_restricted_room_lets_in_the_members_of_another() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        let club = alice.create_public_room().await;
        for version in ["8", "9", "10", "11", "12"] {
            let content =
                json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
            let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": content });
            let request = json!({ "preset": "private_chat", "room_version": version, "initial_state": [rule] });
            let room = alice.create_room(request).await;
            carol.post(&format!("rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
            bob.join(&club).await;
            bob.join(&room).await;
            let member = alice.state(&room, "m.room.member", &bob.user_id).await.ok();
            assert_eq!(member["join_authorised_via_users_server"], alice.user_id, "version {version}: {member}");
            bob.say(&room, "nice club").await;
            bob.leave(&club).await;
            bob.leave(&room).await;
            bob.post(&format!("rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
        }
    })
    .await;
}

#[tokio::test]
async fn an_alias_leads_to_its_room_until_it_is_removed() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        let alias = enc("#garden:a.test");
        let path = format!("directory/room/{alias}");
        bob.get(&path).await.refused(404, "M_NOT_FOUND");
        alice.put(&path, json!({ "room_id": room })).await.ok();
        let found = bob.get(&path).await.ok();
        assert_eq!((&found["room_id"], &found["servers"]), (&json!(room), &json!(["a.test"])));
        assert_eq!(alice.put(&path, json!({ "room_id": room })).await.status, 409);
        let listed = alice.get(&format!("rooms/{room}/aliases")).await.ok();
        assert_eq!(listed, json!({ "aliases": ["#garden:a.test"] }));
        let joined = bob.post(&format!("join/{alias}"), json!({})).await.ok();
        assert_eq!(joined["room_id"], room);

        bob.delete(&path).await.refused(403, "M_FORBIDDEN");
        alice.delete(&path).await.ok();
        bob.get(&path).await.refused(404, "M_NOT_FOUND");
        let foreign = format!("directory/room/{}", enc("#garden:b.test"));
        assert_eq!(alice.put(&foreign, json!({ "room_id": room })).await.status, 400);
        alice.put("directory/room/garden", json!({ "room_id": room })).await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}

#[tokio::test]
async fn the_directory_lists_what_is_published_page_by_page() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let mut published = Vec::new();
        for number in 0..5 {
            let request = json!({ "preset": "public_chat", "name": format!("Hall {number}"), "topic": "echo" });
            let room = alice.create_room(request).await;
            let path = format!("directory/list/room/{room}");
            assert_eq!(bob.get(&path).await.ok()["visibility"], "private");
            alice.put(&path, json!({ "visibility": "public" })).await.ok();
            assert_eq!(bob.get(&path).await.ok()["visibility"], "public");
            published.push(room);
        }
        bob.join(&published[3]).await;
        let mut listed = Vec::new();
        let mut query = "publicRooms?limit=2".to_owned();
        loop {
            let page = bob.get(&query).await.ok();
            let rooms = page["chunk"].as_array().expect("a chunk").clone();
            assert!(rooms.len() <= 2, "{page}");
            listed.extend(rooms);
            let Some(next) = page["next_batch"].as_str() else { break };
            query = format!("publicRooms?limit=2&since={}", enc(next));
        }
        let mut found: Vec<&str> = listed.iter().filter_map(|room| room["room_id"].as_str()).collect();
        found.sort_unstable();
        published.sort_unstable();
        assert_eq!(found, published);

        let searched = bob.post("publicRooms", json!({ "filter": { "generic_search_term": "hall 3" } })).await.ok();
        let hit = &searched["chunk"][0];
        assert_eq!(searched["chunk"].as_array().map(Vec::len), Some(1), "{searched}");
        assert_eq!(
            (&hit["name"], &hit["topic"], &hit["num_joined_members"]),
            (&json!("Hall 3"), &json!("echo"), &json!(2))
        );
        assert_eq!((&hit["world_readable"], &hit["guest_can_join"]), (&json!(false), &json!(false)));

        let gone = hit["room_id"].as_str().expect("a room id");
        let path = format!("directory/list/room/{gone}");
        bob.put(&path, json!({ "visibility": "private" })).await.refused(403, "M_FORBIDDEN");
        alice.put(&path, json!({ "visibility": "private" })).await.ok();
        let after = bob.post("publicRooms", json!({ "filter": { "generic_search_term": "hall 3" } })).await.ok();
        assert_eq!(after["chunk"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn power_decides_who_may_do_what() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let topic = json!({ "topic": "Bob was here" });
        bob.set_state(&room, "m.room.topic", "", topic.clone()).await.refused(403, "M_FORBIDDEN");

        let mut levels = alice.state(&room, "m.room.power_levels", "").await.ok();
        levels["users"][&bob.user_id] = json!(50);
        alice.set_state(&room, "m.room.power_levels", "", levels.clone()).await.ok();
        bob.set_state(&room, "m.room.topic", "", topic).await.ok();
        levels["users"][&bob.user_id] = json!(90);
        bob.set_state(&room, "m.room.power_levels", "", levels.clone()).await.refused(403, "M_FORBIDDEN");
        levels["users"][&bob.user_id] = json!("fifty");
        let words = alice.set_state(&room, "m.room.power_levels", "", levels).await;
        assert!((400..500).contains(&words.status), "{}", words.text);
        assert_eq!(alice.state(&room, "m.room.power_levels", "").await.ok()["users"][&bob.user_id], 50);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_id_works_once_for_its_device() {
    on_each_engine(async |engine| {
        let (server, [alice]) = people(&engine, ["alice"]).await;
        let room = alice.create_public_room().await;
        let path = format!("rooms/{room}/send/m.room.message/once");
        let content = json!({ "msgtype": "m.text", "body": "once" });
        let first = alice.put(&path, content.clone()).await.ok();
        let second = alice.put(&path, content.clone()).await.ok();
        assert_eq!(first, second);
        let tablet = server.login("alice").await;
        let other = tablet.put(&path, content).await.ok();
        assert_ne!(first, other, "another device has transaction ids of its own");
        assert_eq!(bodies(&alice.history(&room).await), ["once", "once"]);

        let redact = format!("rooms/{room}/redact/{}/once", first["event_id"].as_str().expect("an id"));
        let redaction = alice.put(&redact, json!({})).await.ok();
        assert_eq!(alice.put(&redact, json!({})).await.ok(), redaction);
        let redactions =
            alice.history(&room).await.into_iter().filter(|event| event["type"] == "m.room.redaction").count();
        assert_eq!(redactions, 1);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_id_works_once_even_when_repeated_at_the_same_time() {
    on_each_engine(async |engine| {
        let (_server, [alice]) = people(&engine, ["alice"]).await;
        let room = alice.create_public_room().await;
        let path = format!("rooms/{room}/send/m.room.message/together");
        let repeats = (0..10).map(|_| alice.put(&path, json!({ "msgtype": "m.text", "body": "together" })));
        let mut event_ids: Vec<String> = futures_util::future::join_all(repeats)
            .await
            .into_iter()
            .map(|answer| answer.ok()["event_id"].to_string())
            .collect();
        event_ids.dedup();
        assert_eq!(event_ids.len(), 1, "{event_ids:?}");
        assert_eq!(bodies(&alice.history(&room).await), ["together"]);
    })
    .await;
}

#[tokio::test]
async fn only_the_sending_device_sees_its_transaction_id() {
    on_each_engine(async |engine| {
        let (server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let path = format!("rooms/{room}/send/m.room.message/my-txn");
        let event_id = alice.put(&path, json!({ "msgtype": "m.text", "body": "echo" })).await.ok()["event_id"].clone();
        let tablet = server.login("alice").await;
        for (client, expected) in [(&alice, json!("my-txn")), (&tablet, Value::Null), (&bob, Value::Null)] {
            let sync = client.sync(None).await;
            let timeline = sync["rooms"]["join"][&room]["timeline"]["events"].as_array().expect("a timeline").clone();
            let event = timeline.iter().find(|event| event["event_id"] == event_id).expect("the event is in sync");
            assert_eq!(event["unsigned"]["transaction_id"], expected, "{event}");
        }
    })
    .await;
}

#[tokio::test]
async fn only_writer_or_moderator_can_redact() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        carol.join(&room).await;
        let said = bob.say(&room, "Bob's words").await;
        let redact = |id: &str| format!("rooms/{room}/redact/{id}/{}", rand::random::<u64>());
        carol.put(&redact(&said), json!({})).await.refused(403, "M_FORBIDDEN");
        assert_eq!(carol.get(&format!("rooms/{room}/event/{said}")).await.ok()["content"]["body"], "Bob's words");
        alice.put(&redact(&said), json!({ "reason": "house rules" })).await.ok();
        let event = carol.get(&format!("rooms/{room}/event/{said}")).await.ok();
        assert_eq!(event["content"], json!({}));
        assert_eq!(event["unsigned"]["redacted_because"]["content"]["reason"], "house rules");
        let history = carol.history(&room).await;
        assert!(bodies(&history).is_empty(), "{history:?}");
        // A redaction of nothing is an event like any other, or a refusal; it is not a crash.
        let nothing = alice.put(&redact("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), json!({})).await;
        assert!(nothing.status < 500, "{}", nothing.text);
    })
    .await;
}

#[tokio::test]
async fn a_forgotten_room_is_gone_for_who_forgot_it() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        bob.say(&room, "remember me").await;
        bob.post(&format!("rooms/{room}/forget"), json!({})).await.refused(400, "M_UNKNOWN");
        bob.leave(&room).await;
        assert!(!bodies(&bob.history(&room).await).is_empty(), "who left may read what was before");
        bob.post(&format!("rooms/{room}/forget"), json!({})).await.ok();
        bob.get(&format!("rooms/{room}/messages?dir=b")).await.refused(403, "M_FORBIDDEN");
        let filter = enc(r#"{"room":{"include_leave":true}}"#);
        let sync = bob.sync_with(None, std::time::Duration::ZERO, &format!("&filter={filter}")).await.ok();
        assert!(sync["rooms"]["leave"].get(&room).is_none(), "{sync}");
        bob.join(&room).await;
    })
    .await;
}

#[tokio::test]
async fn state_is_read_whole_and_in_pieces() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, stranger]) = people(&engine, ["alice", "bob", "stranger"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        alice.set_state(&room, "org.example.door", "left", json!({ "open": true })).await.ok();
        alice.set_state(&room, "org.example.door", "left", json!({ "open": false })).await.ok();
        let state = bob.get(&format!("rooms/{room}/state")).await.ok();
        let state = state.as_array().expect("state is a list");
        let doors: Vec<&Value> = state.iter().filter(|event| event["type"] == "org.example.door").collect();
        assert_eq!(doors.len(), 1, "{doors:?}");
        assert_eq!((&doors[0]["state_key"], &doors[0]["content"]), (&json!("left"), &json!({ "open": false })));
        let whole = bob.get(&format!("rooms/{room}/state/org.example.door/left?format=event")).await.ok();
        assert_eq!(whole["event_id"], doors[0]["event_id"]);
        bob.state(&room, "org.example.door", "right").await.refused(404, "M_NOT_FOUND");
        stranger.get(&format!("rooms/{room}/state")).await.refused(403, "M_FORBIDDEN");
        stranger.state(&room, "m.room.create", "").await.refused(403, "M_FORBIDDEN");

        bob.leave(&room).await;
        alice.set_state(&room, "org.example.door", "left", json!({ "open": true })).await.ok();
        let then = bob.state(&room, "org.example.door", "left").await.ok();
        assert_eq!(then["open"], false, "who left sees the state as it was then");
    })
    .await;
}

#[tokio::test]
async fn the_same_state_again_is_no_new_event() {
    on_each_engine(async |engine| {
        let (_server, [alice]) = people(&engine, ["alice"]).await;
        let room = alice.create_public_room().await;
        let topic = json!({ "topic": "same" });
        let first = alice.set_state(&room, "m.room.topic", "", topic.clone()).await.ok();
        let again = alice.set_state(&room, "m.room.topic", "", topic).await.ok();
        assert_eq!(first, again);
    })
    .await;
}

#[tokio::test]
async fn an_event_is_shown_in_its_context() {
    on_each_engine(async |engine| {
        let (_server, [alice, stranger]) = people(&engine, ["alice", "stranger"]).await;
        let room = alice.create_public_room().await;
        let mut said = Vec::new();
        for number in 0..11 {
            said.push(alice.say(&room, &format!("{number}")).await);
        }
        let context = alice.get(&format!("rooms/{room}/context/{}?limit=4", said[5])).await.ok();
        assert_eq!(context["event"]["event_id"], said[5]);
        let before = context["events_before"].as_array().expect("events_before").clone();
        let after = context["events_after"].as_array().expect("events_after").clone();
        assert_eq!(ids(&before), [said[4].as_str(), said[3].as_str()], "newest first");
        assert_eq!(ids(&after), [said[6].as_str(), said[7].as_str()], "oldest first");
        assert!(context["state"].as_array().is_some_and(|state| !state.is_empty()));
        let start = context["start"].as_str().expect("start");
        let end = context["end"].as_str().expect("end");
        let earlier = alice.pages(&room, "b", Some(start), None).await;
        assert_eq!(bodies(&earlier), ["2", "1", "0"]);
        let later = alice.pages(&room, "f", Some(end), None).await;
        assert_eq!(bodies(&later), ["8", "9", "10"]);
        alice.get(&format!("rooms/{room}/context/$nothing")).await.refused(404, "M_NOT_FOUND");
        let hidden = stranger.get(&format!("rooms/{room}/context/{}", said[5])).await;
        assert!([403, 404].contains(&hidden.status), "{}", hidden.text);
    })
    .await;
}

#[tokio::test]
async fn history_reads_the_same_in_both_directions() {
    on_each_engine(async |engine| {
        let (_server, [alice]) = people(&engine, ["alice"]).await;
        let room = alice.create_public_room().await;
        for number in 0..230 {
            alice.say(&room, &format!("{number}")).await;
        }
        let backwards = alice.history(&room).await;
        let forwards = alice.pages(&room, "f", None, None).await;
        assert_eq!(ids(&backwards), ids(&forwards));
        let expected: Vec<String> = (0..230).map(|number| number.to_string()).collect();
        assert_eq!(bodies(&forwards), expected);

        let filter = enc(r#"{"types":["m.room.create","m.room.member"]}"#);
        let filtered = alice.get(&format!("rooms/{room}/messages?dir=f&limit=50&filter={filter}")).await.ok();
        let types: Vec<&Value> =
            filtered["chunk"].as_array().expect("chunk").iter().map(|event| &event["type"]).collect();
        assert_eq!(types, ["m.room.create", "m.room.member"]);
    })
    .await;
}

#[tokio::test]
async fn members_are_listed_by_their_membership() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol, dave]) = people(&engine, ["alice", "bob", "carol", "dave"]).await;
        bob.put(&format!("profile/{}/displayname", bob.user_id), json!({ "displayname": "Bob" })).await.ok();
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        alice.invite(&room, &carol).await;
        dave.join(&room).await;
        dave.leave(&room).await;
        let named = async |query: &str| {
            let members = alice.get(&format!("rooms/{room}/members{query}")).await.ok();
            let mut names: Vec<String> = members["chunk"]
                .as_array()
                .expect("a chunk")
                .iter()
                .map(|event| event["state_key"].as_str().expect("a member event").to_owned())
                .collect();
            names.sort_unstable();
            names
        };
        let ids = [&alice, &bob, &carol, &dave].map(|client| client.user_id.clone());
        assert_eq!(named("").await, ids);
        assert_eq!(named("?membership=join").await, ids[..2]);
        assert_eq!(named("?membership=invite").await, ids[2..3]);
        assert_eq!(named("?not_membership=leave").await, ids[..3]);
        let joined = bob.get(&format!("rooms/{room}/joined_members")).await.ok();
        assert_eq!(joined["joined"].as_object().map(serde_json::Map::len), Some(2), "{joined}");
        assert_eq!(joined["joined"][&bob.user_id]["display_name"], "Bob");
        carol.get(&format!("rooms/{room}/joined_members")).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn history_visibility_hides_what_was_said_before() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, stranger]) = people(&engine, ["alice", "bob", "stranger"]).await;
        for (visibility, expected) in [
            ("joined", vec!["after the join"]),
            ("invited", vec!["after the invitation", "after the join"]),
            ("shared", vec!["before", "after the invitation", "after the join"]),
            ("world_readable", vec!["before", "after the invitation", "after the join"]),
        ] {
            let content = json!({ "history_visibility": visibility });
            let rule = json!({ "type": "m.room.history_visibility", "state_key": "", "content": content });
            let room = alice.create_room(json!({ "preset": "private_chat", "initial_state": [rule] })).await;
            let hidden = alice.say(&room, "before").await;
            alice.invite(&room, &bob).await;
            alice.say(&room, "after the invitation").await;
            bob.join(&room).await;
            alice.say(&room, "after the join").await;
            assert_eq!(bodies(&bob.history(&room).await), expected, "{visibility}");
            let sync = bob.sync(None).await;
            let timeline = sync["rooms"]["join"][&room]["timeline"]["events"].as_array().expect("a timeline").clone();
            assert!(expected.ends_with(&bodies(&timeline)), "{visibility}: {timeline:?}");
            let event = bob.get(&format!("rooms/{room}/event/{hidden}")).await;
            assert_eq!(
                event.status,
                if expected.contains(&"before") { 200 } else { 404 },
                "{visibility}: {}",
                event.text
            );

            let peek = stranger.get(&format!("rooms/{room}/messages?dir=b&limit=100")).await;
            assert_eq!(
                peek.status,
                if visibility == "world_readable" { 200 } else { 403 },
                "{visibility}: {}",
                peek.text
            );

            bob.leave(&room).await;
            alice.say(&room, "after the leave").await;
            if visibility != "world_readable" {
                let left = bob.history(&room).await;
                assert!(!bodies(&left).contains(&"after the leave"), "{visibility}: {left:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn read_markers_and_receipts_are_kept() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let read = alice.say(&room, "read me").await;
        let mut since = alice.now().await;
        let marker = json!({ "m.fully_read": read, "m.read": read });
        bob.post(&format!("rooms/{room}/read_markers"), marker).await.ok();
        alice
            .sync_until(&mut since, |answer| {
                let events = answer["rooms"]["join"][&room]["ephemeral"]["events"].as_array()?;
                events.iter().find_map(|event| event["content"][&read]["m.read"].get(&bob.user_id)).map(|_| ())
            })
            .await;
        let mine = bob.get(&format!("user/{}/rooms/{room}/account_data/m.fully_read", bob.user_id)).await.ok();
        assert_eq!(mine["event_id"], read);
        let thread = json!({ "thread_id": "main" });
        bob.post(&format!("rooms/{room}/receipt/m.read/{read}"), thread).await.ok();
        let unknown = bob.post(&format!("rooms/{room}/receipt/m.shrug/{read}"), json!({})).await;
        assert_eq!(unknown.status, 400, "{}", unknown.text);
    })
    .await;
}

#[tokio::test]
async fn a_room_goes_on_in_its_successor_on_both_domains() {
    on_each_engine(async |engine| {
        let (_network, [a, b]) = Network::start(&engine, ["a.test", "b.test"]).await;
        let (alice, bob) = (a.register_with_secret("alice").await, b.register_with_secret("bob").await);
        let wish = json!({ "preset": "public_chat", "room_version": "10", "name": "Tea", "room_alias_name": "tea" });
        let old = alice.create_room(wish).await;
        bob.join_via(&old, &["a.test"]).await;
        bob.put(&format!("user/{}/rooms/{old}/tags/m.favourite", bob.user_id), json!({ "order": 0.5 })).await.ok();
        let of_b = enc("#tee:b.test");
        bob.put(&format!("directory/room/{of_b}"), json!({ "room_id": old })).await.ok();

        bob.post(&format!("rooms/{old}/upgrade"), json!({ "new_version": "12" })).await.refused(403, "M_FORBIDDEN");
        let unknown = alice.post(&format!("rooms/{old}/upgrade"), json!({ "new_version": "elephant" })).await;
        unknown.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
        let answer = alice.post(&format!("rooms/{old}/upgrade"), json!({ "new_version": "12" })).await.ok();
        let new = answer["replacement_room"].as_str().expect("a room").to_owned();
        eventually("bob is told where it goes on", async || {
            (bob.state(&old, "m.room.tombstone", "").await.body["replacement_room"] == new.as_str()).then_some(())
        })
        .await;
        assert_eq!(alice.state(&new, "m.room.name", "").await.ok()["name"], "Tea");
        let alias = alice.get(&format!("directory/room/{}", enc("#tea:a.test"))).await.ok();
        assert_eq!(alias["room_id"], new.as_str());

        bob.join_via(&new, &["a.test"]).await;
        let tags = bob.get(&format!("user/{}/rooms/{new}/tags", bob.user_id)).await.ok();
        assert_eq!(tags["tags"]["m.favourite"]["order"], 0.5, "{tags}");
        let alias = bob.get(&format!("directory/room/{of_b}")).await.ok();
        assert_eq!(alias["room_id"], new.as_str(), "what the other domain calls the room goes on too");
        bob.send(&old, "m.room.message", json!({ "body": "?" })).await.refused(403, "M_FORBIDDEN");
        bob.say(&new, "here").await;
    })
    .await;
}
