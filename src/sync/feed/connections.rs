//! Who is connected to this node, on which device, and how they are told that it is to end.
//!
//! Whichever protocol a connection speaks, it has its place here. Where nodes share a cache, it also stands there which device is
//! connected to which node.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use fabric::{Cache, cache::Key};
use futures_util::{StreamExt as _, stream};
use metrics::gauge;
use model::{Kind, Millis, Refusal};
use ruma::{OwnedUserId, UserId};
use tokio::sync::Notify;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::now;

/// How often it is said again in the cache who is connected, and how long that counts there.
const SAY_EVERY: Duration = Duration::from_secs(30);
const SAID_LASTS: Duration = Duration::from_secs(100);
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

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Sessions of its user have ended: is its own among them?
    Check,
    /// It is to end.
    End(Ending),
}

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server ends.
    GoingAway,
    /// An administrator wants it so.
    Forced,
    /// Its device has connected anew, and there was no place for both.
    Superseded,
}

/// A connection as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenConnection {
    /// Whose.
    pub user_id: OwnedUserId,
    /// From which device.
    pub device_id: String,
    /// By which protocol.
    pub protocol: &'static str,
    /// From where.
    pub address: IpAddr,
    /// Since when, milliseconds since 1970.
    pub since: Millis,
}

/// Everybody who is connected to this node. Cheap to clone.
#[derive(Clone)]
pub struct Connections {
    shared: Arc<Shared>,
}

struct Shared {
    config: ConnectionsConfig,
    state: Mutex<State>,
    /// Where it is said who is connected, and what this node is called there.
    said_in: OnceLock<(Cache, Arc<str>)>,
    /// Cancelled when the server ends.
    ending: CancellationToken,
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

/// What is to be told, as bits, and that there is something.
#[derive(Default)]
struct Signal {
    words: AtomicU8,
    told: Notify,
}

const CHECK: u8 = 1;
const FORCED: u8 = 2;
const SUPERSEDED: u8 = 4;

impl Signal {
    fn tell(&self, word: u8) {
        self.words.fetch_or(word, Ordering::AcqRel);
        self.told.notify_one();
    }
}

/// A place among the connected. It is free again when this is dropped.
pub struct Connection {
    shared: Arc<Shared>,
    user_id: OwnedUserId,
    device_id: String,
    number: u64,
    signal: Arc<Signal>,
    _open: TaskTrackerToken,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(config: ConnectionsConfig, ending: CancellationToken) -> Self {
        let (state, said_in, open) = (Mutex::default(), OnceLock::new(), TaskTracker::new());
        Self { shared: Arc::new(Shared { config, state, said_in, ending, open }) }
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
            user_id: user_id.to_owned(),
            device_id: device_id.to_owned(),
            protocol,
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
    fn free(&self, user_id: &UserId, device_id: &str, number: u64) -> bool {
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

// === impl Connection ===

impl Connection {
    /// Says in the cache that the device is connected here.
    pub async fn say(&self) {
        if let Some((cache, node)) = self.shared.said_in.get() {
            let _ = cache.put_field(&Key::sessions(&self.user_id), &self.device_id, node, SAID_LASTS).await;
        }
    }

    /// Waits until there is something to be told. May be dropped at any moment.
    pub async fn told(&self) -> Word {
        loop {
            let words = self.signal.words.swap(0, Ordering::AcqRel);
            if words & FORCED != 0 {
                return Word::End(Ending::Forced);
            }
            if words & SUPERSEDED != 0 {
                return Word::End(Ending::Superseded);
            }
            if words & CHECK != 0 {
                return Word::Check;
            }
            tokio::select! {
                biased;
                () = self.shared.ending.cancelled() => return Word::End(Ending::GoingAway),
                () = self.signal.told.notified() => {}
            }
        }
    }

    /// Gives the place back, and says so in the cache.
    pub async fn leave(self) {
        let has_another = self.shared.free(&self.user_id, &self.device_id, self.number);
        if let (false, Some((cache, _))) = (has_another, self.shared.said_in.get()) {
            let _ = cache.remove_field(&Key::sessions(&self.user_id), &self.device_id).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.free(&self.user_id, &self.device_id, self.number);
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn connections(most: usize, most_of_user: usize) -> Connections {
        Connections::new(ConnectionsConfig { most, most_of_user }, CancellationToken::new())
    }

    async fn word_to(connection: &Connection) -> Option<Word> {
        tokio::time::timeout(Duration::from_millis(20), connection.told()).await.ok()
    }

    #[tokio::test]
    async fn there_are_so_many_places_for_all_and_for_each() {
        let connections = connections(3, 2);
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
        let enter = |user_id: &UserId, device: &str| connections.enter(user_id, device, "test", HOME);
        let _phone = enter(alice, "PHONE").expect("there is a place");
        let laptop = enter(alice, "LAPTOP").expect("there is a place");
        assert_eq!(enter(alice, "TABLET").err(), Some(Crowded::User(2)));
        let _bob = enter(bob, "PHONE").expect("there is a place");
        assert_eq!(enter(user_id!("@carol:a.test"), "PHONE").err(), Some(Crowded::Server));

        // The same device connects again: its old connection, which may be dead, makes way.
        let again = enter(alice, "LAPTOP").expect("it is the same device");
        assert_eq!(word_to(&laptop).await, Some(Word::End(Ending::Superseded)));
        assert_eq!(connections.count(), 3);
        drop(laptop);
        assert_eq!(connections.count(), 3, "its place was given on already");
        drop(again);
        assert_eq!(connections.count(), 2);
        enter(alice, "TABLET").expect("there is a place again");
    }

    #[tokio::test]
    async fn who_is_to_end_or_to_check_is_told_and_nobody_else_is() {
        let connections = connections(9, 9);
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
        let enter = |user_id: &UserId, device: &str| {
            connections.enter(user_id, device, "test", HOME).expect("there is a place")
        };
        let (phone, laptop, other) = (enter(alice, "PHONE"), enter(alice, "LAPTOP"), enter(bob, "PHONE"));
        connections.check(Some(alice));
        assert_eq!(word_to(&phone).await, Some(Word::Check));
        assert_eq!(word_to(&laptop).await, Some(Word::Check));
        assert_eq!(word_to(&other).await, None);
        assert_eq!(word_to(&phone).await, None, "it is told once");
        assert_eq!(connections.disconnect(alice, Some("PHONE")), 1);
        assert_eq!(word_to(&phone).await, Some(Word::End(Ending::Forced)));
        assert_eq!(word_to(&laptop).await, None);
        connections.shared.ending.cancel();
        assert_eq!(word_to(&laptop).await, Some(Word::End(Ending::GoingAway)));
        drop((phone, laptop, other));
        tokio::time::timeout(Duration::from_secs(5), connections.ended(Duration::from_secs(9)))
            .await
            .expect("all left");
    }

    #[tokio::test]
    async fn it_stands_in_the_cache_which_device_is_connected_where() {
        let connections = connections(9, 9);
        let cache = Cache::in_process();
        connections.say_in(cache.clone(), "n1".into());
        let alice = user_id!("@alice:a.test");
        let enter = |device: &str| connections.enter(alice, device, "test", HOME).expect("there is a place");
        let (phone, again, laptop) = (enter("PHONE"), enter("PHONE"), enter("LAPTOP"));
        for connection in [&phone, &again, &laptop] {
            connection.say().await;
        }
        let said = async || cache.fields(&Key::sessions(alice)).await.expect("it is in memory");
        let pair = |device: &str| (device.to_owned(), "n1".to_owned());
        assert_eq!(said().await, [pair("LAPTOP"), pair("PHONE")]);
        phone.leave().await;
        assert_eq!(said().await, [pair("LAPTOP"), pair("PHONE")], "it has another");
        again.leave().await;
        assert_eq!(said().await, [pair("LAPTOP")]);
    }
}
