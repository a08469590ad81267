//! What those who run a server do about its people, and what they see of it.

use federation_tests::{Client, Closed, Server, Socket, enc, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};

const ADMIN: &str = "/api/v1/admin";

fn why() -> Value {
    json!({ "reason": "it was asked for" })
}

fn of(user: &Client, act: &str) -> String {
    format!("{ADMIN}/users/{}/{act}", enc(&user.user_id))
}

/// What admins did, the latest first.
async fn acts(admin: &Client) -> Vec<(String, String)> {
    let audit = admin.get(&format!("{ADMIN}/audit?limit=50")).await.ok();
    let entries = audit["entries"].as_array().expect("a list").clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries.iter().map(|entry| (text(&entry["action"]), text(&entry["subject"]))).collect()
}

#[tokio::test]
async fn who_is_suspended_reads_and_takes_back_and_says_nothing_by_any_way() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let admin = server.admin().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let other = alice.create_public_room().await;
        let said = bob.say(&room, "something rude").await;
        let mut socket = Socket::open(&bob).await;
        admin.post(&of(&bob, "suspend"), why()).await.ok();

        let message = json!({ "msgtype": "m.text", "body": "more of it" });
        bob.send(&room, "m.room.message", message).await.refused(403, "M_USER_SUSPENDED");
        bob.post(&format!("join/{}", enc(&other)), json!({})).await.refused(403, "M_USER_SUSPENDED");
        bob.post("createRoom", json!({})).await.refused(403, "M_USER_SUSPENDED");
        bob.act_on(&room, "kick", &alice.user_id).await.refused(403, "M_USER_SUSPENDED");
        let name = format!("profile/{}/displayname", enc(&bob.user_id));
        bob.put(&name, json!({ "displayname": "B" })).await.refused(403, "M_USER_SUSPENDED");
        let native = json!({ "conversation_id": room, "type": "text", "content": { "text": "more" } });
        bob.post("/api/v1/messages", native).await.problem(403, "user_suspended");
        let frame = json!({
            "type": "send", "msg_id": "m1", "conversation_id": room,
            "message": { "type": "text", "content": { "text": "by the other way" } },
        });
        socket.say(frame).await;
        assert_eq!(socket.next("refused").await["problem"]["code"], "user_suspended");

        // Reading, taking back and leaving go on.
        let heard = alice.say(&room, "please stop").await;
        assert_eq!(socket.next("message").await["data"]["id"], heard.as_str());
        bob.get("sync?timeout=0").await.ok();
        let redact_hers = format!("rooms/{}/redact/{}/t0", enc(&room), enc(&heard));
        bob.put(&redact_hers, json!({})).await.refused(403, "M_FORBIDDEN");
        bob.put(&format!("rooms/{}/redact/{}/t1", enc(&room), enc(&said)), json!({})).await.ok();
        admin.post(&of(&bob, "unsuspend"), why()).await.ok();
        bob.say(&room, "sorry").await;
        admin.post(&of(&bob, "suspend"), why()).await.ok();
        bob.leave(&room).await;
        let record = admin.get(&format!("{ADMIN}/users/{}", enc(&bob.user_id))).await.ok();
        assert_eq!(
            (&record["state"], &record["rooms"], &record["role"]),
            (&json!("suspended"), &json!(0), &json!("user"))
        );
        let listed = admin.get(&format!("{ADMIN}/users?state=suspended")).await.ok();
        assert_eq!(listed["users"][0]["address"], "bob@a.test", "{listed}");
        assert_eq!(acts(&admin).await[0], ("account.suspended".to_owned(), bob.user_id.clone()));
    })
    .await;
}

#[tokio::test]
async fn a_locked_account_waits_with_its_sessions() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let admin = server.admin().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let mut socket = Socket::open(&bob).await;
        // By a Matrix moderation tool.
        let lock = format!("/_matrix/client/v1/admin/lock/{}", enc(&bob.user_id));
        alice.put(&lock, json!({ "locked": true })).await.refused(403, "M_FORBIDDEN");
        assert_eq!(admin.put(&lock, json!({ "locked": true })).await.ok(), json!({ "locked": true }));
        assert_eq!(admin.get(&lock).await.ok(), json!({ "locked": true }));
        assert_eq!(socket.closed().await, Closed { code: 4001, reason: "session_ended".to_owned() });
        let refused = bob.get("account/whoami").await;
        assert_eq!(refused.refused(401, "M_USER_LOCKED")["soft_logout"], true);
        bob.get("/api/v1/users/me").await.problem(401, "user_locked");
        server.anonymous().try_login("bob", "bob's password").await.refused(401, "M_USER_LOCKED");
        admin.put(&lock, json!({ "locked": false })).await.ok();
        bob.get("account/whoami").await.ok();
        admin.post(&of(&bob, "lock"), why()).await.ok();
        bob.post("logout", json!({})).await.ok();
        admin.post(&of(&bob, "unlock"), why()).await.ok();
        bob.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        let capabilities = admin.get("capabilities").await.ok();
        assert_eq!(capabilities["capabilities"]["m.account_moderation"], json!({ "suspend": true, "lock": true }));
        assert!(alice.get("capabilities").await.ok()["capabilities"]["m.account_moderation"].is_null());
    })
    .await;
}

#[tokio::test]
async fn accounts_are_made_changed_and_closed() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let admin = server.admin().await;
        let alice = server.register("alice").await;
        let wish = json!({ "name": "carol", "password": "correct horse", "role": "auditor", "reason": "she audits" });
        let made = admin.post(&format!("{ADMIN}/users"), wish.clone()).await;
        assert_eq!((made.status, &made.body["role"]), (201, &json!("auditor")), "{}", made.text);
        admin.post(&format!("{ADMIN}/users"), wish.clone()).await.problem(400, "name_taken");
        alice.post(&format!("{ADMIN}/users"), wish).await.problem(403, "forbidden");
        let mut carol = server.anonymous();
        carol.login("carol", "correct horse").await;
        carol.get(&format!("{ADMIN}/users?limit=1")).await.ok();
        carol.post(&of(&alice, "lock"), why()).await.problem(403, "forbidden");

        // Page by page, each once.
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = admin.get(&format!("{ADMIN}/users?limit=1{cursor}")).await.ok();
            seen.extend(page["users"].as_array().expect("a list").iter().map(|user| user["user_id"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={}", enc(next));
        }
        let mut each = seen.clone();
        each.dedup();
        assert!(seen.len() == 3 && each == seen, "{seen:?}");

        let password = json!({ "password": "another one", "reason": "forgotten" });
        assert_eq!(admin.put(&of(&carol, "password"), password).await.status, 204);
        carol.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        carol.login("carol", "another one").await;
        let role = json!({ "role": "operator", "reason": "she operates" });
        assert_eq!(admin.put(&of(&carol, "role"), role.clone()).await.ok()["role"], "operator");
        admin.put(&of(&admin, "role"), role).await.problem(403, "own_account");
        let details = admin.get(&format!("{ADMIN}/users/{}", enc(&carol.user_id))).await.ok();
        assert_eq!(details["sessions"][0]["device_id"], carol.device_id.as_str(), "{details}");
        let ended = format!("{ADMIN}/users/{}/sessions?reason=lost", enc(&carol.user_id));
        let ended = admin.attempt(Method::DELETE, &ended, None).await.expect("it answers");
        assert_eq!(ended.ok()["ended"], 1);
        carol.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");

        let room = alice.create_public_room().await;
        assert_eq!(admin.post(&of(&alice, "deactivate"), why()).await.status, 204);
        alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        server.anonymous().try_login("alice", "alice's password").await.refused(403, "M_USER_DEACTIVATED");
        let details = admin.get(&format!("{ADMIN}/users/{}", enc(&alice.user_id))).await.ok();
        assert_eq!((&details["state"], &details["rooms"]), (&json!("deactivated"), &json!(0)), "{room}: {details}");
        let did: Vec<String> = acts(&admin).await.into_iter().map(|(action, _)| action).collect();
        let expected = ["deactivated", "sessions_ended", "role_set", "password_set", "created"];
        assert_eq!(did, expected.map(|act| format!("account.{act}")));
        assert!(!server.log().contains("another one"));
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_seen_and_ended_and_may_come_back() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let admin = server.admin().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let mut hers = Socket::open(&alice).await;
        let _his = Socket::open(&bob).await;
        let path = format!("{ADMIN}/connections");
        let page = admin.get(&format!("{path}?limit=1")).await.ok();
        let one = &page["connections"][0];
        assert_eq!((&one["address"], &one["ip"]), (&json!("alice@a.test"), &json!("127.0.0.1")), "{page}");
        assert_eq!((&one["device_id"], &one["protocol"]), (&json!(alice.device_id), &json!("websocket")));
        assert_eq!((&page["nodes"][0]["connections"], &page["nodes"][0]["node"]), (&json!(2), &one["node"]));
        assert_eq!(page["silent_nodes"], json!([]));
        let next = enc(page["next"].as_str().expect("there are more"));
        let rest = admin.get(&format!("{path}?limit=1&cursor={next}")).await.ok();
        assert_eq!((&rest["connections"][0]["address"], &rest["next"]), (&json!("bob@a.test"), &Value::Null));

        let end = format!("{path}?user_id=alice@a.test&reason=noise");
        alice.attempt(Method::DELETE, &end, None).await.expect("it answers").problem(403, "forbidden");
        let ended = admin.attempt(Method::DELETE, &end, None).await.expect("it answers").ok();
        assert_eq!((&ended["ended"], &ended["silent_nodes"]), (&json!(1), &json!([])));
        assert_eq!(hers.closed().await, Closed { code: 4003, reason: "disconnected".to_owned() });
        let listed = admin.get(&format!("{path}?user_id=alice@a.test")).await.ok();
        assert_eq!(listed["connections"], json!([]));
        let _again = Socket::open(&alice).await;
        assert_eq!(acts(&admin).await[0], ("connections.ended".to_owned(), alice.user_id.clone()));
    })
    .await;
}

#[tokio::test]
async fn what_is_reported_waits_for_a_decision() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let admin = server.admin().await;
        let (alice, bob, carol) =
            (server.register("alice").await, server.register("bob").await, server.register("carol").await);
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let rude = bob.say(&room, "something rude").await;
        let report = format!("rooms/{}/report/{}", enc(&room), enc(&rude));
        carol.post(&report, json!({ "reason": "I can't see it" })).await.refused(404, "M_NOT_FOUND");
        alice.post(&report, json!({ "reason": "it is rude" })).await.ok();
        carol.post(&format!("rooms/{}/report", enc(&room)), json!({ "reason": "the name" })).await.ok();
        let nobody = format!("users/{}/report", enc("@nobody:a.test"));
        carol.post(&nobody, json!({ "reason": "who?" })).await.refused(404, "M_NOT_FOUND");
        let native = json!({ "user_id": "bob@a.test", "reason": "he again" });
        assert_eq!(carol.post("/api/v1/reports", native).await.status, 204);

        let path = format!("{ADMIN}/reports");
        alice.get(&path).await.problem(403, "forbidden");
        let page = admin.get(&format!("{path}?limit=2")).await.ok();
        let kinds: Vec<&Value> = page["reports"].as_array().expect("a list").iter().map(|one| &one["kind"]).collect();
        assert_eq!(kinds, ["event", "room"]);
        let rest = admin.get(&format!("{path}?cursor={}", page["next"])).await.ok();
        assert_eq!(rest["reports"][0]["address"], "bob@a.test", "{rest}");
        let first = admin.get(&format!("{path}/1")).await.ok();
        assert_eq!(
            (&first["reason"], &first["event"]["content"]["body"]),
            (&json!("it is rude"), &json!("something rude"))
        );

        let decide = |number: u32| format!("{path}/{number}/decide");
        let wish = json!({ "decision": "acted", "note": "it was", "redact": true, "suspend": true });
        admin.post(&decide(2), wish.clone()).await.problem(400, "invalid");
        let decided = admin.post(&decide(1), wish.clone()).await.ok();
        assert_eq!(decided["decision"]["decided_by"], admin.user_id.as_str(), "{decided}");
        admin.post(&decide(1), wish).await.problem(409, "decided_already");
        let event = alice.get(&format!("rooms/{}/event/{}", enc(&room), enc(&rude))).await.ok();
        assert_eq!(event["content"], json!({}), "{event}");
        let message = json!({ "msgtype": "m.text", "body": "more" });
        bob.send(&room, "m.room.message", message).await.refused(403, "M_USER_SUSPENDED");
        admin.post(&decide(3), json!({ "decision": "dismissed", "note": "seen" })).await.ok();
        let decided = admin.get(&format!("{path}?state=decided")).await.ok();
        assert_eq!((&decided["reports"][0]["number"], &decided["reports"][1]["number"]), (&json!(3), &json!(1)));
        let did: Vec<String> = acts(&admin).await.into_iter().map(|(action, _)| action).collect();
        assert_eq!(did, ["report.decided", "report.decided", "account.suspended", "event.redacted"]);
    })
    .await;
}

#[tokio::test]
async fn a_banned_address_is_refused_on_every_face_and_this_machine_never_is() {
    on_each_engine(async |engine| {
        // The test stands before the server as a reverse proxy does.
        let server = Server::builder(&engine).set("listen", "trusted_proxies", vec!["127.0.0.1"]).start().await;
        let admin = server.admin().await;
        let path = format!("{ADMIN}/ip-bans");
        let ask = async |from: &str, path: &str| {
            let headers = [("x-forwarded-for", from)];
            let asked = server.anonymous();
            asked.raw_saying(Method::GET, path, "", Vec::new(), &headers).await.expect("it answers")
        };
        let versions = "/_matrix/client/versions";
        assert_eq!(ask("203.0.113.9", versions).await.status, 200);
        let ban = json!({ "network": "203.0.113.0/24", "reason": "it knocks all night" });
        assert_eq!(admin.put(&path, ban).await.ok()["network"], "203.0.113.0/24");
        ask("203.0.113.9", versions).await.refused(403, "M_FORBIDDEN");
        ask("203.0.113.9", "/_matrix/key/v2/server").await.refused(403, "M_FORBIDDEN");
        ask("203.0.113.9", "/api/v1/auth/jwks.json").await.problem(403, "address_banned");
        assert_eq!(ask("203.0.114.9", versions).await.status, 200);
        for (network, status) in [("0.0.0.0/0", 400), ("127.0.0.1", 400)] {
            let ban = json!({ "network": network, "reason": "a slip" });
            admin.put(&path, ban).await.problem(status, "would_lock_out");
        }
        admin.put(&path, json!({ "network": "somewhere", "reason": "x" })).await.problem(400, "invalid");
        let listed = admin.get(&path).await.ok();
        assert_eq!(listed["ip_bans"][0]["banned_by"], admin.user_id.as_str(), "{listed}");
        let lift = format!("{path}?network=203.0.113.0/24&reason=calm");
        assert_eq!(admin.attempt(Method::DELETE, &lift, None).await.expect("it answers").status, 204);
        assert_eq!(ask("203.0.113.9", versions).await.status, 200);
        let did: Vec<String> = acts(&admin).await.into_iter().map(|(action, _)| action).collect();
        assert_eq!(did, ["ip_ban.lifted", "ip_ban.set"]);
    })
    .await;
}

#[tokio::test]
async fn what_is_set_while_the_server_runs_holds_and_is_told_from_where_it_is() {
    on_each_engine(async |engine| {
        let mut server = Server::builder(&engine).set("rooms", "recall_window", "1h").start().await;
        let admin = server.admin().await;
        let alice = server.register("alice").await;
        let path = format!("{ADMIN}/settings");
        let listed = admin.get(&path).await.ok();
        let find = |name: &str| {
            let settings = listed["settings"].as_array().expect("a list");
            settings.iter().find(|setting| setting["name"] == name).expect("it is there").clone()
        };
        let window = find("rooms.recall_window");
        assert_eq!((&window["value"], &window["source"]), (&json!(3_600_000), &json!("configuration")), "{listed}");
        assert_eq!(find("registration.approval")["source"], "default");
        alice.get(&path).await.problem(403, "forbidden");

        let one = format!("{path}/registration.enabled");
        let wish = |value: Value| json!({ "value": value, "reason": "enough of them" });
        admin.put(&one, wish(json!("perhaps"))).await.problem(400, "invalid");
        admin.put(&format!("{path}/nothing"), wish(json!(true))).await.problem(404, "not_found");
        assert_eq!(admin.put(&one, wish(json!(false))).await.ok()["changed_by"], admin.user_id.as_str());
        let join = json!({ "name": "bob", "password": "correct horse" });
        server.anonymous().post("/api/v1/auth/register", join.clone()).await.problem(403, "registration_closed");
        let bearer = format!("Bearer {}", admin.token.as_deref().expect("a token"));
        let headers = [("authorization", bearer.as_str()), ("if-match", "\"0\"")];
        let body = wish(json!(true)).to_string().into_bytes();
        let late = admin.raw_saying(Method::PUT, &one, "application/json", body, &headers).await.expect("an answer");
        late.problem(412, "precondition_failed");
        // It outlasts a restart, until it is taken away.
        server.stop().await;
        server.restart().await;
        server.anonymous().post("/api/v1/auth/register", join.clone()).await.problem(403, "registration_closed");
        let unset = format!("{one}?reason=again");
        let unset = admin.attempt(Method::DELETE, &unset, None).await.expect("it answers").ok();
        assert_eq!((&unset["value"], &unset["changed_by"]), (&json!(true), &Value::Null), "{unset}");
        assert_eq!(server.anonymous().post("/api/v1/auth/register", join).await.status, 201);

        let room = alice.create_public_room().await;
        let carol = server.register("carol").await;
        carol.join(&room).await;
        let said = carol.say(&room, "a slip").await;
        admin.put(&format!("{path}/rooms.recall_window"), wish(json!(1))).await.ok();
        let recall = format!("/api/v1/messages/{}/recall", enc(&said));
        carol.post(&recall, json!({})).await.problem(403, "recall_too_late");
        let did: Vec<String> = acts(&admin).await.into_iter().map(|(_, subject)| subject).collect();
        assert_eq!(did, ["rooms.recall_window", "registration.enabled", "registration.enabled"]);
    })
    .await;
}

#[tokio::test]
async fn rates_and_what_is_logged_change_while_the_server_runs() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine).set("rate_limits", "enabled", true).start().await;
        let admin = server.admin().await;
        let room = admin.create_public_room().await;
        let path = format!("{ADMIN}/settings");
        let wish = |value: Value| json!({ "value": value, "reason": "it is too much" });
        let rate = format!("{path}/rate_limits.messages");
        for wrong in [json!(5), json!({ "per_second": 0, "burst": 1 }), json!({ "per_second": 1.0, "burst": 0 })] {
            let refused = admin.put(&rate, wish(wrong)).await.problem(400, "invalid");
            assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("per_second")), "{refused}");
        }
        let slow = json!({ "per_second": 0.001, "burst": 2 });
        assert_eq!(admin.put(&rate, wish(slow.clone())).await.ok()["value"], slow);
        let say =
            async || admin.send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "hello" })).await.status;
        assert_eq!([say().await, say().await, say().await], [200, 200, 429]);
        let path_of = |name: &str| format!("{path}/{name}");
        admin.put(&path_of("rate_limits.enabled"), wish(json!(false))).await.ok();
        assert_eq!(say().await, 200);
        admin.put(&path_of("rate_limits.enabled"), wish(json!(true))).await.ok();
        assert_eq!(say().await, 429, "the bucket is as empty as it was");
        let unset =
            admin.attempt(Method::DELETE, &format!("{rate}?reason=enough"), None).await.expect("it answers").ok();
        assert_eq!((&unset["value"]["burst"], say().await), (&json!(50), 200), "{unset}");

        let is_told_of = async |who: &str| {
            server.register(who).await;
            let found = admin.get(&format!("{ADMIN}/logs?text=@{who}")).await.ok();
            !found["lines"].as_array().expect("lines").is_empty()
        };
        let filter = path_of("logging.filter");
        admin.put(&filter, wish(json!("everything=loudly"))).await.problem(400, "invalid");
        assert!(is_told_of("bob").await);
        admin.put(&filter, wish(json!("error"))).await.ok();
        assert!(!is_told_of("carol").await);
        admin.put(&filter, wish(json!("error,users=info"))).await.ok();
        assert!(is_told_of("dan").await);
    })
    .await;
}

#[tokio::test]
async fn how_the_server_is_and_what_it_says() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let admin = server.admin().await;
        let alice = server.register("alice").await;
        let room = alice.create_public_room().await;
        for _ in 0..3 {
            alice.say(&room, "hello").await;
        }
        let status = admin.get(&format!("{ADMIN}/status")).await.ok();
        assert_eq!((&status["users"]["accounts"], &status["rooms"]), (&json!(2), &json!(1)), "{status}");
        assert_eq!((&status["server_name"], &status["federation_backlog"]), (&json!("a.test"), &json!(0)), "{status}");
        let days = admin.get(&format!("{ADMIN}/statistics?days=2")).await.ok();
        let days = days["days"].as_array().expect("a list").clone();
        let said: i64 = days.iter().filter_map(|day| day["local_messages"].as_i64()).sum();
        assert_eq!((days.len(), said), (2, 3), "{days:?}");

        let logs = format!("{ADMIN}/logs");
        alice.get(&logs).await.problem(403, "forbidden");
        let lines = admin.get(&format!("{logs}?level=info&text=alice&limit=1000")).await.ok();
        let found = lines["lines"].as_array().expect("a list");
        assert!(found.iter().any(|line| line["message"] == "@alice:a.test registered"), "{lines}");
        // Who waits is told as soon as there is something.
        let next = &lines["next"];
        let follow = format!("{logs}?after={next}&text=zoe&wait_ms=30000");
        let (told, _) = tokio::join!(admin.get(&follow), server.register("zoe"));
        assert_eq!(told.ok()["lines"][0]["level"], "info");
        let token = alice.token.as_deref().expect("a token");
        let all = admin.get(&format!("{logs}?limit=1000")).await;
        assert!(!all.text.contains(token) && !all.text.contains("alice's password"), "{}", all.text);
    })
    .await;
}
