//! Keys that an admin has pinned a server to: a rotation that the old key has signed moves the pin; anything else is an alarm, and
//! nothing more is believed of that server until an admin has looked at it.

use std::collections::BTreeMap;

use ruma::{ServerName, serde::Base64, signatures::PublicKeySet};
use tracing::warn;

use super::{KeyRing, answer::KeyAnswer, known::check_signatures};

impl KeyRing {
    /// Whether what a server says of its keys may be believed, with regard to what it is pinned to.
    pub(super) async fn heeds_pins(&self, answer: &KeyAnswer) -> Result<bool, store::Error> {
        let trust = &self.shared.trust;
        let pins = trust.pinned_keys(&answer.server);
        if pins.is_empty() {
            return Ok(true);
        }
        let in_use = answer.keys.iter().filter(|(_, key)| key.expired_at.is_none());
        let told: BTreeMap<String, String> =
            in_use.map(|(key_id, key)| (key_id.clone(), key.public_key.encode())).collect();
        let unpinned: Vec<&String> =
            told.iter().filter(|(id, key)| pins.get(*id) != Some(*key)).map(|(id, _)| id).collect();
        if unpinned.is_empty() {
            return Ok(true);
        }
        if check_signatures(&answer.object, &answer.server, &public_keys_of(&pins)).is_ok() {
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

fn public_keys_of(pins: &BTreeMap<String, String>) -> PublicKeySet {
    let keys = pins.iter().filter_map(|(key_id, key)| Some((key_id.clone(), Base64::parse(key).ok()?)));
    keys.collect()
}
