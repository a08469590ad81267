//! The fabric between the parts of one node, and between nodes: what has happened is told here.
//!
//! **Invariant.** The store is the truth, what goes through here is a hint: whoever misses some of it is told that there is
//! a gap, and looks it up. Nobody who publishes ever waits for somebody who listens.
//!
//! **To add a broker:** a file beside `bus/memory.rs` that passes the same tests.

pub mod bus;

pub use bus::{Bus, MemoryBus, Subscription};
