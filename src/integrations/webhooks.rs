//! Webhooks: addresses that are told what happens here, by requests that they can tell from forged ones.
//!
//! Each follows the stream by itself ([`crate::follow`]), so that one that is slow or away holds up no other, and nothing that
//! was committed is left out. Others are asked before something happens ([`before`]). docs/webhooks.md is the contract with them.

mod before;
mod change;
mod deliver;
mod sign;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::{Kind, Millis, Position, Refusal, gate::Gate};
use peers::vault::{Vault, VaultError};
use serde::{Deserialize, Serialize};
use store::{Store, webhooks::WebhookRow};
use tokio::{sync::Notify, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::follow::Stream;
use before::Before;
use deliver::Worker;

pub use before::{BeforeHook, OnFailure};
pub use change::{MadeWebhook, WebhookWish};
pub(crate) use deliver::plainly;

/// How many addresses there may be: each follows by itself.
const MOST: usize = 100;
/// What is sealed of one.
const SECRET: &str = "webhook";
/// How often it is looked whether another node, or another program, changed the addresses.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The webhooks of this deployment. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    stream: Stream,
    vault: Arc<Vault>,
    client: reqwest::Client,
    changed: Notify,
    progress: Mutex<HashMap<String, Progress>>,
    before: Arc<Before>,
}

/// How one of them is doing, in this process.
#[derive(Clone, Debug, Default)]
struct Progress {
    at: Position,
    failing_since: Option<Millis>,
    last_error: Option<String>,
}

/// Whether an address is told what has happened, or asked before it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Told.
    #[default]
    After,
    /// Asked.
    Before,
}

/// A webhook of either kind, for those who look after it.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum AnyWebhook {
    /// It is told what has happened.
    After(Webhook),
    /// It is asked before something happens.
    Before(BeforeHook),
}

/// A webhook that is told what has happened, for those who look after it.
#[derive(Clone, Debug, Serialize)]
pub struct Webhook {
    /// Given by the server.
    pub id: String,
    /// `after`.
    pub when: When,
    /// Where to.
    pub url: String,
    /// Which routing keys it is told.
    pub keys: Vec<String>,
    /// Who made it.
    pub created_by: String,
    /// When, milliseconds since 1970.
    pub created_at: Millis,
    /// Everything up to here was told.
    pub position: i64,
    /// How many positions of the stream it is behind.
    pub lag: i64,
    /// How many messages it did not take, and which are kept.
    pub dead_letters: i64,
    /// Since when it takes nothing, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Millis>,
    /// What came of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Since when it is told nothing, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Millis>,
    /// Why it is told nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_why: Option<String>,
}

/// Why something about webhooks was not done.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Something in it is wrong.
    #[error("`{field}` {wrong}")]
    Field {
        /// What.
        field: &'static str,
        /// Why.
        wrong: String,
    },
    /// There is no such webhook.
    #[error("there is no such webhook")]
    Unknown,
    /// There are enough of them.
    #[error("there are {0} such webhooks already; remove one first")]
    TooMany(usize),
    /// Its secret can't be sealed or opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The store failed.
    #[error("the webhook could not be stored")]
    Store(#[from] store::Error),
}

impl Refusal for WebhookError {
    fn kind(&self) -> Kind {
        match self {
            Self::Field { .. } => Kind::Invalid,
            Self::Unknown => Kind::NotFound,
            Self::TooMany(_) => Kind::Conflict,
            Self::Vault(_) => Kind::Internal,
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        matches!(self, Self::TooMany(_)).then_some("too_many_webhooks")
    }
}

impl Webhooks {
    /// `client`: what requests are made with; it follows no redirects.
    pub fn new(store: Store, stream: Stream, vault: Arc<Vault>, client: reqwest::Client) -> Self {
        let (changed, progress) = (Notify::new(), Mutex::default());
        let before = Arc::new(Before::new(store.clone(), vault.clone(), client.clone()));
        Self { shared: Arc::new(Shared { store, stream, vault, client, changed, progress, before }) }
    }

    /// Finds out who is asked before something happens, and answers whom services are to ask. To be done before anything can.
    pub async fn gate(&self) -> Result<Arc<dyn Gate>, store::Error> {
        self.shared.before.refresh().await?;
        Ok(self.shared.before.clone())
    }

    /// Tells every address what is new, and keeps up with which there are, until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        tokio::join!(self.tell(&stop), self.shared.before.tend(&stop));
    }

    async fn tell(&self, stop: &CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut running: HashMap<String, (WebhookRow, CancellationToken)> = HashMap::new();
        while !stop.is_cancelled() {
            match self.shared.store.webhooks().all().await {
                Ok(rows) => self.reconcile(rows, &mut running, &mut tasks, stop),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "could not read which webhooks there are");
                }
            }
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.shared.changed.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Starts those that are new, ends those that are gone, and does both where one has changed.
    fn reconcile(
        &self,
        rows: Vec<WebhookRow>,
        running: &mut HashMap<String, (WebhookRow, CancellationToken)>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let wanted: HashMap<_, _> =
            rows.into_iter().filter(|row| row.stopped.is_none()).map(|row| (row.id.clone(), row)).collect();
        running.retain(|id, (row, ends)| {
            let stays = wanted.get(id) == Some(row) && !ends.is_cancelled();
            if !stays {
                ends.cancel();
                self.progress().remove(id);
            }
            stays
        });
        for (id, row) in wanted {
            if running.contains_key(&id) {
                continue;
            }
            let ends = stop.child_token();
            match Worker::new(self.clone(), &row) {
                Ok(worker) => {
                    tasks.spawn(worker.run(ends.clone()));
                    running.insert(id, (row, ends));
                }
                Err(error) => {
                    warn!(
                        webhook.id = id,
                        error = &error as &dyn std::error::Error,
                        "a webhook can't be told anything"
                    );
                    self.progress().entry(id).or_default().last_error = Some(error.to_string());
                }
            }
        }
    }

    fn progress(&self) -> MutexGuard<'_, HashMap<String, Progress>> {
        self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a webhook among those who follow the stream.
fn follower_of(id: &str) -> String {
    format!("webhook/{id}")
}
