//! Lists of servers that deployments publish for others to go by: how far each may be trusted, and by which keys it is known.
//!
//! A deployment publishes one list, by its own name, in versions whose numbers only grow. Others subscribe to it. What a list
//! says of a server counts where no admin has set that server, and never lifts it above the level that the subscription allows.
//! Nothing is taken from a publisher but what one of the keys signed that it is pinned to, so the way that a list takes need not
//! be trusted: who is in between can keep a newer version back, and then the list runs out.
//!
//! What a list says is read where trust is decided, see [`crate::trust`]; here is how it comes to be there.

mod closing;
mod document;
mod fault;
mod in_force;
mod judge;
mod keys;
mod publish;
mod refresh;
mod subscribe;
#[cfg(test)]
mod tests;
mod view;

use crate::Peers;

pub use document::{Entries, FederationList, ListEntry};
pub use fault::{ListError, ListFault, remedy_of};
pub use in_force::ListState;
pub(crate) use in_force::{Decided, Listings, Remembered};
pub use publish::{Base, Edition, EntryChange};
pub use subscribe::{Listable, Wish};
pub use view::{ListedServer, PublishedView, RefusalView, SubscriptionView};

/// Where a server's list is, on its native API.
pub const PATH: &str = "/api/v1/federation/list";
/// How often a change is tried again because somebody else changed something meanwhile.
const TRIES: u32 = 16;

/// The lists of this deployment, its own and those it goes by. Cheap to clone.
#[derive(Clone)]
pub struct Lists {
    peers: Peers,
}

impl Peers {
    /// The lists of this deployment, its own and those it goes by.
    pub fn lists(&self) -> Lists {
        Lists { peers: self.clone() }
    }
}
