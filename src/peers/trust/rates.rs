//! How often peers may ask.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use model::peer::Grant;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};

use super::TrustConfig;

/// How many peers' buckets of one kind are remembered: who was forgotten starts with a full one.
const BUCKETS: usize = 10_000;

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
}

struct Buckets {
    rate: Rate,
    of: Cache<OwnedServerName, Arc<Bucket>>,
}

impl Rates {
    pub(crate) fn new(config: &TrustConfig) -> Self {
        let buckets = |rate| Buckets { rate, of: Cache::new(BUCKETS) };
        Self { paced: buckets(config.paced), slow: buckets(config.slow), clock: DefaultClock::default() }
    }

    /// Takes one request. Errors: when there is room for it.
    pub(crate) fn take(&self, server: &ServerName, grant: Grant, own: Option<&Bucket>) -> Result<(), Duration> {
        let buckets = match grant {
            Grant::Paced => &self.paced,
            Grant::Slow => &self.slow,
            _ if own.is_none() => return Ok(()),
            _ => &self.paced,
        };
        let shared = match own {
            Some(_) => None,
            None => Some(buckets.of_server(server)),
        };
        let Some(bucket) = own.or(shared.as_deref()) else { return Ok(()) };
        bucket.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
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
}

pub(crate) fn bucket(rate: Rate) -> Bucket {
    let period = Duration::from_secs_f64(1.0 / rate.per_second.clamp(1.0 / 86_400.0, 1e6));
    let quota = Quota::with_period(period).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN));
    RateLimiter::direct(quota.allow_burst(NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN)))
}
