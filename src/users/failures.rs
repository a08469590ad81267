//! Guessing passwords is slow: after some wrong ones for an account, each costs a wait that doubles.
//!
//! Where nodes share a cache, they count together. While it is away, each counts for itself.

use std::time::Duration;

use fabric::{Cache as SharedCache, cache::Key};
use model::Millis;
use quick_cache::sync::Cache;

use crate::limits::Limited;

const ACCOUNTS: usize = 10_000;
/// Long enough that guessing leads nowhere, short enough that an owner who is being attacked can still get in.
const LONGEST_WAIT: Millis = 60_000;
/// After so long without a wrong password the count starts anew.
const FORGET_AFTER: Millis = 15 * 60_000;
const FORGET_SHARED_AFTER: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Copy)]
struct Failed {
    count: u32,
    last: Millis,
    wait_until: Millis,
}

/// The wrong passwords of late, by account.
pub(crate) struct Failures {
    allowed: u32,
    accounts: Cache<String, Failed>,
    cache: SharedCache,
}

impl Failures {
    pub(crate) fn new(allowed: u32, cache: SharedCache) -> Self {
        Self { allowed, accounts: Cache::new(ACCOUNTS), cache }
    }

    /// Whether another password may be tried now, after all that were tried at any node.
    pub(crate) async fn check(&self, account: &str, now: Millis) -> Result<(), Limited> {
        self.check_own(account, now)?;
        let Some(key) = self.shared(account) else { return Ok(()) };
        // Away: what this node knows has to do.
        let Ok(Some(counted)) = self.cache.counted(&key, FORGET_SHARED_AFTER).await else { return Ok(()) };
        let wait = self.wait_after(u32::try_from(counted.count).unwrap_or(u32::MAX));
        let retry_after = Duration::from_millis(wait.unsigned_abs()).saturating_sub(counted.ago);
        if retry_after.is_zero() { Ok(()) } else { Err(Limited { retry_after }) }
    }

    /// A wrong password was tried.
    pub(crate) async fn note(&self, account: &str, now: Millis) {
        self.note_own(account, now);
        if let Some(key) = self.shared(account) {
            let _ = self.cache.count(&key, FORGET_SHARED_AFTER).await;
        }
    }

    /// The right one was.
    pub(crate) async fn forget(&self, account: &str) {
        // Another node may have counted what this one has not.
        self.accounts.remove(account);
        if let Some(key) = self.shared(account) {
            let _ = self.cache.remove(&key).await;
        }
    }

    fn shared(&self, account: &str) -> Option<Key> {
        (self.cache.is_shared() && self.allowed > 0).then(|| Key::failed(account))
    }

    /// In milliseconds, how long to wait after so many wrong ones.
    fn wait_after(&self, count: u32) -> Millis {
        match count.checked_sub(self.allowed) {
            Some(excess) => (1_000 << excess.min(16)).min(LONGEST_WAIT),
            None => 0,
        }
    }

    fn check_own(&self, account: &str, now: Millis) -> Result<(), Limited> {
        match self.accounts.get(account) {
            Some(failed) if now < failed.wait_until => {
                let wait = u64::try_from(failed.wait_until - now).unwrap_or_default();
                Err(Limited { retry_after: Duration::from_millis(wait) })
            }
            _ => Ok(()),
        }
    }

    fn note_own(&self, account: &str, now: Millis) {
        if self.allowed == 0 {
            return;
        }
        let before = self.accounts.get(account).filter(|failed| now - failed.last < FORGET_AFTER);
        let count = before.map_or(0, |failed| failed.count).saturating_add(1);
        let wait_until = now + self.wait_after(count);
        self.accounts.insert(account.to_owned(), Failed { count, last: now, wait_until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_wrong_password_after_those_allowed_doubles_the_wait() {
        let failures = Failures::new(3, SharedCache::in_process());
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..10 {
            failures.note("alice", now).await;
            let wait = failures.check("alice", now).await.err().map_or(0, |limited| limited.retry_after.as_secs());
            waits.push(wait);
            now += Millis::try_from(wait).expect("it is short") * 1_000;
            assert_eq!(failures.check("alice", now).await, Ok(()));
        }
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(failures.check("bob", now).await, Ok(()));
        failures.forget("alice").await;
        failures.note("alice", now).await;
        assert_eq!(failures.check("alice", now).await, Ok(()));
    }
}
