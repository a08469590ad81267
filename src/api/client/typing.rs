//! Who types.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>

use ruma::api::client::typing::create_typing_event::{self, v3::Typing};

use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(set_typing)]
}

async fn set_typing(ask: Ask<create_typing_event::v3::Request>) -> Answer<create_typing_event::v3::Response> {
    super::check_is_self(&ask.session, &ask.request.user_id)?;
    let room = ask.services.rooms.get(&ask.request.room_id).await?;
    ask.services.rooms.check_joined(&room, &ask.session.user_id).await?;
    let timeout = match ask.request.state {
        Typing::No => None,
        Typing::Yes(info) => Some(i64::try_from(info.timeout.as_millis()).unwrap_or(i64::MAX)),
    };
    ask.services.sync.set_typing(&room, &ask.session.user_id, timeout).await?;
    Ok(create_typing_event::v3::Response::new())
}
