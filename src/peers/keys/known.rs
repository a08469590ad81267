//! A key, until when it counts, and what of a server's keys is needed.

use std::collections::{BTreeMap, HashMap};

use model::{Millis, SigningKey};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, SigningKeyAlgorithm,
    serde::Base64,
    signatures::{PublicKeySet, to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use store::server_keys::ServerKeyRow;

use super::KeyError;

/// The keys of one server by their ids.
pub(super) type KeySet = BTreeMap<String, ServerKey>;
/// The keys of several servers.
pub(super) type KeySets = HashMap<OwnedServerName, std::sync::Arc<KeySet>>;

/// What every key id that is of use begins with.
const ED25519: &str = "ed25519:";
/// How many signatures of one server are looked at on one thing.
const MOST_SIGNATURES: usize = 10;

/// A public key of a server, and until when what it signs counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKey {
    /// ed25519.
    pub public_key: Base64,
    /// Until when it counts, if it is in use.
    pub valid_until: Millis,
    /// When its server stopped using it.
    pub expired_at: Option<Millis>,
}

impl ServerKey {
    /// Whether what it signed at that time counts.
    pub fn is_valid_at(&self, at: Millis) -> bool {
        at <= self.ends_at()
    }

    /// Until when what it signs counts.
    pub fn ends_at(&self) -> Millis {
        self.expired_at.unwrap_or(self.valid_until)
    }

    pub(super) fn from_row(row: &ServerKeyRow) -> Option<Self> {
        let public_key = Base64::parse(&row.public_key).ok()?;
        Some(Self { public_key, valid_until: row.valid_until, expired_at: row.expired_at })
    }
}

/// A key that this server used to sign with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredKey {
    /// `ed25519:version`.
    pub key_id: String,
    /// Its public half.
    pub public_key: [u8; 32],
    /// When it was last used.
    pub expired_at: Millis,
}

/// Our own, which count for as long as this process runs.
pub(super) fn ours(key: &SigningKey, retired: &[RetiredKey]) -> KeySet {
    let of = |public_key: [u8; 32], expired_at| ServerKey {
        public_key: Base64::new(public_key.to_vec()),
        valid_until: Millis::MAX,
        expired_at,
    };
    let retired = retired.iter().map(|old| (old.key_id.clone(), of(old.public_key, Some(old.expired_at))));
    retired.chain([(key.key_id().to_string(), of(key.public_key(), None))]).collect()
}

/// A key of `server` that counted at `at` is needed: any of these.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) server: OwnedServerName,
    pub(super) key_ids: Vec<String>,
    pub(super) at: Millis,
}

impl Need {
    pub(super) fn is_met_by(&self, keys: &KeySet) -> bool {
        self.key_ids.iter().any(|key_id| keys.get(key_id).is_some_and(|key| key.is_valid_at(self.at)))
    }

    /// Those that will do.
    pub(super) fn valid_among(&self, keys: &KeySets) -> PublicKeySet {
        let Some(keys) = keys.get(&self.server) else { return PublicKeySet::new() };
        let valid = self.key_ids.iter().filter_map(|key_id| Some((key_id, keys.get(key_id)?)));
        valid
            .filter(|(_, key)| key.is_valid_at(self.at))
            .map(|(key_id, key)| (key_id.clone(), key.public_key.clone()))
            .collect()
    }
}

/// By which keys of `server` an object says to be signed.
pub(super) fn key_ids_of(object: &CanonicalJsonObject, server: &ServerName) -> Result<Vec<String>, KeyError> {
    let signatures = signatures_of(object, server)?;
    let known = signatures.keys().filter(|key_id| key_id.starts_with(ED25519)).take(MOST_SIGNATURES);
    let key_ids: Vec<String> = known.cloned().collect();
    if key_ids.is_empty() {
        return Err(unsigned(server, "it is signed by no algorithm that this server knows"));
    }
    Ok(key_ids)
}

fn signatures_of<'a>(
    object: &'a CanonicalJsonObject,
    server: &ServerName,
) -> Result<&'a CanonicalJsonObject, KeyError> {
    let all = object.get("signatures").and_then(CanonicalJsonValue::as_object);
    let of_server = all.and_then(|all| all.get(server.as_str())).and_then(CanonicalJsonValue::as_object);
    of_server.ok_or_else(|| unsigned(server, "it is not signed by it"))
}

/// Checks the signatures of `server` by those of `keys` that made them: one at least, and no wrong one.
pub(crate) fn check_signatures(
    object: &CanonicalJsonObject,
    server: &ServerName,
    keys: &PublicKeySet,
) -> Result<(), KeyError> {
    let text = to_canonical_json_string_for_signing(object).map_err(|error| KeyError::Malformed(error.to_string()))?;
    let mut is_signed = false;
    for (key_id, signature) in signatures_of(object, server)?.iter().take(MOST_SIGNATURES) {
        let Some(key) = keys.get(key_id) else { continue };
        let signature: Base64 = signature
            .as_str()
            .and_then(|text| Base64::parse(text).ok())
            .ok_or_else(|| unsigned(server, "a signature is not base64"))?;
        let algorithm = &SigningKeyAlgorithm::Ed25519;
        verify_canonical_json_bytes(algorithm, key.as_bytes(), signature.as_bytes(), text.as_bytes())
            .map_err(|_| unsigned(server, "it was signed by another key, or was changed"))?;
        is_signed = true;
    }
    if is_signed { Ok(()) } else { Err(unsigned(server, "none of its keys made a signature")) }
}

pub(super) fn unsigned(server: &ServerName, reason: &str) -> KeyError {
    KeyError::Signature { server: server.to_owned(), reason: reason.to_owned() }
}

/// The ed25519 keys among `verify_keys` or `old_verify_keys`; what else is there is somebody else's to understand.
pub(super) fn public_keys<'a>(
    object: &'a CanonicalJsonObject,
    field: &str,
) -> impl Iterator<Item = (&'a String, Base64, &'a CanonicalJsonObject)> {
    let listed = object.get(field).and_then(CanonicalJsonValue::as_object);
    listed.into_iter().flatten().filter(|(key_id, _)| key_id.starts_with(ED25519)).filter_map(|(key_id, listed)| {
        let listed = listed.as_object()?;
        let key: Base64 = Base64::parse(listed.get("key")?.as_str()?).ok()?;
        (key.as_bytes().len() == 32).then_some((key_id, key, listed))
    })
}
