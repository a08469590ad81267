//! Messages to the reader's device, told until the device has told that it has them; and what is left of its keys.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedUserId, UserId};
use store::events::Transaction;

use crate::{Answer, Sync, SyncError, answer::KeyCounts, now, request::Look};

/// How many messages an answer holds.
const MESSAGES: usize = 100;
/// The largest request to send some, in messages.
const MAX_RECIPIENTS: usize = 10_000;

impl Look<'_> {
    /// No query when nothing was sent to the user since the queue was last seen empty.
    pub(crate) async fn to_device(&self, answer: &mut Answer) -> Result<(), SyncError> {
        if self.device_id.is_empty() {
            return Ok(());
        }
        let shared = &self.sync.shared;
        let told = self.since.map(|since| since.to_device());
        let sent_at = {
            let inner = self.user.lock();
            let known = inner.devices.get(self.device_id).and_then(|device| device.nothing_waits_upto);
            if known.is_some_and(|known| known >= inner.to_device) {
                return Ok(());
            }
            inner.to_device
        };
        let mut waiting =
            shared.store.to_device().waiting(self.user_id(), self.device_id, model::Position(0), MESSAGES + 1).await?;
        // The device comes with a later token: it has what was told before.
        let has = told.filter(|told| waiting.first().is_some_and(|first| first.position <= *told));
        if let Some(has) = has {
            let mut write = store::Write::new();
            store::to_device::remove(&mut write, self.user_id(), self.device_id, has);
            shared.store.commit(write).await?;
            waiting = shared.store.to_device().waiting(self.user_id(), self.device_id, has, MESSAGES + 1).await?;
        }
        waiting.retain(|message| message.position <= self.upto);
        if waiting.is_empty() {
            self.user.lock().devices.entry(self.device_id.to_owned()).or_default().nothing_waits_upto = Some(sent_at);
        }
        if waiting.len() > MESSAGES {
            waiting.truncate(MESSAGES);
            answer.to_device_upto = waiting.last().map(|message| message.position);
        }
        answer.to_device = waiting;
        Ok(())
    }

    /// How many keys the device has left. In every answer: the client takes a missing count for none.
    pub(crate) async fn keys(&self) -> Result<Option<Arc<KeyCounts>>, SyncError> {
        if self.device_id.is_empty() {
            return Ok(None);
        }
        let (known, epoch) = {
            let inner = self.user.lock();
            (inner.devices.get(self.device_id).and_then(|device| device.keys.clone()), inner.keys_epoch)
        };
        if let Some(known) = known {
            return Ok(Some(known));
        }
        let reads = self.sync.shared.store.sync();
        let keys = Arc::new(KeyCounts {
            one_time: reads.one_time_key_counts(self.user_id(), self.device_id).await?,
            unused_fallback: reads.unused_fallback_keys(self.user_id(), self.device_id).await?,
        });
        let mut inner = self.user.lock();
        if inner.keys_epoch == epoch {
            inner.devices.entry(self.device_id.to_owned()).or_default().keys = Some(keys.clone());
        }
        Ok(Some(keys))
    }
}

/// Messages by user and device; a device of `*` stands for all of them.
pub type ToDeviceMessages = BTreeMap<OwnedUserId, BTreeMap<String, String>>;

impl Sync {
    /// Leaves messages for devices of this server's users. The same transaction id sends nothing more.
    pub async fn send_to_devices(
        &self,
        sender: &UserId,
        device_id: &str,
        transaction_id: &str,
        kind: &str,
        messages: &ToDeviceMessages,
    ) -> Result<(), SyncError> {
        let shared = &self.shared;
        let transaction =
            Transaction { user_id: sender, device_id, scope: &format!("sendToDevice/{kind}"), transaction_id };
        if shared.store.events().transaction(&transaction).await?.is_some() {
            return Ok(());
        }
        let mut write = store::Write::new();
        let mut recipients = 0;
        for (user_id, devices) in messages.iter().filter(|(user_id, _)| self.is_local(user_id)) {
            let known = shared.store.to_device().devices_of(user_id).await?;
            for (device, content) in devices {
                // A message to a device that isn't there would wait for ever.
                for to in known.iter().filter(|known| device == "*" || *known == device) {
                    store::to_device::insert(&mut write, user_id, to, sender, kind, content);
                    recipients += 1;
                }
            }
        }
        if recipients > MAX_RECIPIENTS {
            return Err(SyncError::TooLarge(format!("one request may send to {MAX_RECIPIENTS} devices")));
        }
        store::events::insert_transaction(&mut write, &transaction, "", now());
        match shared.store.commit(write).await {
            // The same request came twice at once, and the other one was first.
            Ok(_) | Err(store::Error::Duplicate) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn is_local(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.shared.rooms.server_name()
    }
}
