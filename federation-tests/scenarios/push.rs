//! Gateways and mailboxes that are told what notifies somebody.

use federation_tests::{
    Client, Engine, Hook, MailSink, Network, Said, Server, ServerBuilder, enc, eventually, on_each_engine,
};
use serde_json::{Value, json};

fn gateway_of(hook: &Hook) -> String {
    hook.url().replace("/hook", "/_matrix/push/v1/notify")
}

fn wish(hook: &Hook, pushkey: &str) -> Value {
    json!({
        "kind": "http", "app_id": "org.example.app", "pushkey": pushkey, "app_display_name": "App",
        "device_display_name": "Phone", "lang": "en", "data": { "url": gateway_of(hook), "brand": "x" },
    })
}

async fn set(client: &Client, wish: Value) {
    client.post("pushers/set", wish).await.ok();
}

fn builder(engine: &Engine) -> ServerBuilder {
    Server::builder(engine).set("outbound", "allow_private_addresses", true)
}

/// What a gateway was told so far, without what surrounds it.
fn told(hook: &Hook) -> Vec<Value> {
    hook.told().iter().map(|told| told.json()["notification"].clone()).collect()
}

fn told_of(hook: &Hook, event_id: &str) -> Vec<Value> {
    told(hook).into_iter().filter(|told| told["event_id"] == event_id).collect()
}

async fn until_told(hook: &Hook, event_id: &str) -> Value {
    eventually("it is pushed", async || told_of(hook, event_id).pop()).await
}

/// The latest badge that a gateway was told.
fn badge(hook: &Hook) -> Option<i64> {
    told(hook).last().and_then(|told| told["counts"]["unread"].as_i64())
}

async fn until_badge(hook: &Hook, expected: i64) {
    eventually("the badge is right", async || (badge(hook) == Some(expected)).then_some(())).await;
}

async fn read(client: &Client, room: &str, event_id: &str) {
    client.post(&format!("rooms/{}/receipt/m.read/{}", enc(room), enc(event_id)), json!({})).await.ok();
}

/// Two people in a room.
async fn pair(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "name": "Mission Control" })).await;
    alice.invite(&room, &bob).await;
    bob.join(&room).await;
    (alice, bob, room)
}

#[tokio::test]
async fn a_gateway_is_told_what_notifies_with_badges_that_are_right() {
    on_each_engine(async |engine| {
        let server = builder(&engine).start().await;
        let (alice, bob, room) = pair(&server).await;
        alice
            .put(&format!("profile/{}/displayname", enc(&alice.user_id)), json!({ "displayname": "Major Tom" }))
            .await
            .ok();
        let before = alice.say(&room, "before there was a pusher").await;
        let (full, ids) = (Hook::start().await, Hook::start().await);
        full.say(|_| Said::now(json!({ "rejected": [] })));
        set(&bob, wish(&full, "full")).await;
        let mut ids_only = wish(&ids, "ids");
        ids_only["data"]["format"] = "event_id_only".into();
        set(&bob, ids_only).await;

        let first = alice.say(&room, "hello").await;
        let pushed = until_told(&full, &first).await;
        assert_eq!(pushed["room_id"], room);
        assert_eq!(pushed["type"], "m.room.message");
        assert_eq!(pushed["sender"], alice.user_id);
        assert_eq!(pushed["sender_display_name"], "Major Tom");
        assert_eq!(pushed["room_name"], "Mission Control");
        assert_eq!(pushed["content"]["body"], "hello");
        assert_eq!(pushed["counts"], json!({ "unread": 1 }));
        let device = &pushed["devices"][0];
        assert_eq!((&device["app_id"], &device["pushkey"]), (&json!("org.example.app"), &json!("full")));
        assert_eq!(device["data"], json!({ "brand": "x" }));
        assert!(device["tweaks"].is_object() && device["pushkey_ts"].as_i64() > Some(1_600_000_000), "{device}");
        let pushed = until_told(&ids, &first).await;
        let names: Vec<&String> = pushed.as_object().expect("an object").keys().collect();
        assert_eq!(names, ["counts", "devices", "event_id", "prio", "room_id"]);
        assert_eq!(pushed["devices"][0]["data"], json!({ "brand": "x", "format": "event_id_only" }));
        assert!(told_of(&full, &before).is_empty(), "a pusher is told what happens from now on");

        // Rooms count, and an invitation is one: it is told of as what it is.
        let second = alice.say(&room, "still there?").await;
        assert_eq!(until_told(&full, &second).await["counts"]["unread"], 1);
        let other = alice.create_room(json!({ "name": "Ground" })).await;
        alice.invite(&other, &bob).await;
        let invitation = eventually("the invitation is pushed", async || {
            told(&full).into_iter().find(|told| told["type"] == "m.room.member")
        })
        .await;
        assert_eq!((&invitation["user_is_target"], &invitation["membership"]), (&json!(true), &json!("invite")));
        assert_eq!((&invitation["room_name"], &invitation["prio"]), (&json!("Ground"), &json!("high")));
        assert_eq!(invitation["counts"]["unread"], 2);
        assert_eq!(invitation["devices"][0]["tweaks"]["sound"], "default");

        // What is encrypted may be anything.
        let sealed =
            alice.send(&room, "m.room.encrypted", json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x" }));
        let sealed = sealed.await.ok()["event_id"].as_str().expect("an id").to_owned();
        assert_eq!(until_told(&full, &sealed).await["prio"], "high");

        // One's own words, and what rules are silent about, notify nobody.
        let own = bob.say(&room, "I am here").await;
        let notice = alice.send(&room, "m.room.message", json!({ "msgtype": "m.notice", "body": "bleep" })).await.ok();
        let last = alice.say(&room, "good").await;
        until_told(&full, &last).await;
        assert!(told_of(&full, &own).is_empty());
        assert!(told_of(&full, notice["event_id"].as_str().expect("an id")).is_empty());

        // What was read is off the screen, and so is an invitation that was declined.
        read(&bob, &room, &last).await;
        until_badge(&full, 1).await;
        bob.leave(&other).await;
        until_badge(&full, 0).await;
        let again = alice.say(&room, "one more").await;
        assert_eq!(until_told(&full, &again).await["counts"]["unread"], 1);
        read(&bob, &room, &again).await;
        until_badge(&full, 0).await;
        until_badge(&ids, 0).await;
        assert!(told(&ids).last().expect("it was told").get("event_id").is_none());
        // Each was told once.
        for event in [&first, &second, &sealed, &last, &again] {
            assert_eq!(told_of(&full, event).len(), 1, "{event}");
        }
        for secret in ["still there?", "good"] {
            assert!(!server.log().contains(secret), "the log says what was said");
        }
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_is_away_is_told_when_it_is_back_also_after_a_crash() {
    on_each_engine(async |engine| {
        let mut server = builder(&engine).start().await;
        let (alice, bob, room) = pair(&server).await;
        let hook = Hook::start().await;
        hook.answer(502);
        set(&bob, wish(&hook, "key")).await;
        let first = alice.say(&room, "one").await;
        until_told(&hook, &first).await;
        let read_meanwhile = alice.say(&room, "two").await;
        read(&bob, &room, &read_meanwhile).await;
        let later = alice.say(&room, "three").await;
        server.restart().await;
        let after = alice.say(&room, "four").await;
        let asked = hook.told().len();
        assert!(asked < 12, "it is asked less and less often: {asked}");
        hook.answer(200);
        until_told(&hook, &after).await;
        until_told(&hook, &later).await;
        let since = &told(&hook)[asked..];
        let of = |event_id: &str| since.iter().filter(|told| told["event_id"] == event_id).count();
        assert_eq!((of(&first), of(&read_meanwhile)), (0, 0), "what was read meanwhile is no news");
        assert_eq!((of(&later), of(&after)), (1, 1));
        assert_eq!(badge(&hook), Some(1));
    })
    .await;
}

#[tokio::test]
async fn what_is_said_while_the_server_dies_is_pushed_at_least_once() {
    on_each_engine(async |engine| {
        let mut server = builder(&engine).start().await;
        let (alice, bob, room) = pair(&server).await;
        let hook = Hook::start().await;
        set(&bob, wish(&hook, "key")).await;
        let mut said = Vec::new();
        for round in 0..3 {
            for number in 0..5 {
                said.push(alice.say(&room, &format!("{round}.{number}")).await);
            }
            server.restart().await;
        }
        for event in &said {
            until_told(&hook, event).await;
        }
        let asked = hook.told().len();
        assert!(asked <= said.len() + 3 * 2, "once each, but for what was on the way: {asked}");
    })
    .await;
}

#[tokio::test]
async fn a_pushkey_that_a_gateway_rejects_is_forgotten_and_pushers_end_with_sessions() {
    on_each_engine(async |engine| {
        let server = builder(&engine).start().await;
        let (alice, bob, room) = pair(&server).await;
        let hook = Hook::start().await;
        set(&bob, wish(&hook, "one")).await;
        set(&bob, wish(&hook, "two")).await;
        hook.say(|told| {
            // Also one that it was never told.
            let pushkey = told.json()["notification"]["devices"][0]["pushkey"].clone();
            Said::now(json!({ "rejected": if pushkey == "one" { json!(["one", "two"]) } else { json!(["three"]) } }))
        });
        alice.say(&room, "hello").await;
        let keys = async || {
            let pushers = bob.get("pushers").await.ok();
            let all = pushers["pushers"].as_array().expect("a list").clone();
            all.iter().map(|pusher| pusher["pushkey"].clone()).collect::<Vec<_>>()
        };
        eventually("one is gone", async || (keys().await == [json!("two")]).then_some(())).await;
        let next = alice.say(&room, "hello again").await;
        assert_eq!(until_told(&hook, &next).await["devices"][0]["pushkey"], "two");

        // A session that set a pusher ends, by its user or with the password: the pusher goes along.
        let phone = server.login("bob").await;
        set(&phone, wish(&hook, "phone")).await;
        assert_eq!(keys().await.len(), 2);
        phone.post("logout", json!({})).await.ok();
        assert_eq!(keys().await, [json!("two")]);
        let phone = server.login("bob").await;
        set(&phone, wish(&hook, "phone")).await;
        let auth = json!({
            "type": "m.login.password", "identifier": { "type": "m.id.user", "user": bob.user_id }, "password": "bob's password",
        });
        let wish = json!({ "new_password": "another password", "logout_devices": true, "auth": auth });
        bob.post("account/password", wish).await.ok();
        assert_eq!(keys().await, [json!("two")]);
    })
    .await;
}

#[tokio::test]
async fn what_comes_from_another_domain_is_pushed_invitations_too() {
    let network = Network::new();
    let a = network.server(&Engine::Sqlite, "a.test").await.start().await;
    let b = network.server(&Engine::Sqlite, "b.test").await.set("outbound", "allow_private_addresses", true);
    let b = b.start().await;
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let hook = Hook::start().await;
    set(&bob, wish(&hook, "key")).await;
    let room = alice.create_room(json!({ "name": "Far away" })).await;
    alice.invite(&room, &bob).await;
    let invitation = eventually("the invitation is pushed", async || told(&hook).pop()).await;
    assert_eq!((&invitation["type"], &invitation["user_is_target"]), (&json!("m.room.member"), &json!(true)));
    assert_eq!((&invitation["room_id"], &invitation["room_name"]), (&json!(room), &json!("Far away")));
    assert_eq!(invitation["counts"]["unread"], 1);
    bob.join_via(&room, &["a.test"]).await;
    let said = alice.say(&room, "welcome").await;
    let pushed = until_told(&hook, &said).await;
    assert_eq!((&pushed["content"]["body"], &pushed["sender"]), (&json!("welcome"), &json!(alice.user_id)));
}

#[tokio::test]
async fn nobody_makes_this_server_push_into_its_own_network() {
    let server = Server::start(&Engine::Sqlite).await;
    let (alice, bob, room) = pair(&server).await;
    let hook = Hook::start().await;
    set(&bob, wish(&hook, "key")).await;
    alice.say(&room, "hello").await;
    eventually("it is tried", async || server.log().contains("a gateway does not take").then_some(())).await;
    assert!(hook.told().is_empty());
}

#[tokio::test]
async fn two_nodes_push_once_and_one_goes_on_when_the_other_dies() {
    let Some(engine) = Engine::postgres() else { return };
    let first = builder(&engine).start().await;
    let mut second = first.another_node().await;
    let (alice, bob, room) = pair(&first).await;
    let bob_there = Client::new(&second.url()).with_token(bob.token.as_deref());
    let hook = Hook::start().await;
    set(&bob_there, wish(&hook, "key")).await;
    let mut said = Vec::new();
    for number in 0..10 {
        said.push(alice.say(&room, &format!("{number}")).await);
    }
    for event in &said {
        until_told(&hook, event).await;
    }
    read(&bob_there, &room, said.last().expect("much was said")).await;
    until_badge(&hook, 0).await;
    for event in &said {
        assert_eq!(told_of(&hook, event).len(), 1, "{event}");
    }
    second.kill();
    let last = alice.say(&room, "who is there?").await;
    assert_eq!(until_told(&hook, &last).await["counts"]["unread"], 1);
}

fn with_mail(builder: ServerBuilder, sink: &MailSink) -> ServerBuilder {
    builder
        .set("email", "smtp_host", "127.0.0.1")
        .set("email", "smtp_port", i64::from(sink.port()))
        .set("email", "tls", "none")
        .set("email", "from", "Test <no-reply@a.test>")
        .set("", "public_baseurl", "https://chat.a.test")
        .set("push", "email_after", "2s")
        .set("push", "email_every", "3s")
}

#[tokio::test]
async fn a_letter_tells_of_what_was_not_read_and_its_link_ends_that() {
    on_each_engine(async |engine| {
        let sink = MailSink::start().await;
        let server = with_mail(builder(&engine), &sink).start().await;
        let (alice, bob, room) = pair(&server).await;
        let email = "bob@mail.example";
        let mailbox = json!({
            "kind": "email", "app_id": "m.email", "pushkey": email, "app_display_name": "Email Notifications",
            "device_display_name": email, "lang": "en", "data": {},
        });
        // Only an address that is shown to be one's own is written to.
        bob.post("pushers/set", mailbox.clone()).await.refused(400, "M_THREEPID_NOT_FOUND");
        bob.post("/api/v1/users/me/email/code", json!({ "email": email })).await;
        let code = sink.next_to(email).await.code();
        let proof = json!({ "email": email, "code": code, "password": "bob's password" });
        bob.put("/api/v1/users/me/email", proof).await.ok();
        alice.post("pushers/set", mailbox.clone()).await.refused(400, "M_THREEPID_NOT_FOUND");
        set(&bob, mailbox).await;

        // What is read in time is written of to nobody.
        let seen = alice.say(&room, "you see this").await;
        read(&bob, &room, &seen).await;
        alice.say(&room, "and not that").await;
        alice.say(&room, "nor this").await;
        let letter = sink.next_to(email).await;
        assert!(letter.text.contains("Subject: You have not read 2 messages in Mission Control"), "{}", letter.text);
        assert!(letter.text.contains("and not that") && letter.text.contains("nor this"), "{}", letter.text);
        assert!(!letter.text.contains("you see this"), "{}", letter.text);
        assert!(letter.text.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click"), "{}", letter.text);

        // Looking at the link ends nothing, pressing the button does, and a link that was changed is none.
        let at = letter.text.rfind("https://chat.a.test/_synapse").expect("there is a link in it");
        let link =
            letter.text[at..].split_whitespace().next().expect("a link").trim_start_matches("https://chat.a.test");
        let nobody = server.anonymous();
        let wrong = format!("{}AAAA", &link[..link.len() - 4]);
        assert_eq!(nobody.post(&wrong, json!({})).await.status, 404);
        let page = nobody.get(link).await;
        assert!(page.status == 200 && page.text.contains(email), "{}", page.text);
        assert_eq!(bob.get("pushers").await.ok()["pushers"].as_array().map(Vec::len), Some(1));
        assert_eq!(nobody.post(link, json!({})).await.status, 200);
        assert_eq!(bob.get("pushers").await.ok()["pushers"], json!([]));
        assert_eq!(nobody.get(link).await.status, 404);
        let letters = sink.letters().len();
        alice.say(&room, "nobody is written of this").await;
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        assert_eq!(sink.letters().len(), letters);
        assert!(!server.log().contains(email), "the log says what is nobody's to know");
    })
    .await;
}
