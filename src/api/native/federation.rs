//! What other servers ask on the native API: deliver messages, say who is there, look for people, and ask how they are seen.

mod authenticate;
mod deliver;
mod list;
mod presence;
mod status;
#[cfg(test)]
mod tests;
mod users;

use super::Endpoint;

pub use authenticate::Peer;

/// The endpoints of this folder.
pub(super) fn endpoints() -> Vec<Endpoint> {
    [deliver::endpoints(), presence::endpoints(), users::endpoints(), status::endpoints(), list::endpoints()].concat()
}
