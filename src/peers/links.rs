//! The links between this server's broker and those of peers.
//!
//! For each peer that is trusted fully, is active, has a row of its own and whose transport is `auto` or `amqp`, there is at
//! this server's broker a virtual host with all that a link needs, and a user for the peer that may do nothing but its link
//! ([`plan`]). The peer is told that user's password when it asks, signed as ever ([`Links::give`]); and is asked for the
//! other one ([`ask`]). [`tend`] sees to it that what shall be at the broker is there, and that what is no longer wanted is
//! gone.
//!
//! **Invariant.** A password is sealed wherever it is kept, and is in no log, no error and no answer but the one to the peer
//! that it was made for.

mod ask;
mod change;
mod error;
mod give;
mod offer;
mod plan;
mod status;
mod tend;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use fabric::{Management, ManagementConfig, management::LinkWay, naming};
use ruma::{OwnedServerName, ServerName};
use store::Store;
use tokio::sync::Notify;
use url::Url;

pub use error::LinksError;
pub use offer::Offer;
pub use status::{BusStatus, Credentials, LinkStatus, WayStatus};

use crate::{Peers, trust::Transport, vault::Vault};

/// Where a peer is asked how to log in at its broker.
pub const PATH: &str = "/api/v1/cascade/mq-info";

/// How this server links its broker with others.
#[derive(Clone, Debug)]
pub struct LinksConfig {
    /// The management of its own broker.
    pub management: ManagementConfig,
    /// As whom this server publishes and consumes at its own broker; `None`: its certificate says so, and whoever gave it the
    /// certificate permits it what it needs.
    pub user: Option<String>,
    /// Where peers reach this server's broker, without user and password. `None`: peers are not told.
    pub public_url: Option<Url>,
    /// What its links are made of, unless the peer wants it otherwise.
    pub way: LinkWay,
    /// What its broker uses for TLS with those of peers.
    pub tls: LinkTls,
}

/// Files at the machine of the broker, by which it knows other brokers and shows itself to them.
#[derive(Clone, Debug)]
pub struct LinkTls {
    /// The authorities that it trusts, PEM.
    pub ca_file: String,
    /// What it shows, PEM; `None`: nothing.
    pub certificate: Option<String>,
    /// The private key of that.
    pub private_key: Option<String>,
}

/// The links with the brokers of peers. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    peers: Peers,
    management: Management,
    config: LinksConfig,
    vault: Arc<Vault>,
    watched: Mutex<BTreeMap<OwnedServerName, Watched>>,
    /// What keeps the broker from doing what it should, in sentences.
    findings: Mutex<Vec<String>>,
    /// There is something to do at once.
    wake: Notify,
}

/// What this process knows of a link besides what is in the store and at the broker.
#[derive(Debug, Default)]
struct Watched {
    /// What the peer needs is at our broker.
    is_made: bool,
    /// Until then the peer isn't asked.
    pause: Option<Instant>,
    /// How often in a row asking it failed.
    failures: u32,
    /// Since when the link is down.
    down_since: Option<Instant>,
    /// Whether that was said.
    is_alarmed: bool,
    /// How often in a row it was seen down.
    looks_down: u32,
}

impl Links {
    /// Those of this server, whose secrets `vault` seals; nothing is asked yet.
    pub fn new(peers: Peers, vault: Arc<Vault>, config: LinksConfig) -> Result<Self, LinksError> {
        let management = Management::new(&config.management)?;
        let shared = Shared {
            peers,
            management,
            config,
            vault,
            watched: Mutex::default(),
            findings: Mutex::default(),
            wake: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What keeps the broker from having links, each in a sentence that says what to do; as it was when last looked.
    pub fn findings(&self) -> Vec<String> {
        self.shared.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The peers that there are to be links with.
    fn wanted(&self) -> BTreeMap<OwnedServerName, Transport> {
        self.shared.peers.trust().broker_peers().into_iter().collect()
    }

    fn store(&self) -> &Store {
        self.shared.peers.trust().store()
    }

    fn us(&self) -> &ServerName {
        self.shared.peers.server_name()
    }

    fn with_watched<T>(&self, peer: &ServerName, act: impl FnOnce(&mut Watched) -> T) -> T {
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        act(watched.entry(peer.to_owned()).or_default())
    }

    fn forget_watched(&self, peer: &ServerName) {
        self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }
}

/// What the user of `peer` at our broker is called.
fn user_of(peer: &ServerName) -> String {
    format!("peer.{peer}")
}

/// Whose link a virtual host is for, by its name.
fn peer_of_vhost(vhost: &str) -> Option<OwnedServerName> {
    let peer = OwnedServerName::try_from(vhost.strip_prefix("fed.")?).ok()?;
    (naming::vhost(&peer) == vhost).then_some(peer)
}

/// As people write it.
pub fn word_of(way: LinkWay) -> &'static str {
    match way {
        LinkWay::Upstream => "upstream",
        LinkWay::Shovel => "shovel",
    }
}

/// The other way.
pub fn way_of(word: &str) -> Option<LinkWay> {
    [LinkWay::Upstream, LinkWay::Shovel].into_iter().find(|way| word_of(*way) == word)
}
