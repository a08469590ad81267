//! The devices of accounts.

use model::Millis;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use crate::{Error, Row, Store, Table, Write, args, pushers};

/// A device as it is stored.
#[derive(Clone, Debug)]
pub struct DeviceRow {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// What its owner calls it.
    pub display_name: Option<String>,
    /// When it was last seen.
    pub last_seen_at: Option<Millis>,
    /// Where it was last seen.
    pub last_seen_ip: Option<String>,
    /// The key of the application that has opened it, instead of its owner.
    pub app_key: Option<String>,
    /// What that application is called.
    pub application: Option<String>,
}

/// That a session is opened by an application.
#[derive(Clone, Copy, Debug)]
pub struct OfApplication<'a> {
    /// Which.
    pub app_key: &'a str,
    /// When it ends in any case.
    pub ends_at: Millis,
}

static DEVICES: Table = Table {
    insert: "INSERT INTO devices (user_id, device_id, display_name, created_at, opened_at, app_key, ends_at)",
    columns: 7,
    conflict: "ON CONFLICT (user_id, device_id) DO UPDATE SET opened_at = excluded.opened_at, app_key = excluded.app_key, \
        ends_at = excluded.ends_at",
    key: 2,
};

/// Adds a device on which somebody logs in, or an application for them. One that is there already keeps its name.
pub fn insert_device(
    write: &mut Write,
    user_id: &UserId,
    device_id: &DeviceId,
    display_name: Option<&str>,
    now: Millis,
    application: Option<OfApplication<'_>>,
) {
    let (app_key, ends_at) = application.map(|of| (of.app_key, of.ends_at)).unzip();
    write.insert(&DEVICES, args![user_id.as_str(), device_id.as_str(), display_name, now, now, app_key, ends_at]);
}

/// Gives a device another name.
pub fn rename_device(write: &mut Write, user_id: &UserId, device_id: &DeviceId, display_name: &str) {
    const RENAME: &str = "UPDATE devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2";
    write.run(RENAME, args![user_id.as_str(), device_id.as_str(), display_name]);
}

/// Notes when and where a device was seen.
pub fn set_last_seen(write: &mut Write, user_id: &UserId, device_id: &DeviceId, at: Millis, ip: Option<&str>) {
    const SEEN: &str = "
        UPDATE devices
        SET last_seen_at = $3, last_seen_ip = COALESCE($4, last_seen_ip)
        WHERE user_id = $1 AND device_id = $2";
    write.run(SEEN, args![user_id.as_str(), device_id.as_str(), at, ip]);
}

/// Removes a device, its tokens, its keys and whom it has pushed to.
pub fn remove_device(write: &mut Write, user_id: &UserId, device_id: &DeviceId) {
    for delete in [
        "DELETE FROM access_tokens WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM refresh_tokens WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM oauth_sessions WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM fallback_keys WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM device_keys WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM sliding_connections WHERE user_id = $1 AND device_id = $2",
        "DELETE FROM key_signatures WHERE user_id = $1 AND target = $2",
        "DELETE FROM devices WHERE user_id = $1 AND device_id = $2",
    ] {
        write.run(delete, args![user_id.as_str(), device_id.as_str()]);
    }
    pushers::remove_of_device(write, user_id, device_id);
}

/// Reads devices.
pub struct Devices<'a>(&'a Store);

impl Store {
    /// Reads devices.
    pub fn devices(&self) -> Devices<'_> {
        Devices(self)
    }
}

impl Devices<'_> {
    /// All devices of a user.
    pub async fn list(&self, user_id: &UserId) -> Result<Vec<DeviceRow>, Error> {
        const LIST: &str = "
            SELECT d.device_id, d.display_name, d.last_seen_at, d.last_seen_ip, d.app_key, a.name
            FROM devices d
            LEFT JOIN applications a ON a.app_key = d.app_key
            WHERE d.user_id = $1
            ORDER BY d.created_at, d.device_id";
        self.0.query(LIST, args![user_id.as_str()]).await?.iter().map(device).collect()
    }

    /// Up to `limit` devices on which nobody was seen since `unseen`, or on which somebody logged in before `opened`.
    pub async fn overdue(
        &self,
        unseen: Option<Millis>,
        opened: Option<Millis>,
        limit: u32,
    ) -> Result<Vec<(OwnedUserId, OwnedDeviceId)>, Error> {
        const OVERDUE: &str = "
            SELECT user_id, device_id
            FROM devices
            WHERE COALESCE(opened_at, created_at) < $2
                OR (COALESCE(opened_at, created_at) < $1 AND COALESCE(last_seen_at, created_at) < $1)
            ORDER BY user_id, device_id
            LIMIT $3";
        let (unseen, opened) = (unseen.unwrap_or(Millis::MIN), opened.unwrap_or(Millis::MIN));
        let rows = self.0.query(OVERDUE, args![unseen, opened, i64::from(limit)]).await?;
        rows.iter().map(|row| Ok((row.parse(0)?, row.text(1)?.into()))).collect()
    }

    /// One device.
    pub async fn find(&self, user_id: &UserId, device_id: &DeviceId) -> Result<Option<DeviceRow>, Error> {
        const FIND: &str = "
            SELECT d.device_id, d.display_name, d.last_seen_at, d.last_seen_ip, d.app_key, a.name
            FROM devices d
            LEFT JOIN applications a ON a.app_key = d.app_key
            WHERE d.user_id = $1 AND d.device_id = $2";
        self.0.query(FIND, args![user_id.as_str(), device_id.as_str()]).await?.first().map(device).transpose()
    }
}

fn device(row: &Row) -> Result<DeviceRow, Error> {
    Ok(DeviceRow {
        device_id: row.text(0)?.into(),
        display_name: row.opt_text(1)?,
        last_seen_at: row.opt_int(2)?,
        last_seen_ip: row.opt_text(3)?,
        app_key: row.opt_text(4)?,
        application: row.opt_text(5)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;
    use crate::{testing::on_each_engine, tokens};

    #[tokio::test]
    async fn a_removed_device_takes_its_tokens_along() {
        on_each_engine(async |store| {
            let (alice, phone) = (user_id!("@alice:a.test"), device_id!("PHONE"));
            let mut write = Write::new();
            insert_device(&mut write, alice, phone, Some("phone"), 1, None);
            tokens::insert_access_token(&mut write, "hash", alice, phone, 1, None, None);
            store.commit(write).await?;

            let mut write = Write::new();
            set_last_seen(&mut write, alice, phone, 5, Some("127.0.0.1"));
            rename_device(&mut write, alice, phone, "my phone");
            // Logging in again on the same device doesn't take the name away.
            insert_device(&mut write, alice, phone, None, 7, None);
            store.commit(write).await?;
            let found = store.devices().find(alice, phone).await?.expect("the phone is there");
            assert_eq!((found.display_name.as_deref(), found.last_seen_at), (Some("my phone"), Some(5)));

            let mut write = Write::new();
            remove_device(&mut write, alice, phone);
            store.commit(write).await?;
            assert!(store.devices().list(alice).await?.is_empty());
            assert!(store.tokens().count_access_tokens(alice).await? == 0);
            Ok::<_, Error>(())
        })
        .await;
    }
}
