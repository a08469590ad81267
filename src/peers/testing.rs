//! For tests of the crates above: a server that talks to nobody.

use std::sync::Arc;

use model::SigningKey;
use ruma::ServerName;
use store::Store;

use crate::{Peers, PeersConfig};

/// The peers of a server called `name` that federates with nobody.
pub fn alone(name: &ServerName, store: Store) -> Peers {
    let key = SigningKey::from_seed(name.to_owned(), "test", &[7; 32]).expect("any seed makes a key");
    let config = PeersConfig { enabled: false, ..PeersConfig::default() };
    Peers::new(store, Arc::new(key), config).expect("nothing has to be reached")
}
