//! Broadcasts as Matrix clients see them: server notices, in a room that each user has with the server.
//!
//! Nothing is made for people who aren't there. Each user has a marker that says up to where this one was told; it is looked at when
//! a device of the user asks for what is new, or waits for it, and what came after it is put into the user's room, in bounded
//! batches. The room is made when there is something to put into it. A notice bears the name of its broadcast as its transaction
//! id, so that whoever stopped half way goes on without saying anything twice.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-notices>

mod queue;
mod room;
mod say;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use model::{Change, Committed, Position};
use quick_cache::sync::Cache;
use rooms::{RoomError, Rooms};
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use store::Store;
use sync::Sync;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use users::{RegisterError, Users};

use crate::broadcasts::Broadcasts;
use queue::Queue;

pub(crate) use say::{device, scope_of};

/// Of how many users it is remembered how far they were told.
const USERS: usize = 20_000;
/// How many users are told side by side.
const SIDE_BY_SIDE: usize = 8;
/// How often it is looked whether another node has published something.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// How notices are given.
#[derive(Clone, Debug)]
pub struct NoticesConfig {
    /// Whether they are.
    pub enabled: bool,
    /// What their sender and their rooms are called.
    pub name: String,
}

impl Default for NoticesConfig {
    fn default() -> Self {
        Self { enabled: true, name: "Server notices".to_owned() }
    }
}

/// Why somebody could not be told.
#[derive(Debug, thiserror::Error)]
enum NoticeError {
    #[error("there is no user to speak for the server")]
    Sender(#[from] RegisterError),
    #[error("the room of notices could not be made or written into")]
    Room(#[from] RoomError),
    #[error("the store failed")]
    Store(#[from] store::Error),
    #[error("another node makes the room")]
    Claimed,
}

/// Server notices. Cheap to clone.
#[derive(Clone)]
pub struct Notices {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    rooms: Rooms,
    users: Arc<Users>,
    sync: Sync,
    broadcasts: Broadcasts,
    config: NoticesConfig,
    /// The last change of any broadcast, as far as this node knows.
    latest: AtomicI64,
    told: Cache<OwnedUserId, Told>,
    queue: Queue,
}

/// How far a user was told, as this node remembers it.
#[derive(Clone, Debug)]
struct Told {
    upto: Position,
    room_id: Option<OwnedRoomId>,
}

impl Notices {
    /// `sync`: knows whose devices are there.
    pub fn new(
        store: Store,
        rooms: Rooms,
        users: Arc<Users>,
        sync: Sync,
        broadcasts: Broadcasts,
        config: NoticesConfig,
    ) -> Self {
        let (latest, told, queue) = (AtomicI64::new(0), Cache::new(USERS), Queue::default());
        Self { shared: Arc::new(Shared { store, rooms, users, sync, broadcasts, config, latest, told, queue }) }
    }

    /// Hears of a commit. Doesn't block.
    pub fn ingest(&self, committed: &Committed) {
        if !self.shared.config.enabled {
            return;
        }
        for (_, change) in committed.changes.iter() {
            match change {
                Change::Broadcast { .. } => self.shared.queue.look(),
                Change::Receipt { room_id, receipt, .. } => {
                    let is_notice = self
                        .shared
                        .told
                        .get(&receipt.user_id)
                        .is_some_and(|told| told.room_id.as_ref() == Some(room_id));
                    if is_notice {
                        self.shared.queue.push(&receipt.user_id, true);
                    }
                }
                _ => {}
            }
        }
        if committed.gap {
            self.shared.queue.look();
        }
    }

    /// A device of a user asks for what is new. Doesn't wait.
    pub fn note_syncing(&self, user_id: &UserId) {
        let latest = self.shared.latest.load(Ordering::Acquire);
        // Once after the start of this process it is looked what was read meanwhile.
        let told = self.shared.told.get(user_id);
        if latest > 0 && told.as_ref().is_none_or(|told| told.upto.0 < latest) {
            self.shared.queue.push(user_id, told.is_none());
        }
    }

    /// Tells people, until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        if !self.shared.config.enabled {
            return;
        }
        let workers = (0..SIDE_BY_SIDE).map(|_| self.work(stop.clone()));
        tokio::join!(self.look(stop.clone()), futures_util::future::join_all(workers));
    }

    /// Finds out that there is something to tell, and puts those onto the queue who are there.
    async fn look(&self, stop: CancellationToken) {
        let shared = &self.shared;
        loop {
            match shared.store.broadcasts().last_change().await {
                Ok(last) if last.0 > shared.latest.load(Ordering::Acquire) => {
                    shared.latest.store(last.0, Ordering::Release);
                    // Who doesn't wait now will ask again, and be told then.
                    shared.sync.syncing_now().iter().for_each(|user_id| self.note_syncing(user_id));
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "could not look up whether there are notices");
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = shared.queue.looked_for() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn work(&self, stop: CancellationToken) {
        loop {
            let (user_id, is_read) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                errand = self.shared.queue.pop() => errand,
            };
            match self.shared.attend(&user_id, is_read).await {
                Ok(()) => {}
                // The other node tells the user too, or this one does when the user asks again.
                Err(NoticeError::Claimed) => debug!(user.id = %user_id, "another node makes the room of notices"),
                Err(error) => {
                    warn!(user.id = %user_id, error = &error as &dyn std::error::Error, "{user_id} could not be told a notice");
                }
            }
        }
    }
}
