//! System events, broadcasts and notices, put together.

use std::{sync::Arc, time::Duration};

use model::Committed;
use peers::Peers;
use rooms::Rooms;
use store::Store;
use sync::Sync;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use users::Users;

use crate::{
    broadcasts::{Broadcast, BroadcastError, Broadcasts, BroadcastsConfig},
    notices::{Notices, NoticesConfig, device, scope_of},
    notifications::Notifications,
    system_events::{SystemEvents, SystemEventsConfig, Watch},
};

/// How often what is old is forgotten.
const PRUNE_EVERY: Duration = Duration::from_hours(1);

/// How people and admins are told things.
#[derive(Clone, Debug, Default)]
pub struct AnnouncementsConfig {
    /// `[events]`.
    pub events: SystemEventsConfig,
    /// `[broadcasts]`.
    pub broadcasts: BroadcastsConfig,
    /// `[broadcasts] notices…`.
    pub notices: NoticesConfig,
}

/// System events, broadcasts, and the notices by which Matrix clients hear of them. Cheap to clone.
#[derive(Clone)]
pub struct Announcements {
    /// What happened.
    pub events: SystemEvents,
    /// What people are told.
    pub broadcasts: Broadcasts,
    /// What somebody is notified of, broadcasts among it.
    pub notifications: Notifications,
    notices: Notices,
    store: Store,
    peers: Peers,
    users: Arc<Users>,
}

impl Announcements {
    /// `sync`: knows whose devices are there, and tells of those who ask. `ending`: cancelled when who waits is to be answered.
    pub fn new(
        store: Store,
        peers: Peers,
        users: Arc<Users>,
        rooms: Rooms,
        sync: Sync,
        config: AnnouncementsConfig,
        ending: CancellationToken,
    ) -> Self {
        let events = SystemEvents::new(peers.server_name().to_owned(), store.clone(), config.events);
        let broadcasts = Broadcasts::new(store.clone(), peers.clone(), users.clone(), config.broadcasts, ending);
        let (told, by) = (broadcasts.clone(), config.notices);
        let notifications = Notifications::new(store.clone(), rooms.clone(), sync.clone(), broadcasts.clone());
        let notices = Notices::new(store.clone(), rooms, users.clone(), sync.clone(), told, by);
        let who_tells = notices.clone();
        sync.on_syncing(Box::new(move |user_id| who_tells.note_syncing(user_id)));
        Self { events, broadcasts, notifications, notices, store, peers, users }
    }

    /// Hears of a commit. Doesn't block.
    pub fn ingest(&self, committed: &Committed) {
        self.broadcasts.ingest(committed);
        self.notices.ingest(committed);
    }

    /// How many users have a notice of a broadcast in their rooms.
    pub async fn noticed(&self, broadcast: &Broadcast) -> Result<i64, BroadcastError> {
        let (sender, scope) = (self.users.notices_user(), scope_of(&broadcast.row.id));
        Ok(self.store.notices().delivered(&sender, device(), &scope).await?)
    }

    /// Publishes what is due, tells peers and people, reports what the server noticed, and forgets what is old, until `stop` is
    /// cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        let watch = Watch::new(self.store.clone(), self.peers.clone(), self.events.clone());
        tokio::join!(
            self.broadcasts.tend(stop.clone()),
            self.notices.run(stop.clone()),
            watch.run(stop.clone()),
            self.prune(stop),
        );
    }

    async fn prune(&self, stop: CancellationToken) {
        loop {
            let pruned = async {
                self.events.prune().await?;
                self.broadcasts.prune().await
            };
            if let Err(error) = pruned.await {
                warn!(error = &error as &dyn std::error::Error, "could not forget old system events and broadcasts");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PRUNE_EVERY) => {}
            }
        }
    }
}
