//! Presence of several nodes: who is seen by any of them is there.
//!
//! Each node tells the cache every few seconds whom it sees, under `presence:{USER}` with when the user was last active; that goes by
//! itself when nobody tells it any more. So who leaves one node stays there while another one sees them, and whoever was seen by a
//! node that died is found: by the one node whose duty that is, and given some time. While the cache is away nobody is declared gone
//! by others; a node whose user leaves says so, and who still sees the user says the opposite when it hears that.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fabric::{Cache, cache::Key};
use futures_util::{StreamExt as _, stream};
use model::Millis;
use ruma::{OwnedUserId, UserId, presence::PresenceState};
use store::presence::PresenceRow;

use super::{Here, SILENT_AFTER};
use crate::{Sync, SyncError, now};

/// How often other nodes are told who is seen here, in milliseconds.
const TELL_EVERY: Millis = 10_000;
/// For how long that counts.
const COUNTS_FOR: Duration = Duration::from_secs(30);
/// How often it is looked for those whom no node sees, in milliseconds.
const LOOK_EVERY: Millis = 10_000;
/// Who is not seen at two looks is gone, in milliseconds; after the cache was flushed every node has told it anew by then.
const MISSING_FOR: Millis = 2 * LOOK_EVERY - 1_000;
/// Other nodes are told so often that another server has said of its user to be there.
pub(super) const TELL_REMOTE_EVERY: Millis = 5 * 60_000;
/// How many users are told or asked about at once.
const AT_ONCE: usize = 64;

/// What nodes share of presence.
pub(crate) struct Together {
    cache: Cache,
    node: Arc<str>,
    absent: Mutex<Absent>,
}

/// Those who are said to be there, and whom no node sees.
#[derive(Default)]
struct Absent {
    looked_at: Millis,
    since: HashMap<OwnedUserId, Millis>,
}

/// Whether other nodes see a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    ByOthers,
    ByNobody,
    /// The cache is away, or nodes share none.
    Unknown,
}

impl Together {
    pub(crate) fn new(cache: Cache, node: Arc<str>) -> Self {
        Self { cache, node, absent: Mutex::default() }
    }

    fn absent(&self) -> std::sync::MutexGuard<'_, Absent> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the nodes that see the user last saw them active. `None`: that can't be known now.
    async fn seen(&self, user_id: &UserId) -> Option<Vec<(String, Millis)>> {
        let fields = self.cache.fields(&Key::presence(user_id)).await.ok()?;
        Some(fields.into_iter().map(|(node, at)| (node, at.parse().unwrap_or_default())).collect())
    }

    async fn tell(&self, user_id: &UserId, active_at: Millis, counts_for: Duration) -> bool {
        let key = Key::presence(user_id);
        self.cache.put_field(&key, &self.node, &active_at.to_string(), counts_for).await.is_ok()
    }
}

impl Sync {
    pub(super) fn together(&self) -> Option<&Together> {
        self.shared.together.get().filter(|together| together.cache.is_shared())
    }

    /// Whether other nodes see a user whom this one doesn't see any more.
    pub(super) async fn held_elsewhere(&self, user_id: &UserId) -> Held {
        let Some(together) = self.together() else { return Held::Unknown };
        let _ = together.cache.remove_field(&Key::presence(user_id), &together.node).await;
        match together.seen(user_id).await {
            Some(nodes) if nodes.iter().any(|(node, _)| **node != *together.node) => Held::ByOthers,
            Some(_) => Held::ByNobody,
            None => Held::Unknown,
        }
    }

    /// When other nodes last saw the user active.
    pub(super) async fn active_elsewhere(&self, user_id: &UserId) -> Millis {
        let Some(together) = self.together() else { return 0 };
        let nodes = together.seen(user_id).await.unwrap_or_default();
        nodes.into_iter().map(|(_, active_at)| active_at).max().unwrap_or_default().min(now())
    }

    /// Tells the other nodes who is seen here, and when they were last active.
    pub(super) async fn tell_other_nodes(&self, seen: Vec<(OwnedUserId, Millis)>, now: Millis) {
        let Some(together) = self.together() else { return };
        let due: Vec<(OwnedUserId, Millis)> = {
            let present = self.present();
            let is_due =
                |user_id: &UserId| present.users.get(user_id).is_some_and(|here| now - here.noted_at >= TELL_EVERY);
            seen.into_iter().filter(|(user_id, _)| is_due(user_id)).collect()
        };
        let mut telling = stream::iter(due)
            .map(|(user_id, active_at)| async move {
                together.tell(&user_id, active_at, COUNTS_FOR).await.then_some(user_id)
            })
            .buffer_unordered(AT_ONCE);
        // While the cache is away, it is tried again at the next tick.
        while let Some(Some(user_id)) = telling.next().await {
            if let Some(here) = self.present().users.get_mut(&user_id) {
                here.noted_at = now;
            }
        }
    }

    /// Tells the other nodes that a server has said of its user to be there.
    pub(super) async fn tell_of_remote(&self, user_id: &UserId, now: Millis) {
        let Some(together) = self.together() else { return };
        let active_at = {
            let mut present = self.present();
            let Some(here) = present.remote.get_mut(user_id) else { return };
            if now - here.noted_at < TELL_REMOTE_EVERY {
                return;
            }
            here.noted_at = now;
            here.last_active_at
        };
        together.tell(user_id, active_at, Duration::from_millis(SILENT_AFTER.unsigned_abs())).await;
    }

    /// Those whom no node sees are gone: the node that saw them has died.
    pub(super) async fn look_after_the_dead(&self, now: Millis) -> Result<(), SyncError> {
        let Some(together) = self.together() else { return Ok(()) };
        let Some(duty) = self.shared.store.duties().of("presence") else {
            together.absent().since.clear();
            return Ok(());
        };
        {
            let mut absent = together.absent();
            if now - absent.looked_at < LOOK_EVERY {
                return Ok(());
            }
            absent.looked_at = now;
        }
        let rows = self.shared.store.presence().not_offline().await?;
        let rows: Vec<PresenceRow> = {
            let present = self.present();
            let is_seen =
                |user_id: &UserId| present.users.contains_key(user_id) || present.remote.contains_key(user_id);
            rows.into_iter().filter(|row| !is_seen(&row.user_id)).collect()
        };
        let mut looking = stream::iter(rows)
            .map(|row| async move { (together.seen(&row.user_id).await, row) })
            .buffer_unordered(AT_ONCE);
        let mut missing = Vec::new();
        while let Some((seen, row)) = looking.next().await {
            match seen {
                Some(nodes) if nodes.is_empty() => missing.push(row),
                Some(_) => {}
                None => {
                    together.absent().since.clear();
                    return Ok(());
                }
            }
        }
        drop(looking);
        let gone = together.absent().pass(
            missing,
            |row| if self.is_local(&row.user_id) { MISSING_FOR } else { SILENT_AFTER },
            now,
        );
        for row in gone {
            tracing::debug!(user.id = %row.user_id, "no node sees {} any more", row.user_id);
            let here = Here { state: PresenceState::Offline, ..Here::of(&row, now) };
            self.present().elsewhere.remove(&row.user_id);
            match self.write_presence(&row.user_id, &here, Some(duty)).await {
                Err(SyncError::Store(store::Error::Superseded)) => return Ok(()),
                written => written?,
            }
        }
        Ok(())
    }
}

impl Absent {
    /// Those of `missing` who have been so for as long as `patience` says.
    fn pass(
        &mut self,
        missing: Vec<PresenceRow>,
        patience: impl Fn(&PresenceRow) -> Millis,
        now: Millis,
    ) -> Vec<PresenceRow> {
        let mut since = HashMap::new();
        let mut gone = Vec::new();
        for row in missing {
            let first = self.since.get(&row.user_id).copied().unwrap_or(now);
            if now - first >= patience(&row) {
                gone.push(row);
            } else {
                since.insert(row.user_id, first);
            }
        }
        self.since = since;
        gone
    }
}

#[cfg(test)]
mod tests {
    use model::Position;
    use ruma::user_id;

    use super::*;

    #[test]
    fn who_is_missed_once_and_seen_again_is_not_gone() {
        let row = |user_id: &UserId| PresenceRow {
            user_id: user_id.to_owned(),
            state: PresenceState::Online,
            status_msg: None,
            last_active_at: 0,
            position: Position(1),
        };
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
        let mut absent = Absent::default();
        assert!(absent.pass(vec![row(alice), row(bob)], |_| 10, 0).is_empty());
        assert!(absent.pass(vec![row(bob)], |_| 10, 5).is_empty(), "alice was seen");
        let gone = absent.pass(vec![row(alice), row(bob)], |_| 10, 10);
        assert_eq!(gone.iter().map(|row| &*row.user_id).collect::<Vec<_>>(), [bob]);
    }
}
