//! The bus: every commit, in order, to everybody who wants to hear of it.

mod memory;

use std::sync::Arc;

use model::Committed;

pub use memory::{MemoryBus, Subscription};

/// Hears of a commit in the very moment in which it is published. Must not block.
pub type Listener = Arc<dyn Fn(&Committed) + Send + Sync>;

/// Where commits are published.
pub trait Bus: Send + Sync {
    /// Tells `committed`: first to the listeners of this node, who know of it when this returns, then to the subscribers.
    ///
    /// Called in the order of the commits, by one caller at a time.
    fn publish(&self, committed: Committed);

    /// Tells `listener` of everything that is published from now on.
    fn listen(&self, listener: Listener);

    /// A queue of everything that is published from now on.
    fn subscribe(&self) -> Subscription;
}
