//! What happened in the rooms that other servers share with this one.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-events>

use std::sync::Arc;

use model::{EventNid, TimelineEvent};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids},
    },
};

use super::{
    Origin,
    membership::{event, events},
};
use crate::{Answer, Ask, Route, Services, endpoint};

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
    ask.services.ledger.fetched(&ask.session.server, &[found.nid]).await;
    let us = ask.services.rooms.server_name().to_owned();
    Ok(get_event::v1::Response::new(us, MilliSecondsSinceUnixEpoch::now(), event(&found.pdu)?))
}

async fn state(ask: Ask<get_room_state::v1::Request>) -> Answer<get_room_state::v1::Response> {
    let get_room_state::v1::Request { room_id, event_id, .. } = &ask.request;
    let (state, chain) = ask.services.rooms.state_for(&ask.session.server, room_id, event_id).await?;
    note_fetched(&ask.services, &ask.session, &state).await;
    Ok(get_room_state::v1::Response::new(events(&chain)?, events(&state)?))
}

async fn state_ids(ask: Ask<get_room_state_ids::v1::Request>) -> Answer<get_room_state_ids::v1::Response> {
    let get_room_state_ids::v1::Request { room_id, event_id, .. } = &ask.request;
    let (state, chain) = ask.services.rooms.state_for(&ask.session.server, room_id, event_id).await?;
    let ids = |events: &[Arc<TimelineEvent>]| events.iter().map(|event| event.pdu.event_id.clone()).collect::<Vec<_>>();
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
    note_fetched(&ask.services, &ask.session, &found).await;
    let us = ask.services.rooms.server_name().to_owned();
    Ok(get_backfill::v1::Response::new(us, MilliSecondsSinceUnixEpoch::now(), events(&found)?))
}

async fn missing_events(ask: Ask<get_missing_events::v1::Request>) -> Answer<get_missing_events::v1::Response> {
    let get_missing_events::v1::Request { room_id, limit, earliest_events, latest_events, .. } = &ask.request;
    let rooms = &ask.services.rooms;
    let found = rooms.gap_for(&ask.session.server, room_id, earliest_events, latest_events, count(*limit)).await?;
    note_fetched(&ask.services, &ask.session, &found).await;
    Ok(get_missing_events::v1::Response::new(events(&found)?))
}

async fn nearest(ask: Ask<get_event_by_timestamp::v1::Request>) -> Answer<get_event_by_timestamp::v1::Response> {
    let get_event_by_timestamp::v1::Request { room_id, ts, dir, .. } = &ask.request;
    let found = ask.services.rooms.nearest_for(&ask.session.server, room_id, ts.get().into(), *dir).await?;
    let at = found.pdu.origin_server_ts;
    Ok(get_event_by_timestamp::v1::Response::new(found.pdu.event_id.clone(), at))
}

/// The server that asks has these events from now on, whatever it was sent.
async fn note_fetched(services: &Services, origin: &Origin, events: &[Arc<TimelineEvent>]) {
    let nids: Vec<EventNid> = events.iter().map(|event| event.nid).collect();
    services.ledger.fetched(&origin.server, &nids).await;
}

fn count(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX)
}
