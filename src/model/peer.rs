//! Other servers as this one regards them: how far each is trusted, and what follows from it.
//!
//! [`TABLE`] is the whole of what the levels mean; [`decide`] is the one function that reads it. The documentation and the tests
//! are made from the same table.

mod decide;
mod level;
mod pattern;
mod regard;
mod table;

pub use decide::{Allowed, Context, Decision, Denied, Fact, Facts, Rule, decide};
pub use level::{TrustLevel, UnknownLevel};
pub use pattern::{PatternError, PeerPattern, domains_above, host_of, normal_name};
pub use regard::{Override, Overrides, Regard, Standing, WrongGrant};
pub use table::{Capability, Direction, Grant, Row, TABLE, markdown};
