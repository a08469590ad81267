//! What people are told by those who run the server, and what happened to it.

use std::time::Duration;

use federation_tests::{Answer, Client, Server, eventually, now, on_each_engine};
use serde_json::{Value, json};

const EVENTS: &str = "/api/v1/events";
const BROADCASTS: &str = "/api/v1/broadcasts";

/// Gives somebody a role, by the command line.
async fn give_role(server: &Server, name: &str, role: &str) {
    let mut command = std::process::Command::new(federation_tests::binary());
    command.args(["user", "set-role", name, role, "--config"]).arg(server.folder().join("config.toml"));
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("it ends").expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
}

/// Tells people something, and answers it as its author sees it.
async fn tell(author: &Client, broadcast: Value) -> Value {
    made(author.post(BROADCASTS, broadcast).await)
}

#[track_caller]
fn made(answer: Answer) -> Value {
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body
}

fn ids(page: &Value) -> Vec<String> {
    let list = page["broadcasts"].as_array().unwrap_or_else(|| panic!("no broadcasts in {page}"));
    list.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
}

async fn mine(client: &Client, query: &str) -> Vec<String> {
    ids(&client.get(&format!("{BROADCASTS}{query}")).await.ok())
}

/// The room with the tag of server notices, and the texts of the notices in it, as a sync tells.
fn notices_in(answer: &Value) -> Option<(String, Vec<String>)> {
    let rooms = answer["rooms"]["join"].as_object()?;
    let is_tagged = |room: &Value| {
        let data = room["account_data"]["events"].as_array().cloned().unwrap_or_default();
        data.iter().any(|one| one["type"] == "m.tag" && !one["content"]["tags"]["m.server_notice"].is_null())
    };
    let (id, room) = rooms.iter().find(|(_, room)| is_tagged(room))?;
    let events = room["timeline"]["events"].as_array().cloned().unwrap_or_default();
    let texts = events.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned));
    Some((id.clone(), texts.collect()))
}

/// Syncs as a client that has just been opened, until it shows as many notices.
async fn notices(client: &Client, count: usize) -> (String, Vec<String>) {
    eventually(&format!("{} has {count} notices", client.user_id), async || {
        notices_in(&client.sync(None).await).filter(|(_, texts)| texts.len() == count)
    })
    .await
}

#[tokio::test]
async fn what_happens_is_reported_once_and_found_by_those_who_may_look() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let root = server.admin().await;
        let [ada, otto, bea, alice] = [
            server.register_with_secret("ada").await,
            server.register_with_secret("otto").await,
            server.register_with_secret("bea").await,
            server.register_with_secret("alice").await,
        ];
        for (name, role) in [("ada", "auditor"), ("otto", "operator"), ("bea", "broadcaster")] {
            give_role(&server, name, role).await;
        }
        let full = json!({ "id": "disk-1", "type": "disk.full", "subject": "/var", "severity": "warning", "data": { "free": 0 } });
        // Who reports, and who looks.
        let first = made(otto.post(EVENTS, full.clone()).await);
        assert_eq!(first["author"], otto.user_id);
        assert_eq!(made(otto.post(EVENTS, full.clone()).await), first, "the same report is the same event");
        root.post(EVENTS, full.clone()).await.problem(409, "id_taken");
        made(bea.post(EVENTS, json!({ "type": "link.up", "severity": "info" })).await);
        alice.post(EVENTS, full.clone()).await.problem(403, "forbidden");
        ada.post(EVENTS, full.clone()).await.problem(403, "forbidden");
        server.anonymous().post(EVENTS, full.clone()).await.problem(401, "missing_token");
        alice.get(EVENTS).await.problem(403, "forbidden");
        bea.get(EVENTS).await.problem(403, "forbidden");
        // Found by what they are, page by page.
        let found = async |query: &str| {
            let page = ada.get(&format!("{EVENTS}?{query}")).await.ok();
            let list = page["events"].as_array().cloned().unwrap_or_default();
            (list.iter().map(|one| one["type"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>(), page["next"].clone())
        };
        let (latest, next) = found("limit=1").await;
        assert_eq!(latest, ["link.up"]);
        let (before, _) = found(&format!("limit=1&before={next}")).await;
        assert_eq!(before, ["disk.full"]);
        assert_eq!(found("type=disk.full").await.0, ["disk.full"]);
        assert_eq!(found("severity=warning").await.0, ["disk.full"]);
        assert_eq!(found("type=server.started").await.0, ["server.started"], "the server says that it began");
        assert!(!found(&format!("until={}", first["at"])).await.0.contains(&"disk.full".to_owned()));
        assert_eq!(ada.get(&format!("{EVENTS}/disk-1")).await.ok(), first);
        ada.get(&format!("{EVENTS}/disk-9")).await.problem(404, "not_found");
        // Bad input is told what is wrong with it.
        for (field, wrong) in [
            ("type", json!({ "type": "Disk Full", "severity": "info" })),
            ("severity", json!({ "type": "x", "severity": "bad" })),
            ("id", json!({ "id": "a b", "type": "x", "severity": "info" })),
            ("at", json!({ "type": "x", "severity": "info", "at": now() + 86_400_000 })),
            ("data", json!({ "type": "x", "severity": "info", "data": [] })),
            ("colour", json!({ "type": "x", "severity": "info", "colour": "red" })),
        ] {
            let problem = otto.post(EVENTS, wrong).await.problem(400, "invalid");
            assert!(problem["detail"].as_str().unwrap_or_default().contains(field), "{field}: {problem}");
        }
        ada.get(&format!("{EVENTS}?severity=bad")).await.problem(400, "invalid");
        // What is bad is told to admins, by a notice too.
        made(otto.post(EVENTS, json!({ "id": "fire", "type": "room.fire", "severity": "critical" })).await);
        let (_, texts) = notices(&root, 1).await;
        assert!(texts[0].contains("room.fire"), "{texts:?}");
        assert_eq!(mine(&root, "").await, ["event:fire"]);
        assert!(mine(&alice, "").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn people_are_told_what_is_for_them_and_have_read_it_once() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let root = server.admin().await;
        let [bea, otto, alice, bob] = [
            server.register_with_secret("bea").await,
            server.register_with_secret("otto").await,
            server.register_with_secret("alice").await,
            server.register_with_secret("bob").await,
        ];
        for (name, role) in [("bea", "broadcaster"), ("otto", "operator")] {
            give_role(&server, name, role).await;
        }
        let hello = json!({ "id": "hello", "title": "Hello", "body": "You all" });
        for nobody in [&alice, &otto] {
            nobody.post(BROADCASTS, hello.clone()).await.problem(403, "forbidden");
            nobody.delete(&format!("{BROADCASTS}/hello")).await.problem(403, "forbidden");
        }
        let first = tell(&bea, hello.clone()).await;
        assert_eq!((&first["state"], &first["details"]["counts"]["recipients"]), (&json!("published"), &json!(5)));
        assert_eq!(tell(&bea, hello.clone()).await["published_at"], first["published_at"]);
        let mut other = hello.clone();
        other["body"] = json!("Somebody else");
        bea.post(BROADCASTS, other).await.problem(409, "id_taken");

        // Each audience has whom it names.
        for (id, audience, count) in [
            ("domain", json!({ "kind": "domains", "domains": ["a.test"] }), 5),
            ("operators", json!({ "kind": "roles", "roles": ["operator", "admin"] }), 2),
            ("alice", json!({ "kind": "users", "users": ["alice@a.test"] }), 1),
        ] {
            let told = tell(&root, json!({ "id": id, "title": id, "body": id, "audience": audience })).await;
            assert_eq!(told["details"]["counts"]["recipients"], count, "{told}");
        }
        assert_eq!(mine(&alice, "").await, ["alice", "domain", "hello"]);
        assert_eq!(mine(&otto, "").await, ["operators", "domain", "hello"]);
        assert_eq!(mine(&bob, "?limit=1").await, ["domain"]);
        let page = bob.get(&format!("{BROADCASTS}?limit=1")).await.ok();
        assert_eq!(mine(&bob, &format!("?limit=1&before={}", page["next"])).await, ["hello"]);
        bob.get(&format!("{BROADCASTS}/alice")).await.problem(404, "not_found");
        let seen = alice.get(&format!("{BROADCASTS}/alice")).await.ok();
        assert!(seen["details"].is_null() && seen["read"] == false, "{seen}");

        // What was read is read, once, also after a restart.
        for _ in 0..2 {
            assert_eq!(alice.post(&format!("{BROADCASTS}/hello/read"), json!({})).await.status, 204);
        }
        bob.post(&format!("{BROADCASTS}/alice/read"), json!({})).await.problem(404, "not_found");
        assert_eq!(mine(&alice, "?unread=true").await, ["alice", "domain"]);
        server.restart().await;
        assert_eq!(mine(&alice, "?unread=true").await, ["alice", "domain"]);
        let counts = bea.get(&format!("{BROADCASTS}/hello")).await.ok()["details"]["counts"].clone();
        assert_eq!((&counts["read"], &counts["recipients"]), (&json!(1), &json!(5)));

        // Who waits is told at once, and of what was called back.
        let cursor = bob.get(BROADCASTS).await.ok()["cursor"].clone();
        let waiting = format!("{BROADCASTS}?after={cursor}&wait=30s");
        let (heard, _) = tokio::join!(bob.get(&waiting), async {
            tell(&root, json!({ "id": "news", "title": "News", "body": "New", "priority": "urgent" })).await
        });
        let heard = heard.ok();
        assert_eq!(ids(&heard), ["news"]);
        assert_eq!(root.delete(&format!("{BROADCASTS}/news")).await.status, 204);
        assert_eq!(root.delete(&format!("{BROADCASTS}/news")).await.status, 204);
        let heard = bob.get(&format!("{BROADCASTS}?after={}&wait=30", heard["cursor"])).await.ok();
        assert_eq!(
            (&heard["broadcasts"][0]["id"], &heard["broadcasts"][0]["state"]),
            (&json!("news"), &json!("cancelled"))
        );
        assert!(!mine(&bob, "").await.contains(&"news".to_owned()));
        // The history has it all the same.
        alice.get(&format!("{BROADCASTS}?all=true")).await.problem(403, "forbidden");
        assert_eq!(mine(&bea, "?all=true&limit=2").await, ["news", "alice"]);

        // Bad input is told what is wrong with it.
        for (field, wrong) in [
            ("title", json!({ "title": "", "body": "x" })),
            ("body", json!({ "title": "x", "body": "y".repeat(9_000) })),
            ("body", json!({ "title": "x" })),
            ("id", json!({ "id": "a@b", "title": "x", "body": "y" })),
            ("audience", json!({ "title": "x", "body": "y", "audience": { "kind": "roles", "roles": ["king"] } })),
            ("audience", json!({ "title": "x", "body": "y", "audience": { "kind": "planet" } })),
            (
                "audience",
                json!({ "title": "x", "body": "y", "audience": { "kind": "domains", "domains": ["b.test"] } }),
            ),
            ("publish_at", json!({ "title": "x", "body": "y", "publish_at": now() / 1_000 })),
            ("expires_at", json!({ "title": "x", "body": "y", "expires_at": now() - 1 })),
            ("colour", json!({ "title": "x", "body": "y", "colour": "red" })),
        ] {
            let problem = root.post(BROADCASTS, wrong).await.problem(400, "invalid");
            assert!(problem["detail"].as_str().unwrap_or_default().contains(field), "{field}: {problem}");
        }
        bob.get(&format!("{BROADCASTS}?after=0&wait=soon")).await.problem(400, "invalid");
        bob.get(&format!("{BROADCASTS}?after=0&before=1")).await.problem(400, "invalid");
        bob.get(&format!("{BROADCASTS}/nothing")).await.problem(404, "not_found");
    })
    .await;
}

#[tokio::test]
async fn what_is_scheduled_is_published_when_it_is_due_also_if_the_server_was_away_then() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let root = server.admin().await;
        let alice = server.register_with_secret("alice").await;
        let at = |ahead: u64| now() + ahead;
        let soon = tell(&root, json!({ "id": "soon", "title": "Soon", "body": "x", "publish_at": at(2_000) })).await;
        assert_eq!(soon["state"], "scheduled");
        assert!(mine(&alice, "").await.is_empty());
        alice.get(&format!("{BROADCASTS}/soon")).await.problem(404, "not_found");
        let heard = alice.get(&format!("{BROADCASTS}?after=0&wait=30")).await.ok();
        assert_eq!(ids(&heard), ["soon"]);

        tell(&root, json!({ "id": "away", "title": "Away", "body": "x", "publish_at": at(3_000) })).await;
        tell(&root, json!({ "id": "off", "title": "Off", "body": "x", "publish_at": at(3_000) })).await;
        tell(
            &root,
            json!({ "id": "gone", "title": "Gone", "body": "x", "publish_at": at(2_000), "expires_at": at(2_500) }),
        )
        .await;
        assert_eq!(root.delete(&format!("{BROADCASTS}/off")).await.status, 204);
        let due =
            root.get(&format!("{BROADCASTS}/away")).await.ok()["details"]["publish_at"].as_u64().expect("a moment");
        server.kill();
        eventually("the moment has passed", async || (now() > due + 100).then_some(())).await;
        server.restart().await;
        let heard = alice.get(&format!("{BROADCASTS}?after={}&wait=30", heard["cursor"])).await.ok();
        assert_eq!(ids(&heard), ["away"], "what was called off, or has run out, is not published");
        let history = root.get(&format!("{BROADCASTS}?all=true")).await.ok();
        let state = |id: &str| {
            let list = history["broadcasts"].as_array().cloned().unwrap_or_default();
            list.iter().find(|one| one["id"] == id).map(|one| one["state"].clone()).unwrap_or_default()
        };
        assert_eq!([state("away"), state("off"), state("gone")], ["published", "cancelled", "expired"]);

        // What runs out is shown to nobody any more.
        tell(&root, json!({ "id": "short", "title": "Short", "body": "x", "expires_at": at(2_500) })).await;
        assert_eq!(mine(&alice, "?limit=1").await, ["short"]);
        eventually("it has run out", async || (mine(&alice, "?limit=1").await == ["away"]).then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn matrix_clients_are_told_by_notices_in_a_room_of_their_own() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let root = server.admin().await;
        let alice = server.register_with_secret("alice").await;
        // Who waits for news gets it without asking again.
        let mut since = alice.now().await;
        tell(&root, json!({ "id": "one", "title": "Maintenance", "body": "On Sunday", "html": "On <b>Sunday</b>" }))
            .await;
        let room = alice.sync_until(&mut since, |answer| notices_in(answer).map(|(room, _)| room)).await;
        assert_eq!(alice.membership(&room, &alice.user_id).await.as_deref(), Some("join"));
        let (_, texts) = notices(&alice, 1).await;
        assert_eq!(texts, ["Maintenance\n\nOn Sunday"]);
        let sender = "@_notices:a.test";
        assert_eq!(alice.membership(&room, sender).await.as_deref(), Some("join"));
        let history = alice.history(&room).await;
        let notice = history.iter().find(|event| event["type"] == "m.room.message").expect("it is there");
        assert_eq!(notice["sender"], sender);
        assert_eq!(notice["content"]["io.comity.broadcast"]["id"], "one");
        assert_eq!(notice["content"]["formatted_body"], "<strong>Maintenance</strong><br>On <b>Sunday</b>");

        // It is no chat: nobody writes there, nobody leaves, nobody is the server's user.
        alice
            .send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "but" }))
            .await
            .refused(403, "M_FORBIDDEN");
        let left = alice.post(&format!("rooms/{room}/leave"), json!({})).await;
        left.refused(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM");
        let invited = alice.post(&format!("rooms/{room}/invite"), json!({ "user_id": root.user_id })).await;
        invited.refused(403, "M_FORBIDDEN");
        server.anonymous().try_login("_notices", "").await.refused(403, "M_FORBIDDEN");

        // A receipt says that it was read.
        assert_eq!(mine(&alice, "?unread=true").await, ["one"]);
        let notice_id = notice["event_id"].as_str().expect("it has an id");
        alice.post(&format!("rooms/{room}/receipt/m.read/{notice_id}"), json!({})).await.ok();
        eventually("the broadcast is read", async || mine(&alice, "?unread=true").await.is_empty().then_some(())).await;
        let counts = root.get(&format!("{BROADCASTS}/one")).await.ok()["details"]["counts"].clone();
        assert_eq!((&counts["read"], &counts["noticed"]), (&json!(1), &json!(1)), "{counts}");

        // What came while nobody was there, or the server was away, comes when the client is there again, each once.
        for (id, expires) in [("two", None), ("three", None), ("late", Some(now() + 1_500))] {
            tell(&root, json!({ "id": id, "title": id, "body": id, "expires_at": expires })).await;
        }
        root.delete(&format!("{BROADCASTS}/three")).await;
        server.kill();
        let expired = now() + 1_600;
        eventually("one has run out", async || (now() > expired).then_some(())).await;
        server.restart().await;
        let (again, texts) = notices(&alice, 2).await;
        assert_eq!(
            (again, texts),
            (room.clone(), vec!["Maintenance\n\nOn Sunday".to_owned(), "two\n\ntwo".to_owned()])
        );

        // What is called back is taken away.
        root.delete(&format!("{BROADCASTS}/two")).await;
        let (_, texts) = notices(&alice, 1).await;
        assert_eq!(texts, ["Maintenance\n\nOn Sunday"]);
        // Who comes later isn't told of what was said before.
        let carol = server.register_with_secret("carol").await;
        tell(&root, json!({ "id": "four", "title": "four", "body": "four" })).await;
        assert_eq!(notices(&carol, 1).await.1, ["four\n\nfour"]);
        assert_eq!(notices(&alice, 2).await.1[1], "four\n\nfour");
    })
    .await;
}

#[tokio::test]
async fn a_large_audience_is_one_row() {
    const PEOPLE: usize = 200;
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let root = server.admin().await;
        let mut people = Vec::new();
        for number in 0..PEOPLE {
            people.push(server.register_with_secret(&format!("u{number}")).await);
        }
        let tables = ["broadcasts", "broadcast_reads", "notice_markers", "broadcast_deliveries", "rooms", "events"];
        let count = async || {
            let mut rows = Vec::new();
            for table in tables {
                rows.push(server.database().rows(server.folder(), table).await);
            }
            rows
        };
        let before = count().await;
        let told = tell(&root, json!({ "id": "all", "title": "All", "body": "of you" })).await;
        assert_eq!(told["details"]["counts"]["recipients"], PEOPLE + 1);
        // A user's own list needs no row either.
        assert_eq!(mine(&people[7], "?unread=true").await, ["all"]);
        // Those who look after that are told; the others cost nothing.
        assert_eq!(notices(&people[3], 1).await.1, ["All\n\nof you"]);
        people[5].post(&format!("{BROADCASTS}/all/read"), json!({})).await;
        let after = count().await;
        let grown: Vec<i64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        assert_eq!(grown[..5], [1, 1, 1, 0, 1], "rows of {tables:?}: {before:?}, then {after:?}");
        assert!(grown[5] < 15, "one room has few events: {grown:?}");
        let counts = root.get(&format!("{BROADCASTS}/all")).await.ok()["details"]["counts"].clone();
        assert_eq!(counts, json!({ "recipients": PEOPLE + 1, "read": 1, "noticed": 1 }));
        // Many at once, who all wait: each is told once.
        let waiting = people[100..120].iter().map(async |client| {
            let first = client.sync(None).await;
            if let Some((room, _)) = notices_in(&first) {
                return room;
            }
            let mut since = first["next_batch"].as_str().expect("next_batch is a string").to_owned();
            client.sync_until(&mut since, |answer| notices_in(answer).map(|(room, _)| room)).await
        });
        let mut rooms = futures_util::future::join_all(waiting).await;
        rooms.sort();
        rooms.dedup();
        assert_eq!(rooms.len(), 20);
        tokio::time::timeout(Duration::from_secs(20), async {
            while root.get(&format!("{BROADCASTS}/all")).await.ok()["details"]["counts"]["noticed"] != 21 {}
        })
        .await
        .expect("each of them is counted");
    })
    .await;
}
