//! Which destinations have work, whose turn it is, and who is left alone for a while.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use model::{Millis, Position};
use ruma::{OwnedServerName, ServerName};
use tokio::time::Instant;

use crate::fresh::Fresh;

/// A server that talks to us but doesn't answer is not tried at each of its words.
const BETWEEN_WAKES: Duration = Duration::from_secs(5);

/// All destinations that have something to send, are being sent to, or are not well. The others are forgotten.
#[derive(Default)]
pub(crate) struct Book {
    slots: HashMap<OwnedServerName, Slot>,
    /// Whose turn is next, of those who are well.
    ready: VecDeque<OwnedServerName>,
    /// Whose turn is next, of those who could not be reached before.
    retrying: VecDeque<OwnedServerName>,
    waiting: BTreeSet<(Instant, OwnedServerName)>,
    sending: usize,
    sending_retries: usize,
}

/// One destination.
#[derive(Default)]
pub(crate) struct Slot {
    place: Place,
    /// Something came since its turn began.
    has_work: bool,
    /// What counts only while it is fresh.
    pub(crate) fresh: Fresh,
    pub(crate) health: Health,
    woken_at: Option<Instant>,
    /// When refused events were last complained of in the log.
    pub(crate) complained_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Idle,
    Queued,
    Sending {
        is_retry: bool,
    },
    Waiting(Instant),
}

/// How a destination is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// How often in a row it could not be reached.
    pub(crate) failures: u32,
    /// Since when.
    pub(crate) failing_since: Option<Millis>,
    /// Why.
    pub(crate) last_failure: Option<String>,
    /// Up to here it is owed the latest event of each room only.
    pub(crate) catch_up_upto: Option<Position>,
    /// The store keeps a transaction of which nobody knows whether it arrived.
    pub(crate) is_unsure: bool,
    /// It refused what we sent: how many things a transaction holds until it takes them again.
    pub(crate) at_most: Option<usize>,
}

impl Health {
    /// Whether there is nothing to remember.
    pub(crate) fn is_well(&self) -> bool {
        *self == Self::default()
    }

    /// Whether transactions don't get through, or it catches up.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing_since.is_some() || self.catch_up_upto.is_some()
    }
}

/// How a destination is, for those who ask.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) destination: OwnedServerName,
    pub(crate) health: Health,
    /// When it is tried again, if it is left alone.
    pub(crate) next_try: Option<Instant>,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// There is nothing left to send.
    Done,
    /// There is more, but others shall have their turn.
    More,
    /// It is left alone for so long.
    Failed(Duration),
}

impl Book {
    /// There is something to send.
    pub(crate) fn mark(&mut self, destination: &ServerName) -> &mut Slot {
        let slot = match self.slots.contains_key(destination) {
            true => self.slots.get_mut(destination),
            false => Some(self.slots.entry(destination.to_owned()).or_default()),
        };
        let slot = slot.expect("it is there, or was put there");
        slot.has_work = true;
        if slot.place == Place::Idle {
            slot.place = Place::Queued;
            let queue = if slot.health.failures > 0 { &mut self.retrying } else { &mut self.ready };
            queue.push_back(destination.to_owned());
        }
        slot
    }

    /// There is something to send, but not at once.
    pub(crate) fn mark_later(&mut self, destination: &ServerName, health: Health, at: Instant) {
        let slot = self.slots.entry(destination.to_owned()).or_default();
        slot.health = health;
        slot.has_work = true;
        if slot.place == Place::Idle {
            slot.place = Place::Waiting(at);
            self.waiting.insert((at, destination.to_owned()));
        }
    }

    /// Whose turn begins now, with at most `most` at a time, and half of them such as could not be reached before.
    pub(crate) fn begin(&mut self, now: Instant, most: usize) -> Option<OwnedServerName> {
        while let Some((at, _)) = self.waiting.first()
            && *at <= now
            && let Some((_, destination)) = self.waiting.pop_first()
        {
            self.slots.entry(destination.clone()).or_default().place = Place::Queued;
            self.retrying.push_back(destination);
        }
        if self.sending >= most {
            return None;
        }
        let may_retry = self.sending_retries < most.div_ceil(2);
        let retry = if may_retry { self.retrying.pop_front() } else { None };
        let is_retry = retry.is_some();
        let destination = retry.or_else(|| self.ready.pop_front())?;
        let slot = self.slots.entry(destination.clone()).or_default();
        slot.place = Place::Sending { is_retry };
        slot.has_work = false;
        self.sending += 1;
        self.sending_retries += usize::from(is_retry);
        Some(destination)
    }

    /// Whether something came since the turn began; from now on, only what comes later counts.
    pub(crate) fn take_work(&mut self, destination: &ServerName) -> bool {
        self.slots.get_mut(destination).is_some_and(|slot| std::mem::take(&mut slot.has_work))
    }

    /// The turn is over.
    pub(crate) fn end(&mut self, destination: &ServerName, ended: Ended, now: Instant) {
        let Some(slot) = self.slots.get_mut(destination) else { return };
        let Place::Sending { is_retry } = slot.place else { return };
        self.sending -= 1;
        self.sending_retries -= usize::from(is_retry);
        match ended {
            Ended::Done if !slot.has_work => {
                slot.place = Place::Idle;
                if slot.health.is_well() && slot.fresh.is_empty() && slot.complained_at.is_none() {
                    self.slots.remove(destination);
                }
            }
            Ended::Done | Ended::More => {
                slot.place = Place::Queued;
                self.ready.push_back(destination.to_owned());
            }
            Ended::Failed(wait) => {
                slot.fresh.forget_typing();
                slot.place = Place::Waiting(now + wait);
                self.waiting.insert((now + wait, destination.to_owned()));
            }
        }
    }

    /// The server has said something: if it was left alone, it is tried again, and its failures are forgotten. Answers
    /// whether that is so.
    pub(crate) fn alive(&mut self, destination: &ServerName, now: Instant) -> bool {
        let Some(slot) = self.slots.get_mut(destination) else { return false };
        slot.health.failures = 0;
        let Place::Waiting(at) = slot.place else { return false };
        let soon = slot.woken_at.map_or(now, |woken| (woken + BETWEEN_WAKES).max(now));
        if at <= soon {
            return false;
        }
        slot.woken_at = Some(soon);
        slot.place = Place::Waiting(soon);
        self.waiting.remove(&(at, destination.to_owned()));
        self.waiting.insert((soon, destination.to_owned()));
        true
    }

    /// Somebody wants it to be tried at once, as if it had never failed. Answers whether it was left alone.
    pub(crate) fn retry(&mut self, destination: &ServerName, now: Instant) -> bool {
        let Some(slot) = self.slots.get_mut(destination) else { return false };
        slot.health.failures = 0;
        let Place::Waiting(at) = slot.place else { return false };
        slot.place = Place::Waiting(now);
        self.waiting.remove(&(at, destination.to_owned()));
        self.waiting.insert((now, destination.to_owned()));
        true
    }

    /// How a destination is, if it has something to send or is not well.
    pub(crate) fn standing(&self, destination: &ServerName) -> Option<Standing> {
        let slot = self.slots.get(destination)?;
        let next_try = match slot.place {
            Place::Waiting(at) => Some(at),
            _ => None,
        };
        Some(Standing { destination: destination.to_owned(), health: slot.health.clone(), next_try })
    }

    /// Those that are not well.
    pub(crate) fn unwell(&self) -> Vec<Standing> {
        let names = self.slots.iter().filter(|(_, slot)| slot.health.is_failing()).map(|(name, _)| name);
        names.filter_map(|name| self.standing(name)).collect()
    }

    /// When somebody is to be tried again.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    pub(crate) fn slot(&mut self, destination: &ServerName) -> Option<&mut Slot> {
        self.slots.get_mut(destination)
    }

    /// Another node sends to them: what is waited for here is waited for there.
    pub(crate) fn forget(&mut self, is_theirs: impl Fn(&ServerName) -> bool) {
        let Self { slots, ready, retrying, waiting, .. } = self;
        slots.retain(|name, slot| {
            matches!(slot.place, Place::Sending { .. }) || !slot.fresh.is_empty() || !is_theirs(name)
        });
        ready.retain(|name| slots.contains_key(name));
        retrying.retain(|name| slots.contains_key(name));
        waiting.retain(|(_, name)| slots.contains_key(name));
    }

    /// How many destinations are left alone.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_comes_during_a_turn_is_not_forgotten() {
        let (mut book, now, b) = (Book::default(), Instant::now(), server_name!("b.test"));
        book.mark(b);
        book.mark(b);
        assert_eq!(book.begin(now, 8).as_deref(), Some(b));
        assert_eq!(book.begin(now, 8), None, "one turn at a time");
        book.mark(b);
        book.end(b, Ended::Done, now);
        assert_eq!(book.begin(now, 8).as_deref(), Some(b));
        book.end(b, Ended::Done, now);
        assert_eq!((book.begin(now, 8), book.slots.len()), (None, 0));
    }

    #[test]
    fn who_failed_waits_until_time_or_its_own_word() {
        let (mut book, now, b) = (Book::default(), Instant::now(), server_name!("b.test"));
        book.mark(b);
        book.begin(now, 8);
        book.end(b, Ended::Failed(60 * SECOND), now);
        book.mark(b);
        assert_eq!(book.begin(now + 59 * SECOND, 8), None);
        assert!(book.alive(b, now + SECOND));
        assert_eq!(book.begin(now + SECOND, 8).as_deref(), Some(b));
        book.end(b, Ended::Failed(60 * SECOND), now + 2 * SECOND);
        assert!(book.alive(b, now + 2 * SECOND));
        assert_eq!(book.begin(now + 2 * SECOND, 8), None, "not at each word");
        assert_eq!(book.begin(now + 6 * SECOND, 8).as_deref(), Some(b));
        book.end(b, Ended::Failed(60 * SECOND), now + 6 * SECOND);
        assert_eq!(book.begin(now + 66 * SECOND, 8).as_deref(), Some(b));
    }

    #[test]
    fn who_is_to_be_tried_again_is_at_once_and_as_often_as_somebody_wants() {
        let (mut book, now, b) = (Book::default(), Instant::now(), server_name!("b.test"));
        assert!(!book.retry(b, now), "nothing is owed");
        for _ in 0..3 {
            book.mark(b);
            let _ = book.begin(now, 8);
            book.slot(b).expect("it has its turn").health.failures = 7;
            book.end(b, Ended::Failed(60 * SECOND), now);
            assert_eq!(book.standing(b).and_then(|standing| standing.next_try), Some(now + 60 * SECOND));
            assert!(book.retry(b, now));
            assert_eq!(book.slot(b).expect("it waits").health.failures, 0);
        }
        assert_eq!(book.begin(now, 8).as_deref(), Some(b));
        assert!(!book.retry(b, now), "it is being tried");
    }

    #[test]
    fn those_who_are_away_leave_room_for_the_others() {
        let (mut book, now) = (Book::default(), Instant::now());
        for at in 0..10 {
            let name = OwnedServerName::try_from(format!("away{at}.test")).expect("it is one");
            book.mark_later(&name, Health { failures: 1, ..Health::default() }, now);
        }
        for name in ["x.test", "y.test", "z.test"] {
            book.mark(<&ServerName>::try_from(name).expect("it is one"));
        }
        let begun: Vec<_> = std::iter::from_fn(|| book.begin(now, 4)).map(|name| name.to_string()).collect();
        assert_eq!(begun, ["away0.test", "away1.test", "x.test", "y.test"]);
    }
}
