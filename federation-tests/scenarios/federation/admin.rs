//! What admins, operators and auditors do: by the admin API, and by the command line beside a running server.

use federation_tests::{Client, Engine, FakePeer, Network, Server, enc, eventually, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Two, arrives};

/// Runs `comity` with the configuration of `server`, and answers whether it went well and what it said.
pub(super) async fn comity(server: &Server, arguments: &[&str]) -> (bool, String) {
    let mut command = std::process::Command::new(federation_tests::binary());
    command.args(arguments).arg("--config").arg(server.folder().join("config.toml"));
    // Not in this thread, for fake peers live in it.
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("it is not cancelled").expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + String::from_utf8_lossy(&output.stderr).as_ref();
    (output.status.success(), said)
}

pub(super) async fn done(server: &Server, arguments: &[&str]) -> String {
    let (is_done, said) = comity(server, arguments).await;
    assert!(is_done, "{arguments:?}: {said}");
    said
}

async fn register(server: &Server, name: &str, admin: bool) -> Client {
    let mut client = server.anonymous();
    client.register_with_secret(server.shared_secret(), name, "a long password", admin).await;
    client
}

#[tokio::test]
async fn the_command_line_sets_peers_while_the_server_runs() {
    on_each_engine(async |engine| {
        let network = Network::new();
        let server = network.server(&engine, "a.test").await.start().await;
        let peer = FakePeer::start(&network, "b.test").await;
        let alice = server.register_with_secret("alice").await;
        let profile = format!("/_matrix/federation/v1/query/profile?user_id={}", enc(&alice.user_id));
        peer.get(&server, &profile).await.ok();
        let becomes = async |status: u16| {
            eventually(&format!("b.test is answered {status}"), async || {
                (peer.get(&server, &profile).await.status == status).then_some(())
            })
            .await;
        };
        done(&server, &["peer", "block", "b.test", "--reason", "spam"]).await;
        becomes(403).await;
        let said = done(
            &server,
            &["peer", "set", "B.TEST", "--level", "limited", "--grant", "typing=yes", "--reason", "sorry"],
        );
        assert!(said.await.contains("b.test\tlimited\tactive\t-"));
        becomes(200).await;
        let shown: Value = serde_json::from_str(&done(&server, &["peer", "show", "b.test"]).await).expect("it is JSON");
        assert_eq!(
            (&shown["capabilities"]["typing"], &shown["capabilities"]["presence"]),
            (&json!("yes"), &json!("no"))
        );
        let elsewhere = ["peer", "set", "b.test", "--endpoint", "10.1.2.3:8448", "--reason", "the tunnel"];
        done(&server, &elsewhere).await;
        let shown: Value = serde_json::from_str(&done(&server, &["peer", "show", "b.test"]).await).expect("it is JSON");
        assert_eq!(shown["settings"]["endpoint"], "10.1.2.3:8448");
        done(&server, &["peer", "set", "b.test", "--endpoint", "dns", "--reason", "no more"]).await;
        done(&server, &["peer", "set", "*.corp.test", "--level", "full", "--expires-in", "1h", "--reason", "a trial"])
            .await;
        let list = done(&server, &["peer", "list"]).await;
        assert!(list.starts_with("*.corp.test\tfull\tactive\t20"), "{list}");
        let tried = eventually("what was done is written down", async || {
            let tried = done(&server, &["peer", "simulate", "b.test", "--level", "blocked"]).await;
            tried.contains("profiles\tin").then_some(tried)
        })
        .await;
        assert!(tried.contains("refused by blocked"), "{tried}");
        done(&server, &["peer", "remove", "b.test", "--reason", "no more"]).await;
        let log = done(&server, &["peer", "audit", "b.test"]).await;
        let entries: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let actions: Vec<_> = entries.iter().filter_map(|entry| entry["action"].as_str()).collect();
        assert_eq!(actions, ["peer.remove", "peer.set", "peer.set", "peer.set", "peer.set"], "{log}");
        assert!(log.contains("the log of 6 entries is as it was written"), "{log}");

        // What makes no sense is refused with what would, and changes nothing.
        for (arguments, remedy) in [
            (&["peer", "set", "b.test", "--reason", "why"][..], "`level`"),
            (&["peer", "set", "b.test", "--level", "best", "--reason", "why"], "restricted"),
            (&["peer", "set", "b.test", "--level", "full", "--grant", "typing=names", "--reason", "why"], "no, yes"),
            (
                &["peer", "set", "b.test", "--level", "full", "--grant", "flying=yes", "--reason", "why"],
                "first_contact",
            ),
            (&["peer", "set", "b test", "--level", "full", "--reason", "why"], "chat.example.org"),
            (&["peer", "set", "a.test", "--level", "full", "--reason", "why"], "this server"),
            (&["peer", "show", "b.test"], "nothing is set"),
            (&["user", "set-role", "alice", "king"], "auditor"),
        ] {
            let (is_done, said) = comity(&server, arguments).await;
            assert!(!is_done && said.contains(remedy) && !said.contains("panicked"), "{arguments:?}: {said}");
        }
    })
    .await;
}

#[tokio::test]
async fn operators_look_and_retry_and_auditors_look_and_export() {
    let two = Two::meet_mixed().await;
    let room = two.room("12").await;
    let [oscar, ada, root] = [
        register(&two.a, "oscar", false).await,
        register(&two.a, "ada", false).await,
        register(&two.a, "root", true).await,
    ];
    done(&two.a, &["user", "set-role", "oscar", "operator"]).await;
    done(&two.a, &["user", "set-role", "ada", "auditor"]).await;
    two.alice.say(&room, "hello").await;
    let said = two.alice.say(&room, "again").await;
    arrives(&two.bob, &room, &said).await;

    let figures = eventually("it is known to have been delivered", async || {
        let figures = oscar.get("/api/v1/admin/deliveries").await.ok();
        (figures["total"]["accepted"].as_u64() >= Some(2) && figures["total"]["queued"] == 0).then_some(figures)
    })
    .await;
    assert_eq!(figures["total"]["delivered_percent"], 100.0, "{figures}");
    assert_eq!(figures["servers"][0]["server"], "b.test", "{figures}");
    // One line an event, and the next page goes on where this one ended.
    let export = ada.get("/api/v1/admin/deliveries/export?limit=1").await;
    let line: Value = serde_json::from_str(export.text.trim()).expect("it is one line of JSON");
    assert_eq!((&line["server"], &line["state"]), (&json!("b.test"), &json!("accepted")));
    let path =
        format!("/api/v1/admin/deliveries/export?after={}", enc(line["cursor"].as_str().expect("it has a place")));
    let rest = ada.get(&path).await.text;
    assert!(rest.contains(&said) && !rest.contains(line["event_id"].as_str().expect("it has an id")), "{rest}");
    ada.get("/api/v1/admin/deliveries/export?after=nowhere").await.problem(400, "invalid");

    // Who can't be reached is tried again at once, if somebody says so.
    two.network.link("a.test", "b.test").cut();
    two.alice.say(&room, "can you hear me?").await;
    let away = eventually("the server is given up for now", async || {
        let away = oscar.get("/api/v1/admin/destinations").await.ok();
        away["destinations"].as_array().is_some_and(|list| !list.is_empty()).then(|| away["destinations"][0].clone())
    })
    .await;
    assert_eq!(away["server"], "b.test", "{away}");
    assert!(away["failures"].as_u64() >= Some(1) && away["last_failure"].is_string(), "{away}");
    ada.post("/api/v1/admin/destinations/b.test/retry", json!({})).await.problem(403, "forbidden");
    two.network.link("a.test", "b.test").mend();
    oscar.post("/api/v1/admin/destinations/b.test/retry", json!({})).await.ok();
    eventually("all is delivered", async || {
        (oscar.get("/api/v1/admin/deliveries").await.ok()["total"]["queued"] == 0).then_some(())
    })
    .await;

    // What each may not.
    oscar.get("/api/v1/admin/deliveries/export").await.problem(403, "forbidden");
    oscar.get("/api/v1/admin/audit/verify").await.problem(403, "forbidden");
    let change = json!({ "level": "full", "reason": "why not" });
    for client in [&oscar, &ada, &two.alice] {
        let answer = client.attempt(Method::PATCH, "/api/v1/admin/peers/b.test", Some(&change)).await;
        answer.expect("the server answers").problem(403, "forbidden");
    }
    two.a.anonymous().get("/api/v1/admin/peers").await.problem(401, "missing_token");
    oscar.get("/api/v1/admin/peers").await.ok();
    let regard = ada.get("/api/v1/admin/servers/b.test/trust").await.ok();
    assert_eq!((&regard["level"], &regard["source"]["by"]), (&json!("full"), &json!("default")), "{regard}");
    // The doctor is at hand, too.
    let examined = root.post("/api/v1/admin/servers/b.test/examine", json!({})).await.ok();
    let findings = examined["findings"].as_array().expect("it is a list");
    assert!(findings.iter().all(|finding| finding["outcome"] != "fault"), "{examined}");
}

#[tokio::test]
async fn the_command_line_has_a_server_tried_at_once() {
    let two = Two::meet_mixed().await;
    let room = two.public_room().await;
    let (root, of_b) = (register(&two.a, "root", true).await, register(&two.b, "root", true).await);
    let said = done(&two.a, &["peer", "retry", "b.test"]).await;
    assert!(said.contains("nothing is waiting for b.test"), "{said}");
    // b.test does not want to hear of a.test, which leaves it alone for some ten seconds.
    let regard = async |level: &str| {
        let change = json!({ "level": level, "reason": "a story" });
        of_b.attempt(Method::PATCH, "/api/v1/admin/peers/a.test", Some(&change)).await.expect("it answers").ok();
    };
    regard("blocked").await;
    let said = two.alice.say(&room, "do you hear me?").await;
    let next_try_at = eventually("b.test is left alone", async || {
        let away = root.get("/api/v1/admin/destinations").await.ok();
        away["destinations"][0]["next_try_at"].as_u64()
    })
    .await;
    // Not `full`: then it would ask for the directory of a.test, which would hear that it is there.
    regard("limited").await;
    let told = done(&two.a, &["peer", "retry", "b.test", "--reason", "they have thought better of it"]).await;
    assert!(told.contains("b.test is tried at once"), "{told}");
    arrives(&two.bob, &room, &said).await;
    assert!(federation_tests::now() < next_try_at, "it would have been tried by itself");
    let last = root.get("/api/v1/admin/audit?peer=b.test").await.ok()["entries"][0].clone();
    assert_eq!((&last["action"], &last["actor"]), (&json!("peer.retry"), &json!("command line")), "{last}");
    assert_eq!(last["reason"], "they have thought better of it");
}

#[tokio::test]
async fn people_join_rooms_of_a_restricted_server_when_an_admin_has_approved() {
    let two = Two::meet_mixed().await;
    let root = register(&two.a, "root", true).await;
    let change = json!({ "level": "restricted", "reason": "we hardly know them" });
    root.attempt(Method::PATCH, "/api/v1/admin/peers/b.test", Some(&change)).await.expect("it answers").ok();
    let room = two.bob.create_public_room().await;
    let refused = two.alice.try_join_via(&room, &["b.test"]).await.refused(403, "M_FORBIDDEN");
    assert!(refused["error"].to_string().contains("restricted.join_there.approved"), "{refused}");
    done(&two.a, &["peer", "set", "b.test", "--approve-room", &room, "--reason", "the fair"]).await;
    eventually("the server has heard of it", async || {
        let shown = root.get("/api/v1/admin/servers/b.test/trust").await.ok();
        (shown["revision"] == 2).then_some(())
    })
    .await;
    two.alice.join_via(&room, &["b.test"]).await;
    let other = two.bob.create_public_room().await;
    assert_eq!(two.alice.try_join_via(&other, &["b.test"]).await.status, 403);
}

#[tokio::test]
async fn an_invitation_of_a_stranger_is_marked_as_a_request() {
    let network = Network::new();
    let a = network.server(&Engine::Sqlite, "a.test").await.set("federation", "default_trust", "limited").start().await;
    let b = network.server(&Engine::Sqlite, "b.test").await.start().await;
    let (alice, bob) = (a.register_with_secret("alice").await, b.register_with_secret("bob").await);
    let room = bob.create_room(json!({ "preset": "private_chat", "invite": [alice.user_id] })).await;
    let shown = super::invitation(&alice, &room).await;
    let mark = shown.iter().find(|event| event["type"] == "org.comity.request").expect("it is marked");
    assert_eq!((&mark["content"]["level"], &mark["sender"]), (&json!("limited"), &json!(bob.user_id)));
}
