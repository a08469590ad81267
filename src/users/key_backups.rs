//! Room keys that users keep on the server, encrypted by their clients.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use model::{Kind, Refusal};
use ruma::UserId;
use store::{
    Write,
    key_backups::{
        BackedUpKeyRow, KeyBackupRow, KeyRange, count_key_backup_change, delete_backed_up_keys, delete_key_backup,
        insert_key_backup, put_backed_up_key, set_key_backup_auth_data,
    },
};

use crate::Users;

/// How often a new version is tried for, where others take it at the same time.
const ATTEMPTS: usize = 5;
/// How many keys go into one commit.
const AT_ONCE: usize = 500;

/// A backup, and how much it holds.
#[derive(Clone, Debug)]
pub struct KeyBackup {
    /// Which.
    pub version: String,
    /// How its keys are encrypted.
    pub algorithm: String,
    /// JSON, as the client made it.
    pub auth_data: String,
    /// Changes with its keys.
    pub etag: String,
    /// How many keys it holds.
    pub count: u64,
}

/// Why a backup was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyBackupError {
    /// There is no such backup, or no such key.
    #[error("{0}")]
    NotFound(&'static str),
    /// Keys go into the latest backup only.
    #[error("this is not the latest backup")]
    WrongVersion {
        /// Which one is.
        current: String,
    },
    /// How the keys are encrypted can't change.
    #[error("`algorithm` is not that of the backup")]
    Algorithm,
    /// The store failed.
    #[error("the backup could not be read or changed")]
    Store(#[from] store::Error),
}

impl Refusal for KeyBackupError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::WrongVersion { .. } => Kind::Forbidden,
            Self::Algorithm => Kind::Invalid,
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        matches!(self, Self::WrongVersion { .. }).then_some("M_WRONG_ROOM_KEYS_VERSION")
    }
}

const NO_BACKUP: KeyBackupError = KeyBackupError::NotFound("there is no such backup");

impl Users {
    /// Begins another backup; keys go there from now on. Answers its version.
    pub async fn create_key_backup(
        &self,
        user_id: &UserId,
        algorithm: &str,
        auth_data: &str,
    ) -> Result<String, KeyBackupError> {
        for _ in 1..ATTEMPTS {
            match self.try_create_key_backup(user_id, algorithm, auth_data).await {
                Err(store::Error::Duplicate) => {}
                tried => return Ok(tried?),
            }
        }
        Ok(self.try_create_key_backup(user_id, algorithm, auth_data).await?)
    }

    async fn try_create_key_backup(
        &self,
        user_id: &UserId,
        algorithm: &str,
        auth_data: &str,
    ) -> Result<String, store::Error> {
        let version = self.store.key_backups().last_version(user_id).await? + 1;
        let row = KeyBackupRow { version, algorithm: algorithm.into(), auth_data: auth_data.into(), etag: 0 };
        let mut write = Write::new();
        insert_key_backup(&mut write, user_id, &row);
        self.store.commit(write).await?;
        Ok(version.to_string())
    }

    /// A backup; `version` `None`: the latest.
    pub async fn key_backup(&self, user_id: &UserId, version: Option<&str>) -> Result<KeyBackup, KeyBackupError> {
        let row = match version {
            Some(version) => self.find_key_backup(user_id, version).await?,
            None => self.store.key_backups().latest(user_id).await?.ok_or(NO_BACKUP)?,
        };
        let count = self.store.key_backups().count(user_id, row.version).await?;
        Ok(KeyBackup {
            version: row.version.to_string(),
            algorithm: row.algorithm,
            auth_data: row.auth_data,
            etag: row.etag.to_string(),
            count: count.unsigned_abs(),
        })
    }

    async fn find_key_backup(&self, user_id: &UserId, version: &str) -> Result<KeyBackupRow, KeyBackupError> {
        let version = version.parse().map_err(|_| NO_BACKUP)?;
        self.store.key_backups().find(user_id, version).await?.ok_or(NO_BACKUP)
    }

    /// Sets what a backup is authenticated by.
    pub async fn update_key_backup(
        &self,
        user_id: &UserId,
        version: &str,
        algorithm: &str,
        auth_data: &str,
    ) -> Result<(), KeyBackupError> {
        let row = self.find_key_backup(user_id, version).await?;
        if row.algorithm != algorithm {
            return Err(KeyBackupError::Algorithm);
        }
        let mut write = Write::new();
        set_key_backup_auth_data(&mut write, user_id, row.version, auth_data);
        self.store.commit(write).await?;
        Ok(())
    }

    /// Deletes a backup with its keys.
    pub async fn delete_key_backup(&self, user_id: &UserId, version: &str) -> Result<(), KeyBackupError> {
        let row = self.find_key_backup(user_id, version).await?;
        let mut write = Write::new();
        delete_key_backup(&mut write, user_id, row.version, self.now());
        self.store.commit(write).await?;
        Ok(())
    }

    /// Adds keys to the latest backup, which `version` must be; those that are worse than what is there stay out.
    pub async fn back_up_keys(
        &self,
        user_id: &UserId,
        version: &str,
        keys: &[BackedUpKeyRow],
    ) -> Result<KeyBackup, KeyBackupError> {
        let latest = self.store.key_backups().latest(user_id).await?.ok_or(NO_BACKUP)?;
        if latest.version.to_string() != version {
            return Err(KeyBackupError::WrongVersion { current: latest.version.to_string() });
        }
        for chunk in keys.chunks(AT_ONCE) {
            let mut write = Write::new();
            for key in chunk {
                put_backed_up_key(&mut write, user_id, latest.version, key);
            }
            count_key_backup_change(&mut write, user_id, latest.version);
            self.store.commit(write).await?;
        }
        self.key_backup(user_id, Some(version)).await
    }

    /// Keys of a backup.
    pub async fn backed_up_keys(
        &self,
        user_id: &UserId,
        version: &str,
        range: KeyRange<'_>,
    ) -> Result<Vec<BackedUpKeyRow>, KeyBackupError> {
        let row = self.find_key_backup(user_id, version).await?;
        let keys = self.store.key_backups().keys(user_id, row.version, range).await?;
        if range.session_id.is_some() && keys.is_empty() {
            return Err(KeyBackupError::NotFound("the backup has no such key"));
        }
        Ok(keys)
    }

    /// Deletes keys of a backup.
    pub async fn delete_backed_up_keys(
        &self,
        user_id: &UserId,
        version: &str,
        range: KeyRange<'_>,
    ) -> Result<KeyBackup, KeyBackupError> {
        let row = self.find_key_backup(user_id, version).await?;
        let mut write = Write::new();
        delete_backed_up_keys(&mut write, user_id, row.version, range);
        count_key_backup_change(&mut write, user_id, row.version);
        self.store.commit(write).await?;
        self.key_backup(user_id, Some(version)).await
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;
    use crate::testing::with_users;

    #[tokio::test]
    async fn keys_go_into_the_latest_backup_and_a_version_is_never_used_again() {
        with_users(async |users, _| {
            let alice = user_id!("@alice:a.test");
            assert!(matches!(users.key_backup(alice, None).await, Err(KeyBackupError::NotFound(_))));
            let create = || users.create_key_backup(alice, "algorithm", "{}");
            let (one, other) = tokio::join!(create(), create());
            let mut versions = [one.expect("it is made"), other.expect("it is made")];
            versions.sort();
            assert_eq!(versions, ["1", "2"]);

            let key = BackedUpKeyRow {
                room_id: room_id!("!room:a.test").to_owned(),
                session_id: "session".into(),
                first_message_index: 0,
                forwarded_count: 0,
                is_verified: true,
                session_data: "{}".into(),
            };
            let refused = users.back_up_keys(alice, "1", std::slice::from_ref(&key)).await;
            assert!(matches!(refused, Err(KeyBackupError::WrongVersion { current }) if current == "2"));
            let before = users.key_backup(alice, None).await.expect("it is there");
            let after = users.back_up_keys(alice, "2", std::slice::from_ref(&key)).await.expect("it is the latest");
            assert_eq!((before.count, after.count), (0, 1));
            assert_ne!(before.etag, after.etag);
            let kept = users.backed_up_keys(alice, "2", KeyRange::default()).await.expect("it is there");
            assert_eq!(kept, [key]);
            assert!(users.update_key_backup(alice, "2", "another", "{}").await.is_err());

            users.delete_key_backup(alice, "2").await.expect("it is there");
            assert_eq!(users.key_backup(alice, None).await.expect("the first is there").version, "1");
            assert_eq!(create().await.expect("it is made"), "3");
            assert!(users.backed_up_keys(alice, "2", KeyRange::default()).await.is_err());
        })
        .await;
    }
}
