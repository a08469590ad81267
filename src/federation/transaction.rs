//! What is sent at once.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use model::{Millis, Position, RoomNid};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedTransactionId, TransactionId, UInt,
    api::federation::transactions::{edu::Edu, send_transaction_message::v1::Request},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};
use store::outbox::OwedPdu;

/// The most events in one transaction. Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>
pub(crate) const MAX_PDUS: usize = 50;
/// The most EDUs in one transaction.
pub(crate) const MAX_EDUS: usize = 100;
/// EDUs of people typing that are older than this are not repeated.
const TYPING_LASTS: Millis = 60_000;

/// A transaction as it is kept when nobody knows whether it arrived. The events themselves are where they were.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) id: OwnedTransactionId,
    pub(crate) made_at: Millis,
    /// Which events, by their places in the queue.
    pub(crate) pdus: Vec<i64>,
    /// What has arrived when it has.
    pub(crate) covers: Covers,
    pub(crate) edus: Vec<Box<RawValue>>,
}

/// Which rows of the queue a transaction answers for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Covers {
    /// Every event up to here.
    pub(crate) pdus: i64,
    /// Every event of these rooms up to there.
    pub(crate) rooms: Vec<(i64, i64)>,
    /// Every message to devices up to here.
    pub(crate) to_device: i64,
    /// All keys that changed up to here.
    pub(crate) keys: i64,
}

/// A transaction with its events.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) kept: Kept,
    pub(crate) pdus: Vec<OwedPdu>,
}

impl Covers {
    /// Takes what is covered out of what `destination` is owed.
    pub(crate) fn remove(&self, write: &mut store::Write, destination: &ruma::ServerName) {
        if self.pdus > 0 {
            store::outbox::delivered(write, destination, Position(self.pdus));
        }
        for (room, upto) in &self.rooms {
            store::outbox::delivered_room(write, destination, RoomNid(*room), Position(*upto));
        }
        if self.to_device > 0 {
            store::outbox::delivered_to_device(write, destination, Position(self.to_device));
        }
        if self.keys > 0 {
            store::outbox::delivered_keys(write, destination, Position(self.keys));
        }
    }

    /// Whether it answers for no row at all.
    pub(crate) fn is_nothing(&self) -> bool {
        self.pdus == 0 && self.rooms.is_empty() && self.to_device == 0 && self.keys == 0
    }
}

impl Transaction {
    /// The same events and EDUs make the same id, before and after a restart.
    pub(crate) fn new(pdus: Vec<OwedPdu>, edus: Vec<Box<RawValue>>, covers: Covers, now: Millis) -> Self {
        let id = if covers.is_nothing() { TransactionId::new() } else { id_of(&pdus, &edus) };
        let positions = pdus.iter().map(|pdu| pdu.position.0).collect();
        Self { kept: Kept { id, made_at: now, pdus: positions, covers, edus }, pdus }
    }

    /// Takes up a transaction that was kept. `pdus`: those of its events that are owed still.
    pub(crate) fn again(mut kept: Kept, pdus: Vec<OwedPdu>, now: Millis) -> Self {
        if now - kept.made_at > TYPING_LASTS {
            kept.edus.retain(|edu| !is_typing(edu));
        }
        Self { kept, pdus }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pdus.is_empty() && self.kept.edus.is_empty()
    }

    pub(crate) fn request(&self, origin: OwnedServerName) -> Request {
        let made_at = UInt::try_from(self.kept.made_at).unwrap_or_default();
        let mut request = Request::new(self.kept.id.clone(), origin, MilliSecondsSinceUnixEpoch(made_at));
        request.pdus = self.pdus.iter().map(|pdu| federation_format(&pdu.json)).collect();
        request.edus = self.kept.edus.iter().cloned().map(Raw::from_json).collect();
        request
    }
}

/// An EDU as it is sent and kept.
pub(crate) fn raw_edu(edu: &Edu) -> Option<Box<RawValue>> {
    to_raw_value(edu).ok()
}

fn id_of(pdus: &[OwedPdu], edus: &[Box<RawValue>]) -> OwnedTransactionId {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    pdus.iter().for_each(|pdu| add(pdu.event_id.as_str()));
    add("");
    edus.iter().for_each(|edu| add(edu.get()));
    URL_SAFE_NO_PAD.encode(hash.finalize()).into()
}

/// The event as it goes to other servers: what this server notes beside it stays here.
fn federation_format(json: &str) -> Box<RawValue> {
    let whole = || RawValue::from_string(json.to_owned()).expect("a stored event is JSON");
    if !json.contains("\"unsigned\"") {
        return whole();
    }
    let Ok(mut object) = serde_json::from_str::<std::collections::BTreeMap<&str, &RawValue>>(json) else {
        return whole();
    };
    object.remove("unsigned");
    to_raw_value(&object).unwrap_or_else(|_| whole())
}

fn is_typing(edu: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        edu_type: String,
    }
    serde_json::from_str::<Kind>(edu.get()).is_ok_and(|kind| kind.edu_type == "m.typing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_server_notes_beside_an_event_stays_here() {
        let sent = federation_format(r#"{"content":{"unsigned":1},"type":"m.test","unsigned":{"age":1}}"#);
        assert_eq!(sent.get(), r#"{"content":{"unsigned":1},"type":"m.test"}"#);
    }

    #[test]
    fn a_kept_transaction_comes_back_as_it_was() {
        let edus = vec![RawValue::from_string(r#"{"edu_type":"m.typing","content":{}}"#.into()).expect("it is JSON")];
        let covers = Covers { pdus: 3, rooms: vec![(1, 2)], ..Covers::default() };
        let transaction = Transaction::new(Vec::new(), edus, covers, 5);
        let json = serde_json::to_string(&transaction.kept).expect("it is JSON");
        let kept: Kept = serde_json::from_str(&json).expect("it was written so");
        assert_eq!((&kept.id, kept.edus[0].get()), (&transaction.kept.id, transaction.kept.edus[0].get()));
        assert!(Transaction::again(kept.clone(), Vec::new(), 5 + TYPING_LASTS).kept.edus.len() == 1);
        assert!(Transaction::again(kept, Vec::new(), 6 + TYPING_LASTS).is_empty());
    }
}
