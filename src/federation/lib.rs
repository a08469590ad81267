//! Being talked to by other servers, and telling them: transactions in and out.
//!
//! **Invariant.** What a destination is owed is in the store until the destination has acknowledged it, and is sent in
//! order. A transaction that comes in twice takes effect once.
//!
//! Out: an event's rows in `outbox` are written with the event; [`Sender`] hears of them, and one worker for each destination
//! sends them. In: [`Inbound`] hands events to their rooms, side by side, and the rest to whom it concerns; what a room can't
//! take for now is kept until it can.
//!
//! With chat systems that don't speak Matrix, [`Bridge`] exchanges messages in a simple form; they become events like any
//! others, and what is owed to such a system is what its rooms hold.
//!
//! Only one process may send for a database at a time. With many nodes on one PostgreSQL, each would send everything:
//! receivers take each event once, but the order between nodes is lost. A lease for each destination, with a fencing token
//! in the rows' deletion, is what lifts this; [`Sender`] then claims it where it takes a destination's turn.
//!
//! **To tell other servers something new:** what must arrive gets rows in `store::outbox`; what only counts while it is fresh
//! goes to `fresh` and is heard in `spread`. **To take something new from them:** an arm in `edus`. **What came of what was
//! sent** is written by `records` where it is known, and told by [`Ledger`].

mod amqp;
mod backoff;
mod book;
mod bridge;
mod destination;
mod device_receipts;
mod edus;
mod fresh;
mod inbound;
mod lanes;
pub mod ledger;
mod records;
mod sender;
mod spread;
#[cfg(test)]
mod tests;
mod transaction;
mod way;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::Millis;

pub use amqp::{Carrier, LineStatus, WayStatus};
pub use backoff::Curves;
pub use bridge::{Bridge, BridgeError, Delivered, SimpleMessage};
pub use edus::{PresenceNews, PresenceTaken};
pub use inbound::{Answers, Inbound, InboundError, Incoming};
pub use lanes::{Door, Outcomes, Refused};
pub use ledger::Ledger;
pub use sender::Sender;
pub use way::Way;

/// How other servers are talked to.
#[derive(Clone, Debug)]
pub struct FederationConfig {
    /// How many destinations are sent to at a time; half of them may be such that could not be reached before.
    pub workers: usize,
    /// How long a transaction may take, from connecting to the last byte of its answer.
    pub send_timeout: Duration,
    /// When to try again what failed.
    pub curves: Curves,
    /// Who was away for so long …
    pub catch_up_after: Duration,
    /// … and is owed more events than this, gets the latest of each room and asks for those before.
    pub catch_up_over: u32,
    /// Whether other servers are told who is online.
    pub presence: bool,
    /// How long the ledger tells what became of single events.
    pub ledger_keep: Duration,
}

impl Default for FederationConfig {
    fn default() -> Self {
        Self {
            workers: 64,
            send_timeout: Duration::from_secs(60),
            curves: Curves::default(),
            catch_up_after: Duration::from_secs(10 * 60),
            catch_up_over: 1_000,
            presence: true,
            ledger_keep: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

/// Milliseconds since 1970.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

fn millis(length: Duration) -> Millis {
    Millis::try_from(length.as_millis()).unwrap_or(Millis::MAX / 2)
}
