//! Who one is, another password, and the end of an account.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-management>

use ruma::api::client::account::{ThirdPartyIdRemovalStatus, change_password, deactivate, get_3pids, whoami};
use serde_json::json;
use tracing::warn;
use users::TokenError;

use crate::{Answer, Ask, Error, Route, Session, endpoint, json_endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(whoami),
        endpoint(change_password).for_users(&[]),
        endpoint(deactivate).for_users(&[]),
        json_endpoint(third_party_ids),
    ]
}

async fn whoami(ask: Ask<whoami::v3::Request>) -> Answer<whoami::v3::Response> {
    let mut response = whoami::v3::Response::new(ask.session.user_id.clone(), false);
    response.device_id = Some(ask.session.device_id.clone());
    Ok(response)
}

/// Without a session the specification wants a proof by e-mail, which this server does not know.
fn needed(session: Option<Session>) -> Result<Session, Error> {
    session.ok_or_else(|| TokenError::Missing.into())
}

async fn change_password(ask: Ask<change_password::v3::Request>) -> Answer<change_password::v3::Response> {
    let session = needed(ask.session)?;
    let request = ask.request;
    ask.services
        .users
        .change_password(&session, &request.new_password, request.logout_devices, request.auth.as_ref())
        .await
        .map_err(Error::refused)?;
    Ok(change_password::v3::Response::new())
}

async fn deactivate(ask: Ask<deactivate::v3::Request>) -> Answer<deactivate::v3::Response> {
    let session = needed(ask.session)?;
    let request = ask.request;
    ask.services.users.deactivate_own(&session, request.erase, request.auth.as_ref()).await.map_err(Error::refused)?;
    // The account is closed whatever becomes of this.
    if let Err(error) = ask.services.rooms.leave_all(&session.user_id).await {
        warn!(user.id = %session.user_id, error = &error as &dyn std::error::Error, "failed to leave the rooms of a closed account");
    }
    Ok(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

/// By hand: ruma leaves an empty list out, and clients expect one.
async fn third_party_ids(ask: Ask<get_3pids::v3::Request>) -> Answer<String> {
    let emails = ask.services.users.own_emails(&ask.session).await?;
    let shown = |(address, proved_at): (String, i64)| json!({ "medium": "email", "address": address, "validated_at": proved_at, "added_at": proved_at });
    let all: Vec<_> = emails.into_iter().map(shown).collect();
    Ok(json!({ "threepids": all }).to_string())
}
