//! The one stream, as other programs are told of it: what happens here as messages, in order, for as many followers as there are.
//!
//! The stream itself is their outbox: each notes in the store how far it has come. So a follower costs the way of a message
//! nothing, and what was committed is passed on even after a crash, once or more often, with the same id.

mod duty;
mod follower;
mod recent;
mod render;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use fabric::bus::Message;
use model::{Committed, EventNid, Position, TimelineEvent};
use ruma::{OwnedServerName, OwnedUserId};
use store::Store;
use tokio::sync::watch;

use crate::now;
use recent::{After, News, Recent};

pub(crate) use duty::while_on_duty;
pub(crate) use follower::{FollowError, Follower, Lag};

/// How many positions are read at once to make up for what was missed.
const WINDOW: i64 = 5_000;

/// What happens here. Cheap to clone.
#[derive(Clone)]
pub struct Stream {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    us: OwnedServerName,
    /// Whether anybody follows: until then nothing is remembered.
    is_followed: AtomicBool,
    recent: Mutex<Recent>,
    /// The position up to which there may be something to tell.
    news: watch::Sender<Position>,
    /// The same, with what other programs aren't told.
    anything: watch::Sender<Position>,
}

/// A stretch of the stream.
pub(crate) struct Stretch {
    /// What is told of it.
    pub(crate) messages: Vec<Message>,
    /// It goes up to here.
    pub(crate) upto: Position,
}

/// A stretch of the stream, as far as it may notify somebody.
#[derive(Debug)]
pub(crate) struct Happened {
    /// Events in rooms.
    pub(crate) events: Vec<Arc<TimelineEvent>>,
    /// Memberships, invitations perhaps, of rooms that this server need not be in.
    pub(crate) outside: Vec<(Position, EventNid)>,
    /// Who of this server has read something.
    pub(crate) readers: Vec<OwnedUserId>,
    /// It goes up to here.
    pub(crate) upto: Position,
}

impl Stream {
    /// The stream of `us`, of which nothing was heard yet.
    pub fn new(store: Store, us: OwnedServerName) -> Self {
        let (recent, news, anything) = (Mutex::default(), watch::Sender::default(), watch::Sender::default());
        let is_followed = AtomicBool::new(false);
        Self { shared: Arc::new(Shared { store, us, is_followed, recent, news, anything }) }
    }

    /// Takes note of a commit. Quick, never waits.
    pub fn ingest(&self, committed: &Committed) {
        if !self.shared.is_followed.load(Ordering::Acquire) {
            return;
        }
        let heard = self.recent().ingest(committed, &self.shared.us);
        if heard.is_told {
            self.shared.news.send_replace(committed.upto);
        }
        if heard.is_anything {
            self.shared.anything.send_replace(committed.upto);
        }
    }

    /// Everything up to here was heard of.
    pub(crate) fn upto(&self) -> Position {
        self.recent().upto()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Hears whenever there may be something to tell.
    pub(crate) fn news(&self) -> watch::Receiver<Position> {
        self.shared.news.subscribe()
    }

    /// Hears of whatever may notify somebody, too.
    pub(crate) fn anything(&self) -> watch::Receiver<Position> {
        self.shared.anything.subscribe()
    }

    /// From now on every commit is heard of; whatever is visible already is read. Answers up to where that is.
    pub(crate) async fn begin(&self) -> Result<Position, store::Error> {
        self.shared.is_followed.store(true, Ordering::Release);
        let visible = self.shared.store.visible_position().await?;
        self.recent().begin(visible);
        Ok(visible)
    }

    /// What comes after `at`, about `most` messages at once.
    pub(crate) async fn after(&self, at: Position, most: usize) -> Result<Stretch, store::Error> {
        let after = self.recent().after(at, most);
        match after {
            After::News(news, upto) => Ok(Stretch { messages: self.render(news).await?, upto: upto.max(at) }),
            After::Forgotten(floor) => self.read(at, floor).await,
        }
    }

    /// What comes after `at` that may notify somebody, about `most` things at once.
    pub(crate) async fn happened(&self, at: Position, most: usize) -> Result<Happened, store::Error> {
        let after = self.recent().after(at, most);
        let (news, upto) = match after {
            After::News(news, upto) => (news, upto.max(at)),
            After::Forgotten(floor) => return self.read_happened(at, floor).await,
        };
        let mut happened = Happened { events: Vec::new(), outside: Vec::new(), readers: Vec::new(), upto };
        for (position, news) in news {
            match news {
                News::Event(event) => happened.events.push(match event.position {
                    Position(0) => Arc::new(TimelineEvent { position, ..(*event).clone() }),
                    _ => event,
                }),
                News::Outside(event) => happened.outside.push((position, event.nid)),
                News::Read(user_id) => happened.readers.push(user_id),
                News::Presence(_) | News::SystemEvent(_) | News::Broadcast(_) => {}
            }
        }
        Ok(happened)
    }

    async fn read_happened(&self, at: Position, floor: Position) -> Result<Happened, store::Error> {
        let upto = Position(floor.0.min(at.0.saturating_add(WINDOW)));
        let (followers, pushers) = (self.shared.store.followers(), self.shared.store.pushers());
        Ok(Happened {
            events: followers.events(at, upto).await?,
            outside: pushers.invitations(at, upto).await?,
            readers: pushers.readers(at, upto).await?,
            upto,
        })
    }

    async fn render(&self, news: Vec<(Position, News)>) -> Result<Vec<Message>, store::Error> {
        let mut messages = Vec::with_capacity(news.len());
        for (position, news) in news {
            match news {
                News::Event(event) => messages.extend(render::event(&self.shared.us, &event, position.0)),
                News::Presence(user_id) => {
                    let row = self.shared.store.presence().find(&user_id).await?;
                    messages.extend(row.and_then(|row| render::presence(&self.shared.us, &row, now())));
                }
                News::SystemEvent(id) => {
                    let row = self.shared.store.system_events().find(&id).await?;
                    messages.extend(row.and_then(|row| render::system_event(&self.shared.us, &row)));
                }
                News::Broadcast(id) => {
                    let row = self.shared.store.broadcasts().find(&id).await?;
                    messages.extend(row.and_then(|row| render::broadcast(&self.shared.us, &row)));
                }
                News::Outside(_) | News::Read(_) => {}
            }
        }
        Ok(messages)
    }

    /// What came after `at`, from the store.
    async fn read(&self, at: Position, floor: Position) -> Result<Stretch, store::Error> {
        let upto = Position(floor.0.min(at.0.saturating_add(WINDOW)));
        let followers = self.shared.store.followers();
        let us = &self.shared.us;
        let mut found = Vec::new();
        for event in followers.events(at, upto).await? {
            found.push((event.position, render::event(us, &event, event.position.0)));
        }
        for row in followers.presence(at, upto).await? {
            found.push((row.position, render::presence(us, &row, now())));
        }
        // Each has a position of its own, so there are no more than positions.
        let most = u32::try_from(WINDOW).unwrap_or(u32::MAX);
        for row in self.shared.store.system_events().after(at, most).await? {
            found.push((row.position, render::system_event(us, &row)));
        }
        for row in self.shared.store.broadcasts().after(at, most).await? {
            found.push((row.position.unwrap_or_default(), render::broadcast(us, &row)));
        }
        found.retain(|(position, _)| *position <= upto);
        found.sort_by_key(|(position, _)| *position);
        Ok(Stretch { messages: found.into_iter().filter_map(|(_, message)| message).collect(), upto })
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
