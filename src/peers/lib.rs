//! Talking to other servers: finding them, knowing their keys, signing what we ask, reading what they answer.
//!
//! **Invariant.** A peer is hostile until shown otherwise: every byte from one has a size limit and a deadline, an address
//! is connected to only if the configuration allows it, and nothing counts as said by a server that its keys don't verify.
//!
//! **To ask a server something new:** nothing here; [`Peers::ask`] takes each of ruma's federation requests.

mod addresses;
mod client;
mod config;
pub mod doctor;
mod error;
mod fetch;
mod first_forms;
pub mod keys;
pub mod links;
pub mod lists;
mod lookup;
mod outbound;
pub mod peering;
mod refusals;
mod resolver;
mod streamed;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tls;
pub mod token;
pub mod trust;
pub mod vault;
mod well_known;
mod x_matrix;

use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use model::SigningKey;
use ruma::ServerName;
use store::Store;
use tokio::sync::Semaphore;

pub use client::Finder;
pub use config::PeersConfig;
pub use doctor::{Doctor, Examination};
pub use error::{Failure, PeerError};
pub use keys::{KeyError, KeyRing, NotaryWish, RetiredKey, ServerKey};
pub use links::{Links, LinksConfig, LinksError};
pub use lists::{ListError, Lists};
pub use lookup::{Addresses, Family, Lookup, Missing};
pub use outbound::{Outbound, OutboundConfig, OutboundError};
pub use peering::Peering;
pub use resolver::Place;
pub use streamed::Streamed;
pub use token::{NativeRequest, Scope, Token, TokenError};
pub use trust::{Trust, TrustConfig, TrustError};
pub use well_known::Unnamed;
pub use x_matrix::{AuthError, Claim};

/// The way to other servers. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    config: PeersConfig,
    key: Arc<SigningKey>,
    keys: KeyRing,
    wire: client::Wire,
    refusals: refusals::Refusals,
    trust: Trust,
    /// The bytes of large bodies that are being read from servers which have proved nothing yet.
    large_bodies: Semaphore,
    on_heard: OnceLock<OnHeard>,
    /// Whose turn it is to be examined.
    examinations: Semaphore,
    used: token::Used,
}

/// Is told of a server that has just shown to be there.
pub type OnHeard = Box<dyn Fn(&ServerName) + Send + Sync>;

/// How many bytes of large bodies are read at once.
const LARGE_BODIES: usize = 256 << 20;
/// How many servers are examined at once.
const EXAMINATIONS: usize = 4;

impl Peers {
    /// `key`: what this server signs with, and the name it does so for.
    pub fn new(store: Store, key: Arc<SigningKey>, config: PeersConfig) -> Result<Self, PeerError> {
        let fetch = Arc::new(fetch::OverNetwork::default());
        let peers = Self::with(store, key, config, fetch.clone(), Arc::new(keys::wall_clock))?;
        fetch.go_through(&peers);
        Ok(peers)
    }

    /// As [`Self::new`], with another way to keys, and a clock.
    pub(crate) fn with(
        store: Store,
        key: Arc<SigningKey>,
        config: PeersConfig,
        fetch: Arc<dyn keys::Fetch>,
        clock: keys::Clock,
    ) -> Result<Self, PeerError> {
        let used = token::Used::new(store.clone());
        let trust = Trust::new(store.clone(), key.server_name().to_owned(), config.trust.clone());
        let keys = KeyRing::new(keys::Parts {
            store,
            key: key.clone(),
            retired: config.retired_keys.clone(),
            previous: config.previous_key.clone(),
            notaries: config.trusted_key_servers.clone(),
            fetch,
            trust: trust.clone(),
            clock,
        });
        let refusals = refusals::Refusals::default();
        let large_bodies = Semaphore::new(LARGE_BODIES);
        let on_heard = OnceLock::new();
        let wire = client::Wire::new(&config)?;
        let examinations = Semaphore::new(EXAMINATIONS);
        let shared = Shared { config, key, keys, wire, refusals, trust, large_bodies, on_heard, examinations, used };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The name of this server.
    pub fn server_name(&self) -> &ServerName {
        self.shared.key.server_name()
    }

    /// Whether this server talks with others at all.
    pub fn is_enabled(&self) -> bool {
        self.shared.config.enabled
    }

    /// Whether `server` is this one.
    pub fn is_us(&self, server: &ServerName) -> bool {
        server == self.server_name()
    }

    /// The keys of all servers.
    pub fn keys(&self) -> &KeyRing {
        &self.shared.keys
    }

    /// How far other servers are trusted.
    pub fn trust(&self) -> &Trust {
        &self.shared.trust
    }

    /// Who says to have signed a request with these headers, unless no key could make that right.
    pub fn claim_of(&self, headers: &HeaderMap) -> Result<Claim, AuthError> {
        if self.is_enabled() { Claim::read(headers, self.server_name()) } else { Err(AuthError::Disabled) }
    }

    /// Room for the bodies of requests whose senders have proved nothing yet: one permit a byte.
    pub fn large_bodies(&self) -> &Semaphore {
        &self.shared.large_bodies
    }

    /// Tells `listener` of each server that has just signed a request to this one. Only the first who wants that is told;
    /// it must not wait.
    pub fn on_heard(&self, listener: OnHeard) {
        self.shared.on_heard.set(listener).ok();
    }

    /// A request of `server` was verified: it is there.
    pub fn note_heard(&self, server: &ServerName) {
        self.trust().note_answered(server);
        if let Some(listener) = self.shared.on_heard.get() {
            listener(server);
        }
    }

    /// Counts that something of a peer's was refused, and says so in the log, though not each time.
    ///
    /// `peer`: who it says it was; it has a figure of its own only if its keys are known. `reason`: one word of a few.
    /// `details`: for the operator.
    pub fn note_refusal(&self, peer: Option<&ServerName>, reason: &'static str, details: &dyn std::fmt::Display) {
        let is_known = peer.is_some_and(|peer| self.shared.keys.knows(peer));
        self.shared.refusals.note(peer, is_known, reason, details);
    }
}
