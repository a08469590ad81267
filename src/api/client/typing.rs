//! Who types.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>

use axum::response::Response;
use http::Method;
use ruma::{RoomId, UserId};
use serde::Deserialize;

use crate::{
    Error, Needs, Route,
    endpoint::{PlainAsk, empty_answer, parse_json, plain_endpoint},
};

/// How long somebody types who doesn't say, milliseconds.
const USUAL_TIMEOUT: i64 = 30_000;

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    let path = "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}";
    vec![
        plain_endpoint(Method::PUT, path, Needs::User, set_typing)
            .also_at("/_matrix/client/r0/rooms/{room_id}/typing/{user_id}"),
    ]
}

#[derive(Deserialize)]
struct Body {
    typing: bool,
    timeout: Option<u32>,
}

/// Looks at the body itself: ruma's type demands a timeout, the specification doesn't.
async fn set_typing(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let [room_id, user_id] = ask.arguments.as_slice() else { return Err(Error::unrecognized()) };
    let room_id = RoomId::parse(room_id).map_err(|_| Error::invalid_param("the path names no room id"))?;
    let user_id = UserId::parse(user_id).map_err(|_| Error::invalid_param("the path names no user id"))?;
    super::check_is_self(&session, &user_id)?;
    let body: Body = parse_json(&ask.body)?;
    let room = ask.services.rooms.get(&room_id).await?;
    ask.services.rooms.check_joined(&room, &user_id).await?;
    let timeout = body.typing.then(|| body.timeout.map_or(USUAL_TIMEOUT, i64::from));
    ask.services.sync.set_typing(&room, &user_id, timeout).await?;
    Ok(empty_answer())
}
