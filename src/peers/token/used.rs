//! Each token is good once: what was used is remembered until it would be too old anyway.

use std::sync::atomic::{AtomicI64, Ordering};

use model::Millis;
use quick_cache::sync::Cache;
use ruma::OwnedServerName;
use store::{Store, Write, used_tokens};

use super::{Token, TokenError};

/// How many are remembered in memory, so that most replays cost no write.
const REMEMBERED: usize = 50_000;
/// How often those that are too old are forgotten, in milliseconds.
const FORGET_EVERY: Millis = 60_000;

/// The tokens that were used.
pub(crate) struct Used {
    store: Store,
    seen: Cache<(OwnedServerName, String), Millis>,
    forgot_at: AtomicI64,
}

impl Used {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, seen: Cache::new(REMEMBERED), forgot_at: AtomicI64::new(0) }
    }

    /// Uses a verified token up. Answers when that is durable.
    pub(super) async fn take(&self, token: &Token, now: Millis) -> Result<(), TokenError> {
        let key = (token.issuer.clone(), token.id.clone());
        if self.seen.get(&key).is_some_and(|until| until > now) {
            return Err(TokenError::Replayed);
        }
        let mut write = Write::new();
        used_tokens::insert(&mut write, &token.issuer, &token.id, token.expires_at);
        let forgot_at = self.forgot_at.load(Ordering::Relaxed);
        if now - forgot_at >= FORGET_EVERY
            && self.forgot_at.compare_exchange(forgot_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            used_tokens::forget(&mut write, now);
        }
        let taken = self.store.commit(write).await;
        if matches!(taken, Ok(_) | Err(store::Error::Duplicate)) {
            self.seen.insert(key, token.expires_at);
        }
        match taken {
            Ok(_) => Ok(()),
            Err(store::Error::Duplicate) => Err(TokenError::Replayed),
            Err(error) => Err(error.into()),
        }
    }
}
