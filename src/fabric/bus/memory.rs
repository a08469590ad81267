//! The bus of a deployment of one process.

use std::sync::{Arc, PoisonError, RwLock};

use model::Committed;
use tokio::sync::broadcast;

use super::{Bus, Listener};

/// How many commits may wait for the slowest subscriber before it is told of a gap.
const CAPACITY: usize = 1024;

/// Tells commits to everybody in this process.
pub struct MemoryBus {
    listeners: RwLock<Arc<[Listener]>>,
    sender: broadcast::Sender<Committed>,
}

/// A bounded queue of commits.
pub struct Subscription {
    receiver: broadcast::Receiver<Committed>,
    missed: bool,
}

impl MemoryBus {
    /// A bus that nobody listens to yet.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self { listeners: RwLock::new(Arc::new([])), sender: broadcast::Sender::new(capacity) }
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus for MemoryBus {
    fn publish(&self, committed: Committed) {
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner).clone();
        for listener in listeners.iter() {
            listener(&committed);
        }
        // An error says that nobody subscribes.
        let _ = self.sender.send(committed);
    }

    fn listen(&self, listener: Listener) {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        *listeners = listeners.iter().cloned().chain([listener]).collect();
    }

    fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe(), missed: false }
    }
}

impl Subscription {
    /// The next commit; with `gap` set if some before it were missed. `None`: the bus is gone.
    pub async fn next(&mut self) -> Option<Committed> {
        loop {
            match self.receiver.recv().await {
                Ok(mut committed) => {
                    committed.gap |= std::mem::take(&mut self.missed);
                    return Some(committed);
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.missed = true,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use model::Position;

    use super::*;

    fn commit(upto: i64) -> Committed {
        Committed { upto: Position(upto), changes: Arc::new([]), gap: false }
    }

    #[test]
    fn a_listener_has_heard_of_a_commit_when_publishing_returns() {
        let bus = MemoryBus::new();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = heard.clone();
        bus.listen(Arc::new(move |committed| ear.lock().expect("not poisoned").push(committed.upto.0)));
        for upto in 1..=3 {
            bus.publish(commit(upto));
            assert_eq!(heard.lock().expect("not poisoned").last(), Some(&upto));
        }
    }

    #[tokio::test]
    async fn a_subscriber_hears_everything_in_order() {
        let bus = MemoryBus::new();
        let mut subscription = bus.subscribe();
        for upto in 1..=3 {
            bus.publish(commit(upto));
        }
        for upto in 1..=3 {
            let next = subscription.next().await.expect("the bus is there");
            assert_eq!((next.upto.0, next.gap), (upto, false));
        }
    }

    #[tokio::test]
    async fn a_subscriber_who_is_too_slow_is_told_of_the_gap() {
        let bus = MemoryBus::with_capacity(2);
        let mut subscription = bus.subscribe();
        for upto in 1..=5 {
            bus.publish(commit(upto));
        }
        let next = subscription.next().await.expect("the bus is there");
        assert_eq!((next.upto.0, next.gap), (4, true));
        let next = subscription.next().await.expect("the bus is there");
        assert_eq!((next.upto.0, next.gap), (5, false));
    }
}
