//! Rooms side by side: each takes what is sent into it in order, and none waits for another.
//!
//! Whoever hands something over waits for the room only so long. After that the events are kept in the store, so that they
//! can be acknowledged, and the room takes them when it can. So are events that can't be taken for now, because they lack
//! something that can't be asked for while a server is away: they are tried again and again, and given up after some hours.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use metrics::{counter, gauge};
use model::Position;
use rooms::{ReceiveError, Rooms};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use store::{Store, Write, inbox};
use tokio::sync::oneshot;
use tracing::{debug, warn};

/// The most bytes of events that wait for one room.
const MOST_BYTES: usize = 8 << 20;
/// The most rooms that take something at once.
const MOST_ROOMS: usize = 2_000;
/// How many kept events a room takes at once.
const STAGED_AT_ONCE: i64 = 50;

/// The most events that one room keeps for later.
const MOST_KEPT: i64 = 1_000;
/// How long what can't be taken for now waits at first; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long it waits at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How often it is tried before it is given up: some four hours.
const MOST_TRIES: u32 = 55;

/// What became of each event.
pub type Outcomes = Vec<(OwnedEventId, Result<(), Refused>)>;

/// Why a room did not take an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For those who read logs.
    pub reason: String,
    /// It may be taken later.
    pub may_pass: bool,
    /// The room came to a conclusion about it: nothing failed, and nothing is to be done about it.
    pub is_verdict: bool,
}

/// Where events enter rooms.
pub trait Door: Send + Sync + 'static {
    /// Takes what `origin` sends into a room, in order. One bad event doesn't harm the others.
    fn receive<'a>(
        &'a self,
        origin: &'a ServerName,
        room_id: &'a RoomId,
        pdus: Vec<CanonicalJsonObject>,
    ) -> BoxFuture<'a, Outcomes>;

    /// What the room calls an event, if it can be called anything.
    fn id_of<'a>(&'a self, room_id: &'a RoomId, pdu: &'a CanonicalJsonObject) -> BoxFuture<'a, Option<OwnedEventId>>;
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
            let refused = |error: ReceiveError| Refused {
                reason: error.to_string(),
                may_pass: error.may_pass(),
                is_verdict: error.is_verdict(),
            };
            received.into_iter().map(|(event_id, outcome)| (event_id, outcome.map_err(refused))).collect()
        })
    }

    fn id_of<'a>(&'a self, room_id: &'a RoomId, pdu: &'a CanonicalJsonObject) -> BoxFuture<'a, Option<OwnedEventId>> {
        Box::pin(self.event_id_in(room_id, pdu))
    }
}

/// The rooms that have something to take.
#[derive(Clone)]
pub(crate) struct Lanes {
    store: Store,
    door: Arc<dyn Door>,
    rooms: Arc<Mutex<HashMap<OwnedRoomId, Lane>>>,
    /// The rooms that keep events which can't be taken for now, and how often that was tried.
    later: Arc<Mutex<HashMap<OwnedRoomId, Later>>>,
}

#[derive(Default)]
struct Later {
    tries: u32,
    /// Somebody sees to it that it is tried again.
    is_planned: bool,
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
        Self { store, door, rooms: Arc::default(), later: Arc::default() }
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
            Ok(Ok(outcomes)) => return Delivered::Taken(self.set_aside(origin, room_id, &pdus, outcomes).await),
            Ok(Err(_)) => return Delivered::Refused,
            Err(_) => {}
        }
        match self.keep(origin, room_id, &pdus, &keeping).await {
            Ok(None) => Delivered::Kept,
            // The room has had its say meanwhile.
            Ok(Some((first, last))) => {
                match outcomes.await {
                    Ok(outcomes) if outcomes.iter().any(is_for_now) => self.plan(room_id),
                    _ => self.unstage(room_id, first, last).await,
                }
                Delivered::Kept
            }
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
            self.take_up(room_id);
        }
        Ok(())
    }

    /// The room is to take what is kept for it.
    fn take_up(&self, room_id: OwnedRoomId) {
        let mut rooms = self.rooms();
        let is_new = !rooms.contains_key(&room_id);
        rooms.entry(room_id.clone()).or_default().is_staged = true;
        drop(rooms);
        if is_new {
            tokio::spawn(self.clone().run(room_id));
        }
    }

    /// Keeps what can't be taken for now, and answers as if it were taken.
    async fn set_aside(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdus: &[CanonicalJsonObject],
        mut outcomes: Outcomes,
    ) -> Outcomes {
        let waits = self.may_pass(room_id, pdus, &outcomes).await;
        if waits.is_empty() {
            return outcomes;
        }
        let kept = async {
            if self.store.inbox().count_staged(room_id).await? + waits.len() as i64 > MOST_KEPT {
                return Ok(false);
            }
            let mut places: Vec<usize> = waits.values().copied().collect();
            places.sort_unstable();
            self.stage(origin, room_id, places.into_iter().filter_map(|at| pdus.get(at))).await.map(|_| true)
        };
        match kept.await {
            Ok(true) => {
                for (_, outcome) in outcomes.iter_mut().filter(|(event_id, _)| waits.contains_key(event_id)) {
                    *outcome = Ok(());
                }
                counter!("comity_federation_pdus_postponed_total").increment(waits.len() as u64);
                self.plan(room_id);
            }
            Ok(false) => debug!(room.id = %room_id, %origin, "too many events wait for what they lack already"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, room.id = %room_id, %origin, "could not keep events that can't be taken for now");
            }
        }
        outcomes
    }

    /// Where those of `pdus` are that may be taken later, by what their room calls them.
    async fn may_pass(
        &self,
        room_id: &RoomId,
        pdus: &[CanonicalJsonObject],
        outcomes: &Outcomes,
    ) -> HashMap<OwnedEventId, usize> {
        let ids: HashSet<&OwnedEventId> =
            outcomes.iter().filter(|outcome| is_for_now(outcome)).map(|(event_id, _)| event_id).collect();
        let mut found = HashMap::with_capacity(ids.len());
        if ids.is_empty() {
            return found;
        }
        for (at, pdu) in pdus.iter().enumerate() {
            let event_id = self.door.id_of(room_id, pdu).await;
            found.extend(event_id.filter(|event_id| ids.contains(event_id)).map(|event_id| (event_id, at)));
        }
        found
    }

    /// Sees to it that what the room keeps is tried again, after a pause.
    fn plan(&self, room_id: &RoomId) {
        let pause = {
            let mut later = locked(&self.later);
            let later = later.entry(room_id.to_owned()).or_default();
            if std::mem::replace(&mut later.is_planned, true) {
                return;
            }
            FIRST_PAUSE.saturating_mul(1 << later.tries.min(16)).min(LONGEST_PAUSE)
        };
        let (lanes, room_id) = (self.clone(), room_id.to_owned());
        // One of each room, and only of those that keep something.
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            if let Some(later) = locked(&lanes.later).get_mut(&room_id) {
                later.is_planned = false;
                later.tries += 1;
            }
            lanes.take_up(room_id);
        });
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
                self.plan(&room_id);
            }
            let delivery = {
                let mut rooms = self.rooms();
                let Some(lane) = rooms.get_mut(&room_id) else { return };
                match lane.queue.pop_front() {
                    Some(delivery) => delivery,
                    // It was said while the room took something else.
                    None if lane.is_staged => continue,
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
            match (kept, outcomes) {
                // What can't be taken for now is kept already.
                (Keeping::Kept(..), Ok(outcomes)) if outcomes.iter().any(is_for_now) => self.plan(&room_id),
                (Keeping::Kept(first, last), _) => self.unstage(&room_id, first, last).await,
                (_, Ok(outcomes)) => {
                    // Who waited may have lost patience.
                    let _ = delivery.answer.send(outcomes);
                }
                (_, Err(_)) => {}
            }
            if let Some(lane) = self.rooms().get_mut(&room_id) {
                lane.bytes -= delivery.bytes.min(lane.bytes);
            }
        }
    }

    /// Has the room take what is kept for it. What can't be taken for now stays, until it was tried too often.
    async fn take_staged(&self, room_id: &RoomId) -> Result<(), store::Error> {
        let tries = locked(&self.later).get(room_id).map_or(0, |later| later.tries);
        let (mut after, mut left) = (Position(0), 0);
        loop {
            let staged = self.store.inbox().staged(room_id, after, STAGED_AT_ONCE).await?;
            let Some(origin) = staged.first().map(|pdu| pdu.origin.clone()) else { break };
            let of_origin: Vec<_> = staged.into_iter().take_while(|pdu| pdu.origin == origin).collect();
            after = of_origin.last().map_or(after, |pdu| pdu.position);
            let (positions, pdus): (Vec<_>, Vec<CanonicalJsonObject>) =
                of_origin.iter().filter_map(|pdu| Some((pdu.position, serde_json::from_str(&pdu.json).ok()?))).unzip();
            let receiving = self.door.receive(&origin, room_id, pdus.clone());
            // What makes it panic is let go of.
            let outcomes = AssertUnwindSafe(receiving).catch_unwind().await.unwrap_or_default();
            let mut stays: HashSet<Position> = HashSet::new();
            let waits = self.may_pass(room_id, &pdus, &outcomes).await;
            match waits.keys().next() {
                Some(event_id) if tries >= MOST_TRIES => {
                    let count = waits.len();
                    warn!(%origin, room.id = %room_id, event.id = %event_id, "gave up {count} events, for what they lack is not to be had");
                }
                _ => stays.extend(waits.values().filter_map(|at| positions.get(*at))),
            }
            left += stays.len();
            let mut write = Write::new();
            for pdu in of_origin.iter().filter(|pdu| !stays.contains(&pdu.position)) {
                inbox::unstage(&mut write, room_id, pdu.position, pdu.position);
            }
            if !write.is_empty() {
                self.store.commit(write).await?;
            }
        }
        if left > 0 {
            self.plan(room_id);
        } else {
            locked(&self.later).remove(room_id);
        }
        Ok(())
    }

    /// Keeps a delivery for its room. Answers where, if the room has taken it meanwhile and it needn't be kept.
    async fn keep(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdus: &[CanonicalJsonObject],
        keeping: &Mutex<Keeping>,
    ) -> Result<Option<(Position, Position)>, store::Error> {
        let first = self.stage(origin, room_id, pdus).await?;
        let last = Position(first.0 + pdus.len() as i64 - 1);
        counter!("comity_federation_deliveries_kept_total").increment(1);
        let mut keeping = locked(keeping);
        if *keeping == Keeping::Taken {
            return Ok(Some((first, last)));
        }
        *keeping = Keeping::Kept(first, last);
        Ok(None)
    }

    /// Answers the position of the first.
    async fn stage<'a>(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdus: impl IntoIterator<Item = &'a CanonicalJsonObject>,
    ) -> Result<Position, store::Error> {
        let mut write = Write::new();
        for pdu in pdus {
            let json = serde_json::to_string(pdu).map_err(|error| store::Error::Corrupt(error.to_string()))?;
            inbox::stage(&mut write, origin, room_id, &json);
        }
        self.store.commit(write).await
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

fn is_for_now((_, outcome): &(OwnedEventId, Result<(), Refused>)) -> bool {
    outcome.as_ref().is_err_and(|refused| refused.may_pass)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ruma::{room_id, server_name};
    use serde_json::json;
    use store::testing::on_each_engine;

    use super::*;

    /// What a room does with what it is given: after how long it says what, one delivery after the other; at last it takes
    /// everything at once.
    type Acts = VecDeque<(Duration, Result<(), Refused>)>;

    struct Script {
        acts: Mutex<Acts>,
        taken: AtomicUsize,
    }

    impl Script {
        fn new(acts: impl Into<Acts>) -> Arc<Self> {
            Arc::new(Self { acts: Mutex::new(acts.into()), taken: AtomicUsize::new(0) })
        }

        async fn takes(&self, count: usize) {
            let done = async {
                while self.taken.load(Ordering::Relaxed) < count {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), done).await.expect("the room takes it at last");
        }
    }

    impl Door for Script {
        fn receive<'a>(
            &'a self,
            _origin: &'a ServerName,
            room_id: &'a RoomId,
            pdus: Vec<CanonicalJsonObject>,
        ) -> BoxFuture<'a, Outcomes> {
            Box::pin(async move {
                let (pause, outcome) = locked(&self.acts).pop_front().unwrap_or((Duration::ZERO, Ok(())));
                tokio::time::sleep(pause).await;
                let mut outcomes = Outcomes::new();
                for pdu in &pdus {
                    outcomes.extend(self.id_of(room_id, pdu).await.map(|event_id| (event_id, outcome.clone())));
                }
                if outcome.is_ok() {
                    self.taken.fetch_add(pdus.len(), Ordering::Relaxed);
                }
                outcomes
            })
        }

        fn id_of<'a>(
            &'a self,
            _room_id: &'a RoomId,
            pdu: &'a CanonicalJsonObject,
        ) -> BoxFuture<'a, Option<OwnedEventId>> {
            Box::pin(async move { OwnedEventId::try_from(pdu["id"].as_str()?).ok() })
        }
    }

    fn pdu(id: &str) -> CanonicalJsonObject {
        serde_json::from_value(json!({ "id": id })).expect("it is canonical")
    }

    fn refused(may_pass: bool) -> Result<(), Refused> {
        Err(Refused { reason: "no".into(), may_pass, is_verdict: false })
    }

    const PATIENCE: Duration = Duration::from_millis(50);

    async fn deliver(lanes: &Lanes, pdus: &[&str]) -> Delivered {
        let pdus = pdus.iter().map(|id| pdu(id)).collect();
        lanes.deliver(server_name!("b.test"), room_id!("!room:b.test"), pdus, 10, PATIENCE).await
    }

    /// Waits until nothing is kept for the room.
    async fn is_empty(store: &Store) -> Result<(), store::Error> {
        for _ in 0..500 {
            if store.inbox().count_staged(room_id!("!room:b.test")).await? == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("something is kept for ever");
    }

    #[tokio::test]
    async fn what_cannot_be_taken_for_now_is_acknowledged_and_taken_later() {
        on_each_engine(async |store| {
            let script = Script::new([(Duration::ZERO, refused(true)), (Duration::ZERO, refused(true))]);
            let lanes = Lanes::new(store.clone(), script.clone());
            let Delivered::Taken(outcomes) = deliver(&lanes, &["$one", "$two"]).await else { panic!("it took long") };
            assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
            assert_eq!(store.inbox().count_staged(room_id!("!room:b.test")).await?, 2);
            script.takes(2).await;
            is_empty(&store).await
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_answered_so_and_not_kept() {
        on_each_engine(async |store| {
            let script = Script::new([(Duration::ZERO, refused(false))]);
            let lanes = Lanes::new(store.clone(), script.clone());
            let Delivered::Taken(outcomes) = deliver(&lanes, &["$one"]).await else { panic!("it took long") };
            assert!(outcomes.iter().all(|(_, outcome)| outcome.is_err()), "{outcomes:?}");
            is_empty(&store).await
        })
        .await;
    }

    #[tokio::test]
    async fn what_a_room_is_slow_with_and_cannot_take_for_now_is_taken_later_even_after_a_restart() {
        on_each_engine(async |store| {
            let script = Script::new([(5 * PATIENCE, refused(true))]);
            let lanes = Lanes::new(store.clone(), script.clone());
            assert!(matches!(deliver(&lanes, &["$one"]).await, Delivered::Kept));
            script.takes(1).await;
            is_empty(&store).await?;

            let script = Script::new([(Duration::from_secs(3_600), refused(true))]);
            let lanes = Lanes::new(store.clone(), script.clone());
            assert!(matches!(deliver(&lanes, &["$two"]).await, Delivered::Kept));
            let script = Script::new([(Duration::ZERO, refused(true))]);
            let next = Lanes::new(store.clone(), script.clone());
            next.resume().await?;
            script.takes(1).await;
            is_empty(&store).await
        })
        .await;
    }
}
