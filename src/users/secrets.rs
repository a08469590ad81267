//! Tokens, and proofs that something came from this server.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use model::Millis;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use store::{Store, Write, accounts::offer_secret};

/// 256 random bits as text.
pub(crate) fn random_text() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A new token. `kind` says what it is for, so that one that leaked can be recognised.
pub(crate) fn new_token(kind: &str) -> String {
    format!("{kind}_{}", random_text())
}

/// What is kept of a token: one that has 256 random bits needs no slow hash.
pub(crate) fn digest_of(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// [`digest_of`], as the store has it.
pub(crate) fn hash_of(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest_of(token))
}

/// Signs what is handed to somebody who will bring it back, so that nothing need be remembered meanwhile. All nodes
/// have the same key.
pub(crate) struct Signer(Vec<u8>);

impl Signer {
    pub(crate) async fn open(store: &Store) -> Result<Self, store::Error> {
        const NAME: &str = "signer";
        let mut stored = store.accounts().secret(NAME).await?;
        if stored.is_none() {
            let mut write = Write::new();
            offer_secret(&mut write, NAME, &random_text());
            store.commit(write).await?;
            stored = store.accounts().secret(NAME).await?;
        }
        let text = stored.ok_or_else(|| store::Error::Corrupt("a secret does not stay".into()))?;
        let key = URL_SAFE_NO_PAD.decode(text).map_err(|_| store::Error::Corrupt("a secret is not base64".into()))?;
        Ok(Self(key))
    }

    /// A text that [`Self::is_valid`] knows until `expires_at`, for this purpose only.
    pub(crate) fn issue(&self, purpose: &[&str], expires_at: Millis) -> String {
        let mut nonce = [0; 12];
        rand::rng().fill_bytes(&mut nonce);
        let head = format!("{expires_at:x}-{}", URL_SAFE_NO_PAD.encode(nonce));
        let seal = self.seal(&head, purpose).finalize().into_bytes();
        format!("{head}.{}", URL_SAFE_NO_PAD.encode(&seal[..24]))
    }

    /// Whether `text` was issued here for this purpose and has not expired.
    pub(crate) fn is_valid(&self, text: &str, purpose: &[&str], now: Millis) -> bool {
        let Some((head, seal)) = text.split_once('.') else { return false };
        let Some((expires_at, _)) = head.split_once('-') else { return false };
        let Ok(seal) = URL_SAFE_NO_PAD.decode(seal) else { return false };
        let is_ours = seal.len() == 24 && self.seal(head, purpose).verify_truncated_left(&seal).is_ok();
        is_ours && Millis::from_str_radix(expires_at, 16).is_ok_and(|at| now < at)
    }

    fn seal(&self, head: &str, purpose: &[&str]) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in std::iter::once(&head).chain(purpose) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_issued_is_known_until_it_expires_and_for_its_purpose_only() {
        let signer = Signer(vec![7; 32]);
        let text = signer.issue(&["register"], 1_000);
        assert!(signer.is_valid(&text, &["register"], 999));
        assert!(!signer.is_valid(&text, &["register"], 1_000));
        assert!(!signer.is_valid(&text, &["deactivate"], 999));
        assert!(!Signer(vec![8; 32]).is_valid(&text, &["register"], 999));
        let stretched = text.replacen("3e8", "fe8", 1);
        assert!(!signer.is_valid(&stretched, &["register"], 999));
        for forged in ["", ".", "-.", "3e8-x.", "3e8-AAAA.AAAA"] {
            assert!(!signer.is_valid(forged, &["register"], 999), "{forged}");
        }
    }
}
