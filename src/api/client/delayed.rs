//! Events that are sent later, unless the client says otherwise until then: MatrixRTC clients leave calls by them.
//!
//! Spec: <https://github.com/matrix-org/matrix-spec-proposals/pull/4140>, as it was merged, and as clients speak it that are older.

use std::time::Duration;

use http::{StatusCode, Uri};
use rooms::{Delayed, DelayedAct, LONGEST_DELAY, Transaction, Wish};
use ruma::{
    MilliSecondsSinceUnixEpoch, RoomId, UInt,
    api::{
        client::delayed_events::{
            DelayedEventData, get_all_delayed_events, get_delayed_event, send_delayed_event,
            update_delayed_event::{UpdateAction, unstable_v1, unstable_v2},
        },
        error::{ErrorKind, StandardErrorBody},
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{Answer, Ask, Error, Route, Services, Session, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(send).also_at("/_matrix/client/v3/rooms/{room_id}/delayed_event/{event_type}/{txn_id}"),
        endpoint(all).also_at("/_matrix/client/v1/delayed_events"),
        endpoint(one).also_at("/_matrix/client/v1/delayed_events/{delay_id}"),
        endpoint(update),
        endpoint(update_by_path).also_at("/_matrix/client/v1/delayed_events/{delay_id}/{action}"),
    ]
}

/// How long an event is to wait that is sent by the usual endpoints, as clients ask that don't know the one for it.
pub(super) fn delay_of(uri: &Uri) -> Result<Option<Duration>, Error> {
    let query = uri.query().unwrap_or_default();
    let delay = query.split('&').find_map(|part| part.strip_prefix("org.matrix.msc4140.delay="));
    let Some(delay) = delay else { return Ok(None) };
    let delay = delay.parse().map_err(|_| Error::invalid_param("org.matrix.msc4140.delay: must be a whole number"))?;
    Ok(Some(Duration::from_millis(delay)))
}

/// Has `wish` sent after `delay`. `txn_id`: what the client calls the request, if it does.
pub(super) async fn delay(
    services: &Services,
    session: &Session,
    room_id: &RoomId,
    wish: Wish,
    txn_id: Option<&str>,
    delay: Duration,
) -> Result<String, Error> {
    if delay > LONGEST_DELAY {
        let most = u64::try_from(LONGEST_DELAY.as_millis()).unwrap_or(u64::MAX);
        let error =
            Error::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", format!("delay: no more than {most} milliseconds"));
        return Err(error
            .with("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED")
            .with("org.matrix.msc4140.max_delay", most));
    }
    services.limits.check_send(&session.user_id).await?;
    let room = services.rooms.get(room_id).await?;
    let transaction = Transaction {
        user_id: session.user_id.clone(),
        device_id: session.device_id.clone(),
        scope: String::new(),
        transaction_id: txn_id.unwrap_or_default().to_owned(),
    };
    let wish = Wish { transaction: Some(transaction), ..wish };
    Ok(services.rooms.delay(&room, wish, txn_id.is_some(), delay).await?)
}

async fn send(ask: Ask<send_delayed_event::unstable::Request>) -> Answer<send_delayed_event::unstable::Response> {
    let request = ask.request;
    let wish = Wish {
        sender: ask.session.user_id.clone(),
        kind: request.event_type.to_string().into(),
        content: request.content.into_json(),
        state_key: request.state_key,
        redacts: None,
        transaction: None,
    };
    let name = Some(request.txn_id.as_str());
    let id = delay(&ask.services, &ask.session, &request.room_id, wish, name, request.delay).await?;
    Ok(send_delayed_event::unstable::Response::new(id))
}

async fn all(
    ask: Ask<get_all_delayed_events::unstable::Request>,
) -> Answer<get_all_delayed_events::unstable::Response> {
    let delayed = ask.services.rooms.delayed_of(&ask.session.user_id).await?;
    let delayed = delayed.iter().map(data_of).collect::<Result<_, _>>()?;
    Ok(get_all_delayed_events::unstable::Response::new(delayed))
}

async fn one(ask: Ask<get_delayed_event::unstable::Request>) -> Answer<get_delayed_event::unstable::Response> {
    let delayed = ask.services.rooms.delayed(&ask.request.delay_id).await?;
    super::check_is_self(&ask.session, &delayed.row().sender)?;
    Ok(get_delayed_event::unstable::Response::new(data_of(&delayed)?))
}

async fn update(ask: Ask<unstable_v1::Request>) -> Answer<unstable_v1::Response> {
    let delayed = ask.services.rooms.delayed(&ask.request.delay_id).await?;
    super::check_is_self(&ask.session, &delayed.row().sender)?;
    ask.services.rooms.dispose_of_delayed(&ask.request.delay_id, act_of(&ask.request.action)?).await?;
    Ok(unstable_v1::Response::new())
}

/// Without a token: who was given the name may be another program, such as the one that sees who is connected to a call.
async fn update_by_path(ask: Ask<unstable_v2::Request>) -> Answer<unstable_v2::Response> {
    ask.services.rooms.dispose_of_delayed(&ask.request.delay_id, act_of(&ask.request.action)?).await?;
    Ok(unstable_v2::Response::new())
}

fn act_of(action: &UpdateAction) -> Result<DelayedAct, Error> {
    match action {
        UpdateAction::Restart => Ok(DelayedAct::Restart),
        UpdateAction::Send => Ok(DelayedAct::Send),
        UpdateAction::Cancel => Ok(DelayedAct::Cancel),
        _ => Err(Error::invalid_param("action: is none of restart, send, cancel")),
    }
}

fn data_of(delayed: &Delayed) -> Result<DelayedEventData, Error> {
    let row = delayed.row();
    let moment = |at: i64| MilliSecondsSinceUnixEpoch(UInt::try_from(at).unwrap_or_default());
    let corrupt = |error: serde_json::Error| store::Error::Corrupt(format!("delayed_events.content: {error}"));
    let content = Raw::from_json(RawValue::from_string(row.content.clone()).map_err(corrupt)?);
    let mut data = DelayedEventData::new(
        row.id.clone(),
        row.room_id.clone(),
        row.kind.as_str().into(),
        row.state_key.clone(),
        content,
        Duration::from_millis(row.delay.unsigned_abs()),
        moment(row.running_since),
    );
    data.event_id = row.event_id.as_deref().and_then(|id| id.try_into().ok());
    data.finalized_ts = row.finalised_at.map(moment);
    let failure = row.failure.clone().filter(|_| row.finalised_at.is_some() && row.event_id.is_none());
    data.error = failure.map(|failure| StandardErrorBody::new(ErrorKind::Unknown, failure));
    Ok(data)
}
