//! What is known of the devices and keys of a user of another server, and what a change told makes of it.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::collections::BTreeMap;

use ruma::{
    DeviceId, OwnedDeviceId, UserId,
    api::federation::{
        device::get_devices::v1 as devices,
        transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    },
    encryption::{CrossSigningKey, DeviceKeys, KeyUsage},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use store::{Error, remote_devices::RemoteDeviceList as Row};

use crate::device_keys::MAX_KEY_BYTES;

/// The most devices that one user may have.
const MAX_DEVICES: usize = 1_000;
/// The most that they may take together.
const MAX_LIST_BYTES: usize = 1 << 20;
/// A longer list isn't written anew for each change: it is fetched when somebody wants it.
const MAX_CHANGED_BYTES: usize = 64 << 10;
const MAX_ID_BYTES: usize = 255;
const MAX_NAME_BYTES: usize = 1_024;

/// The devices and keys of a user of another server.
#[derive(Debug, Default)]
pub(crate) struct RemoteList {
    /// Up to which change they are known.
    stream_id: i64,
    pub(crate) devices: BTreeMap<OwnedDeviceId, RemoteDevice>,
    pub(crate) master_key: Option<Raw<CrossSigningKey>>,
    pub(crate) self_signing_key: Option<Raw<CrossSigningKey>>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RemoteDevice {
    pub(crate) keys: Raw<DeviceKeys>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
}

/// What a change told makes of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It is known already.
    Known,
    /// It is the next one, and the list is whole with it.
    Next,
    /// The list is to be fetched anew.
    Unclear,
}

impl RemoteList {
    /// The list as it is stored; `None`: there is none yet.
    pub(crate) fn of(row: &Row) -> Result<Option<Self>, Error> {
        let Some(stream_id) = row.stream_id else { return Ok(None) };
        Ok(Some(Self {
            stream_id,
            devices: read(&row.devices)?,
            master_key: row.master_key.as_deref().map(read).transpose()?,
            self_signing_key: row.self_signing_key.as_deref().map(read).transpose()?,
        }))
    }

    /// As its user's server answered. Devices that aren't what they say are left out; a list that is too long is none.
    pub(crate) fn fetched(user_id: &UserId, answer: devices::Response) -> Result<Self, &'static str> {
        if answer.user_id != user_id {
            return Err("it is the list of another user");
        }
        if answer.devices.len() > MAX_DEVICES {
            return Err("it lists more than 1,000 devices");
        }
        let mut list = Self { stream_id: answer.stream_id.into(), ..Self::default() };
        for device in answer.devices {
            if device.keys.json().get().len() > MAX_KEY_BYTES {
                return Err("the keys of a device are larger than 64 KiB");
            }
            if is_of(&device.keys, user_id, &device.device_id) {
                list.insert(device.device_id, device.keys, device.device_display_name);
            }
        }
        if list.bytes() > MAX_LIST_BYTES {
            return Err("it is larger than 1 MiB");
        }
        list.master_key = answer.master_key.filter(|key| is_key_of(key, user_id, KeyUsage::Master));
        list.self_signing_key = answer.self_signing_key.filter(|key| is_key_of(key, user_id, KeyUsage::SelfSigning));
        Ok(list)
    }

    /// The list in the place of what is stored as `row`.
    pub(crate) fn to_row(&self, row: Row) -> Result<Row, Error> {
        let corrupt = |error: serde_json::Error| Error::Corrupt(format!("a device list: {error}"));
        let text = |key: &Raw<CrossSigningKey>| key.json().get().to_owned();
        Ok(Row {
            is_whole: true,
            stream_id: Some(self.stream_id),
            devices: serde_json::to_string(&self.devices).map_err(corrupt)?,
            master_key: self.master_key.as_ref().map(text),
            self_signing_key: self.self_signing_key.as_ref().map(text),
            ..row
        })
    }

    /// A device changed. The list is one that was whole.
    pub(crate) fn change(&mut self, update: &DeviceListUpdateContent) -> News {
        let stream_id = i64::from(update.stream_id);
        if stream_id <= self.stream_id {
            // Told late, or by a server that has begun to count anew.
            return if self.says(update) { News::Known } else { News::Unclear };
        }
        // Some servers never say what came before; then nothing shows that it is known.
        let follows = !update.prev_id.is_empty() && update.prev_id.iter().all(|id| i64::from(*id) <= self.stream_id);
        if !follows || self.bytes() > MAX_CHANGED_BYTES {
            return News::Unclear;
        }
        match &update.keys {
            _ if update.deleted == Some(true) => {
                self.devices.remove(&update.device_id);
            }
            Some(keys) if is_of(keys, &update.user_id, &update.device_id) && self.has_room_for(&update.device_id) => {
                self.insert(update.device_id.clone(), keys.clone(), update.device_display_name.clone());
            }
            _ => return News::Unclear,
        }
        self.stream_id = stream_id;
        News::Next
    }

    /// The user's own keys changed. The list is one that was whole.
    pub(crate) fn change_signing_keys(&mut self, update: &SigningKeyUpdateContent) -> News {
        let told = [
            (&update.master_key, KeyUsage::Master, &mut self.master_key),
            (&update.self_signing_key, KeyUsage::SelfSigning, &mut self.self_signing_key),
        ];
        let mut news = News::Unclear;
        for (key, usage, known) in told {
            let Some(key) = key else { continue };
            if !is_key_of(key, &update.user_id, usage) {
                return News::Unclear;
            }
            *known = Some(key.clone());
            news = News::Next;
        }
        news
    }

    fn insert(&mut self, device_id: OwnedDeviceId, keys: Raw<DeviceKeys>, display_name: Option<String>) {
        let display_name = display_name.filter(|name| name.len() <= MAX_NAME_BYTES);
        self.devices.insert(device_id, RemoteDevice { keys, display_name });
    }

    fn says(&self, update: &DeviceListUpdateContent) -> bool {
        let known = self.devices.get(&update.device_id);
        match &update.keys {
            _ if update.deleted == Some(true) => known.is_none(),
            Some(keys) => known.is_some_and(|known| known.keys.json().get() == keys.json().get()),
            None => false,
        }
    }

    fn has_room_for(&self, device_id: &DeviceId) -> bool {
        self.devices.len() < MAX_DEVICES || self.devices.contains_key(device_id)
    }

    fn bytes(&self) -> usize {
        let of_device = |(id, device): (&OwnedDeviceId, &RemoteDevice)| {
            let name = device.display_name.as_ref().map_or(0, String::len);
            id.as_str().len() + device.keys.json().get().len() + name + 40
        };
        self.devices.iter().map(of_device).sum()
    }
}

fn read<T: for<'a> Deserialize<'a>>(json: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| Error::Corrupt(format!("a device list: {error}")))
}

/// Whether these are the keys of that device, and not too large.
fn is_of(keys: &Raw<DeviceKeys>, user_id: &UserId, device_id: &DeviceId) -> bool {
    let is_short = keys.json().get().len() <= MAX_KEY_BYTES && device_id.as_str().len() <= MAX_ID_BYTES;
    is_short && keys.deserialize().is_ok_and(|keys| keys.user_id == user_id && keys.device_id == device_id)
}

/// Whether it is the user's key for that, and not too large.
pub(crate) fn is_key_of(key: &Raw<CrossSigningKey>, user_id: &UserId, usage: KeyUsage) -> bool {
    let is_short = key.json().get().len() <= MAX_KEY_BYTES;
    is_short && key.deserialize().is_ok_and(|key| key.user_id == user_id && key.usage.contains(&usage))
}

#[cfg(test)]
pub(crate) mod tests {
    use ruma::{UInt, owned_device_id, user_id};
    use serde_json::{Value, json};

    use super::*;

    fn raw<T>(json: &Value) -> Raw<T> {
        Raw::from_json(serde_json::value::to_raw_value(json).expect("it is JSON"))
    }

    pub(crate) fn keys(user_id: &UserId, device_id: &str, key: &str) -> Raw<DeviceKeys> {
        let ids = json!({ format!("ed25519:{device_id}"): key });
        raw(&json!({ "user_id": user_id, "device_id": device_id, "algorithms": [], "keys": ids, "signatures": {} }))
    }

    pub(crate) fn signing_key(user_id: &UserId, usage: &str) -> Raw<CrossSigningKey> {
        raw(&json!({ "user_id": user_id, "usage": [usage], "keys": { "ed25519:key": "key" }, "signatures": {} }))
    }

    fn uint(number: i64) -> UInt {
        UInt::try_from(number).expect("it is small")
    }

    pub(crate) fn answer(user_id: &UserId, stream_id: i64, listed: &[&str]) -> devices::Response {
        let mut answer = devices::Response::new(user_id.to_owned(), uint(stream_id));
        let device = |id: &&str| devices::UserDevice::new((*id).into(), keys(user_id, id, "first"));
        answer.devices = listed.iter().map(device).collect();
        answer.master_key = Some(signing_key(user_id, "master"));
        answer
    }

    /// A device has other keys; none: it is gone.
    pub(crate) fn update(
        user_id: &UserId,
        device_id: &str,
        ids: (&[i64], i64),
        key: Option<&str>,
    ) -> DeviceListUpdateContent {
        let mut update = DeviceListUpdateContent::new(user_id.to_owned(), device_id.into(), uint(ids.1));
        update.prev_id = ids.0.iter().copied().map(uint).collect();
        update.deleted = key.is_none().then_some(true);
        update.keys = key.map(|key| keys(user_id, device_id, key));
        update
    }

    fn listed(list: &RemoteList) -> Vec<&str> {
        list.devices.keys().map(|id| id.as_str()).collect()
    }

    fn fetched() -> RemoteList {
        let bob = user_id!("@bob:b.test");
        RemoteList::fetched(bob, answer(bob, 7, &["PHONE"])).expect("it is a list")
    }

    #[test]
    fn changes_are_followed_in_order() {
        let (bob, mut list) = (user_id!("@bob:b.test"), fetched());
        assert_eq!(list.change(&update(bob, "TABLET", (&[7], 8), Some("first"))), News::Next);
        assert_eq!(list.change(&update(bob, "PHONE", (&[8], 10), None)), News::Next);
        assert_eq!(listed(&list), ["TABLET"]);
        // Told again.
        assert_eq!(list.change(&update(bob, "PHONE", (&[8], 10), None)), News::Known);
        assert_eq!(list.change(&update(bob, "TABLET", (&[7], 8), Some("first"))), News::Known);
        // Nothing of this is taken.
        assert_eq!(list.change(&update(bob, "TABLET", (&[1], 2), Some("other"))), News::Unclear);
        assert_eq!(list.change(&update(bob, "TABLET", (&[11], 12), None)), News::Unclear, "11 is missing");
        assert_eq!(list.change(&update(bob, "TABLET", (&[], 12), None)), News::Unclear);
        let mut silent = update(bob, "TABLET", (&[10], 12), Some("other"));
        silent.keys = None;
        assert_eq!(list.change(&silent), News::Unclear);
        let mut forged = update(user_id!("@carol:b.test"), "TABLET", (&[10], 12), Some("other"));
        forged.user_id = bob.to_owned();
        assert_eq!(list.change(&forged), News::Unclear);
        assert_eq!((listed(&list), list.stream_id), (vec!["TABLET"], 10));
    }

    #[test]
    fn the_users_own_keys_are_followed() {
        let (bob, mut list) = (user_id!("@bob:b.test"), fetched());
        let mut update = SigningKeyUpdateContent::new(bob.to_owned());
        assert_eq!(list.change_signing_keys(&update), News::Unclear);
        update.self_signing_key = Some(signing_key(bob, "self_signing"));
        assert_eq!(list.change_signing_keys(&update), News::Next);
        assert!(list.self_signing_key.is_some() && list.master_key.is_some());
        update.self_signing_key = Some(signing_key(user_id!("@carol:b.test"), "self_signing"));
        assert_eq!(list.change_signing_keys(&update), News::Unclear);
    }

    #[test]
    fn of_an_answer_is_kept_what_it_may_say() {
        let bob = user_id!("@bob:b.test");
        let mut told = answer(bob, 7, &["PHONE", "TABLET"]);
        told.devices[0].keys = keys(bob, "TABLET", "first");
        told.self_signing_key = Some(signing_key(bob, "master"));
        let list = RemoteList::fetched(bob, told).expect("it is a list");
        assert_eq!(listed(&list), ["TABLET"]);
        assert!(list.self_signing_key.is_none());

        assert!(RemoteList::fetched(user_id!("@carol:b.test"), answer(bob, 7, &[])).is_err());
        let ids: Vec<String> = (0..=MAX_DEVICES).map(|at| format!("D{at}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert!(RemoteList::fetched(bob, answer(bob, 7, &ids)).is_err());
        assert!(RemoteList::fetched(bob, answer(bob, 7, &ids[1..])).is_ok());
        let mut told = answer(bob, 7, &[]);
        let large = keys(bob, "LARGE", &"x".repeat(MAX_KEY_BYTES));
        told.devices.push(devices::UserDevice::new(owned_device_id!("LARGE"), large));
        assert!(RemoteList::fetched(bob, told).is_err());
    }

    #[test]
    fn a_long_list_is_not_written_anew_for_each_change() {
        let (bob, mut list) = (user_id!("@bob:b.test"), fetched());
        let large = "x".repeat(MAX_CHANGED_BYTES - 1_000);
        assert_eq!(list.change(&update(bob, "LARGE", (&[7], 8), Some(&large))), News::Next);
        assert_eq!(list.change(&update(bob, "LARGE", (&[8], 9), Some(&"x".repeat(MAX_KEY_BYTES)))), News::Unclear);
        assert_eq!(list.change(&update(bob, "OTHER", (&[8], 9), Some(&large))), News::Next);
        assert_eq!(list.change(&update(bob, "LARGE", (&[9], 10), None)), News::Unclear);
    }
}
