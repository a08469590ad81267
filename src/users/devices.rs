//! The devices of a user.

use model::{Kind, Millis, Refusal};
use ruma::{DeviceId, OwnedDeviceId, UserId, api::client::uiaa::AuthData};
use store::{
    Write,
    devices::{DeviceRow, rename_device},
};

use crate::{Act, Refused, Session, Users, accounts::MAX_DEVICE_NAME_BYTES, key_updates::KeysChanged};

/// How many devices are deleted by one request.
const MAX_DELETED: usize = 1_000;

/// A device, as its owner sees it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// What its owner calls it.
    pub display_name: Option<String>,
    /// When it was last seen, a minute coarse.
    pub last_seen_at: Option<Millis>,
    /// Where it was last seen.
    pub last_seen_ip: Option<String>,
    /// The name of the application that has opened it, instead of its owner.
    pub application: Option<String>,
}

/// Why a device was not shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The user has no such device.
    #[error("you have no device of this id")]
    NotFound,
    /// The name is too long.
    #[error("`display_name` is longer than {MAX_DEVICE_NAME_BYTES} bytes")]
    NameTooLong,
    /// Too many at once.
    #[error("`devices` holds more than {MAX_DELETED} devices")]
    TooMany,
    /// The store failed.
    #[error("the devices could not be read or changed")]
    Store(#[from] store::Error),
}

impl Refusal for DeviceError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound => Kind::NotFound,
            Self::NameTooLong | Self::TooMany => Kind::Invalid,
            Self::Store(error) => error.kind(),
        }
    }
}

impl Users {
    /// All devices of a user.
    pub async fn devices(&self, user_id: &UserId) -> Result<Vec<Device>, DeviceError> {
        let rows = self.store.devices().list(user_id).await?;
        Ok(rows.into_iter().map(|row| self.device(user_id, row)).collect())
    }

    /// One device of a user.
    pub async fn device_of(&self, user_id: &UserId, device_id: &DeviceId) -> Result<Device, DeviceError> {
        let row = self.store.devices().find(user_id, device_id).await?.ok_or(DeviceError::NotFound)?;
        Ok(self.device(user_id, row))
    }

    /// Calls a device something else.
    pub async fn rename_device(&self, user_id: &UserId, device_id: &DeviceId, name: &str) -> Result<(), DeviceError> {
        if name.len() > MAX_DEVICE_NAME_BYTES {
            return Err(DeviceError::NameTooLong);
        }
        self.device_of(user_id, device_id).await?;
        let mut write = Write::new();
        rename_device(&mut write, user_id, device_id, name);
        // Others on this server see the name beside the device's keys; other servers are not told it.
        self.tell_keys_changed(&mut write, user_id, KeysChanged { devices: &[], signing_keys: false }).await?;
        self.store.commit(write).await?;
        Ok(())
    }

    /// Deletes devices of whoever asks, and ends their sessions. Those that aren't there are no error.
    pub async fn delete_devices(
        &self,
        session: &Session,
        devices: &[OwnedDeviceId],
        auth: Option<&AuthData>,
    ) -> Result<(), Refused> {
        if devices.len() > MAX_DELETED {
            return Err(DeviceError::TooMany.into());
        }
        self.authorize(&Act::DeleteDevices(devices.to_vec()), Some(session), auth).await?;
        let ids: Vec<&DeviceId> = devices.iter().map(|device_id| &**device_id).collect();
        self.remove_devices(&session.user_id, &ids).await?;
        Ok(())
    }

    fn device(&self, user_id: &UserId, row: DeviceRow) -> Device {
        let mut device = Device {
            device_id: row.device_id,
            display_name: row.display_name,
            last_seen_at: row.last_seen_at,
            last_seen_ip: row.last_seen_ip,
            application: row.application,
        };
        if let Some((at, address)) = self.last_seen.of(user_id, &device.device_id) {
            device.last_seen_at = Some(at);
            device.last_seen_ip = address.map(|address| address.to_string()).or(device.last_seen_ip);
        }
        device
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HOME, with_users};

    #[tokio::test]
    async fn a_device_shows_where_it_was_seen_before_and_after_that_is_written() {
        with_users(async |users, clock| {
            let opened = users.register_for_tests("alice").await;
            let session = users.authenticate(&opened.access_token).await.expect("the token is good");
            users.note_seen(&session, Some(HOME));
            let seen = async || users.device_of(&session.user_id, &session.device_id).await.expect("it is there");
            let before = seen().await;
            users.flush_last_seen().await.expect("it is written");
            let after = seen().await;
            assert_eq!(before.last_seen_at, after.last_seen_at);
            assert_eq!(after.last_seen_ip.as_deref(), Some("127.0.0.1"));

            clock.advance(59_999);
            users.note_seen(&session, None);
            assert_eq!(seen().await.last_seen_at, after.last_seen_at);
            clock.advance(1);
            users.note_seen(&session, None);
            assert!(seen().await.last_seen_at > after.last_seen_at);
        })
        .await;
    }

    #[tokio::test]
    async fn a_device_gets_another_name_and_nobody_elses_does() {
        with_users(async |users, _| {
            let opened = users.register_for_tests("alice").await;
            let bob = users.register_for_tests("bob").await;
            users.rename_device(&opened.user_id, &opened.device_id, "my phone").await.expect("it is hers");
            let devices = users.devices(&opened.user_id).await.expect("they list");
            assert_eq!(devices[0].display_name.as_deref(), Some("my phone"));
            let refused = users.rename_device(&bob.user_id, &opened.device_id, "mine").await.expect_err("it is hers");
            assert!(matches!(refused, DeviceError::NotFound));
            let long = "x".repeat(MAX_DEVICE_NAME_BYTES + 1);
            assert!(users.rename_device(&opened.user_id, &opened.device_id, &long).await.is_err());
        })
        .await;
    }
}
