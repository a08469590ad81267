//! The cache in Redis: one server, a cluster, or whichever server sentinels call the master.

mod link;
mod listen;
mod scripts;
mod target;

use std::time::Duration;

use metrics::counter;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind};
use tokio::sync::broadcast;

use self::{
    link::{Link, Standing},
    scripts::SCRIPTS,
    target::Target,
};
use super::{Bucket, CacheConfig, CacheError, Counted, Key, News, Token};

#[derive(Debug)]
pub(super) struct Redis {
    target: Target,
    link: Link,
}

impl Redis {
    pub(super) fn open(config: &CacheConfig) -> Result<Self, CacheError> {
        let target = Target::new(config)?;
        Ok(Self { link: Link::keep(target.clone()), target })
    }

    pub(super) fn is_up(&self) -> bool {
        self.link.is_up()
    }

    pub(super) async fn put(&self, key: &Key, value: &str, lasts: Duration) -> Result<(), CacheError> {
        self.run("put", redis::cmd("SET").arg(key.as_str()).arg(value).arg("PX").arg(millis(lasts))).await
    }

    pub(super) async fn get(&self, key: &Key) -> Result<Option<String>, CacheError> {
        self.run("get", redis::cmd("GET").arg(key.as_str())).await
    }

    pub(super) async fn remove(&self, key: &Key) -> Result<(), CacheError> {
        self.run("remove", redis::cmd("DEL").arg(key.as_str())).await
    }

    pub(super) async fn put_field(
        &self,
        key: &Key,
        field: &str,
        value: &str,
        lasts: Duration,
    ) -> Result<(), CacheError> {
        self.eval("put_field", SCRIPTS.put_field.key(key.as_str()).arg(field).arg(value).arg(millis(lasts))).await
    }

    pub(super) async fn fields(&self, key: &Key) -> Result<Vec<(String, String)>, CacheError> {
        self.run("fields", redis::cmd("HGETALL").arg(key.as_str())).await
    }

    pub(super) async fn remove_field(&self, key: &Key, field: &str) -> Result<(), CacheError> {
        self.run("remove_field", redis::cmd("HDEL").arg(key.as_str()).arg(field)).await
    }

    pub(super) async fn count(&self, key: &Key, forgotten_after: Duration) -> Result<u64, CacheError> {
        self.eval("count", SCRIPTS.count.key(key.as_str()).arg(millis(forgotten_after))).await
    }

    pub(super) async fn counted(&self, key: &Key, forgotten_after: Duration) -> Result<Option<Counted>, CacheError> {
        let (count, left): (Option<u64>, i64) = self.eval("counted", &mut SCRIPTS.counted.key(key.as_str())).await?;
        let left = Duration::from_millis(left.max(0).unsigned_abs());
        Ok(count.map(|count| Counted { count, ago: forgotten_after.saturating_sub(left) }))
    }

    pub(super) async fn take(&self, key: &Key, bucket: Bucket) -> Result<Option<Duration>, CacheError> {
        let burst = bucket.burst.max(1);
        let wait: u64 =
            self.eval("take", SCRIPTS.take.key(key.as_str()).arg(bucket.period_micros()).arg(burst)).await?;
        Ok((wait > 0).then(|| Duration::from_micros(wait)))
    }

    pub(super) async fn spend(&self, key: &Key, bucket: Bucket, many: u32) -> Result<Option<Duration>, CacheError> {
        let (period, burst) = (bucket.period_micros(), bucket.burst.max(1));
        let wait: u64 = self.eval("spend", SCRIPTS.spend.key(key.as_str()).arg(period).arg(burst).arg(many)).await?;
        Ok((wait > 0).then(|| Duration::from_micros(wait)))
    }

    pub(super) async fn acquire(&self, key: &Key, holder: &str, lasts: Duration) -> Result<Option<Token>, CacheError> {
        let last = format!("{}:token", key.as_str());
        let token: u64 =
            self.eval("acquire", SCRIPTS.acquire.key(key.as_str()).key(last).arg(holder).arg(millis(lasts))).await?;
        Ok((token > 0).then_some(Token(token)))
    }

    pub(super) async fn renew(&self, key: &Key, token: Token, lasts: Duration) -> Result<bool, CacheError> {
        self.eval("renew", SCRIPTS.renew.key(key.as_str()).arg(token.0).arg(millis(lasts))).await
    }

    pub(super) async fn release(&self, key: &Key, token: Token) -> Result<bool, CacheError> {
        self.eval("release", SCRIPTS.release.key(key.as_str()).arg(token.0)).await
    }

    pub(super) async fn publish(&self, channel: &'static str, word: &str) -> Result<(), CacheError> {
        self.run("publish", redis::cmd("PUBLISH").arg(channel).arg(word)).await
    }

    pub(super) fn subscribe(&self, channel: &'static str) -> broadcast::Receiver<News> {
        listen::start(self.target.clone(), self.link.watch(), channel)
    }

    async fn run<T: FromRedisValue>(&self, op: &'static str, command: &Cmd) -> Result<T, CacheError> {
        let mut standing = self.standing(op)?;
        let answer = command.query_async(&mut standing.connection).await;
        self.judge(op, &standing, answer)
    }

    async fn eval<T: FromRedisValue>(
        &self,
        op: &'static str,
        script: &mut ScriptInvocation<'_>,
    ) -> Result<T, CacheError> {
        let mut standing = self.standing(op)?;
        let answer = script.invoke_async(&mut standing.connection).await;
        self.judge(op, &standing, answer)
    }

    fn standing(&self, op: &'static str) -> Result<Standing, CacheError> {
        let standing = self.link.standing();
        if standing.is_none() {
            note(op, "away");
        }
        standing.ok_or(CacheError::Away)
    }

    /// Who finds that Redis is away keeps the others from finding that out for themselves.
    fn judge<T>(&self, op: &'static str, standing: &Standing, answer: Result<T, RedisError>) -> Result<T, CacheError> {
        match answer {
            Ok(answer) => {
                note(op, "ok");
                Ok(answer)
            }
            Err(error) if is_of_the_server(&error) => {
                self.link.lost(standing, &error);
                note(op, "failed");
                Err(CacheError::Away)
            }
            Err(error) => {
                note(op, "refused");
                Err(CacheError::Refused(error))
            }
        }
    }
}

/// Whether the next call would fail in the same way: nobody answers there, or not as one that takes writes.
fn is_of_the_server(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::TryAgain
        ),
        ErrorKind::UnexpectedReturnType | ErrorKind::Extension | ErrorKind::Client => false,
        _ => true,
    }
}

fn note(op: &'static str, outcome: &'static str) {
    counter!("comity_cache_calls_total", "op" => op, "outcome" => outcome).increment(1);
}

/// Redis takes no time that is nothing.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50)
}
