//! How events name other events: by their ids alone, or, up to room version 2, each with the hash of what it names.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v1/#event-format>

use std::{collections::HashMap, fmt};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId,
    room_version_rules::{EventsReferenceFormatVersion, RoomVersionRules},
    signatures,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};

use crate::PduError;

/// The hashes of events that are named, by their ids; unpadded base64. Empty where events name each other by ids alone.
pub type ReferenceHashes = HashMap<OwnedEventId, String>;

/// Whether events name others together with their hashes.
pub fn names_hashes(rules: &RoomVersionRules) -> bool {
    matches!(rules.events_reference_format, EventsReferenceFormatVersion::V1)
}

/// The hash that an event is named with.
pub fn reference_hash(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<String, PduError> {
    Ok(signatures::reference_hash(object, rules)?)
}

/// The list as it stands in an event. An event of which no hash is known is named without.
pub(crate) fn list(ids: &[OwnedEventId], hashes: &ReferenceHashes, rules: &RoomVersionRules) -> CanonicalJsonValue {
    let name = |id: &OwnedEventId| {
        let text = CanonicalJsonValue::String(id.to_string());
        if !names_hashes(rules) {
            return text;
        }
        let hash = hashes.get(id).map(|hash| ("sha256".to_owned(), CanonicalJsonValue::String(hash.clone())));
        CanonicalJsonValue::Array(vec![text, CanonicalJsonValue::Object(hash.into_iter().collect())])
    };
    CanonicalJsonValue::Array(ids.iter().map(name).collect())
}

/// The events that an event names are written as its room version writes them.
pub(crate) fn check(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), PduError> {
    let is_fit = |item: &CanonicalJsonValue| match item {
        CanonicalJsonValue::String(_) => !names_hashes(rules),
        CanonicalJsonValue::Array(pair) => {
            let is_pair = matches!(&**pair, [CanonicalJsonValue::String(_), CanonicalJsonValue::Object(_)]);
            names_hashes(rules) && is_pair
        }
        _ => false,
    };
    for field in ["prev_events", "auth_events"] {
        let items = object.get(field).and_then(CanonicalJsonValue::as_array);
        if !items.is_some_and(|items| items.iter().all(is_fit)) {
            return Err(PduError::Malformed(format!("`{field}` names events otherwise than the room's version does")));
        }
    }
    Ok(())
}

/// Reads a list of either form.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OwnedEventId>, D::Error> {
    let named = Vec::<Named>::deserialize(deserializer)?;
    Ok(named.into_iter().map(|named| named.0).collect())
}

struct Named(OwnedEventId);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamedVisitor).map(Self)
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = OwnedEventId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event id, or a pair of one and hashes")
    }

    fn visit_str<E: Error>(self, id: &str) -> Result<OwnedEventId, E> {
        OwnedEventId::try_from(id).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<OwnedEventId, A::Error> {
        let id = pair.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        while pair.next_element::<IgnoredAny>()?.is_some() {}
        Ok(id)
    }
}
