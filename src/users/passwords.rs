//! Hashing passwords, and knowing them again.

use std::time::Duration;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc},
};
use model::{Kind, Refusal};
use tokio::sync::Semaphore;

use crate::HashCosts;

/// How long a request waits for its turn to hash.
const TURN: Duration = Duration::from_secs(20);

/// Too many passwords wait to be hashed.
#[derive(Debug, thiserror::Error)]
#[error("too many passwords wait to be checked")]
pub struct Busy;

impl Refusal for Busy {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

/// What became of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Wrong,
    Right,
    /// Right, and its hash should be made anew: it is one of an older kind.
    RightButOld,
}

/// Hashes passwords beside the runtime, few at a time: each takes memory and a core.
pub(crate) struct Passwords {
    turns: Semaphore,
    hasher: Argon2<'static>,
}

impl Passwords {
    pub(crate) fn new(at_once: usize, costs: HashCosts) -> Self {
        let params = Params::new(costs.memory_kib, costs.iterations, costs.parallelism, None).unwrap_or_default();
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        Self { turns: Semaphore::new(at_once.clamp(1, 64)), hasher }
    }

    /// The hash to keep of `password`.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Busy> {
        let hasher = self.hasher.clone();
        self.run(move || hash(&hasher, &password)).await
    }

    /// Whether `password` is the one that `stored` was made of. Without a hash it is wrong, and takes as long.
    pub(crate) async fn verify(&self, stored: Option<String>, password: String) -> Result<Verdict, Busy> {
        let hasher = self.hasher.clone();
        self.run(move || match stored {
            Some(stored) => verify(&stored, &password),
            None => {
                hash(&hasher, &password);
                Verdict::Wrong
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let _turn = tokio::time::timeout(TURN, self.turns.acquire()).await.map_err(|_| Busy)?.map_err(|_| Busy)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| Busy)
    }
}

fn hash(hasher: &Argon2<'_>, password: &str) -> String {
    hasher.hash_password(password.as_bytes()).expect("argon2 takes any password").to_string()
}

fn verify(stored: &str, password: &str) -> Verdict {
    // What other servers have stored: $2a$, $2b$, $2y$.
    if stored.starts_with("$2") {
        return match bcrypt::verify(password, stored) {
            Ok(true) => Verdict::RightButOld,
            _ => Verdict::Wrong,
        };
    }
    match phc::PasswordHash::new(stored) {
        Ok(hash) if Argon2::default().verify_password(password.as_bytes(), &hash).is_ok() => Verdict::Right,
        _ => Verdict::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_again_by_its_argon2id_hash() {
        let stored = hash(&Argon2::default(), "correct horse");
        assert!(stored.starts_with("$argon2id$"));
        assert_eq!(verify(&stored, "correct horse"), Verdict::Right);
        assert_eq!(verify(&stored, "wrong horse"), Verdict::Wrong);
    }

    #[test]
    fn a_bcrypt_hash_is_read_and_marked_for_renewal() {
        let stored = bcrypt::hash("correct horse", 4).expect("cost 4 is allowed");
        assert_eq!(verify(&stored, "correct horse"), Verdict::RightButOld);
        assert_eq!(verify(&stored, "wrong horse"), Verdict::Wrong);
        assert_eq!(verify("$2b$nonsense", "correct horse"), Verdict::Wrong);
        assert_eq!(verify("nonsense", "correct horse"), Verdict::Wrong);
    }
}
