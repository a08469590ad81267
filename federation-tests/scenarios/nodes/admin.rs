//! What an administrator does at one node holds at the other.

use federation_tests::{Closed, Socket, enc, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use super::Nodes;

const ADMIN: &str = "/api/v1/admin";

#[tokio::test]
async fn connections_of_all_nodes_are_seen_and_ended_from_one() {
    let Some(nodes) = Nodes::with_redis().await else { return };
    let (alice, bob, _) = nodes.people().await;
    let admin = nodes.first.admin().await;
    let _hers = Socket::open(&alice).await;
    let mut his = Socket::open(&bob).await;
    let path = format!("{ADMIN}/connections");
    let page = admin.get(&path).await.ok();
    let connections = page["connections"].as_array().expect("a list");
    assert_eq!((connections.len(), &page["silent_nodes"]), (2, &json!([])), "{page}");
    assert_ne!(connections[0]["node"], connections[1]["node"], "{page}");
    assert_eq!(page["nodes"].as_array().map(Vec::len), Some(2), "{page}");
    // Page by page, although they are at two nodes.
    let first = admin.get(&format!("{path}?limit=1")).await.ok();
    let next = enc(first["next"].as_str().expect("there are more"));
    let second = admin.get(&format!("{path}?limit=1&cursor={next}")).await.ok();
    assert_eq!((&first["connections"][0], &second["connections"][0]), (&connections[0], &connections[1]));

    let end = format!("{path}?user_id=bob@a.test&reason=noise");
    let ended = admin.attempt(Method::DELETE, &end, None).await.expect("it answers").ok();
    assert_eq!((&ended["ended"], &ended["silent_nodes"]), (&json!(1), &json!([])), "{ended}");
    assert_eq!(his.closed().await, Closed { code: 4003, reason: "disconnected".to_owned() });
}

#[tokio::test]
async fn what_nodes_cannot_say_to_each_other_is_told() {
    // Neither a cache nor a broker: they share the database and nothing else.
    let Some(nodes) = Nodes::start(None, None).await else { return };
    let (_, bob, _) = nodes.people().await;
    let admin = nodes.first.admin().await;
    let _his = Socket::open(&bob).await;
    let page = admin.get(&format!("{ADMIN}/connections")).await.ok();
    assert_eq!(page["connections"], json!([]), "{page}");
    assert_eq!(page["silent_nodes"].as_array().map(Vec::len), Some(1), "{page}");
}

#[tokio::test]
async fn accounts_and_settings_are_the_same_at_each_node() {
    let Some(nodes) = Nodes::with_redis().await else { return };
    let (_, bob, room) = nodes.people().await;
    let admin = nodes.first.admin().await;
    let act = |act: &str| format!("{ADMIN}/users/{}/{act}", enc(&bob.user_id));
    let why = json!({ "reason": "it was asked for" });
    admin.post(&act("suspend"), why.clone()).await.ok();
    eventually("the other node keeps him from saying anything", async || {
        let message = json!({ "msgtype": "m.text", "body": "still here" });
        let answer = bob.send(&room, "m.room.message", message).await;
        (answer.errcode() == "M_USER_SUSPENDED").then_some(())
    })
    .await;
    admin.post(&act("lock"), why).await.ok();
    eventually("the other node keeps him from doing anything", async || {
        (bob.get("account/whoami").await.errcode() == "M_USER_LOCKED").then_some(())
    })
    .await;

    let path = format!("{ADMIN}/settings/registration.enabled");
    let set = json!({ "value": false, "reason": "enough of them" });
    assert_eq!(admin.put(&path, set).await.ok()["source"], "runtime");
    eventually("the other node takes no registrations", async || {
        let wish = json!({ "name": "carol", "password": "correct horse" });
        let answer = nodes.second.anonymous().post("/api/v1/auth/register", wish).await;
        (answer.body["code"] == "registration_closed").then_some(Value::Null)
    })
    .await;
}
