//! Who is told, outside of a user's clients, of what notifies the user.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushers>

use std::borrow::Cow;

use axum::response::{IntoResponse as _, Response};
use http::{Method, StatusCode, header};
use integrations::{PusherError, PusherWish};
use serde_json::json;

use crate::{
    Error, Needs, Route,
    endpoint::{PlainAsk, empty_answer, parse_json, plain_endpoint},
};

/// Where letters lead who wants no more of them: where Synapse has it, so that proxies let it through.
const UNSUBSCRIBE: &str = "/_synapse/client/unsubscribe";
/// Nothing is loaded, nothing is run, and the one form leads here.
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        plain_endpoint(Method::GET, "/_matrix/client/v3/pushers", Needs::User, list)
            .also_at("/_matrix/client/r0/pushers"),
        plain_endpoint(Method::POST, "/_matrix/client/v3/pushers/set", Needs::User, set)
            .also_at("/_matrix/client/r0/pushers/set"),
        plain_endpoint(Method::GET, UNSUBSCRIBE, Needs::Proof, ask_before_unsubscribing),
        plain_endpoint(Method::POST, UNSUBSCRIBE, Needs::Proof, unsubscribe),
    ]
}

async fn list(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let pushers = ask.services.pushers.list(&session.user_id).await?;
    let json = header::HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], json!({ "pushers": pushers }).to_string()).into_response())
}

async fn set(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let wish: PusherWish = parse_json(&ask.body)?;
    ask.services.pushers.set(&session, &wish).await?;
    Ok(empty_answer())
}

/// Programs that look at letters follow their links, so looking ends nothing.
async fn ask_before_unsubscribing(ask: PlainAsk) -> Result<Response, Error> {
    let (link, token) = proof(&ask);
    Ok(match ask.services.pushers.check_link(&link, &token).await {
        Ok(email) => page(
            StatusCode::OK,
            &format!(
                "<p>Shall {} get no more letters about what was not read?</p>\
                 <form method=\"post\"><button>No more letters</button></form>",
                escaped(&email)
            ),
        ),
        Err(error) => refused(error)?,
    })
}

async fn unsubscribe(ask: PlainAsk) -> Result<Response, Error> {
    let (link, token) = proof(&ask);
    Ok(match ask.services.pushers.unsubscribe(&link, &token).await {
        Ok(()) => page(StatusCode::OK, "<p>There will be no more letters. Your client can switch them on again.</p>"),
        Err(error) => refused(error)?,
    })
}

fn proof(ask: &PlainAsk) -> (String, String) {
    let query = ask.parts.uri.query().unwrap_or_default();
    let find = |name: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| Cow::into_owned(value)).unwrap_or_default()
    };
    (find("pusher"), find("token"))
}

fn refused(error: PusherError) -> Result<Response, Error> {
    match error {
        PusherError::Link => {
            Ok(page(StatusCode::NOT_FOUND, "<p>This link ends nothing: perhaps it was used already.</p>"))
        }
        error => Err(error.into()),
    }
}

fn page(status: StatusCode, body: &str) -> Response {
    let html = format!("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Letters</title>{body}</html>");
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, html).into_response()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
