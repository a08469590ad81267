//! What an operator's tools ask: is it alive, is it ready, how is it doing.

use std::time::Duration;

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::{StatusCode, header};
use serde_json::json;

use crate::SharedServices;

/// How long the database may take to answer before this server calls itself not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// `/health/live`, `/health/ready`, `/health` and, where metrics are on, `/metrics`.
pub(crate) fn router(services: SharedServices) -> Router {
    Router::new()
        .route("/health/live", get(async || "ok"))
        .route("/health/ready", get(ready))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(services)
}

async fn ready(State(services): State<SharedServices>) -> impl IntoResponse {
    if !database_answers(&services).await {
        return (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer".to_owned());
    }
    // People can chat without the links; but whoever put the server up wants to know.
    let lines: Vec<String> = std::iter::once("ready".to_owned()).chain(findings(&services)).collect();
    (StatusCode::OK, lines.join("\nbus: "))
}

/// What keeps the broker from doing what it should.
fn findings(services: &SharedServices) -> Vec<String> {
    services.links.as_ref().map(peers::Links::findings).unwrap_or_default()
}

async fn health(State(services): State<SharedServices>) -> impl IntoResponse {
    let database = database_answers(&services).await;
    let status = if database { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let findings = findings(&services);
    let mut body = json!({
        "status": if database { "ok" } else { "degraded" },
        "database": if database { "ok" } else { "unavailable" },
        "version": env!("CARGO_PKG_VERSION"),
    });
    if services.links.is_some() {
        body["links"] = json!({ "status": if findings.is_empty() { "ok" } else { "degraded" }, "findings": findings });
    }
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string())
}

async fn metrics(State(services): State<SharedServices>) -> impl IntoResponse {
    match &services.metrics {
        Some(render) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], render()).into_response(),
        None => (StatusCode::NOT_FOUND, "metrics are switched off by `metrics.enabled`").into_response(),
    }
}

async fn database_answers(services: &SharedServices) -> bool {
    matches!(tokio::time::timeout(PATIENCE, services.store.visible_position()).await, Ok(Ok(_)))
}
