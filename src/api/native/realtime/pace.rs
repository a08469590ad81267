//! How often a client may send a frame.

use std::time::Duration;

use tokio::time::Instant;

/// So many more that were too early than in time are no mistake any more.
const PATIENCE: u32 = 200;

/// A bucket of one connection: so many frames at once after a rest, and so many in the long run.
pub(super) struct Pace {
    period: Duration,
    capacity: Duration,
    /// When it will be full again.
    full_at: Instant,
    too_early: u32,
}

impl Pace {
    pub(super) fn new(period: Duration, at_once: u32) -> Self {
        let capacity = period.saturating_mul(at_once.max(1));
        Self { period, capacity, full_at: Instant::now(), too_early: 0 }
    }

    /// One more frame. An error: it came too early, by so much.
    pub(super) fn take(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        let next = self.full_at.max(now) + self.period;
        match next.checked_duration_since(now + self.capacity).filter(|early| !early.is_zero()) {
            Some(early) => {
                self.too_early += 1;
                Err(early)
            }
            None => {
                (self.full_at, self.too_early) = (next, self.too_early.saturating_sub(1));
                Ok(())
            }
        }
    }

    /// Whether the client doesn't care.
    pub(super) fn is_ignored(&self) -> bool {
        self.too_early >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_so_many_in_the_long_run() {
        let mut pace = Pace::new(Duration::from_millis(100), 3);
        for _ in 0..3 {
            assert_eq!(pace.take(), Ok(()));
        }
        assert_eq!(pace.take(), Err(Duration::from_millis(100)));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(pace.take(), Ok(()));
        assert!(pace.take().is_err());
        assert!(!pace.is_ignored());
        for _ in 0..PATIENCE {
            assert!(pace.take().is_err());
        }
        assert!(pace.is_ignored());
    }
}
