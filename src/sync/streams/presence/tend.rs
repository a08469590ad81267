//! What time does to presence: people become idle, are gone, and are seen elsewhere.

use std::sync::atomic::Ordering;

use futures_util::{StreamExt as _, stream};
use model::Millis;
use ruma::{OwnedUserId, presence::PresenceState};

use super::{Here, IDLE_AFTER, OFFLINE_AFTER, SILENT_AFTER, together::Held};
use crate::{Sync, SyncError};

/// Of so many users at once it is read what other nodes have written.
const AT_ONCE: usize = 16;

/// What this node sees of one of its users.
struct Seen {
    is_syncing: bool,
    is_gone: bool,
    active_at: Millis,
}

impl Sync {
    /// People become idle, active again, or are gone.
    pub(crate) async fn expire_presence(&self, now: Millis) -> Result<(), SyncError> {
        if !self.shared.config.presence {
            return Ok(());
        }
        self.load_present(now).await?;
        self.settle_doubts(now).await?;
        self.expire_remote(now).await?;
        let users: Vec<(OwnedUserId, Here)> = {
            let present = self.present();
            present.users.iter().map(|(user_id, here)| (user_id.clone(), here.clone())).collect()
        };
        let mut seen_here = Vec::new();
        for (user_id, here) in users {
            let seen = self.seen(&user_id, &here, now);
            match seen.is_gone {
                true => self.note_gone(&user_id, here).await?,
                false => {
                    self.note_here(&user_id, here, &seen, now).await?;
                    seen_here.push((user_id, seen.active_at));
                }
            }
        }
        self.tell_other_nodes(seen_here, now).await;
        self.look_after_the_dead(now).await
    }

    fn seen(&self, user_id: &OwnedUserId, here: &Here, now: Millis) -> Seen {
        let cell = self.shared.notifier.find_user(user_id);
        let (is_syncing, active_at) = cell.map_or((false, 0), |cell| {
            (cell.in_use.load(Ordering::Acquire) > 0, cell.active_at.load(Ordering::Acquire))
        });
        let is_gone = !is_syncing && now - here.last_sync_at > OFFLINE_AFTER;
        Seen { is_syncing, is_gone, active_at: here.last_active_at.max(active_at) }
    }

    async fn note_here(&self, user_id: &OwnedUserId, here: Here, seen: &Seen, now: Millis) -> Result<(), SyncError> {
        let state_after = |active_at: Millis| match here.is_chosen {
            true => here.state.clone(),
            false if now - active_at > IDLE_AFTER => PresenceState::Unavailable,
            false => PresenceState::Online,
        };
        let mut active_at = seen.active_at;
        if state_after(active_at) == PresenceState::Unavailable && here.state == PresenceState::Online {
            // Who does nothing here may do something at another node.
            active_at = active_at.max(self.active_elsewhere(user_id).await);
        }
        let state = state_after(active_at);
        if state != here.state {
            return self
                .put_presence(user_id, |_| Here { state: state.clone(), last_active_at: active_at, ..here.clone() })
                .await;
        }
        if let Some(here) = self.present().users.get_mut(user_id) {
            here.last_active_at = here.last_active_at.max(active_at);
            here.last_sync_at = if seen.is_syncing { now } else { here.last_sync_at };
        }
        Ok(())
    }

    async fn note_gone(&self, user_id: &OwnedUserId, here: Here) -> Result<(), SyncError> {
        if self.held_elsewhere(user_id).await == Held::ByOthers || here.state == PresenceState::Offline {
            self.present().goes_elsewhere(user_id);
            return Ok(());
        }
        // If nobody knows who else sees the user, a node that does says so when it hears this.
        self.put_presence(user_id, |_| Here { state: PresenceState::Offline, ..here.clone() }).await
    }

    /// Reads what other nodes have written.
    pub(super) async fn settle_doubts(&self, now: Millis) -> Result<(), SyncError> {
        let (all, users) = self.present().doubted();
        if let Some(doubt) = all {
            let rows = self.shared.store.presence().not_offline().await?;
            self.present().settle_all(&rows, doubt, now);
            return Ok(());
        }
        let mut settling =
            stream::iter(users).map(|user_id| async move { self.settle(&user_id).await }).buffer_unordered(AT_ONCE);
        while let Some(settled) = settling.next().await {
            settled?;
        }
        Ok(())
    }

    /// Users of other servers of whom nothing was heard for long are taken to be gone.
    async fn expire_remote(&self, now: Millis) -> Result<(), SyncError> {
        let gone: Vec<(OwnedUserId, Here)> = {
            let mut present = self.present();
            if now - present.looked_at < OFFLINE_AFTER {
                return Ok(());
            }
            present.looked_at = now;
            let silent = present.remote.iter().filter(|(_, here)| now - here.last_sync_at > SILENT_AFTER);
            silent.map(|(user_id, here)| (user_id.clone(), here.clone())).collect()
        };
        for (user_id, here) in gone {
            if self.held_elsewhere(&user_id).await == Held::ByOthers {
                self.present().goes_elsewhere(&user_id);
            } else {
                self.present().remote.remove(&user_id);
                self.write_presence(&user_id, &Here { state: PresenceState::Offline, ..here }, None).await?;
            }
        }
        Ok(())
    }

    /// Those who were there when the server last stopped may come back soon, or not.
    async fn load_present(&self, now: Millis) -> Result<(), SyncError> {
        if self.present().is_loaded {
            return Ok(());
        }
        let rows = self.shared.store.presence().not_offline().await?;
        let is_looked_after = self.together().is_some();
        let mut present = self.present();
        present.is_loaded = true;
        for row in rows {
            let here = Here { is_chosen: false, ..Here::of(&row, now) };
            let users = match (is_looked_after, self.is_local(&row.user_id)) {
                (true, _) => &mut present.elsewhere,
                (false, true) => &mut present.users,
                (false, false) => &mut present.remote,
            };
            users.entry(row.user_id).or_insert(here);
        }
        Ok(())
    }
}
