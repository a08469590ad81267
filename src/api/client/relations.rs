//! Events that relate to another: edits, reactions, threads.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#relationships-between-events>

use rooms::{RECURSION_DEPTH, Related, RelationsRequest};
use ruma::{
    EventId, RoomId, UInt,
    api::{
        Direction,
        client::relations::{
            get_relating_events, get_relating_events_with_rel_type, get_relating_events_with_rel_type_and_event_type,
        },
        client::threads::get_threads::{self, v1::IncludeThreads},
    },
    serde::Raw,
};

use super::history::{look, position, reader, token};
use crate::{Answer, Ask, Error, Route, Services, Session, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(relations), endpoint(relations_of_type), endpoint(relations_of_type_and_kind), endpoint(threads)]
}

/// What the three have in common.
struct Question<'a> {
    room_id: &'a RoomId,
    event_id: &'a EventId,
    rel_type: Option<String>,
    kind: Option<String>,
    from: Option<&'a str>,
    to: Option<&'a str>,
    limit: Option<UInt>,
    direction: Direction,
    recurse: bool,
}

struct Found<T> {
    chunk: Vec<Raw<T>>,
    next: Option<String>,
}

async fn find<T>(services: &Services, session: &Session, question: Question<'_>) -> Result<Found<T>, Error> {
    let (room, mut sight) = look(services, question.room_id, session).await?;
    let request = RelationsRequest {
        parent: question.event_id,
        rel_type: question.rel_type.as_deref(),
        kind: question.kind.as_deref(),
        from: question.from.map(|token| position("from", token)).transpose()?,
        to: question.to.map(|token| position("to", token)).transpose()?,
        limit: question.limit.and_then(|limit| usize::try_from(u64::from(limit)).ok()).unwrap_or(50),
        direction: question.direction,
        recurse: question.recurse,
    };
    let Related { events, end } = services.rooms.relations(&room, &mut sight, request).await?;
    let chunk = services.rooms.render_all(&room, &events, reader(session), &mut sight).await?;
    Ok(Found { chunk, next: end.map(token) })
}

/// The three answers have one shape, and so have the questions but for what narrows them.
macro_rules! relations_endpoint {
    ($name:ident, $module:ident $(, $narrowed:ident by $field:ident)*) => {
        async fn $name(ask: Ask<$module::v1::Request>) -> Answer<$module::v1::Response> {
            let request = &ask.request;
            #[allow(unused_mut, reason = "nothing narrows the first")]
            let mut question = Question {
                room_id: &request.room_id,
                event_id: &request.event_id,
                rel_type: None,
                kind: None,
                from: request.from.as_deref(),
                to: request.to.as_deref(),
                limit: request.limit,
                direction: request.dir,
                recurse: request.recurse,
            };
            $(question.$narrowed = Some(request.$field.to_string());)*
            let found = find(&ask.services, &ask.session, question).await?;
            let mut response = $module::v1::Response::new(found.chunk);
            response.next_batch = found.next;
            response.prev_batch = request.from.clone();
            response.recursion_depth = request.recurse.then(|| RECURSION_DEPTH.into());
            Ok(response)
        }
    };
}

relations_endpoint!(relations, get_relating_events);
relations_endpoint!(relations_of_type, get_relating_events_with_rel_type, rel_type by rel_type);
relations_endpoint!(
    relations_of_type_and_kind,
    get_relating_events_with_rel_type_and_event_type,
    rel_type by rel_type,
    kind by event_type
);

async fn threads(ask: Ask<get_threads::v1::Request>) -> Answer<get_threads::v1::Response> {
    let request = ask.request;
    let (room, mut sight) = look(&ask.services, &request.room_id, &ask.session).await?;
    let from = request.from.as_deref().map(|token| position("from", token)).transpose()?;
    let participated = match request.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        other => return Err(Error::invalid_param(format!("include: {other} is neither all nor participated"))),
    };
    let limit = request.limit.and_then(|limit| usize::try_from(u64::from(limit)).ok()).unwrap_or(50);
    let rooms = &ask.services.rooms;
    let Related { events, end } = rooms.threads(&room, &mut sight, from, participated, limit).await?;
    let chunk = rooms.render_all(&room, &events, reader(&ask.session), &mut sight).await?;
    let mut response = get_threads::v1::Response::new(chunk);
    response.next_batch = end.map(token);
    Ok(response)
}
