//! Which servers are owed something, and when each is asked again.

use std::{collections::HashMap, time::Duration};

use ruma::{OwnedServerName, ServerName};
use tokio::time::Instant;

/// The servers that are owed something.
#[derive(Default)]
pub(super) struct Book(HashMap<OwnedServerName, Slot>);

struct Slot {
    /// When its turn is due.
    due: Instant,
    /// How often in a row it could not be reached.
    failures: u32,
    is_running: bool,
    /// More was said while its turn was running.
    has_more: bool,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    /// Nothing is owed.
    Done,
    /// It is to be tried again.
    Failed(Duration),
}

impl Book {
    /// The server is owed something. One that could not be reached is still left alone.
    pub(super) fn mark(&mut self, server: &ServerName, now: Instant) {
        match self.0.get_mut(server) {
            Some(slot) => slot.has_more |= slot.is_running,
            None => {
                let slot = Slot { due: now, failures: 0, is_running: false, has_more: false };
                self.0.insert(server.to_owned(), slot);
            }
        }
    }

    /// The server is there: it is not left alone any longer. Answers whether it was.
    pub(super) fn alive(&mut self, server: &ServerName, now: Instant) -> bool {
        match self.0.get_mut(server) {
            Some(slot) if !slot.is_running && slot.due > now => {
                slot.due = now;
                true
            }
            _ => false,
        }
    }

    /// Begins the turn of a server whose turn is due, unless `most` are running.
    pub(super) fn begin(&mut self, now: Instant, most: usize) -> Option<OwnedServerName> {
        if self.0.values().filter(|slot| slot.is_running).count() >= most {
            return None;
        }
        let (server, slot) = self.0.iter_mut().find(|(_, slot)| !slot.is_running && slot.due <= now)?;
        slot.is_running = true;
        slot.has_more = false;
        Some(server.clone())
    }

    /// The server could not be reached once more. Answers how often in a row that is.
    pub(super) fn failed(&mut self, server: &ServerName) -> u32 {
        let Some(slot) = self.0.get_mut(server) else { return 1 };
        slot.failures = slot.failures.saturating_add(1);
        slot.failures
    }

    /// The server took something.
    pub(super) fn answered(&mut self, server: &ServerName) {
        if let Some(slot) = self.0.get_mut(server) {
            slot.failures = 0;
        }
    }

    /// A turn is over.
    pub(super) fn end(&mut self, server: &ServerName, ended: Ended, now: Instant) {
        let Some(slot) = self.0.get_mut(server) else { return };
        slot.is_running = false;
        match ended {
            Ended::Done if !slot.has_more => drop(self.0.remove(server)),
            Ended::Done => slot.due = now,
            Ended::Failed(wait) => slot.due = now + wait,
        }
    }

    /// When the next turn is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.0.values().filter(|slot| !slot.is_running).map(|slot| slot.due).min()
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[tokio::test]
    async fn a_server_has_one_turn_at_a_time_and_is_left_alone_until_it_shows_up() {
        let (b, now) = (server_name!("b.test"), Instant::now());
        let mut book = Book::default();
        book.mark(b, now);
        assert_eq!(book.begin(now, 4).as_deref(), Some(b));
        assert_eq!(book.begin(now, 4), None);
        book.mark(b, now);
        book.end(b, Ended::Done, now);
        assert_eq!(book.begin(now, 0), None);
        assert_eq!(book.begin(now, 1).as_deref(), Some(b), "something was said meanwhile");
        assert_eq!((book.failed(b), book.failed(b)), (1, 2));
        book.end(b, Ended::Failed(Duration::from_secs(60)), now);
        book.mark(b, now);
        assert_eq!(book.begin(now, 4), None);
        assert!(book.alive(b, now) && !book.alive(b, now));
        assert_eq!(book.begin(now, 4).as_deref(), Some(b));
        book.answered(b);
        assert_eq!(book.failed(b), 1);
        book.end(b, Ended::Done, now);
        assert_eq!((book.begin(now, 4), book.wake_at()), (None, None));
    }
}
