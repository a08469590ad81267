//! Room keys that users keep on the server, encrypted by their clients.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, RoomId, UInt, UserId,
    api::client::backup::{
        BackupAlgorithm, KeyBackupData, RoomKeyBackup, add_backup_keys, add_backup_keys_for_room,
        add_backup_keys_for_session, create_backup_version, delete_backup_keys, delete_backup_keys_for_room,
        delete_backup_keys_for_session, delete_backup_version, get_backup_info, get_backup_keys,
        get_backup_keys_for_room, get_backup_keys_for_session, get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use users::{BackedUpKey, KeyBackup, KeyBackupError, KeyRange};

use crate::{Answer, Ask, Error, Route, Services, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(create),
        endpoint(latest),
        endpoint(get),
        endpoint(update),
        endpoint(delete),
        endpoint(add_keys),
        endpoint(add_keys_of_room),
        endpoint(add_key),
        endpoint(keys),
        endpoint(keys_of_room),
        endpoint(key),
        endpoint(delete_keys),
        endpoint(delete_keys_of_room),
        endpoint(delete_key),
    ]
}

// === The backups ===

async fn create(ask: Ask<create_backup_version::v3::Request>) -> Answer<create_backup_version::v3::Response> {
    let (algorithm, auth_data) = read_algorithm(&ask.request.algorithm)?;
    let version = ask.services.users.create_key_backup(&ask.session.user_id, &algorithm, auth_data.get()).await?;
    Ok(create_backup_version::v3::Response::new(version))
}

async fn latest(ask: Ask<get_latest_backup_info::v3::Request>) -> Answer<get_latest_backup_info::v3::Response> {
    let backup = ask.services.users.key_backup(&ask.session.user_id, None).await?;
    let algorithm = write_algorithm(&backup)?;
    Ok(get_latest_backup_info::v3::Response::new(algorithm, uint(backup.count), backup.etag, backup.version))
}

async fn get(ask: Ask<get_backup_info::v3::Request>) -> Answer<get_backup_info::v3::Response> {
    let backup = ask.services.users.key_backup(&ask.session.user_id, Some(&ask.request.version)).await?;
    let algorithm = write_algorithm(&backup)?;
    Ok(get_backup_info::v3::Response::new(algorithm, uint(backup.count), backup.etag, backup.version))
}

async fn update(ask: Ask<update_backup_version::v3::Request>) -> Answer<update_backup_version::v3::Response> {
    let (algorithm, auth_data) = read_algorithm(&ask.request.algorithm)?;
    let (user_id, version) = (&ask.session.user_id, &ask.request.version);
    ask.services.users.update_key_backup(user_id, version, &algorithm, auth_data.get()).await?;
    Ok(update_backup_version::v3::Response::new())
}

async fn delete(ask: Ask<delete_backup_version::v3::Request>) -> Answer<delete_backup_version::v3::Response> {
    ask.services.users.delete_key_backup(&ask.session.user_id, &ask.request.version).await?;
    Ok(delete_backup_version::v3::Response::new())
}

#[derive(Serialize, Deserialize)]
struct Algorithm {
    algorithm: String,
    auth_data: Box<RawValue>,
}

fn read_algorithm(raw: &Raw<BackupAlgorithm>) -> Result<(String, Box<RawValue>), Error> {
    let Algorithm { algorithm, auth_data } =
        serde_json::from_str(raw.json().get()).map_err(|error| Error::bad_json(error.to_string()))?;
    // What it looks like is a matter of the algorithm, and of the clients.
    Ok((algorithm, auth_data))
}

fn write_algorithm(backup: &KeyBackup) -> Result<Raw<BackupAlgorithm>, Error> {
    let auth_data = RawValue::from_string(backup.auth_data.clone()).map_err(corrupt)?;
    let algorithm = Algorithm { algorithm: backup.algorithm.clone(), auth_data };
    Ok(Raw::from_json(serde_json::value::to_raw_value(&algorithm).map_err(corrupt)?))
}

fn corrupt(error: serde_json::Error) -> Error {
    store::Error::Corrupt(format!("a key backup: {error}")).into()
}

fn uint(count: u64) -> UInt {
    UInt::try_from(count).unwrap_or(UInt::MAX)
}

// === Their keys ===

async fn add_keys(ask: Ask<add_backup_keys::v3::Request>) -> Answer<add_backup_keys::v3::Response> {
    let mut keys = Vec::new();
    for (room_id, of_room) in &ask.request.rooms {
        for (session_id, raw) in &of_room.sessions {
            keys.push(read_key(room_id, session_id, raw)?);
        }
    }
    let backup = put(&ask.services, &ask.session.user_id, &ask.request.version, &keys).await?;
    Ok(add_backup_keys::v3::Response::new(backup.etag, uint(backup.count)))
}

async fn add_keys_of_room(
    ask: Ask<add_backup_keys_for_room::v3::Request>,
) -> Answer<add_backup_keys_for_room::v3::Response> {
    let request = &ask.request;
    let keys: Result<Vec<_>, _> =
        request.sessions.iter().map(|(session_id, raw)| read_key(&request.room_id, session_id, raw)).collect();
    let backup = put(&ask.services, &ask.session.user_id, &request.version, &keys?).await?;
    Ok(add_backup_keys_for_room::v3::Response::new(backup.etag, uint(backup.count)))
}

async fn add_key(
    ask: Ask<add_backup_keys_for_session::v3::Request>,
) -> Answer<add_backup_keys_for_session::v3::Response> {
    let request = &ask.request;
    let key = read_key(&request.room_id, &request.session_id, &request.session_data)?;
    let backup = put(&ask.services, &ask.session.user_id, &request.version, &[key]).await?;
    Ok(add_backup_keys_for_session::v3::Response::new(backup.etag, uint(backup.count)))
}

async fn put(services: &Services, user_id: &UserId, version: &str, keys: &[BackedUpKey]) -> Result<KeyBackup, Error> {
    match services.users.back_up_keys(user_id, version, keys).await {
        Ok(backup) => Ok(backup),
        Err(KeyBackupError::WrongVersion { current }) => {
            let error = Error::from(KeyBackupError::WrongVersion { current: current.clone() });
            Err(error.with("current_version", current))
        }
        Err(error) => Err(error.into()),
    }
}

async fn keys(ask: Ask<get_backup_keys::v3::Request>) -> Answer<get_backup_keys::v3::Response> {
    let found = read(&ask.services, &ask.session.user_id, &ask.request.version, KeyRange::default()).await?;
    let mut rooms: BTreeMap<OwnedRoomId, RoomKeyBackup> = BTreeMap::new();
    for key in &found {
        let of_room = rooms.entry(key.room_id.clone()).or_insert_with(|| RoomKeyBackup::new(BTreeMap::new()));
        of_room.sessions.insert(key.session_id.clone(), write_key(key)?);
    }
    Ok(get_backup_keys::v3::Response::new(rooms))
}

async fn keys_of_room(
    ask: Ask<get_backup_keys_for_room::v3::Request>,
) -> Answer<get_backup_keys_for_room::v3::Response> {
    let range = KeyRange { room_id: Some(&ask.request.room_id), session_id: None };
    let found = read(&ask.services, &ask.session.user_id, &ask.request.version, range).await?;
    let sessions: Result<_, Error> = found.iter().map(|key| Ok((key.session_id.clone(), write_key(key)?))).collect();
    Ok(get_backup_keys_for_room::v3::Response::new(sessions?))
}

async fn key(ask: Ask<get_backup_keys_for_session::v3::Request>) -> Answer<get_backup_keys_for_session::v3::Response> {
    let range = KeyRange { room_id: Some(&ask.request.room_id), session_id: Some(&ask.request.session_id) };
    let found = read(&ask.services, &ask.session.user_id, &ask.request.version, range).await?;
    let key = found.first().ok_or_else(|| Error::not_found("the backup has no such key"))?;
    Ok(get_backup_keys_for_session::v3::Response::new(write_key(key)?))
}

async fn read(
    services: &Services,
    user_id: &UserId,
    version: &str,
    range: KeyRange<'_>,
) -> Result<Vec<BackedUpKey>, Error> {
    Ok(services.users.backed_up_keys(user_id, version, range).await?)
}

async fn delete_keys(ask: Ask<delete_backup_keys::v3::Request>) -> Answer<delete_backup_keys::v3::Response> {
    let (user_id, version) = (&ask.session.user_id, &ask.request.version);
    let backup = ask.services.users.delete_backed_up_keys(user_id, version, KeyRange::default()).await?;
    Ok(delete_backup_keys::v3::Response::new(backup.etag, uint(backup.count)))
}

async fn delete_keys_of_room(
    ask: Ask<delete_backup_keys_for_room::v3::Request>,
) -> Answer<delete_backup_keys_for_room::v3::Response> {
    let range = KeyRange { room_id: Some(&ask.request.room_id), session_id: None };
    let (user_id, version) = (&ask.session.user_id, &ask.request.version);
    let backup = ask.services.users.delete_backed_up_keys(user_id, version, range).await?;
    Ok(delete_backup_keys_for_room::v3::Response::new(backup.etag, uint(backup.count)))
}

async fn delete_key(
    ask: Ask<delete_backup_keys_for_session::v3::Request>,
) -> Answer<delete_backup_keys_for_session::v3::Response> {
    let range = KeyRange { room_id: Some(&ask.request.room_id), session_id: Some(&ask.request.session_id) };
    let (user_id, version) = (&ask.session.user_id, &ask.request.version);
    let backup = ask.services.users.delete_backed_up_keys(user_id, version, range).await?;
    Ok(delete_backup_keys_for_session::v3::Response::new(backup.etag, uint(backup.count)))
}

/// A key as clients write it.
#[derive(Serialize, Deserialize)]
struct KeyData {
    first_message_index: UInt,
    forwarded_count: UInt,
    is_verified: bool,
    session_data: Box<RawValue>,
}

fn read_key(room_id: &RoomId, session_id: &str, raw: &Raw<KeyBackupData>) -> Result<BackedUpKey, Error> {
    let data: KeyData = serde_json::from_str(raw.json().get())
        .map_err(|error| Error::bad_json(format!("the key of session `{session_id}`: {error}")))?;
    Ok(BackedUpKey {
        room_id: room_id.to_owned(),
        session_id: session_id.to_owned(),
        first_message_index: data.first_message_index.into(),
        forwarded_count: data.forwarded_count.into(),
        is_verified: data.is_verified,
        session_data: data.session_data.get().to_owned(),
    })
}

fn write_key(key: &BackedUpKey) -> Result<Raw<KeyBackupData>, Error> {
    let data = KeyData {
        first_message_index: UInt::try_from(key.first_message_index).unwrap_or_default(),
        forwarded_count: UInt::try_from(key.forwarded_count).unwrap_or_default(),
        is_verified: key.is_verified,
        session_data: RawValue::from_string(key.session_data.clone()).map_err(corrupt)?,
    };
    Ok(Raw::from_json(serde_json::value::to_raw_value(&data).map_err(corrupt)?))
}
