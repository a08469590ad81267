//! Publishes what happens here, in the order of the one stream.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fabric::{BrokerError, Bus, bus::Message};
use metrics::gauge;
use model::{Committed, Position};
use ruma::OwnedServerName;
use store::{Store, Write, followers};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    recent::{After, News, Recent},
    render,
};
use crate::now;

/// Its name among the followers of the stream.
const NAME: &str = "bus";
/// How many things are published at once.
const AT_ONCE: usize = 1_000;
/// How many positions are read at once to make up for what was missed.
const WINDOW: i64 = 5_000;
/// How often it is noted at most how far it has come: after a crash, what came in this time is published again.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// The wait after the store failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Publishes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    bus: Bus,
    us: OwnedServerName,
    recent: Mutex<Recent>,
    news: Notify,
}

#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// How far it has come, and how far that is written down.
struct Progress {
    at: Position,
    noted: Position,
    noted_when: Instant,
}

impl Publisher {
    pub(super) fn new(store: Store, bus: Bus, us: OwnedServerName) -> Self {
        let (recent, news) = (Mutex::default(), Notify::new());
        Self { shared: Arc::new(Shared { store, bus, us, recent, news }) }
    }

    pub(super) fn ingest(&self, committed: &Committed) {
        if self.recent().ingest(committed) {
            self.shared.news.notify_one();
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn run(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let mut progress = loop {
            match self.begin().await {
                Ok(progress) => break progress,
                Err(error) => self.wait_after(&PublishError::Store(error)).await,
            }
        };
        loop {
            if let Err(error) = self.pass(&mut progress).await {
                self.wait_after(&error).await;
            }
        }
    }

    /// Where it stopped, or now, if it was never there.
    async fn begin(&self) -> Result<Progress, store::Error> {
        let store = &self.shared.store;
        // Whoever is told of commits is told of every one that becomes visible from here on.
        let visible = store.visible_position().await?;
        self.recent().begin(visible);
        let at = match store.followers().position(NAME).await? {
            Some(at) => at,
            None => {
                let at = visible;
                let mut write = Write::new();
                followers::begin(&mut write, NAME, at, now());
                store.commit(write).await?;
                info!(position = at.0, "the bus is told of what happens from now on");
                at
            }
        };
        Ok(Progress { at, noted: at, noted_when: Instant::now() })
    }

    /// Publishes everything that is new, and waits for more.
    async fn pass(&self, progress: &mut Progress) -> Result<(), PublishError> {
        loop {
            let after = self.recent().after(progress.at, AT_ONCE);
            let (messages, upto) = match after {
                After::News(news, upto) => (self.render(news).await?, upto),
                After::Forgotten(floor) => self.make_up(progress.at, floor).await?,
            };
            if upto <= progress.at && messages.is_empty() {
                break;
            }
            if !messages.is_empty() {
                self.shared.bus.ready().await;
                self.shared.bus.publish(&messages).await?;
            }
            progress.at = upto;
            gauge!("comity_bus_lag_positions").set((self.recent().upto().0 - upto.0).max(0) as f64);
            if progress.noted_when.elapsed() >= NOTE_EVERY {
                self.note(progress).await?;
            }
        }
        // What was published last is noted when nothing more has come for a while.
        match timeout(NOTE_EVERY, self.shared.news.notified()).await {
            Ok(()) => Ok(()),
            Err(_) => {
                self.note(progress).await?;
                self.shared.news.notified().await;
                Ok(())
            }
        }
    }

    async fn render(&self, news: Vec<(Position, News)>) -> Result<Vec<Message>, store::Error> {
        let mut messages = Vec::with_capacity(news.len());
        for (position, news) in news {
            match news {
                News::Event(event) => messages.extend(render::event(&self.shared.us, &event, position.0)),
                News::Presence(user_id) => {
                    let row = self.shared.store.presence().find(&user_id).await?;
                    messages.extend(row.and_then(|row| render::presence(&self.shared.us, &row, now())));
                }
            }
        }
        Ok(messages)
    }

    /// What came after `at`, from the store, and how far that goes.
    async fn make_up(&self, at: Position, floor: Position) -> Result<(Vec<Message>, Position), store::Error> {
        let upto = Position(floor.0.min(at.0.saturating_add(WINDOW)));
        let followers = self.shared.store.followers();
        let mut messages = Vec::new();
        for event in followers.events(at, upto).await? {
            messages.extend(render::event(&self.shared.us, &event, event.position.0));
        }
        for row in followers.presence(at, upto).await? {
            messages.extend(render::presence(&self.shared.us, &row, now()));
        }
        Ok((messages, upto))
    }

    async fn note(&self, progress: &mut Progress) -> Result<(), store::Error> {
        progress.noted_when = Instant::now();
        if progress.at > progress.noted {
            let mut write = Write::new();
            followers::moved(&mut write, NAME, progress.at, now());
            self.shared.store.commit(write).await?;
            progress.noted = progress.at;
        }
        Ok(())
    }

    async fn wait_after(&self, error: &PublishError) {
        match error {
            // The connection says so, and comes back by itself.
            PublishError::Broker(_) => self.shared.bus.ready().await,
            PublishError::Store(error) => {
                let error = error as &dyn std::error::Error;
                warn!(error, "could not read what the bus is to be told");
            }
        }
        sleep(PAUSE).await;
    }
}
