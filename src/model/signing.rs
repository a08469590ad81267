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

/// The specification's own examples.
///
/// Spec: <https://spec.matrix.org/v1.19/appendices/#cryptographic-test-vectors>
#[cfg(test)]
mod tests {
    use ruma::{CanonicalJsonObject, room_version_rules::RedactionRules, serde::Base64};
    use serde_json::{Value, json};

    use super::*;

    fn key() -> SigningKey {
        let seed: Base64 = Base64::parse("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").expect("it is base64");
        let seed = seed.as_bytes().try_into().expect("it is a seed");
        SigningKey::from_seed("domain".try_into().expect("it is a name"), "1", &seed).expect("1 is a version")
    }

    fn object(value: Value) -> CanonicalJsonObject {
        serde_json::from_value(value).expect("it is canonical")
    }

    fn text<'a>(object: &'a CanonicalJsonObject, path: &[&str]) -> &'a str {
        let (last, path) = path.split_last().expect("there is a path");
        let holder = path.iter().fold(object, |object, field| object[*field].as_object().expect("it is an object"));
        holder[*last].as_str().expect("it is text")
    }

    #[test]
    fn json_is_signed_as_the_specification_says() {
        let vectors = [
            (json!({}), "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
            (
                json!({ "one": 1, "two": "Two" }),
                "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
            ),
        ];
        for (value, signature) in vectors {
            let mut object = object(value);
            signatures::sign_json("domain", &key(), &mut object).expect("it is an object");
            assert_eq!(text(&object, &["signatures", "domain", "ed25519:1"]), signature);
        }
    }

    #[test]
    fn events_are_hashed_and_signed_as_the_specification_says() {
        let minimal = json!({
            "room_id": "!x:domain", "sender": "@a:domain", "origin": "domain", "origin_server_ts": 1_000_000,
            "signatures": {}, "hashes": {}, "type": "X", "content": {}, "prev_events": [], "auth_events": [],
            "depth": 3, "unsigned": { "age_ts": 1_000_000 },
        });
        let redactable = json!({
            "content": { "body": "Here is the message content" }, "event_id": "$0:domain", "origin": "domain",
            "origin_server_ts": 1_000_000, "type": "m.room.message", "room_id": "!r:domain", "sender": "@u:domain",
            "signatures": {}, "unsigned": { "age_ts": 1_000_000 },
        });
        let vectors = [
            (
                minimal,
                "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
                "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
            ),
            (
                redactable,
                "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
                "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
            ),
        ];
        for (value, hash, signature) in vectors {
            let mut event = object(value);
            signatures::hash_and_sign_event("domain", &key(), &mut event, &RedactionRules::V1).expect("it is an event");
            assert_eq!(text(&event, &["hashes", "sha256"]), hash);
            assert_eq!(text(&event, &["signatures", "domain", "ed25519:1"]), signature);
        }
    }
}
