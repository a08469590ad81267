//! Keys that an admin has pinned a server to: a rotation that the old key has signed moves the pin; anything else is an alarm, and
//! nothing more is believed of that server until an admin has looked at it.

use std::collections::BTreeMap;

use ruma::{CanonicalJsonObject, ServerName, serde::Base64, signatures::PublicKeySet};
use tracing::warn;

use super::{KeyError, KeyRing, answer::KeyAnswer, known::check_signatures};

impl KeyRing {
    /// Whether what a server says of its keys may be believed, with regard to what it is pinned to.
    pub(super) async fn heeds_pins(&self, answer: &KeyAnswer) -> Result<bool, store::Error> {
        let trust = &self.shared.trust;
        let pins = trust.pinned_keys(&answer.server);
        if pins.is_empty() {
            return Ok(true);
        }
        let told = answer.keys_in_use();
        let unpinned: Vec<&String> =
            told.iter().filter(|(id, key)| pins.get(*id) != Some(*key)).map(|(id, _)| id).collect();
        if unpinned.is_empty() {
            return Ok(true);
        }
        if answer.is_signed_by_one_of(&pins) {
            trust.move_pins(&answer.server, told).await?;
            return Ok(true);
        }
        let what = format!("it signs with {unpinned:?}, which no pinned key has signed");
        warn!(server.name = %answer.server, "{} is pinned to other keys than it shows: nothing of it is believed until an admin has looked at it", answer.server);
        trust.raise_alarm(&answer.server, &what).await?;
        Ok(false)
    }

    /// Of these keys of a server, those that count for what it does now.
    pub(super) fn only_pinned(&self, server: &ServerName, mut keys: PublicKeySet) -> PublicKeySet {
        let pins = self.shared.trust.pinned_keys(server);
        if !pins.is_empty() {
            keys.retain(|key_id, key| pins.get(key_id).is_some_and(|pin| *pin == key.encode()));
        }
        keys
    }
}

impl KeyAnswer {
    /// The keys that its server signs with now, by their ids, base64.
    pub(crate) fn keys_in_use(&self) -> BTreeMap<String, String> {
        let in_use = self.keys.iter().filter(|(_, key)| key.expired_at.is_none());
        in_use.map(|(key_id, key)| (key_id.clone(), key.public_key.encode())).collect()
    }

    /// Whether one of `pins`, ids and base64, has signed it.
    pub(crate) fn is_signed_by_one_of(&self, pins: &BTreeMap<String, String>) -> bool {
        signed_by_one_of(&self.object, &self.server, pins).is_ok()
    }
}

/// Checks that `server` has signed `object` by one of `keys`, ids and base64, and that none of these made a wrong signature.
pub(crate) fn signed_by_one_of(
    object: &CanonicalJsonObject,
    server: &ServerName,
    keys: &BTreeMap<String, String>,
) -> Result<(), KeyError> {
    check_signatures(object, server, &public_keys_of(keys))
}

/// Whether this is the id of an ed25519 key, and the key: 32 bytes in base64 without padding.
pub(crate) fn is_verify_key(key_id: &str, key: &str) -> bool {
    let version = key_id.strip_prefix("ed25519:").unwrap_or_default();
    let is_word = |version: &str| version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let bytes: Option<Base64> = Base64::parse(key).ok();
    (1..=248).contains(&version.len())
        && is_word(version)
        && bytes.is_some_and(|bytes| bytes.as_bytes().len() == 32 && bytes.encode() == key)
}

fn public_keys_of(pins: &BTreeMap<String, String>) -> PublicKeySet {
    let keys = pins.iter().filter_map(|(key_id, key)| Some((key_id.clone(), Base64::parse(key).ok()?)));
    keys.collect()
}
