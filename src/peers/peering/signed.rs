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
///
/// It must take no field that it doesn't know: a notary signs the key documents of others with whatever stands beside the keys,
/// and none of these must pass for something that the notary says itself.
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
        let mut content = object.clone();
        content.remove("type");
        content.remove("signatures");
        let content = serde_json::to_value(CanonicalJsonValue::Object(content)).map_err(wrong::<T>)?;
        let content = serde_json::from_value(content).map_err(wrong::<T>)?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::peer::TrustLevel;
    use ruma::{owned_server_name, server_name};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        peering::documents::{Known, Offer, Party},
        testing::key_of,
    };

    fn offer() -> Signed<Offer> {
        let keys: BTreeMap<String, String> = [("ed25519:1".to_owned(), "AAAA".to_owned())].into();
        let from = Party {
            server: owned_server_name!("a.test"),
            keys: keys.clone(),
            transports: Vec::new(),
            endpoint: None,
            contact: None,
        };
        let to = Known { server: owned_server_name!("b.test"), keys };
        let levels = [(from.server.clone(), TrustLevel::Full), (to.server.clone(), TrustLevel::Limited)].into();
        Signed::new(Offer { id: "an-offer-of-a-test".into(), from, to, levels, made_at: 1, expires_at: 2 })
            .expect("it is JSON")
    }

    #[test]
    fn what_was_signed_is_read_and_checked_again() {
        let mut offer = offer();
        let key = key_of(server_name!("a.test"));
        offer.sign(&key).expect("it can be signed");
        let public: Base64 = Base64::new(key.public_key().to_vec());
        let keys = [(key.key_id().to_string(), public.encode())].into();
        let read = Signed::<Offer>::read(&offer.json()).expect("it is one");
        assert_eq!((&read.content, read.json()), (&offer.content, offer.json()));
        read.check(server_name!("a.test"), &keys).expect("it is signed");
        read.check(server_name!("b.test"), &keys).expect_err("b.test has signed nothing");
        let other = [("ed25519:test".to_owned(), Base64::<ruma::serde::base64::Standard>::new(vec![1; 32]).encode())];
        read.check(server_name!("a.test"), &other.into()).expect_err("it was another key");
        let mut changed: Value = serde_json::from_str(&offer.json()).expect("it is JSON");
        changed["levels"]["b.test"] = json!("full");
        let changed = Signed::<Offer>::read(&changed.to_string()).expect("it is one");
        changed.check(server_name!("a.test"), &keys).expect_err("it was changed");
    }

    #[test]
    fn a_key_document_that_looks_like_an_offer_is_none() {
        let mut trap: Value = serde_json::from_str(&offer().json()).expect("it is JSON");
        trap["server_name"] = json!("mallory.test");
        trap["verify_keys"] = json!({});
        trap["valid_until_ts"] = json!(1);
        let refused = Signed::<Offer>::read(&trap.to_string()).expect_err("it is a notary's");
        assert!(refused.to_string().contains("unknown field"), "{refused}");
    }
}
