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
use ruma::{OwnedServerName, ServerName};
use serde::Serialize;

use super::{auto::Auto, envelope::Kind, pending::Pending};
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
}

impl PeerLine {
    /// `None`: the peer's name is too long for AMQP.
    pub(super) fn new(broker: &Broker, peer: &ServerName) -> Option<Self> {
        Some(Self {
            peer: peer.to_owned(),
            wire: Line::new(broker, peer)?,
            pending: Mutex::default(),
            auto: Mutex::default(),
            seen: quick_cache::sync::Cache::new(SEEN),
            figures: Figures::default(),
        })
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn auto(&self) -> MutexGuard<'_, Auto> {
        self.auto.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_sent(&self) {
        self.figures.sent.fetch_add(1, Ordering::Relaxed);
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
