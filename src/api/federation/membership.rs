//! Other servers' people joining, leaving, knocking, and being invited.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use model::{Pdu, TimelineEvent};
use rooms::{Invitation, Template};
use ruma::api::federation::thirdparty::exchange_invite;
use ruma::{
    CanonicalJsonObject, ServerName,
    api::federation::membership::{
        RawStrippedState, create_invite, create_join_event, create_knock_event, create_leave_event, prepare_join_event,
        prepare_knock_event, prepare_leave_event,
    },
    events::room::member::MembershipState,
};
use serde_json::value::{RawValue, to_raw_value};

use crate::{Answer, Ask, Error, Route, Services, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(make_join),
        endpoint(send_join),
        endpoint(make_leave),
        endpoint(send_leave),
        endpoint(make_knock),
        endpoint(send_knock),
        endpoint(invite),
        endpoint(exchange_invite),
    ]
}

async fn make_join(ask: Ask<prepare_join_event::v1::Request>) -> Answer<prepare_join_event::v1::Response> {
    let prepare_join_event::v1::Request { room_id, user_id, ver, .. } = ask.request;
    let (origin, join) = (&ask.session.server, MembershipState::Join);
    let template = ask.services.rooms.make_membership(origin, &room_id, &user_id, join, Some(&ver)).await;
    let Template { version, event } = template.map_err(incompatible)?;
    let mut answer = prepare_join_event::v1::Response::new(json(&event)?);
    answer.room_version = Some(version);
    Ok(answer)
}

pub(super) async fn send_join(ask: Ask<create_join_event::v2::Request>) -> Answer<create_join_event::v2::Response> {
    let create_join_event::v2::Request { room_id, event_id, pdu, .. } = ask.request;
    let entrance = ask.services.rooms.let_in(&ask.session.server, &room_id, &event_id, object(&pdu)?).await?;
    let mut answer = create_join_event::v2::RoomState::new();
    answer.state = events(&entrance.state)?;
    answer.auth_chain = events(&entrance.auth_chain)?;
    answer.event = Some(event(&entrance.event)?);
    Ok(create_join_event::v2::Response::new(answer))
}

async fn make_leave(ask: Ask<prepare_leave_event::v1::Request>) -> Answer<prepare_leave_event::v1::Response> {
    let prepare_leave_event::v1::Request { room_id, user_id, .. } = ask.request;
    let (origin, leave) = (&ask.session.server, MembershipState::Leave);
    let template = ask.services.rooms.make_membership(origin, &room_id, &user_id, leave, None).await?;
    Ok(prepare_leave_event::v1::Response::new(Some(template.version), json(&template.event)?))
}

pub(super) async fn send_leave(ask: Ask<create_leave_event::v2::Request>) -> Answer<create_leave_event::v2::Response> {
    let create_leave_event::v2::Request { room_id, event_id, pdu, .. } = ask.request;
    ask.services.rooms.let_go(&ask.session.server, &room_id, &event_id, object(&pdu)?).await?;
    Ok(create_leave_event::v2::Response::new())
}

async fn make_knock(ask: Ask<prepare_knock_event::v1::Request>) -> Answer<prepare_knock_event::v1::Response> {
    let prepare_knock_event::v1::Request { room_id, user_id, ver, .. } = ask.request;
    let (origin, knock) = (&ask.session.server, MembershipState::Knock);
    let template = ask.services.rooms.make_membership(origin, &room_id, &user_id, knock, Some(&ver)).await;
    let Template { version, event } = template.map_err(incompatible)?;
    Ok(prepare_knock_event::v1::Response::new(version, json(&event)?))
}

async fn send_knock(ask: Ask<create_knock_event::v1::Request>) -> Answer<create_knock_event::v1::Response> {
    let create_knock_event::v1::Request { room_id, event_id, pdu, .. } = ask.request;
    let shown = ask.services.rooms.let_knock(&ask.session.server, &room_id, &event_id, object(&pdu)?).await?;
    Ok(create_knock_event::v1::Response::new(shown.into_iter().map(RawStrippedState::Pdu).collect()))
}

async fn invite(ask: Ask<create_invite::v2::Request>) -> Answer<create_invite::v2::Response> {
    let request = &ask.request;
    let object = object(&request.event)?;
    let invitation = Invitation {
        room_id: &request.room_id,
        event_id: &request.event_id,
        version: &request.room_version,
        event: &object,
        shown: &request.invite_room_state,
    };
    let signed = take_invitation(&ask.services, &ask.session.server, invitation).await?;
    Ok(create_invite::v2::Response::new(json(&signed)?))
}

/// Answers the event with this server's signature, if the invited user is of this server.
pub(super) async fn take_invitation(
    services: &Services,
    origin: &ServerName,
    invitation: Invitation<'_>,
) -> Result<CanonicalJsonObject, Error> {
    let invited = invitation.event.get("state_key").and_then(|key| key.as_str()).and_then(|key| key.try_into().ok());
    if let Some(user_id) = invited
        && let Err(error) = services.users.get_account(user_id).await
    {
        return Err(error.into());
    }
    services.rooms.be_invited(origin, invitation).await.map_err(incompatible)
}

async fn exchange_invite(ask: Ask<exchange_invite::v1::Request>) -> Answer<exchange_invite::v1::Response> {
    let exchange_invite::v1::Request { room_id, sender, state_key, content, .. } = ask.request;
    let rooms = &ask.services.rooms;
    rooms.exchange_invite(&ask.session.server, &room_id, &sender, &state_key, content.into_json()).await?;
    Ok(exchange_invite::v1::Response::new())
}

/// A server that can't take part is told by which rules the room goes.
fn incompatible(error: rooms::RoomError) -> Error {
    let version = match &error {
        rooms::RoomError::IncompatibleVersion(version) | rooms::RoomError::UnsupportedVersion(version) => {
            Some(version.clone())
        }
        _ => None,
    };
    match version {
        Some(version) => Error::new(http::StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION", error.to_string())
            .with("room_version", version),
        None => error.into(),
    }
}

/// Reads an event of a body.
pub(super) fn object(event: &RawValue) -> Result<CanonicalJsonObject, Error> {
    serde_json::from_str(event.get()).map_err(|error| Error::bad_json(format!("the event is malformed: {error}")))
}

fn json(event: &CanonicalJsonObject) -> Result<Box<RawValue>, Error> {
    to_raw_value(event).map_err(|error| Error::bad_json(error.to_string()))
}

/// An event as other servers know it.
pub(super) fn event(pdu: &Pdu) -> Result<Box<RawValue>, Error> {
    match pdu.unsigned {
        Some(_) => json(&pdu.object()),
        None => RawValue::from_string(pdu.json.to_string()).map_err(|error| Error::bad_json(error.to_string())),
    }
}

pub(super) fn events<'a>(
    events: impl IntoIterator<Item = &'a std::sync::Arc<TimelineEvent>>,
) -> Result<Vec<Box<RawValue>>, Error> {
    events.into_iter().map(|timeline| event(&timeline.pdu)).collect()
}
