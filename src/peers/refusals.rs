//! What of others was refused: counted, and logged now and then.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use metrics::counter;
use quick_cache::sync::Cache;
use ruma::ServerName;
use tracing::{debug, info};

/// The same of the same peer is logged once in so long.
const PAUSE: Duration = Duration::from_secs(60);
/// How many peers have a figure of their own.
const COUNTED_PEERS: usize = 200;
/// How many peers and reasons are remembered as logged.
const REMEMBERED: usize = 2_000;
/// How many lines there are a minute at most; names cost nothing to whoever makes them up.
const LINES_A_MINUTE: u32 = 60;

/// Counts and logs.
pub(crate) struct Refusals {
    logged: Cache<(String, &'static str), Instant>,
    /// The peers that have a figure of their own.
    counted: Mutex<std::collections::BTreeSet<String>>,
    /// Since when lines are counted, and how many there were.
    lines: Mutex<(Instant, u32)>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { logged: Cache::new(REMEMBERED), counted: Mutex::default(), lines: Mutex::new((Instant::now(), 0)) }
    }
}

impl Refusals {
    pub(crate) fn note(&self, peer: Option<&ServerName>, is_known: bool, reason: &'static str, details: &dyn Display) {
        let name = peer.map_or("nobody", ServerName::as_str);
        let label = if is_known { self.label(name) } else { "unknown".to_owned() };
        counter!("comity_federation_refused_total", "reason" => reason).increment(1);
        counter!("comity_federation_refused_by_peer_total", "peer" => label).increment(1);
        if self.is_due(name, reason, Instant::now()) {
            info!(server.name = name, reason, "refused something of {name}: {details}");
        } else {
            debug!(server.name = name, reason, "refused something of {name}: {details}");
        }
    }

    fn label(&self, name: &str) -> String {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.contains(name) {
            return name.to_owned();
        }
        if counted.len() >= COUNTED_PEERS {
            return "other".to_owned();
        }
        counted.insert(name.to_owned());
        name.to_owned()
    }

    fn is_due(&self, name: &str, reason: &'static str, now: Instant) -> bool {
        let key = (name.to_owned(), reason);
        if self.logged.get(&key).is_some_and(|last| now.duration_since(last) < PAUSE) {
            return false;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(lines.0) >= PAUSE {
            *lines = (now, 0);
        }
        lines.1 += 1;
        if lines.1 > LINES_A_MINUTE {
            return false;
        }
        self.logged.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_logged_once_a_minute_and_the_lines_of_all_are_bounded() {
        let refusals = Refusals::default();
        let now = Instant::now();
        assert!(refusals.is_due("a.test", "bad_signature", now));
        assert!(!refusals.is_due("a.test", "bad_signature", now));
        assert!(refusals.is_due("a.test", "expired_key", now));
        assert!(refusals.is_due("a.test", "bad_signature", now + PAUSE));
        let lines = (0..1_000).filter(|at| refusals.is_due(&format!("{at}.test"), "bad_signature", now + PAUSE));
        assert_eq!(lines.count(), LINES_A_MINUTE as usize - 1);
    }

    #[test]
    fn only_so_many_peers_have_a_figure_of_their_own() {
        let refusals = Refusals::default();
        for at in 0..COUNTED_PEERS {
            assert_eq!(refusals.label(&format!("{at}.test")), format!("{at}.test"));
        }
        assert_eq!(refusals.label("late.test"), "other");
        assert_eq!(refusals.label("0.test"), "0.test");
    }
}
