//! Who is to be told: each once, in order, and no more of them than fit.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedUserId, UserId};
use tokio::sync::Notify;

/// How many users may wait. Who doesn't fit is told when a device of this one asks again.
const MOST: usize = 20_000;

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    pushed: Notify,
    look: Notify,
}

#[derive(Default)]
struct Waiting {
    order: VecDeque<OwnedUserId>,
    /// Whether it is to be looked what the user has read, too.
    users: HashMap<OwnedUserId, bool>,
}

impl Queue {
    /// Puts a user at the end, unless this one waits already.
    pub(super) fn push(&self, user_id: &UserId, is_read: bool) {
        let mut waiting = self.waiting();
        if let Some(known) = waiting.users.get_mut(user_id) {
            *known |= is_read;
            return;
        }
        if waiting.users.len() >= MOST {
            return;
        }
        waiting.users.insert(user_id.to_owned(), is_read);
        waiting.order.push_back(user_id.to_owned());
        drop(waiting);
        self.pushed.notify_one();
    }

    /// The next user, as soon as there is one, and whether it is to be looked what this one has read.
    pub(super) async fn pop(&self) -> (OwnedUserId, bool) {
        loop {
            if let Some(next) = self.next() {
                return next;
            }
            self.pushed.notified().await;
        }
    }

    fn next(&self) -> Option<(OwnedUserId, bool)> {
        let mut waiting = self.waiting();
        let user_id = waiting.order.pop_front()?;
        let is_read = waiting.users.remove(&user_id).unwrap_or_default();
        if !waiting.order.is_empty() {
            // Several wait for what is pushed; one is woken by each.
            self.pushed.notify_one();
        }
        Some((user_id, is_read))
    }

    /// There may be something new to tell.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    /// Waits for [`Self::look`].
    pub(super) async fn looked_for(&self) {
        self.look.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[tokio::test]
    async fn each_waits_once_and_what_is_asked_of_it_adds_up() {
        let (queue, alice, bob) = (Queue::default(), user_id!("@alice:a.test"), user_id!("@bob:a.test"));
        queue.push(alice, false);
        queue.push(bob, false);
        queue.push(alice, true);
        assert_eq!(queue.pop().await, (alice.to_owned(), true));
        assert_eq!(queue.pop().await, (bob.to_owned(), false));
        assert!(queue.next().is_none());
        queue.push(alice, false);
        assert_eq!(queue.pop().await, (alice.to_owned(), false));
    }
}
