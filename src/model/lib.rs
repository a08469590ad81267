//! Words and rules: what the other crates talk about, and what follows from it without asking anybody.
//!
//! **Invariant.** Nothing here waits: no async function, no I/O, no clock of its own, no randomness but by argument.
//! ([`gate::Gate`] is a promise of others to answer; nobody here waits for it.)
//!
//! **To add a word:** a file named after it, its type, its rules as pure functions, its tests beside them.

mod address;
mod change;
mod event;
pub mod gate;
mod kind;
pub mod peer;
mod position;
mod references;
mod room_version;
mod signing;
mod state;

pub use address::{Address, AddressError};
pub use change::{Change, Committed, Receipt, TimelineEvent, UserStream};
pub use event::{Draft, MAX_PDU_BYTES, Pdu, PduError, Place, event_id_of, guessed_event_id};
pub use kind::{Kind, Refusal};
pub use position::{EventNid, Position, RoomNid, SnapshotNid};
pub use references::{ReferenceHashes, names_hashes, reference_hash};
pub use room_version::{is_supported, rules_of, supported_room_versions};
pub use signing::SigningKey;
pub use state::{StateKey, StateMap};

/// Milliseconds since 1970, as the protocol counts time.
pub type Millis = i64;
