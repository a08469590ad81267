//! What other programs are told of, and what they may say: the bus, webhooks, system events and broadcasts, the cascade.
//!
//! **Invariant.** Nothing here is on the way of a message: what other programs are told is read from the store behind it.
