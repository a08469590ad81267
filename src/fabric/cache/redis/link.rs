//! The connection to Redis, kept up: whoever calls has it at once, or knows at once that there is none.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::gauge;
use redis::{RedisError, RedisResult};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::target::{ANSWER, CONNECT, Connection, Target};

/// How often a connection is tried that nobody complains of.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The first wait after a failure; each one in a row doubles it.
pub(super) const FIRST: Duration = Duration::from_millis(50);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(2);

/// A connection that stands.
#[derive(Clone)]
pub(super) struct Standing {
    /// The later one has the greater number.
    number: u64,
    pub(super) connection: Connection,
}

type State = Option<Standing>;

/// Ends what keeps it up when it is dropped.
pub(super) struct Link {
    state: Arc<watch::Sender<State>>,
    keeping: JoinHandle<()>,
}

impl Link {
    /// Connects, and connects again, until it is dropped.
    pub(super) fn keep(target: Target) -> Self {
        let state = Arc::new(watch::Sender::new(None));
        let keeper = Keeper { target, state: state.clone(), number: 0, away_since: None };
        Self { state, keeping: tokio::spawn(keeper.run()) }
    }

    pub(super) fn standing(&self) -> State {
        self.state.borrow().clone()
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.borrow().is_some()
    }

    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// A call by `standing` failed: nobody else tries it.
    pub(super) fn lost(&self, standing: &Standing, error: &RedisError) {
        let was_ours = take_down(&self.state, standing.number);
        if was_ours {
            warn!(error = error as &dyn std::error::Error, "the cache is away; each node goes on by itself");
        }
    }
}

fn take_down(state: &watch::Sender<State>, number: u64) -> bool {
    state.send_if_modified(|state| {
        let is_it = state.as_ref().is_some_and(|standing| standing.number == number);
        if is_it {
            *state = None;
        }
        is_it
    })
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_up() { "up" } else { "away" })
    }
}

struct Keeper {
    target: Target,
    state: Arc<watch::Sender<State>>,
    number: u64,
    away_since: Option<Instant>,
}

impl Keeper {
    async fn run(mut self) {
        let mut pause = FIRST;
        loop {
            gauge!("comity_cache_up").set(0.0);
            match within(CONNECT, self.target.connect()).await {
                Ok(connection) => {
                    self.came_up();
                    pause = FIRST;
                    self.number += 1;
                    self.state.send_replace(Some(Standing { number: self.number, connection: connection.clone() }));
                    gauge!("comity_cache_up").set(1.0);
                    self.probe(connection).await;
                    self.away_since = Some(Instant::now());
                }
                Err(error) => {
                    if self.away_since.is_none() {
                        self.away_since = Some(Instant::now());
                        let (target, error) = (format!("{:?}", self.target), &error as &dyn std::error::Error);
                        warn!(error, target, "the cache can't be reached; each node goes on by itself");
                    }
                    pause = (pause * 2).min(LONGEST);
                }
            }
            sleep(pause).await;
        }
    }

    fn came_up(&mut self) {
        let target = format!("{:?}", self.target);
        match self.away_since.take() {
            Some(since) => {
                let duration_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                info!(duration_ms, target, "the cache is there again");
            }
            None => info!(target, "the cache is there"),
        }
    }

    /// Returns when the connection is lost.
    async fn probe(&self, mut connection: Connection) {
        let mut changes = self.state.subscribe();
        changes.mark_unchanged();
        if self.state.borrow().is_none() {
            return;
        }
        loop {
            tokio::select! {
                biased;
                _ = changes.changed() => return,
                () = sleep(PROBE_EVERY) => {}
            }
            if let Err(error) = within(ANSWER, connection.ping()).await {
                if take_down(&self.state, self.number) {
                    warn!(error = &error as &dyn std::error::Error, "the cache is away; each node goes on by itself");
                }
                return;
            }
        }
    }
}

pub(super) async fn within<T>(longest: Duration, work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let late = |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    timeout(longest, work).await.map_err(late)?
}
