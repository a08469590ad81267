//! What has changed for a user: the streams of everything, told once each, in order.
//!
//! **Invariant.** No reader skips or repeats: an answer holds exactly what lies after its `since` and up to its
//! `next_batch`, and the same `since` gives the same or more. An incremental answer whose room has been quiet or busy only
//! since this process started comes from memory, without a query.
//!
//! The [`notifier`](Notifier) remembers what was committed lately and wakes who waits; [`request`](Sync::sync) answers one
//! request, each kind of thing by its file in `streams/`.
//!
//! **To add a stream:** a file in `streams/`, its part of [`Answer`], one line in `request.rs`; for who is connected and stays so, a
//! variant of [`feed::News`] and a line in `feed/gather.rs`.

mod answer;
mod arrivals;
mod cells;
mod conversations;
mod error;
pub mod feed;
mod filter;
mod ignored;
mod lazy;
mod notifier;
mod push;
mod push_rules;
mod request;
mod room;
mod room_list;
mod settings;
mod shown;
pub mod sliding;
mod states;
mod streams;
mod token;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fabric::Cache;
use model::Millis;
use rooms::Rooms;
use store::Store;
use tokio_util::sync::CancellationToken;

pub use answer::{Answer, UnreadCounts};
pub use arrivals::{Arrival, OnArrival};
pub use conversations::{Conversation, ConversationPage, ConversationsWanted, LastEvent, Mark, Settings};
pub use error::SyncError;
pub use notifier::Notifier;
pub use push::{Badge, Notification};
pub use request::SyncRequest;
pub use shown::{Reader, Rendered, Shown};
pub use streams::{presence::PresenceNow, receipts::Read, to_device::ToDeviceMessages};
pub use token::{SyncToken, TimelineToken};

/// How clients are kept up to date.
#[derive(Clone, Debug)]
pub struct SyncConfig {
    /// Whether users see who is online.
    pub presence: bool,
    /// The longest that a request waits for something to happen, whatever the client asks for.
    pub max_timeout: Duration,
    /// How many events of each room are kept in memory for those who follow it.
    pub recent_events_per_room: usize,
    /// How many events of all rooms together are kept in memory.
    pub recent_events: usize,
    /// How many users' memberships are kept in memory.
    pub cached_users: usize,
    /// How many state entries of rooms are kept in memory.
    pub cached_state_entries: u64,
    /// How many may be connected at once.
    pub connections: feed::ConnectionsConfig,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            presence: true,
            max_timeout: Duration::from_secs(120),
            recent_events_per_room: 64,
            recent_events: 8_000,
            cached_users: 20_000,
            cached_state_entries: 200_000,
            connections: feed::ConnectionsConfig::default(),
        }
    }
}

/// Is told of each user whose device asks for what is new; it must not wait.
pub type OnSyncing = Box<dyn Fn(&ruma::UserId) + Send + std::marker::Sync>;

/// Answers syncs. Cheap to clone.
#[derive(Clone)]
pub struct Sync {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) rooms: Rooms,
    pub(crate) notifier: Notifier,
    pub(crate) config: SyncConfig,
    /// Cancelled when the server ends: who waits is answered with what there is.
    pub(crate) ending: CancellationToken,
    pub(crate) events: shown::Events,
    pub(crate) states: states::States,
    pub(crate) settings: settings::AllSettings,
    pub(crate) lazy: lazy::Sent,
    pub(crate) sliding: sliding::Connections,
    pub(crate) arrivals: arrivals::Arrivals,
    pub(crate) filters: quick_cache::sync::Cache<(ruma::OwnedUserId, i64), Arc<filter::Filter>>,
    pub(crate) typing: Mutex<streams::typing::Typists>,
    pub(crate) presence: Arc<Mutex<streams::presence::Present>>,
    pub(crate) together: std::sync::OnceLock<streams::presence::Together>,
    pub(crate) checkpoints: push::Checkpoints,
    pub(crate) connections: feed::Connections,
    pub(crate) on_syncing: std::sync::OnceLock<OnSyncing>,
    /// Held by whoever looks for somebody's direct conversation and makes it, by user.
    pub(crate) direct: [tokio::sync::Mutex<()>; 16],
}

impl Sync {
    /// `notifier`: the one that hears of every commit of `store`.
    /// `ending`: cancelled when who waits shall be answered with what there is.
    pub fn new(store: Store, rooms: Rooms, notifier: Notifier, config: SyncConfig, ending: CancellationToken) -> Self {
        let events = shown::Events::new(store.clone(), &notifier);
        let states = states::States::new(store.clone(), config.cached_state_entries);
        let presence = notifier.present();
        let connections = feed::Connections::new(config.connections.clone(), ending.clone());
        Self {
            shared: Arc::new(Shared {
                store,
                rooms,
                notifier,
                config,
                ending,
                events,
                states,
                settings: settings::AllSettings::new(),
                lazy: lazy::Sent::new(),
                sliding: sliding::Connections::new(),
                arrivals: arrivals::Arrivals::new(),
                filters: quick_cache::sync::Cache::new(1_000),
                typing: Mutex::default(),
                presence,
                together: std::sync::OnceLock::new(),
                checkpoints: push::Checkpoints::default(),
                connections,
                on_syncing: std::sync::OnceLock::new(),
                direct: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            }),
        }
    }

    /// Shares with other nodes who is there, as far as `cache` reaches. `node`: this one. Before [`Self::tend`].
    pub fn share(&self, cache: Cache, node: Arc<str>) {
        self.shared.together.get_or_init(|| streams::presence::Together::new(cache, node));
    }

    /// Tells `listener` what of other servers has come onto devices of this one's people. Only the first who wants that is told.
    pub fn on_arrival(&self, listener: OnArrival) {
        self.shared.arrivals.tell(listener);
    }

    /// Tells `listener` who asks for what is new. Only the first who wants that is told.
    pub fn on_syncing(&self, listener: OnSyncing) {
        self.shared.on_syncing.set(listener).ok();
    }

    /// Who is connected to this node and stays so, to be told what is new.
    pub fn connections(&self) -> &feed::Connections {
        &self.shared.connections
    }

    /// Whose devices wait for news here and now.
    pub fn syncing_now(&self) -> Vec<ruma::OwnedUserId> {
        self.shared.notifier.in_use()
    }

    /// What time does by itself, until `stop`: typing ends, people become idle and go away, counts are written down.
    pub async fn tend(&self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
            }
            let now = now();
            let done = async {
                self.expire_typing(now).await?;
                self.expire_presence(now).await?;
                self.write_checkpoints(push::CHECKPOINTS_AT_ONCE).await
            };
            if let Err(error) = done.await {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not write what time changed");
            }
        }
        if let Err(error) = self.write_checkpoints(usize::MAX).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not write how far people have read");
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
