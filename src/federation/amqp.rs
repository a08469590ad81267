//! AMQP as the second transport of transactions: the same transaction, signed as JSON, published at this server's own broker and
//! carried to the peer's by a shovel or an upstream.
//!
//! **Invariant.** No broker is believed. What comes out of a peer's queue counts if the peer has signed it for this server, a moment
//! ago, and trust grants it; and it takes effect through the inbox that transactions over HTTPS go through, so that the same one
//! takes effect once whichever way it came and how often. What the peer is owed leaves the outbox when its signed response has
//! come back, whatever brokers confirmed before.
//!
//! [`Carrier`] is a [`Way`]: `out` sends, `inward` takes, `line` is what there is for one peer, `envelope` is the format. Which peers
//! have a line follows their rows: level `full`, or the capability `broadcasts`, and a `transport` other than `https`.
//!
//! Several nodes of one server share what a peer sends: each message is taken by one of them. A response is of use to the node that
//! waits for it, which nobody else knows, so each node hears a copy of every one. What a node had asked that is gone, whoever takes
//! over asks again, in the same words where the store has them.

mod auto;
mod bodies;
mod envelope;
mod inward;
mod line;
mod out;
mod pending;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use fabric::Broker;
use futures_util::future::BoxFuture;
use model::{
    SigningKey,
    peer::{Direction, PeerPattern, normal_name},
};
use peers::{PeerError, Peers, trust::Transport};
use ruma::{
    OwnedServerName, ServerName,
    api::federation::transactions::send_transaction_message::v1::{Request, Response},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Inbound, Way};
use inward::Inward;
use line::PeerLine;

pub use line::{LineStatus, WayStatus};

/// Sends transactions over HTTPS or the broker, and takes those that come over the broker. Cheap to clone.
#[derive(Clone)]
pub struct Carrier {
    shared: Arc<Shared>,
}

struct Shared {
    peers: Peers,
    inbound: Inbound,
    key: Arc<SigningKey>,
    broker: Option<Broker>,
    /// This node, where there may be several.
    node: Option<Arc<str>>,
    /// By the names of peers in lower case.
    lines: RwLock<HashMap<String, Arc<PeerLine>>>,
    on_up: OnceLock<OnUp>,
}

/// Is told of a peer to which something can be published again; must not wait.
pub type OnUp = Box<dyn Fn(&ServerName) + Send + Sync>;

/// What reads from a line, until it is stopped.
struct Reading {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Carrier {
    /// `key`: what this server signs with. `broker`: this server's own; without it everything goes over HTTPS. `node`: this one, where
    /// several may share the database.
    pub fn new(
        peers: Peers,
        inbound: Inbound,
        key: Arc<SigningKey>,
        broker: Option<Broker>,
        node: Option<Arc<str>>,
    ) -> Self {
        let (lines, on_up) = (RwLock::default(), OnceLock::new());
        Self { shared: Arc::new(Shared { peers, inbound, key, broker, node, lines, on_up }) }
    }

    /// Tells `listener` whenever the line to a peer is up; only the first who wants that is told.
    pub fn on_up(&self, listener: OnUp) {
        self.shared.on_up.set(listener).ok();
    }

    /// How the lines to peers are, in the order of their names.
    pub fn status(&self) -> Vec<LineStatus> {
        let mut statuses: Vec<_> = self.shared.all_lines().iter().map(|line| line.status()).collect();
        statuses.sort_by(|one, other| one.peer.cmp(&other.peer));
        statuses
    }

    /// Keeps the lines that the rows of peers ask for, until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        let trust = self.shared.peers.trust();
        let mut changes = trust.changes();
        let mut readings: HashMap<OwnedServerName, Reading> = HashMap::new();
        let mut complaints = BTreeSet::new();
        loop {
            let wanted = self.wanted(&mut complaints);
            let unwanted: Vec<_> = readings.keys().filter(|peer| !wanted.contains(*peer)).cloned().collect();
            for peer in unwanted {
                self.shared.lines().remove(&*normal_name(&peer));
                if let Some(reading) = readings.remove(&peer) {
                    info!(server.name = %peer, "nothing goes over the broker to or from {peer} any more");
                    reading.end().await;
                }
            }
            for peer in wanted {
                if !readings.contains_key(&peer)
                    && let Some(reading) = self.begin(&peer, &stop)
                {
                    readings.insert(peer, reading);
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = changes.changed() => if changed.is_err() { break },
            }
        }
        self.shared.lines().clear();
        for (_, reading) in readings {
            reading.end().await;
        }
    }

    /// The peers that a line is kept to. What admins have set and can't have is complained of, once.
    fn wanted(&self, complaints: &mut BTreeSet<String>) -> BTreeSet<OwnedServerName> {
        let trust = self.shared.peers.trust();
        let mut complained = BTreeSet::new();
        let mut wanted = BTreeSet::new();
        for (pattern, transport) in trust.transports() {
            let PeerPattern::Exact(peer) = pattern else { continue };
            if transport == Transport::Https {
                continue;
            }
            let is_granted = trust.may_carry(&peer, Direction::In) && trust.may_carry(&peer, Direction::Out);
            let problem = if self.shared.broker.is_none() {
                "`[bus] url` is not set"
            } else if !is_granted {
                "its level does not grant it `broadcasts`, which AMQP belongs to"
            } else {
                wanted.insert(peer);
                continue;
            };
            if transport == Transport::Amqp && trust.regard(&peer).standing == model::peer::Standing::Active {
                if !complaints.contains(peer.as_str()) {
                    warn!(server.name = %peer, problem, "nothing can be sent to {peer}: its transport is `amqp`, and {problem}");
                }
                complained.insert(peer.to_string());
            }
        }
        *complaints = complained;
        wanted
    }

    fn begin(&self, peer: &ServerName, stop: &CancellationToken) -> Option<Reading> {
        let line = Arc::new(PeerLine::new(self.shared.broker.as_ref()?, peer, self.shared.node.as_deref())?);
        self.shared.lines().insert(normal_name(peer).into_owned(), line.clone());
        let stop = stop.child_token();
        let (shared, until) = (self.shared.clone(), stop.clone());
        let inward = Arc::new(Inward::new(shared.clone(), line.clone()));
        // With `auto` there need be no link, and nobody wants to hear that there is none.
        let is_asked_for = shared.peers.trust().transport(peer) == Transport::Amqp;
        let task = tokio::spawn(async move {
            let heeding = heed(&shared, &line);
            let handler = Arc::new(move |message| -> BoxFuture<'static, _> {
                let inward = inward.clone();
                Box::pin(async move { inward.handle(message).await })
            });
            if !is_asked_for {
                tokio::select! {
                    () = until.cancelled() => return,
                    () = line.wire.made() => {}
                }
            }
            tokio::select! {
                () = line.wire.keep(&until, handler) => {}
                () = heeding => {}
            }
        });
        Some(Reading { stop, task })
    }
}

/// Tells whoever waits to send something whenever the line is up.
async fn heed(shared: &Shared, line: &PeerLine) {
    let mut ready = line.wire.watch();
    while ready.changed().await.is_ok() {
        if *ready.borrow_and_update()
            && let Some(listener) = shared.on_up.get()
        {
            listener(&line.peer);
        }
    }
    std::future::pending().await
}

impl Reading {
    async fn end(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

impl Shared {
    fn lines(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<PeerLine>>> {
        self.lines.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_lines(&self) -> Vec<Arc<PeerLine>> {
        self.lines.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn line(&self, peer: &ServerName) -> Option<Arc<PeerLine>> {
        let lines = self.lines.read().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() { None } else { lines.get(&*normal_name(peer)).cloned() }
    }
}

impl Way for Carrier {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Response, PeerError>> {
        Box::pin(self.shared.clone().carry(destination, request, timeout))
    }
}
