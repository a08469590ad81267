//! Coming and going across domains: invited, rejected, left, kicked, banned.

use federation_tests::{eventually, on_each_engine};
use serde_json::json;

use super::{Two, agree, arrives, becomes, invitation, is_known};

#[tokio::test]
async fn an_invitation_shows_where_to() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let room = two.alice.create_room(json!({ "preset": "private_chat", "name": "Tea", "topic": "at five" })).await;
        two.alice.invite(&room, &two.bob).await;
        let shown = invitation(&two.bob, &room).await;
        let of = |event_type: &str| shown.iter().find(|event| event["type"] == event_type);
        assert_eq!(of("m.room.name").expect("a name")["content"]["name"], "Tea", "{shown:?}");
        assert!(of("m.room.create").is_some(), "{shown:?}");
        let own = shown.iter().find(|event| event["state_key"] == two.bob.user_id.as_str()).expect("his membership");
        assert_eq!(own["content"]["membership"], "invite");
        assert_eq!(own["sender"], two.alice.user_id.as_str());
        // Who is only invited does not see what is said.
        let secret = two.alice.say(&room, "he is not here yet").await;
        assert!(!is_known(&two.bob, &room, &secret).await);
    })
    .await;
}

#[tokio::test]
async fn an_invitation_is_accepted() {
    let two = Two::meet_mixed().await;
    let room = two.room("12").await;
    agree(&room, &[&two.alice, &two.bob]).await;
    let members = two.bob.get(&format!("rooms/{room}/joined_members")).await.ok();
    assert!(members["joined"].get(&two.alice.user_id).is_some(), "{members}");
    assert!(members["joined"].get(&two.bob.user_id).is_some(), "{members}");
}

#[tokio::test]
async fn an_invitation_is_rejected() {
    let two = Two::meet_mixed().await;
    let room = two.alice.create_room(json!({ "preset": "private_chat", "invite": [two.bob.user_id] })).await;
    invitation(&two.bob, &room).await;
    two.bob.leave(&room).await;
    becomes(&two.alice, &room, &two.bob.user_id, "leave").await;
    let rooms = two.bob.sync(None).await;
    assert!(rooms["rooms"]["invite"].get(&room).is_none(), "the invitation is still there: {rooms}");
    two.bob.try_join_via(&room, &["a.test"]).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn an_invitation_is_taken_back() {
    let two = Two::meet_mixed().await;
    let room = two.alice.create_room(json!({ "preset": "private_chat", "invite": [two.bob.user_id] })).await;
    invitation(&two.bob, &room).await;
    two.alice.act_on(&room, "kick", &two.bob.user_id).await.ok();
    two.bob.try_join_via(&room, &["a.test"]).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn an_invitation_is_rejected_while_the_inviter_cannot_be_reached() {
    let two = Two::meet_mixed().await;
    let room = two.alice.create_room(json!({ "preset": "private_chat", "invite": [two.bob.user_id] })).await;
    invitation(&two.bob, &room).await;
    two.network.part("a.test", "b.test");
    // He must not be shown it for ever because another server is gone.
    two.bob.leave(&room).await;
    eventually("Bob is rid of the invitation", async || {
        two.bob.sync(None).await["rooms"]["invite"].get(&room).is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_does_not_exist_cannot_be_invited() {
    let two = Two::meet_mixed().await;
    let room = two.alice.create_room(json!({ "preset": "private_chat" })).await;
    let answer = two.alice.post(&format!("rooms/{room}/invite"), json!({ "user_id": "@nobody:b.test" })).await;
    assert!((400..500).contains(&answer.status), "{}: {}", answer.status, answer.text);
    let answer = two.alice.post(&format!("rooms/{room}/invite"), json!({ "user_id": "@bob:nowhere.test" })).await;
    assert!(answer.status >= 400, "{}: {}", answer.status, answer.text);
    assert_ne!(two.alice.membership(&room, "@bob:nowhere.test").await.as_deref(), Some("invite"));
}

#[tokio::test]
async fn who_leaves_hears_no_more_and_may_come_back() {
    let two = Two::meet_mixed().await;
    let room = two.public_room().await;
    let before = two.alice.say(&room, "before").await;
    arrives(&two.bob, &room, &before).await;
    two.bob.leave(&room).await;
    becomes(&two.alice, &room, &two.bob.user_id, "leave").await;
    let meanwhile = two.alice.say(&room, "meanwhile").await;

    // Nothing of the room goes to a server that has nobody in it: what was said comes only with the return.
    two.bob.join_via(&room, &["a.test"]).await;
    becomes(&two.alice, &room, &two.bob.user_id, "join").await;
    let sent = two.network.link("a.test", "b.test").crossings();
    let sent_meanwhile = sent.iter().any(|crossing| {
        crossing.path.starts_with("/_matrix/federation/v1/send/")
            && String::from_utf8_lossy(&crossing.body).contains("meanwhile")
    });
    assert!(!sent_meanwhile, "a server without members was told");

    let after = two.alice.say(&room, "after").await;
    arrives(&two.bob, &room, &after).await;
    // The room's history is shared: who is back may read it.
    eventually("Bob reads what he has missed", async || {
        let history = two.bob.history(&room).await;
        history.iter().any(|event| event["event_id"] == meanwhile.as_str()).then_some(())
    })
    .await;
    agree(&room, &[&two.alice, &two.bob]).await;
}

#[tokio::test]
async fn who_is_kicked_is_out_on_both_sides() {
    let two = Two::meet_mixed().await;
    let room = two.room("12").await;
    two.alice.act_on(&room, "kick", &two.bob.user_id).await.ok();
    becomes(&two.bob, &room, &two.bob.user_id, "leave").await;
    two.bob
        .send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "but" }))
        .await
        .refused(403, "M_FORBIDDEN");
    two.bob.try_join_via(&room, &["a.test"]).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn who_is_banned_stays_out_until_unbanned() {
    let two = Two::meet_mixed().await;
    let room = two.public_room().await;
    two.alice.act_on(&room, "ban", &two.bob.user_id).await.ok();
    becomes(&two.bob, &room, &two.bob.user_id, "ban").await;
    two.bob.try_join_via(&room, &["a.test"]).await.refused(403, "M_FORBIDDEN");
    two.alice.act_on(&room, "unban", &two.bob.user_id).await.ok();
    two.bob.join_via(&room, &["a.test"]).await;
    becomes(&two.alice, &room, &two.bob.user_id, "join").await;
    let event_id = two.bob.say(&room, "I have changed").await;
    arrives(&two.alice, &room, &event_id).await;
    agree(&room, &[&two.alice, &two.bob]).await;
}

#[tokio::test]
async fn a_moderator_of_another_domain_moderates() {
    let two = Two::meet_mixed().await;
    let room = two.public_room().await;
    let troll = two.a.register_with_secret("troll").await;
    troll.join(&room).await;
    becomes(&two.bob, &room, &troll.user_id, "join").await;
    let mut levels = two.alice.state(&room, "m.room.power_levels", "").await.ok();
    levels["users"][&two.bob.user_id] = 50.into();
    two.alice.set_state(&room, "m.room.power_levels", "", levels.clone()).await.ok();
    super::state_becomes(&two.bob, &room, "m.room.power_levels", &levels).await;

    two.bob.act_on(&room, "ban", &troll.user_id).await.ok();
    becomes(&two.alice, &room, &troll.user_id, "ban").await;
    troll.post(&format!("rooms/{room}/join"), json!({})).await.refused(403, "M_FORBIDDEN");
    two.bob.act_on(&room, "ban", &two.alice.user_id).await.refused(403, "M_FORBIDDEN");
    agree(&room, &[&two.alice, &two.bob]).await;
}
