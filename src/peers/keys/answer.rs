//! What a server says of its keys, checked by them.

use model::Millis;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    api::federation::discovery::ServerSigningKeys, serde::Raw, signatures::PublicKeySet,
};

use super::{
    KeyError,
    known::{KeySet, ServerKey, check_signatures, public_keys},
};

/// Spec: "the lesser of this field and 7 days into the future" is how long a key counts.
pub(super) const LONGEST_VALIDITY: Millis = 7 * 24 * 60 * 60_000;
/// No server has more keys than fit into this.
const MAX_BYTES: usize = 64 << 10;

/// What a server says of its keys; they have signed it.
#[derive(Debug)]
pub(crate) struct KeyAnswer {
    pub(crate) server: OwnedServerName,
    /// As it came.
    pub(super) json: String,
    pub(super) object: CanonicalJsonObject,
    pub(crate) keys: KeySet,
    /// As the server says, however long that is.
    pub(crate) valid_until: Millis,
}

impl KeyAnswer {
    /// `now`: when it was fetched.
    pub(crate) fn read(raw: &Raw<ServerSigningKeys>, now: Millis) -> Result<Self, KeyError> {
        let json = raw.json().get();
        if json.len() > MAX_BYTES {
            return Err(malformed("it is too long"));
        }
        let object: CanonicalJsonObject =
            serde_json::from_str(json).map_err(|error| KeyError::Malformed(error.to_string()))?;
        let server = object.get("server_name").and_then(CanonicalJsonValue::as_str);
        let server = server
            .and_then(|name| ServerName::parse(name).ok())
            .ok_or_else(|| malformed("`server_name` is not the name of a server"))?;
        let valid_until = millis(&object, "valid_until_ts")?;

        let mut keys = KeySet::new();
        for (key_id, public_key, listed) in public_keys(&object, "old_verify_keys") {
            let expired_at = millis(listed, "expired_ts")?;
            keys.insert(
                key_id.clone(),
                ServerKey { public_key, valid_until: expired_at, expired_at: Some(expired_at) },
            );
        }
        let mut current = PublicKeySet::new();
        for (key_id, public_key, _) in public_keys(&object, "verify_keys") {
            current.insert(key_id.clone(), public_key.clone());
            let valid_until = valid_until.min(now + LONGEST_VALIDITY);
            keys.insert(key_id.clone(), ServerKey { public_key, valid_until, expired_at: None });
        }
        // Whoever passes it on: these keys are of whoever has signed by them.
        check_signatures(&object, &server, &current)?;
        Ok(Self { server, json: json.to_owned(), object, keys, valid_until })
    }
}

fn millis(object: &CanonicalJsonObject, field: &str) -> Result<Millis, KeyError> {
    match object.get(field) {
        Some(CanonicalJsonValue::Integer(number)) => Ok(i64::from(*number)),
        _ => Err(KeyError::Malformed(format!("`{field}` is not a time"))),
    }
}

fn malformed(reason: &str) -> KeyError {
    KeyError::Malformed(reason.to_owned())
}
