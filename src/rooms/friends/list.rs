//! Whom one has for friends, who asks, and what one notes.

use std::collections::{HashMap, HashSet};

use model::{Position, TimelineEvent};
use ruma::{OwnedUserId, UserId};
use store::{
    Write,
    friends::{CardRow, Direction, TieRow, put_card},
};

use super::{
    Friend, FriendError, FriendRequest, LONGEST_REMARK, LONGEST_TAG, MOST_TAGS, Note, ask::Between, checked,
    marker::message_of,
};
use crate::{RoomError, Rooms, invitations::stripped, membership::MemberProfile};

/// Some of the requests.
#[derive(Clone, Debug)]
pub struct RequestPage {
    /// The latest first.
    pub requests: Vec<FriendRequest>,
    /// The next page begins before this; `None`: there is none.
    pub next: Option<Position>,
}

/// What changed among somebody's friends.
#[derive(Clone, Debug)]
pub struct FriendPage {
    /// Friends, those changed last at the end.
    pub friends: Vec<Friend>,
    /// Those between whom and the user something changed, and who are no friends, or no longer.
    pub others: Vec<OwnedUserId>,
    /// What comes later comes after this.
    pub version: Position,
    /// There is more already.
    pub has_more: bool,
}

impl Rooms {
    /// Requests before `before`, the latest first; those of people whom the user ignores are left out. `is_open`: only those that
    /// wait for an answer.
    pub async fn friend_requests(
        &self,
        user_id: &UserId,
        direction: Direction,
        is_open: bool,
        before: Option<Position>,
        limit: usize,
    ) -> Result<RequestPage, FriendError> {
        let store = &self.shared.store;
        let before = before.unwrap_or(Position(i64::MAX));
        let asked_for = i64::try_from(limit).unwrap_or(i64::MAX);
        let ties = store.friends().requests(user_id, direction, is_open, before, asked_for).await?;
        let next = (ties.len() == limit).then(|| ties.last().map(|tie| tie.position)).flatten();
        let ignored = self.ignored_by(user_id).await?;
        let ids: Vec<OwnedUserId> = ties.iter().map(|tie| tie.friend_id.clone()).collect();
        let friends = if is_open { self.friends_among(user_id, &ids).await? } else { HashMap::new() };
        let mut requests = Vec::with_capacity(ties.len());
        for tie in &ties {
            // Who became friends by another room need not answer any more.
            let is_hidden = tie.is_incoming && ignored.contains(&tie.friend_id) || friends.contains_key(&tie.friend_id);
            if !is_hidden {
                requests.push(self.request_of(tie).await?);
            }
        }
        Ok(RequestPage { requests, next })
    }

    /// Friends of whom something changed after `since`, and who is none any more. `since` of 0: all friends.
    pub async fn friends(&self, user_id: &UserId, since: Position, limit: usize) -> Result<FriendPage, FriendError> {
        let store = &self.shared.store;
        // Before the rest is read: what comes in between is told twice rather than not at all.
        let visible = store.visible_position().await?;
        let one_more = i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1;
        let mut changed = store.friends().changed(user_id, since, one_more).await?;
        let has_more = changed.len() > limit;
        changed.truncate(limit);
        let last = changed.last().map(|(_, position)| *position);
        let version = if has_more { last.unwrap_or(since) } else { visible.max(since) };
        let ids: Vec<OwnedUserId> = changed.into_iter().map(|(user_id, _)| user_id).collect();
        let mut known = self.friends_among(user_id, &ids).await?;
        let (mut friends, mut others) = (Vec::new(), Vec::new());
        for id in ids {
            match known.remove(&id) {
                Some(friend) => friends.push(friend),
                None => others.push(id),
            }
        }
        if since == Position(0) {
            others.clear();
        }
        Ok(FriendPage { friends, others, version, has_more })
    }

    /// A friend.
    pub async fn friend(&self, user_id: &UserId, other: &UserId) -> Result<Friend, FriendError> {
        let found = self.friends_among(user_id, &[other.to_owned()]).await?.remove(other);
        found.ok_or_else(|| FriendError::NotFriends(other.to_owned()))
    }

    /// Changes what the user notes about a friend.
    pub async fn note_friend(&self, user_id: &UserId, other: &UserId, note: Note) -> Result<Friend, FriendError> {
        let between = self.between(user_id, other).await?;
        if between.friendship().is_none() {
            return Err(FriendError::NotFriends(other.to_owned()));
        }
        let mut card = between.card.clone();
        if let Some(remark) = note.remark {
            card.remark = checked("remark", remark.as_deref(), LONGEST_REMARK)?;
        }
        if let Some(tags) = note.tags {
            card.tags = serde_json::to_string(&checked_tags(&tags)?).expect("texts can be written as JSON");
        }
        if card != between.card {
            let mut write = Write::new();
            put_card(&mut write, user_id, other, &card, false);
            self.shared.store.commit(write).await?;
        }
        self.friend(user_id, other).await
    }

    async fn friends_among(
        &self,
        user_id: &UserId,
        others: &[OwnedUserId],
    ) -> Result<HashMap<OwnedUserId, Friend>, FriendError> {
        let store = self.shared.store.friends();
        let mut cards: HashMap<OwnedUserId, CardRow> = store.cards(user_id, others).await?.into_iter().collect();
        let mut ties: HashMap<OwnedUserId, Vec<TieRow>> = HashMap::new();
        for tie in store.with(user_id, others).await? {
            ties.entry(tie.friend_id.clone()).or_default().push(tie);
        }
        let ignored = self.ignored_by(user_id).await?;
        let friends = ties.into_iter().filter_map(|(other, ties)| {
            let between = Between { ties, card: cards.remove(&other).unwrap_or_default() };
            let is_ignored = ignored.contains(&other);
            Some((other, friend(&between, is_ignored)?))
        });
        Ok(friends.collect())
    }

    /// A request as it is shown.
    pub(super) async fn request_of(&self, tie: &TieRow) -> Result<FriendRequest, RoomError> {
        let event = self.event(tie.event).await?;
        let there = tie.theirs.as_ref().map(|part| (part.display_name.clone(), part.avatar_url.clone()));
        let (display_name, avatar_url) = match there {
            Some(names) => names,
            None if tie.friend_id.server_name() == self.server_name() => {
                let profile = self.profile_for_membership(&tie.friend_id).await?;
                (profile.display_name, profile.avatar_url)
            }
            None => shown_of(&event, &tie.friend_id),
        };
        Ok(FriendRequest {
            id: event.pdu.event_id.clone(),
            room_id: tie.room_id.clone(),
            user_id: tie.friend_id.clone(),
            is_incoming: tie.is_incoming,
            message: message_of(&event),
            asked_at: tie.asked_at,
            state: self.state_of(tie).await?,
            display_name,
            avatar_url,
            position: tie.position,
        })
    }
}

fn friend(between: &Between, is_ignored: bool) -> Option<Friend> {
    let tie = between.friendship()?;
    let part = tie.theirs.as_ref()?;
    let card = &between.card;
    Some(Friend {
        user_id: tie.friend_id.clone(),
        room_id: tie.room_id.clone(),
        display_name: part.display_name.clone(),
        avatar_url: part.avatar_url.clone(),
        remark: card.remark.clone(),
        tags: serde_json::from_str(&card.tags).unwrap_or_default(),
        is_ignored,
        noted: card.position,
    })
}

/// What an invitation from another server shows of who made it.
fn shown_of(invitation: &TimelineEvent, user_id: &UserId) -> (Option<String>, Option<String>) {
    let own = stripped(invitation, "m.room.member", user_id.as_str());
    let profile: MemberProfile = own.and_then(|own| serde_json::from_value(own).ok()).unwrap_or_default();
    (profile.display_name, profile.avatar_url)
}

/// Each once, in the order in which they were named.
fn checked_tags(tags: &[String]) -> Result<Vec<String>, FriendError> {
    if tags.len() > MOST_TAGS {
        return Err(FriendError::Text { field: "tags", problem: format!("are more than {MOST_TAGS}") });
    }
    let mut seen = HashSet::new();
    let mut kept = Vec::with_capacity(tags.len());
    for tag in tags {
        let tag = checked("tags", Some(tag), LONGEST_TAG)?
            .ok_or_else(|| FriendError::Text { field: "tags", problem: "hold an empty one".into() })?;
        if seen.insert(tag.clone()) {
            kept.push(tag);
        }
    }
    Ok(kept)
}
