//! What an operator's tools ask: is it alive, is it ready, how is it doing.

use std::time::Duration;

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::{StatusCode, header};
use serde_json::json;

use crate::SharedServices;

/// How long the database may take to answer before this server calls itself not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that this server works with, and can do without for a while.
pub struct Dependency {
    name: &'static str,
    findings: Box<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl Dependency {
    /// One under a word that stands in `/health`; `findings` has a sentence without secrets for each thing that is wrong with it, and
    /// doesn't wait.
    pub fn new(name: &'static str, findings: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { name, findings: Box::new(findings) }
    }

    /// The word for it.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// What is wrong with it.
    pub(crate) fn findings(&self) -> Vec<String> {
        (self.findings)()
    }
}

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
    // People can chat without the rest; but whoever put the server up wants to know.
    let mut lines = vec!["ready".to_owned()];
    for dependency in &services.dependencies {
        lines.extend(dependency.findings().into_iter().map(|finding| format!("{}: {finding}", dependency.name)));
    }
    (StatusCode::OK, lines.join("\n"))
}

async fn health(State(services): State<SharedServices>) -> impl IntoResponse {
    let database = database_answers(&services).await;
    let mut body = json!({
        "database": if database { "ok" } else { "unavailable" },
        "version": env!("CARGO_PKG_VERSION"),
    });
    let mut is_whole = database;
    for dependency in &services.dependencies {
        let findings = dependency.findings();
        is_whole &= findings.is_empty();
        let status = if findings.is_empty() { "ok" } else { "degraded" };
        body[dependency.name] = json!({ "status": status, "findings": findings });
    }
    body["status"] = if is_whole { "ok" } else { "degraded" }.into();
    let status = if database { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
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
