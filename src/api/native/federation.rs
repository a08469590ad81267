//! What other servers ask on the native API: deliver messages, say who is there, look for people, ask how they are seen, offer to
//! be peers, tell people here of broadcasts, and share what full peers share.

mod authenticate;
mod broadcasts;
mod cascade;
mod deliver;
mod list;
mod mq_info;
mod peering;
mod presence;
mod status;
#[cfg(test)]
mod tests;
mod users;

use super::Endpoint;

pub use authenticate::Peer;

/// The endpoints of this folder.
pub(super) fn endpoints() -> Vec<Endpoint> {
    [
        deliver::endpoints(),
        presence::endpoints(),
        users::endpoints(),
        status::endpoints(),
        peering::endpoints(),
        list::endpoints(),
        broadcasts::endpoints(),
        mq_info::endpoints(),
        cascade::endpoints(),
    ]
    .concat()
}
