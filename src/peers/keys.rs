//! The keys that servers sign with: ours, and those of others as far as they are known.
//!
//! What is known is kept in memory and in the store. What isn't is asked of the server whose key it is, and, if that
//! doesn't answer, of the notaries that the configuration names: once at a time for each server, not again too soon.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys>

mod answer;
mod error;
mod events;
mod fetch;
mod known;
mod pins;
mod publish;
#[cfg(test)]
mod tests;
mod under_way;

use std::{
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use model::{Millis, SigningKey};
use quick_cache::sync::Cache;
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName, signatures};
use store::Store;
use tokio::sync::Semaphore;

pub(crate) use answer::KeyAnswer;
pub use error::KeyError;
pub(crate) use error::span;
pub(crate) use fetch::Fetch;
pub(crate) use known::check_signatures;
pub use known::{RetiredKey, ServerKey};
pub(crate) use pins::{is_verify_key, signed_by_one_of};
pub use publish::NotaryWish;

use crate::Trust;
use fetch::Attempt;
use known::{KeySet, Need, key_ids_of};

/// How many servers' keys are kept in memory.
const CACHED_SERVERS: usize = 10_000;
/// How many servers are asked for their keys at once.
const FETCHES: usize = 64;

/// Tells the time.
pub(crate) type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The keys of all servers, as far as they are known, and the ways to learn the others. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    key: Arc<SigningKey>,
    retired: Vec<RetiredKey>,
    previous: Option<Arc<SigningKey>>,
    /// Ours, as everybody else's are looked up.
    ours: Arc<KeySet>,
    notaries: Vec<OwnedServerName>,
    fetch: Arc<dyn Fetch>,
    trust: Trust,
    clock: Clock,
    known: Cache<OwnedServerName, Arc<KeySet>>,
    /// What came of asking a server for its keys last.
    attempts: Cache<OwnedServerName, Attempt>,
    under_way: under_way::UnderWay,
    fetches: Semaphore,
    published: Mutex<Option<publish::Published>>,
}

/// What a key ring is made of.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) retired: Vec<RetiredKey>,
    /// The one that was retired last, private half included.
    pub(crate) previous: Option<Arc<SigningKey>>,
    pub(crate) notaries: Vec<OwnedServerName>,
    pub(crate) fetch: Arc<dyn Fetch>,
    /// Which servers are pinned to which keys.
    pub(crate) trust: Trust,
    pub(crate) clock: Clock,
}

impl KeyRing {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { store, key, retired, previous, mut notaries, fetch, trust, clock } = parts;
        notaries.retain(|notary| notary != key.server_name());
        Self {
            shared: Arc::new(Shared {
                ours: Arc::new(known::ours(&key, &retired)),
                store,
                key,
                retired,
                previous,
                notaries,
                fetch,
                trust,
                clock,
                known: Cache::new(CACHED_SERVERS),
                attempts: Cache::new(CACHED_SERVERS),
                under_way: under_way::UnderWay::default(),
                fetches: Semaphore::new(FETCHES),
                published: Mutex::default(),
            }),
        }
    }

    /// The key of `server` called `key_id`, if what it signs counts now.
    pub async fn keys_of(&self, server: &ServerName, key_id: &str) -> Result<ServerKey, KeyError> {
        let need = Need { server: server.to_owned(), key_ids: vec![key_id.to_owned()], at: self.now() };
        let keys = self.learn(std::slice::from_ref(&need)).await?;
        let found = keys.get(server).and_then(|keys| keys.get(key_id)).filter(|key| key.is_valid_at(need.at));
        found.cloned().ok_or_else(|| self.explain(&need, &keys))
    }

    /// Checks that `server` has signed `object`, by a key that counts now.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/appendices/#checking-for-a-signature>
    pub async fn check_json(&self, server: &ServerName, object: &CanonicalJsonObject) -> Result<(), KeyError> {
        let need = Need { server: server.to_owned(), key_ids: key_ids_of(object, server)?, at: self.now() };
        let keys = self.learn(std::slice::from_ref(&need)).await?;
        let valid = need.valid_among(&keys);
        if valid.is_empty() {
            return Err(self.explain(&need, &keys));
        }
        known::check_signatures(object, server, &valid)
    }

    /// Checks that `server` has signed one of `texts`, which mean the same, by a key that counts now. Answers which.
    pub async fn check_texts<'a>(
        &self,
        server: &ServerName,
        by: &[(String, [u8; 64])],
        texts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<usize, KeyError> {
        let key_ids = by.iter().map(|(key_id, _)| key_id.clone()).collect();
        let need = Need { server: server.to_owned(), key_ids, at: self.now() };
        let keys = self.learn(std::slice::from_ref(&need)).await?;
        let valid = need.valid_among(&keys);
        if valid.is_empty() {
            return Err(self.explain(&need, &keys));
        }
        let valid = self.only_pinned(server, valid);
        for (at, text) in texts.enumerate() {
            let is_signed = by.iter().any(|(key_id, signature)| {
                valid.get(key_id).is_some_and(|key| {
                    let algorithm = &ruma::SigningKeyAlgorithm::Ed25519;
                    signatures::verify_canonical_json_bytes(algorithm, key.as_bytes(), signature, text).is_ok()
                })
            });
            if is_signed {
                return Ok(at);
            }
        }
        let reason = "it was signed by another key, or was changed on the way".to_owned();
        Err(KeyError::Signature { server: server.to_owned(), reason })
    }

    /// Whether any keys of `server` are in memory.
    pub(crate) fn knows(&self, server: &ServerName) -> bool {
        self.shared.known.peek(server).is_some_and(|keys| !keys.is_empty())
    }

    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    pub(crate) fn now(&self) -> Millis {
        (self.shared.clock)()
    }
}

/// Milliseconds since 1970.
pub(crate) fn wall_clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
