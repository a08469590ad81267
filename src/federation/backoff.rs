//! When to try again what failed: a curve for each way to fail.

use std::time::Duration;

use peers::Failure;

/// The shortest and the longest wait after each kind of failure. Each wait is twice the one before.
#[derive(Clone, Copy, Debug)]
pub struct Curves {
    /// The server can't be found or reached, or is not well.
    pub away: (Duration, Duration),
    /// It wants to be left alone; how long, it says itself, within these bounds.
    pub rate_limited: (Duration, Duration),
    /// It doesn't believe us, or doesn't want us: somebody has to change something.
    pub unwanted: (Duration, Duration),
    /// The fault is ours.
    pub ours: (Duration, Duration),
}

impl Default for Curves {
    fn default() -> Self {
        let curve = |first, longest| (Duration::from_secs(first), Duration::from_secs(longest));
        Self {
            away: curve(1, 5 * 60),
            rate_limited: curve(1, 5 * 60),
            unwanted: curve(10, 10 * 60),
            ours: curve(1, 60),
        }
    }
}

impl Curves {
    /// Nobody is left alone for longer.
    pub(crate) fn longest(&self) -> Duration {
        [self.away, self.rate_limited, self.unwanted, self.ours]
            .map(|(_, longest)| longest)
            .into_iter()
            .max()
            .unwrap_or_default()
    }

    /// How long to wait after `failures` in a row, of which this is the last.
    ///
    /// `told`: how long the server wants to be left alone. `dice`: 0 up to 1; spreads those who failed together.
    pub(crate) fn delay(&self, failure: Failure, failures: u32, told: Option<Duration>, dice: f64) -> Duration {
        let (first, longest) = match failure {
            Failure::RateLimited => self.rate_limited,
            Failure::Unauthorized | Failure::Blocked | Failure::Rejected => self.unwanted,
            Failure::Ours | Failure::Untrusted => self.ours,
            Failure::Dns | Failure::Connect | Failure::Tls | Failure::Timeout | Failure::Broken | Failure::Server => {
                self.away
            }
        };
        let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let delay = told.unwrap_or(doubled).clamp(first, longest);
        // Never longer than the longest, never sooner than was told.
        let (from, over) = if told.is_some() { (1.0, 0.2) } else { (0.75, 0.25) };
        delay.mul_f64(from + over * dice).min(longest.max(delay))
    }
}

/// Whether the transaction may have arrived all the same.
pub(crate) fn may_have_arrived(failure: Failure) -> bool {
    matches!(failure, Failure::Timeout | Failure::Broken | Failure::Server | Failure::Rejected | Failure::Ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_minutes() {
        let curves = Curves::default();
        let waits =
            |failure| (1..=12).map(|failures| curves.delay(failure, failures, None, 1.0).as_secs()).collect::<Vec<_>>();
        assert_eq!(waits(Failure::Connect), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(waits(Failure::Unauthorized), [10, 20, 40, 80, 160, 320, 600, 600, 600, 600, 600, 600]);
        assert!(curves.delay(Failure::Connect, 1, None, 0.0) >= Duration::from_millis(750));
        assert_eq!(curves.delay(Failure::Connect, u32::MAX, None, 1.0), Duration::from_secs(300));
    }

    #[test]
    fn who_wants_to_be_left_alone_is_but_not_for_days() {
        let curves = Curves::default();
        let told = |seconds| curves.delay(Failure::RateLimited, 1, Some(Duration::from_secs(seconds)), 0.0);
        assert_eq!(told(30), Duration::from_secs(30));
        assert_eq!(told(86_400), Duration::from_secs(300));
    }
}
