//! What nodes share and may lose: who is online, how often somebody asked, who does what at the moment, and the wake-ups by
//! which one node hears that another one committed something.
//!
//! **Nothing here is the truth.** Whatever stands in the cache may be gone at the next moment: it is in memory, it expires, and
//! the server that holds it may be killed or flushed. So each use has something to do without it ([`Key`] says what), and what
//! must be right is decided by the store.
//!
//! There are two bodies: one in this process, for a deployment of one node, and Redis. Both pass one suite (`cache/suite.rs`). Redis
//! is never waited for while it is away: the first call that fails closes the way, and others fail at once with
//! [`CacheError::Away`], until a probe was answered again.

mod key;
mod memory;
mod redis;
#[cfg(test)]
mod suite;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::broadcast;

pub use key::Key;

use self::{memory::Memory, redis::Redis};
use crate::file::FileError;

/// How many wake-ups wait for who listens; who is slower is told that some were missed.
pub(crate) const UNHEARD: usize = 256;

/// What nodes share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache(Body);

#[derive(Clone, Debug)]
enum Body {
    Memory(Arc<Memory>),
    Redis(Arc<Redis>),
}

/// Where Redis is, and how it is known.
#[derive(Clone, Debug, Default)]
pub struct CacheConfig {
    /// `redis://`, `rediss://`, `redis+unix://`, `redis+cluster://host1,host2`, `redis+sentinel://host1,host2/master`; the last two
    /// also with `rediss`. User and password before the hosts.
    pub url: String,
    /// PEM: the authorities that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Why the cache has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It can't be reached now.
    #[error("the cache is away")]
    Away,
    /// It was reached and did not do it.
    #[error("the cache refused")]
    Refused(#[source] ::redis::RedisError),
    /// The URL is none. Never holds the URL, in which there may be a password.
    #[error("the cache's URL can't be used: {0}")]
    Url(String),
    /// A file of its TLS can't be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// How often something may be done: `burst` times at once, and once in each `period` in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Between two.
    pub period: Duration,
    /// How many at once after a rest; 1 at least.
    pub burst: u32,
}

/// How often something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// How often, since it was forgotten last.
    pub count: u64,
    /// How long ago it was the last time.
    pub ago: Duration,
}

/// Of two holders of one lock, the later one has the greater token: what a holder writes bears its token, and who has seen a greater
/// one refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Somebody said this.
    Said(Arc<str>),
    /// Something may have been said that wasn't heard.
    Missed,
}

/// What is said on a channel from now on.
#[derive(Debug)]
pub struct Subscription(pub(crate) broadcast::Receiver<News>);

impl Subscription {
    /// Waits for the next word. `None`: the cache is no more.
    pub async fn next(&mut self) -> Option<News> {
        match self.0.recv().await {
            Ok(news) => Some(news),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(News::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Both bodies do the same; that of this process never fails.
macro_rules! either {
    ($self:ident.$call:ident($($arg:expr),*)) => {
        match &$self.0 {
            Body::Memory(memory) => Ok(memory.$call($($arg),*)),
            Body::Redis(redis) => redis.$call($($arg),*).await,
        }
    };
}

impl Cache {
    /// A cache in this process, for a deployment of one node.
    pub fn in_process() -> Self {
        Self(Body::Memory(Arc::default()))
    }

    /// A cache in Redis. Doesn't wait for it: until it is reached, calls fail.
    ///
    /// Errors: when `config` can't be used, whatever the state of Redis.
    pub fn open(config: &CacheConfig) -> Result<Self, CacheError> {
        Ok(Self(Body::Redis(Arc::new(Redis::open(config)?))))
    }

    /// Whether other nodes share it.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Body::Redis(_))
    }

    /// Whether it would answer now, as far as is known.
    pub fn is_up(&self) -> bool {
        match &self.0 {
            Body::Memory(_) => true,
            Body::Redis(redis) => redis.is_up(),
        }
    }

    // === values ===

    /// Remembers `value` for so long.
    pub async fn put(&self, key: &Key, value: &str, lasts: Duration) -> Result<(), CacheError> {
        either!(self.put(key, value, lasts))
    }

    /// What is remembered.
    pub async fn get(&self, key: &Key) -> Result<Option<String>, CacheError> {
        either!(self.get(key))
    }

    /// Forgets a key, whatever its type.
    pub async fn remove(&self, key: &Key) -> Result<(), CacheError> {
        either!(self.remove(key))
    }

    // === hashes ===

    /// Remembers one field of a hash, and all of the hash for so long from now.
    pub async fn put_field(&self, key: &Key, field: &str, value: &str, lasts: Duration) -> Result<(), CacheError> {
        either!(self.put_field(key, field, value, lasts))
    }

    /// The fields of a hash, by name.
    pub async fn fields(&self, key: &Key) -> Result<Vec<(String, String)>, CacheError> {
        let mut fields: Vec<(String, String)> = either!(self.fields(key))?;
        fields.sort_unstable();
        Ok(fields)
    }

    /// Forgets one field of a hash.
    pub async fn remove_field(&self, key: &Key, field: &str) -> Result<(), CacheError> {
        either!(self.remove_field(key, field))
    }

    // === counting ===

    /// It has happened once more. The count is forgotten when it doesn't happen for `forgotten_after`. Answers how often it has.
    pub async fn count(&self, key: &Key, forgotten_after: Duration) -> Result<u64, CacheError> {
        either!(self.count(key, forgotten_after))
    }

    /// How often it has happened. `forgotten_after`: as for [`Self::count`].
    pub async fn counted(&self, key: &Key, forgotten_after: Duration) -> Result<Option<Counted>, CacheError> {
        either!(self.counted(key, forgotten_after))
    }

    /// Takes one out of a bucket. `Some`: it is empty, and has one again after so long.
    pub async fn take(&self, key: &Key, bucket: Bucket) -> Result<Option<Duration>, CacheError> {
        either!(self.take(key, bucket))
    }

    /// Takes so many out of a bucket, which were spent already: where there are too few, the next ones pay for them, up to another
    /// bucket full. `Some`: it is empty, and has one again after so long.
    pub async fn spend(&self, key: &Key, bucket: Bucket, many: u32) -> Result<Option<Duration>, CacheError> {
        either!(self.spend(key, bucket, many))
    }

    // === locks ===

    /// Takes a lock, if nobody else holds it. A holder who takes it again gets another token, and the older one is worth nothing.
    pub async fn acquire(&self, key: &Key, holder: &str, lasts: Duration) -> Result<Option<Token>, CacheError> {
        either!(self.acquire(key, holder, lasts))
    }

    /// Keeps a lock for so long from now. False: it isn't held with this token any more.
    pub async fn renew(&self, key: &Key, token: Token, lasts: Duration) -> Result<bool, CacheError> {
        either!(self.renew(key, token, lasts))
    }

    /// Gives a lock back. False: it isn't held with this token any more, and whoever holds it keeps it.
    pub async fn release(&self, key: &Key, token: Token) -> Result<bool, CacheError> {
        either!(self.release(key, token))
    }

    // === wake-ups ===

    /// Says something short to everybody who listens now. Nobody may hear it.
    pub async fn publish(&self, channel: &'static str, word: &str) -> Result<(), CacheError> {
        either!(self.publish(channel, word))
    }

    /// Listens. Comes back by itself after an outage, and says then that something was missed.
    pub fn subscribe(&self, channel: &'static str) -> Subscription {
        Subscription(match &self.0 {
            Body::Memory(memory) => memory.subscribe(channel),
            Body::Redis(redis) => redis.subscribe(channel),
        })
    }
}

impl Bucket {
    /// The generic cell rate algorithm: `full_at` is when the bucket will be full again, and both are microseconds on one clock.
    /// Answers when it will be full with one more taken, or how long to wait. The script of Redis does the same sum.
    fn take(self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let period = self.period_micros();
        let capacity = period * u64::from(self.burst.max(1));
        // A bucket that was made smaller, or a clock that went back, keeps nobody waiting for longer than it takes to fill.
        let next = full_at.clamp(now, now + capacity) + period;
        match next.checked_sub(now + capacity) {
            Some(0) | None => Ok(next),
            Some(wait) => Err(Duration::from_micros(wait)),
        }
    }

    /// As [`Self::take`], when `many` were taken already. Answers when the bucket will be full again, and how long to wait for
    /// the next one.
    fn spend(self, full_at: u64, now: u64, many: u32) -> (u64, Option<Duration>) {
        let period = self.period_micros();
        let capacity = period.saturating_mul(u64::from(self.burst.max(1)));
        let most = now.saturating_add(capacity.saturating_mul(2));
        let next = full_at.clamp(now, most).saturating_add(period.saturating_mul(u64::from(many))).min(most);
        let wait = next.saturating_add(period).saturating_sub(now.saturating_add(capacity));
        (next, (wait > 0).then(|| Duration::from_micros(wait)))
    }

    fn period_micros(self) -> u64 {
        u64::try_from(self.period.as_micros()).unwrap_or(u64::MAX).clamp(1, 86_400_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_one_in_each_period() {
        let bucket = Bucket { period: Duration::from_secs(1), burst: 3 };
        let (mut full_at, now) = (0, 10_000_000_000);
        for _ in 0..3 {
            full_at = bucket.take(full_at, now).expect("there is one");
        }
        assert_eq!(bucket.take(full_at, now), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(full_at, now + 400_000), Err(Duration::from_millis(600)));
        full_at = bucket.take(full_at, now + 1_000_000).expect("there is one again");
        assert_eq!(bucket.take(full_at, now + 1_000_000), Err(Duration::from_secs(1)));
        // What was spent already is owed, but not for longer than it takes to fill twice.
        let (owed, wait) = bucket.spend(now, now, 5);
        assert_eq!(wait, Some(Duration::from_secs(3)));
        assert_eq!(bucket.take(owed, now + 2_000_000), Err(Duration::from_secs(1)));
        assert_eq!(bucket.spend(owed, now, 1_000).1, Some(Duration::from_secs(4)));
        assert_eq!(bucket.spend(now, now, 2).1, None);
        // The clock goes back by an hour: nobody waits for an hour.
        let wait = bucket.take(full_at, now - 3_600_000_000).expect_err("it is empty");
        assert_eq!(wait, Duration::from_secs(1));
    }
}
