//! Several nodes on one database: each hears at once of what the others commit, and does its share of what only one may do.
//!
//! What is said is a pointer, and what it points to is read from the database. It is said over the cache that nodes share, and where
//! there is none, or it is away, over the broker. When neither is there, the store looks by itself once a second.

mod asking;

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fabric::{
    Broker, Cache, WakeUps,
    cache::{News, Subscription},
};
use federation::{Bridge, Sender};
use model::{Committed, Position};
use rand::Rng as _;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use store::{Store, duties::Duties};
use sync::{
    Sync,
    feed::{NodeQuestion, NodeReply, OtherNodes},
};
use tokio::{
    sync::{Notify, broadcast, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use users::Users;

use asking::{Asked, Asking};

/// Where nodes talk.
const CHANNEL: &str = "im:nodes";
/// Between two looks: what is said meanwhile is one look.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);
/// How often it is said of one server that it is there.
const BETWEEN_SIGNS_OF_LIFE: Duration = Duration::from_secs(5);
/// Of how many servers it is remembered when that was said.
const MOST_SERVERS: usize = 10_000;
/// How many words wait to be said.
const UNSAID: usize = 256;

/// What tells a node from the others.
pub(crate) struct Name {
    name: Arc<str>,
    /// Locked for as long as the node runs.
    _file: Option<File>,
}

impl Name {
    /// The name that is kept in `data_dir`, so that a node that is started again takes up at once what it left. Another one, if a
    /// process that runs has that one.
    pub(crate) fn of(data_dir: &Path) -> Self {
        let path = data_dir.join("node");
        match Self::keep(&path) {
            Ok(name) => name,
            Err(error) => {
                let (error, path) = (&error as &dyn std::error::Error, path.display().to_string());
                warn!(error, path, "the node's name can't be kept; after a restart it is another one");
                Self { name: new_name().into(), _file: None }
            }
        }
    }

    fn keep(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        file.try_lock()?;
        let mut name = String::new();
        io::Read::by_ref(&mut file).take(64).read_to_string(&mut name)?;
        if name.len() != 16 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            name = new_name();
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(name.as_bytes())?;
            file.sync_all()?;
        }
        Ok(Self { name: name.into(), _file: Some(file) })
    }
}

fn new_name() -> String {
    format!("{:016x}", rand::rng().next_u64())
}

/// What one node says to the others. Who doesn't hear it finds out later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// It has committed something; up to this position everything can be read.
    Committed(i64),
    /// A server has just sent an authenticated request: it is there, for whoever has something to send to it.
    Alive(OwnedServerName),
    /// Sessions of a user have ended.
    Ended(OwnedUserId),
    /// It wants to know something of all others.
    Asks { number: u64, question: NodeQuestion },
    /// What it was asked by the node `asker` under that number.
    Answers { number: u64, asker: String, reply: NodeReply },
}

#[derive(Serialize, Deserialize)]
struct Said<'a> {
    node: Cow<'a, str>,
    word: Word,
}

/// Whom it concerns what other nodes say.
pub(crate) struct Listeners {
    pub(crate) store: Store,
    pub(crate) users: Arc<Users>,
    pub(crate) sync: Sync,
    pub(crate) sender: Sender,
    pub(crate) bridge: Bridge,
}

/// This node among the others. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Nodes {
    cache: Cache,
    /// The other way to talk.
    bus: Option<WakeUps>,
    name: Arc<Name>,
    committed: watch::Sender<Position>,
    words: broadcast::Sender<Word>,
    /// When it was last said of a server that it is there.
    alive: Arc<Mutex<HashMap<OwnedServerName, Instant>>>,
    /// Who waits for what others answer.
    asked: Arc<Asked>,
}

impl Nodes {
    /// `broker`: this deployment's own, if it has one.
    pub(crate) fn new(cache: Cache, broker: Option<&Broker>, name: Name) -> Self {
        let (committed, words) = (watch::Sender::new(Position(0)), broadcast::Sender::new(UNSAID));
        let bus = broker.map(|broker| WakeUps::new(broker.clone(), name.name.clone()));
        Self { cache, bus, name: Arc::new(name), committed, words, alive: Arc::default(), asked: Arc::default() }
    }

    /// A process that uses the database of nodes and is none.
    pub(crate) fn none() -> Self {
        Self::new(Cache::in_process(), None, Name { name: new_name().into(), _file: None })
    }

    /// What tells this node from the others.
    pub(crate) fn name(&self) -> Arc<str> {
        self.name.name.clone()
    }

    /// Whether there is anything by which nodes talk.
    fn can_talk(&self) -> bool {
        self.cache.is_shared() || self.bus.is_some()
    }

    /// What the nodes share.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Takes this node's share of what only one node may do at a time, until `stop` is cancelled; then it goes to the others.
    pub(crate) async fn join(
        &self,
        store: &Store,
        stop: CancellationToken,
    ) -> Result<Option<JoinHandle<()>>, store::Error> {
        if !store.is_shared() {
            return Ok(None);
        }
        let mut tending = Duties::join(store, &self.name.name).await?;
        Ok(Some(tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tending.run() => {}
            }
            if let Err(error) = tending.leave().await {
                let error = &error as &dyn std::error::Error;
                warn!(error, "could not give back what was this node's to do; others will take it in a few seconds");
            }
        })))
    }

    // === what this node says; none of it blocks ===

    /// What is committed while the cache is told of something is told in one.
    pub(crate) fn ingest(&self, committed: &Committed) {
        if !committed.foreign {
            self.committed.send_replace(committed.upto);
        }
    }

    /// `server` is there, and another node may have something to send to it. Said of each server once in a while.
    pub(crate) fn alive(&self, server: &ServerName) {
        if !self.can_talk() {
            return;
        }
        let now = Instant::now();
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        if alive.get(server).is_some_and(|said| now.duration_since(*said) < BETWEEN_SIGNS_OF_LIFE) {
            return;
        }
        if alive.len() >= MOST_SERVERS {
            alive.clear();
        }
        alive.insert(server.to_owned(), now);
        drop(alive);
        let _ = self.words.send(Word::Alive(server.to_owned()));
    }

    /// Sessions of `user_id` have ended.
    pub(crate) fn ended(&self, user_id: &UserId) {
        // With nobody to say it, it is said to nobody.
        let _ = self.words.send(Word::Ended(user_id.to_owned()));
    }

    /// How the other nodes are asked something.
    pub(crate) fn others(&self, store: &Store) -> Arc<dyn OtherNodes> {
        Arc::new(Asking::new(self.clone(), store.clone()))
    }

    // === what is heard ===

    /// Tells the others, and hears of them, until `stop` is cancelled. What is said from now on is told once that runs.
    pub(crate) fn keep_in_touch(
        &self,
        listeners: Listeners,
        stop: CancellationToken,
    ) -> Option<impl Future<Output = ()> + use<>> {
        if !self.can_talk() || !listeners.store.is_shared() {
            return None;
        }
        let (nodes, words) = (self.clone(), self.words.subscribe());
        let (by_cache, by_bus) = (self.cache.subscribe(CHANNEL), self.bus.as_ref().map(WakeUps::subscribe));
        Some(async move {
            let looks = Notify::new();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = nodes.tell(words, &listeners.store) => {}
                () = nodes.hear(by_cache, &listeners, &looks) => {}
                () = nodes.hear_by_bus(by_bus, &listeners, &looks) => {}
                () = look(&listeners.store, &looks) => {}
                () = nodes.keep_bus(&stop) => {}
            }
        })
    }

    /// Keeps the way over the broker open, if there is one.
    async fn keep_bus(&self, stop: &CancellationToken) {
        match &self.bus {
            Some(bus) => bus.run(stop).await,
            None => std::future::pending().await,
        }
    }

    async fn tell(&self, mut words: broadcast::Receiver<Word>, store: &Store) {
        let mut committed = self.committed.subscribe();
        loop {
            let word = tokio::select! {
                Ok(()) = committed.changed() => Word::Committed(committed.borrow_and_update().0),
                word = words.recv() => match word {
                    Ok(word) => word,
                    // Of a server it is said again, and a session ends everywhere within a minute.
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            };
            let said = Said { node: Cow::Borrowed(&*self.name.name), word };
            if let Ok(said) = serde_json::to_string(&said) {
                self.say(&said, store).await;
            }
        }
    }

    /// What is said twice does no harm, but once is enough.
    async fn say(&self, said: &str, store: &Store) {
        if self.cache.is_shared() && self.cache.publish(CHANNEL, said).await.is_ok() {
            return;
        }
        if let Some(bus) = &self.bus
            && store.duties().has_others()
        {
            // Who doesn't hear it looks by itself.
            let _ = bus.say(said).await;
        }
    }

    async fn hear_by_bus(&self, heard: Option<Subscription>, listeners: &Listeners, looks: &Notify) {
        match heard {
            Some(heard) => self.hear(heard, listeners, looks).await,
            None => std::future::pending().await,
        }
    }

    async fn hear(&self, mut heard: Subscription, listeners: &Listeners, looks: &Notify) {
        while let Some(news) = heard.next().await {
            let News::Said(said) = news else {
                looks.notify_one();
                listeners.users.forget_sessions(None);
                listeners.sync.connections().check(None);
                continue;
            };
            let Ok(Said { node, word }) = serde_json::from_str(&said) else { continue };
            if *node == *self.name.name {
                continue;
            }
            match word {
                Word::Committed(_) => looks.notify_one(),
                Word::Alive(server) => {
                    listeners.sender.alive(&server);
                    listeners.bridge.alive(&server);
                }
                Word::Ended(user_id) => {
                    listeners.users.forget_sessions(Some(&user_id));
                    listeners.sync.connections().check(Some(&user_id));
                }
                Word::Asks { number, question } => {
                    let reply = listeners.sync.connections().answer(&question);
                    let _ = self.words.send(Word::Answers { number, asker: node.into_owned(), reply });
                }
                Word::Answers { number, asker, reply } if *asker == *self.name.name => self.asked.hear(number, reply),
                Word::Answers { .. } => {}
            }
        }
    }
}

/// Looks at the database whenever somebody says so.
async fn look(store: &Store, looks: &Notify) {
    loop {
        looks.notified().await;
        store.look();
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_name_and_nobody_else_has_it_meanwhile() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = Name::of(folder.path());
        let beside = Name::of(folder.path());
        assert_ne!(first.name, beside.name);
        let name = first.name.clone();
        drop(first);
        assert_eq!(Name::of(folder.path()).name, name);
    }
}
