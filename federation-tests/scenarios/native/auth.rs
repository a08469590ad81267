//! Logging in through the native API, beside Matrix clients and with the real binary.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use federation_tests::{Client, MailSink, Server, ServerBuilder, eventually, on_each_engine};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Method;
use serde_json::{Value, json};
use sha1::Sha1;

const AUTH: &str = "/api/v1/auth";

/// Makes an account, and answers its session.
async fn register(client: &Client, name: &str) -> Value {
    let answer = client.post("/api/v1/auth/register", json!({ "name": name, "password": "correct horse" })).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body
}

async fn login(client: &Client, more: Value) -> federation_tests::Answer {
    let mut body = json!({ "user": "alice", "password": "correct horse" });
    body.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
    client.post("/api/v1/auth/login", body).await
}

fn as_user(client: &Client, session: &Value) -> Client {
    let mut client = client.another();
    client.remember(session);
    client
}

/// What a program that knows nothing but the published keys makes of a token.
fn verified(token: &str, keys: &Value) -> Option<Value> {
    let (text, signature) = token.rsplit_once('.')?;
    let (head, claims) = text.split_once('.')?;
    let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let kid = read(head)?["kid"].clone();
    let key = keys["keys"].as_array()?.iter().find(|key| key["kid"] == kid)?;
    let key: [u8; 32] = URL_SAFE_NO_PAD.decode(key["x"].as_str()?).ok()?.try_into().ok()?;
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
    VerifyingKey::from_bytes(&key).ok()?.verify_strict(text.as_bytes(), &signature).ok()?;
    read(claims)
}

#[tokio::test]
async fn people_of_both_faces_share_accounts_sessions_and_rooms() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let nobody = server.anonymous();
        let session = register(&nobody, "alice").await;
        let alice = as_user(&nobody, &session);
        let bob = server.register("bob").await;
        let room = alice.create_public_room().await;
        bob.join(&room).await;
        let mut since = alice.now().await;
        let said = bob.say(&room, "hello").await;
        alice.sync_until_event(&mut since, &room, &said).await;

        // A Matrix client of the same user, and the other way round.
        let element = server.anonymous();
        let opened = element.try_login("alice", "correct horse").await.ok();
        let element = as_user(&element, &opened);
        let sessions = element.get(&format!("{AUTH}/sessions")).await.ok();
        assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(2), "{sessions}");
        let bobs =
            nobody.post("/api/v1/auth/login", json!({ "user": "bob@a.test", "password": "bob's password" })).await;
        as_user(&nobody, &bobs.ok()).get("sync?timeout=0").await.ok();

        // Other programs believe the token by the key alone; it is the same one after a restart.
        let keys = nobody.get(&format!("{AUTH}/jwks.json")).await.ok();
        let token = session["access_token"].as_str().expect("a token");
        let claims = verified(token, &keys).expect("it was signed");
        assert_eq!((&claims["sub"], &claims["sid"]), (&json!("alice@a.test"), &session["device_id"]));
        server.stop().await;
        server.restart().await;
        assert_eq!(nobody.get(&format!("{AUTH}/jwks.json")).await.ok(), keys);
        alice.get("account/whoami").await.ok();

        // Ending it from elsewhere is at once.
        element.delete(&format!("{AUTH}/sessions/{}", alice.device_id)).await;
        alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        alice.get(&format!("{AUTH}/sessions")).await.problem(401, "unknown_token");
    })
    .await;
}

#[tokio::test]
async fn a_stolen_refresh_token_ends_the_session_and_is_told() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let nobody = server.anonymous();
        let first = register(&nobody, "alice").await;
        let renewal = json!({ "refresh_token": first["refresh_token"] });
        let path = format!("{AUTH}/refresh");
        let thief = as_user(&nobody, &nobody.post(&path, renewal.clone()).await.ok());
        thief.get("account/whoami").await.ok();
        nobody.post(&path, renewal).await.problem(401, "refresh_token_reused");
        thief.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        let admin = server.admin().await;
        let event = eventually("the admins are told", async || {
            let events = admin.get("/api/v1/events?type=security.refresh_token_reused").await.ok();
            events["events"].get(0).cloned()
        })
        .await;
        assert_eq!((&event["subject"], &event["data"]["device_id"]), (&json!("@alice:a.test"), &first["device_id"]));
        assert!(server.log().contains("refresh_token_reused"));
        assert!(!server.log().contains(first["refresh_token"].as_str().expect("a token")));
    })
    .await;
}

#[tokio::test]
async fn guessing_is_slow_on_both_faces_together() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine).set("accounts", "failed_logins_allowed", 3).start().await;
        let nobody = server.anonymous();
        register(&nobody, "alice").await;
        let guess = json!({ "password": "a guess" });
        for _ in 0..2 {
            login(&nobody, guess.clone()).await.problem(401, "wrong_credentials");
        }
        nobody.try_login("alice", "another guess").await.refused(403, "M_FORBIDDEN");
        let limited = login(&nobody, json!({})).await.problem(429, "rate_limited");
        assert!(limited["retry_after_ms"].as_u64().is_some_and(|wait| (1..=1_000).contains(&wait)), "{limited}");
    })
    .await;
}

#[tokio::test]
async fn an_account_waits_for_an_admin() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine).set("registration", "approval", true).start().await;
        let nobody = server.anonymous();
        let admin = server.admin().await;
        for name in ["alice", "mallory"] {
            let body = json!({ "name": name, "password": "correct horse", "display_name": "A. Person" });
            let asked = nobody.post("/api/v1/auth/register", body).await;
            assert_eq!((asked.status, &asked.body["state"]), (202, &json!("awaiting_approval")), "{}", asked.text);
        }
        login(&nobody, json!({})).await.problem(403, "awaiting_approval");
        nobody.try_login("alice", "correct horse").await.refused(403, "M_FORBIDDEN");
        nobody.get("register/available?username=alice").await.refused(400, "M_USER_IN_USE");
        let auth = json!({ "type": "m.login.dummy" });
        let request = json!({ "username": "carol", "password": "correct horse", "auth": auth });
        nobody.post("register", request).await.refused(403, "M_FORBIDDEN");

        let approvals = "/api/v1/admin/approvals";
        let page = admin.get(&format!("{approvals}?limit=2")).await.ok();
        assert_eq!(page["approvals"][0]["address"], "alice@a.test", "{page}");
        let next = page["next"].as_str().expect("there are more");
        let rest = admin.get(&format!("{approvals}?cursor={next}")).await.ok();
        assert_eq!(rest["approvals"][0]["user_id"], "@carol:a.test", "{rest}");
        admin.post(&format!("{approvals}/alice@a.test/approve"), json!({})).await.ok();
        admin.post(&format!("{approvals}/mallory@a.test/refuse"), json!({ "reason": "unknown to us" })).await;
        let session = login(&nobody, json!({})).await.ok();
        as_user(&nobody, &session).get("account/whoami").await.ok();
        let refused = login(&nobody, json!({ "user": "mallory" })).await.problem(403, "registration_refused");
        assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("unknown to us")), "{refused}");
        let audit = admin.get("/api/v1/admin/audit").await.ok();
        let did = |action: &str, subject: &str| {
            let entries = audit["entries"].as_array().expect("a list");
            entries.iter().any(|entry| entry["action"] == action && entry["subject"] == subject)
        };
        assert!(did("account.approved", "@alice:a.test") && did("account.refused", "@mallory:a.test"), "{audit}");
        admin.post(&format!("{approvals}/alice@a.test/approve"), json!({})).await.problem(404, "not_found");
    })
    .await;
}

fn with_mail(builder: ServerBuilder, sink: &MailSink) -> ServerBuilder {
    builder
        .set("email", "smtp_host", "127.0.0.1")
        .set("email", "smtp_port", i64::from(sink.port()))
        .set("email", "tls", "none")
        .set("email", "from", "Test <no-reply@a.test>")
}

#[tokio::test]
async fn codes_come_by_mail_to_register_and_to_set_a_forgotten_password() {
    on_each_engine(async |engine| {
        let sink = MailSink::start().await;
        let builder = Server::builder(&engine).set("registration", "require_email", true);
        let server = with_mail(builder, &sink).start().await;
        let nobody = server.anonymous();
        let mut wish = json!({ "name": "alice", "password": "correct horse" });
        nobody.post("/api/v1/auth/register", wish.clone()).await.problem(403, "email_needed");
        // The relay puts the first letter off, and gets it again.
        sink.put_off(1);
        let email = "alice@mail.example";
        let codes = format!("{AUTH}/verification_codes");
        let sent = nobody.post(&codes, json!({ "email": email, "purpose": "register" })).await;
        assert_eq!(sent.status, 202, "{}", sent.text);
        nobody.post(&codes, json!({ "email": email, "purpose": "register" })).await.problem(429, "rate_limited");
        let code = sink.next_to(email).await.code();
        wish["email"] = email.into();
        wish["code"] = "00000000".into();
        nobody.post("/api/v1/auth/register", wish.clone()).await.problem(403, "wrong_code");
        wish["code"] = code.clone().into();
        assert_eq!(nobody.post("/api/v1/auth/register", wish).await.status, 201);
        let alice = as_user(&nobody, &login(&nobody, json!({})).await.ok());

        nobody.post(&codes, json!({ "email": email, "purpose": "reset" })).await;
        let code_of_reset = sink.next_to(email).await.code();
        let reset = |code: &str| json!({ "email": email, "code": code, "new_password": "a new one" });
        let path = format!("{AUTH}/password/reset");
        nobody.post(&path, reset("00000000")).await.problem(403, "wrong_code");
        assert_eq!(nobody.post(&path, reset(&code_of_reset)).await.status, 204);
        alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        login(&nobody, json!({})).await.problem(401, "wrong_credentials");
        login(&nobody, json!({ "password": "a new one" })).await.ok();
        nobody.post(&path, reset(&code_of_reset)).await.problem(403, "wrong_code");
        for secret in [email, code.as_str(), code_of_reset.as_str()] {
            assert!(!server.log().contains(secret), "the log says what is nobody's to know");
        }
    })
    .await;
}

#[tokio::test]
async fn one_s_own_address_changes_by_a_code_and_the_password() {
    on_each_engine(async |engine| {
        let sink = MailSink::start().await;
        let server = with_mail(Server::builder(&engine), &sink).start().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let me = "/api/v1/users/me";
        assert_eq!(alice.get(me).await.ok()["email"], Value::Null);
        let set = async |who: &Client, email: &str, code: &str, password: &str| {
            who.put(&format!("{me}/email"), json!({ "email": email, "code": code, "password": password })).await
        };
        let code_for = async |who: &Client, email: &str| {
            assert_eq!(who.post(&format!("{me}/email/code"), json!({ "email": email })).await.status, 202);
            sink.next_to(email).await
        };
        let (first, second) = ("alice@mail.example", "al@mail.example");
        let code = code_for(&alice, first).await.code();
        set(&alice, first, &code, "a guess").await.problem(403, "wrong_credentials");
        set(&alice, first, "00000000", "alice's password").await.problem(403, "wrong_code");
        assert_eq!(set(&alice, "Alice@mail.example", &code, "alice's password").await.ok()["email"], first);
        assert_eq!(alice.get(me).await.ok()["email"], first);
        let of_matrix = alice.get("account/3pid").await.ok();
        assert_eq!(
            (&of_matrix["threepids"][0]["medium"], &of_matrix["threepids"][0]["address"]),
            (&json!("email"), &json!(first))
        );
        assert_eq!(bob.get("account/3pid").await.ok(), json!({ "threepids": [] }));
        set(&bob, first, &code, "bob's password").await.problem(403, "wrong_code");
        // Another takes its place, and who reads the first is told.
        let code = code_for(&alice, second).await.code();
        set(&alice, second, &code, "alice's password").await.ok();
        let told = sink.next_to(first).await;
        assert!(told.text.contains("not the e-mail address"), "{}", told.text);
        // Another code for the same address can't be asked for at once, by nobody.
        bob.post(&format!("{me}/email/code"), json!({ "email": second })).await.problem(429, "rate_limited");
        let remove = format!("{me}/email/remove");
        alice.post(&remove, json!({ "password": "a guess" })).await.problem(403, "wrong_credentials");
        assert_eq!(alice.post(&remove, json!({ "password": "alice's password" })).await.status, 204);
        assert_eq!(alice.get(me).await.ok()["email"], Value::Null);
    })
    .await;
}

/// In half minutes since 1970.
fn step() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("it is after 1970").as_secs() / 30
}

/// What an app shows in that half minute.
fn code_of(secret: &str, step: u64) -> String {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits: Vec<u8> = secret
        .chars()
        .flat_map(|letter| {
            let value = letters.find(letter).expect("it is base32");
            (0..5).rev().map(move |bit| u8::from(value >> bit & 1 == 1))
        })
        .collect();
    let key: Vec<u8> = bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | bit)).collect();
    let mut mac = Hmac::<Sha1>::new_from_slice(&key).expect("a key");
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let at = usize::from(digest[19] & 15);
    let number = u32::from_be_bytes(digest[at..at + 4].try_into().expect("four bytes")) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

#[tokio::test]
async fn a_second_factor_keeps_out_who_has_only_the_password() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let nobody = server.anonymous();
        let alice = as_user(&nobody, &register(&nobody, "alice").await);
        let path = format!("{AUTH}/second_factor");
        let enrolment = alice.post(&path, json!({ "password": "correct horse" })).await.ok();
        let secret = enrolment["secret"].as_str().expect("a secret");
        // The next code is taken already, and that of now for a while, so it doesn't matter when half a minute is over.
        let now = step();
        let confirmed = alice.post(&format!("{path}/confirm"), json!({ "code": code_of(secret, now) })).await.ok();
        let recovery = confirmed["recovery_codes"].as_array().expect("a list");
        login(&nobody, json!({})).await.problem(401, "code_needed");
        nobody.try_login("alice", "correct horse").await.refused(403, "M_FORBIDDEN");
        login(&nobody, json!({ "code": "abcd-efgh-ijkl-mnop" })).await.problem(401, "wrong_code");
        let code = code_of(secret, now + 1);
        login(&nobody, json!({ "code": code })).await.ok();
        login(&nobody, json!({ "code": code })).await.problem(401, "wrong_code");
        login(&nobody, json!({ "code": recovery[0] })).await.ok();
        login(&nobody, json!({ "code": recovery[0] })).await.problem(401, "wrong_code");
        assert!(!server.log().contains(secret));

        let admin = server.admin().await;
        let reset = "/api/v1/admin/users/alice@a.test/second_factor?reason=lost";
        assert_eq!(admin.attempt(Method::DELETE, reset, None).await.expect("it answers").status, 204);
        login(&nobody, json!({})).await.ok();
    })
    .await;
}
