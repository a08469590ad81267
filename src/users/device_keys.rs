//! The keys of devices: uploaded by their owners, asked for by those who write to them.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#key-management-api>

use std::collections::BTreeMap;

use model::{Change, Kind, Millis, Refusal, UserStream};
use ruma::{
    DeviceId, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId,
    encryption::{CrossSigningKey, DeviceKeys, OneTimeKey},
    serde::Raw,
};
use serde_json::{Value, json};
use store::{
    Write,
    device_keys::{
        DeviceRef, KeySignatureRow, OneTimeKeyRow, claim_one_time_key, forget_claimed_keys, insert_one_time_key,
        put_device_keys, put_fallback_key,
    },
};

use crate::{Session, Users, key_updates::KeysChanged, secrets::random_text};

/// The most one-time keys that one request brings, and that a device may have.
const MAX_ONE_TIME_KEYS: usize = 1_000;
/// The most that any one key may take.
pub(crate) const MAX_KEY_BYTES: usize = 64 << 10;
/// How long a key that was given out is remembered, so that it isn't taken for a new one.
const REMEMBER_CLAIMED: Millis = 60 * 60_000;
/// The most devices that one request asks keys of.
const MAX_CLAIMED_DEVICES: usize = 10_000;

/// What a device uploads.
#[derive(Debug, Default)]
pub struct KeyUpload {
    /// Its identity keys.
    pub device_keys: Option<Raw<DeviceKeys>>,
    /// Keys to be given out once each.
    pub one_time_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
    /// Keys to be given out when there are no others left.
    pub fallback_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
}

/// The keys of some users.
#[derive(Debug, Default)]
pub struct KeyQuery {
    /// Of their devices.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    /// By which they sign their other keys.
    pub master_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// By which they sign their devices.
    pub self_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// By which they sign other users; shown to nobody but their owner.
    pub user_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
}

/// One-time keys, one for each device that has any left.
pub type ClaimedKeys = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>>>;

/// Why keys were not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Something about them can't be.
    #[error("`{field}` {problem}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// Another key of this id is there.
    #[error("one-time key `{0}` was uploaded before, with other contents")]
    Reused(String),
    /// A signature is missing or wrong.
    #[error("`{field}` is not signed by {signer}")]
    Signature {
        /// Which field.
        field: &'static str,
        /// What it should be signed by.
        signer: &'static str,
    },
    /// More than this server takes.
    #[error("`{field}` is more than this server takes")]
    TooMany {
        /// Which field.
        field: &'static str,
    },
    /// The store failed.
    #[error("the keys could not be read or stored")]
    Store(#[from] store::Error),
}

impl Refusal for KeyError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            _ => Kind::Invalid,
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::Reused(_) => Some("M_UNKNOWN"),
            Self::Signature { .. } => Some("M_INVALID_SIGNATURE"),
            _ => None,
        }
    }
}

pub(crate) fn invalid<T>(field: &'static str, problem: &'static str) -> Result<T, KeyError> {
    Err(KeyError::Invalid { field, problem })
}

impl Users {
    /// Takes the keys of a device. Answers how many one-time keys of each algorithm it has then.
    pub async fn upload_keys(&self, session: &Session, upload: KeyUpload) -> Result<BTreeMap<String, u64>, KeyError> {
        let device = DeviceRef { user_id: &session.user_id, device_id: &session.device_id };
        let mut write = Write::new();
        let mut is_anything_new = false;

        if let Some(keys) = &upload.device_keys {
            let json = self.check_device_keys(session, keys)?;
            let is_new = match self.store.device_keys().find(device).await? {
                Some(stored) => parse(&stored)? != json,
                None => true,
            };
            if is_new {
                put_device_keys(&mut write, device, keys.json().get());
                let changed = KeysChanged { devices: &[&session.device_id], signing_keys: false };
                self.tell_keys_changed(&mut write, &session.user_id, changed).await?;
                is_anything_new = true;
            }
        }
        let one_time_keys = self.new_one_time_keys(device, &upload.one_time_keys).await?;
        let now = self.now();
        if !one_time_keys.is_empty() {
            forget_claimed_keys(&mut write, device, now - REMEMBER_CLAIMED);
        }
        for key in &one_time_keys {
            insert_one_time_key(&mut write, device, key, now);
            is_anything_new = true;
        }
        for key in rows_of("fallback_keys", &upload.fallback_keys)? {
            put_fallback_key(&mut write, device, &key);
            is_anything_new = true;
        }
        if is_anything_new {
            self.store.commit(write).await?;
        }
        self.count_one_time_keys(&session.user_id, &session.device_id).await
    }

    /// How many one-time keys of each algorithm a device has left.
    pub async fn count_one_time_keys(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<BTreeMap<String, u64>, KeyError> {
        let mut counts = self.store.sync().one_time_key_counts(user_id, device_id.as_str()).await?;
        // Clients take silence for "as many as before".
        counts.entry("signed_curve25519".into()).or_insert(0);
        Ok(counts)
    }

    fn check_device_keys(&self, session: &Session, keys: &Raw<DeviceKeys>) -> Result<Value, KeyError> {
        if keys.json().get().len() > MAX_KEY_BYTES {
            return Err(KeyError::TooMany { field: "device_keys" });
        }
        let Ok(parsed) = keys.deserialize() else { return invalid("device_keys", "lacks a field or has a wrong one") };
        if parsed.user_id != session.user_id {
            return invalid("device_keys.user_id", "is not the user who asks");
        }
        if parsed.device_id != session.device_id {
            return invalid("device_keys.device_id", "is not the device that asks");
        }
        Ok(parse(keys.json().get())?)
    }

    /// Of the keys that a device brings, those that it hasn't brought before.
    async fn new_one_time_keys(
        &self,
        device: DeviceRef<'_>,
        brought: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
    ) -> Result<Vec<OneTimeKeyRow>, KeyError> {
        let brought = rows_of("one_time_keys", brought)?;
        if brought.is_empty() {
            return Ok(brought);
        }
        let stored = self.store.device_keys().one_time_keys(device).await?;
        if stored.len() + brought.len() > 2 * MAX_ONE_TIME_KEYS {
            return Err(KeyError::TooMany { field: "one_time_keys" });
        }
        let mut new = Vec::with_capacity(brought.len());
        for key in brought {
            let before = stored.iter().find(|row| row.algorithm == key.algorithm && row.key_id == key.key_id);
            match before {
                None => new.push(key),
                Some(before) if parse(&before.json)? == parse(&key.json)? => {}
                Some(_) => return Err(KeyError::Reused(format!("{}:{}", key.algorithm, key.key_id))),
            }
        }
        Ok(new)
    }

    /// The keys of users of this server and of their devices, as `asker` may see them; none: another server. That isn't
    /// told what people call their devices.
    ///
    /// `wanted`: for each user the devices, or none for all of them.
    pub async fn query_keys(
        &self,
        asker: Option<&UserId>,
        wanted: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> Result<KeyQuery, KeyError> {
        let users: Vec<&UserId> = wanted.keys().map(|user_id| &**user_id).filter(|id| self.is_ours(id)).collect();
        let signatures = self.store.device_keys().signatures(&users, asker).await?;
        let mut found = KeyQuery::default();
        for user_id in &users {
            // Who has no devices is told of all the same.
            found.device_keys.insert((*user_id).to_owned(), BTreeMap::new());
        }
        for row in self.store.device_keys().of_users(&users).await? {
            let devices = &wanted[&row.user_id];
            if !devices.is_empty() && !devices.iter().any(|device_id| *device_id == row.device_id) {
                continue;
            }
            let mut keys = parse(&row.json)?;
            add_signatures(&mut keys, &signatures, &row.user_id, &row.device_id);
            if let Some(name) = row.display_name.filter(|_| asker.is_some()) {
                keys["unsigned"] = json!({ "device_display_name": name });
            }
            let of_user = found.device_keys.entry(row.user_id).or_default();
            of_user.insert(row.device_id.into(), raw(&keys)?);
        }
        for row in self.store.device_keys().cross_signing_keys(&users).await? {
            let keys = match row.usage.as_str() {
                "master" => &mut found.master_keys,
                "self_signing" => &mut found.self_signing_keys,
                "user_signing" if asker.is_some_and(|asker| row.user_id == asker) => &mut found.user_signing_keys,
                _ => continue,
            };
            let mut key = parse(&row.json)?;
            add_signatures(&mut key, &signatures, &row.user_id, &row.public_key);
            keys.insert(row.user_id, raw(&key)?);
        }
        Ok(found)
    }

    /// The keys of a user of this server as other servers follow them, and the position that they are as of.
    pub async fn device_list(&self, user_id: &UserId) -> Result<(KeyQuery, i64), KeyError> {
        // Before the keys, so that what changes meanwhile is told again rather than missed.
        let position = self.store.device_keys().latest_change(user_id).await?;
        let wanted = BTreeMap::from([(user_id.to_owned(), Vec::new())]);
        Ok((self.query_keys(None, &wanted).await?, position))
    }

    /// Takes a one-time key of each of these devices, or its fallback key. Nobody else gets the same one-time key.
    pub async fn claim_keys(
        &self,
        wanted: &BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>,
    ) -> Result<ClaimedKeys, KeyError> {
        let devices: Vec<(&UserId, &DeviceId, &str)> = wanted
            .iter()
            .filter(|(user_id, _)| self.is_ours(user_id))
            .flat_map(|(user_id, devices)| {
                devices.iter().map(|(id, algorithm)| (&**user_id, &**id, algorithm.as_str()))
            })
            .collect();
        if devices.len() > MAX_CLAIMED_DEVICES {
            return Err(KeyError::TooMany { field: "one_time_keys" });
        }
        if devices.is_empty() {
            return Ok(ClaimedKeys::new());
        }
        let claim = random_text();
        let now = self.now();
        let mut write = Write::new();
        for (user_id, device_id, algorithm) in &devices {
            claim_one_time_key(&mut write, DeviceRef { user_id, device_id }, algorithm, &claim, now);
        }
        for user_id in wanted.keys().filter(|user_id| self.is_ours(user_id)) {
            write.tell_next(Change::User { user_id: user_id.clone(), stream: UserStream::OneTimeKeys });
        }
        self.store.commit(write).await?;

        let mut claimed = self.store.device_keys().claimed(&claim).await?;
        for (user_id, device_id, algorithm) in devices {
            let has_one = claimed.iter().any(|row| row.user_id == user_id && row.device_id == device_id.as_str());
            if !has_one {
                let device = DeviceRef { user_id, device_id };
                claimed.extend(self.store.device_keys().fallback_key(device, algorithm).await?);
            }
        }
        let mut keys = ClaimedKeys::new();
        for row in claimed {
            let Ok(key_id) = OwnedOneTimeKeyId::try_from(format!("{}:{}", row.key.algorithm, row.key.key_id)) else {
                continue;
            };
            let of_device = keys.entry(row.user_id).or_default().entry(row.device_id.into()).or_default();
            of_device.insert(key_id, raw(&parse(&row.key.json)?)?);
        }
        Ok(keys)
    }
}

fn rows_of(
    field: &'static str,
    keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> Result<Vec<OneTimeKeyRow>, KeyError> {
    if keys.len() > MAX_ONE_TIME_KEYS {
        return Err(KeyError::TooMany { field });
    }
    keys.iter()
        .map(|(id, key)| {
            let (algorithm, key_id) = id.as_str().split_once(':').unwrap_or_default();
            let json = key.json().get();
            if json.len() > MAX_KEY_BYTES || id.as_str().len() > 512 {
                return Err(KeyError::TooMany { field });
            }
            if key.deserialize().is_err() {
                return invalid(field, "holds what is no key");
            }
            Ok(OneTimeKeyRow { algorithm: algorithm.to_owned(), key_id: key_id.to_owned(), json: json.to_owned() })
        })
        .collect()
}

/// [`add_signatures`] to a user's own key that another server told.
pub(crate) fn add_signatures_to(
    key: &mut Raw<CrossSigningKey>,
    signatures: &[KeySignatureRow],
    user_id: &UserId,
) -> Result<(), KeyError> {
    let public_key = key.deserialize().ok().and_then(|key| key.keys.into_values().next());
    let Some(public_key) = public_key else { return Ok(()) };
    let mut json = parse(key.json().get())?;
    add_signatures(&mut json, signatures, user_id, &public_key);
    *key = raw(&json)?;
    Ok(())
}

fn add_signatures(key: &mut Value, signatures: &[KeySignatureRow], user_id: &UserId, target: &str) {
    for row in signatures.iter().filter(|row| row.user_id == user_id && row.target == target) {
        let of_key = &mut key["signatures"];
        if !of_key.is_object() {
            *of_key = json!({});
        }
        if !of_key[row.signer.as_str()].is_object() {
            of_key[row.signer.as_str()] = json!({});
        }
        of_key[row.signer.as_str()][&row.signing_key] = row.signature.as_str().into();
    }
}

pub(crate) fn parse(json: &str) -> Result<Value, store::Error> {
    serde_json::from_str(json).map_err(|error| store::Error::Corrupt(format!("a key: {error}")))
}

pub(crate) fn raw<T>(value: &Value) -> Result<Raw<T>, store::Error> {
    let json =
        serde_json::value::to_raw_value(value).map_err(|error| store::Error::Corrupt(format!("a key: {error}")))?;
    Ok(Raw::from_json(json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_users;

    fn one_time_keys(ids: &[&str], key: &str) -> BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>> {
        let key = || raw(&json!({ "key": key, "signatures": { "@alice:a.test": { "ed25519:A": "s" } } }));
        ids.iter().map(|id| ((*id).try_into().expect("it is a key id"), key().expect("it is JSON"))).collect()
    }

    async fn alice(users: &Users) -> Session {
        let opened = users.register_for_tests("alice").await;
        users.authenticate(&opened.access_token).await.expect("the token is good")
    }

    #[tokio::test]
    async fn each_one_time_key_is_given_out_once_then_the_fallback_key() {
        with_users(async |users, _| {
            let alice = alice(&users).await;
            let upload = KeyUpload {
                one_time_keys: one_time_keys(&["signed_curve25519:AA", "signed_curve25519:AB"], "aGVsbG8"),
                fallback_keys: one_time_keys(&["signed_curve25519:FF"], "aGVsbG8"),
                ..KeyUpload::default()
            };
            let counts = users.upload_keys(&alice, upload).await.expect("they are keys");
            assert_eq!(counts["signed_curve25519"], 2);
            let of_alice = [(alice.device_id.clone(), "signed_curve25519".to_owned())].into();
            let wanted = BTreeMap::from([(alice.user_id.clone(), of_alice)]);
            let claim = async || {
                let claimed = users.claim_keys(&wanted).await.expect("the store is there");
                let keys = &claimed[&alice.user_id][&alice.device_id];
                keys.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            };
            let (one, two, three) = tokio::join!(claim(), claim(), claim());
            let mut given = [one, two, three];
            given.sort();
            assert_eq!(given, ["signed_curve25519:AA", "signed_curve25519:AB", "signed_curve25519:FF"]);
            let left = users.count_one_time_keys(&alice.user_id, &alice.device_id).await.expect("the store is there");
            assert_eq!(left["signed_curve25519"], 0);
        })
        .await;
    }

    #[tokio::test]
    async fn a_key_is_uploaded_again_as_it_is_or_not_at_all() {
        with_users(async |users, _| {
            let alice = alice(&users).await;
            let upload = async |key: &str| {
                let one_time_keys = one_time_keys(&["signed_curve25519:AA"], key);
                users.upload_keys(&alice, KeyUpload { one_time_keys, ..KeyUpload::default() }).await
            };
            upload("aGVsbG8").await.expect("it is new");
            assert_eq!(upload("aGVsbG8").await.expect("it is the same")["signed_curve25519"], 1);
            assert!(matches!(upload("d29ybGQ").await, Err(KeyError::Reused(_))));
        })
        .await;
    }

    #[tokio::test]
    async fn nobody_uploads_the_keys_of_another_device() {
        with_users(async |users, _| {
            let alice = alice(&users).await;
            let keys = |user_id: &str, device_id: &str| {
                let keys = json!({ "user_id": user_id, "device_id": device_id, "algorithms": [], "keys": {},
                    "signatures": {} });
                KeyUpload { device_keys: Some(raw(&keys).expect("it is JSON")), ..KeyUpload::default() }
            };
            assert!(users.upload_keys(&alice, keys("@bob:a.test", alice.device_id.as_str())).await.is_err());
            assert!(users.upload_keys(&alice, keys("@alice:a.test", "ANOTHER")).await.is_err());
            users.upload_keys(&alice, keys("@alice:a.test", alice.device_id.as_str())).await.expect("they are hers");
        })
        .await;
    }
}
