//! Who one is, another password, and the end of an account.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-management>

use rooms::{MembershipChange, Target};
use ruma::{
    UserId,
    api::client::account::{ThirdPartyIdRemovalStatus, change_password, deactivate, get_3pids, whoami},
};
use tracing::warn;
use users::TokenError;

use crate::{Answer, Ask, Error, Route, Services, Session, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(whoami), endpoint(change_password), endpoint(deactivate), endpoint(third_party_ids)]
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
    leave_all(&ask.services, &session.user_id).await;
    Ok(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

/// Who has no account any more is in no room. The account is closed whatever becomes of this.
async fn leave_all(services: &Services, user_id: &UserId) {
    let rooms = services.rooms.joined_rooms(user_id).await.unwrap_or_else(|error| {
        warn!(user.id = %user_id, error = &error as &dyn std::error::Error, "failed to list the rooms of {user_id}");
        Vec::new()
    });
    for room_id in rooms {
        let left = async {
            let room = services.rooms.get(&room_id).await?;
            let target =
                Target { sender: user_id.to_owned(), user_id: user_id.to_owned(), reason: None, is_direct: None };
            services.rooms.change_membership(&room, MembershipChange::Leave, target).await
        };
        if let Err(error) = left.await {
            let error = &error as &dyn std::error::Error;
            warn!(user.id = %user_id, room.id = %room_id, error, "failed to take {user_id} out of {room_id}");
        }
    }
}

/// This server keeps no e-mail addresses and no telephone numbers.
async fn third_party_ids(_: Ask<get_3pids::v3::Request>) -> Answer<get_3pids::v3::Response> {
    Ok(get_3pids::v3::Response::new(Vec::new()))
}
