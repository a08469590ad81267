//! Rooms side by side: each takes what is sent into it in order, and none waits for another.
//!
//! Whoever hands something over waits for the room only so long. After that the events are kept in the store, so that they
//! can be acknowledged, and the room takes them when it can.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use metrics::{counter, gauge};
use model::Position;
use rooms::Rooms;
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use store::{Store, Write, inbox};
use tokio::sync::oneshot;
use tracing::warn;

/// The most bytes of events that wait for one room.
const MOST_BYTES: usize = 8 << 20;
/// The most rooms that take something at once.
const MOST_ROOMS: usize = 2_000;
/// How many kept events a room takes at once.
const STAGED_AT_ONCE: i64 = 50;

/// What became of each event.
pub type Outcomes = Vec<(OwnedEventId, Result<(), String>)>;

/// Where events enter rooms.
pub trait Door: Send + Sync + 'static {
    /// Takes what `origin` sends into a room, in order. One bad event doesn't harm the others.
    fn receive<'a>(
        &'a self,
        origin: &'a ServerName,
        room_id: &'a RoomId,
        pdus: Vec<CanonicalJsonObject>,
    ) -> BoxFuture<'a, Outcomes>;
}

impl Door for Rooms {
    fn receive<'a>(
        &'a self,
        origin: &'a ServerName,
        room_id: &'a RoomId,
        pdus: Vec<CanonicalJsonObject>,
    ) -> BoxFuture<'a, Outcomes> {
        Box::pin(async move {
            let received = Self::receive(self, origin, room_id, pdus).await;
            received
                .into_iter()
                .map(|(event_id, outcome)| (event_id, outcome.map_err(|error| error.to_string())))
                .collect()
        })
    }
}

/// The rooms that have something to take.
#[derive(Clone)]
pub(crate) struct Lanes {
    store: Store,
    door: Arc<dyn Door>,
    rooms: Arc<Mutex<HashMap<OwnedRoomId, Lane>>>,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Delivery>,
    bytes: usize,
    /// Events wait in the store.
    is_staged: bool,
}

/// Events of one server for one room.
struct Delivery {
    origin: OwnedServerName,
    pdus: Vec<CanonicalJsonObject>,
    bytes: usize,
    answer: oneshot::Sender<Outcomes>,
    keeping: Arc<Mutex<Keeping>>,
}

/// Whether a delivery is kept in the store, or needs to be no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    No,
    Kept(Position, Position),
    Taken,
}

/// What became of a delivery.
pub(crate) enum Delivered {
    /// The room has said of each event what it thinks of it.
    Taken(Outcomes),
    /// The room will take it; it is kept until then.
    Kept,
    /// The room has too much to take already, or the delivery could be neither taken nor kept.
    Refused,
}

impl Lanes {
    pub(crate) fn new(store: Store, door: Arc<dyn Door>) -> Self {
        Self { store, door, rooms: Arc::default() }
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<OwnedRoomId, Lane>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands events over to a room, and waits for its word `patience` at most.
    ///
    /// `bytes`: how large they are together.
    pub(crate) async fn deliver(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdus: Vec<CanonicalJsonObject>,
        bytes: usize,
        patience: Duration,
    ) -> Delivered {
        let (answer, mut outcomes) = oneshot::channel();
        let keeping = Arc::new(Mutex::new(Keeping::No));
        let delivery =
            Delivery { origin: origin.to_owned(), pdus: pdus.clone(), bytes, answer, keeping: keeping.clone() };
        if !self.enqueue(room_id, delivery) {
            counter!("comity_federation_deliveries_refused_total").increment(1);
            return Delivered::Refused;
        }
        match tokio::time::timeout(patience, &mut outcomes).await {
            Ok(Ok(outcomes)) => return Delivered::Taken(outcomes),
            Ok(Err(_)) => return Delivered::Refused,
            Err(_) => {}
        }
        match self.keep(origin, room_id, &pdus, &keeping).await {
            Ok(()) => Delivered::Kept,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, room.id = %room_id, %origin, "could not keep events for a room that is slow");
                Delivered::Refused
            }
        }
    }

    /// Takes up again what was kept for rooms when the server stopped.
    pub(crate) async fn resume(&self) -> Result<(), store::Error> {
        for room_id in self.store.inbox().staged_rooms().await? {
            let mut rooms = self.rooms();
            let is_new = !rooms.contains_key(&room_id);
            rooms.entry(room_id.clone()).or_default().is_staged = true;
            if is_new {
                tokio::spawn(self.clone().run(room_id));
            }
        }
        Ok(())
    }

    fn enqueue(&self, room_id: &RoomId, delivery: Delivery) -> bool {
        let mut rooms = self.rooms();
        let is_new = !rooms.contains_key(room_id);
        if is_new && rooms.len() >= MOST_ROOMS {
            return false;
        }
        let lane = rooms.entry(room_id.to_owned()).or_default();
        if lane.bytes > 0 && lane.bytes + delivery.bytes > MOST_BYTES {
            return false;
        }
        lane.bytes += delivery.bytes;
        lane.queue.push_back(delivery);
        gauge!("comity_federation_rooms_receiving").set(rooms.len() as f64);
        drop(rooms);
        if is_new {
            // It ends when the room has nothing to take.
            tokio::spawn(self.clone().run(room_id.to_owned()));
        }
        true
    }

    async fn run(self, room_id: OwnedRoomId) {
        loop {
            // What was kept came before everything else.
            let is_staged = self.rooms().get_mut(&room_id).is_some_and(|lane| std::mem::take(&mut lane.is_staged));
            if is_staged && let Err(error) = self.take_staged(&room_id).await {
                let error = &error as &dyn std::error::Error;
                warn!(error, room.id = %room_id, "could not take events that were kept for a room");
            }
            let delivery = {
                let mut rooms = self.rooms();
                let Some(lane) = rooms.get_mut(&room_id) else { return };
                match lane.queue.pop_front() {
                    Some(delivery) => delivery,
                    None => {
                        rooms.remove(&room_id);
                        return;
                    }
                }
            };
            let receiving = self.door.receive(&delivery.origin, &room_id, delivery.pdus);
            // A fault in one delivery must not stop the room for ever.
            let outcomes = AssertUnwindSafe(receiving).catch_unwind().await;
            let kept = std::mem::replace(&mut *locked(&delivery.keeping), Keeping::Taken);
            if let Ok(outcomes) = outcomes {
                // Who waited may have lost patience.
                let _ = delivery.answer.send(outcomes);
            }
            if let Keeping::Kept(first, last) = kept {
                self.unstage(&room_id, first, last).await;
            }
            if let Some(lane) = self.rooms().get_mut(&room_id) {
                lane.bytes -= delivery.bytes.min(lane.bytes);
            }
        }
    }

    async fn take_staged(&self, room_id: &RoomId) -> Result<(), store::Error> {
        loop {
            let staged = self.store.inbox().staged(room_id, STAGED_AT_ONCE).await?;
            let Some((first, origin)) = staged.first().map(|pdu| (pdu.position, pdu.origin.clone())) else {
                return Ok(());
            };
            let of_origin = staged.iter().take_while(|pdu| pdu.origin == origin);
            let last = of_origin.clone().last().map_or(first, |pdu| pdu.position);
            let pdus = of_origin.filter_map(|pdu| serde_json::from_str(&pdu.json).ok()).collect();
            self.door.receive(&origin, room_id, pdus).await;
            let mut write = Write::new();
            inbox::unstage(&mut write, room_id, first, last);
            self.store.commit(write).await?;
        }
    }

    async fn keep(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdus: &[CanonicalJsonObject],
        keeping: &Mutex<Keeping>,
    ) -> Result<(), store::Error> {
        let mut write = Write::new();
        for pdu in pdus {
            let json = serde_json::to_string(pdu).map_err(|error| store::Error::Corrupt(error.to_string()))?;
            inbox::stage(&mut write, origin, room_id, &json);
        }
        let first = self.store.commit(write).await?;
        let last = Position(first.0 + pdus.len() as i64 - 1);
        let is_taken = {
            let mut keeping = locked(keeping);
            let is_taken = *keeping == Keeping::Taken;
            if !is_taken {
                *keeping = Keeping::Kept(first, last);
            }
            is_taken
        };
        if is_taken {
            self.unstage(room_id, first, last).await;
        }
        counter!("comity_federation_deliveries_kept_total").increment(1);
        Ok(())
    }

    async fn unstage(&self, room_id: &RoomId, first: Position, last: Position) {
        let mut write = Write::new();
        inbox::unstage(&mut write, room_id, first, last);
        if let Err(error) = self.store.commit(write).await {
            // They are taken once more at the next start, and nothing comes of it.
            let error = &error as &dyn std::error::Error;
            warn!(error, room.id = %room_id, "could not let go of events that a room has taken");
        }
    }
}

fn locked(keeping: &Mutex<Keeping>) -> MutexGuard<'_, Keeping> {
    keeping.lock().unwrap_or_else(PoisonError::into_inner)
}
