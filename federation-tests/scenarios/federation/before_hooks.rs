//! Who is asked before something happens is asked about this server's people, and about nobody else's.

use federation_tests::{Hook, Said, on_each_engine};
use serde_json::{Value, json};

use super::{Two, arrives, becomes, invitation};

#[tokio::test]
async fn what_comes_from_another_server_is_not_asked_about() {
    on_each_engine(async |engine| {
        let two = Two::meet(&engine).await;
        let (alice, bob) = (&two.alice, &two.bob);
        let admin = two.a.admin().await;
        let shared = two.public_room().await;
        let bobs = bob.create_room(json!({ "preset": "public_chat" })).await;
        let hook = Hook::start().await;
        hook.say(|_| Said::now(json!({ "decision": "refuse" })));
        let wish = json!({
            "when": "before", "url": hook.url(), "acts": ["send", "invite", "join", "create_room"], "on_failure": "refuse",
        });
        let made = admin.post("/api/v1/admin/webhooks", wish).await;
        assert_eq!(made.status, 201, "{}", made.text);

        // Bob speaks, leaves and comes back, and invites Alice: all that has happened when it is told here.
        arrives(alice, &shared, &bob.say(&shared, "hello from afar").await).await;
        bob.leave(&shared).await;
        becomes(alice, &shared, &bob.user_id, "leave").await;
        bob.join_via(&shared, &["a.test"]).await;
        becomes(alice, &shared, &bob.user_id, "join").await;
        bob.invite(&bobs, alice).await;
        invitation(alice, &bobs).await;
        assert!(hook.told().is_empty(), "{:?}", hook.told().last().map(federation_tests::Told::json));

        // Alice coming to him is asked about, and so is whom she invites from there; nothing reaches the other server.
        alice.try_join_via(&bobs, &["b.test"]).await.refused(403, "M_FORBIDDEN");
        alice.post("createRoom", json!({ "invite": [bob.user_id] })).await.refused(403, "M_FORBIDDEN");
        assert_eq!(bob.membership(&bobs, &alice.user_id).await.as_deref(), Some("invite"));
        let asked = || hook.told().iter().map(|told| told.json()["act"].clone()).collect::<Vec<Value>>();
        assert_eq!(asked(), ["join", "create_room"]);
        assert_eq!(hook.told()[0].json()["room_id"], bobs.as_str());

        // Whoever is invited with a room that is made is asked about once, however far away.
        hook.say(|_| Said::now(json!({ "decision": "allow" })));
        let tea = alice.create_room(json!({ "invite": [bob.user_id] })).await;
        invitation(bob, &tea).await;
        alice.join_via(&bobs, &["b.test"]).await;
        becomes(bob, &bobs, &alice.user_id, "join").await;
        assert_eq!(asked()[2..], ["create_room", "invite", "join"]);
        assert_eq!(hook.told()[3].json()["content"], json!({ "invited": [bob.user_id] }));
    })
    .await;
}
