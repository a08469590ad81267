//! Who is there: as users say, and as their syncing shows.
//!
//! `present` is what this node knows of that, `tend` what time does to it, `together` what nodes tell each other.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#presence>

mod present;
mod tend;
mod together;

use std::{
    collections::HashSet,
    fmt::Write as _,
    sync::{MutexGuard, PoisonError},
};

use model::{Millis, Position};
use ruma::{OwnedUserId, UserId, events::room::member::MembershipState, presence::PresenceState};
use store::{duties::Duty, presence::PresenceRow};

use crate::{Answer, Sync, SyncError, cells::InUse, filter::allows_plain, now, request::Look, shown::quoted};
use present::Here;

pub(crate) use present::Present;
pub(crate) use together::Together;

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
                self.sync.settle_doubts(now()).await?;
                let present = self.sync.present();
                users.extend(sharing.into_iter().filter(|user_id| present.may_be_there(user_id)));
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
        let present = self.sync.present();
        users.extend(newcomers.into_iter().filter(|user_id| present.may_be_there(user_id)));
        Ok(())
    }
}

impl Sync {
    /// Somebody's presence, if it was ever known.
    pub async fn presence_of(&self, user_id: &UserId) -> Result<Option<PresenceNow>, SyncError> {
        let (here, is_doubted) = {
            let present = self.present();
            (present.find(user_id).cloned(), present.doubt_of(user_id).is_some())
        };
        if let Some(here) = here.filter(|_| !is_doubted) {
            return Ok(Some(PresenceNow {
                user_id: user_id.to_owned(),
                state: here.state,
                status_msg: here.status_msg,
                last_active_at: here.last_active_at,
            }));
        }
        Ok(self.settle(user_id).await?.map(|row| PresenceNow {
            user_id: row.user_id,
            state: row.state,
            status_msg: row.status_msg,
            last_active_at: row.last_active_at,
        }))
    }

    /// Reads what was written last of a user, and goes by it.
    async fn settle(&self, user_id: &UserId) -> Result<Option<PresenceRow>, SyncError> {
        let doubt = self.present().doubt_of(user_id);
        let row = self.shared.store.presence().find(user_id).await?;
        if doubt.is_some() {
            self.present().settle(user_id, row.as_ref(), doubt, now());
        }
        Ok(row)
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
        self.present().comes_here(user_id, now);
        self.put_presence(user_id, |here| Here {
            state: state.clone(),
            status_msg: status_msg.clone(),
            last_active_at: now,
            last_sync_at: here.map_or(now, |here| here.last_sync_at),
            is_chosen: state != PresenceState::Online,
            noted_at: here.map_or(0, |here| here.noted_at),
        })
        .await
    }

    /// The user syncs, and so is there, unless the client asks not to say so.
    pub(crate) async fn note_syncing(&self, user: &InUse, wanted: &PresenceState) -> Result<(), SyncError> {
        if !self.shared.config.presence || *wanted == PresenceState::Offline {
            return Ok(());
        }
        let now = now();
        if self.present().doubt_of(&user.user_id).is_some() {
            self.settle(&user.user_id).await?;
        }
        {
            let mut present = self.present();
            present.comes_here(&user.user_id, now);
            if let Some(here) = present.users.get_mut(&user.user_id) {
                here.last_sync_at = now;
                let is_same = here.state == *wanted
                    || here.is_chosen
                    || *wanted == PresenceState::Online && here.state == PresenceState::Unavailable;
                if is_same {
                    return Ok(());
                }
            }
        }
        let state = wanted.clone();
        self.put_presence(&user.user_id, |here| Here {
            state: state.clone(),
            status_msg: here.and_then(|here| here.status_msg.clone()),
            last_active_at: here.map_or(now, |here| here.last_active_at),
            last_sync_at: now,
            is_chosen: false,
            noted_at: here.map_or(0, |here| here.noted_at),
        })
        .await
    }

    /// How a user of another server is, as that server says.
    pub async fn receive_presence(&self, now_is: PresenceNow) -> Result<(), SyncError> {
        let PresenceNow { user_id, state, status_msg, last_active_at } = now_is;
        let is_known = matches!(state, PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline);
        if !self.shared.config.presence || !is_known {
            return Ok(());
        }
        let status_msg = status_msg.filter(|status| status.len() <= MAX_STATUS);
        let now = now();
        let (is_same, _writing) = {
            let mut present = self.present();
            let is_doubted = present.doubt_of(&user_id).is_some();
            let before = present.remote.get(&user_id).or_else(|| present.elsewhere.get(&user_id));
            let is_same =
                !is_doubted && before.is_some_and(|before| before.state == state && before.status_msg == status_msg);
            let noted_at = before.map_or(0, |before| before.noted_at);
            let is_new = before.is_none();
            present.elsewhere.remove(&user_id);
            if state == PresenceState::Offline {
                present.remote.remove(&user_id);
            } else if !is_new || present.remote.len() < MOST_REMOTE {
                let (state, status_msg) = (state.clone(), status_msg.clone());
                let here = Here { state, status_msg, last_active_at, last_sync_at: now, is_chosen: true, noted_at };
                present.remote.insert(user_id.clone(), here);
            }
            present.begin_writing(&user_id);
            (is_same, Writing { sync: self, user_id: &user_id })
        };
        self.tell_of_remote(&user_id, now).await;
        if is_same {
            return Ok(());
        }
        let here = Here { state, status_msg, last_active_at, last_sync_at: now, is_chosen: true, noted_at: 0 };
        self.write_presence(&user_id, &here, None).await
    }

    /// Changes the presence of somebody whom this node sees, here at once, and in the store.
    async fn put_presence(&self, user_id: &UserId, change: impl Fn(Option<&Here>) -> Here) -> Result<(), SyncError> {
        let (here, _writing) = {
            let mut present = self.present();
            let here = change(present.users.get(user_id).or_else(|| present.elsewhere.get(user_id)));
            present.elsewhere.remove(user_id);
            if here.state == PresenceState::Offline {
                present.users.remove(user_id);
            } else {
                present.users.insert(user_id.to_owned(), here.clone());
            }
            present.begin_writing(user_id);
            (here, Writing { sync: self, user_id })
        };
        let mut write = store::Write::new();
        let status_msg = here.status_msg.as_deref();
        store::presence::put(&mut write, user_id, &here.state, status_msg, here.last_active_at);
        self.shared.store.commit(write).await?;
        Ok(())
    }

    /// Writes the presence of somebody whom this node need not know. `duty`: by which it does so.
    async fn write_presence(&self, user_id: &UserId, here: &Here, duty: Option<Duty>) -> Result<(), SyncError> {
        // Those who hear of it are found by the user's memberships.
        let _user = self.shared.notifier.user(&self.shared.store, user_id).await?;
        let mut write = store::Write::new();
        store::presence::put(&mut write, user_id, &here.state, here.status_msg.as_deref(), here.last_active_at);
        if let Some(duty) = duty {
            write.on_duty(duty);
        }
        self.shared.store.commit(write).await?;
        Ok(())
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.shared.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it is there, what the store says of a user is older than what this node knows.
struct Writing<'a> {
    sync: &'a Sync,
    user_id: &'a UserId,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.sync.present().end_writing(self.user_id);
    }
}
