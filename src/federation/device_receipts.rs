//! That something has come onto a device: an EDU of Comity's own, which other servers pass over.
//!
//! `{"edu_type": "org.comity.delivered", "content": {"!room": {"@bob:b.example": {"event_id": "$event", "ts": 1}}}}`: a device of
//! Bob's has everything that the receiving server's people have said in the room, up to this event of theirs.

use std::collections::BTreeMap;

use model::Millis;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, api::federation::transactions::edu::Edu};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What the EDU is called.
const KIND: &str = "org.comity.delivered";

/// How far what was said in rooms has come onto people's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct DeviceReceipts(BTreeMap<OwnedRoomId, BTreeMap<OwnedUserId, DeviceReceipt>>);

/// How far in one room, onto one user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceReceipt {
    /// The last event of the receiving server's people.
    pub(crate) event_id: OwnedEventId,
    /// When, milliseconds since 1970.
    pub(crate) ts: Millis,
}

impl DeviceReceipts {
    pub(crate) fn add(&mut self, room_id: OwnedRoomId, user_id: OwnedUserId, event_id: OwnedEventId, at: Millis) {
        self.0.entry(room_id).or_default().insert(user_id, DeviceReceipt { event_id, ts: at });
    }

    /// As it is sent.
    pub(crate) fn into_edu(self) -> Option<Edu> {
        serde_json::from_value(json!({ "edu_type": KIND, "content": self })).ok()
    }

    /// Whether an EDU, which is none of the specification's, is one of these.
    pub(crate) fn is_in(edu: &Edu) -> bool {
        serde_json::to_value(edu).is_ok_and(|json| json["edu_type"] == KIND)
    }

    /// What an EDU says, if it is one of these and well-formed.
    pub(crate) fn read(edu: &Edu) -> Option<Self> {
        #[derive(Deserialize)]
        struct Whole {
            content: DeviceReceipts,
        }
        let whole: Whole = serde_json::from_value(serde_json::to_value(edu).ok()?).ok()?;
        Some(whole.content)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    pub(crate) fn into_each(self) -> impl Iterator<Item = (OwnedRoomId, OwnedUserId, DeviceReceipt)> {
        self.0.into_iter().flat_map(|(room_id, users)| {
            users.into_iter().map(move |(user_id, receipt)| (room_id.clone(), user_id, receipt))
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_room_id, owned_user_id};

    use super::*;

    #[test]
    fn what_is_sent_is_what_is_read() {
        let mut receipts = DeviceReceipts::default();
        receipts.add(owned_room_id!("!r:a.test"), owned_user_id!("@bob:b.test"), owned_event_id!("$one"), 7);
        let edu = receipts.clone().into_edu().expect("it is an EDU");
        let json = serde_json::to_value(&edu).expect("it is JSON");
        let content = json!({ "!r:a.test": { "@bob:b.test": { "event_id": "$one", "ts": 7 } } });
        assert_eq!(json, json!({ "edu_type": "org.comity.delivered", "content": content }));
        assert!(DeviceReceipts::is_in(&edu));
        assert_eq!(DeviceReceipts::read(&edu), Some(receipts));
    }
}
