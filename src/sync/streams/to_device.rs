//! Messages to the reader's device, told until the device has told that it has them; and what is left of its keys.

use std::{collections::BTreeMap, sync::Arc};

use model::{
    Position,
    peer::{Capability, Context},
};
use ruma::{CanonicalJsonObject, OwnedUserId, ServerName, TransactionId, UserId};
use store::{events::Transaction, to_device::ToDeviceMessage};
use tracing::debug;

use crate::{Answer, Sync, SyncError, answer::KeyCounts, now, request::Look, shown::quoted};

/// How many messages an answer holds.
const MESSAGES: usize = 100;
/// The largest request to send some, in messages.
const MAX_RECIPIENTS: usize = 10_000;
/// How large the messages may be that go to another server in one piece, unless it is a single one.
const EDU_BYTES: usize = 48 << 10;

impl Look<'_> {
    /// No query when nothing was sent to the user since the queue was last seen empty.
    pub(crate) async fn to_device(&self, answer: &mut Answer) -> Result<(), SyncError> {
        if self.device_id.is_empty() {
            return Ok(());
        }
        let (waiting, are_more) = self.waiting(self.since.map(|since| since.to_device()), MESSAGES).await?;
        if are_more {
            answer.to_device_upto = waiting.last().map(|message| message.position);
        }
        answer.to_device = waiting;
        Ok(())
    }

    /// The first `limit` messages that wait for the device, and whether more do. The device has those up to `told`, which wait no longer.
    pub(crate) async fn waiting(
        &self,
        told: Option<Position>,
        limit: usize,
    ) -> Result<(Vec<ToDeviceMessage>, bool), SyncError> {
        let limit = limit.clamp(1, MESSAGES);
        let shared = &self.sync.shared;
        let sent_at = {
            let inner = self.user.lock();
            let known = inner.devices.get(self.device_id).and_then(|device| device.nothing_waits_upto);
            if known.is_some_and(|known| known >= inner.to_device) {
                return Ok((Vec::new(), false));
            }
            inner.to_device
        };
        let mut waiting =
            shared.store.to_device().waiting(self.user_id(), self.device_id, Position(0), limit + 1).await?;
        // The device comes with a later token: it has what was told before.
        let has = told.filter(|told| waiting.first().is_some_and(|first| first.position <= *told));
        if let Some(has) = has {
            let mut write = store::Write::new();
            store::to_device::remove(&mut write, self.user_id(), self.device_id, has);
            shared.store.commit(write).await?;
            waiting = shared.store.to_device().waiting(self.user_id(), self.device_id, has, limit + 1).await?;
        }
        // What came after the moment of this answer waits all the same, and is told with the next one.
        let is_empty = waiting.is_empty();
        waiting.retain(|message| message.position <= self.upto);
        if is_empty {
            self.user.lock().devices.entry(self.device_id.to_owned()).or_default().nothing_waits_upto = Some(sent_at);
        }
        let are_more = waiting.len() > limit;
        waiting.truncate(limit);
        Ok((waiting, are_more))
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
    /// Leaves messages for devices, here or for their servers to come. The same transaction id sends nothing more.
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
        let here = self.leave_messages(&mut write, sender, kind, messages).await?;
        for (server, content) in for_other_servers(sender, kind, messages, shared.rooms.server_name())? {
            let shares = async |_| shared.rooms.shares_room(sender, server).await;
            let trust = shared.rooms.trust();
            let allowed = trust.allow_knowing(server, Capability::Devices, &Context::outbound(), shares).await;
            if let Err(error) = allowed {
                debug!(server.name = %server, %error, "kept messages for devices back");
                continue;
            }
            store::outbox::push_to_device(&mut write, server, &content);
        }
        let elsewhere = messages.iter().filter(|(user_id, _)| !self.is_local(user_id)).map(|(_, to)| to.len());
        if here + elsewhere.sum::<usize>() > MAX_RECIPIENTS {
            return Err(SyncError::TooLarge(format!("one request may send to {MAX_RECIPIENTS} devices")));
        }
        store::events::insert_transaction(&mut write, &transaction, "", now());
        match shared.store.commit(write).await {
            // The same request came twice at once, and the other one was first.
            Ok(_) | Err(store::Error::Duplicate) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes messages that a user of another server sends. The same message id sends nothing more.
    pub async fn receive_to_device(
        &self,
        sender: &UserId,
        message_id: &str,
        kind: &str,
        messages: &ToDeviceMessages,
    ) -> Result<(), SyncError> {
        let mut write = store::Write::new();
        store::inbox::insert_message(&mut write, sender, message_id, now());
        self.leave_messages(&mut write, sender, kind, messages).await?;
        match self.shared.store.commit(write).await {
            Ok(_) | Err(store::Error::Duplicate) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Leaves messages for devices of this server's users. Answers how many.
    async fn leave_messages(
        &self,
        write: &mut store::Write,
        sender: &UserId,
        kind: &str,
        messages: &ToDeviceMessages,
    ) -> Result<usize, SyncError> {
        let mut recipients = 0;
        for (user_id, devices) in messages.iter().filter(|(user_id, _)| self.is_local(user_id)) {
            let known = self.shared.store.to_device().devices_of(user_id).await?;
            for (device, content) in devices {
                // A message to a device that isn't there would wait for ever.
                for to in known.iter().filter(|known| device == "*" || *known == device) {
                    store::to_device::insert(write, user_id, to, sender, kind, content);
                    recipients += 1;
                }
            }
        }
        if recipients > MAX_RECIPIENTS {
            return Err(SyncError::TooLarge(format!("one request may send to {MAX_RECIPIENTS} devices")));
        }
        Ok(recipients)
    }

    pub(crate) fn is_local(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.shared.rooms.server_name()
    }
}

/// What goes to other servers, as contents of `m.direct_to_device`, none of them much larger than [`EDU_BYTES`].
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging>
fn for_other_servers<'a>(
    sender: &UserId,
    kind: &str,
    messages: &'a ToDeviceMessages,
    us: &ServerName,
) -> Result<Vec<(&'a ServerName, String)>, SyncError> {
    let mut by_server: BTreeMap<&ServerName, Vec<(&UserId, &str, &str)>> = BTreeMap::new();
    for (user_id, devices) in messages.iter().filter(|(user_id, _)| user_id.server_name() != us) {
        for (device, content) in devices {
            // Servers sign what they send in canonical form, and some JSON has none.
            if serde_json::from_str::<CanonicalJsonObject>(content).is_err() {
                return Err(SyncError::BadBody(format!("messages.{user_id}.{device}: it has no canonical form")));
            }
            by_server.entry(user_id.server_name()).or_default().push((user_id, device, content));
        }
    }
    let mut contents = Vec::new();
    for (server, messages) in by_server {
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|(_, _, content)| {
                let is_first = bytes == 0;
                bytes += content.len();
                is_first || bytes <= EDU_BYTES
            });
            let (some, others) = rest.split_at(fits.count());
            rest = others;
            contents.push((server, direct_to_device(sender, kind, some)));
        }
    }
    Ok(contents)
}

fn direct_to_device(sender: &UserId, kind: &str, messages: &[(&UserId, &str, &str)]) -> String {
    let mut by_user: BTreeMap<&UserId, Vec<String>> = BTreeMap::new();
    for (user_id, device, content) in messages {
        by_user.entry(user_id).or_default().push(format!("{}:{content}", quoted(device)));
    }
    let users: Vec<String> = by_user
        .iter()
        .map(|(user_id, devices)| format!("{}:{{{}}}", quoted(user_id.as_str()), devices.join(",")))
        .collect();
    format!(
        "{{\"sender\":{},\"type\":{},\"message_id\":{},\"messages\":{{{}}}}}",
        quoted(sender.as_str()),
        quoted(kind),
        quoted(TransactionId::new().as_str()),
        users.join(",")
    )
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};
    use serde_json::Value;

    use super::*;

    #[test]
    fn messages_go_to_each_server_in_pieces_of_bounded_size() {
        let large = format!("{{\"text\":\"{}\"}}", "x".repeat(EDU_BYTES / 2));
        let mut messages = ToDeviceMessages::new();
        for (user_id, devices) in [("@bob:b.test", 3), ("@carol:c.test", 1), ("@alice:a.test", 1)] {
            let of_user = messages.entry(user_id.try_into().expect("it is one")).or_default();
            of_user.extend((0..devices).map(|at| (format!("D{at}"), large.clone())));
        }
        let alice = user_id!("@alice:a.test");
        let sent = for_other_servers(alice, "m.test", &messages, server_name!("a.test")).expect("it is canonical");
        let servers: Vec<_> = sent.iter().map(|(server, _)| server.as_str()).collect();
        assert_eq!(servers, ["b.test", "b.test", "b.test", "c.test"]);
        let first: Value = serde_json::from_str(&sent[0].1).expect("it is JSON");
        let last: Value = serde_json::from_str(&sent[2].1).expect("it is JSON");
        assert_eq!((&first["sender"], &first["type"]), (&alice.as_str().into(), &"m.test".into()));
        assert!(first["messages"]["@bob:b.test"]["D0"]["text"].is_string());
        assert!(last["messages"]["@bob:b.test"]["D2"]["text"].is_string());
        assert_ne!(first["message_id"], last["message_id"]);
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        let devices = [("D".to_owned(), r#"{"n":1.5}"#.to_owned())].into();
        let messages = [(user_id!("@bob:b.test").to_owned(), devices)].into();
        let sent = for_other_servers(user_id!("@alice:a.test"), "m.test", &messages, server_name!("a.test"));
        assert!(matches!(sent, Err(SyncError::BadBody(_))));
    }
}
