//! Who may open a WebSocket. What is told on one is told by the scenarios, over real sockets.

use http::{Method, StatusCode};
use serde_json::json;

use crate::testing::with_server;

#[tokio::test]
async fn who_may_not_open_one_is_answered_before_the_upgrade() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let refusal = async |method: Method, path: &str, token: Option<&str>| {
            let (status, problem) = server.ask(method, path, token, "").await;
            (status.as_u16(), problem["code"].as_str().unwrap_or_default().to_owned())
        };
        let expected = |status: u16, code: &str| (status, code.to_owned());
        let socket = "/api/v1/realtime";
        assert_eq!(refusal(Method::GET, socket, None).await, expected(401, "missing_token"));
        assert_eq!(refusal(Method::GET, socket, Some("cat_wrong")).await, expected(401, "unknown_token"));
        assert_eq!(refusal(Method::GET, socket, Some(&alice)).await, expected(426, "upgrade_required"));
        assert_eq!(refusal(Method::GET, "/api/v1/realtime?ticket=x", None).await, expected(426, "upgrade_required"));
        assert_eq!(refusal(Method::POST, "/api/v1/realtime/tickets", None).await, expected(401, "missing_token"));
    })
    .await;
}

#[tokio::test]
async fn a_ticket_is_for_its_asker_alone_and_nobody_on_the_way_keeps_it() {
    with_server(async |server| {
        let (alice, _) = server.register("alice").await;
        let one = server.post("/api/v1/realtime/tickets", Some(&alice), json!({})).await;
        let other = server.post("/api/v1/realtime/tickets", Some(&alice), json!({})).await;
        assert_ne!(one["ticket"], other["ticket"]);
        assert_eq!(one["expires_in_ms"], 30_000);
        let request = http::Request::builder()
            .method(Method::POST)
            .uri("/api/v1/realtime/tickets")
            .header("authorization", format!("Bearer {alice}"))
            .body(axum::body::Body::empty())
            .expect("the test asks well");
        let answer = server.answer(request).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["cache-control"], "no-store, private");
    })
    .await;
}
