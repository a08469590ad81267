//! How much there is, and how much there was each day: for those who run the server.
//!
//! What is said is counted as it is committed, and written down now and then; who is ended by force loses what it hasn't written, half
//! a minute's at most. What there is is counted when somebody asks, and then not again for a minute.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::{Change, Committed, Millis};
use ruma::{OwnedServerName, events::TimelineEventType};
use store::{Store, Write, figures};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::now;

const DAY: Millis = 24 * 60 * 60_000;
/// How often it is written down what was said.
const WRITE_EVERY: Duration = Duration::from_secs(30);
/// For how long what was counted is told again.
const FRESH: Duration = Duration::from_secs(60);

const MESSAGES: &str = "messages";
const LOCAL_MESSAGES: &str = "local_messages";

/// What there is.
#[derive(Clone, Copy, Debug)]
pub struct Census {
    /// What the store has counted.
    pub there: figures::Census,
    /// How many people were seen within a day.
    pub active_in_a_day: i64,
    /// How many people were seen within 30 days.
    pub active_in_a_month: i64,
    /// How many reports wait.
    pub reports_waiting: i64,
    /// How many accounts wait for approval.
    pub approvals_waiting: i64,
    /// When it was counted, milliseconds since 1970.
    pub counted_at: Millis,
}

/// What was said on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    /// When it began, in UTC, milliseconds since 1970.
    pub began_at: Millis,
    /// Messages of anybody.
    pub messages: i64,
    /// Messages of users of this server.
    pub local_messages: i64,
}

/// Counts. Cheap to clone.
#[derive(Clone)]
pub struct Statistics {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    server_name: OwnedServerName,
    /// What isn't written yet, by day and figure.
    unwritten: Mutex<BTreeMap<(i64, &'static str), i64>>,
    /// Held while it is counted, so that it is counted once.
    counted: tokio::sync::Mutex<Option<(Instant, Census)>>,
}

impl Statistics {
    /// Of what happens in `store`.
    pub fn new(store: Store, server_name: OwnedServerName) -> Self {
        let (unwritten, counted) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { shared: Arc::new(Shared { store, server_name, unwritten, counted }) }
    }

    /// Counts what was said. Doesn't block.
    pub fn ingest(&self, committed: &Committed) {
        // The node that wrote it counts it.
        if committed.foreign {
            return;
        }
        let day = now().div_euclid(DAY);
        for (_, change) in committed.changes.iter() {
            let Change::Event(event) = change else { continue };
            let is_said = matches!(event.pdu.kind, TimelineEventType::RoomMessage | TimelineEventType::RoomEncrypted);
            if !is_said || event.pdu.state_key.is_some() || event.soft_failed {
                continue;
            }
            let mut unwritten = self.unwritten();
            *unwritten.entry((day, MESSAGES)).or_default() += 1;
            if event.pdu.sender.server_name() == self.shared.server_name {
                *unwritten.entry((day, LOCAL_MESSAGES)).or_default() += 1;
            }
        }
    }

    /// Writes down what was said, now and then, until `stop` is cancelled; then once more.
    pub async fn run(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(WRITE_EVERY)).await.is_some() {
            self.write_down().await;
        }
        self.write_down().await;
    }

    async fn write_down(&self) {
        let counts = std::mem::take(&mut *self.unwritten());
        if counts.is_empty() {
            return;
        }
        let mut write = Write::new();
        for ((day, figure), count) in &counts {
            figures::add(&mut write, *day, figure, *count);
        }
        if let Err(error) = self.shared.store.commit(write).await {
            warn!(error = &error as &dyn std::error::Error, "could not write how much was said; it is tried again");
            let mut unwritten = self.unwritten();
            for (key, count) in counts {
                *unwritten.entry(key).or_default() += count;
            }
        }
    }

    /// What there is, no more than a minute ago.
    pub async fn census(&self) -> Result<Census, store::Error> {
        // Held across the database on purpose: whoever else asks meanwhile wants the same.
        let mut counted = self.shared.counted.lock().await;
        if let Some((at, census)) = *counted
            && at.elapsed() < FRESH
        {
            return Ok(census);
        }
        let (store, now) = (&self.shared.store, now());
        let census = Census {
            there: store.figures().census().await?,
            active_in_a_day: store.figures().seen_since(now - DAY).await?,
            active_in_a_month: store.figures().seen_since(now - 30 * DAY).await?,
            reports_waiting: store.reports().count_waiting().await?,
            approvals_waiting: store.pending_accounts().count_waiting().await?,
            counted_at: now,
        };
        *counted = Some((Instant::now(), census));
        Ok(census)
    }

    /// What was said on each of the last `days` days, today last. What other nodes counted within half a minute is not in it.
    pub async fn days(&self, days: u32) -> Result<Vec<Day>, store::Error> {
        let today = now().div_euclid(DAY);
        let first = today - i64::from(days.max(1)) + 1;
        let mut by_day: BTreeMap<i64, Day> =
            (first..=today).map(|day| (day, Day { began_at: day * DAY, messages: 0, local_messages: 0 })).collect();
        let mut add = |day: i64, figure: &str, count: i64| {
            let Some(known) = by_day.get_mut(&day) else { return };
            match figure {
                MESSAGES => known.messages += count,
                LOCAL_MESSAGES => known.local_messages += count,
                _ => {}
            }
        };
        let rows = self.shared.store.figures().days(first).await?;
        rows.iter().for_each(|row| add(row.day, &row.figure, row.count));
        self.unwritten().iter().for_each(|((day, figure), count)| add(*day, figure, *count));
        Ok(by_day.into_values().collect())
    }

    fn unwritten(&self) -> MutexGuard<'_, BTreeMap<(i64, &'static str), i64>> {
        self.shared.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
