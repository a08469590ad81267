//! What clients need to call each other.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#voice-over-ip>,
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4143>

use ruma::api::client::{
    rtc::{RtcTransport, transports},
    voip::get_turn_server_info,
};
use serde_json::json;

use crate::{Answer, Ask, Route, Services, endpoint, json_endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![json_endpoint(turn_server), endpoint(rtc_transports).also_at("/_matrix/client/v1/rtc/transports")]
}

/// An empty object where there is no relay, as clients expect it.
async fn turn_server(ask: Ask<get_turn_server_info::v3::Request>) -> Answer<String> {
    let Some(told) = ask.services.users.turn_credentials(&ask.session.user_id) else { return Ok("{}".into()) };
    let answer = json!({
        "username": told.username,
        "password": told.password,
        "uris": told.uris,
        "ttl": told.lifetime.as_secs(),
    });
    Ok(answer.to_string())
}

async fn rtc_transports(ask: Ask<transports::v1::Request>) -> Answer<transports::v1::Response> {
    Ok(transports::v1::Response::new(transports_of(&ask.services)))
}

/// Where calls of many meet.
pub(super) fn transports_of(services: &Services) -> Vec<RtcTransport> {
    let url = services.users.config().calls.livekit_url.clone();
    let transport = url.and_then(|url| {
        let data = serde_json::Map::from_iter([("livekit_service_url".to_owned(), url.into())]);
        RtcTransport::new("livekit", data).ok()
    });
    transport.into_iter().collect()
}
