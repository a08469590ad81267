//! What happened in the rooms that other servers share with this one.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-events>

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids},
    },
};

use super::membership::{event, events};
use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(one_event),
        endpoint(state),
        endpoint(state_ids),
        endpoint(auth_chain),
        endpoint(backfill),
        endpoint(missing_events),
        endpoint(nearest),
    ]
}

async fn one_event(ask: Ask<get_event::v1::Request>) -> Answer<get_event::v1::Response> {
    let found = ask.services.rooms.event_for(&ask.session.server, &ask.request.event_id).await?;
    let us = ask.services.rooms.server_name().to_owned();
    Ok(get_event::v1::Response::new(us, MilliSecondsSinceUnixEpoch::now(), event(&found.pdu)?))
}

async fn state(ask: Ask<get_room_state::v1::Request>) -> Answer<get_room_state::v1::Response> {
    let get_room_state::v1::Request { room_id, event_id, .. } = &ask.request;
    let (state, chain) = ask.services.rooms.state_for(&ask.session.server, room_id, event_id).await?;
    Ok(get_room_state::v1::Response::new(events(&chain)?, events(&state)?))
}

async fn state_ids(ask: Ask<get_room_state_ids::v1::Request>) -> Answer<get_room_state_ids::v1::Response> {
    let get_room_state_ids::v1::Request { room_id, event_id, .. } = &ask.request;
    let (state, chain) = ask.services.rooms.state_for(&ask.session.server, room_id, event_id).await?;
    let ids = |events: &[std::sync::Arc<model::TimelineEvent>]| {
        events.iter().map(|event| event.pdu.event_id.clone()).collect::<Vec<_>>()
    };
    Ok(get_room_state_ids::v1::Response::new(ids(&chain), ids(&state)))
}

async fn auth_chain(ask: Ask<get_event_authorization::v1::Request>) -> Answer<get_event_authorization::v1::Response> {
    let get_event_authorization::v1::Request { room_id, event_id, .. } = &ask.request;
    let chain = ask.services.rooms.auth_chain_for(&ask.session.server, room_id, event_id).await?;
    Ok(get_event_authorization::v1::Response::new(events(&chain)?))
}

async fn backfill(ask: Ask<get_backfill::v1::Request>) -> Answer<get_backfill::v1::Response> {
    let get_backfill::v1::Request { room_id, v, limit, .. } = &ask.request;
    let found = ask.services.rooms.history_for(&ask.session.server, room_id, v, count(*limit)).await?;
    let us = ask.services.rooms.server_name().to_owned();
    Ok(get_backfill::v1::Response::new(us, MilliSecondsSinceUnixEpoch::now(), events(&found)?))
}

async fn missing_events(ask: Ask<get_missing_events::v1::Request>) -> Answer<get_missing_events::v1::Response> {
    let get_missing_events::v1::Request { room_id, limit, earliest_events, latest_events, .. } = &ask.request;
    let rooms = &ask.services.rooms;
    let found = rooms.gap_for(&ask.session.server, room_id, earliest_events, latest_events, count(*limit)).await?;
    Ok(get_missing_events::v1::Response::new(events(&found)?))
}

async fn nearest(ask: Ask<get_event_by_timestamp::v1::Request>) -> Answer<get_event_by_timestamp::v1::Response> {
    let get_event_by_timestamp::v1::Request { room_id, ts, dir, .. } = &ask.request;
    let found = ask.services.rooms.nearest_for(&ask.session.server, room_id, ts.get().into(), *dir).await?;
    let at = found.pdu.origin_server_ts;
    Ok(get_event_by_timestamp::v1::Response::new(found.pdu.event_id.clone(), at))
}

fn count(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX)
}
