//! Applications: back ends of others that sign their requests, here as `docs/applications.md` tells them to.

use std::{env, process::Command};

use federation_tests::{Answer, Client, Engine, Server, eventually, now, on_each_engine};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const ADMIN: &str = "/api/v1/admin/applications";
const ME: &str = "/api/v1/applications/me";
const TOKENS: &str = "/api/v1/applications/tokens";

/// An application's back end.
#[derive(Clone)]
struct BackEnd {
    key: String,
    secret: String,
}

/// A request that is signed, so that it can be sent more than once.
struct Signed {
    method: Method,
    path: String,
    body: Vec<u8>,
    headers: Vec<(&'static str, String)>,
}

impl BackEnd {
    async fn made_by(admin: &Client, wish: Value) -> Self {
        let made = admin.post(ADMIN, wish).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let text = |field: &str| made.body[field].as_str().unwrap_or_else(|| panic!("no {field}")).to_owned();
        Self { key: text("app_key"), secret: text("secret") }
    }

    fn sign(&self, method: Method, path: &str, body: Option<&Value>, user: &str) -> Signed {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let (timestamp, nonce) = (now().to_string(), format!("{:032x}", rand::random::<u128>()));
        let (plain, query) = path.split_once('?').unwrap_or((path, ""));
        let mut query: Vec<&str> = query.split('&').collect();
        query.sort_unstable();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let lines = [
            "COMITY-HMAC-SHA256",
            method.as_str(),
            plain,
            &query.join("&"),
            &self.key,
            &timestamp,
            &nonce,
            user,
            &hex(&Sha256::digest(&body)),
        ];
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).expect("any key will do");
        mac.update(lines.join("\n").as_bytes());
        let mut headers = vec![
            ("x-app-key", self.key.clone()),
            ("x-app-timestamp", timestamp),
            ("x-app-nonce", nonce),
            ("x-app-signature", hex(&mac.finalize().into_bytes())),
        ];
        if !user.is_empty() {
            headers.push(("x-app-user", user.to_owned()));
        }
        Signed { method, path: path.to_owned(), body, headers }
    }

    async fn get(&self, server: &Server, path: &str) -> Answer {
        self.sign(Method::GET, path, None, "").send(server).await
    }

    async fn post(&self, server: &Server, path: &str, body: Value) -> Answer {
        self.sign(Method::POST, path, Some(&body), "").send(server).await
    }

    async fn post_as(&self, server: &Server, user: &str, path: &str, body: Value) -> Answer {
        self.sign(Method::POST, path, Some(&body), user).send(server).await
    }

    /// A client of `user`, by a session that the application has opened.
    async fn client_of(&self, server: &Server, user: &str) -> Client {
        let minted = self.post(server, TOKENS, json!({ "user": user, "device_name": "portal" })).await.ok();
        let mut client = server.anonymous();
        client.remember(&minted);
        client
    }
}

impl Signed {
    async fn send(&self, server: &Server) -> Answer {
        let headers: Vec<(&str, &str)> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let content_type = if self.body.is_empty() { "" } else { "application/json" };
        let client = server.anonymous();
        let sent = client.raw_saying(self.method.clone(), &self.path, content_type, self.body.clone(), &headers);
        sent.await.unwrap_or_else(|error| panic!("{}: {error}", self.path))
    }
}

fn everything() -> Value {
    json!(["tokens:mint", "users:create", "users:read", "messages:send", "messages:read", "conversations:read"])
}

fn message(to: &str, msg_id: &str, text: &str) -> Value {
    json!({ "to": to, "msg_id": msg_id, "type": "text", "content": { "text": text } })
}

/// The body of a 201.
#[track_caller]
fn made(answer: Answer) -> Value {
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body
}

#[tokio::test]
async fn a_back_end_makes_users_speaks_as_them_and_lets_them_in() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let (admin, alice) = (server.admin().await, server.register("alice").await);
        let crm = BackEnd::made_by(&admin, json!({ "name": "CRM", "scopes": everything() })).await;
        assert_eq!(crm.get(&server, ME).await.ok()["name"], "CRM");
        let dora = made(crm.post(&server, "/api/v1/applications/users", json!({ "name": "dora" })).await);
        assert_eq!(dora["user_id"], "@dora:a.test");

        // As Dora, and once only, however often it is asked for.
        let greet = message("alice@a.test", "hello-1", "hello, Alice");
        let sent = made(crm.post_as(&server, "dora@a.test", "/api/v1/messages", greet.clone()).await);
        let again = made(crm.post_as(&server, "dora@a.test", "/api/v1/messages", greet).await);
        assert_eq!(sent["id"], again["id"]);
        let room = sent["conversation_id"].as_str().expect("it is somewhere").to_owned();
        alice.join(&room).await;
        let heard = alice.history(&room).await;
        assert!(heard.iter().any(|event| event["content"]["body"] == "hello, Alice"), "{heard:?}");
        // Her own client goes on, on both faces.
        let dora = crm.client_of(&server, "dora@a.test").await;
        made(dora.post("/api/v1/messages", message("alice@a.test", "hello-2", "it is me")).await);
        dora.say(&room, "and me again").await;
        let path = "/api/v1/messages?only=messages&limit=10&conversation_id=";
        let path = format!("{path}{}", room.replace('!', "%21").replace(':', "%3A"));
        let read = crm.sign(Method::GET, &path, None, "@dora:a.test").send(&server).await.ok();
        let texts: Vec<_> =
            read["messages"].as_array().expect("they list").iter().map(|m| &m["content"]["text"]).collect();
        assert_eq!(texts, ["hello, Alice", "it is me", "and me again"]);
        let sessions = dora.get("/api/v1/auth/sessions").await.ok();
        assert_eq!(
            (&sessions["sessions"][0]["application"], &sessions["sessions"][0]["device_name"]),
            (&json!("CRM"), &json!("portal"))
        );
        dora.get("/api/v1/admin/audit").await.problem(403, "forbidden");
        crm.sign(Method::GET, "/api/v1/admin/audit", None, "dora@a.test")
            .send(&server)
            .await
            .problem(403, "not_for_applications");

        // What was sent once is refused after a crash, too.
        let request = crm.sign(Method::GET, ME, None, "");
        request.send(&server).await.ok();
        request.send(&server).await.problem(401, "nonce_used");
        server.kill();
        server.restart().await;
        request.send(&server).await.problem(401, "nonce_used");
        assert_eq!(crm.get(&server, ME).await.ok()["name"], "CRM");
        dora.get("/api/v1/users/me").await.ok();

        let log = server.log();
        assert!(log.contains(&crm.key), "who has asked is in the log");
        assert!(!log.contains(&crm.secret), "and by what is not");
        if let Engine::Sqlite = engine {
            let holds = |file: &str| {
                let bytes = std::fs::read(server.folder().join("data").join(file)).unwrap_or_default();
                bytes.windows(crm.secret.len()).any(|part| part == crm.secret.as_bytes())
            };
            assert!(!holds("comity.db") && !holds("comity.db-wal"), "secrets are sealed");
        }
    })
    .await;
}

#[tokio::test]
async fn a_secret_is_replaced_without_a_gap_and_an_application_that_is_off_is_off() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let (admin, _) = (server.admin().await, server.register("alice").await);
        let old = BackEnd::made_by(&admin, json!({ "name": "CRM", "scopes": everything() })).await;
        let path = format!("{ADMIN}/{}", old.key);
        let rotate = async |overlap_ms: u64| {
            let told = admin.post(&format!("{path}/secrets"), json!({ "overlap_ms": overlap_ms })).await.ok();
            BackEnd { key: old.key.clone(), secret: told["secret"].as_str().expect("it is told").to_owned() }
        };
        let new = rotate(3_600_000).await;
        old.get(&server, ME).await.ok();
        new.get(&server, ME).await.ok();
        let newest = rotate(0).await;
        old.get(&server, ME).await.problem(401, "signature_wrong");
        new.get(&server, ME).await.problem(401, "signature_wrong");
        let alice = newest.client_of(&server, "alice@a.test").await;
        let mine = server.login("alice").await;

        admin.attempt(Method::PATCH, &path, Some(&json!({ "scopes": ["users:read"] }))).await.expect("it answers").ok();
        let refused =
            newest.post(&server, TOKENS, json!({ "user": "alice@a.test" })).await.problem(403, "missing_scope");
        assert_eq!(refused["scope"], "tokens:mint");
        alice.get("/api/v1/users/me").await.ok();
        admin.post(&format!("{path}/disable"), json!({ "reason": "its laptop was stolen" })).await.ok();
        newest.get(&server, ME).await.problem(403, "application_disabled");
        assert_eq!(alice.get("/api/v1/users/me").await.status, 401);
        alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        mine.get("account/whoami").await.ok();
        let log = admin.get("/api/v1/admin/audit").await.ok();
        let entry = &log["entries"][0];
        assert_eq!(
            (&entry["action"], &entry["reason"]),
            (&json!("application.disabled"), &json!("its laptop was stolen")),
            "{log}"
        );

        let few = json!({ "name": "few", "scopes": [], "per_second": 1, "burst": 2 });
        let few = BackEnd::made_by(&admin, few).await;
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(few.get(&server, ME).await.status);
        }
        assert!(answers.starts_with(&[200, 200]) && answers.contains(&429), "{answers:?}");
        let elsewhere = json!({ "name": "elsewhere", "scopes": [], "addresses": ["192.0.2.0/24"] });
        let elsewhere = BackEnd::made_by(&admin, elsewhere).await;
        elsewhere.get(&server, ME).await.problem(403, "address_not_allowed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_signs_as_it_should() {
    let python = env::var_os("COMITY_TEST_TUS").unwrap_or_else(|| "python3".into());
    if Command::new(&python).arg("--version").output().is_err() {
        return eprintln!("SKIPPED: the example is in Python, which isn't there");
    }
    let server = Server::start(&Engine::Sqlite).await;
    let (admin, alice) = (server.admin().await, server.register("alice").await);
    let crm = BackEnd::made_by(&admin, json!({ "name": "CRM", "scopes": everything() })).await;
    let run = |arguments: &[&str]| {
        let [method, path, rest @ ..] = arguments else { panic!("a method and a path") };
        let output = Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/application.py"))
            .args([*method, &format!("{}{path}", server.url())])
            .args(rest)
            .env("COMITY_APP_KEY", &crm.key)
            .env("COMITY_APP_SECRET", &crm.secret)
            .output()
            .expect("Python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("it prints the answer")
    };
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| run(arguments));
    assert_eq!(run(&["GET", ME])["app_key"], crm.key.as_str());
    let minted = run(&["POST", TOKENS, r#"{"user": "alice@a.test"}"#]);
    assert_eq!(minted["user_id"], alice.user_id.as_str());
    let listed = run(&["GET", "/api/v1/applications/sessions?user=alice%40a.test&limit=9"]);
    assert_eq!(listed["sessions"][0]["device_id"], minted["device_id"]);
    run(&["POST", "/api/v1/applications/users", r#"{"name": "dora", "display_name": "Дора 朵拉"}"#]);
    let said = message("dora@a.test", "1", "你好").to_string();
    assert_eq!(run(&["POST", "/api/v1/messages", &said, "alice@a.test"])["content"]["text"], "你好");
}

#[tokio::test]
async fn another_node_takes_nothing_twice_and_hears_of_an_end() {
    let Some(engine) = Engine::postgres() else {
        return eprintln!("SKIPPED: nodes share a PostgreSQL, and COMITY_TEST_POSTGRES_URL isn't set");
    };
    let one = Server::start(&engine).await;
    let other = one.another_node().await;
    let (admin, _) = (one.admin().await, one.register("alice").await);
    let crm = BackEnd::made_by(&admin, json!({ "name": "CRM", "scopes": everything() })).await;
    let request = crm.sign(Method::GET, ME, None, "");
    request.send(&one).await.ok();
    request.send(&other).await.problem(401, "nonce_used");
    let alice = crm.client_of(&other, "alice@a.test").await;
    alice.get("/api/v1/users/me").await.ok();
    admin.post(&format!("{ADMIN}/{}/disable", crm.key), json!({})).await.ok();
    crm.get(&other, ME).await.problem(403, "application_disabled");
    eventually("the other node lets her in no more", async || {
        (alice.get("/api/v1/users/me").await.status == 401).then_some(())
    })
    .await;
}
