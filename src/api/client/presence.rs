//! Who is there.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#presence>

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ruma::{
    api::client::presence::{get_presence, set_presence},
    presence::PresenceState,
};
use sync::SyncError;

use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(get), endpoint(set)]
}

async fn get(ask: Ask<get_presence::v3::Request>) -> Answer<get_presence::v3::Response> {
    let presence = match ask.services.sync.presence_for(&ask.session.user_id, &ask.request.user_id).await {
        // Who may know of a user of this server, of whom nothing was heard yet.
        Err(SyncError::NotFound(_)) if ask.request.user_id.server_name() == ask.services.rooms.server_name() => {
            return Ok(get_presence::v3::Response::new(PresenceState::Offline));
        }
        presence => presence?,
    };
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
    let mut response = get_presence::v3::Response::new(presence.state.clone());
    response.currently_active = Some(presence.is_active(now));
    response.last_active_ago = Some(Duration::from_millis(u64::try_from(now - presence.last_active_at).unwrap_or(0)));
    response.status_msg = presence.status_msg;
    Ok(response)
}

async fn set(ask: Ask<set_presence::v3::Request>) -> Answer<set_presence::v3::Response> {
    let request = ask.request;
    super::check_is_self(&ask.session, &request.user_id)?;
    ask.services.sync.set_presence(&request.user_id, request.presence, request.status_msg).await?;
    Ok(set_presence::v3::Response::new())
}
