//! Who is connected to this node, on which device, and how they are told that it is to end.
//!
//! Whichever protocol a connection speaks, it has its place here. Where nodes share a cache, it also stands there which device is
//! connected to which node.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use fabric::{Cache, cache::Key};
use futures_util::{StreamExt as _, stream};
use metrics::gauge;
use model::{Kind, Millis, Refusal};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{CHECK, Connection, FORCED, SUPERSEDED, Signal},
    elsewhere::OtherNodes,
};
use crate::now;

/// How often it is said again in the cache who is connected, and how long that counts there.
const SAY_EVERY: Duration = Duration::from_secs(30);
pub(super) const SAID_LASTS: Duration = Duration::from_secs(100);
/// Of so many at once.
const AT_ONCE: usize = 16;

/// How many may be connected.
#[derive(Clone, Debug)]
pub struct ConnectionsConfig {
    /// To this node.
    pub most: usize,
    /// Of one user, to this node.
    pub most_of_user: usize,
}

impl Default for ConnectionsConfig {
    fn default() -> Self {
        Self { most: 20_000, most_of_user: 20 }
    }
}

/// There is no place for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// On this node.
    #[error("this server has as many connections as it takes; try again later")]
    Server,
    /// For this user.
    #[error("you have {0} connections open already, which is as many as one may have")]
    User(usize),
}

impl Refusal for Crowded {
    fn kind(&self) -> Kind {
        match self {
            Self::Server => Kind::Unavailable,
            Self::User(_) => Kind::RateLimited,
        }
    }

    fn code(&self) -> Option<&'static str> {
        Some("too_many_connections")
    }

    fn remedy(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn retry_after_ms(&self) -> Option<u64> {
        Some(5_000)
    }
}

/// A connection as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenConnection {
    /// This node's number of it.
    pub number: u64,
    /// Whose.
    pub user_id: OwnedUserId,
    /// From which device.
    pub device_id: String,
    /// By which protocol.
    pub protocol: Cow<'static, str>,
    /// From where.
    pub address: IpAddr,
    /// Since when, milliseconds since 1970.
    pub since: Millis,
}

/// Everybody who is connected to this node. Cheap to clone.
#[derive(Clone)]
pub struct Connections {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    config: ConnectionsConfig,
    state: Mutex<State>,
    /// Where it is said who is connected, and what this node is called there.
    pub(super) said_in: OnceLock<(Cache, Arc<str>)>,
    /// How the other nodes are asked, where there may be some.
    pub(super) others: OnceLock<Arc<dyn OtherNodes>>,
    /// Cancelled when the server ends.
    pub(super) ending: CancellationToken,
    open: TaskTracker,
}

#[derive(Default)]
struct State {
    total: usize,
    next: u64,
    users: HashMap<OwnedUserId, Vec<Open>>,
}

struct Open {
    number: u64,
    is: OpenConnection,
    signal: Arc<Signal>,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(config: ConnectionsConfig, ending: CancellationToken) -> Self {
        let (state, said_in, others, open) = (Mutex::default(), OnceLock::new(), OnceLock::new(), TaskTracker::new());
        Self { shared: Arc::new(Shared { config, state, said_in, others, ending, open }) }
    }

    /// From now on it stands in `cache` who is connected to this node, which is called `node` there.
    pub fn say_in(&self, cache: Cache, node: Arc<str>) {
        self.shared.said_in.get_or_init(|| (cache, node));
    }

    /// Takes a place. Where a user has as many as one may have, the oldest of the same device makes way.
    pub fn enter(
        &self,
        user_id: &UserId,
        device_id: &str,
        protocol: &'static str,
        address: IpAddr,
    ) -> Result<Connection, Crowded> {
        let shared = &self.shared;
        let signal = Arc::new(Signal::default());
        let mut state = shared.lock();
        let open = state.users.get_mut(user_id);
        if let Some(open) = open.filter(|open| open.len() >= shared.config.most_of_user) {
            let oldest = open.iter().position(|open| open.is.device_id == device_id);
            let oldest = oldest.map(|at| open.remove(at)).ok_or(Crowded::User(shared.config.most_of_user))?;
            oldest.signal.tell(SUPERSEDED);
            state.total -= 1;
        }
        if state.total >= shared.config.most {
            return Err(Crowded::Server);
        }
        state.total += 1;
        state.next += 1;
        let number = state.next;
        let is = OpenConnection {
            number,
            user_id: user_id.to_owned(),
            device_id: device_id.to_owned(),
            protocol: protocol.into(),
            address,
            since: now(),
        };
        state.users.entry(user_id.to_owned()).or_default().push(Open { number, is, signal: signal.clone() });
        gauge!("comity_realtime_connections").set(state.total as f64);
        let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
        Ok(Connection { shared: shared.clone(), user_id, device_id, number, signal, _open: shared.open.token() })
    }

    /// Sessions of a user, or of anybody, may have ended: each connection sees for itself.
    pub fn check(&self, user_id: Option<&UserId>) {
        let state = self.shared.lock();
        let tell = |open: &Vec<Open>| open.iter().for_each(|open| open.signal.tell(CHECK));
        match user_id {
            Some(user_id) => state.users.get(user_id).into_iter().for_each(tell),
            None => state.users.values().for_each(tell),
        }
    }

    /// Ends the connections of a user, or of one device. Answers how many there are on this node.
    pub fn disconnect(&self, user_id: &UserId, device_id: Option<&str>) -> usize {
        let state = self.shared.lock();
        let open = state.users.get(user_id).into_iter().flatten();
        let ended = open.filter(|open| device_id.is_none_or(|device_id| open.is.device_id == device_id));
        ended.map(|open| open.signal.tell(FORCED)).count()
    }

    /// Ends the connections from these addresses. Answers how many there are on this node.
    pub fn disconnect_from(&self, is_meant: impl Fn(IpAddr) -> bool) -> usize {
        let state = self.shared.lock();
        let ended = state.users.values().flatten().filter(|open| is_meant(open.is.address));
        ended.map(|open| open.signal.tell(FORCED)).count()
    }

    /// The connections to this node, oldest first, `limit` at most.
    pub fn list(&self, user_id: Option<&UserId>, limit: usize) -> Vec<OpenConnection> {
        let state = self.shared.lock();
        let users = state.users.iter().filter(|(of, _)| user_id.is_none_or(|user_id| **of == *user_id));
        let mut open: Vec<(u64, OpenConnection)> =
            users.flat_map(|(_, open)| open.iter().map(|open| (open.number, open.is.clone()))).collect();
        open.sort_unstable_by_key(|(number, _)| *number);
        open.truncate(limit);
        open.into_iter().map(|(_, open)| open).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shared.lock().total
    }

    /// Waits until nobody is connected any more, for `patience` at most. Called when the server ends.
    pub async fn ended(&self, patience: Duration) {
        self.shared.open.close();
        if tokio::time::timeout(patience, self.shared.open.wait()).await.is_err() {
            tracing::warn!("{} connections were still open when the server ended", self.count());
        }
    }

    /// Says again and again in the cache who is connected, until the server ends.
    pub async fn tend(&self, stop: CancellationToken) {
        let Some((cache, node)) = self.shared.said_in.get() else { return };
        let mut tick = tokio::time::interval(SAY_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let all = self.list(None, usize::MAX);
            stream::iter(all)
                .for_each_concurrent(AT_ONCE, |open| async move {
                    let key = Key::sessions(&open.user_id);
                    // Away: it is said again the next time.
                    let _ = cache.put_field(&key, &open.device_id, node, SAID_LASTS).await;
                })
                .await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees a place, if it isn't yet. Answers whether its device has another one.
    pub(super) fn free(&self, user_id: &UserId, device_id: &str, number: u64) -> bool {
        let mut state = self.lock();
        let Some(open) = state.users.get_mut(user_id) else { return false };
        let before = open.len();
        open.retain(|open| open.number != number);
        let is_freed = open.len() < before;
        let has_another = open.iter().any(|open| open.is.device_id == device_id);
        if open.is_empty() {
            state.users.remove(user_id);
        }
        if is_freed {
            state.total -= 1;
        }
        gauge!("comity_realtime_connections").set(state.total as f64);
        has_another
    }
}

#[cfg(test)]
mod tests;
