//! Somebody who is told everything, in order.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use fabric::bus::Message;
use futures_util::future::BoxFuture;
use model::Position;
use store::{Write, followers};
use tokio::time::{Instant, timeout};

use super::Stream;
use crate::now;

/// How often it is noted at most how far a follower has come: after a crash, what came in this time is told again.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// One who follows the stream, and how far it has come.
pub(crate) struct Follower {
    stream: Stream,
    /// Its name in the store.
    name: Cow<'static, str>,
    /// How many messages it takes at once.
    at_once: usize,
    at: Arc<AtomicI64>,
    noted: Position,
    noted_when: Instant,
}

/// How far a follower is behind, for whoever looks while it follows.
pub(crate) struct Lag {
    stream: Stream,
    at: Arc<AtomicI64>,
}

impl Lag {
    /// How many positions it is behind.
    pub(crate) fn positions(&self) -> i64 {
        (self.stream.upto().0 - self.at.load(Relaxed)).max(0)
    }
}

/// Why following stopped for now.
#[derive(Debug)]
pub(crate) enum FollowError<E> {
    /// What is to be told can't be read.
    Store(store::Error),
    /// Whoever is to be told doesn't take it.
    Told(E),
}

impl<E> From<store::Error> for FollowError<E> {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl Follower {
    /// Takes up where `name` stopped; whoever was never there begins now.
    pub(crate) async fn begin(stream: Stream, name: Cow<'static, str>, at_once: usize) -> Result<Self, store::Error> {
        let visible = stream.begin().await?;
        let store = stream.store();
        let at = match store.followers().position(&name).await? {
            Some(at) => at,
            None => {
                let mut write = Write::new();
                followers::begin(&mut write, &name, visible, now());
                store.commit(write).await?;
                visible
            }
        };
        Ok(Self { stream, name, at_once, at: Arc::new(AtomicI64::new(at.0)), noted: at, noted_when: Instant::now() })
    }

    /// How far it has come.
    pub(crate) fn at(&self) -> Position {
        Position(self.at.load(Relaxed))
    }

    /// How far it is behind, now and from now on.
    pub(crate) fn lag(&self) -> Lag {
        Lag { stream: self.stream.clone(), at: self.at.clone() }
    }

    /// Tells everything that is new by `tell`, then waits for more, and returns when there is some. Where `tell` fails, the same
    /// is told again the next time.
    pub(crate) async fn pass<E>(
        &mut self,
        tell: &(dyn Fn(Vec<Message>) -> BoxFuture<'static, Result<(), E>> + Send + Sync),
    ) -> Result<(), FollowError<E>> {
        let mut news = self.stream.news();
        loop {
            news.mark_unchanged();
            let stretch = self.stream.after(self.at(), self.at_once).await?;
            if stretch.upto <= self.at() {
                break;
            }
            if !stretch.messages.is_empty() {
                tell(stretch.messages).await.map_err(FollowError::Told)?;
            }
            self.at.store(stretch.upto.0, Relaxed);
            if self.noted_when.elapsed() >= NOTE_EVERY {
                self.note().await?;
            }
        }
        // What was told last is noted when nothing more has come for a while. The stream's end is that of the process.
        if timeout(NOTE_EVERY, news.changed()).await.is_err() {
            self.note().await?;
            let _ = news.changed().await;
        }
        Ok(())
    }

    /// Writes down how far it has come.
    pub(crate) async fn note(&mut self) -> Result<(), store::Error> {
        self.noted_when = Instant::now();
        let at = self.at();
        if at > self.noted {
            let mut write = Write::new();
            followers::moved(&mut write, &self.name, at, now());
            self.stream.store().commit(write).await?;
            self.noted = at;
        }
        Ok(())
    }
}
