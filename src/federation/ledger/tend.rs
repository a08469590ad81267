//! What time does to the ledger: its rows are summed up by days, and thrown away when they are old.

use std::time::Duration;

use model::Millis;
use store::{
    Error, Write,
    ledger::{self, sums},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Ledger, figures::day_of};
use crate::{millis, now, sender::Shared};

/// How often what was written is summed up.
const SUM_UP_EVERY: Duration = Duration::from_secs(10);
/// How many rows are summed up by one Write.
const SUMMED_UP_AT_ONCE: i64 = 5_000;
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);
/// How many rows are thrown away by one Write.
const PRUNED_AT_ONCE: i64 = 1_000;
/// How many days the sums of days are kept.
const KEEP_DAYS: i64 = 400;

impl Ledger {
    /// Sums up and throws away until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        let mut summing_up = tokio::time::interval(SUM_UP_EVERY);
        let mut pruning = tokio::time::interval(PRUNE_EVERY);
        summing_up.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        pruning.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = pruning.tick() => self.prune(now(), &stop).await.inspect_err(|_| pruning.reset_after(SUM_UP_EVERY)),
                _ = summing_up.tick() => self.sum_up(&stop).await,
            };
            if let Err(error) = done {
                let error = &error as &dyn std::error::Error;
                warn!(error, "could not sum up what was delivered, and tries again");
            }
        }
    }

    /// Sums up what was written since the last time, if something was.
    pub(super) async fn sum_up(&self, stop: &CancellationToken) -> Result<(), Error> {
        let Shared { store, records, .. } = &*self.shared;
        if store.duties().of("ledger").is_none() || !(records.take_fresh() || store.duties().is_shared()) {
            return Ok(());
        }
        let done = async {
            while let Some(upto) = store.ledger().not_summed_up(SUMMED_UP_AT_ONCE).await? {
                let mut write = Write::new();
                sums::sum_up(&mut write, upto);
                store.commit(write).await?;
                if stop.is_cancelled() {
                    break;
                }
            }
            Ok(())
        };
        done.await.inspect_err(|_| records.mark_fresh())
    }

    /// Throws away what is older at `now` than it is kept.
    pub(super) async fn prune(&self, now: Millis, stop: &CancellationToken) -> Result<(), Error> {
        let Shared { store, records, config, .. } = &*self.shared;
        self.sum_up(stop).await?;
        if store.duties().of("ledger").is_none() {
            return records.load().await;
        }
        let before = now - millis(config.ledger_keep);
        while let Some(upto) = store.ledger().old(before, PRUNED_AT_ONCE).await? {
            let mut write = Write::new();
            ledger::prune(&mut write, upto);
            store.commit(write).await?;
            if stop.is_cancelled() {
                return Ok(());
            }
        }
        let mut write = Write::new();
        sums::prune_days(&mut write, day_of(now) - KEEP_DAYS);
        store.commit(write).await?;
        records.load().await
    }
}
