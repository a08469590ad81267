//! Addresses that are asked before something happens.

use std::time::{Duration, Instant};

use federation_tests::{Answer, Client, Engine, Hook, Said, Server, Told, eventually, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};

const WEBHOOKS: &str = "/api/v1/admin/webhooks";

/// Has `hook` asked before `acts`. Answers its id and its secret.
async fn ask(admin: &Client, hook: &Hook, acts: &[&str], on_failure: &str) -> (Value, String) {
    let wish =
        json!({ "when": "before", "url": hook.url(), "acts": acts, "deadline_ms": 1_500, "on_failure": on_failure });
    let made = admin.post(WEBHOOKS, wish).await;
    assert_eq!(made.status, 201, "{}", made.text);
    (made.body["id"].clone(), made.body["secret"].as_str().expect("it is told once").to_owned())
}

async fn shown(admin: &Client, id: &Value) -> Value {
    let all = admin.get(WEBHOOKS).await.ok();
    all["webhooks"].as_array().expect("a list").iter().find(|hook| hook["id"] == *id).cloned().expect("it is there")
}

async fn say(client: &Client, room: &str, text: &str) -> Answer {
    client.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": text })).await
}

async fn texts(client: &Client, room: &str) -> Vec<String> {
    let history = client.history(room).await;
    history.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

fn acts(hook: &Hook) -> Vec<String> {
    hook.told().iter().map(|told| told.json()["act"].as_str().expect("an act").to_owned()).collect()
}

/// Refuses what speaks of war, in small letters what shouts, and would change what nobody may.
fn moderator(told: &Told) -> Said {
    let question = told.json();
    let text = question["content"]["body"].as_str().unwrap_or_default();
    if text.contains("war") {
        return Said::now(json!({ "decision": "refuse", "reason": "no war\nhere\u{202e}" }));
    }
    if text.contains('!') || question["type"] == "m.room.encrypted" {
        let quiet = json!({ "msgtype": "m.text", "body": text.to_lowercase().replace('!', "") });
        return Said::now(json!({ "decision": "change", "content": quiet }));
    }
    Said::now(json!({ "decision": "allow" }))
}

#[tokio::test]
async fn an_address_lets_messages_through_refuses_them_or_changes_them() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let admin = server.admin().await;
        let mut alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let hook = Hook::start().await;
        hook.say(moderator);
        let (id, secret) = ask(&admin, &hook, &["send"], "refuse").await;

        say(&alice, &room, "hello").await.ok();
        let told = hook.told().pop().expect("it was asked");
        assert!(told.is_signed_with(&secret) && !told.is_signed_with("another"));
        let question = told.json();
        let expected = json!({
            "version": 1, "webhook": id, "id": question["id"], "time": question["time"], "act": "send",
            "sender": alice.user_id, "room_id": room, "type": "m.room.message",
            "content": { "msgtype": "m.text", "body": "hello" },
        });
        assert_eq!(question, expected);
        assert!(question["id"].is_string() && question["time"].as_i64() > Some(1_700_000_000_000));

        let refused = say(&alice, &room, "war").await.refused(403, "M_FORBIDDEN");
        assert_eq!(refused["error"], "no war here");
        say(&alice, &room, "PEACE!").await.ok();
        assert_eq!(texts(&alice, &room).await, ["hello", "peace"]);

        // What nobody can read nobody can change.
        let secret_words = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": "y" });
        let silent = alice.send(&room, "m.room.encrypted", secret_words).await.refused(503, "M_UNKNOWN");
        assert!(silent["error"].as_str().is_some_and(|error| error.contains("try again")), "{silent}");
        let last_error = shown(&admin, &id).await["last_error"].clone();
        assert!(last_error.as_str().is_some_and(|error| error.contains("allowed or refused only")), "{last_error}");
        // It has answered, so it is asked on.
        alice.set_state(&room, "m.room.name", "", json!({ "name": "Tea" })).await.ok();

        // The same request again is not asked about again, not even after a restart.
        let path = format!("rooms/{room}/send/m.room.message/once");
        let once = json!({ "msgtype": "m.text", "body": "once" });
        let first = alice.put(&path, once.clone()).await.ok();
        let asked = hook.told().len();
        assert_eq!(alice.put(&path, once.clone()).await.ok(), first);
        server.restart().await;
        alice = server.anonymous().with_token(alice.token.as_deref());
        let admin = server.anonymous().with_token(admin.token.as_deref());
        assert_eq!(alice.put(&path, once).await.ok(), first);
        assert_eq!(hook.told().len(), asked);
        // And from the first moment on it is asked.
        say(&alice, &room, "war again").await.refused(403, "M_FORBIDDEN");
        assert_eq!(texts(&alice, &room).await, ["hello", "peace", "once"]);

        let metrics = server.anonymous().get("/metrics").await.text;
        let refusals = metrics.lines().find(|line| {
            line.starts_with("comity_before_hook_requests_total{") && line.contains(r#"outcome="refused""#)
        });
        assert!(refusals.is_some_and(|line| line.ends_with(" 1")), "{refusals:?}");
        alice.get(WEBHOOKS).await.problem(403, "forbidden");
        assert!(!server.log().contains(&secret) && !admin.get(WEBHOOKS).await.text.contains(&secret));
        assert!(!server.log().contains("war again") && !server.log().contains("no war"));

        let path = format!("{WEBHOOKS}/{}", id.as_str().expect("a text"));
        assert_eq!(admin.delete(&path).await.status, 204);
        say(&alice, &room, "war at last").await.ok();
        admin.delete(&path).await.problem(404, "not_found");
    })
    .await;
}

#[tokio::test]
async fn each_act_is_asked_about_and_what_is_refused_is_not_done() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let admin = server.admin().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_public_room().await;
        let hook = Hook::start().await;
        hook.say(|_| Said::now(json!({ "decision": "refuse" })));
        let all = ["send", "invite", "join", "create_room", "register", "upload"];
        let (id, _) = ask(&admin, &hook, &all, "allow").await;

        let upload = async |client: &Client| {
            let path = "/_matrix/media/v3/upload?filename=../note.txt";
            client.raw(Method::POST, path, "text/plain", b"hello".to_vec()).await.expect("an answer")
        };
        let register = async |name: &str| {
            let client = server.anonymous();
            let mut wish = json!({ "username": name, "password": "a long password" });
            wish["auth"] = json!({ "type": "m.login.dummy", "session": client.post("register", wish.clone()).await.body["session"] });
            client.post("register", wish).await
        };
        let refusals = [
            say(&alice, &room, "hello").await,
            alice.post(&format!("rooms/{room}/invite"), json!({ "user_id": bob.user_id })).await,
            alice.set_state(&room, "m.room.member", &bob.user_id, json!({ "membership": "invite" })).await,
            bob.try_join_via(&room, &[]).await,
            bob.set_state(&room, "m.room.member", &bob.user_id, json!({ "membership": "join" })).await,
            bob.post("createRoom", json!({ "name": "Tea" })).await,
            register("carol").await,
            upload(&alice).await,
        ];
        for refusal in refusals {
            refusal.refused(403, "M_FORBIDDEN");
        }
        let expected = ["send", "invite", "invite", "join", "join", "create_room", "register", "upload"];
        assert_eq!(acts(&hook), expected);
        let questions: Vec<Value> = hook.told().iter().map(Told::json).collect();
        let carol = format!("@carol:{}", server.name());
        assert_eq!((&questions[1]["content"]["invited"], &questions[5]["content"]["name"]), (&json!([bob.user_id]), &json!("Tea")));
        assert_eq!((&questions[6]["sender"], &questions[6]["content"]), (&json!(carol), &json!({ "username": "carol" })));
        let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let file = json!({ "content_type": "text/plain", "file_name": "note.txt", "size": 5, "sha256": hello });
        assert_eq!(questions[7]["content"], file);
        assert_eq!(texts(&alice, &room).await, Vec::<String>::new());
        assert_eq!(alice.membership(&room, &bob.user_id).await, None);
        let mut carol = server.anonymous();
        assert_eq!(carol.try_login("carol", "a long password").await.status, 403);

        // What the server itself tells its people, nobody is asked about.
        let notice = json!({ "title": "Maintenance", "body": "at noon", "audience": { "kind": "all" } });
        let told = admin.post("/api/v1/broadcasts", notice).await;
        assert_eq!(told.status, 201, "{}", told.text);
        eventually("bob is in the room of notices", async || {
            bob.sync(None).await;
            let rooms = bob.get("joined_rooms").await.ok();
            (!rooms["joined_rooms"].as_array().expect("a list").is_empty()).then_some(())
        })
        .await;
        assert_eq!(acts(&hook).len(), expected.len());

        // A room for which somebody invites is asked about with all whom it invites, and then all is done.
        hook.say(|_| Said::now(json!({ "decision": "allow" })));
        let tea = bob.create_room(json!({ "name": "Tea", "invite": [alice.user_id] })).await;
        alice.join(&tea).await;
        upload(&alice).await.ok();
        register("carol").await.ok();
        carol.login("carol", "a long password").await;
        assert_eq!(acts(&hook)[expected.len()..], ["create_room", "invite", "join", "upload", "register"]);
        // Whom an administrator makes an account for, nobody is asked about.
        server.register_with_secret("dave").await;
        assert_eq!(acts(&hook).len(), expected.len() + 5);

        let hook = shown(&admin, &id).await;
        assert_eq!((&hook["when"], &hook["acts"], &hook["on_failure"]), (&json!("before"), &json!(all), &json!("allow")));
        for (change, field) in [
            (json!({ "acts": [] }), "acts"),
            (json!({ "acts": ["dance"] }), "acts"),
            (json!({ "deadline_ms": 6_000 }), "deadline_ms"),
            (json!({ "on_failure": null }), "on_failure"),
            (json!({ "keys": ["#"] }), "keys"),
            (json!({ "when": "after", "keys": ["#"] }), "acts"),
            (json!({ "url": "https://us:them@hook.test/" }), "url"),
        ] {
            let mut wish = json!({
                "when": "before", "url": "https://hook.test/", "acts": ["send"], "on_failure": "allow",
            });
            wish.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
            let problem = admin.post(WEBHOOKS, wish).await.problem(400, "invalid");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(field)), "{problem}");
        }
    })
    .await;
}

/// What is no answer.
fn failures() -> [(&'static str, Said); 5] {
    let allowed = Said::now(json!({ "decision": "allow" }));
    let large = json!({ "decision": "allow", "reason": "x".repeat(300 << 10) });
    [
        ("did not answer", Said { after: Duration::from_secs(5), ..allowed.clone() }),
        ("500", Said { status: 500, ..allowed.clone() }),
        ("302", Said { status: 302, ..allowed }),
        ("no JSON", Said::now("<html>")),
        ("256 KiB", Said::now(large)),
    ]
}

#[tokio::test]
async fn without_an_answer_it_goes_by_the_setting_and_soon_without_waiting() {
    let server = Server::start(&Engine::Sqlite).await;
    let admin = server.admin().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let hook = Hook::start().await;
    let well = |hook: &Hook| hook.say(|_| Said::now(json!({ "decision": "allow" })));
    for setting in ["allow", "refuse"] {
        let (id, _) = ask(&admin, &hook, &["send"], setting).await;
        let check = |answer: Answer| match setting {
            "allow" => drop(answer.ok()),
            _ => drop(answer.refused(503, "M_UNKNOWN")),
        };
        for (reason, said) in failures() {
            well(&hook);
            say(&alice, &room, "all is well").await.ok();
            assert!(shown(&admin, &id).await.get("last_error").is_none());
            hook.say(move |_| said.clone());
            let began = Instant::now();
            check(say(&alice, &room, reason).await);
            assert!(began.elapsed() < Duration::from_secs(4), "it is not waited for longer than it may take");
            let ill = shown(&admin, &id).await;
            assert!(ill["last_error"].as_str().is_some_and(|error| error.contains(reason)), "{reason}: {ill}");
            assert!(ill["failing_since"].is_i64() && ill.get("resting_until").is_none(), "{ill}");
        }

        // Failures in a row: from then on nobody waits, until it is well again.
        hook.say(|_| Said { after: Duration::from_secs(5), ..Said::now("") });
        while shown(&admin, &id).await.get("resting_until").is_none() {
            check(say(&alice, &room, "in vain").await);
            assert!(hook.told().len() < 100, "it is never left alone");
        }
        let asked = hook.told().len();
        check(say(&alice, &room, "nobody is asked").await);
        assert_eq!(hook.told().len(), asked);
        well(&hook);
        eventually("it is asked again", async || {
            let answer = say(&alice, &room, "anybody there?").await;
            (hook.told().len() > asked).then(|| answer.ok())
        })
        .await;
        let again = shown(&admin, &id).await;
        assert!(again.get("failing_since").is_none() && again.get("resting_until").is_none(), "{again}");
        let path = format!("{WEBHOOKS}/{}", id.as_str().expect("a text"));
        assert_eq!(admin.delete(&path).await.status, 204);
    }
    let in_vain = texts(&alice, &room).await.iter().filter(|text| *text == "nobody is asked").count();
    assert_eq!(in_vain, 1, "where nothing is done without an answer, nothing was said");
    assert!(server.log().contains("failed too often in a row"));
}

#[tokio::test]
async fn several_are_asked_one_after_the_other_and_only_who_acts_waits() {
    let server = Server::start(&Engine::Sqlite).await;
    let admin = server.admin().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let (first, second) = (Hook::start().await, Hook::start().await);
    let adds = |hook: &Hook, word: &'static str| {
        hook.say(move |told| {
            let text = told.json()["content"]["body"].as_str().unwrap_or_default().to_owned();
            let content = json!({ "msgtype": "m.text", "body": format!("{text} {word}") });
            Said::now(json!({ "decision": "change", "content": content }))
        });
    };
    ask(&admin, &first, &["send"], "refuse").await;
    ask(&admin, &second, &["send"], "allow").await;
    adds(&first, "two");
    adds(&second, "three");
    say(&alice, &room, "one").await.ok();
    assert_eq!(texts(&alice, &room).await, ["one two three"]);
    let questions = [first.told(), second.told()].map(|told| told.last().expect("it was asked").json());
    assert_eq!((&questions[0]["id"], &questions[0]["content"]["body"]), (&questions[1]["id"], &json!("one")));
    assert_eq!(questions[1]["content"]["body"], "one two");
    first.say(|_| Said::now(json!({ "decision": "refuse", "reason": "enough" })));
    say(&alice, &room, "more").await.refused(403, "M_FORBIDDEN");
    assert_eq!(second.told().len(), 1, "whom one refused nobody else is asked about");

    // Alice waits for an answer, and Bob says something in the same room meanwhile.
    let slow = alice.user_id.clone();
    first.say(move |told| {
        let after = if told.json()["sender"] == *slow { Duration::from_secs(5) } else { Duration::ZERO };
        Said { after, ..Said::now(json!({ "decision": "allow" })) }
    });
    second.say(|_| Said::now(json!({ "decision": "allow" })));
    let asked = first.told().len();
    let waiting = {
        let (alice, room) = (alice.another(), room.clone());
        tokio::spawn(async move { (say(&alice, &room, "I wait").await, Instant::now()) })
    };
    eventually("alice's message is asked about", async || (first.told().len() > asked).then_some(())).await;
    say(&bob, &room, "I don't").await.ok();
    let said = Instant::now();
    let (silent, ended) = waiting.await.expect("it ends");
    silent.refused(503, "M_UNKNOWN");
    assert!(said < ended, "bob waited for alice");
    assert_eq!(texts(&alice, &room).await, ["one two three", "I don't"]);
}

#[tokio::test]
async fn who_is_asked_by_one_node_is_asked_by_the_other() {
    let Some(engine) = Engine::postgres() else {
        eprintln!("SKIPPED: nodes share a PostgreSQL, and COMITY_TEST_POSTGRES_URL isn't set");
        return;
    };
    let first = Server::start(&engine).await;
    let second = first.another_node().await;
    let admin = first.admin().await;
    let alice = second.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let hook = Hook::start().await;
    hook.say(|_| Said::now(json!({ "decision": "refuse" })));
    let (id, secret) = ask(&admin, &hook, &["send"], "allow").await;
    let made = Instant::now();
    eventually("the other node asks, too", async || (say(&alice, &room, "hello").await.status == 403).then_some(()))
        .await;
    eprintln!("the other node asked after {:?}", made.elapsed());
    assert!(hook.told().last().expect("it was asked").is_signed_with(&secret));
    assert_eq!(admin.delete(&format!("{WEBHOOKS}/{}", id.as_str().expect("a text"))).await.status, 204);
    eventually("nobody is asked any more", async || (say(&alice, &room, "hello").await.status == 200).then_some(()))
        .await;
}
