//! Before-hooks: addresses that are asked before something is done here, and may refuse it or have it done otherwise.
//!
//! This is on the way of what they want to be asked about, and of nothing else: without any, whoever acts looks at one number in memory.
//! The services below know this as [`model::gate::Gate`], and ask before they take anybody's turn.

mod breaker;
mod change;
mod hook;
mod words;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use model::gate::{Acts, Answer, Gate, GateError, Leave, Proposal};
use peers::vault::Vault;
use serde_json::value::RawValue;
use store::{Store, before_hooks::BeforeHookRow};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::WebhookError;
use hook::Hook;
use words::Decision;

pub use change::BeforeHook;
pub use words::OnFailure;

/// How many there may be: whoever acts waits for all that want to be asked.
const MOST: usize = 10;
/// How long whoever acts waits for all of them at most.
const ALTOGETHER: Duration = Duration::from_secs(10);
/// How often it is looked whether another node changed them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Those that are asked.
pub(super) struct Before {
    store: Store,
    vault: Arc<Vault>,
    client: reqwest::Client,
    /// About what, [`Acts::bits`].
    asks_about: AtomicU8,
    known: RwLock<Known>,
    /// Counts how often the list was read: an older reading doesn't replace a later one.
    readings: AtomicU64,
}

#[derive(Default)]
struct Known {
    /// In the order in which they are asked.
    hooks: Arc<[Arc<Hook>]>,
    reading: u64,
}

impl Before {
    pub(super) fn new(store: Store, vault: Arc<Vault>, client: reqwest::Client) -> Self {
        let (asks_about, known, readings) = (AtomicU8::new(0), RwLock::default(), AtomicU64::new(1));
        Self { store, vault, client, asks_about, known, readings }
    }

    /// Keeps up with what other nodes change, until `stop` is cancelled.
    pub(super) async fn tend(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.refresh().await {
                let error = &error as &dyn std::error::Error;
                warn!(
                    error,
                    "could not read which webhooks are asked before something is done; those known before still are"
                );
            }
        }
    }

    /// Reads who is asked. Those that have not changed keep what is known of them.
    pub(super) async fn refresh(&self) -> Result<(), store::Error> {
        let reading = self.readings.fetch_add(1, Ordering::AcqRel);
        let rows = self.store.before_hooks().all().await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if reading < known.reading {
            return Ok(());
        }
        known.reading = reading;
        if rows.iter().eq(known.hooks.iter().map(|hook| &hook.row)) {
            return Ok(());
        }
        let hook = |row: BeforeHookRow| {
            let same = known.hooks.iter().find(|hook| hook.row == row).cloned();
            same.unwrap_or_else(|| Arc::new(Hook::new(row, &self.vault)))
        };
        let hooks: Arc<[_]> = rows.into_iter().map(hook).collect();
        let acts: Acts = hooks.iter().flat_map(|hook| hook.acts.iter().copied()).collect();
        known.hooks = hooks;
        self.asks_about.store(acts.bits(), Ordering::Release);
        Ok(())
    }

    fn hooks(&self) -> Arc<[Arc<Hook>]> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).hooks.clone()
    }

    async fn ask_all(&self, proposal: Proposal<'_>) -> Result<Leave, GateError> {
        let ends = Instant::now() + ALTOGETHER;
        let id = format!("{:016x}", rand::random::<u64>());
        let mut changed: Option<Box<RawValue>> = None;
        for hook in self.hooks().iter() {
            if !hook.acts.contains(&proposal.act) {
                continue;
            }
            // Each sees what the one before it made of it.
            let content = changed.as_deref().unwrap_or(proposal.content);
            let left = ends.saturating_duration_since(Instant::now());
            let answer = hook.ask(&self.client, &id, &Proposal { content, ..proposal }, left).await;
            match answer {
                Ok(Decision::Allow) => {}
                Ok(Decision::Change(content)) => changed = Some(content),
                Ok(Decision::Refuse(reason)) => return Err(GateError::Refused(reason)),
                Err(_) if hook.on_failure == OnFailure::Allow => {}
                Err(_) => return Err(GateError::Silent),
            }
        }
        Ok(Leave { content: changed, mark: None })
    }
}

impl Gate for Before {
    fn asks_about(&self) -> Acts {
        Acts::of_bits(self.asks_about.load(Ordering::Acquire))
    }

    fn ask<'a>(&'a self, proposal: Proposal<'a>) -> Answer<'a> {
        Box::pin(self.ask_all(proposal))
    }
}
