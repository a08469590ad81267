//! One that fails again and again is left alone for a while, so that nobody waits for it in vain.

use std::time::Duration;

use tokio::time::Instant;

/// After so many failures in a row it is left alone.
const FAILURES: u32 = 5;
/// For how long at first; each time that it fails again doubles it.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);

/// Whether somebody may be asked.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// In a row.
    failures: u32,
    /// How often in a row it was left alone.
    rests: u32,
    until: Option<Instant>,
}

/// Somebody may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// As everybody.
    Free,
    /// To see whether it is well again, while it is left alone by the others.
    Probe,
}

impl Breaker {
    /// Whether it may be asked now.
    pub(super) fn pass(&mut self, now: Instant) -> Option<Pass> {
        match self.until {
            None => Some(Pass::Free),
            Some(until) if now < until => None,
            Some(_) => {
                // If whoever asks goes away without a word, somebody else asks a while later.
                self.until = Some(now + self.rest());
                Some(Pass::Probe)
            }
        }
    }

    /// It answered.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// It did not. Answers whether it is left alone from now on, and was not before.
    pub(super) fn failed(&mut self, pass: Pass, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let begins = self.until.is_none() && self.failures >= FAILURES;
        // Those that were under way when it began do not lengthen it.
        if begins || (pass == Pass::Probe && self.until.is_some()) {
            self.rests = self.rests.saturating_add(1);
            self.until = Some(now + self.rest());
        }
        begins
    }

    /// Until when it is left alone.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    fn rest(&self) -> Duration {
        FIRST.saturating_mul(1 << self.rests.saturating_sub(1).min(8)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_in_a_row_is_left_alone_longer_and_longer_and_tried_by_one() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES {
            assert!(!breaker.failed(Pass::Free, start));
        }
        breaker.answered();
        for _ in 1..FAILURES {
            assert!(!breaker.failed(Pass::Free, start), "an answer in between begins anew");
        }
        assert!(breaker.failed(Pass::Free, start));
        assert!(!breaker.failed(Pass::Free, start), "it was under way");
        assert_eq!(breaker.pass(start + FIRST - Duration::from_millis(1)), None);
        let probed = start + FIRST;
        assert_eq!((breaker.pass(probed), breaker.pass(probed)), (Some(Pass::Probe), None));
        assert!(!breaker.failed(Pass::Probe, probed));
        assert_eq!(breaker.until(), Some(probed + 2 * FIRST));
        let mut now = probed;
        for _ in 0..20 {
            now += LONGEST;
            assert_eq!(breaker.pass(now), Some(Pass::Probe), "it never rests for longer");
            breaker.failed(Pass::Probe, now);
        }
        now += LONGEST;
        assert_eq!(breaker.pass(now), Some(Pass::Probe));
        breaker.answered();
        assert_eq!((breaker.pass(now), breaker.pass(now)), (Some(Pass::Free), Some(Pass::Free)));
    }
}
