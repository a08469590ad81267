//! The form in which MSC4186 was merged.

use federation_tests::on_each_engine;
use serde_json::{Value, json};

use super::{Connection, MERGED, bodies, people, rooms_of, state_of};

fn request(pos: Option<&Value>) -> Value {
    let mut body = json!({ "conn_id": "main", "timeout": 0, "set_presence": "offline", "lists": { "all": {
        "range": [0, 9], "timeline_limit": 2,
        "required_state": { "include": [{}], "exclude": [{ "type": "m.room.create" }], "lazy_members": true },
    } } });
    if let Some(pos) = pos {
        body["pos"] = pos.clone();
    }
    body
}

#[tokio::test]
async fn the_merged_form_tells_the_same_in_its_own_words() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Tea" })).await;
        bob.join(&room).await;
        carol.join(&room).await;
        alice.say(&room, "one").await;
        alice.say(&room, "two").await;
        let first = bob.post(MERGED, request(None)).await.ok();
        let told = &first["rooms"][&room];
        assert_eq!(first["lists"]["all"]["count"], 1);
        assert_eq!(
            (&told["membership"], &told["lists"], &told["name"]),
            (&json!("join"), &json!(["all"]), &json!("Tea"))
        );
        assert_eq!(bodies(told), ["one", "two"]);
        assert!(told["notification_count"].is_null(), "the merged form has no counts: {told}");
        let state = state_of(told);
        assert!(!state.contains(&"m.room.create ".to_owned()), "{state:?}");
        assert!(state.contains(&"m.room.power_levels ".to_owned()), "{state:?}");
        assert!(state.contains(&format!("m.room.member {}", alice.user_id)), "who speaks is told: {state:?}");
        assert!(!state.contains(&format!("m.room.member {}", carol.user_id)), "who doesn't is not: {state:?}");

        alice.set_state(&room, "m.room.name", "", json!({ "name": "" })).await.ok();
        let second = bob.post(MERGED, request(Some(&first["pos"]))).await.ok();
        let object = second["rooms"][&room].as_object().expect("it changed");
        assert_eq!(object.get("name"), Some(&Value::Null), "the name is gone: {second}");
        // A position names a place in a room's history, too.
        let pos = second["pos"].as_str().expect("a pos");
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=2&from={pos}");
        assert!(alice.get(&path).await.ok()["chunk"].as_array().is_some_and(|chunk| chunk.len() == 2));

        let invited = alice.create_room(json!({ "name": "Other" })).await;
        alice.invite(&invited, &bob).await;
        let third = bob.post(MERGED, request(Some(&second["pos"]))).await.ok();
        assert_eq!(rooms_of(&third), [invited.as_str()]);
        let told = &third["rooms"][&invited];
        assert_eq!(told["membership"], "invite");
        assert!(told["stripped_state"].is_array() && told["invite_state"].is_null(), "{told}");

        let mut wrong = request(None);
        wrong["set_presence"] = "busy".into();
        bob.post(MERGED, wrong).await.refused(400, "M_INVALID_PARAM");
        bob.post(MERGED, json!({ "lists": { "all": { "timeline_limit": 1 } } })).await.refused(400, "M_BAD_JSON");
        bob.post(MERGED, json!({ "pos": "p1~1" })).await.refused(400, "M_UNKNOWN_POS");
        bob.with_token(None).post(MERGED, json!({})).await.refused(401, "M_MISSING_TOKEN");
        // Without a range a list has everything; the two forms share their connections.
        let body = json!({ "conn_id": "all", "lists": { "all": { "timeline_limit": 1, "required_state": {} } } });
        let everything = bob.post(MERGED, body).await.ok();
        assert_eq!(rooms_of(&everything).len(), 2);
        let deployed =
            Connection { client: &bob, conn_id: "all".into(), pos: everything["pos"].as_str().map(str::to_owned) };
        let list = json!({ "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1 } } });
        assert!(rooms_of(&deployed.ask(std::time::Duration::ZERO, &list).await.ok()).is_empty());
    })
    .await;
}

#[tokio::test]
async fn lists_may_be_of_spaces_and_of_tags() {
    on_each_engine(async |engine| {
        let (_server, [alice]) = people(&engine, ["alice"]).await;
        let inside = alice.create_room(json!({})).await;
        let outside = alice.create_room(json!({})).await;
        let space = alice.create_room(json!({ "creation_content": { "type": "m.space" } })).await;
        alice.set_state(&space, "m.space.child", &inside, json!({ "via": ["a.test"] })).await.ok();
        alice.set_state(&space, "m.space.child", &outside, json!({})).await.ok();
        let tag = format!("/_matrix/client/v3/user/{}/rooms/{outside}/tags/m.favourite", alice.user_id);
        alice.put(&tag, json!({})).await.ok();
        let list = |filters: Value| json!({ "timeline_limit": 0, "required_state": {}, "filters": filters });
        let body = json!({ "lists": {
            "space": list(json!({ "spaces": [space] })),
            "favourite": list(json!({ "tags": ["m.favourite", "u.other"] })),
            "rest": list(json!({ "not_tags": ["m.favourite"], "not_room_types": ["m.space"] })),
            "both": list(json!({ "tags": ["m.favourite"], "not_tags": ["m.favourite"] })),
        } });
        let answer = alice.post(MERGED, body).await.ok();
        let lists = |room: &str| answer["rooms"][room]["lists"].clone();
        assert_eq!(lists(&inside), json!(["rest", "space"]));
        assert_eq!(lists(&outside), json!(["favourite"]));
        assert_eq!(answer["lists"]["both"]["count"], 0);
    })
    .await;
}
