//! Lists: what is in a window, how it grows, what is in which list.

use std::time::Duration;

use federation_tests::{Engine, Server, on_each_engine};
use serde_json::json;

use super::{Connection, bodies, people, rooms_of, sorted, state_of, window};

#[tokio::test]
async fn a_window_shows_the_latest_rooms_grows_and_tells_each_thing_once() {
    on_each_engine(async |engine| {
        let (server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let versions = alice.get("/_matrix/client/versions").await.ok();
        assert_eq!(versions["unstable_features"]["org.matrix.simplified_msc3575"], true);
        let mut rooms = Vec::new();
        for number in 0..5 {
            let room = alice.create_room(json!({ "preset": "public_chat", "name": format!("Room {number}") })).await;
            bob.join(&room).await;
            alice.say(&room, &format!("first of {number}")).await;
            rooms.push(room);
        }
        let ids: Vec<&str> = rooms.iter().map(String::as_str).collect();
        let mut list = Connection::new(&bob, "list");

        let first = list.now(&window(1, 1)).await;
        assert_eq!(first["lists"]["all"]["count"], 5);
        assert_eq!(rooms_of(&first), sorted(&ids[3..]));
        let room = &first["rooms"][ids[4]];
        assert_eq!((&room["name"], &room["initial"], &room["limited"]), (&json!("Room 4"), &json!(true), &json!(true)));
        assert_eq!(
            (&room["joined_count"], &room["invited_count"], &room["num_live"]),
            (&json!(2), &json!(0), &json!(0))
        );
        assert_eq!(bodies(room), ["first of 4"]);
        assert_eq!(room["notification_count"], 1, "{room}");
        assert!(room["prev_batch"].is_string() && room["bump_stamp"].is_number(), "{room}");
        let members =
            ["m.room.member @alice:".to_owned() + server.name(), "m.room.member @bob:".to_owned() + server.name()];
        let state = state_of(room);
        assert_eq!(state, ["m.room.create ", members[0].as_str(), members[1].as_str(), "m.room.name "]);

        // The same position gives the same again; the next nothing.
        let again =
            Connection { pos: None, ..Connection::new(&bob, "other") }.ask(Duration::ZERO, &window(1, 1)).await.ok();
        assert_eq!(rooms_of(&again), rooms_of(&first));
        assert!(rooms_of(&list.now(&window(1, 1)).await).is_empty());

        let grown = list.now(&window(9, 1)).await;
        assert_eq!(rooms_of(&grown), sorted(&ids[..3]), "only those that weren't in sight");
        assert!(rooms_of(&list.now(&window(9, 1)).await).is_empty());

        // What is said in the lowest room of a small window brings it up, and says so while the client waits.
        list.now(&window(1, 1)).await;
        let small = window(1, 1);
        let (told, _) = tokio::join!(list.wait(Duration::from_secs(20), &small), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            alice.say(ids[0], "up").await
        });
        assert_eq!(rooms_of(&told), [ids[0]]);
        let room = &told["rooms"][ids[0]];
        assert_eq!((bodies(room), &room["num_live"], &room["initial"]), (vec!["up"], &json!(1), &json!(null)));
        assert!(room["name"].is_null() && room["joined_count"].is_null(), "only what changed is told: {room}");

        // Three rooms have news, two are in sight; the third is told when it comes in sight again, as news.
        for room in [ids[1], ids[2], ids[3]] {
            alice.say(room, "news").await;
        }
        let two = list.now(&small).await;
        assert_eq!(rooms_of(&two), sorted(&ids[2..4]));
        let third = list.now(&window(9, 1)).await;
        assert_eq!(rooms_of(&third), [ids[1]]);
        assert_eq!((bodies(&third["rooms"][ids[1]]), &third["rooms"][ids[1]]["initial"]), (vec!["news"], &json!(null)));
    })
    .await;
}

#[tokio::test]
async fn an_answer_about_rooms_in_sight_writes_nothing_and_a_position_outlives_the_process() {
    on_each_engine(async |engine| {
        let (mut server, [alice]) = people(&engine, ["alice"]).await;
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "One" })).await;
        alice.say(&room, "before").await;
        let writes = async |server: &Server| server.figure("comity_sync_sliding_writes_total").await;
        let mut list = Connection::new(&alice, "list");
        list.now(&window(9, 5)).await;
        assert_eq!(writes(&server).await, 1.0, "a connection with rooms is written down");
        for number in 0..5 {
            alice.say(&room, &number.to_string()).await;
            let told = list.now(&window(9, 5)).await;
            assert_eq!(bodies(&told["rooms"][&room]), [number.to_string()]);
            list.now(&window(9, 5)).await;
        }
        assert_eq!(writes(&server).await, 1.0, "what happens in rooms in sight needs no write");
        let mut quiet = Connection::new(&alice, "encryption");
        quiet.now(&json!({ "extensions": { "e2ee": { "enabled": true } } })).await;
        assert_eq!(writes(&server).await, 1.0, "a connection without rooms needs none, either");

        server.restart().await;
        let alice = alice.another();
        alice.say(&room, "after").await;
        let mut list = Connection { client: &alice, conn_id: "list".into(), pos: list.pos };
        let told = list.now(&window(9, 5)).await;
        assert_eq!(bodies(&told["rooms"][&room]), ["after"]);
        assert_eq!(told["rooms"][&room]["initial"], json!(null));
        let mut quiet = Connection { client: &alice, conn_id: "encryption".into(), pos: quiet.pos };
        assert!(rooms_of(&quiet.now(&json!({})).await).is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_position_is_good_for_the_connection_that_was_given_it_alone() {
    on_each_engine(async |engine| {
        let (server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        alice.create_room(json!({})).await;
        let mut list = Connection::new(&alice, "list");
        list.now(&window(9, 1)).await;
        let pos = list.pos.clone();
        let tablet = server.login("alice").await;
        for (client, conn_id) in [(&bob, "list"), (&tablet, "list"), (&alice, "other")] {
            let stolen = Connection { client, conn_id: conn_id.into(), pos: pos.clone() };
            stolen.ask(Duration::ZERO, &window(9, 1)).await.refused(400, "M_UNKNOWN_POS");
        }
        for wrong in ["p1~1", "x", "s1", "p99999999999~0", "p1~99999999"] {
            let wrong = Connection { client: &alice, conn_id: "list".into(), pos: Some(wrong.into()) };
            wrong.ask(Duration::ZERO, &window(9, 1)).await.refused(400, "M_UNKNOWN_POS");
        }
        for number in 0..20 {
            Connection::new(&alice, &format!("{number}")).now(&window(9, 1)).await;
        }
        let rows = server.database().rows(server.folder(), "sliding_connections").await;
        assert!(rows <= 20, "a device keeps ten connections: {rows}");
        let none = json!({ "lists": (0..101).map(|n| (n.to_string(), json!({ "timeline_limit": 1 }))).collect::<serde_json::Map<_, _>>() });
        list.ask(Duration::ZERO, &none).await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}

#[tokio::test]
async fn filters_tell_direct_encrypted_invited_rooms_and_spaces_from_others() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let plain = alice.create_room(json!({ "name": "Plain" })).await;
        let secret = alice
            .create_room(json!({ "initial_state": [{ "type": "m.room.encryption", "state_key": "",
                "content": { "algorithm": "m.megolm.v1.aes-sha2" } }] }))
            .await;
        let space = alice.create_room(json!({ "creation_content": { "type": "m.space" } })).await;
        let direct = alice.create_room(json!({ "is_direct": true })).await;
        let invited = bob.create_room(json!({ "name": "Bob's" })).await;
        bob.invite(&invited, &alice).await;
        let path = format!("/_matrix/client/v3/user/{}/account_data/m.direct", alice.user_id);
        let content = json!({ bob.user_id.clone(): [direct] });
        alice.put(&path, content).await.ok();

        let list = |filters| json!({ "ranges": [[0, 99]], "timeline_limit": 0, "filters": filters });
        let lists = json!({ "lists": {
            "all": list(json!({})), "dm": list(json!({ "is_dm": true })), "encrypted": list(json!({ "is_encrypted": true })),
            "invites": list(json!({ "is_invite": true })), "not_invites": list(json!({ "is_invite": false })),
            "spaces": list(json!({ "room_types": ["m.space"] })), "no_spaces": list(json!({ "not_room_types": ["m.space"] })),
            "ordinary": list(json!({ "room_types": [null] })),
        } });
        let answer = Connection::new(&alice, "").now(&lists).await;
        let count = |name: &str| answer["lists"][name]["count"].as_u64();
        let counts = ["all", "dm", "encrypted", "invites", "not_invites", "spaces", "no_spaces", "ordinary"].map(count);
        assert_eq!(counts, [5, 1, 1, 1, 4, 1, 4, 4].map(Some), "{}", answer["lists"]);
        assert_eq!(answer["rooms"][&direct]["is_dm"], true);
        assert_eq!(rooms_of(&answer), sorted(&[&plain, &secret, &space, &direct, &invited].map(String::as_str)));

        let mut only = Connection::new(&alice, "secret");
        let encrypted = json!({ "lists": { "encrypted": list(json!({ "is_encrypted": true })) } });
        assert_eq!(rooms_of(&only.now(&encrypted).await), [secret.as_str()]);
        alice.set_state(&plain, "m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await.ok();
        let told = only.now(&encrypted).await;
        assert_eq!((rooms_of(&told), &told["lists"]["encrypted"]["count"]), (vec![plain.as_str()], &json!(2)));
    })
    .await;
}

#[tokio::test]
async fn a_client_goes_on_at_another_node_where_the_first_stopped() {
    let Some(engine) = Engine::postgres() else {
        eprintln!("SKIPPED: nodes share a PostgreSQL, and COMITY_TEST_POSTGRES_URL isn't set");
        return;
    };
    let first = Server::start(&engine).await;
    let second = first.another_node().await;
    let alice = first.register_with_secret("alice").await;
    let mut there = second.anonymous();
    there.user_id.clone_from(&alice.user_id);
    there.token.clone_from(&alice.token);
    let room = alice.create_room(json!({ "name": "One" })).await;
    let mut pos = None;
    for (number, client) in [&alice, &there, &alice, &there].into_iter().enumerate() {
        alice.say(&room, &number.to_string()).await;
        let mut list = Connection { client, conn_id: "list".into(), pos };
        // The other node may hear a moment later of what was said at the first.
        let told = list.wait(Duration::from_secs(20), &window(9, 1)).await["rooms"][&room].clone();
        assert_eq!(bodies(&told), [number.to_string()]);
        assert_eq!(told["initial"], if number == 0 { json!(true) } else { json!(null) }, "{told}");
        pos = list.pos;
    }
}
