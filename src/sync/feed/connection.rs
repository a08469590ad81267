//! One place among the connected, and what is said to whoever has it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use fabric::cache::Key;
use ruma::OwnedUserId;
use tokio::sync::Notify;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::connections::{SAID_LASTS, Shared};

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Sessions of its user have ended: is its own among them?
    Check,
    /// It is to end.
    End(Ending),
}

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server ends.
    GoingAway,
    /// An administrator wants it so.
    Forced,
    /// Its device has connected anew, and there was no place for both.
    Superseded,
}

/// What is to be told, as bits, and that there is something.
#[derive(Default)]
pub(super) struct Signal {
    words: AtomicU8,
    told: Notify,
}

pub(super) const CHECK: u8 = 1;
pub(super) const FORCED: u8 = 2;
pub(super) const SUPERSEDED: u8 = 4;

impl Signal {
    pub(super) fn tell(&self, word: u8) {
        self.words.fetch_or(word, Ordering::AcqRel);
        self.told.notify_one();
    }
}

/// A place among the connected. It is free again when this is dropped.
pub struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) user_id: OwnedUserId,
    pub(super) device_id: String,
    pub(super) number: u64,
    pub(super) signal: Arc<Signal>,
    pub(super) _open: TaskTrackerToken,
}

impl Connection {
    /// Says in the cache that the device is connected here.
    pub async fn say(&self) {
        if let Some((cache, node)) = self.shared.said_in.get() {
            let _ = cache.put_field(&Key::sessions(&self.user_id), &self.device_id, node, SAID_LASTS).await;
        }
    }

    /// Waits until there is something to be told. May be dropped at any moment.
    pub async fn told(&self) -> Word {
        loop {
            let words = self.signal.words.swap(0, Ordering::AcqRel);
            if words & FORCED != 0 {
                return Word::End(Ending::Forced);
            }
            if words & SUPERSEDED != 0 {
                return Word::End(Ending::Superseded);
            }
            if words & CHECK != 0 {
                return Word::Check;
            }
            tokio::select! {
                biased;
                () = self.shared.ending.cancelled() => return Word::End(Ending::GoingAway),
                () = self.signal.told.notified() => {}
            }
        }
    }

    /// Gives the place back, and says so in the cache.
    pub async fn leave(self) {
        let has_another = self.shared.free(&self.user_id, &self.device_id, self.number);
        if let (false, Some((cache, _))) = (has_another, self.shared.said_in.get()) {
            let _ = cache.remove_field(&Key::sessions(&self.user_id), &self.device_id).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.free(&self.user_id, &self.device_id, self.number);
    }
}
