//! A document that servers sign: what it says, and the very JSON that was signed.

use std::collections::BTreeMap;

use model::SigningKey;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName, serde::Base64, signatures::sign_json};
use serde::{Serialize, de::DeserializeOwned};

use super::PeeringError;
use crate::keys::check_signatures;

/// No document is longer, in bytes.
const LONGEST: usize = 32 << 10;

/// What a document is, by its field `type`.
pub(super) trait Document: Serialize + DeserializeOwned {
    /// As the field has it.
    const TYPE: &'static str;
    /// For people.
    const NAME: &'static str;
}

/// A document with its signatures.
#[derive(Clone, Debug)]
pub(super) struct Signed<T> {
    /// What it says.
    pub(super) content: T,
    object: CanonicalJsonObject,
}

impl<T: Document> Signed<T> {
    /// A document that nobody has signed yet.
    pub(super) fn new(content: T) -> Result<Self, PeeringError> {
        let mut object = match CanonicalJsonValue::try_from(serde_json::to_value(&content).map_err(wrong::<T>)?) {
            Ok(CanonicalJsonValue::Object(object)) => object,
            Ok(_) => return Err(wrong::<T>("it is no object")),
            Err(error) => return Err(wrong::<T>(error)),
        };
        object.insert("type".to_owned(), T::TYPE.into());
        Ok(Self { content, object })
    }

    /// Reads one that came from elsewhere. Whose it is is not checked.
    pub(super) fn read(json: &str) -> Result<Self, PeeringError> {
        if json.len() > LONGEST {
            return Err(wrong::<T>("it is longer than 32 KiB"));
        }
        let object: CanonicalJsonObject = serde_json::from_str(json).map_err(wrong::<T>)?;
        if object.get("type").and_then(CanonicalJsonValue::as_str) != Some(T::TYPE) {
            return Err(wrong::<T>(format!("its `type` is not `{}`", T::TYPE)));
        }
        let content = serde_json::from_str(json).map_err(wrong::<T>)?;
        Ok(Self { content, object })
    }

    /// Adds the signature of this server.
    pub(super) fn sign(&mut self, key: &SigningKey) -> Result<(), PeeringError> {
        sign_json(key.server_name().as_str(), key, &mut self.object).map_err(wrong::<T>)
    }

    /// Whether `server` has signed it by one of these keys, base64 by their ids.
    pub(super) fn check(&self, server: &ServerName, keys: &BTreeMap<String, String>) -> Result<(), PeeringError> {
        let keys = keys.iter().filter_map(|(id, key)| Some((id.clone(), Base64::parse(key).ok()?)));
        Ok(check_signatures(&self.object, server, &keys.collect())?)
    }

    /// As it is stored and sent.
    pub(super) fn json(&self) -> String {
        CanonicalJsonValue::Object(self.object.clone()).to_string()
    }

    /// Without its signatures.
    pub(super) fn unsigned(&self) -> CanonicalJsonObject {
        let mut object = self.object.clone();
        object.remove("signatures");
        object
    }
}

fn wrong<T: Document>(reason: impl std::fmt::Display) -> PeeringError {
    PeeringError::Malformed { what: T::NAME, reason: reason.to_string() }
}
