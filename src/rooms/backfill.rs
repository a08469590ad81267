//! Fetching history from before this server came into a room.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::collections::HashMap;

use model::{EventNid, SnapshotNid, StateMap};
use ruma::{OwnedEventId, OwnedServerName, UInt, api::federation::backfill::get_backfill};
use store::{Arg, Write, events, state};
use tracing::debug;

use crate::{
    RoomError, Rooms, Verdict,
    extension::{LONGEST_CHAIN, relation, same},
    judge::{Judge, Judged},
    live::{SharedRoom, StoredState},
    missing::in_order,
    outliers::objects,
    receive::Checked,
};

/// How many events are asked for at once.
const PAGE: u32 = 100;
/// From how many places history is asked for at once.
const PLACES: usize = 20;
/// How many servers are asked, one after the other.
const SERVERS: usize = 4;

impl Rooms {
    /// Fetches the next page of history before the room's timeline. Answers whether there is more of it now.
    pub(crate) async fn backfill(&self, room: &SharedRoom) -> bool {
        match self.try_backfill(room).await {
            Ok(is_more) => is_more,
            Err(error) => {
                debug!(room.id = %room.room_id, error = &error as &dyn std::error::Error, "could not fetch history");
                false
            }
        }
    }

    async fn try_backfill(&self, room: &SharedRoom) -> Result<bool, RoomError> {
        if self.shared.store.events().backward_extremities(room.nid, 1).await?.is_empty() {
            return Ok(false);
        }
        let _permit = room.inbox.acquire().await.map_err(|_| RoomError::Busy)?;
        let missing = self.shared.store.events().backward_extremities(room.nid, PLACES).await?;
        if missing.is_empty() {
            // Somebody else has just fetched it.
            return Ok(true);
        }
        for server in self.servers_with_history(room).await? {
            let request = get_backfill::v1::Request::new(room.room_id.clone(), missing.clone(), UInt::from(PAGE));
            let answer = match self.shared.peers.ask_large(&server, request).await {
                Ok(answer) => answer,
                Err(error) => {
                    debug!(room.id = %room.room_id, server.name = %server, error = &error as &dyn std::error::Error, "{server} told no history");
                    continue;
                }
            };
            let mut found = objects(&answer.pdus);
            found.truncate(2 * PAGE as usize);
            let checked = self.check_fetched(room, found).await;
            if self.take_history(room, &server, checked).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The room's servers, those with the most members first: they are the likeliest to have all of it.
    pub(crate) async fn servers_with_history(&self, room: &SharedRoom) -> Result<Vec<OwnedServerName>, RoomError> {
        let view = self.view(room).await?;
        let mut servers: Vec<_> = view.servers.iter().filter(|(server, _)| **server != *self.server_name()).collect();
        servers.sort_by_key(|(_, members)| std::cmp::Reverse(**members));
        let mut servers: Vec<OwnedServerName> = servers.into_iter().map(|(server, _)| server.clone()).collect();
        if let Some(first) = room.room_id.server_name()
            && let Some(at) = servers.iter().position(|server| server == first)
        {
            servers.swap(0, at);
        }
        servers.truncate(SERVERS);
        Ok(servers)
    }

    /// Judges history and puts it before the timeline. Answers whether anything came of it.
    async fn take_history(
        &self,
        room: &SharedRoom,
        server: &OwnedServerName,
        checked: Vec<Checked>,
    ) -> Result<bool, RoomError> {
        let events: HashMap<OwnedEventId, Checked> =
            checked.into_iter().map(|checked| (checked.pdu.event_id.clone(), checked)).collect();
        if events.is_empty() {
            return Ok(false);
        }
        self.complete_auth(room, server, &events).await?;
        // Where the page begins, what the other server says held then; from there on, it follows.
        for event_id in self.beginnings(&events).await? {
            if let Err(error) = self.fetch_state(room, server, &event_id).await {
                debug!(room.id = %room.room_id, event.id = %event_id, error = &error as &dyn std::error::Error, "could not fetch the state of history");
            }
        }
        let ids: Vec<OwnedEventId> = events.keys().cloned().collect();
        let mut events = events;
        self.note_stored(&mut events).await?;
        let ordered = in_order(events);
        let mut judge = Judge::new(self, room, &ids).await?;
        for checked in ordered {
            // What can't be judged, for want of what it follows, waits for another page.
            let _ = judge.add_history(checked.pdu, checked.known).await;
        }
        if judge.judged.is_empty() {
            return Ok(false);
        }
        self.write_history(room, &judge.judged).await
    }

    /// The events of a page whose predecessors are neither in it nor known.
    async fn beginnings(&self, events: &HashMap<OwnedEventId, Checked>) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut beginnings = Vec::new();
        for checked in events.values() {
            let mut is_known = true;
            for prev in checked.pdu.prev_events.iter().filter(|prev| !events.contains_key(*prev)) {
                is_known &= self.state_after(prev).await?.is_some();
            }
            if !is_known {
                beginnings.push(checked.pdu.event_id.clone());
            }
        }
        beginnings.truncate(PLACES);
        Ok(beginnings)
    }

    async fn write_history(&self, room: &SharedRoom, judged: &[Judged]) -> Result<bool, RoomError> {
        let mut write = Write::new();
        let mut stored: Vec<StoredState> = Vec::new();
        let mut is_more = false;
        // The latest first: what came earlier is born later, and lies further back.
        self.shared.store.ensure_nids(2 * judged.len() as i64).await?;
        let mut rows = Vec::with_capacity(judged.len());
        for judged in judged {
            rows.push((judged, self.history_state(&mut write, room, &mut stored, judged)));
        }
        for (judged, before) in rows.into_iter().rev() {
            let event = judged.event(before, false);
            let position = match judged.verdict {
                Verdict::Accepted => {
                    is_more = true;
                    Arg::BackfilledPosition(write.position())
                }
                _ => Arg::NoInt,
            };
            match judged.known {
                true => events::settle(&mut write, &event, position.clone()),
                false => events::insert(&mut write, &event, position.clone()),
            }
            if let Some((parent, rel_type)) = relation(&event.pdu) {
                events::insert_relation(&mut write, &event, &parent, &rel_type, position);
            }
            events::remove_backward_extremity(&mut write, room.nid, &event.pdu.event_id);
        }
        let in_page: Vec<&OwnedEventId> = judged.iter().map(|judged| &judged.pdu.event_id).collect();
        for missing in judged.iter().flat_map(|judged| &judged.missing).filter(|id| !in_page.contains(id)) {
            events::insert_backward_extremity(&mut write, room.nid, missing);
        }
        self.shared.store.commit(write).await?;
        self.shared.memory.forget(judged.iter().map(|judged| judged.nid));
        self.apply_late_redactions(room, judged).await?;
        Ok(is_more)
    }

    /// The number of the state before an event of history.
    fn history_state(
        &self,
        write: &mut Write,
        room: &SharedRoom,
        stored: &mut Vec<StoredState>,
        judged: &Judged,
    ) -> Option<SnapshotNid> {
        if let Some(known) = &judged.stored {
            return Some(known.snapshot);
        }
        if let Some(known) = stored.iter().rev().find(|known| same(&known.state, &judged.before)) {
            return Some(known.snapshot);
        }
        let snapshot = SnapshotNid(self.shared.store.next_nid());
        let parent = judged.parent.as_ref().or(stored.last()).filter(|parent| parent.chain < LONGEST_CHAIN);
        let changed = parent.and_then(|parent| additions(&parent.state, &judged.before));
        let chain = match (parent, changed) {
            (Some(parent), Some(changed)) => {
                state::insert_snapshot(write, snapshot, room.nid, Some(parent.snapshot), parent.chain + 1, changed);
                parent.chain + 1
            }
            _ => {
                state::insert_snapshot(write, snapshot, room.nid, None, 0, judged.before.values().copied());
                0
            }
        };
        stored.push(StoredState { snapshot, chain, state: judged.before.clone() });
        Some(snapshot)
    }

    /// Takes the content from history that was redacted before it came.
    async fn apply_late_redactions(&self, room: &SharedRoom, judged: &[Judged]) -> Result<(), RoomError> {
        for judged in judged {
            for redaction in &judged.redactions {
                let remains = crate::extension::redacted(&judged.pdu, &room.rules)?;
                let mut write = Write::new();
                events::redact(&mut write, judged.nid, remains.json.clone(), &redaction.pdu.event_id);
                self.shared.store.commit(write).await?;
                self.shared.memory.forget([judged.nid]);
            }
        }
        Ok(())
    }
}

/// What holds otherwise in `now` than in `then`; `None`: something holds no more.
fn additions(then: &StateMap, now: &StateMap) -> Option<Vec<EventNid>> {
    use imbl::ordmap::DiffItem;
    then.diff(now)
        .map(|item| match item {
            DiffItem::Add(_, nid) | DiffItem::Update { new: (_, nid), .. } => Some(*nid),
            DiffItem::Remove(..) => None,
        })
        .collect()
}
