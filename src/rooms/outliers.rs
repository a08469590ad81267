//! Events that a room knows of and that aren't in its timeline: what allowed others, what held elsewhere.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use model::{EventNid, Pdu, Position, RoomNid, SnapshotNid, TimelineEvent};
use ruma::{CanonicalJsonObject, OwnedEventId, room_version_rules::RoomVersionRules};
use serde_json::value::RawValue;
use store::{Arg, Write, events};

use crate::{RoomError, Rooms, auth, live::SharedRoom};

/// Events by id, each allowed by those that it names.
pub(crate) type Authorised = HashMap<OwnedEventId, (EventNid, Arc<Pdu>)>;

impl Rooms {
    /// Adds events to `write` outside the timeline, those that are in the store already excepted. Answers all of them that
    /// have a place to stand: with everything that they name as what allows them, among these or in the store.
    pub(crate) async fn add_outliers(
        &self,
        write: &mut Write,
        room: RoomNid,
        rules: &RoomVersionRules,
        pdus: Vec<Pdu>,
    ) -> Result<Authorised, RoomError> {
        let mut ids: HashSet<OwnedEventId> = pdus.iter().map(|pdu| pdu.event_id.clone()).collect();
        for pdu in &pdus {
            ids.extend(pdu.auth_events.iter().cloned());
            ids.extend(auth::create_event_id(&pdu.room_id, rules));
        }
        let ids: Vec<OwnedEventId> = ids.into_iter().collect();
        let mut known = Authorised::new();
        for event in self.events_by_id(&ids).await? {
            if event.room_nid == room {
                known.insert(event.pdu.event_id.clone(), (event.nid, event.pdu.clone()));
            }
        }
        let rules = rules.clone();
        let in_store: HashMap<_, _> = known.iter().map(|(id, (_, pdu))| (id.clone(), pdu.clone())).collect();
        let judging = tokio::task::spawn_blocking(move || authorise_in_order(pdus, in_store, &rules));
        let fresh = judging.await.map_err(|_| RoomError::Busy)?;

        let shared = &self.shared;
        let mut named = known;
        for pdus in fresh.chunks(1_000) {
            shared.store.ensure_nids(pdus.len() as i64).await?;
            for pdu in pdus {
                let nid = EventNid(shared.store.next_nid());
                events::insert(write, &outlier(nid, room, pdu.clone(), None), Arg::NoInt);
                named.insert(pdu.event_id.clone(), (nid, pdu.clone()));
            }
        }
        Ok(named)
    }

    /// As [`Self::add_outliers`], in a write of its own.
    pub(crate) async fn store_outliers(&self, room: &SharedRoom, pdus: Vec<Pdu>) -> Result<Authorised, RoomError> {
        const ATTEMPTS: usize = 4;
        for _ in 0..ATTEMPTS {
            let mut write = Write::new();
            let named = self.add_outliers(&mut write, room.nid, &room.rules, pdus.clone()).await?;
            if write.is_empty() {
                return Ok(named);
            }
            match self.shared.store.commit(write).await {
                Ok(_) => return Ok(named),
                // Somebody else stored some of them meanwhile.
                Err(store::Error::Duplicate) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RoomError::Busy)
    }
}

pub(crate) fn outlier(
    nid: EventNid,
    room_nid: RoomNid,
    pdu: Arc<Pdu>,
    state_before: Option<SnapshotNid>,
) -> TimelineEvent {
    TimelineEvent {
        nid,
        room_nid,
        position: Position(0),
        seq: None,
        state_before,
        room_state: None,
        pdu,
        transaction_id: None,
        redacted_by: None,
        soft_failed: false,
        withheld_below: None,
    }
}

/// Of `pdus`, those that aren't `known` and whose authority is complete, each after what it names; those that the rules
/// forbid are marked as rejected.
fn authorise_in_order(
    pdus: Vec<Pdu>,
    known: HashMap<OwnedEventId, Arc<Pdu>>,
    rules: &RoomVersionRules,
) -> Vec<Arc<Pdu>> {
    let mut all = known;
    let mut fresh: HashMap<OwnedEventId, Pdu> = HashMap::new();
    for pdu in pdus {
        if !all.contains_key(&pdu.event_id) {
            fresh.insert(pdu.event_id.clone(), pdu);
        }
    }
    // Who waits for whom: an event is looked at when the last of those that it names has been.
    let mut waits: HashMap<OwnedEventId, usize> = HashMap::new();
    let mut followers: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    for pdu in fresh.values() {
        let named: HashSet<_> = names(pdu, rules).into_iter().filter(|id| fresh.contains_key(id)).collect();
        waits.insert(pdu.event_id.clone(), named.len());
        for id in named {
            followers.entry(id).or_default().push(pdu.event_id.clone());
        }
    }
    let mut ready: VecDeque<OwnedEventId> =
        waits.iter().filter(|(_, count)| **count == 0).map(|(id, _)| id.clone()).collect();
    let mut ordered = Vec::with_capacity(fresh.len());
    while let Some(event_id) = ready.pop_front() {
        for follower in followers.remove(&event_id).unwrap_or_default() {
            if let Some(count) = waits.get_mut(&follower) {
                *count -= 1;
                if *count == 0 {
                    ready.push_back(follower);
                }
            }
        }
        let Some(mut pdu) = fresh.remove(&event_id) else { continue };
        if names(&pdu, rules).iter().any(|id| !all.contains_key(id)) {
            continue;
        }
        pdu.rejected = auth::check_by_auth_events(&pdu, rules, |id| all.get(id).cloned()).is_err();
        let pdu = Arc::new(pdu);
        all.insert(event_id, pdu.clone());
        ordered.push(pdu);
    }
    ordered
}

/// What decides over an event by name.
fn names(pdu: &Pdu, rules: &RoomVersionRules) -> Vec<OwnedEventId> {
    let create = auth::create_event_id(&pdu.room_id, rules).filter(|id| *id != pdu.event_id);
    pdu.auth_events.iter().cloned().chain(create).collect()
}

/// Reads the events of an answer; what isn't a JSON object that could be canonical is left out.
pub(crate) fn objects(events: &[Box<RawValue>]) -> Vec<CanonicalJsonObject> {
    events.iter().filter_map(|event| serde_json::from_str(event.get()).ok()).collect()
}
