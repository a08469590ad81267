//! An event as clients read it.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-event-format>

use std::sync::Arc;

use model::TimelineEvent;
use ruma::{
    DeviceId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
    serde::Raw,
};
use serde_json::{Map, Value, value::RawValue, value::to_raw_value};

use crate::{RoomError, Rooms, live::SharedRoom, now, visibility::Sight};

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The user,
    pub user_id: &'a UserId,
    /// and the device, which is told its own transaction ids.
    pub device_id: &'a DeviceId,
}

#[derive(serde::Serialize)]
struct ClientEvent<'a> {
    event_id: &'a ruma::EventId,
    room_id: &'a ruma::RoomId,
    sender: &'a UserId,
    #[serde(rename = "type")]
    kind: &'a TimelineEventType,
    content: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    origin_server_ts: ruma::MilliSecondsSinceUnixEpoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a ruma::EventId>,
    unsigned: Map<String, Value>,
}

impl Rooms {
    /// Renders events for a reader, each with the reader's membership when it was made and with what relates to it.
    pub async fn render_all<T>(
        &self,
        room: &SharedRoom,
        events: &[Arc<TimelineEvent>],
        reader: Reader<'_>,
        sight: &mut Sight<'_>,
    ) -> Result<Vec<Raw<T>>, RoomError> {
        let mut bundles = self.bundles(room, events, reader, sight).await?;
        let mut rendered = Vec::with_capacity(events.len());
        for event in events {
            let membership = sight.membership_at(event).await?;
            let bundle = bundles.remove(&event.pdu.event_id);
            rendered.push(self.render_with(room, event, reader, membership, bundle).await?);
        }
        Ok(rendered)
    }

    /// As [`Self::render_all`], for one event.
    pub async fn render<T>(
        &self,
        room: &SharedRoom,
        event: &Arc<TimelineEvent>,
        reader: Reader<'_>,
        sight: &mut Sight<'_>,
    ) -> Result<Raw<T>, RoomError> {
        let mut rendered = self.render_all(room, std::slice::from_ref(event), reader, sight).await?;
        Ok(rendered.pop().expect("one event is rendered as one"))
    }

    /// Renders events of a state. What each of them replaced is not told: it would cost a state for each.
    pub fn render_state<T>(&self, events: &[Arc<TimelineEvent>]) -> Vec<Raw<T>> {
        events.iter().map(|event| render(event, age(event))).collect()
    }

    /// `bundle`: what relates to the event.
    pub(crate) async fn render_with<T>(
        &self,
        room: &SharedRoom,
        event: &TimelineEvent,
        reader: Reader<'_>,
        membership: Option<MembershipState>,
        bundle: Option<Map<String, Value>>,
    ) -> Result<Raw<T>, RoomError> {
        let mut unsigned = self.unsigned(room, event, reader).await?;
        let membership = membership.unwrap_or(MembershipState::Leave);
        unsigned.insert("membership".into(), membership.as_str().into());
        if let Some(bundle) = bundle {
            unsigned.insert("m.relations".into(), bundle.into());
        }
        Ok(render(event, unsigned))
    }

    async fn unsigned(
        &self,
        room: &SharedRoom,
        event: &TimelineEvent,
        reader: Reader<'_>,
    ) -> Result<Map<String, Value>, RoomError> {
        let mut unsigned = age(event);
        if let Some((device_id, transaction_id)) = &event.transaction_id
            && event.pdu.sender == reader.user_id
            && device_id == reader.device_id.as_str()
        {
            unsigned.insert("transaction_id".into(), transaction_id.as_str().into());
        }
        if let (Some(key), Some(snapshot)) = (event.pdu.state(), event.state_before)
            && let Some(nid) = self.state_at(snapshot).await?.get(&key)
        {
            let previous = self.event(*nid).await?;
            unsigned.insert("replaces_state".into(), previous.pdu.event_id.as_str().into());
            unsigned.insert("prev_content".into(), previous.pdu.content_as().unwrap_or(Value::Null));
            unsigned.insert("prev_sender".into(), previous.pdu.sender.as_str().into());
        }
        if let Some(redaction) = &event.redacted_by
            && let Some(redaction) = self.shared.store.events().find(redaction).await?
            && redaction.room_nid == room.nid
        {
            let because: Raw<Value> = render(&redaction, Map::new());
            // Not in the specification; clients have it from other servers.
            unsigned.insert("redacted_by".into(), redaction.pdu.event_id.as_str().into());
            unsigned.insert("redacted_because".into(), because.deserialize().unwrap_or(Value::Null));
        }
        Ok(unsigned)
    }
}

fn age(event: &TimelineEvent) -> Map<String, Value> {
    let age = now().saturating_sub(i64::from(event.pdu.origin_server_ts.get()));
    Map::from_iter([("age".to_owned(), age.into())])
}

fn render<T>(event: &TimelineEvent, unsigned: Map<String, Value>) -> Raw<T> {
    let pdu = &event.pdu;
    let json = to_raw_value(&ClientEvent {
        event_id: &pdu.event_id,
        room_id: &pdu.room_id,
        sender: &pdu.sender,
        kind: &pdu.kind,
        content: &pdu.content,
        state_key: pdu.state_key.as_deref(),
        origin_server_ts: pdu.origin_server_ts,
        redacts: pdu.redacts.as_deref().filter(|_| pdu.kind == TimelineEventType::RoomRedaction),
        unsigned,
    });
    Raw::from_json(json.expect("ids, numbers and JSON can be written as JSON"))
}
