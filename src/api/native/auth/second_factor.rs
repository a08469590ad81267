//! A second factor for one's own account.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{Answer, Call, Endpoint, Nothing, Unkept, get, post};
use crate::Session;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/auth/second_factor", "Whether the caller has a second factor.", state),
        post("/api/v1/auth/second_factor", "Begins to give the caller a second factor.", enrol).explained(ENROL),
        post("/api/v1/auth/second_factor/confirm", "Shows that the app has the secret.", confirm)
            .explained("From then on logging in by a password needs a code, through the Matrix client API too."),
        post("/api/v1/auth/second_factor/disable", "Takes the caller's second factor away.", disable),
    ]
}

const ENROL: &str = "Answers what an app for such codes (TOTP) is to be told, which is said once. It counts once it is confirmed. Matrix clients \
    that know nothing of it log in by a token that another device makes, or by `org.comity.code` beside the password.";

/// Whether somebody has a second factor.
#[derive(Serialize, ToSchema)]
struct SecondFactorState {
    /// Logging in needs a code.
    enabled: bool,
    /// How many recovery codes are left.
    recovery_codes: i64,
}

/// Who wants one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EnrolmentWish {
    /// The password.
    password: String,
}

/// What an app is to be told.
#[derive(Serialize, ToSchema)]
struct EnrolmentSecret {
    /// In base32, to be typed.
    secret: String,
    /// `otpauth://totp/…`, to be shown as a QR code.
    uri: String,
}

/// What the app shows.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ShownCode {
    /// Six digits.
    code: String,
}

/// For who loses the app.
#[derive(Serialize, ToSchema)]
struct RecoveryCodes {
    /// Each is good once, instead of a code of the app.
    recovery_codes: Vec<String>,
}

/// Who wants none any more.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SecondFactorEnd {
    /// The password.
    password: String,
    /// A code of the app, or a recovery code.
    code: String,
}

async fn state(call: Call<Session>) -> Answer<SecondFactorState> {
    let state = call.services.users.second_factor(&call.caller.user_id).await?;
    Ok(SecondFactorState { enabled: state.is_on, recovery_codes: state.recovery_codes })
}

async fn enrol(call: Call<Session, Nothing, EnrolmentWish>) -> Answer<Unkept<EnrolmentSecret>> {
    let enrolment = call.services.users.enrol(&call.caller, &call.body.password).await?;
    Ok(Unkept(EnrolmentSecret { secret: enrolment.secret, uri: enrolment.uri }))
}

async fn confirm(call: Call<Session, Nothing, ShownCode>) -> Answer<Unkept<RecoveryCodes>> {
    let recovery_codes = call.services.users.confirm_second_factor(&call.caller, &call.body.code).await?;
    Ok(Unkept(RecoveryCodes { recovery_codes }))
}

async fn disable(call: Call<Session, Nothing, SecondFactorEnd>) -> Answer<Nothing> {
    let SecondFactorEnd { password, code } = &call.body;
    call.services.users.remove_second_factor(&call.caller, password, code).await?;
    Ok(Nothing)
}
