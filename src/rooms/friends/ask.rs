//! Asking for friendship.

use model::Millis;
use ruma::{
    EventId, OwnedEventId, OwnedUserId, UserId,
    api::client::room::create_room::v3::RoomPreset,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::{Map, Value, json, value::to_raw_value};
use store::friends::{CardRow, TieRow, put_card};
use tracing::warn;

use super::{FRIEND_REQUEST, FriendError, FriendRequest, LONGEST_MESSAGE, Standing, checked, standing};
use crate::{
    NewRoom, RoomError, Rooms, Wish,
    live::SharedRoom,
    membership::{Change, Target},
};

/// The power of who asks, and that of who is asked.
const ALL: i64 = 100;
const ALMOST_ALL: i64 = 99;

/// How it stands between two, as one of them sees it.
pub(super) struct Between {
    pub(super) ties: Vec<TieRow>,
    pub(super) card: CardRow,
}

impl Between {
    /// A room that both are in. `is_removed`: by a request that the user has removed.
    fn common(&self, is_removed: bool) -> Option<&TieRow> {
        let accepted = self.ties.iter().filter(|tie| standing(tie) == Standing::Accepted);
        accepted.filter(|tie| (tie.position <= self.card.removed_upto) == is_removed).max_by_key(|tie| place(tie))
    }

    /// The room by which the two are friends.
    pub(super) fn friendship(&self) -> Option<&TieRow> {
        self.common(false)
    }

    fn open(&self, is_incoming: bool) -> Option<&TieRow> {
        let open = self.ties.iter().filter(|tie| standing(tie) == Standing::Open);
        open.filter(|tie| tie.is_incoming == is_incoming).max_by_key(|tie| place(tie))
    }

    /// A room that the user is still in, and the other isn't any more or never was.
    fn deserted(&self) -> Option<&TieRow> {
        let is = |part: &Option<store::friends::Part>, membership| {
            part.as_ref().is_some_and(|part| part.membership == membership)
        };
        let mine = self.ties.iter().filter(|tie| is(&tie.mine, MembershipState::Join));
        mine.filter(|tie| is(&tie.theirs, MembershipState::Leave)).max_by_key(|tie| place(tie))
    }
}

/// Of several rooms both servers take the same: the one that was last invited to.
fn place(tie: &TieRow) -> (Millis, &ruma::RoomId) {
    (tie.asked_at, &tie.room_id)
}

impl Rooms {
    /// Asks `other` for friendship, or says yes if `other` has asked. Who asks again gets the same request.
    ///
    /// `message`: 500 characters at most. Waits for the server of `other`, which signs the invitation.
    pub async fn ask_friend(
        &self,
        user_id: &UserId,
        other: &UserId,
        message: Option<&str>,
    ) -> Result<FriendRequest, FriendError> {
        let message = checked("message", message, LONGEST_MESSAGE)?;
        if user_id == other {
            return Err(FriendError::Yourself);
        }
        self.check_is_there(other).await?;
        let between = self.between(user_id, other).await?;
        let is_forgotten = self.has_removed(other, user_id).await?;
        if between.friendship().is_some() && !is_forgotten {
            return Err(FriendError::Already);
        }
        if let Some(tie) = between.open(true) {
            return self.accept_tie(user_id, tie).await;
        }
        if let Some(tie) = between.open(false) {
            return self.request_of(tie).await.map_err(Into::into);
        }
        if let Some(tie) = between.common(true).filter(|_| !is_forgotten) {
            let card = CardRow { removed_upto: model::Position(0), ..between.card.clone() };
            let mut write = store::Write::new();
            put_card(&mut write, user_id, other, &card, false);
            self.shared.store.commit(write).await?;
            return self.request_of(tie).await.map_err(Into::into);
        }
        let (room, is_new) = match self.deserted_room(&between, user_id, other).await? {
            Some(room) => (room, false),
            None => (self.direct_room(user_id, other).await?, true),
        };
        let asked = self.invite_friend(&room, user_id, other, message.as_deref()).await;
        let id = match asked {
            Ok(id) => id,
            Err(error) => {
                if is_new {
                    self.abandon(&room, user_id).await;
                }
                return Err(error.into());
            }
        };
        self.mark_direct(user_id, other, &room.room_id).await?;
        self.find_request(user_id, &id).await
    }

    /// The request called `id` that `user_id` made or got, in whatever state.
    pub async fn find_request(&self, user_id: &UserId, id: &EventId) -> Result<FriendRequest, FriendError> {
        let tie = self.tie(user_id, id).await?;
        Ok(self.request_of(&tie).await?)
    }

    pub(super) async fn tie(&self, user_id: &UserId, id: &EventId) -> Result<TieRow, FriendError> {
        let event = self.events_by_id(&[id.to_owned()]).await?.pop().ok_or(FriendError::UnknownRequest)?;
        let tie = self.shared.store.friends().request(user_id, event.nid).await?;
        tie.ok_or(FriendError::UnknownRequest)
    }

    pub(super) async fn between(&self, user_id: &UserId, other: &UserId) -> Result<Between, FriendError> {
        let (friends, others) = (self.shared.store.friends(), [other.to_owned()]);
        let ties = friends.with(user_id, &others).await?;
        let card = friends.cards(user_id, &others).await?.pop().map(|(_, card)| card);
        Ok(Between { ties, card: card.unwrap_or_else(|| CardRow { tags: "[]".into(), ..CardRow::default() }) })
    }

    /// Whether somebody of this server doesn't want `user_id` for a friend any more who was one. Of others nobody knows.
    async fn has_removed(&self, other: &UserId, user_id: &UserId) -> Result<bool, FriendError> {
        if other.server_name() != self.server_name() {
            return Ok(false);
        }
        let theirs = self.between(other, user_id).await?;
        Ok(theirs.friendship().is_none() && theirs.common(true).is_some())
    }

    async fn check_is_there(&self, other: &UserId) -> Result<(), FriendError> {
        if other.server_name() != self.server_name() {
            return Ok(());
        }
        let account = self.shared.store.accounts().find(other).await?;
        match account.is_some_and(|account| account.deactivated_at.is_none()) {
            true => Ok(()),
            false => Err(FriendError::NoUser(other.to_owned())),
        }
    }

    /// A room that the user is still in without the other, if the user could take back an invitation to it.
    async fn deserted_room(
        &self,
        between: &Between,
        user_id: &UserId,
        other: &UserId,
    ) -> Result<Option<SharedRoom>, RoomError> {
        let Some(tie) = between.deserted() else { return Ok(None) };
        let room = self.get(&tie.room_id).await?;
        let power_levels = self.power_levels(&room).await?;
        Ok(power_levels.user_can_kick_user(user_id, other).then_some(room))
    }

    /// A room of the two, in which both may do almost the same, and into which nobody is invited yet.
    async fn direct_room(&self, user_id: &UserId, other: &UserId) -> Result<SharedRoom, RoomError> {
        let version = self.default_version();
        let rules = model::rules_of(version).ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
        // Whoever asks must be able to take it back, and nobody can put out who may do as much as they.
        let mut users = json!({ other.as_str(): ALMOST_ALL });
        let is_creator_above_all = rules.authorization.explicitly_privilege_room_creators;
        if !is_creator_above_all {
            users[user_id.as_str()] = json!(ALL);
        }
        let tombstone = if is_creator_above_all { 150 } else { ALL };
        let events = json!({ "m.room.power_levels": ALL, "m.room.server_acl": ALL, "m.room.tombstone": tombstone });
        let power_levels = [("users".to_owned(), users), ("events".to_owned(), events)].into_iter().collect();
        let new = NewRoom {
            creator: user_id.to_owned(),
            version: None,
            preset: RoomPreset::PrivateChat,
            creation_content: Map::new(),
            initial_state: Vec::new(),
            power_levels,
            name: None,
            topic: None,
            alias: None,
            invite: Vec::new(),
            is_direct: true,
            is_listed: false,
        };
        let room_id = self.create(new).await?;
        self.get(&room_id).await
    }

    async fn invite_friend(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        other: &UserId,
        message: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        let profile = self.profile_for_membership(other).await?;
        let mut content = crate::membership::member_content(&MembershipState::Invite, &profile, message, Some(true));
        let marker = message.map_or_else(|| json!({}), |message| json!({ "message": message }));
        content.insert(FRIEND_REQUEST.into(), marker);
        let wish = Wish {
            sender: user_id.to_owned(),
            kind: TimelineEventType::RoomMember,
            content: to_raw_value(&Value::Object(content)).map_err(|error| RoomError::BadContent(error.to_string()))?,
            state_key: Some(other.to_string()),
            redacts: None,
            transaction: None,
        };
        Ok(self.send(room, wish).await?.event_id)
    }

    /// Leaves a room that came to nothing, and forgets it.
    pub(super) async fn abandon(&self, room: &SharedRoom, user_id: &UserId) {
        let left = async {
            self.change_any_membership(room, Change::Leave, own(user_id)).await?;
            self.forget(room, user_id).await
        };
        if let Err(error) = left.await {
            warn!(room.id = %room.room_id, user.id = %user_id, error = &error as &dyn std::error::Error,
                "{user_id} is still in a room that nobody was invited to");
        }
    }
}

/// A user acts for themselves.
pub(super) fn own(user_id: &UserId) -> Target {
    let user_id: OwnedUserId = user_id.to_owned();
    Target { sender: user_id.clone(), user_id, reason: None, is_direct: None }
}
