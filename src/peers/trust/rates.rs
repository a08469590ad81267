//! How often peers may ask.
//!
//! Each node has a bucket for each peer, which decides at once. Where nodes share a cache, they add up there, behind the requests, what
//! each of them let pass; when that is more than a peer may ask of all of them together, each node lets it wait for as long as it
//! takes to be less. So no request waits for the cache, and a peer gains a moment's requests by asking many nodes, and pays for them
//! afterwards. While the cache is away, each node's own bucket is all there is.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use fabric::{
    Cache as SharedCache,
    cache::{self, Key},
};
use futures_util::{StreamExt as _, stream};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use model::peer::Grant;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    TrustConfig,
    register::{Entry, Source},
};

/// How many peers' buckets of one kind are remembered: who was forgotten starts with a full one.
const BUCKETS: usize = 10_000;
/// How many buckets are added up at once.
const AT_ONCE: usize = 32;

/// A token bucket: `burst` at once, refilled at `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// How many a second.
    pub per_second: f64,
    /// How many at once after a rest.
    pub burst: u32,
}

/// What one peer may still ask.
pub(crate) type Bucket = DefaultDirectRateLimiter;

/// Who asks more often than that is told to wait.
pub(crate) struct Rates {
    paced: Buckets,
    slow: Buckets,
    clock: DefaultClock,
    together: OnceLock<Together>,
}

struct Buckets {
    kind: &'static str,
    rate: Rate,
    of: Cache<OwnedServerName, Arc<Bucket>>,
}

/// What all nodes let pass.
struct Together {
    cache: SharedCache,
    state: Mutex<Passed>,
    /// Something was let pass.
    due: Notify,
}

#[derive(Default)]
struct Passed {
    /// What this node let pass and has not told the others yet.
    untold: HashMap<Key, (cache::Bucket, u32)>,
    /// Whom no node lets pass until then.
    shut: HashMap<Key, Instant>,
}

impl Rates {
    pub(crate) fn new(config: &TrustConfig) -> Self {
        let buckets = |kind, rate| Buckets { kind, rate, of: Cache::new(BUCKETS) };
        let (paced, slow) = (buckets("peer:paced", config.paced), buckets("peer:slow", config.slow));
        Self { paced, slow, clock: DefaultClock::default(), together: OnceLock::new() }
    }

    /// Counts together with other nodes, as far as `cache` reaches.
    pub(crate) fn share(&self, cache: &SharedCache) {
        if cache.is_shared() {
            self.together.get_or_init(|| Together::new(cache.clone()));
        }
    }

    /// Takes one request. Errors: when there is room for it.
    pub(crate) fn take(&self, server: &ServerName, grant: Grant, entry: &Entry) -> Result<(), Duration> {
        let buckets = match grant {
            Grant::Paced => &self.paced,
            // Whom nothing is granted may still ask how it is seen.
            Grant::Slow | Grant::No => &self.slow,
            _ if entry.rate.is_none() => return Ok(()),
            _ => &self.paced,
        };
        let shared = self.together.get().map(|together| {
            let (key, rate) = buckets.key(server, entry);
            (together, key, rate)
        });
        if let Some((together, key, _)) = &shared {
            together.check(key)?;
        }
        let check = |bucket: &Bucket| bucket.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()));
        match &entry.rate {
            Some(own) => check(own),
            None => check(&buckets.of_server(server)),
        }?;
        if let Some((together, key, rate)) = shared {
            together.passed(key, rate);
        }
        Ok(())
    }

    /// Tells the other nodes what this one let pass, until `stop` is cancelled.
    pub(crate) async fn add_up(&self, stop: &CancellationToken) {
        let Some(together) = self.together.get() else { return };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = together.due.notified() => together.add_up().await,
            }
        }
    }
}

impl Buckets {
    fn of_server(&self, server: &ServerName) -> Arc<Bucket> {
        let made =
            self.of.get_or_insert_with(server, || Ok::<_, std::convert::Infallible>(Arc::new(bucket(self.rate))));
        match made {
            Ok(bucket) => bucket,
            Err(never) => match never {},
        }
    }

    /// The bucket of all nodes, and what it holds. Those that one row is about share one, if the row has a rate of its own.
    fn key(&self, server: &ServerName, entry: &Entry) -> (Key, Rate) {
        match (entry.settings.limits.requests, &entry.source) {
            (Some(rate), Source::Row { pattern } | Source::Wildcard { pattern }) => (Key::rate("peer", pattern), rate),
            _ => (Key::rate(self.kind, server.as_str()), self.rate),
        }
    }
}

impl Together {
    fn new(cache: SharedCache) -> Self {
        Self { cache, state: Mutex::default(), due: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, Passed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, key: &Key) -> Result<(), Duration> {
        let mut state = self.state();
        let Some(until) = state.shut.get(key) else { return Ok(()) };
        let wait = until.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            state.shut.remove(key);
            return Ok(());
        }
        Err(wait)
    }

    fn passed(&self, key: Key, rate: Rate) {
        let mut state = self.state();
        // While the cache hangs, as much is forgotten as can't be remembered.
        if state.untold.len() < BUCKETS || state.untold.contains_key(&key) {
            let bucket = cache::Bucket { period: period_of(rate), burst: rate.burst.max(1) };
            state.untold.entry(key).or_insert((bucket, 0)).1 += 1;
        }
        drop(state);
        self.due.notify_one();
    }

    async fn add_up(&self) {
        let untold = std::mem::take(&mut self.state().untold);
        let mut adding = stream::iter(untold)
            .map(|(key, (bucket, many))| async move {
                let spent = self.cache.spend(&key, bucket, many).await;
                (key, spent)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((key, spent)) = adding.next().await {
            // Away: this node's own bucket has decided.
            let Ok(Some(wait)) = spent else { continue };
            let mut state = self.state();
            if state.shut.len() >= BUCKETS {
                let now = Instant::now();
                state.shut.retain(|_, until| *until > now);
            }
            if state.shut.len() < BUCKETS {
                state.shut.insert(key, Instant::now() + wait);
            }
        }
    }
}

pub(crate) fn bucket(rate: Rate) -> Bucket {
    let quota = Quota::with_period(period_of(rate)).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN));
    RateLimiter::direct(quota.allow_burst(NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN)))
}

fn period_of(rate: Rate) -> Duration {
    Duration::from_secs_f64(1.0 / rate.per_second.clamp(1.0 / 86_400.0, 1e6))
}
