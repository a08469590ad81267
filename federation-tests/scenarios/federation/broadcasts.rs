//! Broadcasts between domains: full peers tell each other, others can't.

use federation_tests::{Client, FakePeer, Network, eventually, now, on_each_engine};
use serde_json::{Value, json};

use super::trust::patch;

const BROADCASTS: &str = "/api/v1/broadcasts";
const ACROSS: &str = "/api/v1/federation/broadcasts";

/// The ids of the broadcasts that are for somebody, the latest first.
async fn told(client: &Client) -> Vec<String> {
    let page = client.get(BROADCASTS).await.ok();
    let list = page["broadcasts"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
}

async fn is_told(client: &Client, ids: &[&str]) {
    eventually(&format!("{} is told {ids:?}", client.user_id), async || (told(client).await == ids).then_some(()))
        .await;
}

async fn tell(author: &Client, broadcast: Value) {
    let answer = author.post(BROADCASTS, broadcast).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

/// What became of a broadcast at another server.
async fn outcome(author: &Client, id: &str, server: &str) -> Value {
    let servers = author.get(&format!("{BROADCASTS}/{id}")).await.ok()["details"]["servers"].clone();
    let found = servers.as_array().and_then(|list| list.iter().find(|one| one["server"] == server)).cloned();
    found.unwrap_or_default()
}

async fn trusts(admin: &Client, peer: &str, level: &str) {
    patch(admin, peer, json!({ "level": level, "reason": "a story" })).await.ok();
}

#[tokio::test]
async fn full_peers_are_told_once_whatever_happens_on_the_way() {
    on_each_engine(async |engine| {
        let (network, [mut a, b]) = Network::start(&engine, ["a.test", "b.test"]).await;
        let (anna, bert) = (a.admin().await, b.admin().await);
        let bob = b.register_with_secret("bob").await;
        trusts(&anna, "b.test", "full").await;
        trusts(&bert, "a.test", "full").await;

        tell(&anna, json!({ "id": "hello", "title": "Hello", "body": "from A", "across": true })).await;
        is_told(&bob, &["hello@a.test"]).await;
        let seen = bob.get(&format!("{BROADCASTS}/hello@a.test")).await.ok();
        assert_eq!((&seen["origin"], &seen["author"]), (&json!("a.test"), &json!("root@a.test")));
        eventually("A knows", async || (outcome(&anna, "hello", "b.test").await["outcome"] == "taken").then_some(()))
            .await;
        // What isn't meant for others stays here; what names somebody there is for that one.
        tell(&anna, json!({ "id": "ours", "title": "Ours", "body": "x" })).await;
        let to_bert = json!({ "kind": "users", "users": ["root@b.test", "root@a.test"] });
        tell(&anna, json!({ "id": "bert", "title": "Bert", "body": "x", "audience": to_bert, "across": true })).await;
        is_told(&bert, &["bert@a.test", "hello@a.test"]).await;
        assert_eq!(told(&bob).await, ["hello@a.test"]);
        assert_eq!(told(&anna).await, ["bert", "ours", "hello"]);

        // The way is cut, and the server dies: it is told all the same, and called back before it is told again.
        network.part("a.test", "b.test");
        tell(&anna, json!({ "id": "later", "title": "Later", "body": "x", "across": true })).await;
        anna.delete(&format!("{BROADCASTS}/hello")).await;
        eventually("A has tried", async || (outcome(&anna, "later", "b.test").await["attempts"] != 0).then_some(()))
            .await;
        a.kill();
        a.restart().await;
        assert_eq!(told(&bob).await, ["hello@a.test"]);
        network.reunite("a.test", "b.test");
        is_told(&bob, &["later@a.test"]).await;
        for id in ["later", "hello"] {
            eventually("A knows", async || (outcome(&anna, id, "b.test").await["outcome"] == "taken").then_some(()))
                .await;
        }
        // Matrix clients there are told by notices of their own server.
        eventually("Bob has a notice", async || {
            let answer = bob.sync(None).await;
            answer["rooms"]["join"].to_string().contains("Later\\n\\nx").then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn who_is_not_trusted_so_far_neither_tells_nor_is_told() {
    on_each_engine(async |engine| {
        let network = Network::new();
        let a = network.server(&engine, "a.test").await.start().await;
        let b = network.server(&engine, "b.test").await.set("broadcasts", "from_peers", false).start().await;
        let (anna, bert) = (a.admin().await, b.admin().await);
        let to_b = json!({ "kind": "domains", "domains": ["b.test"] });
        let across = |id: &str| json!({ "id": id, "title": id, "body": "x", "audience": to_b.clone(), "across": true });
        let becomes = async |id: &str, word: &str| {
            eventually(&format!("{id} is {word}"), async || {
                let outcome = outcome(&anna, id, "b.test").await;
                (!outcome["done_at"].is_null() && outcome["outcome"].to_string().contains(word)).then_some(())
            })
            .await;
        };
        trusts(&bert, "a.test", "full").await;
        trusts(&anna, "b.test", "limited").await;
        tell(&anna, across("limited")).await;
        becomes("limited", "not told").await;
        trusts(&anna, "b.test", "full").await;
        tell(&anna, across("declined")).await;
        becomes("declined", "takes no broadcasts of other servers").await;
        trusts(&bert, "a.test", "limited").await;
        tell(&anna, across("untrusted")).await;
        becomes("untrusted", "may not do this here").await;
        assert!(told(&bert).await.is_empty());

        // What a peer may say, and how.
        let peer = FakePeer::start(&network, "c.test").await;
        let hello = |change: Value| {
            let mut hello = json!({
                "id": "x", "author": "root@c.test", "title": "Hello", "body": "x", "audience": { "kind": "all" },
                "published_at": now(),
            });
            hello.as_object_mut().expect("it is one").extend(change.as_object().expect("it is one").clone());
            hello
        };
        for level in ["blocked", "restricted", "limited"] {
            trusts(&anna, "c.test", level).await;
            peer.post_native(&a, ACROSS, hello(json!({}))).await.problem(403, "not_trusted");
        }
        trusts(&anna, "c.test", "full").await;
        let mut unscoped = peer.native("a.test", reqwest::Method::POST, ACROSS, Some(hello(json!({}))));
        unscoped.claims["scope"] = json!(["messaging"]);
        peer.ask_native(&a, &unscoped).await.problem(403, "insufficient_scope");
        for (change, code) in [
            (json!({ "author": "root@a.test" }), "invalid"),
            (json!({ "id": "event:1" }), "invalid"),
            (json!({ "title": "" }), "invalid"),
            (json!({ "audience": { "kind": "domains", "domains": ["b.test"] } }), "nobody_here"),
        ] {
            peer.post_native(&a, ACROSS, hello(change)).await.problem(400, code);
        }
        for _ in 0..2 {
            peer.post_native(&a, ACROSS, hello(json!({}))).await.ok();
        }
        assert_eq!(told(&anna).await, ["x@c.test"]);
        // What comes late after it was called back is not shown.
        peer.post_native(&a, ACROSS, hello(json!({ "id": "y", "cancelled": true }))).await.ok();
        peer.post_native(&a, ACROSS, hello(json!({ "id": "y" }))).await.ok();
        assert_eq!(told(&anna).await, ["x@c.test"]);
        peer.post_native(&a, ACROSS, hello(json!({ "cancelled": true }))).await.ok();
        assert!(told(&anna).await.is_empty());

        // The server reports how far it trusts whom.
        let changes = anna.get("/api/v1/events?type=peer.level_changed&limit=1000").await.ok();
        let levels = changes["events"].as_array().cloned().unwrap_or_default();
        let of_c: Vec<&Value> =
            levels.iter().rev().filter(|one| one["subject"] == "c.test").map(|one| &one["data"]["after"]).collect();
        assert_eq!(of_c, ["blocked", "restricted", "limited", "full"]);
    })
    .await;
}
