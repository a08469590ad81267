//! Events as servers exchange them, hashed and signed by the letter of the specification and not by the code under test.

use base64::{Engine as _, engine::general_purpose};
use ed25519_dalek::{Signature, Signer as _, SigningKey, Verifier as _, VerifyingKey};
use serde::Serialize as _;
use serde_canonical_json::CanonicalFormatter;
use serde_json::{Map, Serializer, Value, json};
use sha2::{Digest as _, Sha256};

/// What an event keeps of itself in every room version that tests use, 10 and later.
const KEPT: [&str; 13] = [
    "event_id",
    "type",
    "room_id",
    "sender",
    "state_key",
    "content",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "auth_events",
    "origin_server_ts",
    // Kept up to version 10.
    "membership",
];

/// JSON as it is signed: keys in order, no space.
pub fn canonical(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, CanonicalFormatter::new());
    value.serialize(&mut serializer).expect("a test makes only what can be signed");
    bytes
}

/// Base64 without padding, as signatures and hashes are written.
pub fn base64(bytes: &[u8]) -> String {
    general_purpose::STANDARD_NO_PAD.encode(bytes)
}

/// What base64 without padding says, or nothing.
pub fn unbase64(text: &str) -> Vec<u8> {
    general_purpose::STANDARD_NO_PAD.decode(text).unwrap_or_default()
}

/// The signature of an object: of all but what may change and its signatures.
pub fn signature(key: &SigningKey, object: &Value) -> String {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("signatures");
        fields.remove("unsigned");
    }
    base64(&key.sign(&canonical(&object)).to_bytes())
}

/// Whether `signature` of an object is by the owner of `key`.
pub fn is_signature(signature: &str, key: &[u8], object: &Value) -> bool {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("signatures");
        fields.remove("unsigned");
    }
    let signature = general_purpose::STANDARD_NO_PAD.decode(signature).ok();
    let signature = signature.and_then(|bytes| Signature::from_slice(&bytes).ok());
    let key = key.try_into().ok().and_then(|key| VerifyingKey::from_bytes(key).ok());
    let (Some(signature), Some(key)) = (signature, key) else { return false };
    key.verify(&canonical(&object), &signature).is_ok()
}

/// Adds the signature of `server` by its key `key_id` to an object.
pub fn sign(object: &mut Value, server: &str, key_id: &str, key: &SigningKey) {
    let signature = signature(key, object);
    object["signatures"][server][key_id] = signature.into();
}

/// Adds the hash of its content to an event.
pub fn add_hash(event: &mut Value) {
    let mut hashed = event.clone();
    for field in ["unsigned", "signatures", "hashes"] {
        hashed.as_object_mut().expect("an event is an object").remove(field);
    }
    event["hashes"] = json!({ "sha256": base64(&Sha256::digest(canonical(&hashed))) });
}

/// Adds the signature of `server` to an event: that of its redacted form.
pub fn sign_event(event: &mut Value, version: &str, server: &str, key_id: &str, key: &SigningKey) {
    let signature = signature(key, &redacted(event, version));
    event["signatures"][server][key_id] = signature.into();
}

/// The id of an event: the hash of its redacted form.
pub fn event_id(event: &Value, version: &str) -> String {
    let mut redacted = redacted(event, version);
    let fields = redacted.as_object_mut().expect("an event is an object");
    for field in ["signatures", "unsigned", "age_ts"] {
        fields.remove(field);
    }
    format!("${}", general_purpose::URL_SAFE_NO_PAD.encode(Sha256::digest(canonical(&redacted))))
}

/// What is left of an event when its words are taken away.
pub fn redacted(event: &Value, version: &str) -> Value {
    let old = version == "10";
    let mut left = Map::new();
    for (field, value) in event.as_object().expect("an event is an object") {
        let kept = KEPT.contains(&field.as_str()) && (old || field != "membership");
        if kept || (old && ["origin", "prev_state"].contains(&field.as_str())) {
            left.insert(field.clone(), value.clone());
        }
    }
    let event_type = event["type"].as_str().unwrap_or_default();
    left.insert("content".to_owned(), redacted_content(event_type, &event["content"], old));
    Value::Object(left)
}

fn redacted_content(event_type: &str, content: &Value, old: bool) -> Value {
    let kept: &[&str] = match event_type {
        "m.room.create" if !old => return content.clone(),
        "m.room.create" => &["creator"],
        "m.room.member" => &["membership", "join_authorised_via_users_server"],
        "m.room.join_rules" => &["join_rule", "allow"],
        "m.room.history_visibility" => &["history_visibility"],
        "m.room.redaction" if !old => &["redacts"],
        "m.room.power_levels" => &[
            "ban",
            "events",
            "events_default",
            "kick",
            "redact",
            "state_default",
            "users",
            "users_default",
            // Kept from version 11 on.
            "invite",
        ],
        _ => &[],
    };
    let mut left = Map::new();
    for field in kept {
        if let Some(value) = content.get(*field)
            && !(old && *field == "invite")
        {
            left.insert((*field).to_owned(), value.clone());
        }
    }
    if let Some(signed) = content.pointer("/third_party_invite/signed")
        && event_type == "m.room.member"
        && !old
    {
        left.insert("third_party_invite".to_owned(), json!({ "signed": signed }));
    }
    Value::Object(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of the specification's examples.
    fn key() -> SigningKey {
        // The specification's last character says more than 32 bytes hold: "1" there.
        let seed = general_purpose::STANDARD_NO_PAD.decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0").unwrap();
        SigningKey::from_bytes(&seed.try_into().unwrap())
    }

    #[test]
    fn objects_are_signed_as_the_specification_shows() {
        let mut object = json!({ "one": 1, "two": "Two" });
        sign(&mut object, "domain", "ed25519:1", &key());
        assert_eq!(
            object["signatures"]["domain"]["ed25519:1"],
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
        );
    }

    #[test]
    fn events_are_hashed_and_signed_as_the_specification_shows() {
        let mut event = json!({
            "content": { "body": "Here is the message content" },
            "event_id": "$0:domain",
            "origin": "domain",
            "origin_server_ts": 1_000_000,
            "type": "m.room.message",
            "room_id": "!r:domain",
            "sender": "@u:domain",
            "signatures": {},
            "unsigned": { "age_ts": 1_000_000 }
        });
        add_hash(&mut event);
        assert_eq!(event["hashes"]["sha256"], "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g");
        sign_event(&mut event, "10", "domain", "ed25519:1", &key());
        assert_eq!(
            event["signatures"]["domain"]["ed25519:1"],
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"
        );
    }
}
