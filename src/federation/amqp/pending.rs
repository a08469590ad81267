//! Which transactions are under way over a broker, and what came of them.
//!
//! A transaction that is not answered is tried again and again, and each time it would be put into a queue that perhaps nobody
//! empties. So it is published again only after [`AGAIN`]; in between whoever tries it waits for the answer to the one before. An
//! answer that comes when nobody waits is kept for whoever tries it next.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::bodies::ResponseBody;

/// A transaction without an answer is published again after so long: at most five of them wait at a broker before the first one
/// is too old.
pub(super) const AGAIN: Duration = Duration::from_secs(60);
/// How many transactions are remembered.
const MOST: usize = 128;

/// The transactions to one peer.
#[derive(Default)]
pub(super) struct Pending {
    entries: HashMap<String, Entry>,
}

struct Entry {
    asked_at: Instant,
    published_at: Option<Instant>,
    waiting: Option<oneshot::Sender<ResponseBody>>,
    answer: Option<ResponseBody>,
}

/// What whoever has a transaction to send does.
pub(super) enum Ask {
    /// Nothing: it was answered.
    Answered(ResponseBody),
    /// Waits.
    Wait {
        /// For this.
        answer: oneshot::Receiver<ResponseBody>,
        /// Having published it before.
        publish: bool,
    },
}

impl Pending {
    /// Somebody wants to send the transaction `id`.
    pub(super) fn ask(&mut self, id: &str, now: Instant) -> Ask {
        if let Some(answer) = self.entries.get_mut(id).and_then(|entry| entry.answer.take()) {
            self.entries.remove(id);
            return Ask::Answered(answer);
        }
        if !self.entries.contains_key(id) {
            self.make_room();
        }
        let entry = self.entries.entry(id.to_owned()).or_insert(Entry {
            asked_at: now,
            published_at: None,
            waiting: None,
            answer: None,
        });
        let (waiting, answer) = oneshot::channel();
        entry.asked_at = now;
        entry.waiting = Some(waiting);
        let publish = entry.published_at.is_none_or(|at| now.saturating_duration_since(at) >= AGAIN);
        Ask::Wait { answer, publish }
    }

    /// A broker has it.
    pub(super) fn published(&mut self, id: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.published_at = Some(now);
        }
    }

    /// No broker has it, or it arrived another way.
    pub(super) fn forget(&mut self, id: &str) {
        self.entries.remove(id);
    }

    /// The peer has answered. That it took something is kept if nobody waits; why it could not is of interest now only.
    pub(super) fn answered(&mut self, id: &str, answer: ResponseBody, now: Instant) {
        let waiting = self.entries.remove(id).and_then(|entry| entry.waiting);
        let unheard = match waiting {
            Some(waiting) => waiting.send(answer).err(),
            None => Some(answer),
        };
        if let Some(answer) = unheard.filter(ResponseBody::is_ok) {
            self.make_room();
            let entry = Entry { asked_at: now, published_at: None, waiting: None, answer: Some(answer) };
            self.entries.insert(id.to_owned(), entry);
        }
    }

    /// How many have no answer yet.
    pub(super) fn unanswered(&self) -> usize {
        self.entries.values().filter(|entry| entry.answer.is_none()).count()
    }

    /// The oldest makes way: an answer that nobody has asked for, such as those to other nodes, or else one that is waited for, by
    /// whoever does so in vain and tries again.
    fn make_room(&mut self) {
        if self.entries.len() < MOST {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| (entry.answer.is_none(), entry.asked_at));
        if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(ask: Ask) -> (oneshot::Receiver<ResponseBody>, bool) {
        match ask {
            Ask::Wait { answer, publish } => (answer, publish),
            Ask::Answered(_) => panic!("nobody has answered"),
        }
    }

    #[test]
    fn a_transaction_is_not_published_again_and_again() {
        let (mut pending, began) = (Pending::default(), Instant::now());
        assert!(waits(pending.ask("1", began)).1);
        assert!(waits(pending.ask("1", began)).1, "it was not published");
        pending.published("1", began);
        assert!(!waits(pending.ask("1", began + AGAIN / 2)).1);
        let (mut answer, publish) = waits(pending.ask("1", began + AGAIN));
        assert!(publish, "it may be lost");
        pending.answered("1", ResponseBody::default(), began);
        assert!(answer.try_recv().is_ok() && pending.unanswered() == 0);
    }

    #[test]
    fn an_answer_that_comes_late_is_kept_for_the_next_attempt() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        drop(pending.ask("1", now));
        pending.published("1", now);
        pending.answered("1", ResponseBody::default(), now);
        assert!(matches!(pending.ask("1", now), Ask::Answered(_)));
        assert!(waits(pending.ask("1", now)).1, "an answer is used once");
        pending.answered("2", ResponseBody::refusal(429, "M_LIMIT_EXCEEDED", "later"), now);
        assert!(waits(pending.ask("2", now)).1, "a refusal from before says nothing");
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (mut pending, began) = (Pending::default(), Instant::now());
        for at in 0..1_000_u32 {
            drop(pending.ask(&at.to_string(), began + Duration::from_millis(at.into())));
        }
        assert_eq!(pending.unanswered(), MOST);
    }

    #[test]
    fn what_others_are_answered_crowds_out_nobody_who_waits() {
        let (mut pending, began) = (Pending::default(), Instant::now());
        let (mut answer, _) = waits(pending.ask("ours", began));
        for at in 0..1_000_u32 {
            pending.answered(&at.to_string(), ResponseBody::default(), began + Duration::from_millis(at.into()));
        }
        assert!(matches!(pending.ask("999", began), Ask::Answered(_)), "it may be asked by whoever takes over");
        pending.answered("ours", ResponseBody::default(), began);
        assert!(answer.try_recv().is_ok());
    }
}
