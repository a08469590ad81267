//! What became of a message: whether the other domains of its room have it, and who has read it.

use federation::ledger::{Delivered, State};
use model::Millis;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Answer, Call, Endpoint, get};
use crate::{Problem, Services, Session};

/// No answer names more readers.
const MOST_READERS: usize = 100;

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let text = "\
        For an event that a user of this server sent. Only who may read the event may ask; everybody else, and who asks for an \
        event of another server's user, gets `not_found`. What became of events is told for as long as `federation.ledger_keep` \
        says.";
    vec![
        get("/api/v1/rooms/{room_id}/events/{event_id}/delivery", "What became of an event.", delivery).explained(text),
    ]
}

/// How far an event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// This server has it for good, and not every other server of the room has it yet, or not as far as is known.
    Sent,
    /// Every server of the room has it.
    Delivered,
    /// Every server of the room has it, and somebody has read it.
    Read,
}

/// What became of an event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventDelivery)]
pub(super) struct Delivery {
    /// The event.
    #[schema(value_type = String)]
    event_id: OwnedEventId,
    /// How far it has come.
    state: Stage,
    /// How it stands with each other server that was in the room when it was sent, by name.
    destinations: Vec<Destination>,
    /// Onto whose devices it has come, of people of other servers that tell so: user ids, a hundred at most.
    #[schema(value_type = Vec<String>)]
    on_devices_of: Vec<ruma::OwnedUserId>,
    /// Who has read the room as far as this event, or further, and lets others know it: user ids, a hundred at most.
    #[schema(value_type = Vec<String>)]
    read_by: Vec<ruma::OwnedUserId>,
}

/// How an event stands with another server. Times are milliseconds since 1970.
#[derive(Debug, Serialize, ToSchema)]
struct Destination {
    /// The server.
    server: String,
    /// `queued`: it will be sent, or sent again, until the server has acknowledged it. `accepted`: the server took it.
    /// `refused`: the server doesn't take it. `skipped`: the server was away for long, was told of later events, and has not
    /// asked for this one so far. `pulled`: the server fetched it itself.
    #[schema(value_type = String)]
    state: State,
    /// Since when the server is or was owed it.
    queued_at: Millis,
    /// Since when the server has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_at: Option<Millis>,
    /// Queued: why it could not be sent so far, as one word: `dns`, `connect`, `tls`, `timeout` and so on. Refused: what the
    /// server said.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Queued: since when the server can't be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<Millis>,
    /// Queued: when it is tried again, if the server doesn't show up before.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_try_at: Option<Millis>,
}

impl From<Delivered> for Destination {
    fn from(told: Delivered) -> Self {
        Self {
            accepted_at: told.answered_at.filter(|_| told.state.is_delivered()),
            server: told.server.into(),
            state: told.state,
            queued_at: told.queued_at,
            reason: told.reason,
            failing_since: told.failing_since,
            next_try_at: told.next_try_at,
        }
    }
}

async fn delivery(call: Call<Session>) -> Answer<Delivery> {
    let (room_id, event_id): (OwnedRoomId, OwnedEventId) = (call.argument("room_id")?, call.argument("event_id")?);
    delivery_of(&call.services, &call.caller, &room_id, &event_id).await
}

/// What became of an event that the caller sees.
pub(super) async fn delivery_of(
    services: &Services,
    session: &Session,
    room_id: &RoomId,
    event_id: &EventId,
) -> Answer<Delivery> {
    let hidden = || Problem::not_found("there is no such event, or you may not see it");
    let room = services.rooms.get(room_id).await.map_err(|_| hidden())?;
    let mut sight = services.rooms.sight(&room, &session.user_id).await.map_err(|_| hidden())?;
    let event = services.rooms.find_event(&mut sight, event_id).await?;
    if !services.users.is_ours(&event.pdu.sender) {
        let server = event.pdu.sender.server_name();
        return Err(Problem::not_found(format!("only {server}, where the event was sent, knows what became of it")));
    }
    let told = services.ledger.delivery_of(event_id).await?.ok_or_else(hidden)?;
    let mut read_by = services.sync.readers_of(&event, MOST_READERS).await?;
    read_by.retain(|reader| !sight.ignores(reader));
    let on_devices_of = services.ledger.on_devices(&event, MOST_READERS).await?;
    let state = match (told.is_delivered(), read_by.is_empty()) {
        (false, _) => Stage::Sent,
        (true, true) => Stage::Delivered,
        (true, false) => Stage::Read,
    };
    let destinations = told.destinations.into_iter().map(Destination::from).collect();
    Ok(Delivery { event_id: event_id.to_owned(), state, destinations, on_devices_of, read_by })
}
