//! Who is there: as users say, and as their syncing shows.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#presence>

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    sync::{PoisonError, atomic::Ordering},
};

use model::{Millis, Position};
use ruma::{OwnedUserId, UserId, events::room::member::MembershipState, presence::PresenceState};

use crate::{
    Answer, Sync, SyncError, SyncRequest, cells::InUse, filter::allows_plain, now, request::Look, shown::quoted,
};

/// Who did nothing for so long is unavailable, in milliseconds.
const IDLE_AFTER: Millis = 5 * 60_000;
/// Who did not sync for so long is offline.
const OFFLINE_AFTER: Millis = 30_000;
/// Who did something within this time is "currently active".
const ACTIVE_WITHIN: Millis = 60_000;
const MAX_STATUS: usize = 1024;

/// Who of another server was not heard of for so long is offline, in milliseconds.
const SILENT_AFTER: Millis = 35 * 60_000;
/// How many users of other servers are followed.
const MOST_REMOTE: usize = 100_000;

/// Those who are not offline.
#[derive(Default)]
pub(crate) struct Present {
    /// Of this server.
    users: HashMap<OwnedUserId, Here>,
    /// Of other servers, as they say.
    remote: HashMap<OwnedUserId, Here>,
    /// When the remote ones were last looked through.
    looked_at: Millis,
    /// Whether those who were there before this process started have been looked up.
    is_loaded: bool,
}

#[derive(Clone)]
struct Here {
    state: PresenceState,
    status_msg: Option<String>,
    last_active_at: Millis,
    last_sync_at: Millis,
    /// Said by the user, not seen: stays until the user is gone.
    is_chosen: bool,
}

/// Somebody's presence as others see it.
#[derive(Clone, Debug)]
pub struct PresenceNow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// online, unavailable, offline.
    pub state: PresenceState,
    /// What the user says of it.
    pub status_msg: Option<String>,
    /// When the user last did something.
    pub last_active_at: Millis,
}

impl Present {
    fn find(&self, user_id: &UserId) -> Option<&Here> {
        self.users.get(user_id).or_else(|| self.remote.get(user_id))
    }
}

impl PresenceNow {
    /// Whether the user is doing something just now.
    pub fn is_active(&self, now: Millis) -> bool {
        self.state == PresenceState::Online && now - self.last_active_at < ACTIVE_WITHIN
    }

    pub(crate) fn render(&self, out: &mut String, now: Millis) {
        let (sender, state) = (quoted(self.user_id.as_str()), quoted(self.state.as_str()));
        let ago = (now - self.last_active_at).max(0);
        let _ = write!(
            out,
            "{{\"type\":\"m.presence\",\"sender\":{sender},\"content\":{{\"presence\":{state},\"last_active_ago\":{ago},\
             \"currently_active\":{}",
            self.is_active(now)
        );
        if let Some(status_msg) = &self.status_msg {
            let _ = write!(out, ",\"status_msg\":{}", quoted(status_msg));
        }
        out.push_str("}}");
    }
}

impl Look<'_> {
    /// Whose presence changed, and that of those who are new to the reader. No query when memory reaches back.
    pub(crate) async fn presence(&self, answer: &mut Answer) -> Result<(), SyncError> {
        if !self.sync.shared.config.presence {
            return Ok(());
        }
        let mut users: HashSet<OwnedUserId> = HashSet::new();
        match self.since {
            None => {
                let sharing = self.sync.shared.store.rooms().users_sharing_rooms_with(self.user_id()).await?;
                let present = self.sync.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
                users.extend(sharing.into_iter().filter(|user_id| present.find(user_id).is_some()));
                users.insert(self.user_id().to_owned());
            }
            Some(since) => {
                self.changed_presence(since.position, &mut users).await?;
                self.presence_of_newcomers(answer, &mut users).await?;
            }
        }
        for user_id in users {
            if allows_plain(&self.filter.0.presence, "m.presence", Some(&user_id)) {
                answer.presence.extend(self.sync.presence_of(&user_id).await?);
            }
        }
        Ok(())
    }

    async fn changed_presence(&self, since: Position, users: &mut HashSet<OwnedUserId>) -> Result<(), SyncError> {
        for (_, membership) in self.joined() {
            let is_known = {
                let room = membership.room.lock();
                users.extend(room.presence.backward(since, self.upto).map(|(_, user_id)| user_id.clone()));
                room.presence.covers(since)
            };
            if !is_known {
                let store = &self.sync.shared.store;
                let rows = store.presence().of_those_sharing_rooms(self.user_id(), since).await?;
                users.extend(rows.into_iter().map(|row| row.user_id));
                return Ok(());
            }
        }
        Ok(())
    }

    async fn presence_of_newcomers(&self, answer: &Answer, users: &mut HashSet<OwnedUserId>) -> Result<(), SyncError> {
        let mut newcomers: HashSet<OwnedUserId> = HashSet::new();
        for room in &answer.joined {
            for event in &room.timeline.events {
                let Some(state_key) = event.shown.event.pdu.state_key.as_deref() else { continue };
                if event.shown.membership() != Some(MembershipState::Join) {
                    continue;
                }
                if state_key == self.user_id().as_str() {
                    let nid = event.shown.event.room_nid;
                    newcomers.extend(self.sync.shared.store.sync().joined_users(nid).await?);
                } else if let Ok(user_id) = state_key.try_into() {
                    newcomers.insert(user_id);
                }
            }
        }
        let present = self.sync.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
        users.extend(newcomers.into_iter().filter(|user_id| present.find(user_id).is_some()));
        Ok(())
    }
}

impl Sync {
    /// Somebody's presence, if it was ever known.
    pub async fn presence_of(&self, user_id: &UserId) -> Result<Option<PresenceNow>, SyncError> {
        let here = {
            let present = self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
            present.find(user_id).cloned()
        };
        if let Some(here) = here {
            return Ok(Some(PresenceNow {
                user_id: user_id.to_owned(),
                state: here.state,
                status_msg: here.status_msg,
                last_active_at: here.last_active_at,
            }));
        }
        let row = self.shared.store.presence().find(user_id).await?;
        Ok(row.map(|row| PresenceNow {
            user_id: row.user_id,
            state: row.state,
            status_msg: row.status_msg,
            last_active_at: row.last_active_at,
        }))
    }

    /// Somebody's presence, for a user who may know of it: the user itself, or one who shares a room.
    pub async fn presence_for(&self, reader: &UserId, user_id: &UserId) -> Result<PresenceNow, SyncError> {
        let may_know = reader == user_id || self.shared.store.rooms().share_a_room(reader, user_id).await?;
        if !may_know {
            return Err(SyncError::Forbidden(format!("you share no room with {user_id}")));
        }
        let known = self.presence_of(user_id).await?;
        known.ok_or_else(|| SyncError::NotFound(format!("nothing is known of the presence of {user_id}")))
    }

    /// The user says to be there, or not.
    pub async fn set_presence(
        &self,
        user_id: &UserId,
        state: PresenceState,
        status_msg: Option<String>,
    ) -> Result<(), SyncError> {
        if !self.shared.config.presence {
            return Ok(());
        }
        if !matches!(state, PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline) {
            return Err(SyncError::BadBody(format!("presence: {state} is none of online, unavailable, offline")));
        }
        if status_msg.as_ref().is_some_and(|status| status.len() > MAX_STATUS) {
            return Err(SyncError::Invalid(format!("status_msg: longer than {MAX_STATUS} bytes")));
        }
        // Those who hear of it are found by the user's memberships.
        let _user = self.shared.notifier.user(&self.shared.store, user_id).await?;
        let now = now();
        self.put_presence(user_id, |here| Here {
            state: state.clone(),
            status_msg: status_msg.clone(),
            last_active_at: now,
            last_sync_at: here.map_or(now, |here| here.last_sync_at),
            is_chosen: state != PresenceState::Online,
        })
        .await
    }

    /// The user syncs, and so is there, unless the client asks not to say so.
    pub(crate) async fn note_syncing(&self, user: &InUse, request: &SyncRequest) -> Result<(), SyncError> {
        if !self.shared.config.presence || request.set_presence == PresenceState::Offline {
            return Ok(());
        }
        let now = now();
        {
            let mut present = self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(here) = present.users.get_mut(&user.user_id) {
                here.last_sync_at = now;
                let is_same = here.state == request.set_presence
                    || here.is_chosen
                    || request.set_presence == PresenceState::Online && here.state == PresenceState::Unavailable;
                if is_same {
                    return Ok(());
                }
            }
        }
        let state = request.set_presence.clone();
        self.put_presence(&user.user_id, |here| Here {
            state: state.clone(),
            status_msg: here.and_then(|here| here.status_msg.clone()),
            last_active_at: here.map_or(now, |here| here.last_active_at),
            last_sync_at: now,
            is_chosen: false,
        })
        .await
    }

    /// People become idle, active again, or are gone.
    pub(crate) async fn expire_presence(&self, now: Millis) -> Result<(), SyncError> {
        if !self.shared.config.presence {
            return Ok(());
        }
        self.load_present(now).await?;
        self.expire_remote(now).await?;
        let users: Vec<(OwnedUserId, Here)> = {
            let present = self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
            present.users.iter().map(|(user_id, here)| (user_id.clone(), here.clone())).collect()
        };
        for (user_id, here) in users {
            let cell = self.shared.notifier.find_user(&user_id);
            let (is_syncing, active_at) = cell.map_or((false, 0), |cell| {
                (cell.in_use.load(Ordering::Acquire) > 0, cell.active_at.load(Ordering::Acquire))
            });
            let active_at = here.last_active_at.max(active_at);
            let is_gone = !is_syncing && now - here.last_sync_at > OFFLINE_AFTER;
            let state = if is_gone {
                PresenceState::Offline
            } else if here.is_chosen {
                here.state.clone()
            } else if now - active_at > IDLE_AFTER {
                PresenceState::Unavailable
            } else {
                PresenceState::Online
            };
            if state != here.state {
                let status_msg = here.status_msg.clone();
                self.put_presence(&user_id, |_| Here {
                    state: state.clone(),
                    status_msg: status_msg.clone(),
                    last_active_at: active_at,
                    last_sync_at: here.last_sync_at,
                    is_chosen: here.is_chosen,
                })
                .await?;
            } else if is_syncing || active_at > here.last_active_at {
                let mut present = self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(here) = present.users.get_mut(&user_id) {
                    here.last_active_at = active_at;
                    here.last_sync_at = if is_syncing { now } else { here.last_sync_at };
                }
            }
        }
        Ok(())
    }

    /// How a user of another server is, as that server says.
    pub async fn receive_presence(&self, now_is: PresenceNow) -> Result<(), SyncError> {
        let PresenceNow { user_id, state, status_msg, last_active_at } = now_is;
        let is_known = matches!(state, PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline);
        if !self.shared.config.presence || !is_known {
            return Ok(());
        }
        let status_msg = status_msg.filter(|status| status.len() <= MAX_STATUS);
        let here = Here { state, status_msg, last_active_at, last_sync_at: now(), is_chosen: true };
        let is_same = {
            let mut present = self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
            let before = present.remote.get(&user_id);
            let is_same =
                before.is_some_and(|before| before.state == here.state && before.status_msg == here.status_msg);
            if here.state == PresenceState::Offline {
                present.remote.remove(&user_id);
            } else if before.is_some() || present.remote.len() < MOST_REMOTE {
                present.remote.insert(user_id.clone(), here.clone());
            }
            is_same
        };
        if is_same {
            return Ok(());
        }
        self.write_remote(&user_id, &here).await
    }

    async fn write_remote(&self, user_id: &UserId, here: &Here) -> Result<(), SyncError> {
        // Those who hear of it are found by the user's memberships.
        let _user = self.shared.notifier.user(&self.shared.store, user_id).await?;
        let mut write = store::Write::new();
        store::presence::put(&mut write, user_id, &here.state, here.status_msg.as_deref(), here.last_active_at);
        self.shared.store.commit(write).await?;
        Ok(())
    }

    /// Users of other servers of whom nothing was heard for long are taken to be gone.
    async fn expire_remote(&self, now: Millis) -> Result<(), SyncError> {
        let gone: Vec<(OwnedUserId, Here)> = {
            let mut present = self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
            if now - present.looked_at < OFFLINE_AFTER {
                return Ok(());
            }
            present.looked_at = now;
            present.remote.extract_if(|_, here| now - here.last_sync_at > SILENT_AFTER).collect()
        };
        for (user_id, here) in gone {
            self.write_remote(&user_id, &Here { state: PresenceState::Offline, ..here }).await?;
        }
        Ok(())
    }

    /// Those who were there when the server last stopped may come back soon, or not.
    async fn load_present(&self, now: Millis) -> Result<(), SyncError> {
        if self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner).is_loaded {
            return Ok(());
        }
        let rows = self.shared.store.presence().not_offline().await?;
        let mut present = self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
        present.is_loaded = true;
        for row in rows {
            let is_local = self.is_local(&row.user_id);
            let users = if is_local { &mut present.users } else { &mut present.remote };
            users.entry(row.user_id).or_insert(Here {
                state: row.state,
                status_msg: row.status_msg,
                last_active_at: row.last_active_at,
                last_sync_at: now,
                is_chosen: false,
            });
        }
        Ok(())
    }

    /// Changes somebody's presence, here at once, and in the store.
    async fn put_presence(&self, user_id: &UserId, change: impl Fn(Option<&Here>) -> Here) -> Result<(), SyncError> {
        let here = {
            let mut present = self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner);
            let here = change(present.users.get(user_id));
            if here.state == PresenceState::Offline {
                present.users.remove(user_id);
            } else {
                present.users.insert(user_id.to_owned(), here.clone());
            }
            here
        };
        let mut write = store::Write::new();
        let status_msg = here.status_msg.as_deref();
        store::presence::put(&mut write, user_id, &here.state, status_msg, here.last_active_at);
        self.shared.store.commit(write).await?;
        Ok(())
    }
}
