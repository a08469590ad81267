//! Another password: for who knows the one before, and for who can read the e-mail of the account.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use users::{CodePurpose, EmailProof};
use utoipa::{ToSchema, openapi::path::OperationBuilder};

use super::super::{
    Answer, Anybody, Call, Endpoint, Nothing, Reply,
    payload::{Schemas, described, json},
    post, put,
};
use crate::{Problem, Session};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        put("/api/v1/auth/password", "Sets another password.", change)
            .explained("Refused as `wrong_credentials` where `old_password` is another one."),
        post("/api/v1/auth/verification_codes", "Sends a code to an e-mail address.", send_code).explained(SEND_CODE),
        post("/api/v1/auth/password/reset", "Sets a forgotten password anew.", reset)
            .explained("By a code for `reset`. All sessions of the account end."),
    ]
}

const SEND_CODE: &str = "The answer is the same whether an account has the address or not. A code is good for five tries; another one can be \
    asked for a minute later, and replaces it.";

/// One password for another.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordChange {
    /// The one of now.
    #[serde(alias = "oldPassword")]
    old_password: String,
    /// The one from now on.
    #[serde(alias = "newPassword")]
    new_password: String,
    /// Whether the other sessions of the user end; left out: they do.
    #[serde(default = "yes", alias = "endOtherSessions")]
    end_other_sessions: bool,
}

fn yes() -> bool {
    true
}

/// Where to send a code.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CodeWish {
    /// The address.
    email: String,
    /// What it is for.
    purpose: Purpose,
}

/// What a code is for.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = CodePurpose)]
enum Purpose {
    /// To make an account.
    Register,
    /// To set a forgotten password anew.
    Reset,
}

/// A code is on its way, if there is somebody to get it.
#[derive(Serialize, ToSchema)]
pub(in crate::native) struct SentCode {
    /// How long it is good, milliseconds.
    expires_in_ms: u64,
}

/// 202.
pub(in crate::native) struct Accepted(SentCode);

impl Accepted {
    /// A code that is good for so long.
    pub(in crate::native) fn code(lifetime: Duration) -> Self {
        Self(SentCode { expires_in_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX) })
    }
}

impl Reply for Accepted {
    fn into_response(self) -> axum::response::Response {
        json(http::StatusCode::ACCEPTED, &self.0)
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        described::<SentCode>(operation, schemas, "202", "On its way.")
    }
}

/// What sets a forgotten password anew.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordReset {
    /// The address of the account.
    email: String,
    /// The code that was sent there.
    code: String,
    /// The password from now on.
    #[serde(alias = "newPassword")]
    new_password: String,
}

async fn change(call: Call<Session, Nothing, PasswordChange>) -> Answer<Nothing> {
    let PasswordChange { old_password, new_password, end_other_sessions } = &call.body;
    let users = &call.services.users;
    let changed = users.replace_password(&call.caller, old_password, new_password, *end_other_sessions).await;
    changed.map_err(|error| Problem::refused(error, || Problem::forbidden("the password is needed")))?;
    Ok(Nothing)
}

async fn send_code(call: Call<Anybody, Nothing, CodeWish>) -> Answer<Accepted> {
    let purpose = match call.body.purpose {
        Purpose::Register => CodePurpose::Register,
        Purpose::Reset => CodePurpose::Reset,
    };
    let lifetime = call.services.users.send_code(&call.body.email, purpose, call.address).await?;
    Ok(Accepted::code(lifetime))
}

async fn reset(call: Call<Anybody, Nothing, PasswordReset>) -> Answer<Nothing> {
    let PasswordReset { email, code, new_password } = &call.body;
    call.services.users.reset_password(EmailProof { email, code }, new_password, call.address).await?;
    Ok(Nothing)
}
