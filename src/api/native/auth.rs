//! Logging in through the native API: the accounts, devices and sessions are those of the Matrix client API, so each of the two opens the
//! other.

mod keys;
mod password;
mod second_factor;
mod sessions;

pub(super) use password::Accepted;

use axum::response::Response;
use http::StatusCode;
use model::Address;
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::client::uiaa::{AuthData, Dummy, MatrixUserIdentifier, RegistrationToken, UserIdentifier},
};
use serde::{Deserialize, Serialize};
use users::{Credentials, EmailProof, LoginError, LoginRequest, NewSession, Refused, Registration, TokenStyle};
use utoipa::{ToSchema, openapi::path::OperationBuilder};

use super::{
    Answer, Anybody, Call, Created, Endpoint, Nothing, Reply, Unkept,
    payload::{Schemas, described, json},
    post,
};
use crate::Problem;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let own = vec![
        post("/api/v1/auth/register", "Makes an account, and logs in.", register).explained(REGISTER),
        post("/api/v1/auth/login", "Logs in.", login).explained(LOGIN),
        post("/api/v1/auth/refresh", "Gets new tokens for a refresh token.", refresh).explained(REFRESH),
    ];
    [own, sessions::endpoints(), password::endpoints(), second_factor::endpoints(), keys::endpoints()].concat()
}

const REGISTER: &str = "201 with a session; or 202, where an admin has to approve of the account first: log in once that is done. Refused as \
    `registration_closed`, `name_taken`, `invalid_name`, `weak_password`, `registration_token_needed`, `registration_token_wrong`, \
    `email_needed`, `email_taken` or `wrong_code`.";
const LOGIN: &str = "Refused as `wrong_credentials` (whether there is such a user isn't told), `code_needed` and `wrong_code` where the account \
    has a second factor, `awaiting_approval`, `registration_refused` or `deactivated`. Who guesses has to wait: `rate_limited`, with \
    `retry_after_ms`.";
const REFRESH: &str = "The refresh token is replaced by the one that is answered. It is good until what was answered is used, so that an \
    answer that got lost can be asked for again; one that comes after that is in two hands, so the whole session is ended: \
    `refresh_token_reused`.";

/// An account to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewAccountWish)]
struct Wish {
    /// The part of the address before the `@`: a-z, 0-9, and . _ = - / +.
    name: String,
    /// The password.
    password: String,
    /// What others see; left out: the name.
    #[serde(alias = "displayName")]
    display_name: Option<String>,
    /// The device to log in on; left out: a new one.
    #[serde(alias = "deviceId")]
    #[schema(value_type = Option<String>)]
    device_id: Option<OwnedDeviceId>,
    /// What to call the device.
    #[serde(alias = "deviceName")]
    device_name: Option<String>,
    /// A word that lets one register, where the server asks for one.
    #[serde(alias = "registrationToken")]
    registration_token: Option<String>,
    /// An e-mail address, with `code`.
    email: Option<String>,
    /// The code that was sent to `email`: see `/api/v1/auth/verification_codes`.
    code: Option<String>,
}

/// Who logs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    /// `alice`, `alice@a.example` or `@alice:a.example`.
    #[serde(alias = "name", alias = "username", alias = "user_id")]
    user: String,
    /// The password.
    password: String,
    /// A code of the second factor, or a recovery code, where the account has one.
    code: Option<String>,
    /// The device to log in on; left out: a new one. A session that it had is ended.
    #[serde(alias = "deviceId")]
    #[schema(value_type = Option<String>)]
    device_id: Option<OwnedDeviceId>,
    /// What to call the device, if it is new.
    #[serde(alias = "deviceName")]
    device_name: Option<String>,
}

/// What gets new tokens.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Refreshing {
    /// The one that came with the access token.
    #[serde(alias = "refreshToken")]
    refresh_token: String,
}

/// A session that was opened.
#[derive(Serialize, ToSchema)]
pub(super) struct OpenedSession {
    /// As Matrix spells it: `@alice:a.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it: `alice@a.example`.
    #[schema(value_type = String)]
    address: Address,
    /// The device.
    #[schema(value_type = String)]
    device_id: OwnedDeviceId,
    /// A JWT, signed by a key of `/api/v1/auth/jwks.json`. It opens the Matrix client API, too.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// How long the access token lasts, milliseconds.
    expires_in_ms: u64,
    /// What gets another one.
    refresh_token: String,
}

/// An account that was asked for.
#[derive(Serialize, ToSchema)]
struct AwaitedAccount {
    /// As Matrix spells it.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it.
    #[schema(value_type = String)]
    address: Address,
    /// `awaiting_approval`.
    state: &'static str,
}

/// What became of the wish for an account.
enum Registered {
    Opened(Box<OpenedSession>),
    Awaiting(AwaitedAccount),
}

impl Reply for Registered {
    fn into_response(self) -> Response {
        match self {
            Self::Opened(session) => Created(*session).into_response(),
            Self::Awaiting(account) => json(StatusCode::ACCEPTED, &account),
        }
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        let operation = described::<OpenedSession>(operation, schemas, "201", "Made.");
        described::<AwaitedAccount>(operation, schemas, "202", "Asked for: an admin has to approve of it.")
    }
}

async fn register(call: Call<Anybody, Nothing, Wish>) -> Answer<Registered> {
    let wish = &call.body;
    let auth = match &wish.registration_token {
        Some(token) => AuthData::RegistrationToken(RegistrationToken::new(token.clone())),
        None => AuthData::Dummy(Dummy::new()),
    };
    let email = match (&wish.email, &wish.code) {
        (Some(email), Some(code)) => Some(EmailProof { email, code }),
        (None, None) => None,
        _ => return Err(Problem::invalid("`email` and `code` belong together").with("field", "code")),
    };
    let registration = Registration {
        username: Some(&wish.name),
        password: Some(&wish.password),
        device_id: wish.device_id.as_deref(),
        device_name: wish.device_name.as_deref(),
        inhibit_login: false,
        tokens: TokenStyle::Signed,
        auth: Some(&auth),
        display_name: wish.display_name.as_deref(),
        email,
    };
    let made = call.services.users.register(registration, call.address).await;
    let made = made.map_err(|error| refused(error, wish.registration_token.is_some()))?;
    let (user_id, address) = (made.user_id.clone(), made.user_id.into());
    match made.session {
        Some(session) => Ok(Registered::Opened(Box::new(opened(session)))),
        None => Ok(Registered::Awaiting(AwaitedAccount { user_id, address, state: "awaiting_approval" })),
    }
}

async fn login(call: Call<Anybody, Nothing, Login>) -> Answer<Unkept<OpenedSession>> {
    let Login { user, password, code, device_id, device_name } = &call.body;
    let identifier = UserIdentifier::Matrix(MatrixUserIdentifier::new(named(user)));
    let wish = LoginRequest {
        credentials: Credentials::Password { identifier: &identifier, password, code: code.as_deref() },
        device_id: device_id.as_deref(),
        device_name: device_name.as_deref(),
        tokens: TokenStyle::Signed,
    };
    let session = call.services.users.login(wish, call.address).await.map_err(not_let_in)?;
    Ok(Unkept(opened(session)))
}

async fn refresh(call: Call<Anybody, Nothing, Refreshing>) -> Answer<Unkept<OpenedSession>> {
    let session = call.services.users.refresh(&call.body.refresh_token, TokenStyle::Signed).await?;
    Ok(Unkept(opened(session)))
}

/// A whole user id, or a name as it is.
fn named(user: &str) -> String {
    match user.parse::<Address>() {
        Ok(address) => address.user_id().to_string(),
        Err(_) => user.to_owned(),
    }
}

pub(super) fn opened(session: NewSession) -> OpenedSession {
    let NewSession { user_id, device_id, access_token, refresh_token, expires_in } = session;
    OpenedSession {
        address: user_id.clone().into(),
        user_id,
        device_id,
        access_token,
        token_type: "Bearer",
        expires_in_ms: u64::try_from(expires_in.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
        refresh_token: refresh_token.unwrap_or_default(),
    }
}

/// Who is not let in has not shown who they are.
fn not_let_in(error: LoginError) -> Problem {
    let is_unproved = matches!(error, LoginError::WrongPassword | LoginError::CodeNeeded | LoginError::WrongCode);
    let problem = Problem::from(error);
    if is_unproved { problem.at(StatusCode::UNAUTHORIZED) } else { problem }
}

fn refused(refused: Refused, with_token: bool) -> Problem {
    let is_taken = matches!(&refused, Refused::Refusal(error) if error.code() == Some("name_taken"));
    let problem = Problem::refused(refused, || match with_token {
        true => Problem::new(StatusCode::FORBIDDEN, "registration_token_wrong", "the registration token is not valid"),
        false => {
            Problem::new(StatusCode::FORBIDDEN, "registration_token_needed", "`registration_token` is needed here")
        }
    });
    if is_taken { problem.at(StatusCode::CONFLICT) } else { problem }
}

#[cfg(test)]
mod tests;
