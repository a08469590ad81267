//! The keys of devices and users, and whose changed when.

use model::{Millis, Position};
use ruma::{DeviceId, OwnedUserId, UserId};

use crate::{Arg, Error, Store, Table, Write, args, places};

/// How many parameters one question has at most.
const AT_ONCE: usize = 500;

// === Writing ===

static DEVICE_LIST_CHANGES: Table = Table {
    insert: "INSERT INTO device_list_changes (position, user_id, device_id)",
    columns: 3,
    conflict: "",
    key: 0,
};

static DEVICE_KEYS: Table = Table {
    insert: "INSERT INTO device_keys (user_id, device_id, json)",
    columns: 3,
    conflict: "ON CONFLICT (user_id, device_id) DO UPDATE SET json = excluded.json",
    key: 2,
};

static ONE_TIME_KEYS: Table = Table {
    insert: "INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, json, created_at)",
    columns: 6,
    conflict: "ON CONFLICT (user_id, device_id, algorithm, key_id) DO NOTHING",
    key: 4,
};

static FALLBACK_KEYS: Table = Table {
    insert: "INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, json)",
    columns: 5,
    conflict: "ON CONFLICT (user_id, device_id, algorithm) DO UPDATE
        SET key_id = excluded.key_id, json = excluded.json,
            used_at = CASE WHEN fallback_keys.key_id = excluded.key_id THEN fallback_keys.used_at END",
    key: 3,
};

static CROSS_SIGNING_KEYS: Table = Table {
    insert: "INSERT INTO cross_signing_keys (user_id, usage, public_key, json)",
    columns: 4,
    conflict: "ON CONFLICT (user_id, usage) DO UPDATE SET public_key = excluded.public_key, json = excluded.json",
    key: 2,
};

static KEY_SIGNATURES: Table = Table {
    insert: "INSERT INTO key_signatures (user_id, target, signer, signing_key, signature)",
    columns: 5,
    conflict: "ON CONFLICT (user_id, target, signer, signing_key) DO UPDATE SET signature = excluded.signature",
    key: 4,
};

/// Notes that the devices or keys of a user changed, at the position that tells it.
pub fn insert_device_list_change(write: &mut Write, user_id: &UserId, position: Arg) {
    let mut row = vec![position];
    row.extend(args![user_id.as_str(), None::<&str>]);
    write.insert(&DEVICE_LIST_CHANGES, row);
}

/// As [`insert_device_list_change`], of one device of a user of this server: a step of the device list as other servers
/// follow it.
pub fn insert_device_change(write: &mut Write, user_id: &UserId, device_id: &DeviceId, position: Arg) {
    let mut row = vec![position];
    row.extend(args![user_id.as_str(), device_id.as_str()]);
    write.insert(&DEVICE_LIST_CHANGES, row);
}

/// A device, as its keys are filed.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRef<'a> {
    /// Whose.
    pub user_id: &'a UserId,
    /// Which.
    pub device_id: &'a DeviceId,
}

/// A key that a device is spoken to with for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneTimeKeyRow {
    /// `signed_curve25519` …
    pub algorithm: String,
    /// What stands after the colon.
    pub key_id: String,
    /// As the device signed it.
    pub json: String,
}

/// Sets the identity keys of a device.
pub fn put_device_keys(write: &mut Write, device: DeviceRef<'_>, json: &str) {
    write.insert(&DEVICE_KEYS, args![device.user_id.as_str(), device.device_id.as_str(), json]);
}

/// Adds a one-time key, unless the device has or had one of this id.
pub fn insert_one_time_key(write: &mut Write, device: DeviceRef<'_>, key: &OneTimeKeyRow, now: Millis) {
    let (user_id, device_id) = (device.user_id.as_str(), device.device_id.as_str());
    let row = args![user_id, device_id, key.algorithm.as_str(), key.key_id.as_str(), key.json.as_str(), now];
    write.insert(&ONE_TIME_KEYS, row);
}

/// Sets the key that is given out when there are no one-time keys left.
pub fn put_fallback_key(write: &mut Write, device: DeviceRef<'_>, key: &OneTimeKeyRow) {
    let (user_id, device_id) = (device.user_id.as_str(), device.device_id.as_str());
    let row = args![user_id, device_id, key.algorithm.as_str(), key.key_id.as_str(), key.json.as_str()];
    write.insert(&FALLBACK_KEYS, row);
}

/// Gives a one-time key of a device to the request `claim`, or, if there is none, notes that the fallback key is used:
/// see [`DeviceKeys::claimed`]. Each key is given to one request, whoever asks at the same time.
pub fn claim_one_time_key(write: &mut Write, device: DeviceRef<'_>, algorithm: &str, claim: &str, now: Millis) {
    const CLAIM: &str = "
        UPDATE one_time_keys
        SET claim = $4, claimed_at = $5
        WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id = (
            SELECT key_id
            FROM one_time_keys
            WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND claim IS NULL
            ORDER BY created_at, key_id
            LIMIT 1)";
    const FALL_BACK: &str = "
        UPDATE fallback_keys
        SET used_at = COALESCE(used_at, $5)
        WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND NOT EXISTS (
            SELECT 1
            FROM one_time_keys
            WHERE claim = $4 AND user_id = $1 AND device_id = $2 AND algorithm = $3)";
    let args = args![device.user_id.as_str(), device.device_id.as_str(), algorithm, claim, now];
    write.run(CLAIM, args.clone());
    write.run(FALL_BACK, args);
}

/// Forgets the one-time keys of a device that were given out before `before`.
pub fn forget_claimed_keys(write: &mut Write, device: DeviceRef<'_>, before: Millis) {
    const FORGET: &str = "DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2 AND claimed_at < $3";
    write.run(FORGET, args![device.user_id.as_str(), device.device_id.as_str(), before]);
}

/// Sets a cross-signing key of a user; `usage` is `master`, `self_signing` or `user_signing`.
pub fn put_cross_signing_key(write: &mut Write, user_id: &UserId, usage: &str, public_key: &str, json: &str) {
    write.insert(&CROSS_SIGNING_KEYS, args![user_id.as_str(), usage, public_key, json]);
}

/// Removes the cross-signing keys of a user, and what they have signed.
pub fn remove_cross_signing_keys(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM cross_signing_keys WHERE user_id = $1", args![user_id.as_str()]);
    write.run("DELETE FROM key_signatures WHERE signer = $1", args![user_id.as_str()]);
}

/// A signature on somebody's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySignatureRow {
    /// Whose key is signed.
    pub user_id: OwnedUserId,
    /// The device id, or the public cross-signing key, that is signed.
    pub target: String,
    /// Who signed.
    pub signer: OwnedUserId,
    /// By which key: `ed25519:…`.
    pub signing_key: String,
    /// Base64.
    pub signature: String,
}

/// Adds a signature.
pub fn put_key_signature(write: &mut Write, row: &KeySignatureRow) {
    let KeySignatureRow { user_id, target, signer, signing_key, signature } = row;
    let (user_id, signer) = (user_id.as_str(), signer.as_str());
    let row = args![user_id, target.as_str(), signer, signing_key.as_str(), signature.as_str()];
    write.insert(&KEY_SIGNATURES, row);
}

// === Reading ===

/// The identity keys of a device.
#[derive(Clone, Debug)]
pub struct DeviceKeysRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub device_id: String,
    /// As the device signed them.
    pub json: String,
    /// What its owner calls the device.
    pub display_name: Option<String>,
}

/// A cross-signing key.
#[derive(Clone, Debug)]
pub struct CrossSigningKeyRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// `master`, `self_signing` or `user_signing`.
    pub usage: String,
    /// ed25519, base64.
    pub public_key: String,
    /// As it was uploaded.
    pub json: String,
}

/// A one-time key or a fallback key that a request has got.
#[derive(Clone, Debug)]
pub struct ClaimedKeyRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Of which device.
    pub device_id: String,
    /// The key.
    pub key: OneTimeKeyRow,
}

/// Reads keys.
pub struct DeviceKeys<'a>(&'a Store);

impl Store {
    /// Reads keys.
    pub fn device_keys(&self) -> DeviceKeys<'_> {
        DeviceKeys(self)
    }
}

impl DeviceKeys<'_> {
    /// The identity keys of every device of these users.
    pub async fn of_users(&self, users: &[&UserId]) -> Result<Vec<DeviceKeysRow>, Error> {
        let mut found = Vec::new();
        for chunk in users.chunks(AT_ONCE) {
            let sql = format!(
                "
                SELECT k.user_id, k.device_id, k.json, d.display_name
                FROM device_keys k
                JOIN devices d ON d.user_id = k.user_id AND d.device_id = k.device_id
                WHERE k.user_id IN ({})
                ORDER BY k.user_id, k.device_id",
                places(1, chunk.len())
            );
            for row in self.0.query(sql, ids(chunk)).await? {
                found.push(DeviceKeysRow {
                    user_id: row.parse(0)?,
                    device_id: row.text(1)?,
                    json: row.text(2)?,
                    display_name: row.opt_text(3)?,
                });
            }
        }
        Ok(found)
    }

    /// The position at which the keys of a user changed last; 0: never.
    pub async fn latest_change(&self, user_id: &UserId) -> Result<i64, Error> {
        const LATEST: &str = "SELECT COALESCE(MAX(position), 0) FROM device_list_changes WHERE user_id = $1";
        let rows = self.0.query(LATEST, args![user_id.as_str()]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }

    /// The identity keys of one device.
    pub async fn find(&self, device: DeviceRef<'_>) -> Result<Option<String>, Error> {
        const FIND: &str = "SELECT json FROM device_keys WHERE user_id = $1 AND device_id = $2";
        let rows = self.0.query(FIND, args![device.user_id.as_str(), device.device_id.as_str()]).await?;
        rows.first().map(|row| row.text(0)).transpose()
    }

    /// The cross-signing keys of these users.
    pub async fn cross_signing_keys(&self, users: &[&UserId]) -> Result<Vec<CrossSigningKeyRow>, Error> {
        let mut found = Vec::new();
        for chunk in users.chunks(AT_ONCE) {
            let sql = format!(
                "
                SELECT user_id, usage, public_key, json
                FROM cross_signing_keys
                WHERE user_id IN ({})
                ORDER BY user_id, usage",
                places(1, chunk.len())
            );
            for row in self.0.query(sql, ids(chunk)).await? {
                found.push(CrossSigningKeyRow {
                    user_id: row.parse(0)?,
                    usage: row.text(1)?,
                    public_key: row.text(2)?,
                    json: row.text(3)?,
                });
            }
        }
        Ok(found)
    }

    /// The signatures on keys of these users that `asker`, if it is a user, may see: the owner's, and the asker's own.
    pub async fn signatures(&self, users: &[&UserId], asker: Option<&UserId>) -> Result<Vec<KeySignatureRow>, Error> {
        let mut found = Vec::new();
        for chunk in users.chunks(AT_ONCE) {
            let sql = format!(
                "
                SELECT user_id, target, signer, signing_key, signature
                FROM key_signatures
                WHERE (signer = user_id OR signer = $1) AND user_id IN ({})",
                places(2, chunk.len())
            );
            let mut args = args![asker.map(UserId::as_str)];
            args.extend(ids(chunk));
            for row in self.0.query(sql, args).await? {
                found.push(KeySignatureRow {
                    user_id: row.parse(0)?,
                    target: row.text(1)?,
                    signer: row.parse(2)?,
                    signing_key: row.text(3)?,
                    signature: row.text(4)?,
                });
            }
        }
        Ok(found)
    }

    /// The step of a user's device list before the one at `position`; of [`Position`]'s greatest: the last one.
    pub async fn device_change_before(&self, user_id: &UserId, position: Position) -> Result<Option<Position>, Error> {
        const BEFORE: &str = "
            SELECT position
            FROM device_list_changes
            WHERE user_id = $1 AND position < $2 AND device_id IS NOT NULL
            ORDER BY position DESC
            LIMIT 1";
        let rows = self.0.query(BEFORE, args![user_id.as_str(), position]).await?;
        rows.first().map(|row| row.int(0).map(Position)).transpose()
    }

    /// The one-time keys of a device, those given out not long ago among them.
    pub async fn one_time_keys(&self, device: DeviceRef<'_>) -> Result<Vec<OneTimeKeyRow>, Error> {
        const LIST: &str = "
            SELECT algorithm, key_id, json
            FROM one_time_keys
            WHERE user_id = $1 AND device_id = $2";
        let rows = self.0.query(LIST, args![device.user_id.as_str(), device.device_id.as_str()]).await?;
        rows.iter()
            .map(|row| Ok(OneTimeKeyRow { algorithm: row.text(0)?, key_id: row.text(1)?, json: row.text(2)? }))
            .collect()
    }

    /// The one-time keys that the request `claim` has got.
    pub async fn claimed(&self, claim: &str) -> Result<Vec<ClaimedKeyRow>, Error> {
        const LIST: &str = "
            SELECT user_id, device_id, algorithm, key_id, json
            FROM one_time_keys
            WHERE claim = $1";
        self.0.query(LIST, args![claim]).await?.iter().map(claimed).collect()
    }

    /// The fallback key of a device.
    pub async fn fallback_key(&self, device: DeviceRef<'_>, algorithm: &str) -> Result<Option<ClaimedKeyRow>, Error> {
        const FIND: &str = "
            SELECT user_id, device_id, algorithm, key_id, json
            FROM fallback_keys
            WHERE user_id = $1 AND device_id = $2 AND algorithm = $3";
        let args = args![device.user_id.as_str(), device.device_id.as_str(), algorithm];
        self.0.query(FIND, args).await?.first().map(claimed).transpose()
    }
}

fn claimed(row: &crate::Row) -> Result<ClaimedKeyRow, Error> {
    Ok(ClaimedKeyRow {
        user_id: row.parse(0)?,
        device_id: row.text(1)?,
        key: OneTimeKeyRow { algorithm: row.text(2)?, key_id: row.text(3)?, json: row.text(4)? },
    })
}

fn ids(users: &[&UserId]) -> Vec<Arg> {
    users.iter().map(|user_id| Arg::from(user_id.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ruma::{device_id, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    fn key(key_id: &str) -> OneTimeKeyRow {
        OneTimeKeyRow { algorithm: "signed_curve25519".into(), key_id: key_id.into(), json: "{}".into() }
    }

    #[tokio::test]
    async fn a_one_time_key_is_given_to_one_request_and_then_the_fallback_key_to_all() {
        on_each_engine(async |store| {
            let phone = DeviceRef { user_id: user_id!("@alice:a.test"), device_id: device_id!("PHONE") };
            let mut write = Write::new();
            for key_id in ["AA", "AB", "AC"] {
                insert_one_time_key(&mut write, phone, &key(key_id), 1);
            }
            put_fallback_key(&mut write, phone, &key("FF"));
            store.commit(write).await?;
            assert_eq!(
                store.sync().unused_fallback_keys(phone.user_id, phone.device_id.as_str()).await?,
                ["signed_curve25519"]
            );

            let claims: Vec<String> = (0..5).map(|at| format!("claim {at}")).collect();
            let mut pending = tokio::task::JoinSet::new();
            for claim in claims.clone() {
                let store = store.clone();
                pending.spawn(async move {
                    let mut write = Write::new();
                    claim_one_time_key(&mut write, phone, "signed_curve25519", &claim, 2);
                    store.commit(write).await
                });
            }
            for done in pending.join_all().await {
                done?;
            }
            let mut given = Vec::new();
            for claim in &claims {
                given.extend(store.device_keys().claimed(claim).await?.into_iter().map(|row| row.key.key_id));
            }
            assert_eq!(given.len(), 3);
            assert_eq!(given.iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["AA", "AB", "AC"]));
            assert!(store.sync().one_time_key_counts(phone.user_id, phone.device_id.as_str()).await?.is_empty());
            assert!(store.sync().unused_fallback_keys(phone.user_id, phone.device_id.as_str()).await?.is_empty());
            let fallback = store.device_keys().fallback_key(phone, "signed_curve25519").await?;
            assert_eq!(fallback.map(|row| row.key), Some(key("FF")));

            // A key that was given out does not come back by being uploaded again.
            let mut write = Write::new();
            insert_one_time_key(&mut write, phone, &key("AA"), 3);
            forget_claimed_keys(&mut write, phone, 2);
            store.commit(write).await?;
            assert!(store.sync().one_time_key_counts(phone.user_id, phone.device_id.as_str()).await?.is_empty());
            let mut write = Write::new();
            forget_claimed_keys(&mut write, phone, 3);
            store.commit(write).await?;
            assert!(store.device_keys().one_time_keys(phone).await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn signatures_are_seen_by_the_owner_and_by_who_made_them() {
        on_each_engine(async |store| {
            let (alice, bob, carol) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"), user_id!("@carol:a.test"));
            let mut write = Write::new();
            for signer in [alice, bob] {
                let row = KeySignatureRow {
                    user_id: alice.to_owned(),
                    target: "master".into(),
                    signer: signer.to_owned(),
                    signing_key: "ed25519:x".into(),
                    signature: "s".into(),
                };
                put_key_signature(&mut write, &row);
            }
            store.commit(write).await?;
            assert_eq!(store.device_keys().signatures(&[alice], Some(bob)).await?.len(), 2);
            assert_eq!(store.device_keys().signatures(&[alice], Some(carol)).await?.len(), 1);
            Ok::<_, Error>(())
        })
        .await;
    }
}
