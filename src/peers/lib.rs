//! Talking to other servers: finding them, knowing their keys, signing what we ask, reading what they answer.
//!
//! **Invariant.** A peer is hostile until shown otherwise: every byte from one has a size limit and a deadline, an address
//! is connected to only if the configuration allows it, and nothing counts as said by a server that its keys don't verify.
//!
//! **To ask a server something new:** nothing here; [`Peers::ask`] takes each of ruma's federation requests.

mod client;
mod config;
mod error;
pub mod keys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::sync::Arc;

use model::SigningKey;
use ruma::ServerName;
use store::Store;

pub use config::PeersConfig;
pub use error::{Failure, PeerError};
pub use keys::KeyRing;

/// The way to other servers. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    config: PeersConfig,
    key: Arc<SigningKey>,
    keys: KeyRing,
}

impl Peers {
    /// `key`: what this server signs with, and the name it does so for.
    pub fn new(store: Store, key: Arc<SigningKey>, config: PeersConfig) -> Result<Self, PeerError> {
        let keys = KeyRing::new(store, key.clone());
        Ok(Self { shared: Arc::new(Shared { config, key, keys }) })
    }

    /// The name of this server.
    pub fn server_name(&self) -> &ServerName {
        self.shared.key.server_name()
    }

    /// Whether `server` is this one.
    pub fn is_us(&self, server: &ServerName) -> bool {
        server == self.server_name()
    }

    /// The keys of all servers.
    pub fn keys(&self) -> &KeyRing {
        &self.shared.keys
    }
}
