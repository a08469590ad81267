//! Joining, leaving and inviting as the first version of this API has it, which older servers still ask for: what it
//! answers is a list of a status and the answer.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_joinroomideventid>

use rooms::Invitation;
use ruma::{
    RoomVersionId,
    api::federation::membership::{
        RawStrippedState, create_join_event::v2 as send_join, create_leave_event::v2 as send_leave,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::membership::{self, object};
use crate::{Answer, Ask, Error, Route, json_endpoint};

/// The endpoints of this file. Their requests are those of the later version, but for invitations, which are an event
/// in the body, too.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        json_endpoint(join).only_at("/_matrix/federation/v1/send_join/{room_id}/{event_id}"),
        json_endpoint(leave).only_at("/_matrix/federation/v1/send_leave/{room_id}/{event_id}"),
        json_endpoint(invite).only_at("/_matrix/federation/v1/invite/{room_id}/{event_id}"),
    ]
}

async fn join(ask: Ask<send_join::Request>) -> Answer<String> {
    listed(&membership::send_join(ask).await?.room_state)
}

async fn leave(ask: Ask<send_leave::Request>) -> Answer<String> {
    membership::send_leave(ask).await?;
    listed(&serde_json::json!({}))
}

async fn invite(ask: Ask<send_join::Request>) -> Answer<String> {
    #[derive(Default, Deserialize)]
    struct Beside {
        #[serde(default)]
        unsigned: Unsigned,
    }
    #[derive(Default, Deserialize)]
    struct Unsigned {
        #[serde(default)]
        invite_room_state: Vec<RawStrippedState>,
    }
    let send_join::Request { room_id, event_id, pdu, .. } = &ask.request;
    let event = object(pdu)?;
    let Beside { unsigned } = serde_json::from_str(pdu.get()).unwrap_or_default();
    let version = shown_version(&unsigned.invite_room_state);
    let shown = &unsigned.invite_room_state;
    let invitation = Invitation { room_id, event_id, version: &version, event: &event, shown };
    let event = membership::take_invitation(&ask.services, &ask.session.server, invitation).await?;
    listed(&serde_json::json!({ "event": event }))
}

/// The version of a room into which this form can invite: 1, unless the room's create event says that it is 2.
fn shown_version(shown: &[RawStrippedState]) -> RoomVersionId {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<RoomVersionId>,
    }
    let events = shown.iter().filter_map(json_of).filter_map(|json| serde_json::from_str::<Event<'_>>(json.get()).ok());
    let said = events.filter(|event| event.kind == "m.room.create").find_map(|event| event.content.room_version);
    said.filter(|version| *version == RoomVersionId::V2).unwrap_or(RoomVersionId::V1)
}

#[allow(deprecated, reason = "older servers still send stripped events")]
fn json_of(state: &RawStrippedState) -> Option<&RawValue> {
    match state {
        RawStrippedState::Stripped(event) => Some(event.json()),
        RawStrippedState::Pdu(event) => Some(event),
        _ => None,
    }
}

fn listed(answer: &impl Serialize) -> Answer<String> {
    serde_json::to_string(&(200, answer)).map_err(|error| Error::bad_json(error.to_string()))
}
