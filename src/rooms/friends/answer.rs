//! Saying yes or no, taking back, and ending it.

use ruma::{EventId, UserId};
use store::{
    Write,
    friends::{TieRow, put_card},
};

use super::{FriendError, FriendRequest, RequestState, Standing, ask::own, standing};
use crate::{
    Rooms,
    membership::{Change, Target},
};

impl Rooms {
    /// Says yes to a request: joins its room, through the server of who asked. Once more does nothing.
    pub async fn accept_friend(&self, user_id: &UserId, id: &EventId) -> Result<FriendRequest, FriendError> {
        let tie = self.tie(user_id, id).await?;
        if !tie.is_incoming {
            return Err(FriendError::NotYours("a request is accepted by whom it was made to"));
        }
        match standing(&tie) {
            Standing::Open => self.accept_tie(user_id, &tie).await,
            Standing::Accepted => Ok(self.request_of(&tie).await?),
            Standing::Closed => Err(FriendError::Closed(self.state_of(&tie).await?)),
        }
    }

    pub(super) async fn accept_tie(&self, user_id: &UserId, tie: &TieRow) -> Result<FriendRequest, FriendError> {
        let via = [tie.friend_id.server_name().to_owned()];
        self.join(&tie.room_id, user_id, &via, None).await?;
        self.mark_direct(user_id, &tie.friend_id, &tie.room_id).await?;
        let now = self.shared.store.friends().request(user_id, tie.event).await?;
        Ok(self.request_of(now.as_ref().unwrap_or(tie)).await?)
    }

    /// Says no to a request: declines the invitation. Once more does nothing.
    pub async fn refuse_friend(&self, user_id: &UserId, id: &EventId) -> Result<(), FriendError> {
        let tie = self.tie(user_id, id).await?;
        if !tie.is_incoming {
            return Err(FriendError::NotYours(
                "a request is refused by whom it was made to, and withdrawn by who made it",
            ));
        }
        match self.state_of(&tie).await? {
            RequestState::Pending => {}
            RequestState::Refused => return Ok(()),
            state => return Err(FriendError::Closed(state)),
        }
        let room = self.get(&tie.room_id).await?;
        Ok(self.change_membership(&room, Change::Leave, own(user_id)).await?)
    }

    /// Takes a request back: nobody is invited any more, and who asked leaves the room. Once more does nothing.
    pub async fn withdraw_friend(&self, user_id: &UserId, id: &EventId) -> Result<(), FriendError> {
        let tie = self.tie(user_id, id).await?;
        if tie.is_incoming {
            return Err(FriendError::NotYours(
                "a request is withdrawn by who made it, and refused by whom it was made to",
            ));
        }
        match self.state_of(&tie).await? {
            RequestState::Pending => {}
            RequestState::Withdrawn => return Ok(()),
            state => return Err(FriendError::Closed(state)),
        }
        let room = self.get(&tie.room_id).await?;
        let (sender, other) = (user_id.to_owned(), tie.friend_id.clone());
        let target = Target { sender, user_id: other, reason: None, is_direct: None };
        self.change_membership(&room, Change::Kick, target).await?;
        self.abandon(&room, user_id).await;
        Ok(self.unmark_direct(user_id, &tie.room_id).await?)
    }

    /// `user_id` wants `other` for no friend any more. `is_mutual`: and leaves the rooms of the two, so that the other learns of
    /// it; otherwise only this one's list is changed.
    pub async fn remove_friend(&self, user_id: &UserId, other: &UserId, is_mutual: bool) -> Result<(), FriendError> {
        let between = self.between(user_id, other).await?;
        if between.friendship().is_none() {
            return Err(FriendError::NotFriends(other.to_owned()));
        }
        let mut write = Write::new();
        put_card(&mut write, user_id, other, &between.card, true);
        self.shared.store.commit(write).await?;
        if !is_mutual {
            return Ok(());
        }
        for tie in between.ties.iter().filter(|tie| standing(tie) == Standing::Accepted) {
            let room = self.get(&tie.room_id).await?;
            self.change_membership(&room, Change::Leave, own(user_id)).await?;
            self.unmark_direct(user_id, &tie.room_id).await?;
        }
        Ok(())
    }
}
