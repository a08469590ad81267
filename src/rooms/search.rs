//! Looking for what was said, in every language.
//!
//! **How.** [`terms`] cuts a text, the store's index knows under which terms it is found, [`indexer`] keeps that index behind the
//! stream, and [`query`] asks it. The index decides nothing: whatever it gives is read again, and shown only as far as the same
//! [`Sight`](crate::Sight) reaches that decides what a page of the timeline shows.

mod document;
mod indexer;
mod query;
mod question;
mod recent;
mod terms;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::counter;
use model::{Committed, Kind, Position, Refusal};
use store::Store;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use crate::{RoomError, Rooms};
use indexer::NAME;
use recent::Recent;

pub use query::{Cursor, Found, Order, SearchPage, SearchRequest};
pub use store::search::Key as SearchKey;

/// For so long a question waits for the index to come to where the stream was when it was asked. A node that isn't told by others
/// hears of what they commit within a second.
const PATIENCE: Duration = Duration::from_secs(2);
/// It doesn't if the index is so many positions behind: then it makes up for what was before.
const TOO_FAR: i64 = 5_000;
/// How often it is looked how far another node's index has come.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What can be looked for.
#[derive(Clone, Debug)]
pub struct SearchConfig {
    /// Whether what is said can be looked for at all.
    pub enabled: bool,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Why nothing was looked for.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The operator doesn't want it.
    #[error("this server does not search messages")]
    Disabled,
    /// The question makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The rooms could not be read.
    #[error(transparent)]
    Room(#[from] RoomError),
}

impl From<store::Error> for SearchError {
    fn from(error: store::Error) -> Self {
        Self::Room(error.into())
    }
}

impl Refusal for SearchError {
    fn kind(&self) -> Kind {
        match self {
            Self::Disabled => Kind::Forbidden,
            Self::Invalid(_) => Kind::Invalid,
            Self::Room(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Disabled => Some("search_disabled"),
            Self::Invalid(_) => None,
            Self::Room(error) => error.code(),
        }
    }
}

/// The search of this deployment. Cheap to clone.
#[derive(Clone)]
pub struct Search {
    shared: Arc<Shared>,
}

struct Shared {
    rooms: Rooms,
    is_enabled: bool,
    recent: Mutex<Recent>,
    /// Up to here everything was heard of.
    heard: watch::Sender<Position>,
    /// Up to here everything is in the index, as far as this node keeps it.
    indexed: watch::Sender<Position>,
    /// Somebody waits for the index.
    looked_for: Notify,
}

impl Search {
    /// A search in `rooms`, which finds what is in the index; [`Self::run`] keeps that.
    pub fn new(rooms: Rooms, config: &SearchConfig) -> Self {
        let shared = Shared {
            rooms,
            is_enabled: config.enabled,
            recent: Mutex::default(),
            heard: watch::Sender::default(),
            indexed: watch::Sender::default(),
            looked_for: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes note of a commit. Quick, never waits.
    pub fn ingest(&self, committed: &Committed) {
        if self.shared.is_enabled {
            self.recent().ingest(committed);
            self.shared.heard.send_replace(committed.upto);
        }
    }

    /// Waits until what was said before now is in the index, for a while.
    async fn catch_up(&self) -> Result<(), store::Error> {
        let target = self.store().visible_position().await?;
        let is_ours = self.store().duties().of(NAME).is_some();
        let until = Instant::now() + PATIENCE;
        let mut indexed = self.shared.indexed.subscribe();
        while Instant::now() < until {
            let at = match is_ours {
                true => *indexed.borrow_and_update(),
                false => self.store().followers().position(NAME).await?.unwrap_or_default(),
            };
            if at >= target {
                return Ok(());
            }
            if target.0 - at.0 > TOO_FAR {
                break;
            }
            self.shared.looked_for.notify_one();
            match is_ours {
                true => drop(timeout(until - Instant::now(), indexed.changed()).await),
                false => sleep(LOOK_EVERY).await,
            }
        }
        counter!("comity_search_behind_total").increment(1);
        Ok(())
    }

    fn store(&self) -> &Store {
        &self.shared.rooms.shared.store
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
