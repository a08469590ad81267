//! The ledger against what the destinations were really told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use model::RoomNid;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use ruma::{owned_server_name, server_name};
use store::{
    Store,
    testing::{owe_event, owe_event_made_at},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    FederationConfig,
    tests::{Act, Listener, NOT_THIS, Node, Script, barrier, on_each, patient, quick},
};

const ROOMS: i64 = 4;

async fn event_id(store: &Store, nid: i64) -> OwnedEventId {
    let found = store.events().by_nids(&[EventNid(nid)]).await.expect("the store is there");
    found.first().expect("the event is there").pdu.event_id.clone()
}

async fn told(ledger: &Ledger, store: &Store, nid: i64) -> Vec<Delivered> {
    let event_id = event_id(store, nid).await;
    ledger.delivery_of(&event_id).await.expect("the store is there").expect("the event is there").destinations
}

async fn make_rooms(store: &Store) {
    let mut write = store::Write::new();
    for nid in 0..ROOMS {
        let room = store::rooms::RoomRow {
            nid: RoomNid(nid),
            room_id: format!("!{nid}:a.test").try_into().expect("it is one"),
            room_version: ruma::RoomVersionId::V11,
            version: store::RoomVersion::default(),
            extremities: Vec::new(),
            snapshot: model::SnapshotNid(1),
        };
        store::rooms::put_room(&mut write, &room);
    }
    store.commit(write).await.expect("it is written");
}

async fn settled(store: &Store) {
    store.commit(barrier()).await.expect("it is written");
}

#[tokio::test]
async fn an_event_is_queued_with_the_reason_until_its_destination_is_back_or_somebody_wants_it_tried_again() {
    on_each(async |store, listener, way| {
        way.plan(&[Act::Away]);
        owe_event(&store, server_name!("b.test"), RoomNid(1), 1).await.expect("it is written");
        let node = Node::start(&store, &listener, &way, patient()).await;
        let ledger = node.sender.ledger();
        way.tried(1).await;
        while ledger.destinations().is_empty() {
            tokio::task::yield_now().await;
        }
        let queued = told(&ledger, &store, 1).await.remove(0);
        assert_eq!((&*queued.server, queued.state, queued.queued_at), (server_name!("b.test"), State::Queued, 1));
        assert_eq!(queued.reason.as_deref(), Some("connect"));
        assert!(queued.failing_since.is_some_and(|at| at > now() - 60_000));
        assert!(queued.next_try_at.is_none_or(|at| at > now() + 600_000), "{queued:?}");
        let figures = ledger.figures(Some(server_name!("b.test")), 0).await.expect("the store is there");
        assert_eq!((figures.queued, figures.delivered_percent), (1, Some(0.0)));
        while ledger.destinations()[0].next_try_at.is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(ledger.destinations()[0].failures, 1);

        assert!(!ledger.retry(server_name!("c.test")));
        assert!(ledger.retry(server_name!("b.test")));
        node.all_delivered().await;
        let accepted = told(&ledger, &store, 1).await.remove(0);
        assert_eq!((accepted.state, accepted.reason, accepted.next_try_at), (State::Accepted, None, None));
        assert!(
            accepted.queued_at < accepted.sent_at.expect("it was sent") && accepted.sent_at <= accepted.answered_at
        );
        assert!(ledger.destinations().is_empty());
        node.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_set_aside_counts_as_refused_with_the_reason() {
    on_each(async |store, listener, way| {
        for nid in 1..=3 {
            owe_event(&store, server_name!("b.test"), RoomNid(1), nid).await.expect("it is written");
        }
        way.plan(&[Act::Refuse(400); 9]);
        let node = Node::start(&store, &listener, &way, quick()).await;
        node.all_delivered().await;
        let ledger = node.sender.ledger();
        let mut states = Vec::new();
        for nid in 1..=3 {
            states.push(told(&ledger, &store, nid).await.remove(0));
        }
        let shown: Vec<_> = states.iter().map(|told| (told.state, told.reason.as_deref())).collect();
        let refused = (State::Refused, Some("b.test refused: no"));
        assert_eq!(shown, [refused, (State::Accepted, None), (State::Accepted, None)]);
        node.stop().await;
    })
    .await;
}

/// A destination that is told only the latest event asks for the others before it answers: what it gets then was skipped
/// only afterwards.
#[tokio::test]
async fn what_is_fetched_while_a_destination_catches_up_is_pulled() {
    on_each(async |store, listener, way| {
        let config = FederationConfig { catch_up_after: Duration::ZERO, catch_up_over: 10, ..quick() };
        for nid in 1..=100 {
            owe_event(&store, server_name!("b.test"), RoomNid(1), nid).await.expect("it is written");
        }
        way.plan(&[Act::Away, Act::Take, Act::Hang]);
        let node = Node::start(&store, &listener, &way, config.clone()).await;
        assert_eq!(way.tried(3).await[2].numbers(), [100]);
        let ledger = node.sender.ledger();
        ledger.fetched(server_name!("b.test"), &(51..=80).map(EventNid).collect::<Vec<_>>()).await;
        way.release();
        node.all_delivered().await;
        while !ledger.destinations().is_empty() {
            tokio::task::yield_now().await;
        }
        settled(&store).await;
        ledger.fetched(server_name!("b.test"), &[EventNid(81), EventNid(100)]).await;
        settled(&store).await;
        let figures = ledger.figures(None, 0).await.expect("the store is there");
        assert_eq!((figures.accepted, figures.pulled, figures.skipped, figures.refused), (51, 31, 18, 0));
        assert_eq!(told(&ledger, &store, 81).await[0].state, State::Pulled);
        assert_eq!(told(&ledger, &store, 82).await[0].state, State::Skipped);
        node.stop().await;
    })
    .await;
}

#[test]
fn a_cursor_comes_back_as_it_was() {
    let cursor = Cursor(store::ledger::Cursor { position: Position(7), event: EventNid(9) });
    assert_eq!(cursor.to_string().parse(), Ok(cursor));
    assert_eq!(serde_json::to_string(&cursor).expect("it is JSON"), "\"7.9\"");
    for bad in ["", "7", "7.", "7.9.1", "x.9"] {
        assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad}");
    }
}

// === the arithmetic ===

/// Waits until nothing is left to remember of any destination.
async fn all_well(ledger: &Ledger) {
    let began = std::time::Instant::now();
    while !ledger.destinations().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "it stays so: {:?}", ledger.destinations());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A server and a destination or two, to whom anything may happen.
struct World<'a> {
    store: Store,
    listener: &'a Listener,
    way: Arc<Script>,
    node: Option<Node>,
    dice: StdRng,
    /// To whom each event was owed; events are numbered from 1 on.
    owed: BTreeMap<i64, OwnedServerName>,
    /// What is known of each event. What is pruned stays here.
    states: BTreeMap<i64, State>,
    /// Events whose rows are gone.
    pruned: BTreeSet<i64>,
    /// Events that were answered since the last rest, and then the server crashed.
    doubtful: BTreeSet<i64>,
}

impl World<'_> {
    async fn start(&mut self) {
        let config = FederationConfig { catch_up_after: Duration::ZERO, catch_up_over: 10, ..quick() };
        let node = Node::start(&self.store, self.listener, &self.way, config).await;
        // As the ledger does first when it runs.
        node.sender.ledger().shared.records.load().await.expect("the store is there");
        self.node = Some(node);
    }

    fn node(&self) -> &Node {
        self.node.as_ref().expect("it runs")
    }

    fn ledger(&self) -> Ledger {
        self.node().sender.ledger()
    }

    async fn owe_some(&mut self) {
        for _ in 0..self.dice.random_range(1..40) {
            let nid = self.owed.len() as i64 + 1;
            let to = match self.dice.random_range(0..4) {
                0 => owned_server_name!("c.test"),
                _ => owned_server_name!("b.test"),
            };
            let room = RoomNid(self.dice.random_range(0..ROOMS));
            owe_event_made_at(&self.store, &to, room, nid, now()).await.expect("it is written");
            self.owed.insert(nid, to);
        }
    }

    fn plan_some(&mut self) {
        const ACTS: [Act; 5] = [Act::Take, Act::TakeSome, Act::LoseAnswer, Act::Away, Act::Away];
        let acts: Vec<Act> =
            (0..self.dice.random_range(0..6)).map(|_| ACTS[self.dice.random_range(0..ACTS.len())]).collect();
        self.way.plan(&acts);
    }

    async fn crash(&mut self) {
        // At any moment.
        tokio::time::sleep(Duration::from_millis(self.dice.random_range(0..20))).await;
        self.node.take().expect("it runs").crash().await;
        // What a process that has died was about to write is written by then, or never: this store lives on.
        settled(&self.store).await;
        for heard in self.way.heard() {
            let unsettled = heard.numbers().into_iter().filter(|nid| !self.states.contains_key(nid));
            self.doubtful.extend(unsettled);
        }
        self.start().await;
    }

    /// What the destination said of an event last: it is sent again only if an earlier answer left no trace.
    fn last_answer(&self, nid: i64) -> Option<State> {
        let heard = self.way.heard();
        let of_it = |heard: &&crate::tests::Heard| {
            matches!(heard.act, Act::Take | Act::TakeSome) && heard.numbers().contains(&nid)
        };
        let last = heard.iter().rev().find(of_it)?;
        assert_eq!(last.to, self.owed[&nid], "an event went to somebody else");
        Some(if last.act == Act::TakeSome && nid % 3 == 0 { State::Refused } else { State::Accepted })
    }

    /// Looks at all events whose outcome isn't known yet. Nothing is queued.
    async fn rest(&mut self) {
        self.node().all_delivered().await;
        all_well(&self.ledger()).await;
        settled(&self.store).await;
        for nid in 1..=self.owed.len() as i64 {
            if self.states.contains_key(&nid) {
                continue;
            }
            let told = told(&self.ledger(), &self.store, nid).await;
            assert_eq!(told.len(), 1, "{nid}: {told:?}");
            assert_eq!(told[0].server, self.owed[&nid]);
            let expected = self.last_answer(nid).unwrap_or(State::Skipped);
            let is_right =
                told[0].state == expected || (self.doubtful.contains(&nid) && told[0].state == State::Skipped);
            assert!(is_right, "{nid} is {:?} and should be {expected:?}", told[0]);
            assert_eq!(told[0].reason.as_deref(), (told[0].state == State::Refused).then_some(NOT_THIS));
            self.states.insert(nid, told[0].state);
        }
        self.doubtful.clear();
    }

    async fn fetch_some(&mut self) {
        let count = self.owed.len() as i64;
        let some: BTreeSet<i64> =
            (0..self.dice.random_range(0..20)).map(|_| self.dice.random_range(1..=count)).collect();
        for server in [server_name!("b.test"), server_name!("c.test")] {
            let nids: Vec<EventNid> = some.iter().copied().map(EventNid).collect();
            self.ledger().fetched(server, &nids).await;
            settled(&self.store).await;
        }
        for nid in some.difference(&self.pruned) {
            let state = self.states.get_mut(nid).expect("all are known");
            if matches!(state, State::Refused | State::Skipped) {
                *state = State::Pulled;
            }
        }
    }

    async fn prune(&mut self) {
        let stop = CancellationToken::new();
        self.ledger().prune(now() + crate::millis(self.node().keep()) + 1_000, &stop).await.expect("it is pruned");
        self.pruned.extend(self.states.keys());
    }

    async fn check(&self) {
        let ledger = self.ledger();
        let mut each = ledger.figures_of_each(0).await.expect("the store is there");
        each.push(ledger.figures(None, 0).await.expect("the store is there"));
        for figures in each {
            let is_of = |nid: &i64| figures.server.as_ref().is_none_or(|server| *server == self.owed[nid]);
            let count = |wanted: State| {
                self.states.iter().filter(|(nid, state)| is_of(nid) && **state == wanted).count() as u64
            };
            let counted = [figures.accepted, figures.refused, figures.skipped, figures.pulled, figures.queued];
            let states = [State::Accepted, State::Refused, State::Skipped, State::Pulled, State::Queued];
            assert_eq!(counted, states.map(count), "of {:?}", figures.server);
            assert_eq!(counted.iter().sum::<u64>(), self.owed.keys().filter(|nid| is_of(nid)).count() as u64);
            let delivered = (figures.accepted + figures.pulled) as f64 * 100.0 / counted.iter().sum::<u64>() as f64;
            assert_eq!(figures.delivered_percent, Some(delivered));
        }
    }

    /// Reads all pages: each event that isn't pruned is there once, or twice if it was pulled.
    async fn check_export(&self) {
        let (mut after, mut seen): (_, BTreeMap<OwnedEventId, Vec<State>>) = Default::default();
        loop {
            let page = self.ledger().export(after, 37).await.expect("the store is there");
            let Some(last) = page.last() else { break };
            after = last.cursor;
            for entry in page {
                seen.entry(entry.event_id).or_default().push(entry.state);
            }
        }
        let left: Vec<_> = self.states.iter().filter(|(nid, _)| !self.pruned.contains(nid)).collect();
        assert_eq!(seen.len(), left.len());
        for (nid, state) in left {
            let rows = &seen[&event_id(&self.store, *nid).await];
            assert_eq!(rows.last(), Some(state), "{nid}");
            assert_eq!(rows.len(), if *state == State::Pulled { 2 } else { 1 }, "{nid}: {rows:?}");
        }
    }
}

#[tokio::test]
async fn the_ledgers_arithmetic_equals_the_events() {
    const ROUNDS: usize = 10;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    on_each(async |store, listener, way| {
        make_rooms(&store).await;
        let mut world = World {
            store,
            listener: &listener,
            way,
            node: None,
            dice: StdRng::seed_from_u64(seed),
            owed: BTreeMap::new(),
            states: BTreeMap::new(),
            pruned: BTreeSet::new(),
            doubtful: BTreeSet::new(),
        };
        world.start().await;
        let stop = CancellationToken::new();
        for _ in 0..ROUNDS {
            world.plan_some();
            world.owe_some().await;
            for _ in 0..world.dice.random_range(0..3) {
                world.crash().await;
                world.owe_some().await;
            }
            world.rest().await;
            world.fetch_some().await;
            world.check().await;
            match world.dice.random_range(0..4) {
                0 => world.prune().await,
                1 | 2 => world.ledger().sum_up(&stop).await.expect("it is summed up"),
                _ => {}
            }
            world.check().await;
            world.check_export().await;
        }
        let kinds: BTreeSet<String> = world.states.values().map(|state| format!("{state:?}")).collect();
        println!("{} events came to {kinds:?}", world.states.len());
        world.node.take().expect("it runs").stop().await;
    })
    .await;
}
