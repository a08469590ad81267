//! The sender against a destination that does as it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use model::{Committed, RoomNid, SigningKey};
use peers::{Failure, PeerError, testing::alone};
use rooms::{Rooms, RoomsConfig};
use ruma::{
    OwnedEventId, OwnedServerName, RoomVersionId, ServerName,
    api::federation::transactions::send_transaction_message::v1::{Request, Response},
    server_name,
};
use serde_json::Value;
use store::{
    OnCommit, Store,
    testing::{on_each_engine_heard, owe_event},
};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use users::{Users, UsersConfig};

use crate::{Curves, FederationConfig, Sender, Way};

pub(crate) const LONG: Duration = Duration::from_secs(20);
/// So long that a test which waits for it fails.
const NEVER: Duration = Duration::from_secs(3_600);

/// What the destination does with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Takes it.
    Take,
    /// Takes it, but for the messages whose numbers three divides.
    TakeSome,
    /// Takes it, and the answer is lost.
    LoseAnswer,
    /// Can't be connected to.
    Away,
    /// Answers with an HTTP status.
    Refuse(u16),
    /// Says nothing until it is told to, and then takes it.
    Hang,
}

/// A destination that does as it is told, and takes what it was told nothing about.
#[derive(Default)]
pub(crate) struct Script {
    acts: Mutex<VecDeque<Act>>,
    heard: Mutex<Vec<Heard>>,
    news: Notify,
    released: Notify,
}

/// A transaction that reached the destination, or would have.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) to: OwnedServerName,
    pub(crate) act: Act,
    id: String,
    pdus: Vec<Value>,
    edus: Vec<Value>,
}

impl Heard {
    /// The numbers of its messages.
    pub(crate) fn numbers(&self) -> Vec<i64> {
        self.pdus.iter().filter_map(|pdu| pdu["content"]["n"].as_i64()).collect()
    }
}

impl Script {
    pub(crate) fn plan(&self, acts: &[Act]) {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner).extend(acts);
    }

    /// Ends one [`Act::Hang`].
    pub(crate) fn release(&self) {
        self.released.notify_one();
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until that many transactions were tried.
    pub(crate) async fn tried(&self, count: usize) -> Vec<Heard> {
        let enough = async {
            loop {
                let news = self.news.notified();
                let heard = self.heard();
                if heard.len() >= count {
                    return heard;
                }
                news.await;
            }
        };
        timeout(LONG, enough).await.unwrap_or_else(|_| panic!("{count} transactions, but {:?}", self.heard()))
    }
}

impl Way for Script {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request,
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<Response, PeerError>> {
        Box::pin(async move {
            let act = self.acts.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Act::Take);
            let parse = |json: &str| serde_json::from_str(json).expect("it is JSON");
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(Heard {
                to: destination.to_owned(),
                act,
                id: request.transaction_id.to_string(),
                pdus: request.pdus.iter().map(|pdu| parse(pdu.get())).collect(),
                edus: request.edus.iter().map(|edu| parse(edu.json().get())).collect(),
            });
            self.news.notify_one();
            let server = destination.to_owned();
            let broken = |failure| PeerError::Unreachable { server: server.clone(), failure, source: None };
            match act {
                Act::Take => Ok(Response::new(BTreeMap::new())),
                Act::TakeSome => Ok(Response::new(refuse_some(&request))),
                Act::LoseAnswer => Err(broken(Failure::Broken)),
                Act::Away => Err(broken(Failure::Connect)),
                Act::Refuse(status) => {
                    let message = "no".to_owned();
                    Err(PeerError::Refused { server, status, errcode: None, message, retry_after: None })
                }
                Act::Hang => {
                    self.released.notified().await;
                    Ok(Response::new(BTreeMap::new()))
                }
            }
        })
    }
}

/// Why [`Act::TakeSome`] refuses.
pub(crate) const NOT_THIS: &str = "not this one";

fn refuse_some(request: &Request) -> BTreeMap<OwnedEventId, Result<(), String>> {
    let rules = model::rules_of(&RoomVersionId::V11).expect("it is known");
    let answers = request.pdus.iter().map(|pdu| {
        let event: Value = serde_json::from_str(pdu.get()).expect("it is JSON");
        let is_refused = event["content"]["n"].as_i64().is_some_and(|number| number % 3 == 0);
        let object = serde_json::from_value(event).expect("it is canonical");
        let pdu = model::Pdu::from_canonical(object, &rules).expect("it is an event");
        (pdu.event_id, if is_refused { Err(NOT_THIS.to_owned()) } else { Ok(()) })
    });
    answers.collect()
}

/// A server that sends.
pub(crate) struct Node {
    pub(crate) store: Store,
    way: Arc<Script>,
    pub(crate) sender: Sender,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

pub(crate) type Listener = Arc<Mutex<Option<Sender>>>;

/// Hears of commits, and tells whichever sender there is.
fn listener() -> (OnCommit, Listener) {
    let sender = Listener::default();
    let heard = sender.clone();
    let on_commit = Arc::new(move |committed: Committed| {
        if let Some(sender) = &*heard.lock().unwrap_or_else(PoisonError::into_inner) {
            sender.ingest(&committed);
        }
    });
    (on_commit, sender)
}

pub(crate) fn quick() -> FederationConfig {
    let curve = (Duration::from_millis(10), Duration::from_millis(50));
    let curves = Curves { away: curve, rate_limited: curve, unwanted: curve, ours: curve };
    FederationConfig { curves, ..FederationConfig::default() }
}

pub(crate) fn patient() -> FederationConfig {
    let curve = (NEVER, NEVER);
    FederationConfig { curves: Curves { away: curve, rate_limited: curve, unwanted: curve, ours: curve }, ..quick() }
}

/// A Write after which all earlier ones have taken effect.
pub(crate) fn barrier() -> store::Write {
    let mut write = store::Write::new();
    write.position();
    write
}

impl Node {
    pub(crate) async fn start(store: &Store, listener: &Listener, way: &Arc<Script>, config: FederationConfig) -> Self {
        let name = server_name!("a.test");
        let key = SigningKey::from_seed(name.to_owned(), "test", &[7; 32]).expect("any seed makes a key");
        let peers = alone(name, store.clone());
        let rooms = Rooms::new(store.clone(), peers.clone(), Arc::new(key), RoomsConfig::default());
        let users = Users::open(UsersConfig::default(), store.clone(), peers).await.expect("the store is there");
        let sender = Sender::new(store.clone(), rooms, users, way.clone(), config);
        *listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        let stop = CancellationToken::new();
        let (running, until) = (sender.clone(), stop.clone());
        let running = tokio::spawn(async move { running.run(until).await });
        Self { store: store.clone(), way: way.clone(), sender, stop, running }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(LONG, self.running).await.expect("it stops soon").expect("it doesn't panic");
    }

    /// How long its ledger keeps rows.
    pub(crate) fn keep(&self) -> Duration {
        self.sender.shared.config.ledger_keep
    }

    /// Ends in the middle of whatever it does.
    pub(crate) async fn crash(self) {
        self.running.abort();
        let _ = self.running.await;
        self.stop.cancel();
        // What it had handed to the store takes effect before anything else does.
        self.store.commit(barrier()).await.expect("the store is there");
    }

    async fn owe(&self, room: i64, nid: i64) {
        owe_event(&self.store, server_name!("b.test"), RoomNid(room), nid).await.expect("it is written");
    }

    /// Waits until nothing is owed any more.
    pub(crate) async fn all_delivered(&self) {
        let empty = async {
            while self.store.outbox().length().await.expect("the store is there") > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, empty).await.unwrap_or_else(|_| panic!("still owed after {:?}", self.way.heard()));
    }
}

pub(crate) async fn on_each(story: impl AsyncFn(Store, Listener, Arc<Script>)) {
    on_each_engine_heard(listener, async |store, listener| {
        story(store, listener, Arc::default()).await;
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn events_go_out_in_order_fifty_at_a_time_without_what_is_noted_beside_them() {
    on_each(async |store, listener, way| {
        for nid in 1..=120 {
            owe_event(&store, server_name!("b.test"), RoomNid(nid % 3), nid).await.expect("it is written");
        }
        let node = Node::start(&store, &listener, &way, quick()).await;
        node.all_delivered().await;
        let heard = way.heard();
        assert_eq!(heard.iter().map(|heard| heard.pdus.len()).collect::<Vec<_>>(), [50, 50, 20]);
        assert_eq!(heard.iter().flat_map(Heard::numbers).collect::<Vec<_>>(), (1..=120).collect::<Vec<_>>());
        assert!(heard[0].pdus[0].get("unsigned").is_none());
        node.owe(1, 121).await;
        node.all_delivered().await;
        assert_eq!(way.heard()[3].numbers(), [121]);
        node.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_repeats_the_same_transaction_even_after_a_restart() {
    on_each(async |store, listener, way| {
        way.plan(&[Act::LoseAnswer, Act::LoseAnswer]);
        let node = Node::start(&store, &listener, &way, patient()).await;
        node.owe(1, 1).await;
        way.tried(1).await;
        node.owe(1, 2).await;
        assert_eq!(store.outbox().length().await.expect("the store is there"), 2);
        node.stop().await;

        let node = Node::start(&store, &listener, &way, quick()).await;
        node.sender.alive(server_name!("b.test"));
        // What was noted of the destination is read before it is woken, or it is woken in vain.
        while way.heard().len() < 2 {
            node.sender.alive(server_name!("b.test"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        node.all_delivered().await;
        let heard = way.heard();
        assert_eq!((&heard[0].id, heard[0].numbers()), (&heard[1].id, vec![1]));
        assert_eq!((&heard[0].id, heard[1].numbers(), heard[2].numbers()), (&heard[2].id, vec![1], vec![1]));
        assert_eq!(heard[3].numbers(), [2]);
        assert_ne!(heard[0].id, heard[3].id);
        node.stop().await;
    })
    .await;
}

#[tokio::test]
async fn who_is_stopped_in_the_middle_goes_on_with_the_same_transaction() {
    on_each(async |store, listener, way| {
        way.plan(&[Act::Hang]);
        let node = Node::start(&store, &listener, &way, patient()).await;
        node.owe(1, 1).await;
        way.tried(1).await;
        node.stop().await;
        let node = Node::start(&store, &listener, &way, quick()).await;
        node.owe(1, 2).await;
        node.all_delivered().await;
        let heard = way.heard();
        assert_eq!((&heard[0].id, heard[1].numbers()), (&heard[1].id, vec![1]));
        node.stop().await;
    })
    .await;
}

#[tokio::test]
async fn who_is_away_is_left_alone_until_it_speaks_and_harms_nobody_else() {
    on_each(async |store, listener, way| {
        way.plan(&[Act::Away]);
        let node = Node::start(&store, &listener, &way, patient()).await;
        node.owe(1, 1).await;
        way.tried(1).await;
        node.owe(1, 2).await;
        owe_event(&store, server_name!("c.test"), RoomNid(1), 3).await.expect("it is written");
        assert_eq!(way.tried(2).await[1].numbers(), [3], "b.test waits");
        node.sender.alive(server_name!("b.test"));
        node.all_delivered().await;
        assert_eq!(way.heard()[2].numbers(), [1, 2]);
        assert!(store.destinations().list().await.expect("the store is there").is_empty());
        node.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_destination_refuses_is_found_and_set_aside() {
    on_each(async |store, listener, way| {
        for nid in 1..=3 {
            owe_event(&store, server_name!("b.test"), RoomNid(1), nid).await.expect("it is written");
        }
        way.plan(&[Act::Refuse(400); 9]);
        let node = Node::start(&store, &listener, &way, quick()).await;
        node.all_delivered().await;
        let heard = way.heard();
        assert!(heard[1..9].iter().all(|heard| heard.numbers() == [1]), "{heard:?}");
        assert_eq!(heard[9..].iter().flat_map(Heard::numbers).collect::<Vec<_>>(), [2, 3]);
        node.stop().await;
    })
    .await;
}

#[tokio::test]
async fn after_a_long_absence_each_room_is_told_by_its_latest_event() {
    on_each(async |store, listener, way| {
        let config = FederationConfig { catch_up_after: Duration::ZERO, catch_up_over: 10, ..quick() };
        for nid in 1..=100 {
            owe_event(&store, server_name!("b.test"), RoomNid(nid % 4), nid).await.expect("it is written");
        }
        way.plan(&[Act::Away]);
        let node = Node::start(&store, &listener, &way, config).await;
        node.all_delivered().await;
        let heard = way.heard();
        assert_eq!(heard[1].numbers().len(), 50, "the first to arrive shows that it is back");
        assert_eq!(heard[2].numbers(), [100, 99, 98, 97]);
        node.owe(1, 101).await;
        node.all_delivered().await;
        assert_eq!(way.heard()[3].numbers(), [101]);
        assert!(store.destinations().list().await.expect("the store is there").is_empty());
        node.stop().await;
    })
    .await;
}

#[tokio::test]
async fn who_takes_all_it_was_owed_at_once_has_nothing_to_catch_up_with() {
    on_each(async |store, listener, way| {
        let config = FederationConfig { catch_up_after: Duration::ZERO, catch_up_over: 10, ..quick() };
        for nid in 1..=30 {
            owe_event(&store, server_name!("b.test"), RoomNid(nid % 4), nid).await.expect("it is written");
        }
        way.plan(&[Act::Away]);
        let node = Node::start(&store, &listener, &way, config).await;
        node.all_delivered().await;
        assert_eq!(way.heard()[1].numbers().len(), 30);
        let well = async {
            while !node.sender.ledger().destinations().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, well).await.expect("nothing is left to remember of it");
        node.stop().await;
    })
    .await;
}

#[tokio::test]
async fn messages_to_devices_stay_until_they_arrive() {
    on_each(async |store, listener, way| {
        way.plan(&[Act::Away]);
        let mut write = store::Write::new();
        store::outbox::push_to_device(&mut write, server_name!("b.test"), r#"{"message_id":"one"}"#);
        store.commit(write).await.expect("it is written");
        let node = Node::start(&store, &listener, &way, quick()).await;
        let heard = way.tried(2).await;
        assert_eq!(heard[1].edus[0]["edu_type"], "m.direct_to_device");
        assert_eq!(heard[1].edus[0]["content"]["message_id"], "one");
        let gone = async {
            while !store.outbox().destinations().await.expect("the store is there").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, gone).await.expect("what arrived is owed no more");
        node.stop().await;
    })
    .await;
}
