//! Transactions of other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use metrics::counter;
use model::{Kind, Refusal};
use rooms::Rooms;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName,
    api::federation::transactions::edu::Edu, room_version_rules::RoomVersionRules, serde::Raw,
};
use serde_json::value::RawValue;
use store::{Store, Write, inbox, presence_sequences};
use sync::Sync;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use users::Users;

use crate::{
    edus::{Edus, PresenceNews, PresenceTaken},
    lanes::{Delivered, Door, Lanes, Refused},
    millis, now,
    transaction::{MAX_EDUS, MAX_PDUS},
};

/// How many transactions of one server wait for the one before.
const WAITING_OF_ORIGIN: usize = 4;
/// How long one waits.
const WAIT: Duration = Duration::from_secs(30);
/// How long a room is waited for; what it hasn't taken by then is kept.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much of all transactions together may be in memory, in KiB.
const MOST_KIB: usize = 128 << 10;
/// How long answers are remembered.
const REMEMBER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const PURGE_EVERY: Duration = Duration::from_secs(60 * 60);
/// What a server is told of an event whose room has too much to take.
const BUSY: &str = "the room is busy; ask again";

/// What became of each event of a transaction.
pub type Answers = BTreeMap<OwnedEventId, Result<(), String>>;

/// Takes the transactions of other servers. Cheap to clone.
#[derive(Clone)]
pub struct Inbound {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    lanes: Lanes,
    edus: Edus,
    /// By which the id of an event is guessed whose room isn't known.
    rules: RoomVersionRules,
    /// Whose transactions are under way.
    origins: Mutex<HashMap<OwnedServerName, Arc<Semaphore>>>,
    memory: Arc<Semaphore>,
    patience: Duration,
}

/// Why a transaction was not taken.
#[derive(Debug, thiserror::Error)]
pub enum InboundError {
    /// It holds more than a transaction may.
    #[error("a transaction holds {MAX_PDUS} events and {MAX_EDUS} EDUs at most")]
    TooMany,
    /// The server sends faster than this one takes.
    #[error("earlier transactions of yours are still being taken")]
    Busy,
    /// The store failed.
    #[error("the transaction could not be taken")]
    Store(#[from] store::Error),
}

impl Refusal for InboundError {
    fn code(&self) -> Option<&'static str> {
        matches!(self, Self::TooMany).then_some("too_many")
    }

    fn kind(&self) -> Kind {
        match self {
            Self::TooMany => Kind::Invalid,
            Self::Busy => Kind::RateLimited,
            Self::Store(error) => error.kind(),
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        matches!(self, Self::Busy).then_some(2_000)
    }
}

/// What a server sends at once.
#[derive(Debug)]
pub struct Incoming {
    /// Who sends it.
    pub origin: OwnedServerName,
    /// What the sender calls it.
    pub transaction_id: String,
    /// Events.
    pub pdus: Vec<Box<RawValue>>,
    /// What isn't events.
    pub edus: Vec<Raw<Edu>>,
}

impl Inbound {
    /// Everything that another server sends, to whom it concerns.
    pub fn new(store: Store, rooms: Rooms, sync: Sync, users: Arc<Users>) -> Self {
        let door = Arc::new(rooms.clone());
        let edus = Edus::new(store.clone(), rooms, sync, users);
        Self::with_door(store, door, PATIENCE, edus)
    }

    pub(crate) fn with_door(store: Store, door: Arc<dyn Door>, patience: Duration, edus: Edus) -> Self {
        let rules = model::rules_of(&ruma::RoomVersionId::V11).expect("this room version is supported");
        let lanes = Lanes::new(store.clone(), door);
        let memory = Arc::new(Semaphore::new(MOST_KIB));
        let origins = Mutex::default();
        Self { shared: Arc::new(Shared { store, lanes, edus, rules, origins, memory, patience }) }
    }

    /// Takes up what was under way when the server stopped, and forgets what is old, until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        self.resume().await;
        let mut duties = self.shared.store.duties().changes();
        let mut purging = tokio::time::interval(PURGE_EVERY);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Another node may have died with events that it kept. Taking them twice brings nothing twice.
                Ok(()) = duties.changed() => {
                    self.resume().await;
                    continue;
                }
                _ = purging.tick() => {}
            }
            let mut write = Write::new();
            inbox::forget(&mut write, now() - millis(REMEMBER));
            presence_sequences::forget(&mut write, now() - millis(REMEMBER));
            if let Err(error) = self.shared.store.commit(write).await {
                debug!(%error, "could not forget old transactions");
            }
        }
    }

    async fn resume(&self) {
        if let Err(error) = self.shared.lanes.resume().await {
            let error = &error as &dyn std::error::Error;
            warn!(error, "could not take up events that were kept for their rooms");
        }
    }

    /// Takes a transaction. The same one takes effect once, and has the same answer each time.
    ///
    /// Transactions of one server wait for each other; those of different servers don't. What a room takes long over is kept
    /// and taken later.
    pub async fn receive(&self, incoming: Incoming) -> Result<Answers, InboundError> {
        if incoming.pdus.len() > MAX_PDUS || incoming.edus.len() > MAX_EDUS {
            return Err(InboundError::TooMany);
        }
        let turn = self.turn_of(&incoming.origin).await?;
        let memory = self.memory_for(&incoming).await?;
        let shared = self.shared.clone();
        // A task of its own: a server that hangs up leaves nothing half done.
        let taking = tokio::spawn(async move {
            let answers = shared.take(&incoming).await;
            drop((memory, turn));
            answers
        });
        taking.await.map_err(|_| InboundError::Busy)?
    }

    /// Takes what a server says, on the native API, of who of its own users is there; answers for each, in order.
    pub async fn receive_presence(
        &self,
        origin: &ServerName,
        news: Vec<PresenceNews>,
    ) -> Result<Vec<PresenceTaken>, InboundError> {
        let _turn = self.turn_of(origin).await?;
        Ok(self.shared.edus.take_news(news).await?)
    }

    /// One transaction of each server at a time.
    pub(crate) async fn turn_of(&self, origin: &ServerName) -> Result<Turn, InboundError> {
        let semaphore = {
            let mut origins = self.shared.origins.lock().unwrap_or_else(PoisonError::into_inner);
            let semaphore = origins.entry(origin.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1)));
            // The map holds one, who has its turn another, and each who waits one more.
            if Arc::strong_count(semaphore) >= WAITING_OF_ORIGIN + 2 {
                counter!("comity_federation_transactions_received_total", "outcome" => "busy").increment(1);
                return Err(InboundError::Busy);
            }
            semaphore.clone()
        };
        let mut turn = Turn { shared: self.shared.clone(), origin: origin.to_owned(), permit: None };
        let permit = tokio::time::timeout(WAIT, semaphore.acquire_owned()).await;
        turn.permit = Some(permit.map_err(|_| InboundError::Busy)?.map_err(|_| InboundError::Busy)?);
        Ok(turn)
    }

    async fn memory_for(&self, incoming: &Incoming) -> Result<OwnedSemaphorePermit, InboundError> {
        let bytes: usize = incoming.pdus.iter().map(|pdu| pdu.get().len()).sum::<usize>()
            + incoming.edus.iter().map(|edu| edu.json().get().len()).sum::<usize>();
        let kib = u32::try_from((bytes >> 10).clamp(1, MOST_KIB)).unwrap_or(u32::MAX);
        match tokio::time::timeout(WAIT, self.shared.memory.clone().acquire_many_owned(kib)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(InboundError::Busy),
        }
    }
}

/// A server's turn to have a transaction taken.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    origin: OwnedServerName,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit.take();
        let mut origins = self.shared.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if origins.get(&self.origin).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            origins.remove(&self.origin);
        }
    }
}

/// The events of a transaction for one room.
#[derive(Default)]
struct ForRoom {
    pdus: Vec<CanonicalJsonObject>,
    bytes: usize,
}

impl Shared {
    async fn take(&self, incoming: &Incoming) -> Result<Answers, InboundError> {
        let Incoming { origin, transaction_id, pdus, edus } = incoming;
        if let Some(answer) = self.store.inbox().answer(origin, transaction_id).await? {
            counter!("comity_federation_transactions_received_total", "outcome" => "repeated").increment(1);
            return Ok(read_answer(&answer));
        }
        let (durable, fresh): (Vec<_>, Vec<_>) = Edus::read(edus).into_iter().partition(Edus::must_arrive);
        let (answers, arrived) =
            futures_util::future::join(self.take_pdus(origin, pdus), self.edus.take(origin, durable)).await;
        // Unanswered, the transaction comes again; what of it was taken already, is not taken twice.
        arrived?;
        // How far somebody has read is of interest after what has been read. It passes, and is not worth a repetition.
        if let Err(error) = self.edus.take(origin, fresh).await {
            debug!(%origin, %error, "could not take what passes");
        }
        // Nobody waits until it is durable: should it be lost in a crash, the transaction is taken again, of which nothing
        // comes. So it shares a commit with whatever comes next.
        let mut write = Write::new();
        inbox::put_answer(&mut write, origin, transaction_id, &write_answer(&answers), now());
        drop(self.store.reserve().await?.enqueue(write));
        counter!("comity_federation_transactions_received_total", "outcome" => "taken").increment(1);
        Ok(answers)
    }

    async fn take_pdus(&self, origin: &ServerName, pdus: &[Box<RawValue>]) -> Answers {
        let mut rooms: HashMap<OwnedRoomId, ForRoom> = HashMap::new();
        let mut answers = Answers::new();
        for pdu in pdus {
            let Ok(object) = serde_json::from_str::<CanonicalJsonObject>(pdu.get()) else {
                // It has no id that it could be named by.
                counter!("comity_federation_pdus_received_total", "outcome" => "malformed").increment(1);
                continue;
            };
            match room_of(&object) {
                Some(room_id) => {
                    let room = rooms.entry(room_id).or_default();
                    room.bytes += pdu.get().len();
                    room.pdus.push(object);
                }
                None => {
                    let event_id = self.id_of(&object);
                    answers.extend(event_id.map(|event_id| (event_id, Err("it names no room".to_owned()))));
                }
            }
        }
        let side_by_side = rooms.len().max(1);
        let mut deliveries = stream::iter(rooms)
            .map(|(room_id, room)| self.take_room(origin, room_id, room))
            .buffer_unordered(side_by_side);
        while let Some(delivered) = deliveries.next().await {
            answers.extend(delivered);
        }
        answers
    }

    async fn take_room(&self, origin: &ServerName, room_id: OwnedRoomId, room: ForRoom) -> Answers {
        let ids: Vec<_> = room.pdus.iter().filter_map(|pdu| self.id_of(pdu)).collect();
        match self.lanes.deliver(origin, &room_id, room.pdus, room.bytes, self.patience).await {
            Delivered::Taken(outcomes) => {
                // What is known to be wrong by the room's rules was handled as well as what is right: who sent it isn't told,
                // as other servers don't tell either.
                let said = |outcome: Result<(), Refused>| match outcome {
                    Err(refused) if !refused.is_verdict => Err(refused.reason),
                    _ => Ok(()),
                };
                outcomes.into_iter().map(|(event_id, outcome)| (event_id, said(outcome))).collect()
            }
            Delivered::Kept => ids.into_iter().map(|event_id| (event_id, Ok(()))).collect(),
            Delivered::Refused => ids.into_iter().map(|event_id| (event_id, Err(BUSY.to_owned()))).collect(),
        }
    }

    /// The event's id, if its room is of one of the earliest or of the later versions.
    fn id_of(&self, object: &CanonicalJsonObject) -> Option<OwnedEventId> {
        model::guessed_event_id(object, &self.rules)
    }
}

fn room_of(object: &CanonicalJsonObject) -> Option<OwnedRoomId> {
    match object.get("room_id")? {
        CanonicalJsonValue::String(room_id) => RoomId::parse(room_id).ok(),
        _ => None,
    }
}

/// An answer as it is kept: for each event why it was refused, or nothing.
fn write_answer(answers: &Answers) -> String {
    let reasons: BTreeMap<_, _> = answers.iter().map(|(id, outcome)| (id, outcome.as_ref().err())).collect();
    serde_json::to_string(&reasons).unwrap_or_else(|_| "{}".to_owned())
}

fn read_answer(answer: &str) -> Answers {
    let reasons: BTreeMap<OwnedEventId, Option<String>> = serde_json::from_str(answer).unwrap_or_default();
    reasons.into_iter().map(|(id, reason)| (id, reason.map_or(Ok(()), Err))).collect()
}
