//! One's e-mail address.

use serde::{Deserialize, Serialize};
use users::{CodePurpose, EmailProof};
use utoipa::ToSchema;

use crate::{
    Session,
    native::{Answer, Call, Endpoint, Nothing, auth::Accepted, post, put},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    const SET: &str = "\
        It takes the place of the one before, where that is told. Refused as `wrong_credentials`, `wrong_code`, or `email_taken` \
        where another account has it.";
    vec![
        post("/api/v1/users/me/email/code", "Sends a code to an address that one wants to have.", send_code).explained(
            "For `PUT /api/v1/users/me/email`. The answer is the same whether an account has the address or not. A code is good \
             for five tries; another one can be asked for a minute later, and replaces it.",
        ),
        put("/api/v1/users/me/email", "Sets one's e-mail address.", set).explained(SET),
        post("/api/v1/users/me/email/remove", "Takes one's e-mail address away.", remove)
            .explained("Who forgets the password needs an admin then. Refused as `email_needed` where accounts must have one."),
    ]
}

/// Where to send a code.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OwnEmailCodeWish)]
struct CodeWish {
    /// The address.
    email: String,
}

/// One's address, from now on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OwnEmailChange)]
struct Change {
    /// The address.
    email: String,
    /// The code that was sent there.
    code: String,
    /// The password of the account.
    password: String,
}

/// What shows who asks.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OwnEmailRemoval)]
struct Removal {
    /// The password of the account.
    password: String,
}

/// One's address.
#[derive(Serialize, ToSchema)]
struct OwnEmail {
    /// As it is kept: in small letters.
    email: String,
}

async fn send_code(call: Call<Session, Nothing, CodeWish>) -> Answer<Accepted> {
    let users = &call.services.users;
    Ok(Accepted::code(users.send_code(&call.body.email, CodePurpose::Change, call.address).await?))
}

async fn set(call: Call<Session, Nothing, Change>) -> Answer<OwnEmail> {
    let Change { email, code, password } = &call.body;
    let email = call.services.users.set_own_email(&call.caller, EmailProof { email, code }, password).await?;
    Ok(OwnEmail { email })
}

async fn remove(call: Call<Session, Nothing, Removal>) -> Answer<Nothing> {
    call.services.users.remove_own_email(&call.caller, &call.body.password).await?;
    Ok(Nothing)
}
