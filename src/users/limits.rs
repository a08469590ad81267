//! How often one may ask: a bucket for each address, account or user, in bounded memory.

use std::{hash::Hash, net::IpAddr, sync::Arc, time::Duration};

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

/// The rate limits of this server.
pub struct Limits(Option<Kinds>);

struct Kinds {
    login_address: Buckets<IpAddr>,
    login_account: Buckets<String>,
    registration: Buckets<IpAddr>,
    lookups: Buckets<IpAddr>,
    messages: Buckets<OwnedUserId>,
    joins: Buckets<OwnedUserId>,
}

impl Limits {
    /// The limits that are configured.
    pub fn new(config: &RateLimitsConfig) -> Self {
        Self(config.enabled.then(|| Kinds {
            login_address: Buckets::new(config.login_address),
            login_account: Buckets::new(config.login_account),
            registration: Buckets::new(config.registration),
            // Asking for a free name costs less than taking one: a form asks again with every letter.
            lookups: Buckets::new(config.login_address),
            messages: Buckets::new(config.messages),
            joins: Buckets::new(config.joins),
        }))
    }

    /// One more event that `user_id` sends.
    pub fn check_send(&self, user_id: &UserId) -> Result<(), Limited> {
        self.0.as_ref().map_or(Ok(()), |kinds| kinds.messages.take(user_id.to_owned()))
    }

    /// One more room that `user_id` joins or knocks on.
    pub fn check_join(&self, user_id: &UserId) -> Result<(), Limited> {
        self.0.as_ref().map_or(Ok(()), |kinds| kinds.joins.take(user_id.to_owned()))
    }

    pub(crate) fn check_login_from(&self, address: IpAddr) -> Result<(), Limited> {
        self.0.as_ref().map_or(Ok(()), |kinds| kinds.login_address.take(network_of(address)))
    }

    pub(crate) fn check_login_to(&self, account: &str) -> Result<(), Limited> {
        self.0.as_ref().map_or(Ok(()), |kinds| kinds.login_account.take(account.to_owned()))
    }

    pub(crate) fn check_lookup_from(&self, address: IpAddr) -> Result<(), Limited> {
        self.0.as_ref().map_or(Ok(()), |kinds| kinds.lookups.take(network_of(address)))
    }

    pub(crate) fn check_registration_from(&self, address: IpAddr) -> Result<(), Limited> {
        self.0.as_ref().map_or(Ok(()), |kinds| kinds.registration.take(network_of(address)))
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

/// A bucket for each of many.
pub(crate) struct Buckets<K> {
    quota: Quota,
    clock: DefaultClock,
    buckets: Cache<K, Arc<DefaultDirectRateLimiter>>,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        let quota = Quota::with_period(rate.period()).expect("a period is longer than nothing").allow_burst(rate.burst);
        Self { quota, clock: DefaultClock::default(), buckets: Cache::new(BUCKETS) }
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

    #[test]
    fn who_sends_too_often_is_told_how_long_to_wait_and_nobody_else_is() {
        let limits = Limits::new(&RateLimitsConfig::default());
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
        let limited = (0..200).find_map(|_| limits.check_send(alice).err()).expect("200 at once are too many");
        assert!(limited.retry_after_ms().is_some_and(|wait| (1..=100).contains(&wait)), "{limited:?}");
        assert_eq!(limits.check_send(bob), Ok(()));
    }

    #[test]
    fn switched_off_there_is_no_limit() {
        let limits = Limits::new(&RateLimitsConfig { enabled: false, ..RateLimitsConfig::default() });
        assert!((0..10_000).all(|_| limits.check_send(user_id!("@alice:a.test")).is_ok()));
    }

    #[test]
    fn addresses_of_one_network_share_a_bucket() {
        let address = |text: &str| text.parse::<IpAddr>().expect("it is an address");
        assert_eq!(network_of(address("2001:db8::1")), network_of(address("2001:db8::ffff:2")));
        assert_ne!(network_of(address("2001:db8::1")), network_of(address("2001:db8:0:1::1")));
        assert_eq!(network_of(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
