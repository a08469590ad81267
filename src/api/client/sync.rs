//! What is new.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{body::Body, response::Response};
use http::{HeaderValue, header};
use ruma::api::client::sync::sync_events::v3::Request;
use sync::SyncRequest;

use crate::{Ask, Error, Route, rendering_endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![rendering_endpoint(sync)]
}

async fn sync(ask: Ask<Request>) -> Result<Response, Error> {
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let body = answer.render(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
