//! What counts only while it is fresh, for one destination: of each thing the last is kept, and not too many things.

use std::collections::{BTreeMap, HashMap};

use metrics::counter;
use model::Millis;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, UInt,
    api::federation::transactions::edu::{
        Edu, PresenceContent, PresenceUpdate, ReceiptContent, ReceiptData, ReceiptMap, TypingContent,
    },
    events::receipt::{Receipt, ReceiptThread},
    presence::PresenceState,
};
use store::presence::PresenceRow;

use crate::device_receipts::DeviceReceipts;

/// The most things of each kind that wait for one destination.
const MOST: usize = 2_000;
/// The most people in one `m.presence`, and the most receipts in one `m.receipt`.
const AT_ONCE: usize = 100;
/// Who types, or typed, so long ago that nobody need know.
const TYPING_LASTS: Millis = 30_000;
/// Who did something within this time is "currently active".
const ACTIVE_WITHIN: Millis = 60_000;

/// What waits for one destination.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    typing: HashMap<(OwnedRoomId, OwnedUserId), (bool, Millis)>,
    receipts: BTreeMap<(OwnedRoomId, OwnedUserId, Option<String>), Read>,
    presence: HashMap<OwnedUserId, Present>,
    arrivals: BTreeMap<(OwnedRoomId, OwnedUserId), Read>,
}

/// How far somebody has read, or has what was said on a device.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) event_id: OwnedEventId,
    pub(crate) at: Millis,
}

/// How somebody is.
#[derive(Clone, Debug)]
pub(crate) struct Present {
    pub(crate) state: PresenceState,
    pub(crate) status_msg: Option<String>,
    pub(crate) last_active_at: Millis,
}

impl From<PresenceRow> for Present {
    fn from(row: PresenceRow) -> Self {
        Self { state: row.state, status_msg: row.status_msg, last_active_at: row.last_active_at }
    }
}

impl Fresh {
    pub(crate) fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.receipts.is_empty() && self.presence.is_empty() && self.arrivals.is_empty()
    }

    /// What the server's people said, up to an event of theirs, has come onto a device.
    pub(crate) fn arrival(&mut self, room_id: OwnedRoomId, user_id: OwnedUserId, upto: Read) {
        let key = (room_id, user_id);
        if self.arrivals.len() < MOST || self.arrivals.contains_key(&key) {
            self.arrivals.insert(key, upto);
        } else {
            drop_one("arrival");
        }
    }

    pub(crate) fn typing(&mut self, room_id: OwnedRoomId, user_id: OwnedUserId, is_typing: bool, now: Millis) {
        put(&mut self.typing, (room_id, user_id), (is_typing, now), "typing");
    }

    pub(crate) fn receipt(&mut self, room_id: OwnedRoomId, user_id: OwnedUserId, thread: &ReceiptThread, read: Read) {
        let key = (room_id, user_id, thread.as_str().map(ToOwned::to_owned));
        if self.receipts.len() < MOST || self.receipts.contains_key(&key) {
            self.receipts.insert(key, read);
        } else {
            drop_one("receipt");
        }
    }

    pub(crate) fn presence(&mut self, user_id: OwnedUserId, present: Present) {
        put(&mut self.presence, user_id, present, "presence");
    }

    /// Who types is not worth keeping for a server that is away.
    pub(crate) fn forget_typing(&mut self) {
        self.typing = HashMap::new();
    }

    /// Takes as much as `limit` EDUs hold.
    pub(crate) fn take(&mut self, limit: usize, now: Millis) -> (Fresh, Vec<Edu>) {
        let mut taken = Fresh::default();
        let mut edus = Vec::new();
        self.take_receipts(limit, &mut taken, &mut edus);
        self.take_presence(limit, now, &mut taken, &mut edus);
        self.take_arrivals(limit, &mut taken, &mut edus);
        self.typing.retain(|_, (_, at)| now - *at < TYPING_LASTS);
        let some: Vec<_> = self.typing.keys().take(limit.saturating_sub(edus.len())).cloned().collect();
        for key in some {
            let Some((is_typing, at)) = self.typing.remove(&key) else { continue };
            edus.push(Edu::Typing(TypingContent::new(key.0.clone(), key.1.clone(), is_typing)));
            taken.typing.insert(key, (is_typing, at));
        }
        (taken, edus)
    }

    /// Puts back what did not arrive, but where something newer has come.
    pub(crate) fn restore(&mut self, taken: Fresh) {
        for (key, read) in taken.receipts {
            self.receipts.entry(key).or_insert(read);
        }
        for (key, upto) in taken.arrivals {
            self.arrivals.entry(key).or_insert(upto);
        }
        for (user_id, present) in taken.presence {
            self.presence.entry(user_id).or_insert(present);
        }
    }

    /// One `m.receipt` says one thing of a user in a room: those of threads need others.
    fn take_receipts(&mut self, limit: usize, taken: &mut Fresh, edus: &mut Vec<Edu>) {
        while edus.len() < limit && !self.receipts.is_empty() {
            let mut rooms: BTreeMap<OwnedRoomId, ReceiptMap> = BTreeMap::new();
            let mut left = BTreeMap::new();
            let mut count = 0;
            for (key, read) in std::mem::take(&mut self.receipts) {
                let (room_id, user_id, thread) = &key;
                let is_said = rooms.get(room_id).is_some_and(|map| map.read.contains_key(user_id));
                if count == AT_ONCE || is_said {
                    left.insert(key, read);
                    continue;
                }
                let at = UInt::try_from(read.at).unwrap_or_default();
                let mut receipt = Receipt::new(MilliSecondsSinceUnixEpoch(at));
                receipt.thread = ReceiptThread::try_from(thread.clone()).unwrap_or_default();
                let map = rooms.entry(room_id.clone()).or_insert_with(|| ReceiptMap::new(BTreeMap::new()));
                map.read.insert(user_id.clone(), ReceiptData::new(receipt, vec![read.event_id.clone()]));
                taken.receipts.insert(key, read);
                count += 1;
            }
            self.receipts = left;
            edus.push(Edu::Receipt(ReceiptContent::new(rooms)));
        }
    }

    fn take_arrivals(&mut self, limit: usize, taken: &mut Fresh, edus: &mut Vec<Edu>) {
        while edus.len() < limit && !self.arrivals.is_empty() {
            let mut receipts = DeviceReceipts::default();
            for _ in 0..AT_ONCE {
                let Some(((room_id, user_id), upto)) = self.arrivals.pop_first() else { break };
                receipts.add(room_id.clone(), user_id.clone(), upto.event_id.clone(), upto.at);
                taken.arrivals.insert((room_id, user_id), upto);
            }
            edus.extend(receipts.into_edu());
        }
    }

    fn take_presence(&mut self, limit: usize, now: Millis, taken: &mut Fresh, edus: &mut Vec<Edu>) {
        while edus.len() < limit && !self.presence.is_empty() {
            let some: Vec<OwnedUserId> = self.presence.keys().take(AT_ONCE).cloned().collect();
            let mut updates = Vec::with_capacity(some.len());
            for user_id in some {
                let Some(present) = self.presence.remove(&user_id) else { continue };
                let ago = UInt::try_from((now - present.last_active_at).max(0)).unwrap_or_default();
                let mut update = PresenceUpdate::new(user_id.clone(), present.state.clone(), ago);
                update.status_msg = present.status_msg.clone();
                let is_active = now - present.last_active_at < ACTIVE_WITHIN;
                update.currently_active = is_active && present.state == PresenceState::Online;
                updates.push(update);
                taken.presence.insert(user_id, present);
            }
            edus.push(Edu::Presence(PresenceContent::new(updates)));
        }
    }
}

fn put<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, key: K, value: V, kind: &'static str) {
    if map.len() < MOST || map.contains_key(&key) {
        map.insert(key, value);
    } else {
        drop_one(kind);
    }
}

pub(crate) fn drop_one(kind: &'static str) {
    counter!("comity_federation_edus_dropped_total", "kind" => kind).increment(1);
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_room_id, owned_user_id};

    use super::*;

    #[test]
    fn the_last_of_each_is_sent() {
        let mut fresh = Fresh::default();
        let (room, alice) = (owned_room_id!("!r:a.test"), owned_user_id!("@alice:a.test"));
        for at in 1..=3 {
            fresh.typing(room.clone(), alice.clone(), at % 2 == 0, at);
            let state = if at == 3 { PresenceState::Unavailable } else { PresenceState::Online };
            fresh.presence(alice.clone(), Present { state, status_msg: None, last_active_at: at });
        }
        for (thread, event_id, at) in [
            (ReceiptThread::Main, owned_event_id!("$one"), 1),
            (ReceiptThread::Main, owned_event_id!("$two"), 2),
            (ReceiptThread::Unthreaded, owned_event_id!("$three"), 3),
        ] {
            fresh.receipt(room.clone(), alice.clone(), &thread, Read { event_id, at });
        }
        let (taken, edus) = fresh.take(100, 10);
        let json: Vec<serde_json::Value> =
            edus.iter().map(|edu| serde_json::to_value(edu).expect("it is JSON")).collect();
        let read = |at: usize| json[at]["content"]["!r:a.test"]["m.read"]["@alice:a.test"].clone();
        assert_eq!(read(0)["event_ids"][0], "$three");
        assert_eq!((&read(1)["event_ids"][0], &read(1)["data"]["thread_id"]), (&"$two".into(), &"main".into()));
        assert_eq!(json[2]["content"]["push"][0]["presence"], "unavailable");
        assert_eq!(json[3]["content"]["typing"], false);
        assert!(fresh.is_empty());

        fresh.receipt(room.clone(), alice, &ReceiptThread::Main, Read { event_id: owned_event_id!("$four"), at: 4 });
        fresh.restore(taken);
        let (_, edus) = fresh.take(1, 10);
        assert_eq!(edus.len(), 1, "no more than asked for");
        assert_eq!((fresh.receipts.len(), fresh.typing.len()), (1, 0), "what is left waits, but nobody's typing");
    }

    #[test]
    fn a_server_that_takes_nothing_fills_no_memory() {
        let mut fresh = Fresh::default();
        for at in 0..2 * MOST {
            let user_id = OwnedUserId::try_from(format!("@u{at}:a.test")).expect("it is one");
            fresh.typing(owned_room_id!("!r:a.test"), user_id.clone(), true, 0);
            fresh.presence(user_id, Present { state: PresenceState::Online, status_msg: None, last_active_at: 0 });
        }
        assert_eq!((fresh.typing.len(), fresh.presence.len()), (MOST, MOST));
    }
}
