//! Who has read how far: public receipts, the reader's private ones, those of threads.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receipts>

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use model::{Millis, Position, Receipt, RoomNid, TimelineEvent};
use ruma::{
    EventId, OwnedEventId, OwnedUserId, UserId,
    events::receipt::{ReceiptThread, ReceiptType},
};

use crate::{
    Shown, Sync, SyncError,
    cells::Membership,
    filter::{allows_room, allows_type},
    now,
    request::Look,
    shown::quoted,
};

impl Look<'_> {
    /// The receipts of a room after `since` as one event, if there are any. No query when memory reaches back.
    pub(crate) async fn receipts(
        &self,
        nid: RoomNid,
        membership: &Membership,
        since: Position,
    ) -> Result<Option<String>, SyncError> {
        let wanted = &self.filter.0.room.ephemeral;
        if !allows_type(wanted, "m.receipt") || !allows_room(wanted, &membership.room_id) {
            return Ok(None);
        }
        let receipts = self.receipts_since(nid, membership, since).await?;
        Ok((!receipts.is_empty()).then(|| render(&receipts)))
    }

    /// The receipts of a room after `since`, latest first. No query when memory reaches back.
    pub(crate) async fn receipts_since(
        &self,
        nid: RoomNid,
        membership: &Membership,
        since: Position,
    ) -> Result<Vec<Arc<Receipt>>, SyncError> {
        let recent: Option<Vec<Arc<Receipt>>> = {
            let room = membership.room.lock();
            room.receipts.covers(since).then(|| {
                let receipts = room.receipts.backward(since, self.upto);
                receipts.filter(|(_, receipt)| self.hears_of(receipt)).map(|(_, receipt)| receipt.clone()).collect()
            })
        };
        Ok(match recent {
            Some(recent) => recent,
            None => {
                let mut stored = self.sync.shared.store.receipts().since(nid, since, self.user_id()).await?;
                stored.retain(|(position, receipt)| *position <= self.upto && self.hears_of(receipt));
                stored.into_iter().rev().map(|(_, receipt)| receipt).collect()
            }
        })
    }

    pub(crate) fn hears_of(&self, receipt: &Receipt) -> bool {
        receipt.user_id == *self.user_id()
            || (receipt.kind != ReceiptType::ReadPrivate && !self.ignored.contains(&receipt.user_id))
    }
}

/// `m.receipt` of these receipts, latest first: of one user, type and thread only the latest counts.
pub(crate) fn render(receipts: &[Arc<Receipt>]) -> String {
    let mut by_event: BTreeMap<&EventId, BTreeMap<&str, Vec<&Receipt>>> = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    for receipt in receipts {
        if seen.insert((&receipt.user_id, receipt.kind.as_str(), receipt.thread.as_str())) {
            by_event.entry(&receipt.event_id).or_default().entry(receipt.kind.as_str()).or_default().push(receipt);
        }
    }
    let mut event = String::from("{\"type\":\"m.receipt\",\"content\":{");
    for (at, (event_id, kinds)) in by_event.iter().enumerate() {
        let _ = write!(event, "{}{}:{{", comma(at), quoted(event_id.as_str()));
        for (at, (kind, receipts)) in kinds.iter().enumerate() {
            let _ = write!(event, "{}{}:{{", comma(at), quoted(kind));
            let mut users = std::collections::HashSet::new();
            let latest = receipts.iter().filter(|receipt| users.insert(&receipt.user_id));
            for (at, receipt) in latest.enumerate() {
                let _ = write!(event, "{}{}:{{\"ts\":{}", comma(at), quoted(receipt.user_id.as_str()), receipt.at);
                if let Some(thread) = receipt.thread.as_str() {
                    let _ = write!(event, ",\"thread_id\":{}", quoted(thread));
                }
                event.push('}');
            }
            event.push('}');
        }
        event.push('}');
    }
    event.push_str("}}");
    event
}

fn comma(at: usize) -> &'static str {
    if at > 0 { "," } else { "" }
}

/// What the user has read.
#[derive(Clone, Debug)]
pub struct Read {
    /// Publicly or privately; `None`: `m.fully_read`, which is account data.
    pub kind: Option<ReceiptType>,
    /// Of which thread.
    pub thread: ReceiptThread,
    /// Up to which event.
    pub event_id: OwnedEventId,
}

impl Sync {
    /// Notes how far the user has read in the room, all in one write.
    pub async fn set_read(&self, room: &rooms::LiveRoom, user_id: &UserId, read: &[Read]) -> Result<(), SyncError> {
        let shared = &self.shared;
        let mut write = store::Write::new();
        for read in read {
            let event = shared.store.events().find(&read.event_id).await?;
            let event = event.filter(|event| event.room_nid == room.nid);
            let Some(kind) = &read.kind else {
                // A marker may stand at an event that this server doesn't have.
                let content = format!("{{\"event_id\":{}}}", quoted(read.event_id.as_str()));
                store::account_data::put(&mut write, user_id, Some(&room.room_id), "m.fully_read", &content);
                continue;
            };
            if !matches!(kind, ReceiptType::Read | ReceiptType::ReadPrivate) {
                return Err(SyncError::Invalid(format!("receiptType: {kind} is not a type of receipt")));
            }
            if !matches!(read.thread, ReceiptThread::Unthreaded | ReceiptThread::Main | ReceiptThread::Thread(_)) {
                return Err(SyncError::Invalid("thread_id: neither `main` nor an event id".into()));
            }
            let event = event
                .ok_or_else(|| SyncError::NotFound(format!("there is no event {} in this room", read.event_id)))?;
            let receipt = Receipt {
                user_id: user_id.to_owned(),
                kind: kind.clone(),
                thread: read.thread.clone(),
                event_id: read.event_id.clone(),
                event_position: event.position,
                at: now(),
            };
            if self.is_further(room.nid, &receipt).await? {
                store::receipts::put(&mut write, room.nid, &room.room_id, &Arc::new(receipt));
            }
        }
        if !write.is_empty() {
            shared.store.commit(write).await?;
        }
        Ok(())
    }

    /// Notes how far a user of another server has read in the room, as that server says. False: the event isn't known here.
    pub async fn receive_receipt(
        &self,
        room: &rooms::LiveRoom,
        user_id: &UserId,
        thread: ReceiptThread,
        event_id: &EventId,
        at: Millis,
    ) -> Result<bool, SyncError> {
        let event = self.shared.store.events().find(event_id).await?;
        let Some(event) = event.filter(|event| event.room_nid == room.nid && event.position.0 != 0) else {
            return Ok(false);
        };
        let receipt = Receipt {
            user_id: user_id.to_owned(),
            kind: ReceiptType::Read,
            thread,
            event_id: event_id.to_owned(),
            event_position: event.position,
            at,
        };
        if self.is_further(room.nid, &receipt).await? {
            let mut write = store::Write::new();
            store::receipts::put(&mut write, room.nid, &room.room_id, &Arc::new(receipt));
            self.shared.store.commit(write).await?;
        }
        Ok(true)
    }

    /// Who has publicly read the room as far as `event`, or its thread if it is part of one: others than its sender, `limit`
    /// at most, by user id.
    pub async fn readers_of(&self, event: &TimelineEvent, limit: usize) -> Result<Vec<OwnedUserId>, SyncError> {
        let root = Shown::new(event.clone()).thread();
        let thread = root.as_ref().map_or("main", |root| root.as_str());
        // The sender may be among them.
        let most = limit.saturating_add(1) as i64;
        let receipts = self.shared.store.receipts();
        let mut readers = receipts.readers(event.room_nid, event.position, ["", thread], most).await?;
        readers.retain(|reader| *reader != event.pdu.sender);
        readers.truncate(limit);
        Ok(readers)
    }

    /// A receipt that would go back is not worth telling.
    async fn is_further(&self, room: RoomNid, receipt: &Receipt) -> Result<bool, SyncError> {
        let known = self.shared.store.receipts().of(room, &receipt.user_id).await?;
        Ok(!known.iter().any(|(_, known)| {
            known.kind == receipt.kind
                && known.thread == receipt.thread
                && known.event_position >= receipt.event_position
        }))
    }
}
