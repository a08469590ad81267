//! What an event's relations come to, told with the event itself.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#aggregations-of-child-events>

use std::{collections::HashMap, sync::Arc};

use model::{Position, TimelineEvent};
use ruma::{EventId, OwnedEventId, api::Direction, serde::Raw};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use store::{events::Relations, relations::RelationCount};

use crate::{Reader, RoomError, Rooms, live::SharedRoom, visibility::Sight};

/// How many references to an event are told with it.
const REFERENCES: usize = 100;
/// So many of the latest edits or answers are looked at to find one that counts.
const LATEST: usize = 20;

/// `m.relations` of each event that has any.
pub(crate) type Bundles = HashMap<OwnedEventId, Map<String, Value>>;

/// A thread, as its answers' senders make it.
struct Thread {
    root: Arc<TimelineEvent>,
    count: u64,
    is_participant: bool,
}

impl Rooms {
    /// What is told with these events of those that relate to them, as far as the reader sees those.
    pub(crate) async fn bundles(
        &self,
        room: &SharedRoom,
        events: &[Arc<TimelineEvent>],
        reader: Reader<'_>,
        sight: &mut Sight<'_>,
    ) -> Result<Bundles, RoomError> {
        let (mut bundles, threads) = self.own_bundles(room, events, reader, sight).await?;
        let mut latest = Vec::with_capacity(threads.len());
        for thread in threads {
            let found = self.related(room, sight, &thread.root, "m.thread", None, Direction::Backward, LATEST).await?;
            if let Some(event) = found.into_iter().next() {
                latest.push((thread, event));
            }
        }
        // What is told of a thread's latest event tells of no further thread.
        let events: Vec<_> = latest.iter().map(|(_, event)| event.clone()).collect();
        let (mut of_latest, _) = self.own_bundles(room, &events, reader, sight).await?;
        for (thread, event) in latest {
            let membership = sight.membership_at(&event).await?;
            let bundle = of_latest.remove(&event.pdu.event_id);
            let latest: Raw<Value> = self.render_with(room, &event, reader, membership, bundle).await?;
            let summary = json!({
                "latest_event": latest,
                "count": thread.count,
                "current_user_participated": thread.is_participant,
            });
            bundles.entry(thread.root.pdu.event_id.clone()).or_default().insert("m.thread".into(), summary);
        }
        Ok(bundles)
    }

    /// Edits and references; and which of the events are roots of threads.
    async fn own_bundles(
        &self,
        room: &SharedRoom,
        events: &[Arc<TimelineEvent>],
        reader: Reader<'_>,
        sight: &mut Sight<'_>,
    ) -> Result<(Bundles, Vec<Thread>), RoomError> {
        // Of state and of what was redacted nothing is told, and edits are told with what they edit.
        let parents: Vec<_> = events
            .iter()
            .filter(|event| event.pdu.state_key.is_none() && event.redacted_by.is_none() && !is_edit(event))
            .collect();
        let ids: Vec<OwnedEventId> = parents.iter().map(|event| event.pdu.event_id.clone()).collect();
        let upto = sight.end().unwrap_or(Position(i64::MAX));
        let counts = self.shared.store.events().relation_counts(room.nid, &ids, upto).await?;
        let (mut bundles, mut threads) = (Bundles::new(), Vec::new());
        for parent in parents {
            let Some(counts) = counts.get(&parent.pdu.event_id) else { continue };
            let counts: Vec<_> = counts.iter().filter(|count| !sight.ignores(&count.sender)).collect();
            let has = |rel_type: &str| counts.iter().any(|count| count.rel_type == rel_type);
            let is_edited = |count: &&RelationCount| count.rel_type == "m.replace" && count.sender == parent.pdu.sender;
            let mut bundle = Map::new();
            if counts.iter().copied().any(|count| is_edited(&count))
                && let Some(edit) = self.latest_edit(room, sight, parent).await?
            {
                let membership = sight.membership_at(&edit).await?;
                let edit: Raw<Value> = self.render_with(room, &edit, reader, membership, None).await?;
                bundle.insert("m.replace".into(), json!(edit));
            }
            if has("m.reference") {
                let found =
                    self.related(room, sight, parent, "m.reference", None, Direction::Forward, REFERENCES).await?;
                let chunk: Vec<Value> = found.iter().map(|event| json!({ "event_id": event.pdu.event_id })).collect();
                bundle.insert("m.reference".into(), json!({ "chunk": chunk }));
            }
            if has("m.thread") {
                let answers = counts.iter().filter(|count| count.rel_type == "m.thread");
                threads.push(Thread {
                    root: parent.clone(),
                    count: answers.clone().map(|count| count.count).sum(),
                    is_participant: parent.pdu.sender == reader.user_id
                        || answers.clone().any(|count| count.sender == reader.user_id),
                });
            }
            if !bundle.is_empty() {
                bundles.insert(parent.pdu.event_id.clone(), bundle);
            }
        }
        Ok((bundles, threads))
    }

    /// The edit that holds: of those by the event's own sender and of its type, the most recent.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events>
    async fn latest_edit(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        edited: &TimelineEvent,
    ) -> Result<Option<Arc<TimelineEvent>>, RoomError> {
        let kind = edited.pdu.kind.to_string();
        let edits = self.related(room, sight, edited, "m.replace", Some(&kind), Direction::Backward, LATEST).await?;
        let is_valid = |edit: &Arc<TimelineEvent>| {
            edit.pdu.sender == edited.pdu.sender
                && edit.pdu.state_key.is_none()
                && (kind == "m.room.encrypted" || has_new_content(edit))
        };
        let moment = |edit: &Arc<TimelineEvent>| (edit.pdu.origin_server_ts, edit.pdu.event_id.clone());
        Ok(edits.into_iter().filter(is_valid).max_by_key(moment))
    }

    #[allow(clippy::too_many_arguments, reason = "what narrows the relations is as many things")]
    async fn related(
        &self,
        room: &SharedRoom,
        sight: &mut Sight<'_>,
        parent: &TimelineEvent,
        rel_type: &str,
        kind: Option<&str>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let parent: &EventId = &parent.pdu.event_id;
        let end = sight.end();
        let (from, to) = match direction {
            Direction::Backward => (end.unwrap_or(Position(i64::MAX)), None),
            Direction::Forward => (Position(i64::MIN), end),
        };
        let (rel_type, room) = (Some(rel_type), room.nid);
        let wanted = Relations { room, parent, rel_type, kind, from, to, limit, direction, recurse: false };
        let events = self.shared.store.events().relations(wanted).await?;
        sight.filter(events).await
    }
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(rename = "m.relates_to")]
    relates_to: Option<RelatesTo>,
    #[serde(rename = "m.new_content", borrow)]
    new_content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RelatesTo {
    rel_type: Option<String>,
}

fn is_edit(event: &TimelineEvent) -> bool {
    let relates_to = event.pdu.content_as::<Content<'_>>().and_then(|content| content.relates_to);
    relates_to.is_some_and(|relates_to| relates_to.rel_type.as_deref() == Some("m.replace"))
}

fn has_new_content(event: &TimelineEvent) -> bool {
    event.pdu.content_as::<Content<'_>>().is_some_and(|content| content.new_content.is_some())
}
