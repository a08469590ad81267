//! Rooms: subscriptions, state, invitations, coming and going.

use std::time::Duration;

use federation_tests::on_each_engine;
use serde_json::{Value, json};

use super::{Connection, bodies, people, rooms_of, state_of, window};

#[tokio::test]
async fn a_subscription_widens_what_is_told_of_a_room_and_state_follows() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Tea", "topic": "leaves" })).await;
        bob.join(&room).await;
        for number in 0..5 {
            alice.say(&room, &number.to_string()).await;
        }
        let mut list = Connection::new(&bob, "list");
        let first = list.now(&window(9, 1)).await;
        assert_eq!(bodies(&first["rooms"][&room]), ["4"]);

        let mut open = window(9, 1);
        open["room_subscriptions"] =
            json!({ &room: { "timeline_limit": 4, "required_state": [["m.room.topic", ""]] } });
        let opened = list.now(&open).await;
        let told = &opened["rooms"][&room];
        assert_eq!(bodies(told), ["1", "2", "3", "4"], "more is wanted, so more is told: {told}");
        assert_eq!((&told["unstable_expanded_timeline"], &told["initial"]), (&json!(true), &json!(null)));
        assert_eq!(state_of(told), ["m.room.topic "]);
        assert!(rooms_of(&list.now(&open).await).is_empty(), "and only once");

        alice.set_state(&room, "m.room.topic", "", json!({ "topic": "cups" })).await.ok();
        alice.set_state(&room, "m.room.name", "", json!({ "name": "Coffee" })).await.ok();
        let told = list.now(&open).await["rooms"][&room].clone();
        assert_eq!(
            (&told["name"], state_of(&told)),
            (&json!("Coffee"), vec!["m.room.name ".to_owned(), "m.room.topic ".to_owned()])
        );
        let content: Vec<&Value> =
            told["required_state"].as_array().expect("state").iter().map(|one| &one["content"]).collect();
        assert!(content.contains(&&json!({ "topic": "cups" })), "{told}");

        // More is said than the window holds: the gap is told, and state is as it is now.
        for number in 0..3 {
            alice.say(&room, &format!("gap {number}")).await;
            alice.set_state(&room, "m.room.topic", "", json!({ "topic": number.to_string() })).await.ok();
        }
        let told = list.now(&window(9, 1)).await["rooms"][&room].clone();
        assert_eq!(told["limited"], true);
        assert_eq!(state_of(&told), ["m.room.topic "]);
        assert_eq!(told["required_state"][0]["content"]["topic"], "2");
        // A subscription to a room of others is passed over.
        let hidden = alice.create_room(json!({})).await;
        let peek = json!({ "room_subscriptions": { hidden: { "timeline_limit": 4, "required_state": [["*", "*"]] } } });
        assert!(rooms_of(&list.now(&peek).await).is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_invitation_a_join_a_leave_and_a_kick_are_told_each_once() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let mut list = Connection::new(&bob, "list");
        list.now(&window(9, 5)).await;
        let room = alice.create_room(json!({ "preset": "private_chat", "name": "Tea" })).await;
        alice.say(&room, "before").await;
        let waiting = window(9, 5);
        let (invited, ()) = tokio::join!(list.wait(Duration::from_secs(20), &waiting), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            alice.invite(&room, &bob).await;
        });
        let told = &invited["rooms"][&room];
        let stripped: Vec<&str> =
            told["invite_state"].as_array().expect("state").iter().filter_map(|event| event["type"].as_str()).collect();
        assert!(stripped.contains(&"m.room.name") && stripped.contains(&"m.room.member"), "{told}");
        assert!(told["timeline"].is_null() && told["required_state"].is_null(), "{told}");
        assert!(rooms_of(&list.now(&waiting).await).is_empty());

        bob.join(&room).await;
        let joined = list.now(&waiting).await["rooms"][&room].clone();
        assert_eq!((&joined["initial"], &joined["name"]), (&json!(true), &json!("Tea")));
        assert!(bodies(&joined).contains(&"before"), "{joined}");
        assert!(joined["invite_state"].is_null());

        alice.say(&room, "bye").await;
        bob.leave(&room).await;
        alice.say(&room, "secret").await;
        let left = list.now(&waiting).await["rooms"][&room].clone();
        assert_eq!(bodies(&left), ["bye"], "up to the leave: {left}");
        assert_eq!(own_membership(&left, &bob.user_id), Some("leave".to_owned()), "{left}");
        let after = list.now(&waiting).await;
        assert!(rooms_of(&after).is_empty(), "{after}");
        assert_eq!(after["lists"]["all"]["count"], 0);

        alice.invite(&room, &bob).await;
        list.now(&waiting).await;
        bob.join(&room).await;
        assert_eq!(list.now(&waiting).await["rooms"][&room]["initial"], true);
        alice.act_on(&room, "kick", &bob.user_id).await.ok();
        let kicked = list.now(&waiting).await["rooms"][&room].clone();
        assert_eq!(own_membership(&kicked, &bob.user_id), Some("leave".to_owned()), "{kicked}");
        let after = list.now(&waiting).await;
        assert!(rooms_of(&after).is_empty(), "{after}");
        assert_eq!(after["lists"]["all"]["count"], 1, "who was put out goes on seeing the room");

        // An invitation that is declined takes the room away.
        let other = alice.create_room(json!({})).await;
        alice.invite(&other, &bob).await;
        assert!(list.now(&waiting).await["rooms"][&other]["invite_state"].is_array());
        bob.leave(&other).await;
        let declined = list.now(&waiting).await["rooms"][&other].clone();
        assert_eq!(own_membership(&declined, &bob.user_id), Some("leave".to_owned()), "{declined}");
        assert_eq!(state_of(&declined).len(), 1, "nothing of the room is told: {declined}");
    })
    .await;
}

fn own_membership(room: &Value, user_id: &str) -> Option<String> {
    let state = room["required_state"].as_array()?;
    let own = state.iter().find(|event| event["type"] == "m.room.member" && event["state_key"] == user_id)?;
    own["content"]["membership"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_nameless_room_is_called_after_its_members() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_room(json!({ "preset": "private_chat" })).await;
        let mut list = Connection::new(&alice, "list");
        let first = list.now(&window(9, 5)).await;
        assert!(first["rooms"][&room]["name"].is_null() && first["rooms"][&room]["heroes"].is_null());
        alice.invite(&room, &bob).await;
        let told = list.now(&window(9, 5)).await["rooms"][&room].clone();
        assert_eq!(told["heroes"][0]["user_id"], bob.user_id.as_str());
        assert_eq!((&told["joined_count"], &told["invited_count"]), (&json!(1), &json!(1)));
        // Lazily, the members whom the timeline speaks of; all of it when all is asked for.
        assert!(state_of(&told).iter().any(|key| key.ends_with(&bob.user_id)), "{told}");
        let everything =
            json!({ "room_subscriptions": { &room: { "timeline_limit": 0, "required_state": [["*", "*"]] } } });
        let told = Connection::new(&alice, "open").now(&everything).await["rooms"][&room].clone();
        assert!(told["timeline"].is_null());
        for key in ["m.room.create ", "m.room.power_levels ", "m.room.join_rules "] {
            assert!(state_of(&told).iter().any(|told| told == key), "{key} is missing in {told}");
        }
    })
    .await;
}
