//! What this server signs with.

use std::fmt;

use ed25519_dalek::Signer as _;
use ruma::{OwnedServerName, OwnedServerSigningKeyId, SigningKeyId, signatures};

/// The server's ed25519 key, with the id it is published under and the name it signs for.
pub struct SigningKey {
    server_name: OwnedServerName,
    key_id: OwnedServerSigningKeyId,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// `version`: what follows `ed25519:` in the key's id. `seed`: the private key.
    ///
    /// Answers `None` if `version` can't be part of a key id.
    pub fn from_seed(server_name: OwnedServerName, version: &str, seed: &[u8; 32]) -> Option<Self> {
        let key_id = SigningKeyId::parse(format!("ed25519:{version}")).ok()?;
        Some(Self { server_name, key_id, key: ed25519_dalek::SigningKey::from_bytes(seed) })
    }

    /// The server this key signs for.
    pub fn server_name(&self) -> &ruma::ServerName {
        &self.server_name
    }

    /// `ed25519:version`.
    pub fn key_id(&self) -> &ruma::ServerSigningKeyId {
        &self.key_id
    }

    /// The public half.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }
}

impl signatures::KeyPair for SigningKey {
    fn sign(&self, message: &[u8]) -> signatures::Signature {
        let key_id = SigningKeyId::parse(self.key_id.as_str()).expect("a server's key id is also a key id of any name");
        signatures::Signature::new(key_id, self.key.sign(message).to_bytes().to_vec())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}
