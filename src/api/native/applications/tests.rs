//! Applications, as their back ends and the admins see them.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use users::applications::SignedRequest;

use crate::{
    native,
    testing::{Server, with_server},
};

const ADMIN: &str = "/api/v1/admin/applications";
const TOKENS: &str = "/api/v1/applications/tokens";
const ME: &str = "/api/v1/applications/me";

/// An application with its secret.
struct App {
    key: String,
    secret: String,
}

/// A request of an application, before it is signed.
struct Call<'a> {
    method: Method,
    path: &'a str,
    user: &'a str,
    body: String,
}

impl<'a> Call<'a> {
    fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, user: "", body: String::new() }
    }

    fn post(path: &'a str, body: &Value) -> Self {
        Self { method: Method::POST, path, user: "", body: body.to_string() }
    }

    fn acting(self, user: &'a str) -> Self {
        Self { user, ..self }
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis()
}

impl App {
    async fn with(server: &Server, admin: &str, scopes: &[&str]) -> Self {
        let body = json!({ "name": "CRM", "scopes": scopes }).to_string();
        let (status, made) = server.ask(Method::POST, ADMIN, Some(admin), body).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        let text = |field: &str| made[field].as_str().unwrap_or_else(|| panic!("no {field} in {made}")).to_owned();
        Self { key: text("app_key"), secret: text("secret") }
    }

    fn signed(&self, call: &Call<'_>) -> Request<Body> {
        let (path, query) = call.path.split_once('?').unwrap_or((call.path, ""));
        let (timestamp, nonce) = (now().to_string(), format!("{:032x}", rand::random::<u128>()));
        let request = SignedRequest {
            method: call.method.as_str(),
            path,
            query,
            app_key: &self.key,
            timestamp: &timestamp,
            nonce: &nonce,
            user: call.user,
            signature: "",
        };
        let signature = request.signature_by(&self.secret, call.body.as_bytes());
        let mut request = Request::builder().method(call.method.clone()).uri(call.path);
        for (name, value) in [
            ("x-app-key", &self.key),
            ("x-app-timestamp", &timestamp),
            ("x-app-nonce", &nonce),
            ("x-app-signature", &signature),
        ] {
            request = request.header(name, value);
        }
        if !call.user.is_empty() {
            request = request.header("x-app-user", call.user);
        }
        request.body(Body::from(call.body.clone())).expect("the test asks well")
    }

    async fn ask(&self, server: &Server, call: &Call<'_>) -> (StatusCode, Value) {
        answer(server, self.signed(call)).await
    }

    async fn done(&self, server: &Server, call: &Call<'_>) -> Value {
        let (status, answer) = self.ask(server, call).await;
        assert!(status.is_success(), "{}: {status} {answer}", call.path);
        answer
    }

    async fn told(&self, server: &Server, call: &Call<'_>) -> (u16, String) {
        let (status, answer) = self.ask(server, call).await;
        (status.as_u16(), answer["code"].as_str().unwrap_or_default().to_owned())
    }
}

async fn answer(server: &Server, request: Request<Body>) -> (StatusCode, Value) {
    let response = server.answer(request).await;
    let status = response.status();
    let body = response.into_body().collect().await.expect("the body is in memory").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn applications_come_where_it_is_said_and_never_to_what_is_for_admins_or_for_logging_in() {
    let open: Vec<_> = native::endpoints().into_iter().filter(|endpoint| endpoint.scope.is_some()).collect();
    assert!(open.len() > 30, "{} endpoints are open to applications", open.len());
    for endpoint in &open {
        let path = endpoint.path();
        const THEIRS: [&str; 8] =
            ["applications", "conversations", "messages", "groups", "users", "friends", "notifications", "offline"];
        let rest = ["/api/v1/", "/api/im/", "/api/chat/"].iter().find_map(|face| path.strip_prefix(face));
        let is_theirs = rest.and_then(|rest| rest.split('/').next()).is_some_and(|group| THEIRS.contains(&group));
        let is_ones_own = path.split('/').any(|part| matches!(part, "me" | "admin" | "auth"));
        assert!(is_theirs && !is_ones_own, "{path}");
        let scope = endpoint.scope.expect("it is open").as_str();
        let security = json!(endpoint.operation.security);
        let told = security.as_array().expect("there is one").iter().filter(|way| !way["application"].is_null());
        assert_eq!(told.collect::<Vec<_>>(), [&json!({ "application": [scope] })], "{path}");
    }
}

#[tokio::test]
async fn what_is_not_signed_as_it_should_be_is_refused() {
    with_server(async |server| {
        let admin = server.register_admin("root").await;
        let app = App::with(&server, &admin, &["tokens:mint"]).await;
        let me = app.done(&server, &Call::get(ME)).await;
        assert_eq!((&me["name"], &me["scopes"]), (&json!("CRM"), &json!(["tokens:mint"])));
        // In whichever order the query is written, it is the same.
        app.done(&server, &Call::get("/api/v1/applications/sessions?limit=5&user=alice%40a.test")).await;

        let told = async |request: Request<Body>| {
            let (status, problem) = answer(&server, request).await;
            (status.as_u16(), problem["code"].as_str().unwrap_or_default().to_owned())
        };
        let sign = || app.signed(&Call::post(TOKENS, &json!({ "user": "alice@a.test" })));
        for header in ["x-app-timestamp", "x-app-nonce", "x-app-signature"] {
            let mut request = sign();
            request.headers_mut().remove(header);
            assert_eq!(told(request).await, refused(401, "signature_needed"), "{header}");
            let mut request = sign();
            request.headers_mut().insert(header, "?".parse().expect("it is a header"));
            assert_eq!(told(request).await, refused(401, "signature_malformed"), "{header}");
        }
        let with = |header: &'static str, value: &str| {
            let mut request = sign();
            request.headers_mut().insert(header, value.parse().expect("it is a header"));
            request
        };
        let old = (now() - 301_000).to_string();
        let (_, problem) = answer(&server, with("x-app-timestamp", &old)).await;
        assert_eq!(problem["code"], "signature_stale");
        assert!(problem["server_time_ms"].as_u64().is_some_and(|told| now().abs_diff(u128::from(told)) < 60_000));
        let close = (now() - 1).to_string();
        for (header, value) in [
            ("x-app-timestamp", close.as_str()),
            ("x-app-nonce", "another-nonce"),
            ("x-app-key", "app_nobody"),
            ("x-app-user", "alice@a.test"),
            ("x-app-signature", &"0".repeat(64)),
        ] {
            assert_eq!(told(with(header, value)).await, refused(401, "signature_wrong"), "{header}");
        }
        let mut request = sign();
        *request.body_mut() = Body::from(json!({ "user": "bob@a.test" }).to_string());
        assert_eq!(told(request).await, refused(401, "signature_wrong"));
        let mut request = sign();
        *request.body_mut() = Body::from(vec![b' '; 5 << 20]);
        assert_eq!(told(request).await, refused(413, "too_large"));
        assert_eq!(told(with("authorization", "Bearer x")).await, refused(400, "invalid"));
        let twice = || with("x-app-nonce", "0123456789");
        let mut request = twice();
        request.headers_mut().append("x-app-nonce", "9876543210".parse().expect("it is a header"));
        assert_eq!(told(request).await, refused(401, "signature_needed"));
    })
    .await;
}

#[tokio::test]
async fn a_request_comes_once_and_an_application_does_what_its_scopes_say() {
    with_server(async |server| {
        let admin = server.register_admin("root").await;
        server.register("alice").await;
        let app = App::with(&server, &admin, &["users:create"]).await;
        let request = app.signed(&Call::get(ME));
        let again = {
            let mut again = Request::builder().uri(ME);
            *again.headers_mut().expect("it is new") = request.headers().clone();
            again.body(Body::empty()).expect("it is one")
        };
        assert_eq!(answer(&server, request).await.0, StatusCode::OK);
        let (status, problem) = answer(&server, again).await;
        assert_eq!((status.as_u16(), &problem["code"]), (401, &json!("nonce_used")));

        let (status, problem) = app.ask(&server, &Call::post(TOKENS, &json!({ "user": "alice@a.test" }))).await;
        assert_eq!((status.as_u16(), &problem["code"]), (403, &json!("missing_scope")));
        assert_eq!(problem["scope"], "tokens:mint");
        let conversations = Call::get("/api/v1/conversations").acting("alice@a.test");
        assert_eq!(app.told(&server, &conversations).await, refused(403, "missing_scope"));

        let carol = json!({ "name": "carol", "display_name": "Carol C." });
        let (status, made) = app.ask(&server, &Call::post("/api/v1/applications/users", &carol)).await;
        assert_eq!((status, &made["address"]), (StatusCode::CREATED, &json!("carol@a.test")));
        let name = server.get("/_matrix/client/v3/profile/@carol:a.test/displayname", None).await;
        assert_eq!(name["displayname"], "Carol C.");
        let again = app.told(&server, &Call::post("/api/v1/applications/users", &carol)).await;
        assert_eq!(again, refused(409, "name_taken"));
        let odd = Call::post("/api/v1/applications/users", &json!({ "name": "Dave!" }));
        assert_eq!(app.told(&server, &odd).await, refused(400, "invalid_name"));
    })
    .await;
}

#[tokio::test]
async fn an_application_acts_as_a_user_and_as_nobody_else() {
    with_server(async |server| {
        let admin = server.register_admin("root").await;
        let ((alice, _), _) = (server.register("alice").await, server.register("bob").await);
        let scopes = [
            "messages:send",
            "messages:read",
            "conversations:read",
            "users:read",
            "groups:write",
            "groups:read",
            "friends:write",
        ];
        let app = App::with(&server, &admin, &scopes).await;
        let said = json!({
            "to": "bob@a.test", "msg_id": "order-1", "type": "text", "content": { "text": "A new order" },
        });
        let sent = app.done(&server, &Call::post("/api/v1/messages", &said).acting("alice@a.test")).await;
        let again = app.done(&server, &Call::post("/api/v1/messages", &said).acting("@alice:a.test")).await;
        assert_eq!(sent["id"], again["id"], "a message id is good once, too");
        let id = sent["conversation_id"].as_str().expect("it is somewhere");
        let path = format!("/api/v1/messages?conversation_id={}&only=messages", id.replace('!', "%21"));
        let read = app.done(&server, &Call::get(&path).acting("alice@a.test")).await;
        assert_eq!(read["messages"][0]["content"]["text"], "A new order", "{read}");
        assert_eq!(read["messages"][0]["sender"]["address"], "alice@a.test");
        let listed = app.done(&server, &Call::get("/api/v1/conversations").acting("alice@a.test")).await;
        assert_eq!(listed["conversations"][0]["conversation_id"], id, "{listed}");
        // What Alice sees is what was done as her.
        assert_eq!(server.get("/api/v1/conversations", Some(&alice)).await["conversations"][0]["conversation_id"], id);
        app.done(&server, &Call::get("/api/v1/users/bob@a.test").acting("alice@a.test")).await;
        let asked = Call::post("/api/v1/friends/requests", &json!({ "to": "bob@a.test" })).acting("alice@a.test");
        let asked = app.done(&server, &asked).await;
        assert_eq!(server.get("/api/v1/friends/requests", Some(&alice)).await["requests"][0]["id"], asked["id"]);
        let friends = app.told(&server, &Call::get("/api/v1/friends").acting("alice@a.test")).await;
        assert_eq!(friends, refused(403, "missing_scope"));

        let send = |user| Call::post("/api/v1/messages", &said).acting(user);
        assert_eq!(app.told(&server, &send("")).await, refused(400, "user_needed"));
        for stranger in ["carol@a.test", "alice@b.test", "nonsense"] {
            assert_eq!(app.told(&server, &send(stranger)).await, refused(404, "unknown_user"), "{stranger}");
        }
        assert_eq!(app.told(&server, &send("root@a.test")).await, refused(403, "staff_account"));
        for path in [
            ADMIN,
            "/api/v1/admin/audit",
            "/api/v1/admin/approvals",
            "/api/v1/auth/sessions",
            "/api/v1/users/me",
            "/api/v1/files",
            "/api/v1/broadcasts",
        ] {
            for user in ["alice@a.test", "root@a.test"] {
                let told = app.told(&server, &Call::get(path).acting(user)).await;
                assert_eq!(told, refused(403, "not_for_applications"), "{path}");
            }
        }
        let create = Call::post("/api/v1/conversations", &json!({ "type": "group" })).acting("alice@a.test");
        assert_eq!(app.told(&server, &create).await, refused(403, "missing_scope"));
    })
    .await;
}

#[tokio::test]
async fn sessions_that_an_application_opens_are_seen_and_ended() {
    with_server(async |server| {
        let admin = server.register_admin("root").await;
        let ((alice, _), _) = (server.register("alice").await, server.register("bob").await);
        let app = App::with(&server, &admin, &["tokens:mint"]).await;
        let other = App::with(&server, &admin, &["tokens:mint"]).await;
        let mint = async |app: &App, user: &str| {
            app.done(&server, &Call::post(TOKENS, &json!({ "user": user, "lifetime_ms": 3_600_000 }))).await
        };
        let (of_alice, of_bob) = (mint(&app, "alice@a.test").await, mint(&app, "@bob:a.test").await);
        let foreign = mint(&other, "alice@a.test").await;
        let token = |session: &Value| session["access_token"].as_str().expect("there is one").to_owned();
        let works = async |session: &Value| {
            let (status, _) = server.ask(Method::GET, "/api/v1/users/me", Some(&token(session)), "").await;
            status == StatusCode::OK
        };
        assert!(works(&of_alice).await && works(&of_bob).await && works(&foreign).await);
        let seen = server.get("/api/v1/auth/sessions", Some(&alice)).await;
        let sessions = seen["sessions"].as_array().expect("they list");
        assert_eq!(sessions.len(), 3);
        let named = sessions.iter().filter(|session| session["application"] == "CRM").count();
        assert_eq!((named, &sessions[0]["application"]), (2, &Value::Null), "{seen}");

        let listed = app.done(&server, &Call::get("/api/v1/applications/sessions?limit=1")).await;
        assert_eq!(listed["sessions"][0]["address"], "alice@a.test");
        let next = listed["next"].as_str().expect("there is more").replace(' ', "%20");
        let path = format!("/api/v1/applications/sessions?limit=1&cursor={next}");
        let listed = app.done(&server, &Call::get(&path)).await;
        assert_eq!(listed["sessions"][0]["address"], "bob@a.test");

        // It ends its own, and no others.
        let device = |session: &Value| session["device_id"].as_str().expect("there is one").to_owned();
        let end = |path: String| (Method::DELETE, path);
        for ((method, path), ended) in [
            (end(format!("/api/v1/applications/sessions?user=alice@a.test&device_id={}", device(&foreign))), 0),
            (end("/api/v1/applications/sessions?user=alice@a.test".to_owned()), 1),
            (end("/api/v1/applications/sessions?user=alice@a.test".to_owned()), 0),
        ] {
            let call = Call { method, path: &path, user: "", body: String::new() };
            assert_eq!(app.done(&server, &call).await["ended"], ended, "{path}");
        }
        assert!(!works(&of_alice).await && works(&of_bob).await && works(&foreign).await);
        // A user ends one like any other.
        let path = format!("/api/v1/auth/sessions/{}", device(&foreign));
        assert_eq!(server.ask(Method::DELETE, &path, Some(&alice), "").await.0, StatusCode::NO_CONTENT);
        assert!(!works(&foreign).await);

        let path = format!("{ADMIN}/{}/disable", app.key);
        server.post(&path, Some(&admin), json!({ "reason": "leaked" })).await;
        assert!(!works(&of_bob).await);
        let refresh = json!({ "refresh_token": of_bob["refresh_token"] }).to_string();
        assert_eq!(server.ask(Method::POST, "/api/v1/auth/refresh", None, refresh).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(app.told(&server, &Call::get(ME)).await, refused(403, "application_disabled"));
        server.post(&format!("{ADMIN}/{}/enable", app.key), Some(&admin), json!({})).await;
        app.done(&server, &Call::get(ME)).await;
        let again = mint(&app, "bob@a.test").await;
        assert!(!works(&of_bob).await && works(&again).await);
        let removed = server.ask(Method::DELETE, &format!("{ADMIN}/{}", app.key), Some(&admin), "").await;
        assert_eq!(removed.0, StatusCode::NO_CONTENT);
        assert!(!works(&again).await);
        assert_eq!(app.told(&server, &Call::get(ME)).await, refused(401, "signature_wrong"));
    })
    .await;
}

#[tokio::test]
async fn admins_make_change_and_take_away_applications_and_nobody_else_does() {
    with_server(async |server| {
        let admin = server.register_admin("root").await;
        let (alice, _) = server.register("alice").await;
        let told = async |method, path: &str, token: &str, body: Value| {
            let (status, answer) = server.ask(method, path, Some(token), body.to_string()).await;
            (status.as_u16(), answer["code"].as_str().unwrap_or_default().to_owned())
        };
        let wish = json!({ "name": "CRM", "scopes": [] });
        assert_eq!(told(Method::POST, ADMIN, &alice, wish.clone()).await, refused(403, "forbidden"));
        assert_eq!(told(Method::GET, ADMIN, &alice, json!({})).await, refused(403, "forbidden"));
        for (field, value) in [
            ("name", json!(" ")),
            ("name", json!("x".repeat(61))),
            ("scopes", json!(["admin"])),
            ("addresses", json!(["everywhere"])),
            ("per_second", json!(0)),
            ("burst", json!(10_001)),
            ("expires_at", json!(1)),
            ("secret", json!("mine")),
        ] {
            let mut wish = wish.clone();
            wish[field] = value;
            assert_eq!(told(Method::POST, ADMIN, &admin, wish).await, refused(400, "invalid"), "{field}");
        }
        let app = App::with(&server, &admin, &["messages:send", "users:read", "users:read"]).await;
        let path = format!("{ADMIN}/{}", app.key);
        let shown = server.get(&path, Some(&admin)).await;
        assert_eq!(shown["scopes"], json!(["users:read", "messages:send"]));
        assert_eq!((&shown["per_second"], &shown["burst"]), (&json!(20), &json!(100)));
        assert!(!shown.to_string().contains(&app.secret));

        let request = |method: Method, tag: Option<&str>, body: Value| {
            let mut request =
                Request::builder().method(method).uri(&path).header("authorization", format!("Bearer {admin}"));
            if let Some(tag) = tag {
                request = request.header("if-match", tag);
            }
            request.body(Body::from(body.to_string())).expect("the test asks well")
        };
        let response = server.answer(request(Method::GET, None, json!({}))).await;
        let tag = response.headers()["etag"].to_str().expect("it is text").to_owned();
        let change =
            json!({ "name": "ERP", "per_second": 5, "addresses": ["127.0.0.1"], "expires_at": now() as u64 + 60_000 });
        let (status, changed) = answer(&server, request(Method::PATCH, Some(&tag), change)).await;
        assert_eq!((status, &changed["name"]), (StatusCode::OK, &json!("ERP")));
        assert_eq!((&changed["per_second"], &changed["addresses"]), (&json!(5), &json!(["127.0.0.1/32"])));
        let late = answer(&server, request(Method::PATCH, Some(&tag), json!({ "name": "XYZ" }))).await;
        assert_eq!((late.0.as_u16(), &late.1["code"]), (412, &json!("precondition_failed")));
        let (_, changed) = answer(&server, request(Method::PATCH, None, json!({ "expires_at": null }))).await;
        assert_eq!((&changed["name"], &changed["expires_at"]), (&json!("ERP"), &Value::Null));

        let rotated = server.post(&format!("{path}/secrets"), Some(&admin), json!({ "overlap_ms": 60_000 })).await;
        let renewed = App { key: app.key.clone(), secret: rotated["secret"].as_str().expect("it is told").to_owned() };
        assert_eq!(rotated["secrets"].as_array().map(Vec::len), Some(2), "{rotated}");
        app.done(&server, &Call::get(ME)).await;
        renewed.done(&server, &Call::get(ME)).await;
        server.post(&format!("{path}/secrets"), Some(&admin), json!({ "overlap_ms": 0 })).await;
        assert_eq!(renewed.told(&server, &Call::get(ME)).await, refused(401, "signature_wrong"));

        let listed = server.get(ADMIN, Some(&admin)).await;
        assert_eq!(listed["applications"].as_array().map(Vec::len), Some(1));
        let audit = server.get("/api/v1/admin/audit", Some(&admin)).await.to_string();
        for action in ["application.created", "application.changed", "application.secret_rotated"] {
            assert!(audit.contains(action), "{audit}");
        }
        assert!(!audit.contains(&renewed.secret));
        for (method, path) in [
            (Method::GET, format!("{ADMIN}/%00")),
            (Method::GET, format!("{ADMIN}/app_x")),
            (Method::PATCH, format!("{ADMIN}/app_x")),
            (Method::DELETE, format!("{ADMIN}/app_x")),
            (Method::POST, format!("{ADMIN}/app_x/disable")),
            (Method::POST, format!("{ADMIN}/app_x/secrets")),
            (Method::GET, format!("{ADMIN}/app_x/sessions")),
        ] {
            assert_eq!(told(method, &path, &admin, json!({})).await, refused(404, "not_found"), "{path}");
        }
    })
    .await;
}
