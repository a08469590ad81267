//! Signing in by an OpenID Connect provider, with the real binary and a provider of the tests' own.

use federation_tests::{Browser, Client, Engine, OidcProvider, Server, Visit, enc, on_each_engine};
use serde_json::{Value, json};
use toml::{Table, Value as Toml};

const CLIENT: &str = "https://client.example/in?x=1";

async fn start(engine: &Engine, sections: Vec<Table>) -> Server {
    let sections: Vec<Toml> = sections.into_iter().map(Toml::Table).collect();
    let builder = Server::builder(engine).public().set("sso", "providers", sections);
    builder.set("sso", "trusted_redirects", vec!["https://trusted.example/app".to_owned()]).start().await
}

/// A browser goes from a client to the provider, and comes back.
async fn by_provider(server: &Server, browser: &mut Browser, redirect_url: &str) -> Visit {
    let url = format!("{}/_matrix/client/v3/login/sso/redirect/corp?redirectUrl={}", server.url(), enc(redirect_url));
    let here = browser.get(&url).await;
    let there = browser.follow(&here).await;
    let back = browser.follow(&there).await;
    browser.follow(&back).await
}

/// The login token in an address.
fn token_in(url: &str) -> String {
    url.split("loginToken=").nth(1).and_then(|rest| rest.split(['&', '#']).next()).expect("a token").to_owned()
}

async fn login(server: &Server, token: &str) -> Value {
    server.anonymous().post("login", json!({ "type": "m.login.token", "token": token })).await.ok()
}

fn alice() -> Value {
    json!({ "sub": "4711", "preferred_username": "Alice", "name": "Alice A.", "email": "Alice@example.com", "email_verified": true })
}

#[tokio::test]
async fn somebody_of_the_company_comes_and_comes_again() {
    on_each_engine(async |engine| {
        let provider = OidcProvider::start().await;
        let server = start(&engine, vec![provider.section("corp")]).await;
        let flows = server.anonymous().get("login").await.ok();
        let sso = flows["flows"].as_array().and_then(|flows| flows.iter().find(|flow| flow["type"] == "m.login.sso"));
        assert_eq!(sso.expect("it is announced")["identity_providers"][0]["id"], "corp", "{flows}");

        provider.is_visited_by(alice());
        let mut browser = Browser::new();
        let asked = by_provider(&server, &mut browser, CLIENT).await;
        assert_eq!((asked.status, &asked.location), (200, &None), "whether she wants that is asked first");
        assert!(asked.html.contains("https://client.example"), "{}", asked.html);
        let link = asked.link("loginToken").expect("a link");
        assert!(link.starts_with(CLIENT), "{link}");
        let session = login(&server, &token_in(&link)).await;
        assert_eq!(session["user_id"], "@alice:a.test");
        let mut client: Client = server.anonymous();
        client.remember(&session);
        assert_eq!(client.get("profile/@alice:a.test/displayname").await.ok()["displayname"], "Alice A.");
        let used = json!({ "type": "m.login.token", "token": token_in(&link) });
        server.anonymous().post("login", used).await.refused(403, "M_FORBIDDEN");

        // It is she by what the provider calls her, whatever her name is now; a client that is trusted gets the token at once.
        let mut renamed = alice();
        renamed["preferred_username"] = json!("somebody-else");
        provider.is_visited_by(renamed);

        provider.lies(json!({}));
        let back = by_provider(&server, &mut Browser::new(), "https://trusted.example/app/x").await;
        let session = login(&server, &token_in(back.sent_to())).await;
        assert_eq!(session["user_id"], "@alice:a.test");
        assert_eq!(by_provider(&server, &mut Browser::new(), "https://trusted.example/application").await.status, 200);

        // No password opens the account.
        server.anonymous().try_login("alice", "").await.refused(403, "M_FORBIDDEN");
        // An address that would run something is refused before anybody goes anywhere.
        let evil =
            format!("{}/_matrix/client/v3/login/sso/redirect/corp?redirectUrl=javascript:alert(1)", server.url());
        assert_eq!(browser.get(&evil).await.status, 400);
        let unknown =
            format!("{}/_matrix/client/v3/login/sso/redirect/nobody?redirectUrl={}", server.url(), enc(CLIENT));
        assert_eq!(browser.get(&unknown).await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn what_the_provider_has_not_said_to_this_browser_is_not_believed() {
    on_each_engine(async |engine| {
        let provider = OidcProvider::start().await;
        let server = start(&engine, vec![provider.section("corp")]).await;
        provider.is_visited_by(alice());
        for lie in [
            json!({ "nonce": "another" }),
            json!({ "iss": "https://other.example" }),
            json!({ "aud": "somebody else" }),
            json!({ "exp": 1_000 }),
            json!({ "sub": "" }),
        ] {
            provider.lies(lie.clone());
            let refused = by_provider(&server, &mut Browser::new(), CLIENT).await;
            assert_eq!((refused.status, &refused.location), (502, &None), "{lie}: {}", refused.html);
            assert!(!refused.html.contains("loginToken"));
        }
        provider.lies(json!({}));

        // Somebody has another's browser come back with their own code and state: it would be signed in as them.
        let (mut his, mut hers) = (Browser::new(), Browser::new());
        let url = format!("{}/oauth2/sso/with/corp?then=account", server.url());
        let there = his.get(&url).await;
        let back = his.follow(&there).await;
        hers.get(&url).await;
        let forged = hers.follow(&back).await;
        assert_eq!(forged.status, 400, "{}", forged.html);
        // And it comes back once.
        assert_eq!(his.follow(&back).await.status, 303);
        assert_eq!(his.follow(&back).await.status, 400);
        // The provider may say no.
        let there = his.get(&url).await;
        let state = there.sent_with("state").expect("a state");
        let refused = his.get(&format!("{}/oauth2/sso/callback?error=access_denied&state={state}", server.url())).await;
        assert_eq!(refused.status, 403, "{}", refused.html);
    })
    .await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_given_to_nobody_who_may_not_have_it() {
    on_each_engine(async |engine| {
        let provider = OidcProvider::start().await;
        let mut linking = provider.section("linking");
        linking.insert("link_by_name".to_owned(), true.into());
        let mut closed = provider.section("closed");
        closed.insert("register".to_owned(), false.into());
        let server = start(&engine, vec![provider.section("corp"), linking, closed]).await;
        server.register("alice").await;
        provider.is_visited_by(alice());
        let taken = by_provider(&server, &mut Browser::new(), CLIENT).await;
        assert_eq!(taken.status, 403, "{}", taken.html);

        let by = async |id: &str| {
            let mut browser = Browser::new();
            let there = browser.get(&format!("{}/oauth2/sso/with/{id}?then=account", server.url())).await;
            let back = browser.follow(&there).await;
            let entered = browser.follow(&back).await;
            if entered.location.is_some() { browser.follow(&entered).await } else { entered }
        };
        provider.is_visited_by(json!({ "sub": "1", "preferred_username": "nobody" }));
        assert_eq!(by("closed").await.status, 403);
        provider.is_visited_by(alice());
        let account = by("linking").await;
        assert!(account.status == 200 && account.html.contains("@alice:a.test"), "{}", account.html);
        // Nobody else of that name gets it after that.
        provider.is_visited_by(json!({ "sub": "another", "preferred_username": "alice" }));
        assert_eq!(by("linking").await.status, 403);
        // Both ways lead to the account.
        server.login("alice").await.get("account/whoami").await.ok();
        let admin = server.admin().await;
        admin.put("/_matrix/client/v1/admin/lock/@alice:a.test", json!({ "locked": true })).await.ok();
        provider.is_visited_by(alice());
        assert_eq!(by("linking").await.status, 401);
    })
    .await;
}

#[tokio::test]
async fn the_page_of_oauth_offers_the_providers_too() {
    on_each_engine(async |engine| {
        let provider = OidcProvider::start().await;
        let server = start(&engine, vec![provider.section("corp"), provider.section("other")]).await;
        provider.is_visited_by(alice());
        let mut browser = Browser::new();
        let page = browser.get(&format!("{}/oauth2/account?action=org.matrix.devices_list", server.url())).await;
        let page = browser.follow(&page).await;
        let link = page.link("/sso/with/corp").expect("a link");
        let there = browser.get(&format!("{}{link}", server.url())).await;
        let back = browser.follow(&there).await;
        let entered = browser.follow(&back).await;
        let list = browser.follow(&entered).await;
        assert!(list.status == 200 && list.html.contains("Your sessions"), "{}", list.html);

        // Without a provider named, one chooses.
        let url = format!("{}/_matrix/client/v3/login/sso/redirect?redirectUrl={}", server.url(), enc(CLIENT));
        let choice = browser.get(&url).await;
        let choice = browser.follow(&choice).await;
        assert!(choice.link("/sso/with/other").is_some_and(|link| link.contains("redirectUrl")), "{}", choice.html);
    })
    .await;
}
