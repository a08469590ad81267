//! Which members a device has been told of, so that it isn't told again.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use model::{Position, RoomNid};
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};

/// How many devices are remembered, and how many members each.
const DEVICES: usize = 2_000;
const MEMBERS: usize = 5_000;

type Told = HashMap<(RoomNid, OwnedUserId), Position>;

pub(crate) struct Sent(Cache<(OwnedUserId, String), Arc<Mutex<Told>>>);

impl Sent {
    pub(crate) fn new() -> Self {
        Self(Cache::new(DEVICES))
    }

    /// The device begins anew and knows nobody.
    pub(crate) fn forget(&self, user_id: &UserId, device_id: &str) {
        self.0.remove(&(user_id.to_owned(), device_id.to_owned()));
    }

    /// Of `members`, those of whom the device was not told by `since`. They count as told at `upto`.
    ///
    /// A device that comes again with the same `since` never got the answer, and is told again.
    pub(crate) fn untold(
        &self,
        user_id: &UserId,
        device_id: &str,
        room: RoomNid,
        since: Position,
        upto: Position,
        members: Vec<OwnedUserId>,
    ) -> Vec<OwnedUserId> {
        let key = (user_id.to_owned(), device_id.to_owned());
        let told = self.0.get_or_insert_with(&key, || Ok::<_, std::convert::Infallible>(Arc::default()));
        let Ok(told) = told;
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() > MEMBERS {
            told.clear();
        }
        members
            .into_iter()
            .filter(|member| {
                let at = told.entry((room, member.clone())).or_insert(upto);
                let is_known = *at <= since && *at != upto;
                if !is_known {
                    *at = upto;
                }
                !is_known
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, user_id};

    use super::*;

    #[test]
    fn a_member_is_told_once_and_again_only_if_the_answer_was_lost() {
        let (sent, alice, bob) = (Sent::new(), user_id!("@alice:a.test"), owned_user_id!("@bob:a.test"));
        let untold = |since, upto| {
            sent.untold(alice, "PHONE", RoomNid(1), Position(since), Position(upto), vec![bob.clone()]).len()
        };
        assert_eq!(untold(0, 5), 1);
        assert_eq!(untold(0, 6), 1, "the answer up to 5 was lost");
        assert_eq!(untold(6, 7), 0);
        sent.forget(alice, "PHONE");
        assert_eq!(untold(7, 8), 1);
    }
}
