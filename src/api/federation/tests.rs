//! What other servers get, and what those get who aren't.

use http::{Method, StatusCode};
use ruma::{ServerName, server_name};
use serde_json::{Value, json};

use crate::testing::{Server, refusal, with_federating_server};

static US: LazyLock<&ServerName> = LazyLock::new(|| server_name!("a.test"));
const THEM: &ServerName = server_name!("b.test");

#[tokio::test]
async fn whoever_cannot_prove_to_be_a_server_is_refused_with_the_reason() {
    with_federating_server(&[THEM], async |server| {
        let path = "/_matrix/federation/v1/query/profile?user_id=@alice:a.test";
        let unsigned = server.ask(Method::GET, path, None, "").await;
        assert_eq!(refusal(unsigned), (401, "M_UNAUTHORIZED".to_owned()));
        let by_a_user = server.ask(Method::GET, path, Some("a_token"), "").await;
        assert_eq!(refusal(by_a_user), (401, "M_UNAUTHORIZED".to_owned()));

        let signed = |origin, destination| {
            let key = peers::testing::key_of(origin);
            peers::testing::authorization(&key, destination, &Method::GET, path, None)
        };
        let ask = async |header| server.ask_as(Method::GET, path, header, "").await;
        let (status, answer) = ask(signed(THEM, server_name!("c.test"))).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer["error"], "the request is for another server; this one is a.test");
        let (status, answer) = ask(signed(server_name!("gone.test"), US)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(answer["error"].as_str().is_some_and(|text| text.contains("gone.test can't be reached")), "{answer}");
        assert_eq!(refusal(ask(signed(US, US)).await), (401, "M_UNAUTHORIZED".to_owned()));
        let (status, _) = server.ask_as(Method::GET, &path.replace("alice", "bob"), signed(THEM, US), "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    })
    .await;
}

#[tokio::test]
async fn everybody_may_ask_for_the_version_and_for_keys() {
    with_federating_server(&[THEM], async |server| {
        let version = server.get("/_matrix/federation/v1/version", None).await;
        assert_eq!(version["server"]["name"], "Comity");
        let ours = server.get("/_matrix/key/v2/server", None).await;
        assert_eq!(ours["server_name"], "a.test");
        assert!(ours["verify_keys"]["ed25519:test"]["key"].is_string());
        assert!(ours["signatures"]["a.test"]["ed25519:test"].is_string());
        assert_eq!(ours, server.get("/_matrix/key/v2/server/ed25519:test", None).await);

        let vouched = server.get("/_matrix/key/v2/query/b.test", None).await;
        assert_both_signed(&vouched["server_keys"][0]);
        let wish = json!({ "server_keys": { "b.test": {}, "gone.test": {} } });
        let vouched = server.post("/_matrix/key/v2/query", None, wish).await;
        assert_eq!(vouched["server_keys"].as_array().map(Vec::len), Some(1));
        assert_both_signed(&vouched["server_keys"][0]);
        let servers: serde_json::Map<String, Value> = (0..101).map(|at| (format!("{at}.test"), json!({}))).collect();
        let too_many = json!({ "server_keys": servers }).to_string();
        let refused = server.ask(Method::POST, "/_matrix/key/v2/query", None, too_many).await;
        assert_eq!(refusal(refused), (400, "M_INVALID_PARAM".to_owned()));
    })
    .await;
}

fn assert_both_signed(answer: &Value) {
    assert_eq!(answer["server_name"], "b.test");
    for server in [US, THEM] {
        assert!(answer["signatures"][server.as_str()]["ed25519:test"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn a_server_that_federates_with_nobody_says_so() {
    crate::testing::with_server(async |server: Server| {
        let header = peers::testing::authorization(
            &peers::testing::key_of(THEM),
            US,
            &Method::GET,
            "/_matrix/federation/v1/query/profile?user_id=@x:a.test",
            None,
        );
        let refused =
            server.ask_as(Method::GET, "/_matrix/federation/v1/query/profile?user_id=@x:a.test", header, "").await;
        assert_eq!(refusal(refused), (403, "M_FORBIDDEN".to_owned()));
        for path in ["/_matrix/key/v2/server", "/_matrix/federation/v1/version", "/_matrix/key/v2/query/b.test"] {
            assert_eq!(refusal(server.ask(Method::GET, path, None, "").await), (403, "M_FORBIDDEN".to_owned()));
        }
    })
    .await;
}
