//! The one door by which events enter a room.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use model::{Draft, EventNid, Pdu, TimelineEvent};
use ruma::{CanonicalJsonObject, OwnedDeviceId, OwnedUserId};
use store::{Pending, Write, events};

use crate::{
    RoomError, Rooms, auth,
    extension::{Extended, Extension},
    judge::{Judged, Verdict},
    live::{Head, SharedRoom},
    memory::Flight,
    now,
};

/// How often an append is tried when somebody else, on another node, is faster.
const ATTEMPTS: u32 = 20;
/// The longest wait between two: a random part of it, so that nodes that write to one room don't get in each other's way again.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What a client calls one of its requests, so that repeating it does nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// Who sends.
    pub user_id: OwnedUserId,
    /// From which device.
    pub device_id: OwnedDeviceId,
    /// Which endpoint, and which room.
    pub scope: String,
    /// As the client chose it.
    pub transaction_id: String,
}

impl Transaction {
    pub(crate) fn as_stored(&self) -> events::Transaction<'_> {
        events::Transaction {
            user_id: &self.user_id,
            device_id: self.device_id.as_str(),
            scope: &self.scope,
            transaction_id: &self.transaction_id,
        }
    }
}

/// What goes into the same write as the events.
pub(crate) type Also<'a> = dyn Fn(&mut Write) + Send + Sync + 'a;

impl Rooms {
    /// Appends `drafts` to the room in one write: all of them, or none. Answers when they are durable.
    ///
    /// `transaction`: the client's name for the last of them. Errors: `Forbidden` with the rule that forbids one of them.
    pub(crate) async fn append(
        &self,
        room: &SharedRoom,
        drafts: &[Draft],
        transaction: Option<&Transaction>,
        also: &Also<'_>,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        for attempt in 0..ATTEMPTS {
            match self.append_once(room, drafts, transaction, also).await {
                Err(RoomError::Store(store::Error::Conflict)) => {
                    counter!("comity_room_conflicts_total").increment(1);
                    room.forget().await;
                    let pause = Duration::from_millis(1 << attempt.min(10)).min(LONGEST_PAUSE);
                    tokio::time::sleep(pause.mul_f64(rand::random())).await;
                }
                answer => return answer,
            }
        }
        Err(RoomError::Busy)
    }

    async fn append_once(
        &self,
        room: &SharedRoom,
        drafts: &[Draft],
        transaction: Option<&Transaction>,
        also: &Also<'_>,
    ) -> Result<Vec<Arc<TimelineEvent>>, RoomError> {
        let shared = &self.shared;
        shared.store.ensure_nids(2 * drafts.len() as i64).await?;
        let slot = shared.store.reserve().await?;

        // The room's turn. What is waited for while it is held are reads of this room's own state, when it isn't in
        // memory; the commit is not.
        let mut turn = room.turn.lock().await;
        let mut extension = Extension::new(self, room, self.head(room, &mut turn).await?);
        for (at, draft) in drafts.iter().enumerate() {
            let transaction = transaction.filter(|_| at + 1 == drafts.len());
            extension.add_draft(draft.clone(), transaction).await?;
        }
        also(extension.write());
        let Extended { head, mut write, events, kept, changed } = extension.finish();
        let Some(last) = events.last() else { return Ok(events) };
        if let Some(transaction) = transaction {
            events::insert_transaction(&mut write, &transaction.as_stored(), last.pdu.event_id.as_str(), now());
        }
        let flight = Flight::begin(self, events.iter().chain(&kept), changed);
        let pending = slot.enqueue(write);
        let view = head.view();
        *turn = Some(head);
        drop(turn);

        // A task of its own, so that a client that goes away leaves nothing half known.
        let landing = tokio::spawn(land(room.clone(), pending, view, flight));
        landing.await.map_err(|_| RoomError::Busy)??;
        Ok(events)
    }

    /// Appends what was made elsewhere and judged by its own branch of the graph, in one write, and answers what became of
    /// each when that is durable.
    ///
    /// `relay`: the other servers of the room don't know the events yet, and are sent them by this one.
    /// Errors: `Store(Conflict)` when somebody else was faster: judge again.
    pub(crate) async fn append_judged(
        &self,
        room: &SharedRoom,
        judged: &[Judged],
        relay: bool,
    ) -> Result<Vec<Verdict>, RoomError> {
        let shared = &self.shared;
        shared.store.ensure_nids(4 * judged.len() as i64 + 4).await?;
        let slot = shared.store.reserve().await?;
        let mut turn = room.turn.lock().await;
        let mut extension = Extension::new(self, room, self.head(room, &mut turn).await?);
        let mut verdicts = Vec::with_capacity(judged.len());
        for judged in judged {
            verdicts.push(extension.add_judged(judged, relay).await?);
        }
        let Extended { head, write, events, kept, changed } = extension.finish();
        let flight = Flight::begin(self, events.iter().chain(&kept), changed);
        let pending = slot.enqueue(write);
        let view = head.view();
        *turn = Some(head);
        drop(turn);
        let landing = tokio::spawn(land(room.clone(), pending, view, flight));
        landing.await.map_err(|_| RoomError::Busy)??;
        Ok(verdicts)
    }

    async fn head(&self, room: &SharedRoom, turn: &mut Option<Head>) -> Result<Head, RoomError> {
        if room.was_doubted() {
            turn.take();
        }
        match turn {
            Some(head) => Ok(head.clone()),
            None => Head::load(&self.shared.store, &room.room_id).await,
        }
    }

    /// Makes an event of a draft on the room's head without appending it.
    pub(crate) async fn seal(&self, room: &SharedRoom, draft: Draft) -> Result<Pdu, RoomError> {
        let head = self.head(room, &mut *room.turn.lock().await).await?;
        let extension = Extension::new(self, room, head);
        let (pdu, auth) = extension.seal(draft).await?;
        auth::check_by_state(&pdu, &room.rules, &auth)?;
        Ok(pdu)
    }

    /// Places a draft on the room's head for another server to complete; refused if the room's rules forbid it.
    pub(crate) async fn template(&self, room: &SharedRoom, draft: Draft) -> Result<CanonicalJsonObject, RoomError> {
        let head = self.head(room, &mut *room.turn.lock().await).await?;
        let extension = Extension::new(self, room, head);
        let (object, auth) = extension.place(draft).await?;
        // Authorisation looks at everything but hashes and signatures, so ours will do.
        let pdu = Pdu::seal(object.clone(), &room.rules, &self.shared.key)?;
        auth::check_by_state(&pdu, &room.rules, &auth)?;
        Ok(object)
    }

    /// The event numbered `nid`, from memory or from the store.
    pub(crate) async fn event(&self, nid: EventNid) -> Result<Arc<TimelineEvent>, RoomError> {
        let event = self.events([nid]).await?.pop();
        Ok(event.ok_or_else(|| store::Error::Corrupt(format!("event {nid} is missing")))?)
    }
}

/// Waits for the commit, then shows what it brought; or, if it failed, sees to it that nobody builds on it.
async fn land(room: SharedRoom, pending: Pending, view: crate::View, flight: Flight) -> Result<(), RoomError> {
    let committed = pending.committed().await;
    drop(flight);
    match committed {
        Ok(_) => {
            room.advance(view);
            Ok(())
        }
        Err(error) => {
            room.forget().await;
            Err(error.into())
        }
    }
}
