//! Room keys that users keep on the server, encrypted by their clients.

use model::Millis;
use ruma::{OwnedRoomId, RoomId, UserId};

use crate::{Error, Row, Store, Write, args};

/// A backup.
#[derive(Clone, Debug)]
pub struct KeyBackupRow {
    /// Counts a user's backups from 1.
    pub version: i64,
    /// How its keys are encrypted.
    pub algorithm: String,
    /// JSON, as the client made it.
    pub auth_data: String,
    /// Counts the changes to its keys.
    pub etag: i64,
}

/// The key of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUpKeyRow {
    /// The room whose messages it opens.
    pub room_id: OwnedRoomId,
    /// The session.
    pub session_id: String,
    /// The first message it opens.
    pub first_message_index: i64,
    /// How many hands it went through.
    pub forwarded_count: i64,
    /// The device that made it was verified.
    pub is_verified: bool,
    /// JSON, encrypted by the client.
    pub session_data: String,
}

/// Which keys of a backup.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyRange<'a> {
    /// Those of one room; `None`: of all.
    pub room_id: Option<&'a RoomId>,
    /// That of one session; `None`: of all.
    pub session_id: Option<&'a str>,
}

/// Adds a backup. The write fails with [`Error::Duplicate`] where the version was ever taken.
pub fn insert_key_backup(write: &mut Write, user_id: &UserId, backup: &KeyBackupRow) {
    const INSERT: &str = "
        INSERT INTO key_backups (user_id, version, algorithm, auth_data, etag)
        VALUES ($1, $2, $3, $4, $5)";
    let KeyBackupRow { version, algorithm, auth_data, etag } = backup;
    write.run(INSERT, args![user_id.as_str(), *version, algorithm.as_str(), auth_data.as_str(), *etag]);
}

/// Sets what a backup is authenticated by.
pub fn set_key_backup_auth_data(write: &mut Write, user_id: &UserId, version: i64, auth_data: &str) {
    const SET: &str = "UPDATE key_backups SET auth_data = $3 WHERE user_id = $1 AND version = $2";
    write.run(SET, args![user_id.as_str(), version, auth_data]);
}

/// Deletes a backup with its keys.
pub fn delete_key_backup(write: &mut Write, user_id: &UserId, version: i64, now: Millis) {
    const DELETE: &str = "UPDATE key_backups SET deleted_at = $3 WHERE user_id = $1 AND version = $2";
    write.run(DELETE, args![user_id.as_str(), version, now]);
    write.run("DELETE FROM key_backup_sessions WHERE user_id = $1 AND version = $2", args![user_id.as_str(), version]);
}

/// Adds a key, or replaces one that is worse.
///
/// Spec: a key is better that is verified, then one that opens earlier messages, then one that went through fewer hands.
pub fn put_backed_up_key(write: &mut Write, user_id: &UserId, version: i64, key: &BackedUpKeyRow) {
    const PUT: &str = "
        INSERT INTO key_backup_sessions
            (user_id, version, room_id, session_id, first_message_index, forwarded_count, verified, session_data)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE
        SET first_message_index = excluded.first_message_index, forwarded_count = excluded.forwarded_count,
            verified = excluded.verified, session_data = excluded.session_data
        WHERE (-excluded.verified, excluded.first_message_index, excluded.forwarded_count)
            < (-key_backup_sessions.verified, key_backup_sessions.first_message_index,
                key_backup_sessions.forwarded_count)";
    write.run(
        PUT,
        args![
            user_id.as_str(),
            version,
            key.room_id.as_str(),
            key.session_id.as_str(),
            key.first_message_index,
            key.forwarded_count,
            i64::from(key.is_verified),
            key.session_data.as_str()
        ],
    );
}

/// Deletes keys of a backup.
pub fn delete_backed_up_keys(write: &mut Write, user_id: &UserId, version: i64, range: KeyRange<'_>) {
    const DELETE: &str = "
        DELETE FROM key_backup_sessions
        WHERE user_id = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4)";
    write.run(DELETE, range_args(user_id, version, range));
}

/// Counts a change to the keys of a backup.
pub fn count_key_backup_change(write: &mut Write, user_id: &UserId, version: i64) {
    const COUNT: &str = "UPDATE key_backups SET etag = etag + 1 WHERE user_id = $1 AND version = $2";
    write.run(COUNT, args![user_id.as_str(), version]);
}

fn range_args(user_id: &UserId, version: i64, range: KeyRange<'_>) -> Vec<crate::Arg> {
    let room_id = range.room_id.map_or("", RoomId::as_str);
    args![user_id.as_str(), version, room_id, range.session_id.unwrap_or_default()]
}

/// Reads backups.
pub struct KeyBackups<'a>(&'a Store);

impl Store {
    /// Reads backups.
    pub fn key_backups(&self) -> KeyBackups<'_> {
        KeyBackups(self)
    }
}

impl KeyBackups<'_> {
    /// A user's latest backup.
    pub async fn latest(&self, user_id: &UserId) -> Result<Option<KeyBackupRow>, Error> {
        const LATEST: &str = "
            SELECT version, algorithm, auth_data, etag
            FROM key_backups
            WHERE user_id = $1 AND deleted_at IS NULL
            ORDER BY version DESC
            LIMIT 1";
        self.0.query(LATEST, args![user_id.as_str()]).await?.first().map(backup).transpose()
    }

    /// One of a user's backups.
    pub async fn find(&self, user_id: &UserId, version: i64) -> Result<Option<KeyBackupRow>, Error> {
        const FIND: &str = "
            SELECT version, algorithm, auth_data, etag
            FROM key_backups
            WHERE user_id = $1 AND version = $2 AND deleted_at IS NULL";
        self.0.query(FIND, args![user_id.as_str(), version]).await?.first().map(backup).transpose()
    }

    /// The highest version that a user's backups have had, deleted ones too; 0: none.
    pub async fn last_version(&self, user_id: &UserId) -> Result<i64, Error> {
        const LAST: &str = "SELECT COALESCE(MAX(version), 0) FROM key_backups WHERE user_id = $1";
        self.0.query(LAST, args![user_id.as_str()]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// How many keys a backup holds.
    pub async fn count(&self, user_id: &UserId, version: i64) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM key_backup_sessions WHERE user_id = $1 AND version = $2";
        self.0.query(COUNT, args![user_id.as_str(), version]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// Keys of a backup.
    pub async fn keys(
        &self,
        user_id: &UserId,
        version: i64,
        range: KeyRange<'_>,
    ) -> Result<Vec<BackedUpKeyRow>, Error> {
        const KEYS: &str = "
            SELECT room_id, session_id, first_message_index, forwarded_count, verified, session_data
            FROM key_backup_sessions
            WHERE user_id = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4)
            ORDER BY room_id, session_id";
        let rows = self.0.query(KEYS, range_args(user_id, version, range)).await?;
        rows.iter()
            .map(|row| {
                Ok(BackedUpKeyRow {
                    room_id: row.parse(0)?,
                    session_id: row.text(1)?,
                    first_message_index: row.int(2)?,
                    forwarded_count: row.int(3)?,
                    is_verified: row.int(4)? != 0,
                    session_data: row.text(5)?,
                })
            })
            .collect()
    }
}

fn backup(row: &Row) -> Result<KeyBackupRow, Error> {
    Ok(KeyBackupRow { version: row.int(0)?, algorithm: row.text(1)?, auth_data: row.text(2)?, etag: row.int(3)? })
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn a_key_is_replaced_by_a_better_one_only() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            let key = |is_verified, first_message_index, forwarded_count| BackedUpKeyRow {
                room_id: room_id!("!room:a.test").to_owned(),
                session_id: "session".into(),
                first_message_index,
                forwarded_count,
                is_verified,
                session_data: format!("{is_verified} {first_message_index} {forwarded_count}"),
            };
            for (offered, kept) in [
                (key(false, 5, 1), key(false, 5, 1)),
                (key(false, 5, 2), key(false, 5, 1)),
                (key(false, 4, 9), key(false, 4, 9)),
                (key(true, 7, 9), key(true, 7, 9)),
                (key(false, 0, 0), key(true, 7, 9)),
                (key(true, 7, 8), key(true, 7, 8)),
            ] {
                let mut write = Write::new();
                put_backed_up_key(&mut write, alice, 1, &offered);
                store.commit(write).await?;
                assert_eq!(store.key_backups().keys(alice, 1, KeyRange::default()).await?, [kept]);
            }
            let other = KeyRange { room_id: Some(room_id!("!other:a.test")), session_id: None };
            let mut write = Write::new();
            delete_backed_up_keys(&mut write, alice, 1, other);
            store.commit(write).await?;
            assert_eq!(store.key_backups().count(alice, 1).await?, 1);
            let this = KeyRange { room_id: Some(room_id!("!room:a.test")), session_id: Some("session") };
            let mut write = Write::new();
            delete_backed_up_keys(&mut write, alice, 1, this);
            store.commit(write).await?;
            assert_eq!(store.key_backups().count(alice, 1).await?, 0);
            Ok::<_, Error>(())
        })
        .await;
    }
}
