//! Which way a transaction goes to a peer that may be reached by both.
//!
//! HTTPS while it works. When it fails, the broker from then on, while now and then a transaction goes both ways, and HTTPS again
//! when one of them has arrived by it. When the broker doesn't bring an answer either, both are tried, HTTPS first.

use std::time::{Duration, Instant};

/// How often HTTPS is tried beside the broker.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(3);
/// A broker that brought no answer is tried last for so long.
pub(super) const REST: Duration = Duration::from_secs(30);

/// What is known of the two ways to a peer.
#[derive(Debug, Default)]
pub(super) struct Auto {
    /// HTTPS has failed, and was tried last then.
    https_tried: Option<Instant>,
    /// The broker has brought no answer.
    amqp_failed: Option<Instant>,
}

/// Which way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// HTTPS, for there is nothing else.
    Https,
    /// HTTPS, and if that fails the broker.
    HttpsFirst,
    /// The broker.
    Amqp {
        /// And HTTPS beside it, to see whether it works again.
        probe: bool,
    },
}

impl Auto {
    /// The way of the next transaction. `is_up`: the own broker takes something for the peer.
    pub(super) fn plan(&mut self, is_up: bool, now: Instant) -> Plan {
        if !is_up {
            return Plan::Https;
        }
        let rests = self.amqp_failed.is_some_and(|at| now.saturating_duration_since(at) < REST);
        match self.https_tried {
            Some(tried) if !rests => {
                let probe = now.saturating_duration_since(tried) >= PROBE_EVERY;
                if probe {
                    self.https_tried = Some(now);
                }
                Plan::Amqp { probe }
            }
            _ => Plan::HttpsFirst,
        }
    }

    /// What came of HTTPS; `worked`: the peer has answered, whatever it said. Answers whether that is news.
    pub(super) fn https(&mut self, worked: bool, now: Instant) -> bool {
        let is_news = worked == self.https_tried.is_some();
        self.https_tried = (!worked).then_some(now);
        is_news
    }

    /// What came of the broker.
    pub(super) fn amqp(&mut self, worked: bool, now: Instant) {
        self.amqp_failed = (!worked).then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_while_it_works_then_the_broker_and_back() {
        let (mut auto, began) = (Auto::default(), Instant::now());
        assert_eq!(auto.plan(true, began), Plan::HttpsFirst);
        assert!(!auto.https(true, began), "it worked all the time");
        assert!(auto.https(false, began));
        auto.amqp(true, began);
        assert_eq!(auto.plan(true, began), Plan::Amqp { probe: false });
        assert_eq!(auto.plan(true, began + PROBE_EVERY), Plan::Amqp { probe: true });
        assert_eq!(auto.plan(true, began + PROBE_EVERY), Plan::Amqp { probe: false }, "one every few seconds");
        assert_eq!(auto.plan(true, began + 2 * PROBE_EVERY), Plan::Amqp { probe: true });
        assert!(auto.https(true, began + 2 * PROBE_EVERY), "the probe arrived");
        assert_eq!(auto.plan(true, began + 2 * PROBE_EVERY), Plan::HttpsFirst);
    }

    #[test]
    fn without_a_broker_there_is_https() {
        let (mut auto, began) = (Auto::default(), Instant::now());
        assert_eq!(auto.plan(false, began), Plan::Https);
        auto.https(false, began);
        assert_eq!(auto.plan(false, began), Plan::Https);
        assert_eq!(auto.plan(true, began), Plan::Amqp { probe: false });
    }

    #[test]
    fn when_neither_works_both_are_tried() {
        let (mut auto, began) = (Auto::default(), Instant::now());
        auto.https(false, began);
        auto.amqp(false, began);
        assert_eq!(auto.plan(true, began), Plan::HttpsFirst);
        assert_eq!(auto.plan(true, began + REST), Plan::Amqp { probe: true }, "it may be better by now");
        auto.amqp(true, began + REST);
        assert_eq!(auto.plan(true, began + REST), Plan::Amqp { probe: false });
    }
}
