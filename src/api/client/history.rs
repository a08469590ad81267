//! Reading rooms: events, pages of them, state and members.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#getting-events-for-a-room>

use std::{collections::BTreeMap, sync::Arc};

use model::{Position, TimelineEvent};
use rooms::{LiveRoom, PageRequest, Reader, Sight};
use ruma::{
    RoomId,
    api::client::{
        context::get_context,
        membership::{get_member_events, joined_members},
        message::get_message_events,
        room::{get_event_by_timestamp, get_room_event},
        state::{
            get_state_event_for_key::{self, v3::StateEventFormat},
            get_state_events,
        },
    },
    events::room::member::MembershipState,
    serde::Raw,
};

use serde_json::json;

use crate::{Answer, Ask, Error, Route, Services, Session, endpoint, json_endpoint};

/// What somebody can be to a room.
const MEMBERSHIPS: [MembershipState; 5] = [
    MembershipState::Join,
    MembershipState::Invite,
    MembershipState::Knock,
    MembershipState::Leave,
    MembershipState::Ban,
];

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(messages),
        endpoint(context),
        endpoint(event),
        endpoint(state),
        endpoint(state_event)
            .also_at("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
            .also_at("/_matrix/client/r0/rooms/{room_id}/state/{event_type}/")
            .also_at("/_matrix/client/v3/rooms/{room_id}/state/{event_type}")
            .also_at("/_matrix/client/v3/rooms/{room_id}/state/{event_type}/"),
        endpoint(members),
        json_endpoint(joined_members),
        endpoint(nearest),
    ]
}

/// A room and how far the asker sees into it. Who may not see the room learns nothing of it, not even whether it exists.
pub(super) async fn look<'a>(
    services: &'a Services,
    room_id: &RoomId,
    session: &Session,
) -> Result<(Arc<LiveRoom>, Sight<'a>), Error> {
    let Ok(room) = services.rooms.get(room_id).await else {
        return Err(Error::forbidden("you are not in this room"));
    };
    let sight = services.rooms.sight(&room, &session.user_id).await?;
    Ok((room, sight))
}

pub(super) fn reader(session: &Session) -> Reader<'_> {
    Reader { user_id: &session.user_id, device_id: &session.device_id }
}

/// `t17`, `s17` or `p17~3`: between two events of a timeline. Of a sync token, only the position counts here.
pub(super) fn position(field: &str, token: &str) -> Result<Position, Error> {
    let digits = token.strip_prefix(['t', 's', 'p']).map(|rest| rest.split('~').next().unwrap_or_default());
    let number = digits.and_then(|digits| digits.parse().ok());
    number
        .map(Position)
        .ok_or_else(|| Error::invalid_param(format!("{field}: `{token}` is not a token of this server")))
}

pub(super) fn token(position: Position) -> String {
    format!("t{position}")
}

async fn messages(ask: Ask<get_message_events::v3::Request>) -> Answer<get_message_events::v3::Response> {
    let request = ask.request;
    let (room, mut sight) = look(&ask.services, &request.room_id, &ask.session).await?;
    let rooms = &ask.services.rooms;
    let page_request = PageRequest {
        from: request.from.as_deref().map(|token| position("from", token)).transpose()?,
        to: request.to.as_deref().map(|token| position("to", token)).transpose()?,
        direction: request.dir,
        limit: usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX),
        filter: &request.filter,
    };
    let page = rooms.page(&room, &mut sight, page_request).await?;
    let mut response = get_message_events::v3::Response::new();
    response.start = request.from.unwrap_or_else(|| token(page.start));
    // Who has got something asks once more, as of other servers; so what was filtered out is no end either.
    response.end = (page.seen_upto != page.start).then(|| token(page.seen_upto));
    if !request.filter.lazy_load_options.is_disabled() {
        let members = rooms.members_of(&room, &page.events).await?;
        response.state = rooms.render_state(&members);
    }
    response.chunk = rooms.render_all(&room, &page.events, reader(&ask.session), &mut sight).await?;
    Ok(response)
}

async fn context(ask: Ask<get_context::v3::Request>) -> Answer<get_context::v3::Response> {
    let request = ask.request;
    let (room, mut sight) = look(&ask.services, &request.room_id, &ask.session).await?;
    let rooms = &ask.services.rooms;
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let context = rooms.context(&room, &mut sight, &request.event_id, limit, &request.filter).await?;
    let reader = reader(&ask.session);
    let last = context.after.events.last().unwrap_or(&context.event).position;
    let mut response = get_context::v3::Response::new();
    response.start = Some(token(context.before.end.unwrap_or(Position(context.event.position.0 - 1))));
    response.end = Some(token(last));
    response.event = Some(rooms.render(&room, &context.event, reader, &mut sight).await?);
    response.events_before = rooms.render_all(&room, &context.before.events, reader, &mut sight).await?;
    response.events_after = rooms.render_all(&room, &context.after.events, reader, &mut sight).await?;
    response.state = rooms.render_state(&context.state);
    Ok(response)
}

async fn event(ask: Ask<get_room_event::v3::Request>) -> Answer<get_room_event::v3::Response> {
    let hidden = || Error::not_found("there is no such event, or you may not see it");
    let (room, mut sight) = look(&ask.services, &ask.request.room_id, &ask.session).await.map_err(|_| hidden())?;
    let rooms = &ask.services.rooms;
    let event = rooms.find_event(&mut sight, &ask.request.event_id).await?;
    Ok(get_room_event::v3::Response::new(rooms.render(&room, &event, reader(&ask.session), &mut sight).await?))
}

async fn state(ask: Ask<get_state_events::v3::Request>) -> Answer<get_state_events::v3::Response> {
    let (_, sight) = look(&ask.services, &ask.request.room_id, &ask.session).await?;
    let rooms = &ask.services.rooms;
    let mut events = rooms.events(sight.state().await?.values().copied()).await?;
    events.retain(|event| sight.shows_state(event));
    Ok(get_state_events::v3::Response::new(rooms.render_state(&events)))
}

async fn state_event(ask: Ask<get_state_event_for_key::v3::Request>) -> Answer<get_state_event_for_key::v3::Response> {
    let (room, mut sight) = look(&ask.services, &ask.request.room_id, &ask.session).await?;
    let rooms = &ask.services.rooms;
    let key = (ask.request.event_type, ask.request.state_key);
    let nid = sight.state().await?.get(&key).copied();
    let nid = nid.ok_or_else(|| Error::not_found("the room has no such state"))?;
    let event = found(rooms.events([nid]).await?)?;
    if !sight.shows_state(&event) {
        return Err(Error::not_found("the room has no such state"));
    }
    let json = match ask.request.format {
        StateEventFormat::Event => {
            let raw: Raw<serde_json::Value> = rooms.render(&room, &event, reader(&ask.session), &mut sight).await?;
            raw.into_json()
        }
        _ => event.pdu.content.clone(),
    };
    Ok(get_state_event_for_key::v3::Response::new(json))
}

async fn members(ask: Ask<get_member_events::v3::Request>) -> Answer<get_member_events::v3::Response> {
    let request = ask.request;
    let (room, sight) = look(&ask.services, &request.room_id, &ask.session).await?;
    let rooms = &ask.services.rooms;
    for (field, wanted) in [("membership", &request.membership), ("not_membership", &request.not_membership)] {
        if wanted.as_ref().is_some_and(|wanted| !MEMBERSHIPS.contains(wanted)) {
            return Err(Error::invalid_param(format!("{field}: must be join, invite, knock, leave or ban")));
        }
    }
    let at = request.at.as_deref().map(|token| position("at", token)).transpose()?;
    let mut events = rooms.members(&room, &sight, at).await?;
    let is = |event: &Arc<TimelineEvent>, wanted: &MembershipState| {
        event.pdu.content_as::<serde_json::Value>().is_some_and(|content| content["membership"] == wanted.as_str())
    };
    events.retain(|event| {
        request.membership.as_ref().is_none_or(|wanted| is(event, wanted))
            && request.not_membership.as_ref().is_none_or(|unwanted| !is(event, unwanted))
    });
    Ok(get_member_events::v3::Response::new(rooms.render_state(&events)))
}

/// By hand: clients expect both fields of each member, and ruma leaves out what is unset.
async fn joined_members(ask: Ask<joined_members::v3::Request>) -> Answer<String> {
    let hidden = || Error::forbidden("you are not in this room");
    let room = ask.services.rooms.get(&ask.request.room_id).await.map_err(|_| hidden())?;
    let rows = ask.services.rooms.joined_members(&room, &ask.session.user_id).await?;
    let joined: BTreeMap<_, _> = rows
        .into_iter()
        .map(|row| (row.user_id, json!({ "display_name": row.display_name, "avatar_url": row.avatar_url })))
        .collect();
    Ok(json!({ "joined": joined }).to_string())
}

async fn nearest(ask: Ask<get_event_by_timestamp::v1::Request>) -> Answer<get_event_by_timestamp::v1::Response> {
    let (room, mut sight) = look(&ask.services, &ask.request.room_id, &ask.session).await?;
    let moment = i64::from(ask.request.ts.get());
    let event = ask.services.rooms.nearest(&room, &mut sight, moment, ask.request.dir).await?;
    Ok(get_event_by_timestamp::v1::Response::new(event.pdu.event_id.clone(), event.pdu.origin_server_ts))
}

fn found(events: Vec<Arc<TimelineEvent>>) -> Result<Arc<TimelineEvent>, Error> {
    events.into_iter().next().ok_or_else(|| Error::not_found("the room has no such state"))
}
