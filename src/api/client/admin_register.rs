//! `/_synapse/admin/v1/register`: accounts by a shared secret, as existing tools make them.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{Method, header};
use serde::Deserialize;
use serde_json::{Value, json};
use users::{AdminRegistration, NewAccount};

use crate::{
    Error, Needs, Route,
    endpoint::{PlainAsk, parse_json, plain_endpoint},
};

const PATH: &str = "/_synapse/admin/v1/register";

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        plain_endpoint(Method::GET, PATH, Needs::Nobody, nonce),
        plain_endpoint(Method::POST, PATH, Needs::Proof, register),
    ]
}

#[derive(Deserialize)]
struct Wish {
    nonce: String,
    username: String,
    password: String,
    displayname: Option<String>,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    mac: String,
}

async fn nonce(ask: PlainAsk) -> Result<Response, Error> {
    let nonce = ask.services.users.registration_nonce()?;
    Ok(render(&json!({ "nonce": nonce })))
}

async fn register(ask: PlainAsk) -> Result<Response, Error> {
    let body: Wish = parse_json(&ask.body)?;
    let account = NewAccount {
        username: body.username,
        password: Some(body.password),
        display_name: body.displayname,
        is_admin: body.admin,
    };
    let wish = AdminRegistration { nonce: body.nonce, account, user_type: body.user_type, mac: body.mac };
    let session = ask.services.users.register_by_secret(wish).await?;
    Ok(render(&json!({
        "user_id": session.user_id,
        "access_token": session.access_token,
        "device_id": session.device_id,
        "home_server": session.user_id.server_name(),
    })))
}

fn render(answer: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::from(answer.to_string())).into_response()
}
