//! How well servers are reached, as figures.

use std::collections::BTreeMap;

use model::Millis;
use ruma::OwnedServerName;
use serde::Serialize;
use store::ledger::{
    Outcome,
    sums::{BOUNDS, DAY, Queue, Sum},
};

/// What became of the events that one server, or all together, were owed. Each is counted once: it is accepted, refused,
/// skipped, pulled or queued.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The server; absent: all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<OwnedServerName>,
    /// Since when events were queued that are counted: the beginning of a day in UTC, milliseconds since 1970.
    pub since: Millis,
    /// How many the server took.
    pub accepted: u64,
    /// How many it doesn't take, and did not fetch later.
    pub refused: u64,
    /// How many it was not sent because it was away for long, and did not fetch later.
    pub skipped: u64,
    /// How many it fetched after it had refused or skipped them.
    pub pulled: u64,
    /// How many it is owed now, since whenever.
    pub queued: u64,
    /// When the oldest of those was made, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_queued_at: Option<Millis>,
    /// How many of a hundred the server has: accepted and pulled of all, those queued now among them. Absent when there were
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_percent: Option<f64>,
    /// How long it took from queueing until the server had them. Absent when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<Lag>,
}

/// How long events took from being queued until a server had them, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// On average.
    pub mean: Millis,
    /// Half of them took no longer. Rounded up to the next step of a scale with six steps a decade.
    pub p50: Millis,
    /// 99 of a hundred took no longer. Likewise.
    pub p99: Millis,
    /// The slowest.
    pub max: Millis,
}

/// The day of a moment, counted from 1970.
pub(super) fn day_of(moment: Millis) -> i64 {
    moment.div_euclid(DAY)
}

/// The figures of each server that occurs in either.
pub(super) fn of_each(since: Millis, sums: &[Sum], queues: &[Queue]) -> Vec<Figures> {
    let mut by_server: BTreeMap<&OwnedServerName, (Vec<Sum>, Vec<Queue>)> = BTreeMap::new();
    for sum in sums {
        by_server.entry(&sum.destination).or_default().0.push(sum.clone());
    }
    for queue in queues {
        by_server.entry(&queue.destination).or_default().1.push(queue.clone());
    }
    let figures = |(server, (sums, queues)): (&OwnedServerName, (Vec<_>, Vec<_>))| {
        Figures::new(Some(server.clone()), since, &sums, &queues)
    };
    by_server.into_iter().map(figures).collect()
}

impl Figures {
    pub(super) fn new(server: Option<OwnedServerName>, since: Millis, sums: &[Sum], queues: &[Queue]) -> Self {
        let count =
            |wanted: Outcome| -> u64 { sums.iter().filter(|sum| sum.outcome == wanted).map(|sum| sum.events).sum() };
        let accepted = count(Outcome::Accepted);
        // What was fetched has a row of its own besides that of having been missed.
        let (of_refused, of_skipped) = (count(Outcome::RefusedThenPulled), count(Outcome::SkippedThenPulled));
        let refused = count(Outcome::Refused).saturating_sub(of_refused);
        let skipped = count(Outcome::Skipped).saturating_sub(of_skipped);
        let pulled = of_refused + of_skipped;
        let queued = queues.iter().map(|queue| queue.events).sum();
        let all = accepted + refused + skipped + pulled + queued;
        Self {
            server,
            since: day_of(since).saturating_mul(DAY),
            accepted,
            refused,
            skipped,
            pulled,
            queued,
            oldest_queued_at: queues.iter().filter_map(|queue| queue.oldest_at).min(),
            delivered_percent: (all > 0).then(|| (accepted + pulled) as f64 * 100.0 / all as f64),
            lag_ms: Lag::of(sums),
        }
    }
}

impl Lag {
    fn of(sums: &[Sum]) -> Option<Self> {
        let delivered = || sums.iter().filter(|sum| sum.outcome.is_delivered());
        let mut buckets: BTreeMap<usize, u64> = BTreeMap::new();
        for sum in delivered() {
            *buckets.entry(sum.bucket).or_default() += sum.events;
        }
        let count: u64 = buckets.values().sum();
        let max = delivered().map(|sum| sum.lag_max).max()?;
        let together: Millis = delivered().map(|sum| sum.lag_sum).sum();
        let at = |share: f64| {
            let mut left = (count as f64 * share).ceil().max(1.0) as u64;
            for (bucket, events) in &buckets {
                if *events >= left {
                    return BOUNDS.get(*bucket).copied().unwrap_or(max).min(max);
                }
                left -= events;
            }
            max
        };
        Some(Self {
            mean: together / i64::try_from(count.max(1)).unwrap_or(i64::MAX),
            p50: at(0.5),
            p99: at(0.99),
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_server_name, server_name};

    use super::*;

    fn sum(outcome: Outcome, bucket: usize, events: u64, lag: Millis) -> Sum {
        let destination = owned_server_name!("b.test");
        Sum { destination, outcome, bucket, events, lag_sum: lag * events as i64, lag_max: lag }
    }

    #[test]
    fn each_event_is_counted_once() {
        let sums = [
            sum(Outcome::Accepted, 0, 90, 5),
            sum(Outcome::Refused, 0, 3, 5),
            sum(Outcome::Skipped, 8, 6, 400),
            sum(Outcome::RefusedThenPulled, 9, 1, 500),
            sum(Outcome::SkippedThenPulled, 9, 4, 600),
        ];
        let queues = [Queue { destination: owned_server_name!("b.test"), events: 1, oldest_at: Some(7) }];
        let figures = Figures::new(None, DAY + 5, &sums, &queues);
        assert_eq!((figures.accepted, figures.refused, figures.skipped), (90, 2, 2));
        assert_eq!((figures.pulled, figures.queued, figures.oldest_queued_at), (5, 1, Some(7)));
        assert_eq!((figures.since, figures.delivered_percent), (DAY, Some(95.0)));
    }

    #[test]
    fn a_lag_is_told_by_the_bound_that_it_does_not_exceed() {
        assert_eq!(BOUNDS[..8], [10, 15, 20, 30, 50, 70, 100, 150]);
        assert!(BOUNDS.is_sorted());
        let sums = [
            sum(Outcome::Accepted, 0, 60, 5),
            sum(Outcome::Accepted, 4, 39, 45),
            sum(Outcome::SkippedThenPulled, BOUNDS.len(), 1, 2_000_000_000),
            sum(Outcome::Refused, 7, 1_000, 140),
        ];
        let lag = Lag::of(&sums).expect("some were delivered");
        assert_eq!((lag.p50, lag.p99, lag.max), (10, 50, 2_000_000_000));
        assert_eq!(lag.mean, (60 * 5 + 39 * 45 + 2_000_000_000) / 100);
        assert_eq!(Lag::of(&sums[3..]), None);
    }

    #[test]
    fn whoever_is_owed_something_has_figures() {
        let queues = [Queue { destination: owned_server_name!("c.test"), events: 2, oldest_at: None }];
        let each = of_each(0, &[sum(Outcome::Accepted, 0, 1, 1)], &queues);
        let servers: Vec<_> = each.iter().filter_map(|figures| figures.server.as_deref()).collect();
        assert_eq!(servers, [server_name!("b.test"), server_name!("c.test")]);
        assert_eq!(each[1].delivered_percent, Some(0.0));
    }
}
