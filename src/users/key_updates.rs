//! Whose keys changed: told to everybody who shares a room with the user, here and on other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use model::{Change, Position, UserStream};
use ruma::{
    DeviceId, UInt, UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    serde::Raw,
};
use store::{
    Write,
    device_keys::{insert_device_change, insert_device_list_change},
    outbox::push_keys,
};

use crate::{KeyError, Users, device_keys::parse};

/// What of a user's keys changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeysChanged<'a> {
    /// The keys of these devices, or the devices are gone.
    pub(crate) devices: &'a [&'a DeviceId],
    /// The cross-signing keys that others see.
    pub(crate) signing_keys: bool,
}

impl Users {
    /// Everybody who shares a room with the user hears of it. What only the user's own devices care for is in neither part of
    /// `changed`.
    pub(crate) async fn tell_keys_changed(
        &self,
        write: &mut Write,
        user_id: &UserId,
        changed: KeysChanged<'_>,
    ) -> Result<(), store::Error> {
        let servers = if changed.devices.is_empty() && !changed.signing_keys {
            Vec::new()
        } else {
            self.store.rooms().servers_sharing_rooms_with(user_id).await?
        };
        for device_id in changed.devices {
            // Each change of a device is one step of the user's device list, and other servers count them.
            let position = store::Arg::Position(write.position());
            insert_device_change(write, user_id, device_id, position.clone());
            for server in &servers {
                push_keys(write, server, user_id, Some(device_id.as_str()), position.clone());
            }
        }
        let position = write.tell_next(Change::User { user_id: user_id.to_owned(), stream: UserStream::DeviceKeys });
        if changed.devices.is_empty() {
            insert_device_list_change(write, user_id, position.clone());
        }
        if changed.signing_keys {
            for server in &servers {
                push_keys(write, server, user_id, None, position.clone());
            }
        }
        if !servers.is_empty() {
            write.tell_next(Change::Outgoing { destinations: servers.into() });
        }
        Ok(())
    }

    /// What other servers are told of a device of ours, whose keys changed at `position`: as it is now.
    ///
    /// What its owner calls it is not told: it may say where the owner is and with what.
    pub async fn device_list_update(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        position: Position,
    ) -> Result<DeviceListUpdateContent, store::Error> {
        let previous = self.store.device_keys().device_change_before(user_id, position).await?;
        let mut update = DeviceListUpdateContent::new(user_id.to_owned(), device_id.to_owned(), stream_id(position));
        update.prev_id = previous.into_iter().map(stream_id).collect();
        if self.store.devices().find(user_id, device_id).await?.is_none() {
            update.deleted = Some(true);
            return Ok(update);
        }
        let wanted = [(user_id.to_owned(), vec![device_id.to_owned()])].into();
        let mut found = self.query_keys(Some(user_id), &wanted).await.map_err(stored)?;
        let keys = found.device_keys.remove(user_id).and_then(|mut devices| devices.remove(device_id));
        update.keys = keys.map(|keys| without_unsigned(&keys)).transpose()?;
        Ok(update)
    }

    /// What other servers are told of a user's cross-signing keys; `None`: there are none.
    pub async fn signing_key_update(&self, user_id: &UserId) -> Result<Option<SigningKeyUpdateContent>, store::Error> {
        let wanted = [(user_id.to_owned(), Vec::new())].into();
        let mut found = self.query_keys(Some(user_id), &wanted).await.map_err(stored)?;
        let mut update = SigningKeyUpdateContent::new(user_id.to_owned());
        update.master_key = found.master_keys.remove(user_id);
        update.self_signing_key = found.self_signing_keys.remove(user_id);
        Ok((update.master_key.is_some() || update.self_signing_key.is_some()).then_some(update))
    }
}

/// The place of a change in its user's device list, as other servers count them.
pub(crate) fn stream_id(position: Position) -> UInt {
    UInt::try_from(position.0).unwrap_or_default()
}

/// Keys that are stored can only fail to be read.
fn stored(error: KeyError) -> store::Error {
    match error {
        KeyError::Store(error) => error,
        other => store::Error::Corrupt(other.to_string()),
    }
}

fn without_unsigned<T>(keys: &Raw<T>) -> Result<Raw<T>, store::Error> {
    let mut keys = parse(keys.json().get())?;
    if let Some(object) = keys.as_object_mut() {
        object.remove("unsigned");
    }
    let json =
        serde_json::value::to_raw_value(&keys).map_err(|error| store::Error::Corrupt(format!("a key: {error}")))?;
    Ok(Raw::from_json(json))
}
