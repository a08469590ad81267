//! Where everything is, and the registration of clients.

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use users::oauth::{AUTHORIZATION_CODE, ClientMetadata, DEVICE_CODE, OauthError, REFRESH_TOKEN};

use super::{
    base, base_of,
    token::{refused, unstored},
};
use crate::{
    Error, Needs, Route, Services,
    endpoint::{PlainAsk, plain_endpoint},
};

/// What the account page understands as its `action`: the specification's words, and those of MSC4191 before.
const ACTIONS: [&str; 8] = [
    "org.matrix.profile",
    "org.matrix.devices_list",
    "org.matrix.device_view",
    "org.matrix.device_delete",
    "org.matrix.sessions_list",
    "org.matrix.session_view",
    "org.matrix.session_end",
    "org.matrix.cross_signing_reset",
];

/// The endpoints of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        plain_endpoint(Method::GET, "/_matrix/client/v1/auth_metadata", Needs::Nobody, metadata)
            .also_at("/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"),
        plain_endpoint(Method::POST, "/oauth2/register", Needs::Nobody, register),
    ]
}

/// What the well-known file says of it to clients from before there was an endpoint.
pub(crate) fn well_known(services: &Services) -> Option<Value> {
    let base = base_of(services)?;
    Some(json!({ "issuer": format!("{base}/"), "account": format!("{base}/oauth2/account") }))
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-metadata-discovery>
async fn metadata(ask: PlainAsk) -> Result<Response, Error> {
    let base = base(&ask.services)?;
    let at = |name: &str| format!("{base}/oauth2/{name}");
    let answer = json!({
        "issuer": format!("{base}/"),
        "authorization_endpoint": at("authorize"),
        "token_endpoint": at("token"),
        "registration_endpoint": at("register"),
        "revocation_endpoint": at("revoke"),
        "device_authorization_endpoint": at("device"),
        "account_management_uri": at("account"),
        "account_management_actions_supported": ACTIONS,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment"],
        "grant_types_supported": [AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
    });
    Ok(unstored(answer.to_string()))
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#dynamic-client-registration-flow>
async fn register(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let metadata: ClientMetadata = match serde_json::from_slice(&ask.body) {
        Ok(metadata) => metadata,
        Err(error) => return Ok(refused(&OauthError::Metadata(format!("the body is no client metadata: {error}")))),
    };
    let client = match ask.services.users.register_oauth_client(metadata, ask.address).await {
        Ok(client) => client,
        Err(error) => return Ok(refused(&error)),
    };
    let mut answer = serde_json::to_value(&client.metadata).expect("texts can be written as JSON");
    answer["client_id"] = client.client_id.into();
    let mut response = unstored(answer.to_string());
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}
