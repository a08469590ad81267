//! How often one may ask: a bucket for each address, account or user, in bounded memory.
//!
//! Where nodes share a cache, they share the buckets: each asks its own first, which costs nothing, and then the one that all take
//! from. While the cache is away, each node's own bucket decides.

use std::{
    fmt::Display,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use fabric::{
    Cache as SharedCache,
    cache::{Bucket, Key},
};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use model::{Kind, Refusal};
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};

use crate::config::{Rate, RateLimitsConfig};

/// How many buckets of one kind are remembered: who was forgotten starts with a full one.
const BUCKETS: usize = 10_000;

/// Too often; later is fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests")]
pub struct Limited {
    /// How long to wait.
    pub retry_after: Duration,
}

impl Refusal for Limited {
    fn kind(&self) -> Kind {
        Kind::RateLimited
    }

    fn retry_after_ms(&self) -> Option<u64> {
        Some(u64::try_from(self.retry_after.as_millis()).unwrap_or(u64::MAX).max(1))
    }
}

/// The rate limits of this server. They may change while it runs.
pub struct Limits {
    kinds: RwLock<Kinds>,
    cache: SharedCache,
}

struct Kinds {
    is_enabled: bool,
    login_address: Arc<SharedBuckets<IpAddr>>,
    login_account: Arc<SharedBuckets<String>>,
    registration: Arc<SharedBuckets<IpAddr>>,
    lookups: Arc<SharedBuckets<IpAddr>>,
    messages: Arc<SharedBuckets<OwnedUserId>>,
    joins: Arc<SharedBuckets<OwnedUserId>>,
}

impl Limits {
    /// The limits that are configured, as far as `cache` reaches.
    pub fn new(config: &RateLimitsConfig, cache: &SharedCache) -> Self {
        let kinds = Kinds {
            is_enabled: config.enabled,
            login_address: SharedBuckets::new("login:from", config.login_address, cache),
            login_account: SharedBuckets::new("login:to", config.login_account, cache),
            registration: SharedBuckets::new("registration", config.registration, cache),
            // Asking for a free name costs less than taking one: a form asks again with every letter.
            lookups: SharedBuckets::new("lookup", config.login_address, cache),
            messages: SharedBuckets::new("messages", config.messages, cache),
            joins: SharedBuckets::new("joins", config.joins, cache),
        };
        Self { kinds: RwLock::new(kinds), cache: cache.clone() }
    }

    /// From now on these hold. Of a kind whose rate stays as it was, nobody gets a full bucket by that.
    pub fn set(&self, config: &RateLimitsConfig) {
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        kinds.is_enabled = config.enabled;
        change(&mut kinds.login_address, config.login_address, &self.cache);
        change(&mut kinds.login_account, config.login_account, &self.cache);
        change(&mut kinds.registration, config.registration, &self.cache);
        change(&mut kinds.lookups, config.login_address, &self.cache);
        change(&mut kinds.messages, config.messages, &self.cache);
        change(&mut kinds.joins, config.joins, &self.cache);
    }

    /// Takes from a bucket of one kind, if there are limits.
    async fn take<K: Hash + Eq + Clone + Display>(
        &self,
        kind: impl FnOnce(&Kinds) -> &Arc<SharedBuckets<K>>,
        key: K,
    ) -> Result<(), Limited> {
        let buckets = {
            let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
            kinds.is_enabled.then(|| kind(&kinds).clone())
        };
        match buckets {
            Some(buckets) => buckets.take(key).await,
            None => Ok(()),
        }
    }

    /// One more event that `user_id` sends.
    pub async fn check_send(&self, user_id: &UserId) -> Result<(), Limited> {
        self.take(|kinds| &kinds.messages, user_id.to_owned()).await
    }

    /// One more room that `user_id` joins or knocks on.
    pub async fn check_join(&self, user_id: &UserId) -> Result<(), Limited> {
        self.take(|kinds| &kinds.joins, user_id.to_owned()).await
    }

    pub(crate) async fn check_login_from(&self, address: IpAddr) -> Result<(), Limited> {
        self.take(|kinds| &kinds.login_address, network_of(address)).await
    }

    pub(crate) async fn check_login_to(&self, account: &str) -> Result<(), Limited> {
        self.take(|kinds| &kinds.login_account, account.to_owned()).await
    }

    pub(crate) async fn check_lookup_from(&self, address: IpAddr) -> Result<(), Limited> {
        self.take(|kinds| &kinds.lookups, network_of(address)).await
    }

    pub(crate) async fn check_registration_from(&self, address: IpAddr) -> Result<(), Limited> {
        self.take(|kinds| &kinds.registration, network_of(address)).await
    }
}

fn change<K: Hash + Eq + Clone + Display>(kind: &mut Arc<SharedBuckets<K>>, rate: Rate, cache: &SharedCache) {
    if kind.rate != rate {
        *kind = SharedBuckets::new(kind.kind, rate, cache);
    }
}

/// Whoever has one IPv6 address has the other 2⁶⁴ of its network.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => address.into(),
            None => IpAddr::from((u128::from(address) & (u128::MAX << 64)).to_be_bytes()),
        },
        address => address,
    }
}

/// A bucket for each of many, out of which all nodes take.
struct SharedBuckets<K> {
    kind: &'static str,
    rate: Rate,
    own: Buckets<K>,
    cache: SharedCache,
}

impl<K: Hash + Eq + Clone + Display> SharedBuckets<K> {
    fn new(kind: &'static str, rate: Rate, cache: &SharedCache) -> Arc<Self> {
        Arc::new(Self { kind, rate, own: Buckets::new(rate), cache: cache.clone() })
    }

    async fn take(&self, key: K) -> Result<(), Limited> {
        let shared = self.cache.is_shared().then(|| Key::rate(self.kind, &key.to_string()));
        self.own.take(key)?;
        let Some(shared) = shared else { return Ok(()) };
        match self.cache.take(&shared, bucket_of(self.rate)).await {
            Ok(Some(retry_after)) => Err(Limited { retry_after }),
            // Away: this node's own bucket has decided.
            Ok(None) | Err(_) => Ok(()),
        }
    }
}

/// A bucket for each of many, each of a size of its own, out of which all nodes take. They hold whether other limits do or not.
pub(crate) struct OwnSizes {
    kind: &'static str,
    // One that is given another size is another bucket.
    own: Cache<(String, Rate), Arc<DefaultDirectRateLimiter>>,
    clock: DefaultClock,
    cache: SharedCache,
}

impl OwnSizes {
    pub(crate) fn new(kind: &'static str, cache: &SharedCache) -> Self {
        Self { kind, own: Cache::new(BUCKETS), clock: DefaultClock::default(), cache: cache.clone() }
    }

    pub(crate) async fn take(&self, key: &str, rate: Rate) -> Result<(), Limited> {
        let bucket = || Ok::<_, std::convert::Infallible>(Arc::new(RateLimiter::direct(quota_of(rate))));
        let Ok(own) = self.own.get_or_insert_with(&(key.to_owned(), rate), bucket);
        own.check().map_err(|until| Limited { retry_after: until.wait_time_from(self.clock.now()) })?;
        if !self.cache.is_shared() {
            return Ok(());
        }
        match self.cache.take(&Key::rate(self.kind, key), bucket_of(rate)).await {
            Ok(Some(retry_after)) => Err(Limited { retry_after }),
            // Away: this node's own bucket has decided.
            Ok(None) | Err(_) => Ok(()),
        }
    }
}

fn bucket_of(rate: Rate) -> Bucket {
    Bucket { period: rate.period(), burst: rate.burst.get() }
}

fn quota_of(rate: Rate) -> Quota {
    Quota::with_period(rate.period()).expect("a period is longer than nothing").allow_burst(rate.burst)
}

/// A bucket for each of many.
pub(crate) struct Buckets<K> {
    quota: Quota,
    clock: DefaultClock,
    buckets: Cache<K, Arc<DefaultDirectRateLimiter>>,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { quota: quota_of(rate), clock: DefaultClock::default(), buckets: Cache::new(BUCKETS) }
    }

    pub(crate) fn take(&self, key: K) -> Result<(), Limited> {
        let bucket = self
            .buckets
            .get_or_insert_with(&key, || Ok::<_, std::convert::Infallible>(Arc::new(RateLimiter::direct(self.quota))));
        let Ok(bucket) = bucket;
        bucket.check().map_err(|until| Limited { retry_after: until.wait_time_from(self.clock.now()) })
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[tokio::test]
    async fn who_sends_too_often_is_told_how_long_to_wait_and_nobody_else_is() {
        let limits = Limits::new(&RateLimitsConfig::default(), &SharedCache::in_process());
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
        let mut limited = None;
        for _ in 0..200 {
            limited = limited.or(limits.check_send(alice).await.err());
        }
        let limited = limited.expect("200 at once are too many");
        assert!(limited.retry_after_ms().is_some_and(|wait| (1..=100).contains(&wait)), "{limited:?}");
        assert_eq!(limits.check_send(bob).await, Ok(()));
    }

    #[tokio::test]
    async fn switched_off_there_is_no_limit() {
        let config = RateLimitsConfig { enabled: false, ..RateLimitsConfig::default() };
        let limits = Limits::new(&config, &SharedCache::in_process());
        for _ in 0..10_000 {
            assert_eq!(limits.check_send(user_id!("@alice:a.test")).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn what_is_changed_holds_at_once_and_leaves_the_other_buckets_as_they_are() {
        let mut config = RateLimitsConfig { joins: Rate::per_second(0.001, 2), ..RateLimitsConfig::default() };
        let limits = Limits::new(&config, &SharedCache::in_process());
        let alice = user_id!("@alice:a.test");
        for _ in 0..2 {
            assert_eq!(limits.check_join(alice).await, Ok(()));
        }
        config.messages = Rate::per_second(0.001, 3);
        limits.set(&config);
        let mut sent = 0;
        while limits.check_send(alice).await.is_ok() {
            sent += 1;
        }
        assert_eq!(sent, 3);
        assert!(limits.check_join(alice).await.is_err(), "its bucket was empty");
        config.enabled = false;
        limits.set(&config);
        assert_eq!((limits.check_send(alice).await, limits.check_join(alice).await), (Ok(()), Ok(())));
    }

    #[test]
    fn addresses_of_one_network_share_a_bucket() {
        let address = |text: &str| text.parse::<IpAddr>().expect("it is an address");
        assert_eq!(network_of(address("2001:db8::1")), network_of(address("2001:db8::ffff:2")));
        assert_ne!(network_of(address("2001:db8::1")), network_of(address("2001:db8:0:1::1")));
        assert_eq!(network_of(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
