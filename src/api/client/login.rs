//! Opening, renewing and ending sessions.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#legacy-login>

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{Method, header};
use ruma::{
    OwnedDeviceId,
    api::client::{
        session::{
            get_login_token,
            get_login_types::{
                self,
                v3::{IdentityProvider, LoginType, PasswordLoginType, SsoLoginType, TokenLoginType},
            },
            logout, logout_all, refresh_token,
        },
        uiaa::{MatrixUserIdentifier, UserIdentifier},
    },
};
use serde::Deserialize;
use serde_json::json;
use users::{Credentials, LoginRequest, TokenStyle};

use crate::{
    Answer, Ask, Error, Needs, Route,
    endpoint::{self, PlainAsk, endpoint, plain_endpoint},
    oauth::has_sso,
};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(login_types),
        plain_endpoint(Method::POST, "/_matrix/client/v3/login", Needs::Nobody, login)
            .also_at("/_matrix/client/r0/login"),
        endpoint(refresh),
        endpoint(make_login_token),
        endpoint(logout),
        endpoint(logout_all),
    ]
}

async fn login_types(ask: Ask<get_login_types::v3::Request>) -> Answer<get_login_types::v3::Response> {
    let mut by_token = TokenLoginType::new();
    by_token.get_login_token = true;
    let mut flows = vec![LoginType::Password(PasswordLoginType::new()), LoginType::Token(by_token)];
    if has_sso(&ask.services) {
        let provider = |provider: &users::sso::SsoProvider| {
            let mut shown = IdentityProvider::new(provider.id.clone(), provider.name.clone());
            shown.brand = provider.brand.as_deref().map(Into::into);
            shown
        };
        let mut by_sso = SsoLoginType::new();
        by_sso.identity_providers = ask.services.users.sso_providers().iter().map(provider).collect();
        flows.push(LoginType::Sso(by_sso));
    }
    Ok(get_login_types::v3::Response::new(flows))
}

/// The body of a login. ruma's own type of it does not survive one that has no `type`.
#[derive(Deserialize)]
struct Login {
    r#type: String,
    identifier: Option<UserIdentifier>,
    /// Before there were identifiers.
    user: Option<String>,
    password: Option<String>,
    /// Of the second factor.
    #[serde(rename = "org.comity.code")]
    code: Option<String>,
    token: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

async fn login(ask: PlainAsk) -> Result<Response, Error> {
    let request: Login = endpoint::parse_json(&ask.body)?;
    let identifier =
        request.identifier.or(request.user.map(|user| UserIdentifier::Matrix(MatrixUserIdentifier::new(user))));
    let credentials = match request.r#type.as_str() {
        "m.login.password" => Credentials::Password {
            identifier: identifier.as_ref().ok_or_else(|| missing("identifier"))?,
            password: request.password.as_deref().ok_or_else(|| missing("password"))?,
            // Not of the specification; who has a second factor can also log in by a token that another device makes.
            code: request.code.as_deref(),
        },
        "m.login.token" => Credentials::Token(request.token.as_deref().ok_or_else(|| missing("token"))?),
        other => {
            let message = format!("type: nobody logs in by `{other}` here");
            return Err(Error::new(http::StatusCode::BAD_REQUEST, "M_UNKNOWN", message));
        }
    };
    let wish = LoginRequest {
        credentials,
        device_id: request.device_id.as_deref(),
        device_name: request.initial_device_display_name.as_deref(),
        tokens: if request.refresh_token { TokenStyle::Refreshed } else { TokenStyle::Lasting },
    };
    let session = ask.services.users.login(wish, ask.address).await?;

    let mut answer = json!({
        "user_id": session.user_id,
        "access_token": session.access_token,
        "device_id": session.device_id,
        "home_server": session.user_id.server_name(),
    });
    if let (Some(refresh_token), Some(expires_in)) = (session.refresh_token, session.expires_in) {
        answer["refresh_token"] = refresh_token.into();
        answer["expires_in_ms"] = u64::try_from(expires_in.as_millis()).unwrap_or(u64::MAX).into();
    }
    if let Some(base_url) = &ask.services.public_baseurl {
        answer["well_known"] = json!({ "m.homeserver": { "base_url": base_url } });
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(answer.to_string())).into_response())
}

fn missing(field: &str) -> Error {
    Error::missing_param(format!("`{field}` is missing"))
}

async fn refresh(ask: Ask<refresh_token::v3::Request>) -> Answer<refresh_token::v3::Response> {
    let session = ask.services.users.refresh(&ask.request.refresh_token, TokenStyle::Refreshed).await?;
    let mut response = refresh_token::v3::Response::new(session.access_token);
    response.refresh_token = session.refresh_token;
    response.expires_in_ms = session.expires_in;
    Ok(response)
}

async fn make_login_token(ask: Ask<get_login_token::v1::Request>) -> Answer<get_login_token::v1::Response> {
    let made = ask.services.users.make_login_token(&ask.session, ask.request.auth.as_ref()).await;
    let (token, expires_in) = made.map_err(Error::refused)?;
    Ok(get_login_token::v1::Response::new(expires_in, token))
}

async fn logout(ask: Ask<logout::v3::Request>) -> Answer<logout::v3::Response> {
    ask.services.users.logout(&ask.session).await?;
    Ok(logout::v3::Response::new())
}

async fn logout_all(ask: Ask<logout_all::v3::Request>) -> Answer<logout_all::v3::Response> {
    ask.services.users.logout_all(&ask.session).await?;
    Ok(logout_all::v3::Response::new())
}
