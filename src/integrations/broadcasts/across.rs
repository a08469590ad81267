//! Broadcasts on their way to full peers: each server is owed each of them until it has taken it, refused it, or too much time has
//! gone by.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use model::{
    Address, Millis,
    peer::{Capability, Context, Decision, decide},
};
use peers::{NativeRequest, PeerError, Scope};
use rand::RngExt as _;
use ruma::{OwnedServerName, ServerName, UserId};
use serde::Deserialize;
use store::{
    Write,
    broadcast_deliveries::{self as deliveries, DeliveryRow},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Broadcast, Broadcasts, PeerBroadcast, Priority};
use crate::now;

/// Where a server takes them.
const PATH: &str = "/api/v1/federation/broadcasts";
/// How many servers one broadcast goes to at most.
const MOST_SERVERS: u32 = 10_000;
/// How many are looked up together …
const AT_ONCE: u32 = 100;
/// … and told side by side.
const SIDE_BY_SIDE: usize = 8;
/// How often it is looked whether something is owed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long an attempt may take before another node makes the next one.
const ATTEMPT: Millis = 2 * 60_000;
/// After how long a server that did not take it is told again, at first …
const SOONEST: Millis = 2_000;
/// … and at most.
const LATEST: Millis = 60 * 60_000;
/// What becomes of it in the end, if all is well.
const TAKEN: &str = "taken";
/// For how long it is tried.
const PATIENCE: Millis = 7 * 24 * 60 * 60_000;

/// What became of a broadcast at another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which server.
    pub server: OwnedServerName,
    /// Whether it is being told that the broadcast was called back.
    pub is_cancel: bool,
    /// When it took it, or it was given up; `None`: it is owed.
    pub done_at: Option<Millis>,
    /// What came of it; of what is owed: why it failed last.
    pub outcome: Option<String>,
    /// How often it was tried.
    pub attempts: i64,
}

impl From<DeliveryRow> for Told {
    fn from(row: DeliveryRow) -> Self {
        let DeliveryRow { server, is_cancel, done_at, outcome, attempts, .. } = row;
        Self { server, is_cancel, done_at, outcome, attempts }
    }
}

/// What this process knows of what is on its way.
#[derive(Default)]
pub(super) struct Outgoing {
    servers: Mutex<Servers>,
    news: Notify,
}

#[derive(Default)]
struct Servers {
    /// Those that did not take something lately.
    away: HashSet<OwnedServerName>,
    /// Those of them that have shown to be there.
    back: HashSet<OwnedServerName>,
}

impl Outgoing {
    pub(super) fn look(&self) {
        self.news.notify_one();
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer of which nothing matters but that it came.
#[derive(Deserialize)]
struct Taken {}

impl Broadcasts {
    /// `server` has just sent an authenticated request: it is there. Doesn't wait.
    pub fn alive(&self, server: &ServerName) {
        let mut servers = self.shared.outgoing.servers();
        if let Some(server) = servers.away.take(server) {
            servers.back.insert(server);
            self.shared.outgoing.look();
        }
    }

    /// Owes a broadcast that is being published to the servers that it is for.
    pub(super) async fn owe_peers(&self, write: &mut Write, broadcast: &Broadcast) -> Result<(), store::Error> {
        let peers = &self.shared.peers;
        if !broadcast.row.across || broadcast.row.origin != peers.server_name() || !peers.is_enabled() {
            return Ok(());
        }
        let servers = match broadcast.audience.servers() {
            // Whoever was named and is not trusted so far is told of by what became of it.
            Some(servers) => servers,
            None => {
                let known = self.shared.store.broadcast_deliveries().known_servers(MOST_SERVERS).await?;
                let known = known.into_iter().filter_map(|name| OwnedServerName::try_from(name).ok());
                known.filter(|server| self.may_tell(server)).collect()
            }
        };
        for server in servers.iter().filter(|server| !peers.is_us(server)) {
            deliveries::insert(write, &broadcast.row.id, server, now());
        }
        Ok(())
    }

    fn may_tell(&self, server: &ServerName) -> bool {
        let regard = self.shared.peers.trust().regard(server);
        matches!(decide(&regard, Capability::Broadcasts, &Context::outbound()), Decision::Allow(_))
    }

    /// Tells peers what they are owed, until `stop` is cancelled.
    pub(super) async fn tell_peers(&self, stop: CancellationToken) {
        if !self.shared.peers.is_enabled() {
            return;
        }
        // Those who were away when an earlier process ended.
        match self.shared.store.broadcast_deliveries().owed_servers(MOST_SERVERS).await {
            Ok(servers) => self.shared.outgoing.servers().away.extend(servers),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "could not look up who is owed broadcasts"),
        }
        loop {
            let told = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                told = self.tell_due() => told,
            };
            if let Err(error) = told {
                warn!(error = &error as &dyn std::error::Error, "could not look up which broadcasts peers are owed");
            }
            let next = Duration::from_millis(SOONEST.unsigned_abs());
            let has_failed = !self.shared.outgoing.servers().away.is_empty();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.shared.outgoing.news.notified() => {}
                () = tokio::time::sleep(if has_failed { next } else { LOOK_EVERY }) => {}
            }
        }
    }

    async fn tell_due(&self) -> Result<(), store::Error> {
        let store = &self.shared.store;
        let back = std::mem::take(&mut self.shared.outgoing.servers().back);
        if !back.is_empty() {
            let mut write = Write::new();
            back.iter().for_each(|server| deliveries::wake(&mut write, server, now()));
            store.commit(write).await?;
        }
        loop {
            let due = store.broadcast_deliveries().due(now(), AT_ONCE).await?;
            let is_last = due.len() < AT_ONCE as usize;
            let mut telling = stream::iter(due).map(|row| self.tell(row)).buffer_unordered(SIDE_BY_SIDE);
            while let Some(told) = telling.next().await {
                told?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Makes one attempt, unless another node does.
    async fn tell(&self, owed: DeliveryRow) -> Result<(), store::Error> {
        let store = &self.shared.store;
        let claim = format!("{:032x}", rand::random::<u128>());
        let mut write = Write::new();
        deliveries::claim(&mut write, &owed, &claim, now() + ATTEMPT);
        store.commit(write).await?;
        let row = store.broadcast_deliveries().find(&owed.broadcast_id, &owed.server).await?;
        let Some(row) = row.filter(|row| row.claim.as_ref() == Some(&claim)) else { return Ok(()) };
        let Some(broadcast) = store.broadcasts().find(&row.broadcast_id).await?.map(Broadcast::from) else {
            return Ok(());
        };
        let (outcome, is_done) = match self.attempt(&row, &broadcast).await {
            Ok(()) => (TAKEN.to_owned(), true),
            Err(Failed::For(why)) => (why, true),
            Err(Failed::Now(why)) => (why, false),
        };
        let is_away = !is_done;
        match is_away {
            true => drop(self.shared.outgoing.servers().away.insert(row.server.clone())),
            false => drop(self.shared.outgoing.servers().away.remove(&row.server)),
        }
        info!(server.name = %row.server, broadcast.id = row.broadcast_id, attempt = row.attempts, "told of a broadcast: {outcome}");
        let mut write = Write::new();
        deliveries::note(&mut write, &row, &outcome, is_done.then(now), now() + pause(row.attempts));
        if outcome == TAKEN {
            // It is there: whatever else it is owed need not wait.
            deliveries::wake(&mut write, &row.server, now());
            self.shared.outgoing.look();
        }
        store.commit(write).await.map(drop)
    }

    async fn attempt(&self, row: &DeliveryRow, broadcast: &Broadcast) -> Result<(), Failed> {
        let now = now();
        let has_ended = broadcast.row.expires_at.is_some_and(|at| at <= now);
        let began = broadcast.row.cancelled_at.or(broadcast.row.published_at).unwrap_or(broadcast.row.publish_at);
        if has_ended || began + PATIENCE <= now {
            return Err(Failed::For("given up: it took too long".to_owned()));
        }
        let trust = self.shared.peers.trust();
        if let Err(error) = trust.allow(&row.server, Capability::Broadcasts, &Context::outbound()) {
            return Err(Failed::For(format!("not told: {error}")));
        }
        let Some(told) = told(broadcast, row) else {
            return Err(Failed::For("not told: it is for nobody there".into()));
        };
        let subject = self.shared.peers.server_name().as_str();
        let request = NativeRequest { path: PATH, subject, scope: Scope::Broadcasts, body: &told };
        match self.shared.peers.post_native::<_, Taken>(&row.server, request).await {
            Ok(Taken {}) => Ok(()),
            Err(error @ PeerError::Refused { status: 400 | 403 | 404 | 405 | 409 | 413, .. }) => {
                Err(Failed::For(format!("refused: {error}")))
            }
            Err(error) => {
                debug!(server.name = %row.server, error = &error as &dyn std::error::Error, "a peer could not be told");
                Err(Failed::Now(error.to_string()))
            }
        }
    }
}

/// Why a server did not take it.
enum Failed {
    /// It may take it later.
    Now(String),
    /// It never will.
    For(String),
}

/// How long to wait after so many attempts, about.
fn pause(attempts: i64) -> Millis {
    let doublings = u32::try_from(attempts.clamp(1, 16) - 1).unwrap_or_default();
    let pause = (SOONEST << doublings).min(LATEST);
    pause + rand::rng().random_range(0..=pause / 4)
}

/// A broadcast as a server is told; `None`: it is for nobody there.
fn told(broadcast: &Broadcast, to: &DeliveryRow) -> Option<PeerBroadcast> {
    let row = &broadcast.row;
    let author = <&UserId>::try_from(row.author.as_str()).map(|user_id| Address::from(user_id).to_string());
    Some(PeerBroadcast {
        id: row.id.clone(),
        author: author.unwrap_or_else(|_| row.origin.to_string()),
        title: row.title.clone(),
        body: row.body.clone(),
        html: row.html.clone(),
        priority: serde_json::from_value(row.priority.as_str().into()).unwrap_or(Priority::Normal),
        audience: broadcast.audience.at(&to.server)?,
        published_at: row.published_at.unwrap_or(row.publish_at),
        expires_at: row.expires_at,
        cancelled: row.cancelled_at.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_take_it_is_asked_less_and_less_often() {
        assert!((SOONEST..=SOONEST * 5 / 4).contains(&pause(1)));
        assert!((SOONEST * 8..=SOONEST * 10).contains(&pause(4)));
        assert!(pause(60) <= LATEST * 5 / 4);
    }
}
