//! What passes: who has read, who types, who is there, and what people call themselves.

use federation_tests::{enc, eventually, on_each_engine};
use serde_json::{Value, json};

use super::{Two, arrives};

fn ephemeral<'a>(answer: &'a Value, room: &str, event_type: &str) -> Option<&'a Value> {
    let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    events.iter().find(|event| event["type"] == event_type)
}

#[tokio::test]
async fn a_read_receipt_crosses_domains() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let room = two.room("12").await;
        let event_id = two.alice.say(&room, "read me").await;
        arrives(&two.bob, &room, &event_id).await;
        let mut since = two.alice.now().await;
        two.bob.post(&format!("rooms/{room}/receipt/m.read/{event_id}"), json!({})).await.ok();
        two.alice
            .sync_until(&mut since, |answer| {
                let receipts = ephemeral(answer, &room, "m.receipt")?;
                let receipt = receipts["content"][&event_id]["m.read"].get(&two.bob.user_id)?;
                assert!(receipt["ts"].is_u64(), "{receipt}");
                Some(())
            })
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_private_receipt_does_not_leave_the_domain() {
    let two = Two::meet_mixed().await;
    let room = two.room("12").await;
    let event_id = two.alice.say(&room, "read me in secret").await;
    arrives(&two.bob, &room, &event_id).await;
    two.bob.post(&format!("rooms/{room}/receipt/m.read.private/{event_id}"), json!({})).await.ok();
    two.bob.post(&format!("rooms/{room}/read_markers"), json!({ "m.fully_read": event_id })).await.ok();
    let later = two.bob.say(&room, "nothing to see").await;
    arrives(&two.alice, &room, &later).await;
    for crossing in two.network.link("b.test", "a.test").crossings() {
        assert!(!String::from_utf8_lossy(&crossing.body).contains("m.receipt"), "{crossing}");
    }
}

#[tokio::test]
async fn typing_is_seen_in_the_other_domain_while_it_lasts() {
    let two = Two::meet_mixed().await;
    let room = two.room("12").await;
    let mut since = two.alice.now().await;
    let path = format!("rooms/{room}/typing/{}", two.bob.user_id);
    for typing in [true, false] {
        two.bob.put(&path, json!({ "typing": typing, "timeout": 30_000 })).await.ok();
        let expected = if typing { json!([two.bob.user_id]) } else { json!([]) };
        two.alice
            .sync_until(&mut since, |answer| {
                let event = ephemeral(answer, &room, "m.typing")?;
                (event["content"]["user_ids"] == expected).then_some(())
            })
            .await;
    }
}

#[tokio::test]
async fn presence_reaches_who_shares_a_room_in_another_domain() {
    let two = Two::meet_mixed().await;
    two.room("12").await;
    let mut since = two.alice.now().await;
    let status = json!({ "presence": "unavailable", "status_msg": "in the garden" });
    two.bob.put(&format!("presence/{}/status", two.bob.user_id), status).await.ok();
    two.alice
        .sync_until(&mut since, |answer| {
            let events = answer["presence"]["events"].as_array()?;
            let event = events.iter().find(|event| event["sender"] == two.bob.user_id.as_str())?;
            (event["content"]["status_msg"] == "in the garden").then(|| {
                assert_eq!(event["content"]["presence"], "unavailable", "{event}");
            })
        })
        .await;
}

#[tokio::test]
async fn who_comes_into_a_room_learns_who_is_there() {
    let two = Two::meet_mixed().await;
    // Before they share anything, nobody in the other domain is told.
    let status = json!({ "presence": "online", "status_msg": "at the piano" });
    two.alice.put(&format!("presence/{}/status", two.alice.user_id), status).await.ok();
    let mut since = two.bob.now().await;
    two.public_room().await;
    two.bob
        .sync_until(&mut since, |answer| {
            let events = answer["presence"]["events"].as_array()?;
            let hers = |event: &&Value| event["sender"] == two.alice.user_id.as_str();
            let event = events.iter().filter(hers).find(|event| event["content"]["status_msg"] == "at the piano")?;
            assert_eq!(event["content"]["presence"], "online", "not as the news that she is gone: {event}");
            Some(())
        })
        .await;
}

#[tokio::test]
async fn the_profile_of_somebody_elsewhere_can_be_looked_up() {
    let two = Two::meet_mixed().await;
    let path = format!("profile/{}", two.alice.user_id);
    two.alice.put(&format!("{path}/displayname"), json!({ "displayname": "Alice" })).await.ok();
    two.alice.put(&format!("{path}/avatar_url"), json!({ "avatar_url": "mxc://a.test/face" })).await.ok();
    let profile = two.bob.get(&path).await.ok();
    assert_eq!(profile["displayname"], "Alice", "{profile}");
    assert_eq!(profile["avatar_url"], "mxc://a.test/face", "{profile}");
    let name = two.bob.get(&format!("{path}/displayname")).await.ok();
    assert_eq!(name, json!({ "displayname": "Alice" }));
    two.bob.get("profile/@nobody:a.test").await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_new_name_reaches_the_rooms_in_the_other_domain() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let rooms = [two.room("10").await, two.room("12").await];
        let path = format!("profile/{}/displayname", enc(&two.alice.user_id));
        two.alice.put(&path, json!({ "displayname": "Alice of the Glass" })).await.ok();
        for room in &rooms {
            eventually("Bob sees the new name", async || {
                let member = two.bob.state(room, "m.room.member", &two.alice.user_id).await.ok();
                (member["displayname"] == "Alice of the Glass").then_some(())
            })
            .await;
        }
    })
    .await;
}
