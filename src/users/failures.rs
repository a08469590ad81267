//! Guessing passwords is slow: after some wrong ones for an account, each costs a wait that doubles.

use std::time::Duration;

use model::Millis;
use quick_cache::sync::Cache;

use crate::limits::Limited;

const ACCOUNTS: usize = 10_000;
/// Long enough that guessing leads nowhere, short enough that an owner who is being attacked can still get in.
const LONGEST_WAIT: Millis = 60_000;
/// After so long without a wrong password the count starts anew.
const FORGET_AFTER: Millis = 15 * 60_000;

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
}

impl Failures {
    pub(crate) fn new(allowed: u32) -> Self {
        Self { allowed, accounts: Cache::new(ACCOUNTS) }
    }

    /// Whether another password may be tried now.
    pub(crate) fn check(&self, account: &str, now: Millis) -> Result<(), Limited> {
        match self.accounts.get(account) {
            Some(failed) if now < failed.wait_until => {
                let wait = u64::try_from(failed.wait_until - now).unwrap_or_default();
                Err(Limited { retry_after: Duration::from_millis(wait) })
            }
            _ => Ok(()),
        }
    }

    /// A wrong password was tried.
    pub(crate) fn note(&self, account: &str, now: Millis) {
        if self.allowed == 0 {
            return;
        }
        let before = self.accounts.get(account).filter(|failed| now - failed.last < FORGET_AFTER);
        let count = before.map_or(0, |failed| failed.count).saturating_add(1);
        let wait = match count.checked_sub(self.allowed) {
            Some(excess) => (1_000 << excess.min(16)).min(LONGEST_WAIT),
            None => 0,
        };
        self.accounts.insert(account.to_owned(), Failed { count, last: now, wait_until: now + wait });
    }

    /// The right one was.
    pub(crate) fn forget(&self, account: &str) {
        self.accounts.remove(account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_password_after_those_allowed_doubles_the_wait() {
        let failures = Failures::new(3);
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..10 {
            failures.note("alice", now);
            let wait = failures.check("alice", now).err().map_or(0, |limited| limited.retry_after.as_secs());
            waits.push(wait);
            now += Millis::try_from(wait).expect("it is short") * 1_000;
            assert_eq!(failures.check("alice", now), Ok(()));
        }
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(failures.check("bob", now), Ok(()));
        failures.forget("alice");
        failures.note("alice", now);
        assert_eq!(failures.check("alice", now), Ok(()));
    }
}
