//! What a syncing client is told, once and in order.

use std::time::{Duration, Instant};

use federation_tests::{Client, Engine, Server, enc, on_each_engine};
use serde_json::{Value, json};

async fn people<const N: usize>(engine: &Engine, names: [&str; N]) -> (Server, [Client; N]) {
    let server = Server::start(engine).await;
    let mut clients = Vec::with_capacity(N);
    for name in names {
        clients.push(server.register_with_secret(name).await);
    }
    let Ok(clients) = clients.try_into() else { unreachable!("as many clients as names") };
    (server, clients)
}

fn token(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap_or_else(|| panic!("no next_batch in {answer}")).to_owned()
}

fn timeline<'a>(answer: &'a Value, section: &str, room: &str) -> &'a [Value] {
    answer["rooms"][section][room]["timeline"]["events"].as_array().map_or(&[], Vec::as_slice)
}

fn ids(events: &[Value]) -> Vec<&Value> {
    events.iter().map(|event| &event["event_id"]).collect()
}

fn bodies(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

async fn filtered(client: &Client, since: Option<&str>, filter: Value) -> Value {
    client.sync_with(since, Duration::ZERO, &format!("&filter={}", enc(&filter.to_string()))).await.ok()
}

#[tokio::test]
async fn the_first_sync_shows_everything_and_the_next_only_news() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Everything" })).await;
        alice.say(&room, "one").await;
        let first = alice.sync(None).await;
        let joined = &first["rooms"]["join"][&room];
        let everything = joined.to_string();
        for event_type in ["m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name", "m.room.member"]
        {
            assert!(everything.contains(event_type), "{event_type} is missing in {everything}");
        }
        assert_eq!(bodies(timeline(&first, "join", &room)), ["one"]);
        assert!(joined["timeline"]["prev_batch"].is_string(), "{joined}");

        let quiet = alice.sync(Some(&token(&first))).await;
        assert!(quiet["rooms"]["join"].get(&room).is_none(), "{quiet}");
        bob.join(&room).await;
        bob.say(&room, "two").await;
        let news = alice.sync(Some(&token(&quiet))).await;
        let types: Vec<&Value> = timeline(&news, "join", &room).iter().map(|event| &event["type"]).collect();
        assert_eq!(types, ["m.room.member", "m.room.message"]);
        assert!(!news["rooms"]["join"][&room]["timeline"]["limited"].as_bool().unwrap_or_default(), "{news}");
    })
    .await;
}

#[tokio::test]
async fn a_long_poll_waits_for_news_and_answers_at_once() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let since = alice.now().await;
        let waiting = alice.sync_with(Some(&since), Duration::from_secs(30), "");
        let speaking = async {
            // Long enough for the poll to be on its way; if it isn't yet, it answers at once all the same.
            tokio::time::sleep(Duration::from_millis(200)).await;
            bob.say(&room, "wake up").await;
            Instant::now()
        };
        let (answer, said) = tokio::join!(waiting, speaking);
        assert!(said.elapsed() < Duration::from_secs(10), "the poll slept on for {:?}", said.elapsed());
        assert_eq!(bodies(timeline(&answer.ok(), "join", &room)), ["wake up"]);
    })
    .await;
}

#[tokio::test]
async fn a_long_poll_without_news_ends_on_time_and_empty() {
    on_each_engine(async |engine| {
        let (_server, [alice]) = people(&engine, ["alice"]).await;
        alice.create_public_room().await;
        let mut since = alice.now().await;
        let asked = Instant::now();
        // Alice's own presence may be news once; her rooms are not.
        while asked.elapsed() < Duration::from_millis(1200) {
            let answer = alice.sync_with(Some(&since), Duration::from_millis(1200), "").await.ok();
            assert!(answer["rooms"]["join"].as_object().is_none_or(serde_json::Map::is_empty), "{answer}");
            since = token(&answer);
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "a poll of 1.2 s took {:?}", asked.elapsed());
    })
    .await;
}

#[tokio::test]
async fn the_same_since_shows_the_same_events() {
    on_each_engine(async |engine| {
        let (mut server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let since = alice.now().await;
        for text in ["one", "two", "three"] {
            bob.say(&room, text).await;
        }
        let first = alice.sync(Some(&since)).await;
        let second = alice.sync(Some(&since)).await;
        assert_eq!(bodies(timeline(&first, "join", &room)), ["one", "two", "three"]);
        assert_eq!(ids(timeline(&first, "join", &room)), ids(timeline(&second, "join", &room)));
        let after = alice.sync(Some(&token(&second))).await;
        assert!(timeline(&after, "join", &room).is_empty(), "{after}");

        server.kill();
        server.restart().await;
        let third = alice.sync(Some(&since)).await;
        assert_eq!(ids(timeline(&first, "join", &room)), ids(timeline(&third, "join", &room)), "after a crash");
    })
    .await;
}

#[tokio::test]
async fn a_since_that_was_never_given_out_is_refused() {
    on_each_engine(async |engine| {
        let (_server, [alice]) = people(&engine, ["alice"]).await;
        for since in ["nonsense", "-1", "99999999999999999999999999", "%00", ""] {
            let answer = alice.get(&format!("sync?timeout=0&since={since}")).await;
            assert!(answer.status == 400 || (since.is_empty() && answer.status == 200), "{since:?}: {}", answer.text);
        }
    })
    .await;
}

#[tokio::test]
async fn a_limited_timeline_can_be_filled_from_its_prev_batch() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        bob.say(&room, "already known").await;
        let since = alice.now().await;
        let said: Vec<String> = (0..37).map(|number| format!("{number}")).collect();
        for text in &said {
            bob.say(&room, text).await;
        }
        bob.set_state(&room, "m.room.member", &bob.user_id, json!({ "membership": "join", "displayname": "B" }))
            .await
            .ok();
        for text in ["last but one", "last"] {
            bob.say(&room, text).await;
        }
        let news = filtered(&alice, Some(&since), json!({ "room": { "timeline": { "limit": 2 } } })).await;
        let update = &news["rooms"]["join"][&room];
        assert_eq!(update["timeline"]["limited"], true);
        assert_eq!(bodies(timeline(&news, "join", &room)), ["last but one", "last"]);
        let state = update["state"]["events"].as_array().expect("state");
        assert!(
            state.iter().any(|event| event["type"] == "m.room.member" && event["content"]["displayname"] == "B"),
            "state that changed inside the gap is missing: {update}"
        );

        let prev_batch = update["timeline"]["prev_batch"].as_str().expect("prev_batch");
        let mut gap = alice.pages(&room, "b", Some(prev_batch), Some(&since)).await;
        gap.reverse();
        assert_eq!(bodies(&gap), said, "the gap holds what was missed, no more and no less");
    })
    .await;
}

#[tokio::test]
async fn a_room_that_was_left_is_shown_once() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let since = bob.now().await;
        alice.say(&room, "the last you hear").await;
        alice.post(&format!("rooms/{room}/kick"), json!({ "user_id": bob.user_id })).await.ok();
        alice.say(&room, "now that he is gone").await;
        let news = bob.sync(Some(&since)).await;
        let shown = timeline(&news, "leave", &room);
        assert_eq!(bodies(shown), ["the last you hear"], "{news}");
        assert_eq!(shown.last().expect("events")["content"]["membership"], "leave");
        assert!(news["rooms"]["join"].get(&room).is_none());
        let quiet = bob.sync(Some(&token(&news))).await;
        assert!(quiet["rooms"]["leave"].get(&room).is_none(), "{quiet}");
        let fresh = bob.sync(None).await;
        assert!(fresh["rooms"]["leave"].get(&room).is_none(), "left rooms are shown only to who asks: {fresh}");
        let asked = filtered(&bob, None, json!({ "room": { "include_leave": true } })).await;
        assert!(asked["rooms"]["leave"].get(&room).is_some(), "{asked}");
    })
    .await;
}

#[tokio::test]
async fn who_joins_an_old_room_is_shown_its_state() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Old" })).await;
        for number in 0..60 {
            alice.say(&room, &format!("{number}")).await;
        }
        let since = bob.now().await;
        bob.join(&room).await;
        let news = bob.sync(Some(&since)).await;
        let update = &news["rooms"]["join"][&room];
        let state = update["state"]["events"].as_array().expect("state");
        assert!(state.iter().any(|event| event["type"] == "m.room.name"), "{update}");
        assert!(state.iter().any(|event| event["type"] == "m.room.create"), "{update}");
        assert_eq!(update["timeline"]["limited"], true);
    })
    .await;
}

#[tokio::test]
async fn an_invitation_shows_what_the_room_is() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let mut since = bob.now().await;
        let room =
            alice.create_room(json!({ "preset": "private_chat", "name": "Secret", "invite": [bob.user_id] })).await;
        let invitation = bob.sync_until(&mut since, |answer| answer["rooms"]["invite"].get(&room).cloned()).await;
        let events = invitation["invite_state"]["events"].as_array().expect("stripped state").clone();
        assert!(events.iter().any(|event| event["content"]["name"] == "Secret"), "{events:?}");
        assert!(
            events.iter().any(|event| event["state_key"] == bob.user_id && event["content"]["membership"] == "invite")
        );
        bob.leave(&room).await;
        let news = bob.sync(Some(&since)).await;
        assert!(news["rooms"]["invite"].get(&room).is_none(), "{news}");
        assert!(news["rooms"]["leave"].get(&room).is_some(), "a declined invitation is shown as left: {news}");
    })
    .await;
}

#[tokio::test]
async fn lazy_members_come_when_they_speak() {
    on_each_engine(async |engine| {
        /// More than the five heroes of a summary, whom the server shows without their having spoken.
        const SILENT: usize = 8;
        let (server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Lazy" })).await;
        bob.join(&room).await;
        let mut silent = Vec::new();
        for number in 0..SILENT {
            let client = server.register_with_secret(&format!("silent{number}")).await;
            client.join(&room).await;
            silent.push(client);
        }
        for number in 0..25 {
            bob.say(&room, &format!("{number}")).await;
        }
        let lazy = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 5 } } });
        let members = |answer: &Value| -> Vec<String> {
            let state = answer["rooms"]["join"][&room]["state"]["events"].as_array().cloned().unwrap_or_default();
            let members = state.iter().filter(|event| event["type"] == "m.room.member");
            members.map(|event| event["state_key"].as_str().expect("a state key").to_owned()).collect()
        };
        let first = filtered(&alice, None, lazy.clone()).await;
        let mut shown = members(&first);
        assert!(shown.contains(&bob.user_id), "who speaks in the timeline is missing: {shown:?}");
        let hidden = silent.iter().find(|client| !shown.contains(&client.user_id));
        let hidden = hidden.unwrap_or_else(|| panic!("everybody is shown: {shown:?}"));
        let summary = &first["rooms"]["join"][&room]["summary"];
        assert_eq!(summary["m.joined_member_count"], 2 + SILENT, "{summary}");

        hidden.say(&room, "me too").await;
        let next = filtered(&alice, Some(&token(&first)), lazy).await;
        shown = members(&next);
        assert!(shown.contains(&hidden.user_id), "who speaks for the first time is missing: {shown:?}");
        assert!(shown.len() < SILENT, "{shown:?}");

        let eager = filtered(&alice, None, json!({ "room": { "timeline": { "limit": 5 } } })).await;
        assert_eq!(members(&eager).len(), 2 + SILENT, "without lazy loading everybody is there");
    })
    .await;
}

#[tokio::test]
async fn the_summary_counts_and_names_who_is_there() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        let room = alice.create_room(json!({ "preset": "private_chat", "invite": [bob.user_id, carol.user_id] })).await;
        bob.join(&room).await;
        let lazy = json!({ "room": { "state": { "lazy_load_members": true } } });
        let first = filtered(&alice, None, lazy.clone()).await;
        let summary = &first["rooms"]["join"][&room]["summary"];
        assert_eq!(summary["m.joined_member_count"], 2);
        assert_eq!(summary["m.invited_member_count"], 1);
        let mut heroes: Vec<&str> = summary["m.heroes"]
            .as_array()
            .expect("a room without a name has heroes")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        heroes.sort_unstable();
        assert_eq!(heroes, [&bob.user_id, &carol.user_id]);
        carol.join(&room).await;
        let next = filtered(&alice, Some(&token(&first)), lazy).await;
        let summary = &next["rooms"]["join"][&room]["summary"];
        assert_eq!((&summary["m.joined_member_count"], &summary["m.invited_member_count"]), (&json!(3), &json!(0)));
    })
    .await;
}

#[tokio::test]
async fn unread_counts_follow_the_push_rules_and_fall_with_a_receipt() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        alice.put(&format!("profile/{}/displayname", alice.user_id), json!({ "displayname": "Alice" })).await.ok();
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        // A third member: two alone would be a one-to-one chat with a rule of its own.
        let counts = async || {
            let unread = alice.sync(None).await["rooms"]["join"][&room]["unread_notifications"].clone();
            (
                unread["notification_count"].as_u64().unwrap_or_default(),
                unread["highlight_count"].as_u64().unwrap_or_default(),
            )
        };
        assert_eq!(counts().await, (0, 0));
        bob.say(&room, "hello").await;
        let plain = bob.say(&room, "hello again").await;
        assert_eq!(counts().await, (2, 0));
        let mention = json!({
            "msgtype": "m.text", "body": "Alice: look", "m.mentions": { "user_ids": [alice.user_id] },
        });
        let mention = bob.send(&room, "m.room.message", mention).await.ok()["event_id"].clone();
        assert_eq!(counts().await, (3, 1));

        alice.post(&format!("rooms/{room}/receipt/m.read/{plain}"), json!({})).await.ok();
        assert_eq!(counts().await, (1, 1), "the receipt stands before the mention");
        let mention = mention.as_str().expect("an id");
        alice.post(&format!("rooms/{room}/receipt/m.read.private/{mention}"), json!({})).await.ok();
        assert_eq!(counts().await, (0, 0));
        alice.say(&room, "my own words").await;
        assert_eq!(counts().await, (0, 0), "nobody is notified of their own words");

        let rule = json!({ "actions": [] });
        alice.put(&format!("pushrules/global/room/{room}"), rule).await.ok();
        bob.say(&room, "into the void").await;
        assert_eq!(counts().await, (0, 0), "the room is muted");
    })
    .await;
}

#[tokio::test]
async fn account_data_is_kept_and_shown_to_all_devices() {
    on_each_engine(async |engine| {
        let (server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        let tablet = server.login("alice").await;
        let mut since = tablet.now().await;
        let global = format!("user/{}/account_data/org.example.theme", alice.user_id);
        let local = format!("user/{}/rooms/{room}/account_data/org.example.pin", alice.user_id);
        alice.put(&global, json!({ "dark": true })).await.ok();
        alice.put(&local, json!({ "top": 1 })).await.ok();
        assert_eq!(alice.get(&global).await.ok(), json!({ "dark": true }));
        assert_eq!(alice.get(&local).await.ok(), json!({ "top": 1 }));
        let mut wanted = (false, false);
        tablet
            .sync_until(&mut since, |answer| {
                let has = |events: &Value, event_type: &str| {
                    events.as_array().is_some_and(|events| events.iter().any(|event| event["type"] == event_type))
                };
                wanted.0 |= has(&answer["account_data"]["events"], "org.example.theme");
                wanted.1 |= has(&answer["rooms"]["join"][&room]["account_data"]["events"], "org.example.pin");
                (wanted == (true, true)).then_some(())
            })
            .await;
        let quiet = tablet.sync(Some(&since)).await;
        assert!(quiet["account_data"]["events"].as_array().is_none_or(Vec::is_empty), "{quiet}");

        bob.get(&global).await.refused(403, "M_FORBIDDEN");
        bob.put(&global, json!({ "dark": false })).await.refused(403, "M_FORBIDDEN");
        let missing = format!("user/{}/account_data/org.example.none", alice.user_id);
        alice.get(&missing).await.refused(404, "M_NOT_FOUND");
        let reserved = format!("user/{}/account_data/m.push_rules", alice.user_id);
        assert_eq!(alice.put(&reserved, json!({})).await.status, 405, "push rules have endpoints of their own");
    })
    .await;
}

#[tokio::test]
async fn tags_are_set_listed_and_removed() {
    on_each_engine(async |engine| {
        let (_server, [alice]) = people(&engine, ["alice"]).await;
        let room = alice.create_public_room().await;
        let since = alice.now().await;
        let tags = format!("user/{}/rooms/{room}/tags", alice.user_id);
        alice.put(&format!("{tags}/m.favourite"), json!({ "order": 0.25 })).await.ok();
        alice.put(&format!("{tags}/u.work"), json!({})).await.ok();
        alice.delete(&format!("{tags}/u.work")).await.ok();
        let expected = json!({ "tags": { "m.favourite": { "order": 0.25 } } });
        assert_eq!(alice.get(&tags).await.ok(), expected);
        let news = alice.sync(Some(&since)).await;
        let events = news["rooms"]["join"][&room]["account_data"]["events"].as_array().expect("account data").clone();
        let tag = events.iter().find(|event| event["type"] == "m.tag").expect("m.tag is shown");
        assert_eq!(tag["content"], expected);
    })
    .await;
}

#[tokio::test]
async fn who_is_ignored_is_not_heard() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        carol.join(&room).await;
        let content = json!({ "ignored_users": { &bob.user_id: {} } });
        let path = format!("user/{}/account_data/m.ignored_user_list", alice.user_id);
        alice.put(&path, content).await.ok();
        let since = alice.now().await;
        bob.say(&room, "can you hear me?").await;
        carol.say(&room, "I can").await;
        let news = alice.sync(Some(&since)).await;
        assert_eq!(bodies(timeline(&news, "join", &room)), ["I can"]);
        assert_eq!(bodies(timeline(&carol.sync(None).await, "join", &room)), ["can you hear me?", "I can"]);

        let private = bob.create_room(json!({ "preset": "private_chat", "invite": [alice.user_id] })).await;
        let news = alice.sync(Some(&token(&news))).await;
        assert!(news["rooms"]["invite"].get(&private).is_none(), "{news}");
    })
    .await;
}

#[tokio::test]
async fn to_device_messages_arrive_until_they_are_acknowledged() {
    on_each_engine(async |engine| {
        let (server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let tablet = server.login("bob").await;
        let since = bob.now().await;
        let tablet_since = tablet.now().await;
        let messages = json!({ "messages": { &bob.user_id: { &bob.device_id: { "word": "psst" } } } });
        alice.put("sendToDevice/org.example.whisper/txn1", messages.clone()).await.ok();
        alice.put("sendToDevice/org.example.whisper/txn1", messages).await.ok();
        let first = bob.sync(Some(&since)).await;
        let expected =
            json!([{ "type": "org.example.whisper", "sender": alice.user_id, "content": { "word": "psst" } }]);
        assert_eq!(first["to_device"]["events"], expected);
        let repeated = bob.sync(Some(&since)).await;
        assert_eq!(repeated["to_device"]["events"], expected, "what wasn't acknowledged comes again");
        let after = bob.sync(Some(&token(&repeated))).await;
        assert!(after["to_device"]["events"].as_array().is_none_or(Vec::is_empty), "{after}");
        let other = tablet.sync(Some(&tablet_since)).await;
        assert!(other["to_device"]["events"].as_array().is_none_or(Vec::is_empty), "{other}");

        let all = json!({ "messages": { &bob.user_id: { "*": { "word": "all of you" } } } });
        alice.put("sendToDevice/org.example.whisper/txn2", all).await.ok();
        for (client, since) in [(&bob, token(&after)), (&tablet, token(&other))] {
            let answer = client.sync(Some(&since)).await;
            assert_eq!(answer["to_device"]["events"][0]["content"]["word"], "all of you", "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn to_device_messages_keep_their_order_in_a_crowd() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let mut since = bob.now().await;
        for number in 0..250 {
            let messages = json!({ "messages": { &bob.user_id: { &bob.device_id: { "number": number } } } });
            alice.put(&format!("sendToDevice/org.example.count/n{number}"), messages).await.ok();
        }
        let mut heard = Vec::new();
        bob.sync_until(&mut since, |answer| {
            let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
            heard.extend(events.iter().filter_map(|event| event["content"]["number"].as_u64()));
            (heard.len() >= 250).then_some(())
        })
        .await;
        assert_eq!(heard, (0..250).collect::<Vec<u64>>());
    })
    .await;
}

/// Uploads identity keys for a device; the server need not care what they are good for.
async fn upload_device_keys(client: &Client) {
    let device = &client.device_id;
    let keys = json!({ "device_keys": {
        "user_id": client.user_id,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{device}"): "3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI",
            format!("ed25519:{device}"): "lEuiRJBit0IG6nUf5pUzWTUEsRVVe/HJkoKuEww9ULI",
        },
        "signatures": { &client.user_id: { format!("ed25519:{device}"): "dSO80A01XiigH3uBiDVx/EjzaoycHcjq9lfQX0uWsqxl2giMIiSPR8a4d291W1ihKJL/a+myXS367WT6NAIcBA" } },
    } });
    client.post("keys/upload", keys).await.ok();
}

#[tokio::test]
async fn device_lists_tell_who_changed_and_who_is_out_of_sight() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, stranger]) = people(&engine, ["alice", "bob", "stranger"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let mut since = alice.now().await;
        let changed = |answer: &Value| -> Vec<String> {
            let users = answer["device_lists"]["changed"].as_array().cloned().unwrap_or_default();
            users.iter().filter_map(|user| user.as_str().map(str::to_owned)).collect()
        };
        upload_device_keys(&stranger).await;
        upload_device_keys(&bob).await;
        let mut seen = Vec::new();
        alice
            .sync_until(&mut since, |answer| {
                seen.extend(changed(answer));
                seen.contains(&bob.user_id).then_some(())
            })
            .await;
        assert!(!seen.contains(&stranger.user_id), "a stranger's devices are nobody's business: {seen:?}");
        let quiet = alice.sync(Some(&since)).await;
        assert!(changed(&quiet).is_empty(), "{quiet}");

        let keys = alice.post("keys/query", json!({ "device_keys": { &bob.user_id: [] } })).await.ok();
        assert_eq!(keys["device_keys"][&bob.user_id][&bob.device_id]["device_id"], bob.device_id, "{keys}");
        bob.leave(&room).await;
        alice
            .sync_until(&mut since, |answer| {
                let left = answer["device_lists"]["left"].as_array()?;
                left.contains(&json!(bob.user_id)).then_some(())
            })
            .await;
        stranger.join(&room).await;
        alice.sync_until(&mut since, |answer| changed(answer).contains(&stranger.user_id).then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn one_time_keys_are_given_out_once() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        upload_device_keys(&bob).await;
        let keys = json!({ "one_time_keys": {
            "curve25519:AAAAAQ": "/qyvZvwjiTxGdGU0RCguDCLeR+nmsb3FfNG3/Ve4vU8",
            "curve25519:AAAAAg": "j3fR3HemM16M7CWhoI4Sk5ZsdmdfQHsKL1xuSft6MSw",
        } });
        let counts = bob.post("keys/upload", keys).await.ok();
        assert_eq!(counts["one_time_key_counts"]["curve25519"], 2);
        let sync = bob.sync(None).await;
        assert_eq!(sync["device_one_time_keys_count"]["curve25519"], 2, "{sync}");
        let claim = json!({ "one_time_keys": { &bob.user_id: { &bob.device_id: "curve25519" } } });
        let mut claimed = Vec::new();
        for client in [&alice, &carol, &alice] {
            let answer = client.post("keys/claim", claim.clone()).await.ok();
            let keys = &answer["one_time_keys"][&bob.user_id][&bob.device_id];
            claimed.extend(keys.as_object().cloned().unwrap_or_default().into_iter().map(|(id, _)| id));
        }
        claimed.sort_unstable();
        assert_eq!(claimed, ["curve25519:AAAAAQ", "curve25519:AAAAAg"]);
    })
    .await;
}

#[tokio::test]
async fn a_filter_lets_through_what_it_names() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        let other = alice.create_public_room().await;
        bob.join(&room).await;
        bob.say(&room, "from Bob").await;
        alice.say(&room, "from Alice").await;
        alice.say(&other, "elsewhere").await;
        let filter = json!({
            "room": {
                "rooms": [room],
                "timeline": { "types": ["m.room.message"], "senders": [bob.user_id] },
                "state": { "not_types": ["*"] },
                "ephemeral": { "limit": 0 },
            },
            "presence": { "not_types": ["*"] },
            "account_data": { "not_types": ["*"] },
        });
        let stored = alice.post(&format!("user/{}/filter", alice.user_id), filter.clone()).await.ok();
        let filter_id = stored["filter_id"].as_str().expect("a filter id");
        assert!(!filter_id.starts_with('{'), "a filter id must not look like a filter");
        let read = alice.get(&format!("user/{}/filter/{filter_id}", alice.user_id)).await.ok();
        assert_eq!(read["room"]["timeline"]["senders"], json!([bob.user_id]));
        bob.get(&format!("user/{}/filter/{filter_id}", alice.user_id)).await.refused(403, "M_FORBIDDEN");
        alice.get(&format!("user/{}/filter/nosuchfilter", alice.user_id)).await.refused(404, "M_NOT_FOUND");

        let by_id = alice.sync_with(None, Duration::ZERO, &format!("&filter={}", enc(filter_id))).await.ok();
        for answer in [by_id, filtered(&alice, None, filter).await] {
            assert_eq!(bodies(timeline(&answer, "join", &room)), ["from Bob"]);
            assert!(answer["rooms"]["join"].get(&other).is_none(), "{answer}");
            let state = answer["rooms"]["join"][&room]["state"]["events"].as_array().cloned().unwrap_or_default();
            assert!(state.is_empty(), "{state:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn typing_and_receipts_come_to_who_is_in_the_room_only() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob, carol]) = people(&engine, ["alice", "bob", "carol"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let mut since = alice.now().await;
        let path = format!("rooms/{room}/typing/{}", bob.user_id);
        bob.put(&path, json!({ "typing": true, "timeout": 2000 })).await.ok();
        let typing = |answer: &Value| -> Option<Value> {
            let events = answer["rooms"]["join"][&room]["ephemeral"]["events"].as_array()?;
            Some(events.iter().find(|event| event["type"] == "m.typing")?["content"]["user_ids"].clone())
        };
        let typists = alice.sync_until(&mut since, &typing).await;
        assert_eq!(typists, json!([bob.user_id]));
        let typists = alice.sync_until(&mut since, &typing).await;
        assert_eq!(typists, json!([]), "typing ends by itself");

        carol
            .put(&format!("rooms/{room}/typing/{}", carol.user_id), json!({ "typing": true }))
            .await
            .refused(403, "M_FORBIDDEN");
        carol.put(&path, json!({ "typing": true })).await.refused(403, "M_FORBIDDEN");
    })
    .await;
}

#[tokio::test]
async fn presence_can_be_read_by_who_shares_a_room() {
    on_each_engine(async |engine| {
        let (_server, [alice, bob]) = people(&engine, ["alice", "bob"]).await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let path = format!("presence/{}/status", bob.user_id);
        bob.put(&path, json!({ "presence": "unavailable", "status_msg": "tea" })).await.ok();
        let status = alice.get(&path).await.ok();
        assert_eq!((&status["presence"], &status["status_msg"]), (&json!("unavailable"), &json!("tea")));
        alice.put(&path, json!({ "presence": "online" })).await.refused(403, "M_FORBIDDEN");
        let nonsense = bob.put(&path, json!({ "presence": "sleepy" })).await;
        assert_eq!((nonsense.status, alice.get(&path).await.ok()["presence"].clone()), (400, json!("unavailable")));
    })
    .await;
}

#[tokio::test]
async fn full_state_shows_every_room_again() {
    on_each_engine(async |engine| {
        let (_server, [alice]) = people(&engine, ["alice"]).await;
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Full" })).await;
        let since = alice.now().await;
        let full = alice.sync_with(Some(&since), Duration::ZERO, "&full_state=true").await.ok();
        let state = full["rooms"]["join"][&room]["state"]["events"].as_array().expect("state").clone();
        assert!(state.iter().any(|event| event["type"] == "m.room.name"), "{full}");
        assert!(timeline(&full, "join", &room).is_empty(), "full_state repeats state, not events: {full}");
    })
    .await;
}
