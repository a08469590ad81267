//! What of the OAuth 2.0 API needs no socket; whole flows are stories in `federation-tests/scenarios/oauth.rs`.

use axum::{body::Body, response::Response};
use http::{Method, Request, StatusCode, header};
use serde_json::json;

use crate::testing::{Server, with_server};

async fn get(server: &Server, path: &str) -> Response {
    server.answer(Request::get(path).body(Body::empty()).expect("the test asks well")).await
}

fn header_of<'a>(response: &'a Response, name: &header::HeaderName) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn every_page_is_safe_from_frames_scripts_and_caches() {
    with_server(async |server| {
        for path in ["/oauth2/login", "/oauth2/login?then=https://evil.test/", "/oauth2/authorize", "/oauth2/sso"] {
            let page = get(&server, path).await;
            let policy = header_of(&page, &header::CONTENT_SECURITY_POLICY);
            assert!(policy.starts_with("default-src 'none';"), "{path}: {policy}");
            assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("script-src"), "{path}: {policy}");
            assert_eq!(header_of(&page, &header::CACHE_CONTROL), "no-store", "{path}");
            assert_eq!(header_of(&page, &header::REFERRER_POLICY), "no-referrer", "{path}");
        }
        assert_eq!(header_of(&get(&server, "/oauth2/style.css").await, &header::CONTENT_TYPE), "text/css");
    })
    .await;
}

#[tokio::test]
async fn a_page_for_somebody_sends_to_the_sign_in_and_sets_a_cookie_that_only_tls_carries() {
    with_server(async |server| {
        let sent = get(&server, "/oauth2/account?action=org.matrix.profile").await;
        assert_eq!(sent.status(), StatusCode::SEE_OTHER);
        assert_eq!(header_of(&sent, &header::LOCATION), "/oauth2/login?then=account%3Faction%3Dorg.matrix.profile");
        let cookie = header_of(&sent, &header::SET_COOKIE);
        assert!(cookie.ends_with("HttpOnly; SameSite=Lax; Secure"), "{cookie}");
        // One that somebody else has made up is replaced.
        let request = Request::get("/oauth2/login").header(header::COOKIE, "comity_browser=mine");
        let page = server.answer(request.body(Body::empty()).expect("the test asks well")).await;
        assert!(header_of(&page, &header::SET_COOKIE).starts_with("comity_browser=cob_"));
    })
    .await;
}

#[tokio::test]
async fn what_is_no_request_of_a_client_is_refused_in_the_words_of_the_rfcs() {
    with_server(async |server| {
        let refused = async |path: &str, body: &str| {
            let (status, answer) = server.ask(Method::POST, path, None, body).await;
            (status.as_u16(), answer["error"].as_str().unwrap_or_default().to_owned())
        };
        let word = |status: u16, word: &str| (status, word.to_owned());
        assert_eq!(refused("/oauth2/token", "").await, word(400, "invalid_request"));
        assert_eq!(refused("/oauth2/token", "grant_type=x&client_id=y").await, word(400, "unsupported_grant_type"));
        assert_eq!(refused("/oauth2/token", "grant_type=a&grant_type=b").await, word(400, "invalid_request"));
        let code = "grant_type=authorization_code&client_id=y&code=z&redirect_uri=u&code_verifier=v";
        assert_eq!(refused("/oauth2/token", code).await, word(401, "invalid_client"));
        assert_eq!(refused("/oauth2/device", "client_id=y").await, word(400, "invalid_scope"));
        assert_eq!(refused("/oauth2/revoke", "").await, word(400, "invalid_request"));
        assert_eq!(refused("/oauth2/register", "{").await, word(400, "invalid_client_metadata"));
        assert_eq!(refused("/oauth2/register", "{}").await, word(400, "invalid_client_metadata"));
        let elsewhere = json!({ "client_uri": "https://a.test/", "redirect_uris": ["https://b.test/"] }).to_string();
        assert_eq!(refused("/oauth2/register", &elsewhere).await, word(400, "invalid_redirect_uri"));
        // Without providers there is no sign-in by one.
        let path = "/_matrix/client/v3/login/sso/redirect?redirectUrl=https://c.test/";
        assert_eq!(get(&server, path).await.status(), StatusCode::NOT_FOUND);
    })
    .await;
}
