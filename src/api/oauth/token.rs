//! Where clients get tokens, and give them back.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, Method, StatusCode, header};
use model::{Kind, Refusal as _};
use serde_json::json;
use users::oauth::{AUTHORIZATION_CODE, DEVICE_CODE, Granted, OauthError, REFRESH_TOKEN, Redemption, Scope};

use super::{base, form::Form};
use crate::{
    Error, Needs, Route, Services,
    endpoint::{PlainAsk, plain_endpoint},
    error::told,
};

const CLIENT_ID: &str = "`client_id` is missing";

/// The endpoints of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        plain_endpoint(Method::POST, "/oauth2/token", Needs::Nobody, token),
        plain_endpoint(Method::POST, "/oauth2/revoke", Needs::Nobody, revoke),
        plain_endpoint(Method::POST, "/oauth2/device", Needs::Nobody, device),
    ]
}

async fn token(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    Ok(match grant(&ask).await {
        Ok(Granted { session, scope }) => {
            let mut answer = json!({
                "access_token": session.access_token,
                "token_type": "Bearer",
                "scope": scope,
            });
            if let Some(expires_in) = session.expires_in {
                answer["expires_in"] = expires_in.as_secs().into();
            }
            if let Some(refresh_token) = session.refresh_token {
                answer["refresh_token"] = refresh_token.into();
            }
            unstored(answer.to_string())
        }
        Err(error) => refused(&error),
    })
}

async fn grant(ask: &PlainAsk) -> Result<Granted, OauthError> {
    let (form, users) = (Form::parse(&ask.body)?, &ask.services.users);
    let grant_type = form.need("grant_type", "`grant_type` is missing")?;
    let client_id = form.need("client_id", CLIENT_ID)?;
    match grant_type {
        AUTHORIZATION_CODE => {
            let shown = Redemption {
                code: form.need("code", "`code` is missing")?,
                client_id,
                redirect_uri: form.need("redirect_uri", "`redirect_uri` is missing")?,
                verifier: form.need("code_verifier", "`code_verifier` is missing")?,
            };
            users.redeem_code(shown).await
        }
        REFRESH_TOKEN => {
            users.refresh_oauth(form.need("refresh_token", "`refresh_token` is missing")?, client_id).await
        }
        DEVICE_CODE => users.redeem_device_code(form.need("device_code", "`device_code` is missing")?, client_id).await,
        _ => Err(OauthError::GrantType),
    }
}

async fn revoke(ask: PlainAsk) -> Result<Response, Error> {
    base(&ask.services)?;
    let revoked = async {
        let form = Form::parse(&ask.body)?;
        ask.services.users.revoke_oauth(form.need("token", "`token` is missing")?).await
    };
    Ok(match revoked.await {
        Ok(()) => unstored("{}".to_owned()),
        Err(error) => refused(&error),
    })
}

async fn device(ask: PlainAsk) -> Result<Response, Error> {
    let base = base(&ask.services)?;
    Ok(match begin(&ask, base, &ask.services).await {
        Ok(answer) => unstored(answer),
        Err(error) => refused(&error),
    })
}

async fn begin(ask: &PlainAsk, base: &str, services: &Services) -> Result<String, OauthError> {
    let form = Form::parse(&ask.body)?;
    let client_id = form.need("client_id", CLIENT_ID)?;
    let scope = Scope::parse(form.text("scope"))?;
    let grant = services.users.begin_device_grant(client_id, &scope, ask.address).await?;
    let page = format!("{base}/oauth2/link");
    let answer = json!({
        "verification_uri_complete": format!("{page}?user_code={}", grant.user_code),
        "verification_uri": page,
        "device_code": grant.device_code,
        "user_code": grant.user_code,
        "expires_in": grant.expires_in.as_secs(),
        "interval": grant.interval.as_secs(),
    });
    Ok(answer.to_string())
}

/// JSON that nobody on the way keeps.
pub(super) fn unstored(body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::PRAGMA, HeaderValue::from_static("no-cache")),
    ];
    (headers, Body::from(body)).into_response()
}

/// A refusal as RFC 6749 writes it.
pub(super) fn refused(error: &OauthError) -> Response {
    let status = match error.kind() {
        Kind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    let body = json!({ "error": error.code().unwrap_or("server_error"), "error_description": told(error) });
    let mut response = unstored(body.to_string());
    *response.status_mut() = status;
    if let Some(delay) = error.retry_after_ms() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(delay.div_ceil(1000)));
    }
    response
}
