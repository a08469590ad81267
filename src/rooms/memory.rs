//! Events in memory.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use model::{EventNid, TimelineEvent};
use quick_cache::sync::Cache;
use ruma::{EventId, OwnedEventId};

use crate::Rooms;

/// Events that were looked up, and state events on their way to the store.
///
/// What the store has of an event may change: a redaction takes its content, and an event known from outside joins the
/// timeline. Whoever changes one forgets it here when that is durable; whoever looks one up keeps it only if nothing was
/// changed meanwhile.
pub(crate) struct Memory {
    events: Cache<EventNid, Arc<TimelineEvent>>,
    /// The numbers of events that were looked up by id.
    nids: Cache<OwnedEventId, EventNid>,
    /// Not in the store yet, and needed to authorise what follows.
    in_flight: Mutex<HashMap<EventNid, Arc<TimelineEvent>>>,
    /// How often something was forgotten.
    changes: AtomicU64,
}

/// When the store was asked.
#[derive(Clone, Copy)]
pub(crate) struct Moment(u64);

impl Memory {
    /// `capacity`: in events.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            events: Cache::new(capacity),
            nids: Cache::new(capacity),
            in_flight: Mutex::default(),
            changes: AtomicU64::default(),
        }
    }

    /// The event numbered `nid`, if it is in memory.
    pub(crate) fn get(&self, nid: EventNid) -> Option<Arc<TimelineEvent>> {
        self.events.get(&nid).or_else(|| self.flying().get(&nid).cloned())
    }

    /// The event called `event_id`, if it was looked up by that name and is in memory.
    pub(crate) fn find(&self, event_id: &EventId) -> Option<Arc<TimelineEvent>> {
        self.get(self.nids.get(event_id)?)
    }

    /// The state events whose commit is still under way.
    pub(crate) fn in_flight(&self) -> Vec<Arc<TimelineEvent>> {
        self.flying().values().cloned().collect()
    }

    /// To be taken before the store is asked.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.changes.load(Ordering::SeqCst))
    }

    /// Keeps what the store answered to who asked at `asked`.
    pub(crate) fn keep(&self, event: &Arc<TimelineEvent>, asked: Moment) {
        self.events.insert(event.nid, event.clone());
        self.nids.insert(event.pdu.event_id.clone(), event.nid);
        // Looked at afterwards: who changes counts first and forgets then, so one of both takes away what is old.
        if self.changes.load(Ordering::SeqCst) != asked.0 {
            self.events.remove(&event.nid);
        }
    }

    /// Forgets events of which the store has something else by now.
    pub(crate) fn forget(&self, changed: impl IntoIterator<Item = EventNid>) {
        let mut changed = changed.into_iter().peekable();
        if changed.peek().is_none() {
            return;
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
        for nid in changed {
            self.events.remove(&nid);
        }
    }

    /// Forgets all that is in the store.
    pub(crate) fn forget_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.events.clear();
    }

    fn flying(&self) -> MutexGuard<'_, HashMap<EventNid, Arc<TimelineEvent>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An append on its way to the store: others may build on its state events already. When it is dropped, the store decides
/// what is known of them, and of the events that the append changes.
pub(crate) struct Flight {
    rooms: Rooms,
    state: Vec<EventNid>,
    changed: Vec<EventNid>,
}

impl Flight {
    /// `events`: what the append brings. `changed`: events of the store that won't be what they were.
    pub(crate) fn begin<'e>(
        rooms: &Rooms,
        events: impl Iterator<Item = &'e Arc<TimelineEvent>>,
        changed: Vec<EventNid>,
    ) -> Self {
        let state: Vec<_> = events.filter(|event| event.pdu.state_key.is_some()).collect();
        if !state.is_empty() {
            let mut in_flight = rooms.shared.memory.flying();
            in_flight.extend(state.iter().map(|event| (event.nid, (*event).clone())));
        }
        Self { rooms: rooms.clone(), state: state.into_iter().map(|event| event.nid).collect(), changed }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let memory = &self.rooms.shared.memory;
        memory.forget(std::mem::take(&mut self.changed));
        if !self.state.is_empty() {
            let mut in_flight = memory.flying();
            for nid in &self.state {
                in_flight.remove(nid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{EventNid, Pdu, Position, RoomNid, TimelineEvent};
    use ruma::event_id;
    use serde_json::json;

    use super::Memory;

    fn event(soft_failed: bool) -> Arc<TimelineEvent> {
        let json = json!({
            "type": "m.room.message", "sender": "@alice:a.test", "room_id": "!room:a.test", "content": {},
            "prev_events": [], "auth_events": [], "depth": 1, "origin_server_ts": 1, "hashes": {}, "signatures": {},
        });
        let json = serde_json::value::to_raw_value(&json).expect("this is JSON").to_string();
        let pdu = Pdu::from_stored(event_id!("$one").to_owned(), json.into(), false).expect("this is an event");
        Arc::new(TimelineEvent {
            nid: EventNid(1),
            room_nid: RoomNid(1),
            position: Position(0),
            seq: None,
            state_before: None,
            room_state: None,
            pdu: Arc::new(pdu),
            transaction_id: None,
            redacted_by: None,
            soft_failed,
            withheld_below: None,
        })
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let memory = Memory::new(10);
        let asked = memory.moment();
        memory.keep(&event(false), asked);
        assert!(memory.find(event_id!("$one")).is_some());

        memory.forget([EventNid(1)]);
        assert!(memory.get(EventNid(1)).is_none());
        memory.keep(&event(false), asked);
        assert!(memory.get(EventNid(1)).is_none(), "the old one came back");

        memory.keep(&event(true), memory.moment());
        assert!(memory.find(event_id!("$one")).is_some_and(|event| event.soft_failed));
    }
}
