//! Cross-signing: a user's own keys, which vouch for the user's devices and for other users.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#cross-signing>

use std::collections::BTreeMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ruma::{
    CanonicalJsonObject, DeviceId, OwnedUserId, SigningKeyAlgorithm, UserId,
    api::client::uiaa::AuthData,
    encryption::{CrossSigningKey, KeyUsage},
    serde::Raw,
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use serde_json::{Value, value::RawValue};
use store::{
    Write,
    device_keys::{CrossSigningKeyRow, DeviceRef, KeySignatureRow, put_cross_signing_key, put_key_signature},
};

use crate::{
    Act, Refused, Session, Users,
    device_keys::{KeyError, invalid, parse},
    key_updates::KeysChanged,
};

/// The most keys that one request signs.
const MAX_SIGNED: usize = 5_000;
pub(crate) const MASTER: &str = "master";
const SELF_SIGNING: &str = "self_signing";
const USER_SIGNING: &str = "user_signing";

/// A user's own keys.
#[derive(Debug, Default)]
pub struct CrossSigningUpload {
    /// Signs the other two.
    pub master_key: Option<Raw<CrossSigningKey>>,
    /// Signs the user's devices.
    pub self_signing_key: Option<Raw<CrossSigningKey>>,
    /// Signs other users' master keys.
    pub user_signing_key: Option<Raw<CrossSigningKey>>,
}

/// For each user and key, why a signature was not taken: error code and message.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, (&'static str, String)>>;

/// A key that has been looked at.
struct Checked {
    usage: &'static str,
    public_key: String,
    json: Value,
    text: String,
}

impl Users {
    /// Takes the cross-signing keys of whoever asks. The first ones are taken as they come; others ask for the password.
    pub async fn upload_signing_keys(
        &self,
        session: &Session,
        upload: CrossSigningUpload,
        auth: Option<&AuthData>,
    ) -> Result<(), Refused> {
        let user_id = &session.user_id;
        let stored = self.store.device_keys().cross_signing_keys(&[user_id]).await?;
        let new = check_upload(user_id, &upload, &stored)?;
        // Spec: "there is no existing cross-signing master key uploaded to the homeserver, or there is and it exactly
        // matches": then the client need not show the password.
        let replaces = new.iter().any(|key| {
            let before = stored.iter().find(|row| row.usage == key.usage);
            before.is_some_and(|row| row.public_key != key.public_key)
        });
        let is_first = stored.iter().all(|row| row.usage != MASTER);
        let adds = new.iter().any(|key| stored.iter().all(|row| row.usage != key.usage));
        if !is_first && (replaces || adds) {
            self.authorize(&Act::ReplaceSigningKeys, Some(session), auth).await?;
        }
        if new.is_empty() {
            return Ok(());
        }
        let mut write = Write::new();
        for key in &new {
            put_cross_signing_key(&mut write, user_id, key.usage, &key.public_key, &key.text);
        }
        // The user-signing key is nobody else's affair.
        let signing_keys = new.iter().any(|key| key.usage != USER_SIGNING);
        self.tell_keys_changed(&mut write, user_id, KeysChanged { devices: &[], signing_keys }).await?;
        self.store.commit(write).await?;
        Ok(())
    }

    /// Takes signatures that whoever asks has made on keys. Those that aren't right are answered with the reason.
    ///
    /// `signed`: whose key, the device id or the public key, and the key with the signature.
    pub async fn upload_signatures(
        &self,
        session: &Session,
        signed: Vec<(&UserId, &str, &RawValue)>,
    ) -> Result<SignatureFailures, KeyError> {
        if signed.len() > MAX_SIGNED {
            return Err(KeyError::TooMany { field: "signed_keys" });
        }
        let own = self.store.device_keys().cross_signing_keys(&[&session.user_id]).await?;
        let elsewhere = signed.iter().map(|(user_id, ..)| *user_id);
        let elsewhere = self.remote_master_keys(&session.user_id, elsewhere).await?;
        let mut failures = SignatureFailures::new();
        let mut taken: Vec<KeySignatureRow> = Vec::new();
        for (user_id, target, json) in signed {
            match self.check_signature(session, &own, &elsewhere, (user_id, target, json)).await {
                Ok(signature) => taken.push(signature),
                Err(SignatureError::Store(error)) => return Err(error.into()),
                Err(SignatureError::Refused(code, message)) => {
                    failures.entry(user_id.to_owned()).or_default().insert(target.to_owned(), (code, message.into()));
                }
            }
        }
        if taken.is_empty() {
            return Ok(failures);
        }
        let mut write = Write::new();
        for row in &taken {
            put_key_signature(&mut write, row);
        }
        // What a user signs of others, nobody else sees; but the user's other devices do.
        let on_own = taken.iter().filter(|row| row.user_id == session.user_id);
        let (on_keys, on_devices): (Vec<_>, Vec<_>) =
            on_own.partition(|row| own.iter().any(|key| key.public_key == row.target));
        let devices: Vec<&DeviceId> = on_devices.iter().map(|row| <&DeviceId>::from(row.target.as_str())).collect();
        let changed = KeysChanged { devices: &devices, signing_keys: !on_keys.is_empty() };
        self.tell_keys_changed(&mut write, &session.user_id, changed).await?;
        self.store.commit(write).await?;
        Ok(failures)
    }

    async fn check_signature(
        &self,
        session: &Session,
        own: &[CrossSigningKeyRow],
        elsewhere: &[CrossSigningKeyRow],
        (user_id, target, json): (&UserId, &str, &RawValue),
    ) -> Result<KeySignatureRow, SignatureError> {
        let signed: Value = serde_json::from_str(json.get()).map_err(|_| refused("M_BAD_JSON", "it is not JSON"))?;
        let theirs = if user_id == session.user_id {
            own.to_vec()
        } else if self.is_ours(user_id) {
            self.store.device_keys().cross_signing_keys(&[user_id]).await?
        } else {
            elsewhere.iter().filter(|row| row.user_id == user_id).cloned().collect()
        };
        let stored_key = theirs.iter().find(|row| row.public_key == target);
        let (stored, signing_key) = if user_id != session.user_id {
            // Others are vouched for by the user-signing key, and only their master keys are.
            let master = stored_key.filter(|row| row.usage == MASTER);
            let master = master.ok_or_else(|| refused("M_NOT_FOUND", "this is not that user's master key"))?;
            (master.json.clone(), signing_key_of(own, USER_SIGNING)?)
        } else if let Some(key) = stored_key {
            // A device vouches for its user's master key.
            if key.usage != MASTER {
                return Err(refused("M_INVALID_PARAM", "only the master key is signed by devices"));
            }
            (key.json.clone(), self.signing_key_of_device(session).await?)
        } else {
            let device = DeviceRef { user_id, device_id: target.into() };
            let stored = self.store.device_keys().find(device).await?;
            (stored.ok_or_else(|| refused("M_NOT_FOUND", "there is no such key"))?, signing_key_of(own, SELF_SIGNING)?)
        };
        if !is_same_but_for_signatures(&parse(&stored)?, &signed) {
            return Err(refused("M_INVALID_PARAM", "the key is not as it was uploaded"));
        }
        let (key_id, public_key) = signing_key;
        let signature = signed["signatures"][session.user_id.as_str()][&key_id].as_str();
        let signature = signature.ok_or_else(|| refused("M_INVALID_SIGNATURE", "the signature is missing"))?;
        if !is_signed_by(&signed, &public_key, signature) {
            return Err(refused("M_INVALID_SIGNATURE", "the signature is wrong"));
        }
        Ok(KeySignatureRow {
            user_id: user_id.to_owned(),
            target: target.to_owned(),
            signer: session.user_id.clone(),
            signing_key: key_id,
            signature: signature.to_owned(),
        })
    }

    /// By which key the device that asks signs: its id and the public key.
    async fn signing_key_of_device(&self, session: &Session) -> Result<(String, String), SignatureError> {
        let device = DeviceRef { user_id: &session.user_id, device_id: &session.device_id };
        let keys = self.store.device_keys().find(device).await?;
        let keys = parse(&keys.ok_or_else(|| refused("M_NOT_FOUND", "this device has no keys"))?)?;
        let key_id = format!("ed25519:{}", session.device_id);
        let public_key = keys["keys"][&key_id].as_str();
        let public_key = public_key.ok_or_else(|| refused("M_NOT_FOUND", "this device has no signing key"))?;
        Ok((key_id, public_key.to_owned()))
    }
}

enum SignatureError {
    Refused(&'static str, &'static str),
    Store(store::Error),
}

impl From<store::Error> for SignatureError {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

fn refused(code: &'static str, message: &'static str) -> SignatureError {
    SignatureError::Refused(code, message)
}

fn signing_key_of(own: &[CrossSigningKeyRow], usage: &str) -> Result<(String, String), SignatureError> {
    let row = own.iter().find(|row| row.usage == usage);
    let row = row.ok_or_else(|| refused("M_NOT_FOUND", "you have no key that could have signed this"))?;
    Ok((format!("ed25519:{}", row.public_key), row.public_key.clone()))
}

/// Looks at the keys of an upload, and answers those that aren't stored already.
fn check_upload(
    user_id: &UserId,
    upload: &CrossSigningUpload,
    stored: &[CrossSigningKeyRow],
) -> Result<Vec<Checked>, KeyError> {
    let master = check_key(user_id, "master_key", MASTER, KeyUsage::Master, upload.master_key.as_ref())?;
    let self_signing =
        check_key(user_id, "self_signing_key", SELF_SIGNING, KeyUsage::SelfSigning, upload.self_signing_key.as_ref())?;
    let user_signing =
        check_key(user_id, "user_signing_key", USER_SIGNING, KeyUsage::UserSigning, upload.user_signing_key.as_ref())?;

    let stored_master = stored.iter().find(|row| row.usage == MASTER).map(|row| row.public_key.clone());
    let master_key = master.as_ref().map(|key| key.public_key.clone()).or(stored_master);
    for (field, key) in [("self_signing_key", &self_signing), ("user_signing_key", &user_signing)] {
        let Some(key) = key else { continue };
        let Some(master_key) = &master_key else { return invalid(field, "comes without a master key") };
        let signature = &key.json["signatures"][user_id.as_str()][format!("ed25519:{master_key}")];
        if !signature.as_str().is_some_and(|signature| is_signed_by(&key.json, master_key, signature)) {
            return Err(KeyError::Signature { field, signer: "the master key" });
        }
    }
    let is_stored = |key: &Checked| {
        stored.iter().any(|row| row.usage == key.usage && parse(&row.json).is_ok_and(|json| json == key.json))
    };
    Ok([master, self_signing, user_signing].into_iter().flatten().filter(|key| !is_stored(key)).collect())
}

fn check_key(
    user_id: &UserId,
    field: &'static str,
    usage: &'static str,
    kind: KeyUsage,
    raw: Option<&Raw<CrossSigningKey>>,
) -> Result<Option<Checked>, KeyError> {
    let Some(raw) = raw else { return Ok(None) };
    let Ok(key) = raw.deserialize() else { return invalid(field, "lacks a field or has a wrong one") };
    if key.user_id != user_id {
        return invalid(field, "is not one of the user who asks");
    }
    if !key.usage.contains(&kind) {
        return invalid(field, "has another `usage`");
    }
    let mut keys = key.keys.iter();
    let (Some((key_id, public_key)), None) = (keys.next(), keys.next()) else {
        return invalid(field, "must hold exactly one key");
    };
    let is_named_well = key_id.as_str() == format!("ed25519:{public_key}");
    if !is_named_well || decode(public_key).is_none_or(|bytes| bytes.len() != 32) {
        return invalid(field, "holds a key that is not ed25519, named after itself");
    }
    let text = raw.json().get().to_owned();
    Ok(Some(Checked { usage, public_key: public_key.clone(), json: parse(&text)?, text }))
}

fn is_same_but_for_signatures(stored: &Value, signed: &Value) -> bool {
    let stripped = |value: &Value| {
        let mut object = value.as_object().cloned().unwrap_or_default();
        object.remove("signatures");
        object.remove("unsigned");
        object
    };
    stripped(stored) == stripped(signed)
}

fn is_signed_by(json: &Value, public_key: &str, signature: &str) -> bool {
    let object: Result<CanonicalJsonObject, _> = serde_json::from_value(json.clone());
    let Ok(Ok(text)) = object.map(|object| to_canonical_json_string_for_signing(&object)) else { return false };
    let (Some(public_key), Some(signature)) = (decode(public_key), decode(signature)) else { return false };
    verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, &public_key, &signature, text.as_bytes()).is_ok()
}

/// Matrix leaves out the padding; some clients don't.
fn decode(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    LENIENT.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use ruma::signatures::{Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;
    use crate::{KeyUpload, testing::with_users};

    /// A key pair that is called by its own public key, or by `name`.
    struct Pair(Ed25519KeyPair, String);

    impl Pair {
        fn new(name: Option<&str>) -> Self {
            let document = Ed25519KeyPair::generate();
            let pair = Ed25519KeyPair::from_der(&document, "x".into()).expect("it was just made");
            let public_key = base64::engine::general_purpose::STANDARD_NO_PAD.encode(pair.public_key());
            let name = name.unwrap_or(&public_key).to_owned();
            Self(Ed25519KeyPair::from_der(&document, name).expect("it was just made"), public_key)
        }

        fn sign(&self, user_id: &UserId, value: &Value) -> Value {
            let object: CanonicalJsonObject = serde_json::from_value(value.clone()).expect("it is canonical");
            let text = to_canonical_json_string_for_signing(&object).expect("it is an object");
            let signature = self.0.sign(text.as_bytes());
            let mut value = value.clone();
            value["signatures"] = json!({ user_id.as_str(): { signature.id(): signature.base64() } });
            value
        }

        fn cross_signing_key(&self, user_id: &UserId, usage: &str) -> Value {
            let key_id = format!("ed25519:{}", self.1);
            json!({ "user_id": user_id, "usage": [usage], "keys": { key_id: self.1 } })
        }
    }

    fn raw<T>(value: &Value) -> Raw<T> {
        Raw::from_json(serde_json::value::to_raw_value(value).expect("it is JSON"))
    }

    struct Person {
        session: Session,
        device: Pair,
        device_keys: Value,
        master: Pair,
        self_signing: Pair,
        user_signing: Pair,
    }

    impl Person {
        async fn new(users: &Users, name: &str) -> Self {
            let opened = users.register_for_tests(name).await;
            let session = users.authenticate(&opened.access_token).await.expect("the token is good");
            let device = Pair::new(Some(session.device_id.as_str()));
            let key_id = format!("ed25519:{}", session.device_id);
            let device_keys = json!({
                "user_id": session.user_id,
                "device_id": session.device_id,
                "algorithms": ["m.megolm.v1.aes-sha2"],
                "keys": { key_id: device.1 },
            });
            let device_keys = device.sign(&session.user_id, &device_keys);
            let upload = KeyUpload { device_keys: Some(raw(&device_keys)), ..KeyUpload::default() };
            users.upload_keys(&session, upload).await.expect("they are the device's");
            let [master, self_signing, user_signing] = [(); 3].map(|()| Pair::new(None));
            Self { session, device, device_keys, master, self_signing, user_signing }
        }

        fn upload(&self) -> CrossSigningUpload {
            let user_id = &self.session.user_id;
            let signed = |pair: &Pair, usage| raw(&self.master.sign(user_id, &pair.cross_signing_key(user_id, usage)));
            CrossSigningUpload {
                master_key: Some(raw(&self.master_key())),
                self_signing_key: Some(signed(&self.self_signing, "self_signing")),
                user_signing_key: Some(signed(&self.user_signing, "user_signing")),
            }
        }

        fn master_key(&self) -> Value {
            self.master.cross_signing_key(&self.session.user_id, "master")
        }

        async fn sign(&self, users: &Users, of: &Person, target: &str, signed: &Value) -> SignatureFailures {
            let json = serde_json::value::to_raw_value(signed).expect("it is JSON");
            let signed = vec![(&*of.session.user_id, target, &*json)];
            users.upload_signatures(&self.session, signed).await.expect("the store is there")
        }
    }

    #[tokio::test]
    async fn the_first_keys_need_no_password_and_others_do() {
        with_users(async |users, _| {
            let mut alice = Person::new(&users, "alice").await;
            users.upload_signing_keys(&alice.session, alice.upload(), None).await.expect("they are the first");
            users.upload_signing_keys(&alice.session, alice.upload(), None).await.expect("they are the same");
            alice.master = Pair::new(None);
            let refused = users.upload_signing_keys(&alice.session, alice.upload(), None).await;
            assert!(matches!(refused, Err(Refused::Challenge(_))));
        })
        .await;
    }

    #[tokio::test]
    async fn a_key_that_the_master_key_has_not_signed_is_refused() {
        with_users(async |users, _| {
            let alice = Person::new(&users, "alice").await;
            let mut upload = alice.upload();
            let forged = Pair::new(None).cross_signing_key(&alice.session.user_id, "self_signing");
            upload.self_signing_key = Some(raw(&Pair::new(None).sign(&alice.session.user_id, &forged)));
            let Err(Refused::Refusal(error)) = users.upload_signing_keys(&alice.session, upload, None).await else {
                panic!("it is forged");
            };
            assert_eq!(model::Refusal::errcode(&*error), Some("M_INVALID_SIGNATURE"));
        })
        .await;
    }

    #[tokio::test]
    async fn signatures_are_checked_and_shown_beside_the_keys() {
        with_users(async |users, _| {
            let alice = Person::new(&users, "alice").await;
            let bob = Person::new(&users, "bob").await;
            for person in [&alice, &bob] {
                users.upload_signing_keys(&person.session, person.upload(), None).await.expect("they are the first");
            }
            let alice_id = &alice.session.user_id;
            let device_id = alice.session.device_id.as_str();
            let own = alice.self_signing.sign(alice_id, &alice.device_keys);
            assert!(alice.sign(&users, &alice, device_id, &own).await.is_empty());
            let master = alice.device.sign(alice_id, &alice.master_key());
            assert!(alice.sign(&users, &alice, &alice.master.1, &master).await.is_empty());
            let of_bob = alice.user_signing.sign(alice_id, &bob.master_key());
            assert!(alice.sign(&users, &bob, &bob.master.1, &of_bob).await.is_empty());

            let mut altered = own.clone();
            altered["algorithms"] = json!([]);
            let by_another = alice.user_signing.sign(alice_id, &alice.device_keys);
            for wrong in [altered, by_another] {
                assert_eq!(alice.sign(&users, &alice, device_id, &wrong).await.len(), 1);
            }
            let unknown = alice.sign(&users, &alice, "NOSUCH", &own).await;
            assert_eq!(unknown[alice_id]["NOSUCH"].0, "M_NOT_FOUND");

            let wanted = [(alice_id.clone(), vec![]), (bob.session.user_id.clone(), vec![])].into();
            let seen = users.query_keys(Some(alice_id), &wanted).await.expect("the store is there");
            let key_of = |raw: &Raw<CrossSigningKey>| parse(raw.json().get()).expect("it is JSON");
            let keys = parse(seen.device_keys[alice_id][&alice.session.device_id].json().get()).expect("it is JSON");
            // The device's own signature is there still, and that of the self-signing key beside it.
            assert_eq!(keys["signatures"][alice_id.as_str()].as_object().map(serde_json::Map::len), Some(2));
            assert!(key_of(&seen.master_keys[&bob.session.user_id])["signatures"][alice_id.as_str()].is_object());
            assert!(seen.user_signing_keys.contains_key(alice_id));
            assert!(!seen.user_signing_keys.contains_key(&bob.session.user_id));
            let seen_by_bob = users.query_keys(Some(&bob.session.user_id), &wanted).await.expect("the store is there");
            let bobs = key_of(&seen_by_bob.master_keys[&bob.session.user_id]);
            assert!(bobs["signatures"][alice_id.as_str()].is_null(), "whom alice trusts is alice's affair");
        })
        .await;
    }
}
