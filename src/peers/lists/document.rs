//! A list as it is signed.
//!
//! It is read strictly: a field that isn't known makes it no list, at the top as well as in an entry. What a later version of the
//! format adds could narrow what an entry means; and servers sign other things too, the keys of others among them when they act
//! as notaries, so that something which is a list and more besides may have been signed for what it is besides.

use std::collections::BTreeMap;

use model::{
    Millis, SigningKey,
    peer::{PeerPattern, TrustLevel},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName,
    signatures::{JsonError, sign_json, to_canonical_json_string_for_signing},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::ListFault;
use crate::keys::{is_verify_key, signed_by_one_of};

/// No list is longer, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// No list names more servers.
pub(super) const MAX_ENTRIES: usize = 5_000;
/// No entry names more keys.
const MAX_KEYS: usize = 10;
/// No contact is longer, in bytes.
const MAX_CONTACT: usize = 300;
/// No list is good for longer.
pub(super) const MAX_LIFETIME: Millis = 366 * 24 * 60 * 60_000;
/// The largest number that canonical JSON knows.
pub(super) const MAX_VERSION: i64 = (1 << 53) - 1;

/// What a list says, by server: names in lower case, international ones in their ASCII form.
pub type Entries = BTreeMap<OwnedServerName, ListEntry>;

/// What a deployment says of other servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FederationList {
    #[serde(rename = "type")]
    kind: ListType,
    /// Whose list it is.
    pub publisher: OwnedServerName,
    /// From 1 on; only grows.
    pub version: i64,
    /// When it was made, milliseconds since 1970.
    pub issued_at: Millis,
    /// Until when others go by it, milliseconds since 1970.
    pub expires_at: Millis,
    /// What is said of whom.
    pub entries: Entries,
}

/// That it is a list, and nothing else that a server signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum ListType {
    #[serde(rename = "org.comity.federation_list")]
    FederationList,
}

/// What a list says of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListEntry {
    /// How far it may be trusted at most.
    pub level: TrustLevel,
    /// The only keys that it may sign with, by their ids, base64; none: whatever it says of itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, String>,
    /// How to reach who runs it: an address of e-mail, a user id, a page.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub contact: String,
    /// From then on the list says nothing of it, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
}

impl FederationList {
    pub(super) fn new(
        publisher: OwnedServerName,
        version: i64,
        issued_at: Millis,
        expires_at: Millis,
        entries: Entries,
    ) -> Self {
        Self { kind: ListType::FederationList, publisher, version, issued_at, expires_at, entries }
    }

    /// Says what is wrong with it, if it could never be a list, whoever signed it.
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=MAX_VERSION).contains(&self.version) {
            return Err("`version` is not a number from 1 on".to_owned());
        }
        if self.issued_at < 0 || self.expires_at <= self.issued_at {
            return Err("it ends before it was made".to_owned());
        }
        if self.expires_at - self.issued_at > MAX_LIFETIME {
            return Err("it is good for longer than a year".to_owned());
        }
        self.entries.iter().try_for_each(|(server, entry)| {
            entry.check().map_err(|wrong| format!("{wrong} in the entry of {server}"))?;
            match server.as_str().parse::<PeerPattern>() {
                Ok(PeerPattern::Exact(normal)) if normal == *server => Ok(()),
                _ => Err(format!("{server} is not the name of one server in lower case and ASCII")),
            }
        })
    }

    /// The list with the signature of its publisher.
    pub(super) fn sign(&self, key: &SigningKey) -> Result<CanonicalJsonObject, JsonError> {
        let json = serde_json::to_value(self).expect("a list is JSON");
        let mut object: CanonicalJsonObject = serde_json::from_value(json).expect("its numbers are small enough");
        sign_json(key.server_name().as_str(), key, &mut object)?;
        Ok(object)
    }
}

impl ListEntry {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.keys.len() > MAX_KEYS {
            return Err(format!("there are more than {MAX_KEYS} keys"));
        }
        if let Some((id, _)) = self.keys.iter().find(|(id, key)| !is_verify_key(id, key)) {
            return Err(format!("the key {id} is not of the form \"ed25519:name\": \"32 bytes in unpadded base64\""));
        }
        if self.contact.len() > MAX_CONTACT || self.contact.chars().any(char::is_control) {
            return Err(format!("`contact` is not one line of at most {MAX_CONTACT} bytes"));
        }
        match self.expires_at {
            Some(at) if !(0..=MAX_VERSION).contains(&at) => Err("`expires_at` is not a time".to_owned()),
            _ => Ok(()),
        }
    }
}

/// A list as it came, with its signatures.
#[derive(Clone, Debug)]
pub(crate) struct SignedList {
    pub(crate) list: FederationList,
    /// Of what was signed: SHA-256 of its canonical JSON, base64. It stays when another key signs the same.
    pub(crate) digest: String,
    object: CanonicalJsonObject,
}

impl SignedList {
    /// Reads a list. Nothing of it has been checked by a key.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ListFault> {
        if bytes.len() > MAX_BYTES {
            return Err(ListFault::TooLarge(format!("more than {MAX_BYTES} bytes")));
        }
        let malformed = |error: serde_json::Error| ListFault::Malformed(error.to_string());
        let object: CanonicalJsonObject = serde_json::from_slice(bytes).map_err(malformed)?;
        Self::of(object)
    }

    pub(super) fn of(object: CanonicalJsonObject) -> Result<Self, ListFault> {
        let malformed = |error: String| ListFault::Malformed(error.chars().take(300).collect());
        let signed = to_canonical_json_string_for_signing(&object).map_err(|error| malformed(error.to_string()))?;
        // What is read is what was signed, and nothing that stands beside it.
        let mut said = object.clone();
        said.remove("signatures");
        let said = serde_json::Value::from(CanonicalJsonValue::Object(said));
        let list: FederationList = serde_json::from_value(said).map_err(|error| malformed(error.to_string()))?;
        if list.entries.len() > MAX_ENTRIES {
            return Err(ListFault::TooLarge(format!("more than {MAX_ENTRIES} servers")));
        }
        list.check().map_err(malformed)?;
        let digest: ruma::serde::Base64 = ruma::serde::Base64::new(Sha256::digest(signed.as_bytes()).to_vec());
        Ok(Self { list, digest: digest.encode(), object })
    }

    /// Checks that its publisher has signed it by one of `keys`, ids and base64.
    pub(super) fn check_signature(&self, keys: &BTreeMap<String, String>) -> Result<(), ListFault> {
        let checked = signed_by_one_of(&self.object, &self.list.publisher, keys);
        checked.map_err(|error| ListFault::WrongKey(error.to_string()))
    }

    /// As it is signed.
    pub(super) fn into_object(self) -> CanonicalJsonObject {
        self.object
    }

    /// As it goes over the wire, and into the store.
    pub(super) fn to_json(&self) -> String {
        CanonicalJsonValue::Object(self.object.clone()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{ServerName, server_name};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::key_of;

    fn publisher() -> &'static ServerName {
        server_name!("p.test")
    }

    fn keys() -> BTreeMap<String, String> {
        let key = key_of(publisher());
        let public: ruma::serde::Base64 = ruma::serde::Base64::new(key.public_key().to_vec());
        [(key.key_id().to_string(), public.encode())].into()
    }

    fn good() -> Value {
        json!({
            "type": "org.comity.federation_list", "publisher": "p.test", "version": 3, "issued_at": 1_000,
            "expires_at": 2_000, "entries": {
                "b.test": { "level": "full", "keys": keys(), "contact": "mailto:root@b.test", "expires_at": 1_500 },
                "c.test:8448": { "level": "blocked" },
            },
        })
    }

    /// Whatever it is, the publisher has signed it.
    fn signed(value: Value) -> Vec<u8> {
        let mut object: CanonicalJsonObject = serde_json::from_value(value).expect("it is canonical");
        sign_json("p.test", &key_of(publisher()), &mut object).expect("it is an object");
        CanonicalJsonValue::Object(object).to_string().into_bytes()
    }

    #[test]
    fn a_list_is_read_as_it_was_signed() {
        let read = SignedList::read(&signed(good())).expect("it is one");
        assert_eq!(read.check_signature(&keys()), Ok(()));
        assert_eq!(serde_json::to_value(&read.list).expect("it is JSON"), good());
        let again = SignedList::of(read.list.sign(&key_of(publisher())).expect("it can be signed"));
        let again = again.expect("it is one");
        assert_eq!((again.digest, again.object), (read.digest.clone(), read.object.clone()));
        assert_eq!(SignedList::read(read.to_json().as_bytes()).expect("it is one").digest, read.digest);
        // Another key makes another signature, of the same.
        let other = SigningKey::from_seed(publisher().to_owned(), "other", &[9; 32]).expect("any seed makes a key");
        let other = SignedList::of(read.list.sign(&other).expect("it can be signed")).expect("it is one");
        assert_eq!(other.digest, read.digest);
        assert!(matches!(other.check_signature(&keys()), Err(ListFault::WrongKey(_))));
    }

    #[test]
    fn what_is_no_list_is_refused_whoever_signed_it() {
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut value = good();
            change(&mut value);
            SignedList::read(&signed(value)).map(drop).expect_err("it is no list").to_string()
        };
        type Change<'a> = &'a dyn Fn(&mut Value);
        let cases: [(Change<'_>, &str); 15] = [
            (&|list| list["type"] = json!("m.something"), "unknown variant"),
            (&|list| drop(list.as_object_mut().map(|list| list.remove("type"))), "missing field `type`"),
            (&|list| list["publisher"] = json!("not a name"), "server name"),
            (&|list| list["version"] = json!(0), "from 1 on"),
            (&|list| list["version"] = json!("3"), "invalid type"),
            (&|list| list["expires_at"] = json!(1_000), "ends before it was made"),
            (&|list| list["expires_at"] = json!(1_001 + MAX_LIFETIME), "longer than a year"),
            (&|list| list["more"] = json!(true), "unknown field `more`"),
            (&|list| list["unsigned"] = json!({ "entries": {} }), "unknown field `unsigned`"),
            (&|list| list["entries"]["b.test"]["level"] = json!("best"), "unknown variant"),
            (&|list| list["entries"]["b.test"]["only"] = json!("this"), "unknown field `only`"),
            (&|list| list["entries"]["b.test"]["keys"] = json!({ "ed25519:1": "short" }), "the key ed25519:1"),
            (&|list| list["entries"]["b.test"]["contact"] = json!("two\nlines"), "`contact`"),
            (&|list| list["entries"]["B.Test"] = json!({ "level": "full" }), "lower case"),
            (&|list| list["entries"]["*.test"] = json!({ "level": "full" }), ""),
        ];
        for (change, expected) in cases {
            let told = changed(change);
            assert!(told.contains(expected), "{expected}: {told}");
        }
        for nonsense in [&b"{ not json"[..], b"[]", b"null", b"{}", b"{\"version\":1.5}"] {
            assert!(matches!(SignedList::read(nonsense), Err(ListFault::Malformed(_))));
        }
    }

    #[test]
    fn a_list_that_is_too_large_is_refused() {
        assert!(matches!(SignedList::read(&vec![b' '; MAX_BYTES + 1]), Err(ListFault::TooLarge(_))));
        let mut value = good();
        for at in 0..=MAX_ENTRIES {
            value["entries"][format!("s{at}.test")] = json!({ "level": "full" });
        }
        assert!(matches!(SignedList::read(&signed(value)), Err(ListFault::TooLarge(_))));
    }

    /// A notary signs what others say of their keys, with whatever stands beside.
    #[test]
    fn keys_that_the_publisher_has_vouched_for_do_not_pass_for_its_list() {
        let mut trap = good();
        trap["server_name"] = json!("mallory.test");
        trap["verify_keys"] = json!({});
        trap["valid_until_ts"] = json!(2_000);
        assert!(matches!(SignedList::read(&signed(trap)), Err(ListFault::Malformed(_))));
    }

    prop_compose! {
        fn any_entry()(
            level in prop::sample::select(TrustLevel::ALL.to_vec()),
            keys in prop::collection::btree_map("ed25519:[a-z0-9_]{1,8}", any::<[u8; 32]>(), 0..4),
            contact in "[ -~]{0,40}",
            expires_at in prop::option::of(0..MAX_VERSION),
        ) -> ListEntry {
            let base64 = |key: [u8; 32]| ruma::serde::Base64::<ruma::serde::base64::Standard>::new(key.to_vec()).encode();
            let keys = keys.into_iter().map(|(id, key)| (id, base64(key))).collect();
            ListEntry { level, keys, contact, expires_at }
        }
    }

    prop_compose! {
        fn any_list()(
            version in 1..=MAX_VERSION,
            issued_at in 0..(1_i64 << 45),
            lifetime in 1..=MAX_LIFETIME,
            entries in prop::collection::btree_map("[a-z][a-z0-9]{0,10}\\.test(:[1-9][0-9]{0,3})?", any_entry(), 0..6),
        ) -> FederationList {
            let name = |name: String| OwnedServerName::try_from(name).expect("it is a name");
            let entries = entries.into_iter().map(|(server, entry)| (name(server), entry)).collect();
            FederationList::new(publisher().to_owned(), version, issued_at, issued_at + lifetime, entries)
        }
    }

    proptest! {
        #[test]
        fn any_list_comes_back_as_it_was_signed(list in any_list()) {
            let object = list.sign(&key_of(publisher())).expect("it can be signed");
            let json = CanonicalJsonValue::Object(object).to_string();
            let read = SignedList::read(json.as_bytes()).expect("it is one");
            prop_assert_eq!(read.check_signature(&keys()), Ok(()));
            prop_assert_eq!(read.list, list);
        }

        #[test]
        fn whatever_is_changed_on_the_way_is_noticed(list in any_list(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let object = list.sign(&key_of(publisher())).expect("it can be signed");
            let mut json = CanonicalJsonValue::Object(object).to_string().into_bytes();
            let at = at.index(json.len());
            json[at] = to;
            // Either it is no list, or nobody has signed it, or it says the same.
            if let Ok(read) = SignedList::read(&json) && read.check_signature(&keys()).is_ok() {
                prop_assert_eq!(read.list, list);
            }
        }

        #[test]
        fn nothing_makes_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(SignedList::read(&bytes));
        }
    }
}
