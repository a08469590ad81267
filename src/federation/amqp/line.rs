//! What there is for one peer that the broker is a way to.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Instant,
};

use fabric::{Broker, Line, LinkState};
use metrics::{counter, gauge};
use model::Millis;
use peers::PeerError;
use ruma::{OwnedServerName, ServerName};
use serde::Serialize;

use super::{auto::Auto, bodies::ResponseBody, envelope::Kind, pending::Pending};
use crate::now;

/// How many envelopes are remembered as taken.
const SEEN: usize = 1_024;

pub(super) struct PeerLine {
    pub(super) peer: OwnedServerName,
    pub(super) wire: Line,
    pending: Mutex<Pending>,
    auto: Mutex<Auto>,
    /// Envelopes that were taken, by what tells one from another.
    pub(super) seen: quick_cache::sync::Cache<(Kind, String, Millis), ()>,
    /// Responses that were heard, as originals or as copies, by the same.
    heard: quick_cache::sync::Cache<(String, Millis), ()>,
    figures: Figures,
}

#[derive(Default)]
struct Figures {
    sent: AtomicU64,
    received: AtomicU64,
    refused: AtomicU64,
    /// When the peer last answered, or said something, over the broker.
    heard_at: AtomicI64,
    last_refusal: Mutex<Option<String>>,
    way: Mutex<WayStatus>,
}

/// How the line to a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LineStatus {
    /// Which peer.
    pub peer: OwnedServerName,
    /// `up`, `connecting` or `down`: the connection to this server's own broker.
    pub state: &'static str,
    /// Why it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// For how long, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_for: Option<u64>,
    /// Transactions and responses that were published since the server started.
    pub sent: u64,
    /// Transactions and responses that were taken.
    pub received: u64,
    /// Messages that were set aside.
    pub refused: u64,
    /// Why the last one of them was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<String>,
    /// Transactions that wait for a response.
    pub pending: usize,
    /// When the peer was heard last over the broker, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<Millis>,
    /// The way by which transactions to the peer get through at present.
    #[serde(flatten)]
    pub way: WayStatus,
}

/// The way that transactions to a peer go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WayStatus {
    /// `https` or `amqp`: by which the last one got through, if one did since the server started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<&'static str>,
    /// Since when they go this way, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_since: Option<Millis>,
    /// Which way was last tried in vain, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Millis>,
}

impl PeerLine {
    /// `node`: this one, where there may be several. `None`: the peer's name is too long for AMQP.
    pub(super) fn new(broker: &Broker, peer: &ServerName, node: Option<&str>) -> Option<Self> {
        Some(Self {
            peer: peer.to_owned(),
            wire: Line::new(broker, peer, node)?,
            pending: Mutex::default(),
            auto: Mutex::default(),
            seen: quick_cache::sync::Cache::new(SEEN),
            heard: quick_cache::sync::Cache::new(SEEN),
            figures: Figures::default(),
        })
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn auto(&self) -> MutexGuard<'_, Auto> {
        self.auto.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer has answered a transaction, in a response put into its envelope at `sent_at`. The same one counts once.
    pub(super) fn answered(&self, id: &str, body: ResponseBody, sent_at: Millis) {
        let key = (id.to_owned(), sent_at);
        let mut pending = self.pending();
        if self.heard.get(&key).is_none() {
            self.heard.insert(key, ());
            pending.answered(id, body, Instant::now());
        }
    }

    pub(super) fn note_sent(&self) {
        self.figures.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// What came of a transaction that went by `transport`. A refusal got through, too.
    pub(super) fn note_outcome<T>(&self, transport: &'static str, outcome: &Result<T, PeerError>) {
        let mut way = self.figures.way.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Err(error) if !matches!(error, PeerError::Refused { .. }) => {
                way.last_failure = Some(format!("{transport}: {error}"));
                way.failed_at = Some(now());
            }
            _ if way.transport != Some(transport) => {
                way.transport = Some(transport);
                way.transport_since = Some(now());
            }
            _ => {}
        }
    }

    /// The peer was heard: the way here is open.
    pub(super) fn note_received(&self, kind: Kind) {
        counter!("comity_federation_amqp_received_total", "kind" => kind.as_str()).increment(1);
        self.figures.received.fetch_add(1, Ordering::Relaxed);
        self.figures.heard_at.store(now(), Ordering::Relaxed);
        self.auto().amqp(true, Instant::now());
    }

    pub(super) fn note_refused(&self, reason: &'static str, detail: &str) {
        counter!("comity_federation_amqp_refused_total", "reason" => reason).increment(1);
        self.figures.refused.fetch_add(1, Ordering::Relaxed);
        let refusal = format!("{reason}: {detail}");
        *self.figures.last_refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    pub(super) fn status(&self) -> LineStatus {
        let (state, error, down_for) = match self.wire.state() {
            LinkState::New => ("connecting", None, None),
            LinkState::Up => ("up", None, None),
            LinkState::Down { since, error } => ("down", Some(error), Some(since.elapsed().as_secs())),
        };
        let figures = &self.figures;
        let heard_at = figures.heard_at.load(Ordering::Relaxed);
        LineStatus {
            peer: self.peer.clone(),
            state,
            error,
            down_for,
            sent: figures.sent.load(Ordering::Relaxed),
            received: figures.received.load(Ordering::Relaxed),
            refused: figures.refused.load(Ordering::Relaxed),
            last_refusal: figures.last_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            pending: self.pending().unanswered(),
            heard_at: (heard_at > 0).then_some(heard_at),
            way: figures.way.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Counts a transaction that waits, for as long as it does.
pub(super) struct Waiting;

impl Waiting {
    pub(super) fn begin() -> Self {
        gauge!("comity_federation_amqp_pending").increment(1.0);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        gauge!("comity_federation_amqp_pending").decrement(1.0);
    }
}
