//! Whose devices the reader should look up anew, and whose to forget.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user>

use std::collections::HashSet;

use model::{Position, RoomNid};
use ruma::{OwnedUserId, events::room::member::MembershipState};

use crate::{
    Answer, Sync, SyncError, SyncToken,
    answer::DeviceLists,
    cells::{InUse, Memberships},
    request::Look,
};

impl Look<'_> {
    /// Only in answers to a `since`: a new client looks everybody up as it goes.
    pub(crate) async fn device_lists(&self, answer: &mut Answer) -> Result<(), SyncError> {
        let Some(since) = self.since else { return Ok(()) };
        let mut changed: HashSet<OwnedUserId> = HashSet::new();
        let mut gone: HashSet<OwnedUserId> = HashSet::new();
        self.own_changes(since.position, &mut changed).await?;
        self.changes_by_membership(since.position, &mut changed, &mut gone).await?;

        gone.remove(self.user_id());
        let mut left = Vec::new();
        for user_id in gone {
            if self.shares_a_room_with(&user_id).await? {
                changed.remove(&user_id);
            } else {
                changed.remove(&user_id);
                left.push(user_id);
            }
        }
        let mut changed: Vec<OwnedUserId> = changed.into_iter().collect();
        changed.sort_unstable();
        left.sort_unstable();
        answer.device_lists = DeviceLists { changed, left };
        Ok(())
    }

    /// Those who share a room and whose devices or keys changed. No query when memory knows them all.
    async fn own_changes(&self, since: Position, changed: &mut HashSet<OwnedUserId>) -> Result<(), SyncError> {
        let shared = &self.sync.shared;
        let Some(recent) = shared.notifier.device_lists(since, self.upto) else {
            changed.extend(shared.store.sync().device_list_changes(self.user_id(), since, self.upto).await?);
            return Ok(());
        };
        for (user_id, memberships) in recent {
            let shares = match memberships {
                _ if user_id == *self.user_id() => true,
                Some(memberships) => share_a_room(&self.memberships, &memberships),
                None => self.shares_a_room_with(&user_id).await?,
            };
            if shares {
                changed.insert(user_id);
            }
        }
        Ok(())
    }

    /// Those who came into a room of the reader's, or went, and everybody in a room that the reader came into or left.
    async fn changes_by_membership(
        &self,
        since: Position,
        changed: &mut HashSet<OwnedUserId>,
        gone: &mut HashSet<OwnedUserId>,
    ) -> Result<(), SyncError> {
        let shared = &self.sync.shared;
        for (nid, membership) in self.memberships.iter() {
            let is_joined = membership.membership == MembershipState::Join;
            if !is_joined {
                let is_news = membership.position > since && membership.membership != MembershipState::Invite;
                if is_news && self.was_joined(membership.event_nid, since).await? {
                    gone.extend(shared.store.sync().joined_users(*nid).await?);
                }
                continue;
            }
            if membership.joined_by > since && !self.was_joined(membership.event_nid, since).await? {
                changed.extend(shared.store.sync().joined_users(*nid).await?);
                continue;
            }
            if self.latest_in(*nid, membership) <= since {
                continue;
            }
            self.changes_in(*nid, since, changed, gone).await?;
        }
        Ok(())
    }

    /// Those who came into one room, or went.
    async fn changes_in(
        &self,
        room: RoomNid,
        since: Position,
        changed: &mut HashSet<OwnedUserId>,
        gone: &mut HashSet<OwnedUserId>,
    ) -> Result<(), SyncError> {
        let mut sort = |user_id: OwnedUserId, membership: &MembershipState| match membership {
            MembershipState::Join => {
                gone.remove(&user_id);
                changed.insert(user_id);
            }
            MembershipState::Leave | MembershipState::Ban => {
                changed.remove(&user_id);
                gone.insert(user_id);
            }
            _ => {}
        };
        {
            let cell = self.memberships[&room].room.lock();
            if cell.events.covers(since) {
                let mut members: Vec<_> = cell
                    .events
                    .backward(since, self.upto)
                    .filter_map(|(_, shown)| {
                        let user_id = shown.event.pdu.state_key.as_deref()?.try_into().ok()?;
                        Some((user_id, shown.membership()?))
                    })
                    .collect();
                members.reverse();
                members.into_iter().for_each(|(user_id, membership)| sort(user_id, &membership));
                return Ok(());
            }
        }
        for (user_id, membership) in self.sync.shared.store.sync().memberships_since(room, since).await? {
            sort(user_id, &membership);
        }
        Ok(())
    }

    async fn shares_a_room_with(&self, user_id: &ruma::UserId) -> Result<bool, SyncError> {
        Ok(self.sync.shared.store.rooms().share_a_room(self.user_id(), user_id).await?)
    }
}

fn share_a_room(one: &Memberships, other: &Memberships) -> bool {
    let (few, many) = if one.len() < other.len() { (one, other) } else { (other, one) };
    few.iter().any(|(room, membership)| {
        membership.membership == MembershipState::Join
            && many.get(room).is_some_and(|membership| membership.membership == MembershipState::Join)
    })
}

impl Sync {
    /// Whose devices changed between two syncs, and who went out of sight.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges>
    pub async fn key_changes(&self, user_id: &ruma::UserId, from: &str, to: &str) -> Result<DeviceLists, SyncError> {
        let read = |field, token: &str| {
            token.parse::<SyncToken>().map_err(|_| SyncError::Token { field, token: token.to_owned() })
        };
        let (from, to) = (read("from", from)?, read("to", to)?);
        let (user, moment): (InUse, _) = self.shared.notifier.user_now(&self.shared.store, user_id).await?;
        let look = Look {
            sync: self,
            user: &user,
            device_id: "",
            since: Some(from),
            upto: to.position.min(moment.visible),
            older_news: self.older_news(user_id, from.position, moment.floor).await?,
            memberships: moment.memberships,
            filter: std::sync::Arc::new(crate::filter::Filter(Default::default())),
            ignored: std::sync::Arc::default(),
            full_state: false,
            use_state_after: false,
        };
        let mut answer = Answer::default();
        look.device_lists(&mut answer).await?;
        Ok(answer.device_lists)
    }
}
