//! A connection that comes back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use lapin::Connection;
use metrics::{counter, gauge};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Broker, BrokerError, close};

/// The first wait after a failure; each one in a row doubles it.
const FIRST: Duration = Duration::from_millis(200);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(10);
/// A connection that lasted so long was a good one.
const LASTED: Duration = Duration::from_secs(5);

/// How a connection is, for whoever wants to know. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Link(watch::Sender<LinkState>);

/// How a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It was not made yet.
    New,
    /// It stands.
    Up,
    /// It broke, or can't be made.
    Down {
        /// Since when.
        since: Instant,
        /// Why, in a sentence without secrets.
        error: String,
    },
}

impl Default for Link {
    fn default() -> Self {
        Self(watch::Sender::new(LinkState::New))
    }
}

impl Link {
    /// How it is now.
    pub fn state(&self) -> LinkState {
        self.0.borrow().clone()
    }

    /// Whether it stands.
    pub fn is_up(&self) -> bool {
        *self.0.borrow() == LinkState::Up
    }

    /// Hears of every change.
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.0.subscribe()
    }

    fn went_down(&self, error: &BrokerError) -> bool {
        let mut is_news = false;
        self.0.send_modify(|state| {
            let since = match state {
                LinkState::Down { since, .. } => *since,
                _ => Instant::now(),
            };
            is_news = !matches!(state, LinkState::Down { .. });
            *state = LinkState::Down { since, error: error.to_string() };
        });
        is_news
    }
}

impl Broker {
    /// Does `work` on a connection, and on a new one whenever it, or the connection, fails, until `stop` is cancelled. `work` that
    /// ends well is done again, too. `link` is told how it goes.
    ///
    /// `name`: in the broker's list of connections, and in figures; one of few.
    pub async fn keep<W>(&self, name: &'static str, link: &Link, stop: &CancellationToken, work: W)
    where
        W: Fn(Arc<Connection>) -> BoxFuture<'static, Result<(), BrokerError>> + Send + Sync,
    {
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = self.once(name, link, stop, &work) => ended,
            };
            gauge!("comity_broker_up", "connection" => name).set(0.0);
            if stop.is_cancelled() {
                return;
            }
            if began.elapsed() > LASTED {
                failures = 0;
            }
            if let Err(error) = ended {
                failures = failures.saturating_add(1);
                counter!("comity_broker_failures_total", "connection" => name, "reason" => error.word()).increment(1);
                let (broker, reason) = (self, error.word());
                if link.went_down(&error) {
                    warn!(%broker, connection = name, reason, error = &error as &dyn std::error::Error, "lost the broker {broker}");
                } else {
                    debug!(%broker, connection = name, reason, error = &error as &dyn std::error::Error, "the broker {broker} is still away");
                }
            }
            let wait = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST);
            let wait = wait.mul_f64(0.75 + 0.5 * rand::random::<f64>());
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    async fn once<W>(
        &self,
        name: &'static str,
        link: &Link,
        stop: &CancellationToken,
        work: &W,
    ) -> Result<(), BrokerError>
    where
        W: Fn(Arc<Connection>) -> BoxFuture<'static, Result<(), BrokerError>> + Send + Sync,
    {
        let connection = Arc::new(self.connect(name).await?);
        if link.0.send_replace(LinkState::Up) != LinkState::Up {
            info!(broker = %self, connection = name, "connected to the broker {self}");
        }
        gauge!("comity_broker_up", "connection" => name).set(1.0);
        let ended = tokio::select! {
            ended = work(connection.clone()) => ended,
            () = stop.cancelled() => Ok(()),
        };
        close(&connection).await;
        ended
    }
}
