//! Making accounts.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-registration-and-management>

use ruma::api::client::account::{
    check_registration_token_validity, get_username_availability,
    register::{RegistrationKind, v3::Request},
};
use serde_json::json;
use users::{RegisterError, Registration, TokenStyle};

use crate::{Answer, Ask, Error, Route, endpoint, json_endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![json_endpoint(register), endpoint(is_available), endpoint(is_registration_token)]
}

async fn register(ask: Ask<Request>) -> Answer<String> {
    let request = ask.request;
    match request.kind {
        RegistrationKind::User => {}
        RegistrationKind::Guest => return Err(RegisterError::Guest.into()),
        kind => return Err(Error::invalid_param(format!("kind: this server makes no accounts of kind `{kind}`"))),
    }
    if let Some(login_type) = request.login_type {
        return Err(Error::new(
            http::StatusCode::BAD_REQUEST,
            "M_UNKNOWN",
            format!("type: nobody may register by `{}` here", login_type.as_str()),
        ));
    }
    // Names are lower case here, as the specification lets servers have it.
    let username = request.username.map(|name| name.to_ascii_lowercase());
    let wish = Registration {
        username: username.as_deref(),
        password: request.password.as_deref(),
        device_id: request.device_id.as_deref(),
        device_name: request.initial_device_display_name.as_deref(),
        inhibit_login: request.inhibit_login,
        tokens: if request.refresh_token { TokenStyle::Refreshed } else { TokenStyle::Lasting },
        auth: request.auth.as_ref(),
        display_name: None,
        email: None,
    };
    let made = ask.services.users.register(wish, ask.address).await.map_err(Error::refused)?;
    if made.is_waiting && !request.inhibit_login {
        let message =
            "your account has been asked for, and waits for an administrator's approval; log in once it is given";
        return Err(Error::forbidden(message));
    }
    // By hand: ruma's answer says `"device_id": null` where the specification says nothing.
    let mut answer = json!({ "user_id": made.user_id });
    if let Some(session) = made.session {
        answer["access_token"] = session.access_token.into();
        answer["device_id"] = session.device_id.as_str().into();
        if let Some(refresh_token) = session.refresh_token {
            answer["refresh_token"] = refresh_token.into();
        }
        if let Some(expires_in) = session.expires_in {
            answer["expires_in_ms"] = u64::try_from(expires_in.as_millis()).unwrap_or(u64::MAX).into();
        }
    }
    Ok(answer.to_string())
}

async fn is_available(
    ask: Ask<get_username_availability::v3::Request>,
) -> Answer<get_username_availability::v3::Response> {
    ask.services.users.ask_available(&ask.request.username, ask.address).await?;
    Ok(get_username_availability::v3::Response::new(true))
}

async fn is_registration_token(
    ask: Ask<check_registration_token_validity::v1::Request>,
) -> Answer<check_registration_token_validity::v1::Response> {
    let valid = ask.services.users.ask_registration_token(&ask.request.token, ask.address).await?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}
