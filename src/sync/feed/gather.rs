//! What lies between a reader's position and now, in the order in which it happened, a piece at a time.

use std::{collections::BTreeSet, sync::Arc};

use model::{Position, Receipt, RoomNid};
use ruma::{OwnedUserId, RoomId, events::room::member::MembershipState};

use super::{Item, News};
use crate::{Shown, SyncError, cells::Membership, request::Look};

/// What was found so far.
struct Found {
    items: Vec<Item>,
    /// Up to here everything was looked at; what comes later is for the next piece.
    upto: Position,
    most: usize,
}

impl Found {
    fn push(&mut self, position: Position, news: News) {
        if position <= self.upto {
            self.items.push(Item { position, news });
        }
    }

    /// Nothing after `position` was looked at.
    fn cut(&mut self, position: Position) {
        if position < self.upto {
            self.upto = position;
            self.items.retain(|item| item.position <= position);
        }
    }

    /// Brings it into order, and leaves what is too much for the next piece. What happened at one position stays together.
    fn trim(&mut self) {
        // Stable, so that what was found first of one position stays first.
        self.items.sort_by_key(|item| item.position);
        if let Some(last) = self.items.get(self.most - 1).filter(|_| self.items.len() > self.most) {
            let last = last.position;
            self.cut(last);
        }
    }
}

impl Look<'_> {
    /// The first `most` things after `since`, and up to where they reach. What happened at one position is never parted, so there may be
    /// a few more.
    pub(super) async fn gather(
        &self,
        most: usize,
        followed: &BTreeSet<OwnedUserId>,
    ) -> Result<(Vec<Item>, Position), SyncError> {
        let mut found = Found { items: Vec::new(), upto: self.upto, most };
        self.own_news(&mut found).await?;
        for (nid, membership) in self.memberships.iter() {
            let is_joined = membership.membership == MembershipState::Join;
            let latest = if is_joined { self.latest_in(*nid, membership) } else { membership.position };
            if latest <= self.since() {
                continue;
            }
            self.events(*nid, membership, &mut found).await?;
            if is_joined {
                self.receipts_and_typing(*nid, membership, &mut found).await?;
            }
            if found.items.len() > 2 * most {
                found.trim();
            }
        }
        self.followed_presence(followed, &mut found).await?;
        found.trim();
        self.complete(&mut found.items).await?;
        Ok((found.items, found.upto))
    }

    /// What of the reader's own account has changed.
    async fn own_news(&self, found: &mut Found) -> Result<(), SyncError> {
        for datum in self.account_data().await? {
            let room_id = RoomId::parse(&datum.room_id).ok();
            found.push(datum.position, News::AccountData { room_id, kind: datum.kind });
        }
        let changed = self.sync.shared.notifier.device_lists(self.since(), self.upto);
        // Further back than memory reaches: they may have.
        let may_have = changed.is_none_or(|changed| changed.iter().any(|(user_id, _)| user_id == self.user_id()));
        if may_have {
            found.push(self.since(), News::OwnDevices);
        }
        Ok(())
    }

    /// The events of one room that were made while the reader was in it, and what was done to the reader.
    async fn events(&self, nid: RoomNid, membership: &Membership, found: &mut Found) -> Result<(), SyncError> {
        let is_joined = membership.membership == MembershipState::Join;
        let upto = if is_joined { found.upto } else { found.upto.min(membership.position) };
        let events = self.stretch(nid, membership, upto, found.most + 1).await?;
        if events.len() > found.most
            && let Some(last) = events.last()
        {
            // There may be more of them, which weren't read.
            found.cut(last.event.position);
        }
        let mut is_told = false;
        for shown in events.into_iter().filter(|shown| !shown.event.soft_failed) {
            let is_own = self.is_about_reader(&shown);
            is_told |= is_own && shown.event.position == membership.position;
            if is_own {
                self.own_membership(shown.event.position, shown, found);
                continue;
            }
            let reader = self.reader(&shown, membership).await?;
            let reader = reader.filter(|reader| reader.membership == Some(MembershipState::Join));
            if let Some(reader) = reader.filter(|_| !self.is_ignored(&shown)) {
                found.push(shown.event.position, News::Event { shown, reader });
            }
        }
        // Where this server has no part in the room, it stands in no timeline.
        let is_outside = !is_told && membership.position > self.since() && membership.position <= found.upto;
        if is_outside
            && !is_joined
            && let Some(shown) = self.sync.shared.events.by_nid(membership.event_nid).await?
        {
            self.own_membership(membership.position, shown, found);
        }
        Ok(())
    }

    /// The first events of a room after `since`, oldest first. No query when memory reaches back far enough.
    async fn stretch(
        &self,
        nid: RoomNid,
        membership: &Membership,
        upto: Position,
        most: usize,
    ) -> Result<Vec<Arc<Shown>>, SyncError> {
        let since = self.since();
        let recent = {
            let room = membership.room.lock();
            room.events.covers(since).then(|| {
                let mut recent: Vec<_> = room.events.backward(since, upto).map(|(_, shown)| shown.clone()).collect();
                recent.reverse();
                recent.truncate(most);
                recent
            })
        };
        match recent {
            Some(recent) => Ok(recent),
            None => Ok(self.sync.shared.events.forward(nid, since, upto, most).await?),
        }
    }

    fn is_about_reader(&self, shown: &Shown) -> bool {
        shown.kind.as_ref() == "m.room.member" && shown.event.pdu.state_key.as_deref() == Some(self.user_id().as_str())
    }

    fn own_membership(&self, position: Position, shown: Arc<Shown>, found: &mut Found) {
        let Some(membership) = shown.membership() else { return };
        let pdu = &shown.event.pdu;
        // Who is ignored doesn't invite anybody.
        if membership == MembershipState::Invite && self.ignored.contains(&pdu.sender) {
            return;
        }
        let room_id = pdu.room_id.clone();
        found.push(position, News::Membership { room_id, membership, shown });
    }

    async fn receipts_and_typing(
        &self,
        nid: RoomNid,
        membership: &Membership,
        found: &mut Found,
    ) -> Result<(), SyncError> {
        let since = self.since();
        let recent: Option<Vec<(Position, Arc<Receipt>)>> = {
            let room = membership.room.lock();
            let (position, user_ids) = &room.typing;
            if *position > since {
                let seen = user_ids.iter().filter(|user_id| !self.ignored.contains(*user_id));
                let typing = News::Typing { room_id: membership.room_id.clone(), user_ids: seen.cloned().collect() };
                found.push(*position, typing);
            }
            room.receipts.covers(since).then(|| room.receipts.backward(since, found.upto).cloned().collect())
        };
        let receipts = match recent {
            Some(recent) => recent,
            None => self.sync.shared.store.receipts().since(nid, since, self.user_id()).await?,
        };
        for (position, receipt) in receipts {
            if self.hears_of(&receipt) {
                found.push(position, News::Receipt { room_id: membership.room_id.clone(), receipt, unread: None });
            }
        }
        Ok(())
    }

    /// Whose presence changed, of those whom the reader follows: each once, as it is now.
    async fn followed_presence(&self, followed: &BTreeSet<OwnedUserId>, found: &mut Found) -> Result<(), SyncError> {
        if followed.is_empty() || !self.sync.shared.config.presence {
            return Ok(());
        }
        let since = self.since();
        let mut changed: Vec<(Position, OwnedUserId)> = Vec::new();
        let mut is_known = true;
        for (_, membership) in self.joined() {
            let room = membership.room.lock();
            is_known &= room.presence.covers(since);
            let recent = room.presence.backward(since, self.upto);
            changed.extend(recent.filter(|(_, user_id)| followed.contains(user_id)).cloned());
        }
        if !is_known {
            let rows = self.sync.shared.store.presence().of_those_sharing_rooms(self.user_id(), since).await?;
            let rows = rows.into_iter().filter(|row| row.position <= self.upto && followed.contains(&row.user_id));
            changed.extend(rows.map(|row| (row.position, row.user_id)));
        }
        changed.sort_unstable_by(|one, other| (&one.1, other.0).cmp(&(&other.1, one.0)));
        changed.dedup_by(|one, other| one.1 == other.1);
        for (position, user_id) in changed {
            if let Some(presence) = self.sync.presence_of(&user_id).await? {
                found.push(position, News::Presence(presence));
            }
        }
        Ok(())
    }

    /// Looks up what belongs to the things that are told in this piece.
    async fn complete(&self, items: &mut [Item]) -> Result<(), SyncError> {
        let shared = &self.sync.shared;
        for item in items {
            match &mut item.news {
                News::Event { shown, .. } | News::Membership { shown, .. } => {
                    shared.events.complete(shown, &shared.states).await?;
                }
                News::Receipt { room_id, receipt, unread } if receipt.user_id == *self.user_id() => {
                    let mut joined = self.joined();
                    if let Some((nid, membership)) = joined.find(|(_, membership)| membership.room_id == *room_id) {
                        *unread = Some(self.unread(nid, membership).await?.main);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
