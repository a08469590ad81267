//! Being talked to by other servers, and telling them: transactions in and out.
//!
//! **Invariant.** What a destination is owed is in the store until the destination has acknowledged it, and is sent in
//! order. A transaction that comes in twice takes effect once.
