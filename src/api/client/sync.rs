//! `/sync`.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ruma::api::client::sync::sync_events;
use sync::SyncRequest;

use crate::{Answer, Ask, Route, json_endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![json_endpoint(sync)]
}

async fn sync(ask: Ask<sync_events::v3::Request>) -> Answer<String> {
    let request = SyncRequest {
        user_id: ask.session.user_id.clone(),
        device_id: ask.session.device_id.to_string(),
        since: ask.request.since,
        filter: ask.request.filter,
        full_state: ask.request.full_state,
        timeout: ask.request.timeout.unwrap_or(Duration::ZERO),
        set_presence: ask.request.set_presence,
        use_state_after: ask.request.use_state_after,
    };
    let answer = ask.services.sync.sync(request).await?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(answer.render(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)))
}
