//! Hears what other servers are owed, and gives each destination its turn.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::{counter, gauge};
use model::{Change, Committed};
use rooms::Rooms;
use ruma::{OwnedServerName, ServerName};
use store::{Store, duties::Duty};
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use users::Users;

use crate::{
    FederationConfig, Way,
    book::{Book, Health},
    destination::Turn,
    ledger::Ledger,
    now,
    records::Records,
    spread::Heard,
};

/// Between the first turns of those who were owed something when the server started.
const STAGGER: Duration = Duration::from_millis(20);
/// How often what is owed is counted.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// How often all destinations are looked up at most, when others wrote to the database.
const RESCAN_EVERY: Duration = Duration::from_secs(2);

/// Sends to other servers what they are owed. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) rooms: Rooms,
    pub(crate) users: Arc<Users>,
    pub(crate) way: Arc<dyn Way>,
    pub(crate) config: FederationConfig,
    pub(crate) server_name: OwnedServerName,
    pub(crate) records: Records,
    book: Mutex<Book>,
    /// Somebody has work, or a turn is over.
    work: Notify,
    /// Something happened that the book doesn't know of.
    is_behind: AtomicBool,
    pub(crate) heard: Mutex<Heard>,
    /// Something was heard.
    pub(crate) news: Notify,
}

impl Shared {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to send to `destination` what is in the store; `None`: another node does. What is in no store, and lives in the memory of
    /// the node that heard of it, each node sends by itself.
    pub(crate) fn duty(&self, destination: &ServerName) -> Option<Duty> {
        self.store.duties().of(&format!("destination/{destination}"))
    }

    /// Tells whoever gives out turns.
    pub(crate) fn wake(&self) {
        self.work.notify_one();
    }
}

impl Sender {
    /// `way`: how transactions get to other servers; [`peers::Peers`].
    pub fn new(store: Store, rooms: Rooms, users: Arc<Users>, way: Arc<dyn Way>, config: FederationConfig) -> Self {
        let server_name = rooms.server_name().to_owned();
        Self {
            shared: Arc::new(Shared {
                records: Records::new(store.clone(), server_name.clone()),
                store,
                rooms,
                users,
                way,
                config,
                server_name,
                book: Mutex::default(),
                work: Notify::new(),
                is_behind: AtomicBool::new(false),
                heard: Mutex::default(),
                news: Notify::new(),
            }),
        }
    }

    /// Hears of a commit. Doesn't block.
    pub fn ingest(&self, committed: &Committed) {
        let shared = &self.shared;
        if committed.gap {
            shared.is_behind.store(true, Ordering::Release);
            shared.wake();
        }
        let mut has_work = false;
        for (_, change) in committed.changes.iter() {
            if let Change::Outgoing { destinations } = change {
                let ours: Vec<_> = destinations.iter().filter(|server| shared.duty(server).is_some()).collect();
                let mut book = shared.book();
                for destination in &ours {
                    book.mark(destination);
                }
                has_work |= !ours.is_empty();
            }
        }
        if has_work {
            shared.wake();
        }
        // What passes is told to other servers by the node that heard of it.
        if !committed.foreign {
            shared.hear(committed);
        }
    }

    /// What became of what was sent, and how those are to whom it is sent.
    pub fn ledger(&self) -> Ledger {
        Ledger::new(self.shared.clone())
    }

    /// Something of another server has come onto a device of somebody here. Doesn't block.
    pub fn arrived(&self, arrival: sync::Arrival) {
        self.shared.hear_arrival(arrival);
    }

    /// Whether what `server` is owed is this node's to send.
    pub fn sends_to(&self, server: &ServerName) -> bool {
        self.shared.duty(server).is_some()
    }

    /// `server` has just sent an authenticated request: it is there, whatever was thought of it.
    pub fn alive(&self, server: &ServerName) {
        if self.shared.book().alive(server, Instant::now()) {
            self.shared.wake();
        }
    }

    /// Sends until `stop` is cancelled. What is not acknowledged by then stays in the store.
    pub async fn run(&self, stop: CancellationToken) {
        let spreading = tokio::spawn(self.shared.clone().spread(stop.clone()));
        let (heeding, until) = (self.clone(), stop.clone());
        let heeding = tokio::spawn(async move { heeding.heed_retries(until).await });
        if self.load(&stop).await {
            self.give_turns(&stop).await;
        }
        let _ = spreading.await;
        let _ = heeding.await;
    }

    /// Tries servers at once that somebody else wants to be tried: another node's admin, or the command line.
    async fn heed_retries(&self, stop: CancellationToken) {
        let trust = self.shared.rooms.trust();
        let mut changes = trust.changes();
        let mut seen = trust.revision().max(0);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            match trust.retries_after(seen).await {
                Ok((upto, servers)) => {
                    seen = upto;
                    for server in &servers {
                        info!(destination = %server, "{server} is tried again at once");
                        self.shared.book().retry(server, Instant::now());
                    }
                    self.shared.wake();
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "could not look up which servers are to be tried again");
                }
            }
        }
    }

    /// Those who were owed something when the server stopped, or another node did. False: it is to stop again.
    async fn load(&self, stop: &CancellationToken) -> bool {
        loop {
            match self.try_load().await {
                Ok(()) => return true,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "could not look up what other servers are owed, and tries again");
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(RESCAN_EVERY) => {}
            }
        }
    }

    async fn try_load(&self) -> Result<(), store::Error> {
        let is_ours = |destination: &ServerName| self.shared.duty(destination).is_some();
        let mut owed = self.shared.store.outbox().destinations().await?;
        let mut rows = self.shared.store.destinations().list().await?;
        owed.retain(|destination| is_ours(destination));
        rows.retain(|row| is_ours(&row.destination));
        let mut forget = store::Write::new();
        for row in rows.iter().filter(|row| !owed.contains(&row.destination)) {
            store::destinations::remove(&mut forget, &row.destination);
        }
        if !forget.is_empty() {
            self.shared.store.commit(forget).await?;
        }
        let (began, now) = (Instant::now(), now());
        let mut book = self.shared.book();
        for (at, destination) in (0..).zip(&owed) {
            let row = rows.iter().find(|row| row.destination == *destination);
            let health = row.map(Health::from).unwrap_or_default();
            let wait = row.map_or(0, |row| row.retry_at - now).max(0).unsigned_abs();
            // A clock that was wrong must not keep anybody waiting for ever.
            let wait = Duration::from_millis(wait).min(self.shared.config.curves.longest());
            book.mark_later(destination, health, began + wait + STAGGER * at);
        }
        if !owed.is_empty() {
            info!(destinations = owed.len(), "{} servers are owed something", owed.len());
        }
        Ok(())
    }

    async fn give_turns(&self, stop: &CancellationToken) {
        let shared = &self.shared;
        let mut turns = JoinSet::new();
        let mut counting = tokio::time::interval(COUNT_EVERY);
        counting.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut scanned_at: Option<Instant> = None;
        let mut duties = shared.store.duties().changes();
        loop {
            let began = Instant::now();
            loop {
                let Some(destination) = shared.book().begin(began, shared.config.workers) else { break };
                turns.spawn(Turn::take(shared.clone(), destination, stop.clone()));
            }
            let may_scan_at = scanned_at.map_or(began, |at| at + RESCAN_EVERY);
            let is_behind = shared.is_behind.load(Ordering::Acquire);
            if is_behind && may_scan_at <= began {
                shared.is_behind.store(false, Ordering::Release);
                scanned_at = Some(began);
                self.scan().await;
                continue;
            }
            let wake_at = [shared.book().wake_at(), is_behind.then_some(may_scan_at)].into_iter().flatten().min();
            let wake_at = wake_at.unwrap_or(began + COUNT_EVERY);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = shared.work.notified() => {}
                Some(_) = turns.join_next() => {}
                Ok(()) = duties.changed() => {
                    shared.book().forget(|destination| shared.duty(destination).is_none());
                    if !self.load(stop).await {
                        break;
                    }
                }
                () = tokio::time::sleep_until(wake_at) => {}
                _ = counting.tick() => self.count().await,
            }
        }
        // Each of them has heard of the end too, and takes a few seconds at most.
        while turns.join_next().await.is_some() {}
    }

    /// Somebody else wrote to the database: whoever is owed something gets a turn.
    async fn scan(&self) {
        match self.shared.store.outbox().destinations().await {
            Ok(destinations) => {
                let mut book = self.shared.book();
                for destination in destinations.iter().filter(|server| self.shared.duty(server).is_some()) {
                    book.mark(destination);
                }
            }
            Err(error) => {
                self.shared.is_behind.store(true, Ordering::Release);
                let error = &error as &dyn std::error::Error;
                warn!(error, "could not look up what other servers are owed, and tries again");
            }
        }
    }

    async fn count(&self) {
        gauge!("comity_federation_destinations_waiting").set(self.shared.book().waiting() as f64);
        match self.shared.store.outbox().length().await {
            Ok(length) => gauge!("comity_federation_outbox_length").set(length as f64),
            Err(_) => counter!("comity_federation_outbox_uncounted_total").increment(1),
        }
    }
}

impl From<&store::destinations::DestinationRow> for Health {
    fn from(row: &store::destinations::DestinationRow) -> Self {
        Self {
            failures: u32::try_from(row.failures).unwrap_or(u32::MAX),
            failing_since: row.failing_since,
            last_failure: row.last_failure.clone(),
            catch_up_upto: row.catch_up_upto,
            // Perhaps; it is looked up.
            is_unsure: true,
            at_most: None,
        }
    }
}
