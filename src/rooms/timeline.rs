//! The one door by which events enter a room.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use metrics::counter;
use model::{Change, Draft, EventNid, Pdu, Place, Position, SnapshotNid, StateKey, TimelineEvent};
use ruma::{
    CanonicalJsonObject, EventId, OwnedDeviceId, OwnedUserId,
    canonical_json::redact,
    events::{StateEventType, TimelineEventType, room::member::RoomMemberEventContent},
    state_res,
};
use serde::Deserialize;
use store::{Pending, RoomVersion, Write, events, rooms::RoomRow, state};

use crate::{
    RoomError, Rooms,
    live::{Head, SharedRoom},
    now,
};

/// After so many changes to a state, the next snapshot holds the whole of it.
const LONGEST_CHAIN: i64 = 50;
/// How often an append is tried again when somebody else was faster.
const ATTEMPTS: usize = 8;

/// What a client calls one of its requests, so that repeating it does nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// Who sends.
    pub user_id: OwnedUserId,
    /// From which device.
    pub device_id: OwnedDeviceId,
    /// Which endpoint, and which room.
    pub scope: String,
    /// As the client chose it.
    pub transaction_id: String,
}

impl Transaction {
    pub(crate) fn as_stored(&self) -> events::Transaction<'_> {
        events::Transaction {
            user_id: &self.user_id,
            device_id: self.device_id.as_str(),
            scope: &self.scope,
            transaction_id: &self.transaction_id,
        }
    }
}

/// What goes into the same write as the events.
pub(crate) type Also<'a> = dyn Fn(&mut Write) + Send + Sync + 'a;

impl Rooms {
    /// Appends `drafts` to the room in one write: all of them, or none. Answers when they are durable.
    ///
    /// `transaction`: the client's name for the last of them. Errors: `Forbidden` with the rule that forbids one of them.
    pub(crate) async fn append(
        &self,
        room: &SharedRoom,
        drafts: &[Draft],
        transaction: Option<&Transaction>,
        also: &Also<'_>,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        for _ in 0..ATTEMPTS {
            match self.append_once(room, drafts, transaction, also).await {
                Err(RoomError::Store(store::Error::Conflict)) => {
                    counter!("comity_room_conflicts_total").increment(1);
                    room.forget().await;
                }
                answer => return answer,
            }
        }
        Err(RoomError::Busy)
    }

    async fn append_once(
        &self,
        room: &SharedRoom,
        drafts: &[Draft],
        transaction: Option<&Transaction>,
        also: &Also<'_>,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let shared = &self.shared;
        shared.store.ensure_nids(2 * drafts.len() as i64).await?;
        let slot = shared.store.reserve().await?;

        // The room's turn. What is waited for while it is held are reads of this room's own state, when it isn't in
        // memory; the commit is not.
        let mut turn = room.turn.lock().await;
        let head = match &*turn {
            Some(head) => head.clone(),
            None => Head::load(&shared.store, &room.room_id).await?,
        };
        let mut sealing =
            Sealing { rooms: self, room, head, fresh: HashMap::new(), write: Write::new(), events: Vec::new() };
        for (at, draft) in drafts.iter().enumerate() {
            let transaction = transaction.filter(|_| at + 1 == drafts.len());
            sealing.add(draft.clone(), transaction).await?;
        }
        let Sealing { mut head, mut write, events, .. } = sealing;
        if let (Some(transaction), Some(last)) = (transaction, events.last()) {
            events::insert_transaction(&mut write, &transaction.as_stored(), last.pdu.event_id.as_str(), now());
        }
        also(&mut write);
        let Some(last) = events.last() else { return Ok(events) };
        let version = RoomVersion { count: head.version.count + 1, head: last.nid };
        write.room_step(room.nid, head.version, version);
        head.version = version;
        store::rooms::put_room(
            &mut write,
            &RoomRow {
                nid: room.nid,
                room_id: room.room_id.clone(),
                room_version: room.version.clone(),
                version: head.version,
                extremities: head.extremities.clone(),
                snapshot: head.snapshot,
            },
        );
        let flight = Flight::begin(self, &events);
        let pending = slot.enqueue(write);
        let view = head.view();
        *turn = Some(head);
        drop(turn);

        // A task of its own, so that a client that goes away leaves nothing half known.
        let landing = tokio::spawn(land(room.clone(), pending, view, flight));
        landing.await.map_err(|_| RoomError::Busy)??;
        Ok(events)
    }

    /// The event numbered `nid`, from memory or from the store.
    pub(crate) async fn event(&self, nid: EventNid) -> Result<Arc<TimelineEvent>, RoomError> {
        let shared = &self.shared;
        if let Some(event) = shared.events.get(&nid) {
            return Ok(event);
        }
        if let Some(event) = shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner).get(&nid) {
            return Ok(event.clone());
        }
        let event = shared.store.events().by_nids(&[nid]).await?.into_iter().next();
        let event = event.ok_or_else(|| store::Error::Corrupt(format!("event {nid} is missing")))?;
        shared.events.insert(nid, event.clone());
        Ok(event)
    }
}

/// Waits for the commit, then shows what it brought; or, if it failed, sees to it that nobody builds on it.
async fn land(room: SharedRoom, pending: Pending, view: crate::View, _flight: Flight) -> Result<(), RoomError> {
    match pending.committed().await {
        Ok(_) => {
            room.advance(view);
            Ok(())
        }
        Err(error) => {
            room.forget().await;
            Err(error.into())
        }
    }
}

/// State events on their way to the store: others may build on them already.
struct Flight {
    rooms: Rooms,
    nids: Vec<EventNid>,
}

impl Flight {
    fn begin(rooms: &Rooms, events: &[Arc<TimelineEvent>]) -> Self {
        let state: Vec<_> = events.iter().filter(|event| event.pdu.state_key.is_some()).collect();
        if !state.is_empty() {
            let mut in_flight = rooms.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            in_flight.extend(state.iter().map(|event| (event.nid, (*event).clone())));
        }
        Self { rooms: rooms.clone(), nids: state.into_iter().map(|event| event.nid).collect() }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.nids.is_empty() {
            let mut in_flight = self.rooms.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            for nid in &self.nids {
                in_flight.remove(nid);
            }
        }
    }
}

/// Drafts on their way to become events, one after the other.
struct Sealing<'a> {
    rooms: &'a Rooms,
    room: &'a SharedRoom,
    head: Head,
    /// The state events made so far.
    fresh: HashMap<EventNid, Arc<TimelineEvent>>,
    write: Write,
    events: Vec<Arc<TimelineEvent>>,
}

impl Sealing<'_> {
    async fn add(&mut self, draft: Draft, transaction: Option<&Transaction>) -> Result<(), RoomError> {
        let shared = &self.rooms.shared;
        let rules = &self.room.rules;
        let auth = self.auth_state(&draft).await?;
        let auth_types = auth_types(&draft, rules)?;
        let auth_events = auth_types.iter().filter_map(|key| auth.get(key)).map(|pdu| pdu.event_id.clone()).collect();
        let is_create = draft.kind == TimelineEventType::RoomCreate;
        let room_id = (!is_create || rules.event_format.require_room_create_room_id).then_some(&*self.room.room_id);
        let place = Place {
            room_id,
            prev_events: self.head.extremities.iter().map(|(event_id, _)| event_id.clone()).collect(),
            auth_events,
            depth: self.head.extremities.iter().map(|(_, depth)| *depth).max().unwrap_or(0) + 1,
        };
        let pdu = Arc::new(draft.seal(place, rules, &shared.key)?);
        authorise(&pdu, &auth, rules)?;

        let event = Arc::new(TimelineEvent {
            nid: EventNid(shared.store.next_nid()),
            room_nid: self.room.nid,
            position: Position(0),
            state_before: (self.head.version.count > 0 || !self.events.is_empty()).then_some(self.head.snapshot),
            pdu,
            transaction_id: transaction
                .map(|transaction| (transaction.device_id.to_string(), transaction.transaction_id.clone())),
            redacted_by: None,
            soft_failed: false,
        });
        self.write_event(&event).await?;
        self.head.extremities = vec![(event.pdu.event_id.clone(), event.pdu.depth)];
        self.events.push(event);
        Ok(())
    }

    async fn write_event(&mut self, event: &Arc<TimelineEvent>) -> Result<(), RoomError> {
        let offset = self.write.position();
        let position = store::Arg::Position(offset);
        events::insert(&mut self.write, event, position.clone());
        self.write.tell(offset, Change::Event(event.clone()));
        if let Some((parent, rel_type)) = relation(&event.pdu) {
            events::insert_relation(&mut self.write, event, &parent, &rel_type, position.clone());
        }
        if let Some(key) = event.pdu.state() {
            self.change_state(key, event, position);
        }
        if let Some(target) = event.pdu.redacts.clone().filter(|_| event.pdu.kind == TimelineEventType::RoomRedaction) {
            self.redact(event, &target).await?;
        }
        Ok(())
    }

    fn change_state(&mut self, key: StateKey, event: &Arc<TimelineEvent>, position: store::Arg) {
        let snapshot = SnapshotNid(self.rooms.shared.store.next_nid());
        let room = self.room.nid;
        self.head.state.insert(key.clone(), event.nid);
        let is_first = self.head.version.count == 0 && self.fresh.is_empty();
        if is_first || self.head.chain >= LONGEST_CHAIN {
            state::insert_snapshot(&mut self.write, snapshot, room, None, 0, self.head.state.values().copied());
            self.head.chain = 0;
        } else {
            self.head.chain += 1;
            let parent = Some(self.head.snapshot);
            state::insert_snapshot(&mut self.write, snapshot, room, parent, self.head.chain, [event.nid]);
        }
        self.head.snapshot = snapshot;
        state::put_current(&mut self.write, room, &key, event.nid);
        if let (StateEventType::RoomMember, Some(member)) = (&key.0, event.pdu.content_as::<RoomMemberEventContent>()) {
            store::rooms::put_membership(
                &mut self.write,
                room,
                &key.1,
                &member.membership,
                &event.pdu.sender,
                event.nid,
                position,
                member.displayname.as_deref(),
                member.avatar_url.as_ref().map(|url| url.as_str()),
            );
        }
        self.fresh.insert(event.nid, event.clone());
    }

    /// Takes the content from the redacted event, in the store and in every memory.
    async fn redact(&mut self, redaction: &TimelineEvent, target: &EventId) -> Result<(), RoomError> {
        let shared = &self.rooms.shared;
        let Some(original) = shared.store.events().find(target).await? else { return Ok(()) };
        if original.room_nid != self.room.nid {
            return Ok(());
        }
        let remains = redacted(&original.pdu, &self.room.rules)?;
        events::redact(&mut self.write, original.nid, remains.json.clone(), &redaction.pdu.event_id);
        let remains = Arc::new(TimelineEvent {
            pdu: Arc::new(remains),
            transaction_id: None,
            redacted_by: Some(redaction.pdu.event_id.clone()),
            ..(*original).clone()
        });
        let offset = self.write.position();
        self.write.tell(offset, Change::Redacted(remains.clone()));
        shared.events.remove(&original.nid);
        Ok(())
    }

    /// The state events that decide over `draft`, by what they are about.
    async fn auth_state(&self, draft: &Draft) -> Result<HashMap<StateKey, Arc<Pdu>>, RoomError> {
        let mut wanted = auth_types(draft, &self.room.rules)?;
        // Since room version 12 the create event is named by the room's id alone.
        wanted.push((StateEventType::RoomCreate, String::new()));
        let mut found = HashMap::with_capacity(wanted.len());
        for key in wanted {
            let Some(nid) = self.head.state.get(&key) else { continue };
            let event = match self.fresh.get(nid) {
                Some(event) => event.clone(),
                None => self.rooms.event(*nid).await?,
            };
            found.insert(key, event.pdu.clone());
        }
        Ok(found)
    }
}

fn auth_types(draft: &Draft, rules: &ruma::room_version_rules::RoomVersionRules) -> Result<Vec<StateKey>, RoomError> {
    state_res::auth_types_for_event(
        &draft.kind,
        &draft.sender,
        draft.state_key.as_deref(),
        &draft.content,
        &rules.authorization,
    )
    .map_err(RoomError::BadContent)
}

/// The authorisation rules of the room's version.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#authorization-rules>
fn authorise(
    pdu: &Pdu,
    auth: &HashMap<StateKey, Arc<Pdu>>,
    rules: &ruma::room_version_rules::RoomVersionRules,
) -> Result<(), RoomError> {
    let by_id = |event_id: &EventId| auth.values().find(|pdu| pdu.event_id == event_id).cloned();
    state_res::check_state_independent_auth_rules(&rules.authorization, pdu, by_id).map_err(RoomError::Forbidden)?;
    let by_key = |kind: &StateEventType, key: &str| auth.get(&(kind.clone(), key.to_owned())).cloned();
    state_res::check_state_dependent_auth_rules(&rules.authorization, pdu, by_key).map_err(RoomError::Forbidden)
}

/// What is left of an event when it is redacted.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#redactions>
fn redacted(pdu: &Pdu, rules: &ruma::room_version_rules::RoomVersionRules) -> Result<Pdu, RoomError> {
    let corrupt = |error: String| RoomError::Store(store::Error::Corrupt(error));
    let object: CanonicalJsonObject = serde_json::from_str(&pdu.json).map_err(|error| corrupt(error.to_string()))?;
    let remains = redact(object, &rules.redaction, None).map_err(|error| corrupt(error.to_string()))?;
    let json = serde_json::to_string(&remains).map_err(|error| corrupt(error.to_string()))?;
    Pdu::from_stored(pdu.event_id.clone(), json.into(), pdu.rejected).map_err(|error| corrupt(error.to_string()))
}

/// `(parent, rel_type)` of an event that relates to another.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events>
fn relation(pdu: &Pdu) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: RelatesTo,
    }
    #[derive(Deserialize)]
    struct RelatesTo {
        rel_type: String,
        event_id: String,
    }
    let content: Content = pdu.content_as()?;
    Some((content.relates_to.event_id, content.relates_to.rel_type))
}
