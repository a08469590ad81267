//! The OAuth 2.0 API as a client and a browser live it, with the real binary.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use federation_tests::{Answer, Browser, Client, Engine, Server, Visit, enc, on_each_engine};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const VERIFIER: &str = "a-verifier-that-is-long-enough-to-be-one-0123456789";
const CALLBACK: &str = "https://app.example.com/callback";
const DEVICE: &str = "ABCDEFGHIJKL";

async fn start(engine: &Engine) -> Server {
    Server::builder(engine).public().start().await
}

/// A client that knows nothing but the server's metadata.
struct App {
    client: Client,
    metadata: Value,
    client_id: String,
}

impl App {
    async fn register(server: &Server) -> Self {
        let metadata = json!({
            "client_name": "An <App>",
            "client_uri": "https://example.com/",
            "redirect_uris": [CALLBACK],
            "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
            "token_endpoint_auth_method": "none",
        });
        Self::register_as(server, metadata).await
    }

    async fn register_as(server: &Server, said: Value) -> Self {
        let client = server.anonymous();
        let metadata = client.get("/_matrix/client/v1/auth_metadata").await.ok();
        let registered = client.post(&path(&metadata, "registration_endpoint", server), said).await;
        assert_eq!(registered.status, 201, "{}", registered.text);
        let client_id = registered.body["client_id"].as_str().expect("an id").to_owned();
        Self { client, metadata, client_id }
    }

    /// Where a browser is sent to allow it what it asks for.
    fn authorize(&self, device_id: &str, more: &str) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        format!(
            "{}?response_type=code&client_id={}&redirect_uri={}&scope={}&state=st%26ate&code_challenge={challenge}\
             &code_challenge_method=S256{more}",
            self.metadata["authorization_endpoint"].as_str().expect("an address"),
            self.client_id,
            enc(CALLBACK),
            enc(&scope(device_id)),
        )
    }

    async fn post(&self, endpoint: &str, fields: &[(&str, &str)]) -> Answer {
        let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", enc(value))).collect();
        let url = self.metadata[endpoint].as_str().expect("an address");
        let path = url.splitn(4, '/').nth(3).expect("it has a path");
        let form = "application/x-www-form-urlencoded";
        let sent = self.client.raw(Method::POST, &format!("/{path}"), form, body.join("&").into_bytes()).await;
        sent.expect("the server is there")
    }

    async fn redeem(&self, code: &str, verifier: &str) -> Answer {
        let fields = [
            ("grant_type", "authorization_code"),
            ("client_id", &self.client_id),
            ("code", code),
            ("redirect_uri", CALLBACK),
            ("code_verifier", verifier),
        ];
        self.post("token_endpoint", &fields).await
    }

    async fn refresh(&self, token: &Value) -> Answer {
        let token = token.as_str().expect("a token");
        let fields = [("grant_type", "refresh_token"), ("client_id", &self.client_id), ("refresh_token", token)];
        self.post("token_endpoint", &fields).await
    }

    fn with(&self, tokens: &Value) -> Client {
        self.client.with_token(tokens["access_token"].as_str())
    }
}

fn scope(device_id: &str) -> String {
    format!("urn:matrix:client:api:* urn:matrix:client:device:{device_id}")
}

fn path(metadata: &Value, endpoint: &str, server: &Server) -> String {
    metadata[endpoint].as_str().and_then(|url| url.strip_prefix(&server.url())).expect("it is here").to_owned()
}

#[track_caller]
fn refused(answer: Answer, status: u16, error: &str) {
    assert_eq!((answer.status, answer.body["error"].as_str()), (status, Some(error)), "{}", answer.text);
    assert!(answer.body["error_description"].as_str().is_some_and(|text| !text.is_empty()), "{}", answer.text);
}

/// Signs in at the page that a browser is sent to, and goes on to where it wanted to go.
async fn sign_in(browser: &mut Browser, at: &Visit, name: &str) -> Visit {
    let page = browser.follow(at).await;
    assert_eq!(page.status, 200, "{}", page.html);
    let entered = browser.submit(&page, &[("name", name), ("password", &format!("{name}'s password"))]).await;
    assert_eq!(entered.status, 303, "{}", entered.html);
    browser.follow(&entered).await
}

/// The whole of it: a browser allows `app` a session of `name`. Answers the code.
async fn allowed(app: &App, browser: &mut Browser, name: &str, device_id: &str) -> String {
    let sent = browser.get(&app.authorize(device_id, "")).await;
    let consent = sign_in(browser, &sent, name).await;
    let back = browser.submit(&consent, &[("decision", "allow")]).await;
    assert!(back.sent_to().starts_with(CALLBACK), "{}", back.sent_to());
    back.sent_with("code").expect("a code")
}

#[tokio::test]
async fn a_client_comes_by_the_browser_and_has_an_ordinary_session() {
    on_each_engine(async |engine| {
        let server = start(&engine).await;
        let alice = server.register("alice").await;
        let app = App::register(&server).await;
        assert_eq!(app.metadata["issuer"], format!("{}/", server.url()));
        let unstable = app.client.get("/_matrix/client/unstable/org.matrix.msc2965/auth_metadata").await.ok();
        assert_eq!(unstable, app.metadata);
        let known = app.client.get("/.well-known/matrix/client").await.ok();
        assert_eq!(known["org.matrix.msc2965.authentication"]["issuer"], app.metadata["issuer"]);

        let mut browser = Browser::new();
        let sent = browser.get(&app.authorize(DEVICE, "&response_mode=fragment")).await;
        let login = browser.follow(&sent).await;
        assert!(login.policy.contains("default-src 'none'") && !login.html.contains("<script"), "{}", login.policy);
        let wrong = browser.submit(&login, &[("name", "alice"), ("password", "a guess")]).await;
        assert_eq!(wrong.status, 403);
        let entered = browser.submit(&wrong, &[("name", "alice"), ("password", "alice's password")]).await;
        let consent = browser.follow(&entered).await;
        assert!(consent.html.contains("@alice:a.test") && consent.html.contains("An &lt;App&gt;"), "{}", consent.html);
        assert!(consent.policy.contains("form-action 'self' https://app.example.com"), "{}", consent.policy);
        let back = browser.submit(&consent, &[("decision", "allow")]).await;
        assert!(back.sent_to().starts_with(&format!("{CALLBACK}#code=")), "{}", back.sent_to());
        assert_eq!(back.sent_with("state").as_deref(), Some("st&ate"));

        let code = back.sent_with("code").expect("a code");
        let tokens = app.redeem(&code, VERIFIER).await.ok();
        assert_eq!((&tokens["token_type"], &tokens["scope"]), (&json!("Bearer"), &json!(scope(DEVICE))));
        assert!(tokens["expires_in"].as_u64().is_some_and(|seconds| (1..=300).contains(&seconds)), "{tokens}");
        let who = app.with(&tokens).get("account/whoami").await.ok();
        assert_eq!((&who["user_id"], &who["device_id"]), (&json!("@alice:a.test"), &json!(DEVICE)));
        let device = alice.get(&format!("devices/{DEVICE}")).await.ok();
        assert_eq!(device["display_name"], "An <App>");
        let room = app.with(&tokens).create_public_room().await;
        alice.get(&format!("rooms/{room}/state")).await.ok();

        // The next time nobody asks for the password, and refusing is told the client.
        let consent = browser.get(&app.authorize("ANOTHERONE", "")).await;
        assert_eq!(consent.status, 200);
        let back = browser.submit(&consent, &[("decision", "deny")]).await;
        assert_eq!(back.sent_with("error").as_deref(), Some("access_denied"));

        // Renewing, with the reply lost once; then what was replaced comes again, and ends it.
        let lost = app.refresh(&tokens["refresh_token"]).await.ok();
        let renewed = app.refresh(&tokens["refresh_token"]).await.ok();
        assert_ne!(lost["access_token"], renewed["access_token"]);
        assert_eq!(renewed["scope"], tokens["scope"]);
        app.with(&renewed).get("account/whoami").await.ok();
        refused(app.refresh(&tokens["refresh_token"]).await, 400, "invalid_grant");
        app.with(&renewed).get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        alice.get(&format!("devices/{DEVICE}")).await.refused(404, "M_NOT_FOUND");

        // Giving it back ends the session, whichever token is shown; a second time is no error.
        let code = allowed(&app, &mut Browser::new(), "alice", DEVICE).await;
        let tokens = app.redeem(&code, VERIFIER).await.ok();
        for _ in 0..2 {
            let token = tokens["refresh_token"].as_str().expect("a token");
            assert_eq!(app.post("revocation_endpoint", &[("token", token)]).await.status, 200);
        }
        app.with(&tokens).get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        // The password goes on working beside it, and nothing secret is in the log.
        server.login("alice").await.get("account/whoami").await.ok();
        for secret in [&code, tokens["refresh_token"].as_str().expect("a token"), "alice's password"] {
            assert!(!server.log().contains(secret));
        }
    })
    .await;
}

#[tokio::test]
async fn whoever_has_not_all_of_it_gets_nothing() {
    on_each_engine(async |engine| {
        let server = start(&engine).await;
        server.register("alice").await;
        let app = App::register(&server).await;
        let mut other =
            json!({ "client_uri": "https://other.example/", "redirect_uris": ["https://other.example/cb"] });
        other["client_name"] = "Other".into();
        let other = App::register_as(&server, other).await;
        let mut browser = Browser::new();

        // Somebody else's verifier, client or address; and the code is used up by the attempt.
        let code = allowed(&app, &mut browser, "alice", DEVICE).await;
        let wrong = "another-verifier-that-is-long-enough-0123456789";
        refused(app.redeem(&code, wrong).await, 400, "invalid_grant");
        refused(app.redeem(&code, VERIFIER).await, 400, "invalid_grant");
        let again = async |browser: &mut Browser| {
            let consent = browser.get(&app.authorize(DEVICE, "")).await;
            browser.submit(&consent, &[("decision", "allow")]).await.sent_with("code").expect("a code")
        };
        let code = again(&mut browser).await;
        refused(other.redeem(&code, VERIFIER).await, 400, "invalid_grant");
        let code = again(&mut browser).await;
        let elsewhere = [
            ("grant_type", "authorization_code"),
            ("client_id", &app.client_id),
            ("code", &code),
            ("redirect_uri", "https://app.example.com/other"),
            ("code_verifier", VERIFIER),
        ];
        refused(app.post("token_endpoint", &elsewhere).await, 400, "invalid_grant");

        // A code that comes twice is in two hands: what it gave ends.
        let code = again(&mut browser).await;
        let tokens = app.redeem(&code, VERIFIER).await.ok();
        app.with(&tokens).get("account/whoami").await.ok();
        refused(app.redeem(&code, VERIFIER).await, 400, "invalid_grant");
        app.with(&tokens).get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");

        // A refresh token is its client's own.
        let tokens = app.redeem(&again(&mut browser).await, VERIFIER).await.ok();
        refused(other.refresh(&tokens["refresh_token"]).await, 400, "invalid_grant");
        app.refresh(&tokens["refresh_token"]).await.ok();

        // Where the client or the address is wrong, the browser stays; where anything else is, the client is told.
        let url = app.authorize(DEVICE, "");
        for wrong in [
            url.replace(&app.client_id, "coc_nobody"),
            url.replace(&enc(CALLBACK), &enc("https://evil.example/")),
            url.replace(&enc(CALLBACK), &enc(&format!("{CALLBACK}/more"))),
            format!("{url}&client_id=twice"),
        ] {
            let stays = browser.get(&wrong).await;
            assert!(stays.location.is_none() && stays.status >= 400, "{wrong}: {}", stays.status);
        }
        for (wrong, error) in [
            (url.replace("S256", "plain"), "invalid_request"),
            (url.replace("response_type=code", "response_type=token"), "invalid_request"),
            (url.replace(&enc(&scope(DEVICE)), "openid"), "invalid_scope"),
            (format!("{url}&response_mode=form_post"), "invalid_request"),
        ] {
            let told = browser.get(&wrong).await;
            assert!(told.sent_to().starts_with(CALLBACK), "{}", told.sent_to());
            assert_eq!(told.sent_with("error").as_deref(), Some(error), "{wrong}");
            assert_eq!(told.sent_with("state").as_deref(), Some("st&ate"));
        }
        refused(
            app.post("token_endpoint", &[("grant_type", "password"), ("client_id", &app.client_id)]).await,
            400,
            "unsupported_grant_type",
        );
        refused(app.post("token_endpoint", &[]).await, 400, "invalid_request");
        let nobody = [("grant_type", "refresh_token"), ("client_id", "coc_nobody"), ("refresh_token", "x")];
        refused(app.post("token_endpoint", &nobody).await, 401, "invalid_client");
        let said = json!({ "client_uri": "https://example.com/", "redirect_uris": ["http://example.com/"] });
        refused(app.client.post("/oauth2/register", said).await, 400, "invalid_redirect_uri");
    })
    .await;
}

#[tokio::test]
async fn a_form_of_another_site_or_browser_does_nothing() {
    on_each_engine(async |engine| {
        let server = start(&engine).await;
        server.register("alice").await;
        server.register("mallory").await;
        let app = App::register(&server).await;
        let (mut hers, mut his) = (Browser::new(), Browser::new());
        let page = his.get(&format!("{}/oauth2/login?then=account", server.url())).await;
        let token = page.hidden("form_token").expect("a token");
        let fields = [("name", "mallory"), ("password", "mallory's password"), ("form_token", token.as_str())];

        // He has her browser send his form: she would be signed in as him.
        let forged = hers.post(page.url.as_str(), &fields).await;
        assert_eq!(forged.status, 403, "{}", forged.html);
        hers.get(page.url.as_str()).await;
        assert_eq!(hers.post(page.url.as_str(), &fields).await.status, 403);
        assert_eq!(hers.post(page.url.as_str(), &fields[..2]).await.status, 403);

        // Or, when she is signed in, has her allow his client.
        let sent = hers.get(&app.authorize(DEVICE, "")).await;
        let consent = sign_in(&mut hers, &sent, "alice").await;
        let forged = hers.post(consent.url.as_str(), &[("decision", "allow"), ("form_token", &token)]).await;
        assert_eq!((forged.status, &forged.location), (403, &None));
        assert_eq!(hers.post(&format!("{}/oauth2/account", server.url()), &[("do", "reset_keys")]).await.status, 403);

        // The page one goes on to is one of this server.
        for then in ["https://evil.example/", "//evil.example/", "/evil", "authorize/../x", "account%0d%0aX:y"] {
            let page = his.get(&format!("{}/oauth2/login?then={then}", server.url())).await;
            assert_eq!(page.status, 400, "{then}");
        }
        // Who signs out, or sets another password, signs in again.
        let account = hers.get(&format!("{}/oauth2/account", server.url())).await;
        assert_eq!(account.status, 200);
        hers.submit(&account, &[("do", "sign_out")]).await;
        assert_eq!(hers.get(&format!("{}/oauth2/account", server.url())).await.status, 303);
    })
    .await;
}

#[tokio::test]
async fn guessing_is_slow_and_who_is_locked_does_not_come_in() {
    on_each_engine(async |engine| {
        let server = Server::builder(&engine).public().set("accounts", "failed_logins_allowed", 2).start().await;
        server.register("alice").await;
        server.register("bob").await;
        let admin = server.admin().await;
        let app = App::register(&server).await;
        let code = allowed(&app, &mut Browser::new(), "bob", DEVICE).await;
        admin.put("/_matrix/client/v1/admin/lock/@bob:a.test", json!({ "locked": true })).await.ok();
        refused(app.redeem(&code, VERIFIER).await, 400, "invalid_grant");

        let mut browser = Browser::new();
        let mut page = browser.get(&format!("{}/oauth2/login", server.url())).await;
        let locked = browser.submit(&page, &[("name", "bob"), ("password", "bob's password")]).await;
        assert!(locked.status == 403 && locked.html.contains("locked"), "{}", locked.html);
        for _ in 0..3 {
            page = browser.submit(&page, &[("name", "alice"), ("password", "a guess")]).await;
        }
        let slow = browser.submit(&page, &[("name", "alice"), ("password", "alice's password")]).await;
        assert_eq!(slow.status, 429, "{}", slow.html);
    })
    .await;
}

#[tokio::test]
async fn a_device_without_a_browser_is_let_in_by_a_code() {
    on_each_engine(async |engine| {
        let server = start(&engine).await;
        server.register("alice").await;
        let app = App::register(&server).await;
        let begin = async |device_id: &str| {
            let fields = [("client_id", app.client_id.as_str()), ("scope", &scope(device_id))];
            app.post("device_authorization_endpoint", &fields).await.ok()
        };
        let poll = async |begun: &Value| {
            let code = begun["device_code"].as_str().expect("a code");
            let grant = "urn:ietf:params:oauth:grant-type:device_code";
            app.post("token_endpoint", &[("grant_type", grant), ("client_id", &app.client_id), ("device_code", code)])
                .await
        };
        let begun = begin("ATELEVISION").await;
        refused(poll(&begun).await, 400, "authorization_pending");
        refused(poll(&begun).await, 400, "slow_down");

        // The page asks who it is, then who waits, and the code may be written in small letters.
        let mut browser = Browser::new();
        let page = begun["verification_uri_complete"].as_str().expect("an address");
        let sent = browser.get(page).await;
        let consent = sign_in(&mut browser, &sent, "alice").await;
        assert!(consent.html.contains("ATELEVISION"), "{}", consent.html);
        let code = begun["user_code"].as_str().expect("a code").to_lowercase();
        let done = browser.submit(&consent, &[("user_code", &code), ("decision", "allow")]).await;
        assert_eq!(done.status, 200, "{}", done.html);
        let tokens = poll(&begun).await.ok();
        let who = app.with(&tokens).get("account/whoami").await.ok();
        assert_eq!((&who["user_id"], &who["device_id"]), (&json!("@alice:a.test"), &json!("ATELEVISION")));
        refused(poll(&begun).await, 400, "invalid_grant");
        app.with(&tokens).get("account/whoami").await.ok();

        // One that is refused, and one that nobody knows.
        let begun = begin("ANOTHERTELEVISION").await;
        let consent = browser.get(begun["verification_uri_complete"].as_str().expect("an address")).await;
        let code = begun["user_code"].as_str().expect("a code");
        browser.submit(&consent, &[("user_code", code), ("decision", "deny")]).await;
        refused(poll(&begun).await, 400, "access_denied");
        let unknown = browser.get(&format!("{}/oauth2/link?user_code=BBBB-BBBB", server.url())).await;
        assert_eq!(unknown.status, 404);
        // Who has not registered for it doesn't get it.
        let said = json!({ "client_uri": "https://example.com/", "redirect_uris": [CALLBACK] });
        let web = App::register_as(&server, said).await;
        let fields = [("client_id", web.client_id.as_str()), ("scope", &scope("ATELEVISION"))];
        refused(web.post("device_authorization_endpoint", &fields).await, 400, "unauthorized_client");
    })
    .await;
}

#[tokio::test]
async fn people_look_after_their_sessions_and_let_their_keys_be_replaced() {
    on_each_engine(async |engine| {
        let server = start(&engine).await;
        let alice = server.register("alice").await;
        let app = App::register(&server).await;
        let mut browser = Browser::new();
        let code = allowed(&app, &mut browser, "alice", DEVICE).await;
        let tokens = app.redeem(&code, VERIFIER).await.ok();
        let phone = app.with(&tokens);
        let account = app.metadata["account_management_uri"].as_str().expect("an address").to_owned();

        let list = browser.get(&format!("{account}?action=org.matrix.devices_list")).await;
        assert!(list.html.contains(DEVICE) && list.html.contains(&alice.device_id), "{}", list.html);
        let view = browser.get(&format!("{account}?action=org.matrix.session_view&device_id={DEVICE}")).await;
        assert!(view.html.contains("An &lt;App&gt; (https://example.com/)"), "{}", view.html);

        // Cross-signing keys: the first need nothing; to replace them, the page has to be asked.
        let keys = |seed: u8| {
            let key = URL_SAFE_NO_PAD.encode([seed; 32]).replace('-', "+").replace('_', "/");
            let name = format!("ed25519:{key}");
            json!({ "master_key": { "user_id": "@alice:a.test", "usage": ["master"], "keys": { name: key } } })
        };
        let upload = "/_matrix/client/v3/keys/device_signing/upload";
        phone.post(upload, keys(1)).await.ok();
        let asked = phone.post(upload, keys(2)).await;
        assert_eq!((asked.status, &asked.body["flows"]), (401, &json!([{ "stages": ["m.oauth"] }])), "{}", asked.text);
        let url = asked.body["params"]["m.oauth"]["url"].as_str().expect("an address").to_owned();
        let mut again = keys(2);
        again["auth"] = json!({ "session": asked.body["session"] });
        assert_eq!(phone.post(upload, again.clone()).await.status, 401, "nobody has allowed it");
        let page = browser.get(&url).await;
        assert_eq!(browser.submit(&page, &[("do", "reset_keys")]).await.status, 200);
        phone.post(upload, again).await.ok();

        // The name, and the end of a session.
        let profile = browser.get(&account).await;
        browser.submit(&profile, &[("do", "rename"), ("display_name", "A \"New\" Name")]).await;
        let name = alice.get("profile/@alice:a.test/displayname").await.ok();
        assert_eq!(name["displayname"], "A \"New\" Name");
        assert!(browser.get(&account).await.html.contains("A &quot;New&quot; Name"));
        let ended = browser.submit(&view, &[("do", "end"), ("device_id", DEVICE)]).await;
        assert!(!browser.follow(&ended).await.html.contains(DEVICE));
        phone.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        // Another password signs every browser out.
        let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "alice's password" });
        alice.post("account/password", json!({ "new_password": "another password", "auth": auth })).await.ok();
        assert_eq!(browser.get(&account).await.status, 303);
    })
    .await;
}

#[tokio::test]
async fn any_node_serves_any_step() {
    on_each_engine(async |engine| {
        let Engine::Postgres(_) = engine else { return };
        let server = start(&engine).await;
        server.register("alice").await;
        let second = server.another_node().await;
        let app = App::register(&server).await;
        let mut browser = Browser::new();
        let sent = browser.get(&app.authorize(DEVICE, "")).await;
        let consent = sign_in(&mut browser, &sent, "alice").await;
        let code = browser.submit(&consent, &[("decision", "allow")]).await.sent_with("code").expect("a code");
        let there =
            App { client: second.anonymous(), metadata: app.metadata.clone(), client_id: app.client_id.clone() };
        let tokens = there.redeem(&code, VERIFIER).await.ok();
        app.with(&tokens).get("account/whoami").await.ok();
        refused(app.redeem(&code, VERIFIER).await, 400, "invalid_grant");
        there.refresh(&tokens["refresh_token"]).await;
        assert_eq!(there.refresh(&tokens["refresh_token"]).await.status, 400, "it was ended at the other node");
    })
    .await;
}

#[tokio::test]
async fn the_rust_sdk_comes_by_oauth() {
    use matrix_sdk::{
        authentication::oauth::registration::{ApplicationType, ClientMetadata, Localized, OAuthGrantType},
        ruma::serde::Raw,
    };
    on_each_engine(async |engine| {
        let server = start(&engine).await;
        server.register("alice").await;
        let client = matrix_sdk::Client::builder().homeserver_url(server.url()).build().await.expect("a client");
        let callback = "http://127.0.0.1:12345/callback".parse().expect("an address");
        let registered = "http://127.0.0.1/callback".parse().expect("an address");
        let metadata = ClientMetadata::new(
            ApplicationType::Native,
            vec![OAuthGrantType::AuthorizationCode { redirect_uris: vec![registered] }],
            Localized::new("https://example.com/".parse().expect("an address"), []),
        );
        let metadata = Raw::new(&metadata).expect("it is JSON");
        let login = client.oauth().login(callback, None, Some(metadata.into()), None);
        let begun = login.build().await.expect("the SDK understands the metadata");
        let mut browser = Browser::new();
        let sent = browser.get(begun.url.as_str()).await;
        let consent = sign_in(&mut browser, &sent, "alice").await;
        let back = browser.submit(&consent, &[("decision", "allow")]).await;
        let back = back.sent_to().parse().expect("an address");
        client.oauth().finish_login(matrix_sdk::utils::UrlOrQuery::Url(back)).await.expect("the SDK is let in");
        assert_eq!(client.whoami().await.expect("it has a session").user_id.as_str(), "@alice:a.test");
        client.oauth().refresh_access_token().await.expect("the SDK renews it");
        client.whoami().await.expect("it has a session");
        // The SDK gives sessions back over https only, which this server of the tests doesn't speak.
    })
    .await;
}
