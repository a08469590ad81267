//! The states that rooms were in, as far as memory allows.

use std::sync::Arc;

use model::{SnapshotNid, StateMap};
use quick_cache::{Weighter, sync::Cache};
use store::Store;

use crate::Shown;

pub(crate) struct States {
    store: Store,
    cache: Cache<SnapshotNid, StateMap, Entries>,
}

#[derive(Clone)]
struct Entries;

impl Weighter<SnapshotNid, StateMap> for Entries {
    fn weight(&self, _: &SnapshotNid, state: &StateMap) -> u64 {
        state.len() as u64 + 4
    }
}

impl States {
    pub(crate) fn new(store: Store, entries: u64) -> Self {
        Self { store, cache: Cache::with_weighter(1_000, entries, Entries) }
    }

    /// The whole of a snapshot. Snapshots never change.
    pub(crate) async fn at(&self, snapshot: SnapshotNid) -> Result<StateMap, store::Error> {
        if let Some(state) = self.cache.get(&snapshot) {
            return Ok(state);
        }
        let state = match self.near_one(snapshot).await? {
            Some(state) => state,
            None => self.store.state().at(snapshot).await?,
        };
        self.cache.insert(snapshot, state.clone());
        Ok(state)
    }

    /// A snapshot that differs little from one in memory: the usual case in a room where people come and go.
    async fn near_one(&self, snapshot: SnapshotNid) -> Result<Option<StateMap>, store::Error> {
        const STEPS: usize = 4;

        let mut changes = Vec::new();
        let mut at = snapshot;
        for _ in 0..STEPS {
            let Some((parent, entries)) = self.store.sync().state_change(at).await? else { return Ok(None) };
            changes.push(entries);
            if let Some(mut state) = self.cache.get(&parent) {
                state.extend(changes.into_iter().rev().flatten());
                return Ok(Some(state));
            }
            at = parent;
        }
        Ok(None)
    }

    /// The state before an event.
    pub(crate) async fn before(&self, event: &Arc<Shown>) -> Result<StateMap, store::Error> {
        match event.event.state_before {
            Some(snapshot) => self.at(snapshot).await,
            None => Ok(StateMap::new()),
        }
    }

    /// The room's state right after an event came.
    pub(crate) async fn after(&self, event: &Arc<Shown>) -> Result<StateMap, store::Error> {
        if let Some(snapshot) = event.event.room_state {
            return self.at(snapshot).await;
        }
        let mut state = self.before(event).await?;
        if !event.event.soft_failed
            && let Some(key) = event.event.pdu.state()
        {
            state.insert(key, event.event.nid);
        }
        Ok(state)
    }
}
