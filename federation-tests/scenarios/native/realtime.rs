//! What is told on a WebSocket as it happens: all of it, once, in order, whatever breaks.

use std::time::Duration;

use federation_tests::{Client, Closed, Server, Socket, eventually, on_each_engine};
use serde_json::{Value, json};

/// Alice and Bob in one room.
async fn pair(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    (alice, bob, room)
}

async fn say_many(client: &Client, room: &str, from: usize, count: usize) -> Vec<String> {
    let texts: Vec<String> = (from..from + count).map(|number| format!("number {number}")).collect();
    for text in &texts {
        client.say(room, text).await;
    }
    texts
}

fn closed(code: u16, reason: &str) -> Closed {
    Closed { code, reason: reason.to_owned() }
}

async fn ticket_of(client: &Client) -> String {
    let answer = client.post("/api/v1/realtime/tickets", json!({})).await.ok();
    assert_eq!(answer["expires_in_ms"], 30_000);
    answer["ticket"].as_str().expect("it is a ticket").to_owned()
}

#[tokio::test]
async fn what_is_said_arrives_on_every_device_and_can_be_answered_there() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let (alice, bob, room) = pair(&server).await;
        let laptop = server.login("bob").await;
        let (mut on_phone, mut on_laptop) = (Socket::open(&bob).await, Socket::open(&laptop).await);
        assert_eq!(on_phone.hello["user"]["address"], "bob@a.test");
        let said = alice.say(&room, "tea?").await;
        for socket in [&mut on_phone, &mut on_laptop] {
            let message = socket.next("message").await["data"].clone();
            assert_eq!((&message["id"], &message["conversation_id"]), (&json!(said), &json!(room)));
            assert_eq!((&message["type"], &message["content"]["text"]), (&json!("text"), &json!("tea?")));
            assert_eq!(message["sender"], json!({ "user_id": alice.user_id, "address": "alice@a.test" }));
        }

        // Bob answers on his phone, and again since he isn't sure.
        let mut since = alice.now().await;
        let send = json!({ "type": "send", "msg_id": "m1", "conversation_id": room, "type_of": null });
        on_phone.say(send).await;
        let refused = on_phone.next("refused").await;
        assert_eq!((&refused["msg_id"], &refused["problem"]["code"]), (&json!("m1"), &json!("invalid")));
        let send = json!({
            "type": "send", "msg_id": "m1", "conversation_id": room,
            "message": { "type": "text", "content": { "text": "gladly" } },
        });
        on_phone.say(send.clone()).await;
        let sent = on_phone.next("sent").await;
        on_phone.say(send).await;
        let again = on_phone.next("sent").await;
        assert_eq!((&sent["msg_id"], &sent["id"]), (&json!("m1"), &again["id"]));
        let id = sent["id"].as_str().expect("it has an id");
        let event = alice.sync_until_event(&mut since, &room, id).await;
        assert_eq!(event["content"]["body"], "gladly");
        let message = on_laptop.next("message").await["data"].clone();
        assert_eq!((&message["id"], message.get("msg_id")), (&json!(id), None), "only its sender called it so");

        // What passes by itself.
        let mut of_alice = Socket::open(&alice).await;
        on_phone.say(json!({ "type": "typing", "conversation_id": room })).await;
        let typing = of_alice.next("typing").await;
        assert_eq!(typing["data"]["users"][0]["address"], "bob@a.test");
        on_laptop.say(json!({ "type": "read", "conversation_id": room, "message_id": said })).await;
        let receipt = of_alice.next("receipt").await["data"].clone();
        assert_eq!((&receipt["user"]["address"], &receipt["message_id"]), (&json!("bob@a.test"), &json!(said)));
        let own = on_phone.next("receipt").await["data"].clone();
        assert_eq!(own["unread"]["messages"], 0, "{own}");
        let other = alice.create_room(json!({ "name": "Cake" })).await;
        alice.invite(&other, &bob).await;
        let invited = on_phone.next("conversation").await["data"].clone();
        assert_eq!((&invited["conversation_id"], &invited["membership"]), (&json!(other), &json!("invite")));

        // Who is there.
        let stranger = server.register("stranger").await;
        let names = json!({ "type": "presence", "subscribe": ["bob@a.test", stranger.user_id], "id": 7 });
        of_alice.say(names).await;
        let subscribed = of_alice.next("subscribed").await;
        assert_eq!((&subscribed["id"], &subscribed["user_ids"]), (&json!(7), &json!([bob.user_id])));
        assert_eq!(subscribed["refused"], json!([stranger.user_id]), "they share no room");
        assert_eq!(of_alice.next("presence").await["data"]["status"], "online");
        let away = json!({ "presence": "unavailable", "status_msg": "lunch" });
        bob.put(&format!("presence/{}/status", bob.user_id), away).await.ok();
        let presence = of_alice.find(|frame| frame["data"]["status"] == "away").await["data"].clone();
        assert_eq!(
            (&presence["user"]["address"], &presence["status_message"]),
            (&json!("bob@a.test"), &json!("lunch"))
        );
    })
    .await;
}

#[tokio::test]
async fn what_was_missed_comes_once_and_in_order_after_a_break_and_after_a_crash() {
    on_each_engine(async |engine| {
        let mut server = Server::builder(&engine).set("realtime", "most_missed", 60).start().await;
        let (alice, bob, room) = pair(&server).await;
        let mut socket = Socket::open(&bob).await;
        let first = say_many(&alice, &room, 0, 3).await;
        assert_eq!(socket.texts(3).await, first);
        let position = socket.break_off();

        let missed = say_many(&alice, &room, 3, 50).await;
        let mut socket = Socket::resume(&bob, &position).await;
        assert_eq!(socket.hello["resumed"], true);
        // It breaks again in the middle of it.
        assert_eq!(socket.texts(20).await, missed[..20]);
        let mut socket = Socket::resume(&bob, &socket.break_off()).await;
        assert_eq!(socket.texts(30).await, missed[20..]);
        assert!(socket.is_quiet(Duration::from_millis(300)).await, "nothing comes twice");

        server.kill();
        assert_eq!(socket.closed().await.code, 1006);
        server.restart().await;
        let after = say_many(&alice, &room, 53, 20).await;
        let mut resumed = Socket::resume(&bob, &socket.break_off()).await;
        assert_eq!(resumed.texts(20).await, after);
        assert!(resumed.is_quiet(Duration::from_millis(300)).await, "nothing comes twice");

        // Too much, and what this server never told.
        let position = resumed.break_off();
        say_many(&alice, &room, 73, 70).await;
        for (position, reason) in
            [(position.as_str(), "too_old"), ("s999999999", "unknown_position"), ("x", "unknown_position")]
        {
            let mut socket = Socket::resume(&bob, position).await;
            assert_eq!(socket.hello["resumed"], false);
            let reset = socket.next("reset").await;
            assert_eq!(reset["data"]["reason"], reason);
            let text = format!("after {position}");
            alice.say(&room, &text).await;
            assert_eq!(socket.texts(1).await, [text], "it goes on from now");
        }
    })
    .await;
}

#[tokio::test]
async fn who_comes_and_goes_is_told_of_what_was_said_meanwhile_and_of_nothing_else() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_public_room().await;
        let position = Socket::open(&bob).await.break_off();
        alice.say(&room, "before").await;
        bob.join(&room).await;
        alice.say(&room, "inside").await;
        bob.leave(&room).await;
        alice.say(&room, "outside").await;
        bob.join(&room).await;
        alice.say(&room, "again").await;
        let mut socket = Socket::resume(&bob, &position).await;
        let mut told = Vec::new();
        while told.last().is_none_or(|last| last != "again") {
            let frame = socket.find(|frame| frame["type"] == "message" || frame["type"] == "conversation").await;
            let data = &frame["data"];
            let what = data["membership"].as_str().or(data["content"]["text"].as_str());
            told.push(what.expect("it says something").to_owned());
        }
        assert_eq!(told, ["join", "inside", "leave", "join", "again"]);
        assert!(socket.is_quiet(Duration::from_millis(200)).await);
    })
    .await;
}

#[tokio::test]
async fn a_ticket_opens_one_socket_and_who_may_not_open_one_is_told_before() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine).set("realtime", "max_connections_per_user", 2).start().await;
        let (_, bob, _) = pair(&server).await;
        let ticket = ticket_of(&bob).await;
        // A request that can't become a WebSocket doesn't use it up.
        let plain = bob.with_token(None).get(&format!("/api/v1/realtime?ticket={ticket}")).await;
        plain.problem(426, "upgrade_required");
        let socket = Socket::with_ticket(&bob, &ticket).await.expect("it is new");
        assert_eq!(socket.hello["user"]["user_id"], bob.user_id);
        let code = |refused: (u16, Value)| (refused.0, refused.1["code"].as_str().unwrap_or_default().to_owned());
        let refused = Socket::with_ticket(&bob, &ticket).await.map(drop).map_err(code);
        assert_eq!(refused, Err((401, "unknown_ticket".to_owned())), "it was used");
        for (token, expected) in [(None, "missing_token"), (Some("cat_nonsense"), "unknown_token")] {
            let refused = Socket::try_open(&bob, "", token).await.map(drop).map_err(code);
            assert_eq!(refused, Err((401, expected.to_owned())));
        }

        // As many as one may have. The same device makes place for itself, another one is refused.
        let mut second = Socket::open(&bob).await;
        let laptop = server.login("bob").await;
        let refused = Socket::try_open(&laptop, "", laptop.token.as_deref()).await.map(drop).map_err(code);
        assert_eq!(refused, Err((429, "too_many_connections".to_owned())));
        let mut socket = socket;
        let _third = Socket::open(&bob).await;
        assert_eq!(socket.closed().await, closed(4009, "superseded"));
        second.say(json!({ "type": "ping" })).await;
        second.next("pong").await;
    })
    .await;
}

#[tokio::test]
async fn a_session_that_ends_takes_its_sockets_with_it_and_so_does_the_server() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let (_, bob, _) = pair(&server).await;
        let (tablet, laptop) = (server.login("bob").await, server.login("bob").await);
        let (mut on_phone, mut on_tablet) = (Socket::open(&bob).await, Socket::open(&tablet).await);
        let (mut on_laptop, ticket) = (Socket::open(&laptop).await, ticket_of(&tablet).await);
        tablet.post("logout", json!({})).await.ok();
        assert_eq!(on_tablet.closed().await, closed(4001, "session_ended"));
        let refused = Socket::with_ticket(&tablet, &ticket).await.expect_err("its session has ended");
        assert_eq!(refused.0, 401);

        // Another password, which ends all other sessions.
        let auth = json!({
            "type": "m.login.password", "password": "bob's password",
            "identifier": { "type": "m.id.user", "user": "bob" },
        });
        let change = json!({ "new_password": "a new one for bob", "logout_devices": true, "auth": auth });
        bob.post("account/password", change).await.ok();
        assert_eq!(on_laptop.closed().await, closed(4001, "session_ended"));
        on_phone.say(json!({ "type": "ping", "id": "still here" })).await;
        assert_eq!(on_phone.next("pong").await["id"], "still here");

        server.terminate();
        assert_eq!(on_phone.closed().await, closed(1001, "going_away_resume"));
        assert!(server.ended().await.success());
    })
    .await;
}

#[tokio::test]
async fn frames_that_make_no_sense_are_answered_and_too_many_or_too_large_ones_end_it() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine)
            .set("realtime.frames", "per_second", 100.0)
            .set("realtime.frames", "burst", 30)
            .set("realtime", "max_frame", "70 KiB")
            .start()
            .await;
        let (_, bob, room) = pair(&server).await;
        let mut socket = Socket::open(&bob).await;
        for (text, code) in [
            ("no JSON", "not_json"),
            ("[]", "invalid"),
            (r#"{"type":"sing"}"#, "unknown_frame"),
            (r#"{"type":"ack"}"#, "invalid"),
            (r#"{"type":"ack","position":"x"}"#, "invalid"),
            (r#"{"type":"ping","loud":true}"#, "invalid"),
            (r#"{"type":"typing","conversation_id":"!nowhere:a.test"}"#, "not_found"),
            (r#"{"type":"read","conversation_id":"tea","message_id":"$1"}"#, "invalid"),
        ] {
            socket.say_text(text).await;
            let error = socket.next("error").await;
            assert_eq!(error["problem"]["code"], code, "{text}: {error}");
            assert!(error["problem"]["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        }
        socket.say_bytes(b"{}").await;
        assert_eq!(socket.next("error").await["problem"]["code"], "unsupported");
        let long = "x".repeat(66_000);
        let send = json!({
            "type": "send", "msg_id": "long", "conversation_id": room, "message": { "content": { "text": long } },
        });
        socket.say(send).await;
        assert_eq!(socket.next("refused").await["problem"]["code"], "too_large");
        socket.say(json!({ "type": "ping" })).await;
        socket.next("pong").await;

        for _ in 0..40 {
            socket.say(json!({ "type": "ping" })).await;
        }
        let error = socket.next("error").await;
        assert_eq!(error["problem"]["code"], "rate_limited");
        assert!(error["problem"]["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0));
        let mut flood = Socket::open(&bob).await;
        for _ in 0..400 {
            flood.say(json!({ "type": "ping" })).await;
        }
        assert_eq!(flood.closed().await, closed(1008, "too_many_frames"));

        let mut large = Socket::open(&bob).await;
        large.say_text(&"x".repeat(80_000)).await;
        assert_eq!(large.closed().await, closed(1009, "too_large"));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_acknowledges_nothing_gets_no_more_and_goes_on_from_where_it_was() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine)
            .set("realtime", "stall_timeout", "1500ms")
            .set("realtime", "window", 32)
            .start()
            .await;
        let (alice, bob, room) = pair(&server).await;
        let mut forgetful = Socket::open(&bob).await;
        forgetful.acknowledges = false;
        let said = say_many(&alice, &room, 0, 50).await;
        assert_eq!(forgetful.texts(32).await, said[..32]);
        assert_eq!(forgetful.closed().await, closed(4429, "too_slow_resume"));
        let mut resumed = Socket::resume(&bob, &forgetful.break_off()).await;
        assert_eq!(resumed.texts(18).await, said[32..]);
        assert!(resumed.is_quiet(Duration::from_millis(200)).await);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_let_go_and_goes_on_from_where_it_was() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine)
            .set("realtime", "stall_timeout", "1500ms")
            .set("realtime", "heartbeat", "1h")
            .set("realtime", "window", 1_000)
            .start()
            .await;
        let (alice, bob, room) = pair(&server).await;
        // What it doesn't take lies in the kernel as far as that goes, and then nowhere.
        let stuck = Socket::open(&bob).await;
        let position = stuck.position.clone();
        let filling = "x".repeat(60_000);
        let mut said = Vec::new();
        for number in 0..300 {
            said.push(format!("{number}"));
            alice.say(&room, &format!("{number} {filling}")).await;
        }
        eventually("the one that doesn't read is let go", async || {
            (server.figure("comity_realtime_connections").await == 0.0).then_some(())
        })
        .await;
        let told = server.figure("comity_realtime_frames_total").await;
        assert!(told < 300.0, "{told} frames were told to somebody who took nothing");
        let mut resumed = Socket::resume(&bob, &position).await;
        let texts = resumed.texts(300).await;
        let numbers: Vec<&str> = texts.iter().filter_map(|text| text.split(' ').next()).collect();
        assert_eq!(numbers, said, "each once, in order");
        drop(stuck);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_shows_no_sign_of_life_is_let_go_and_one_that_does_stays() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine).set("realtime", "heartbeat", "400ms").start().await;
        let (alice, bob, room) = pair(&server).await;
        let mut alive = Socket::open(&alice).await;
        let dead = Socket::open(&bob).await;
        assert_eq!(server.figure("comity_realtime_connections").await, 2.0);
        // Whoever reads answers pings; whoever doesn't read doesn't.
        assert!(alive.is_quiet(Duration::from_secs(2)).await);
        eventually("only the living is left", async || {
            (server.figure("comity_realtime_connections").await == 1.0).then_some(())
        })
        .await;
        bob.say(&room, "I'm back").await;
        assert_eq!(alive.texts(1).await, ["I'm back"]);
        drop(dead);
    })
    .await;
}

#[tokio::test]
async fn one_deployment_on_two_nodes_is_one() {
    let Some(engine) = federation_tests::Engine::postgres() else {
        eprintln!("SKIPPED: nodes share a PostgreSQL, and COMITY_TEST_POSTGRES_URL isn't set");
        return;
    };
    let first = Server::start(&engine).await;
    let second = first.another_node().await;
    let (alice, bob, room) = pair(&first).await;
    let at_second = |client: &Client| {
        let mut there = second.anonymous();
        there.user_id.clone_from(&client.user_id);
        there.device_id.clone_from(&client.device_id);
        there.token.clone_from(&client.token);
        there
    };
    let bob_there = at_second(&bob);
    // A ticket of one node opens a socket at the other, and at none a second time.
    let ticket = ticket_of(&bob).await;
    let mut socket = Socket::with_ticket(&bob_there, &ticket).await.expect("it is new");
    for client in [&bob, &bob_there] {
        assert_eq!(Socket::with_ticket(client, &ticket).await.expect_err("it was used").0, 401);
    }
    let said = say_many(&alice, &room, 0, 10).await;
    assert_eq!(socket.texts(10).await, said);
    // From node to node, with what is said at either.
    let mut position = socket.break_off();
    let alice_there = at_second(&alice);
    for (number, client) in [&bob, &bob_there, &bob, &bob_there].into_iter().enumerate() {
        let speaker = if number % 3 == 0 { &alice_there } else { &alice };
        let said = say_many(speaker, &room, 100 * number, 12).await;
        let mut socket = Socket::resume(client, &position).await;
        assert_eq!((socket.hello["resumed"].clone(), socket.texts(12).await), (json!(true), said));
        position = socket.break_off();
    }
    // A session that ends at one node ends its socket at the other.
    let mut socket = Socket::resume(&bob_there, &position).await;
    bob.post("logout", json!({})).await.ok();
    assert_eq!(socket.closed().await, closed(4001, "session_ended"));
    drop(second);
}
