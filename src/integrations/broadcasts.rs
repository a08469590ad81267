//! What people are told by those who run the systems they use: to all, to a domain, to those with a role, or to a list of people;
//! now or at a moment, until they run out or are called back; here, and by full peers.
//!
//! A broadcast is one row, however many it is for. Whether it is for somebody is decided when that somebody looks, or when a
//! notice is due (`notices`); who has read it is a row for each reader, or the reader's marker.

mod across;
mod audience;
mod draft;
mod error;
mod reading;
mod receive;
mod schedule;

use std::{sync::Arc, time::Duration};

use model::{Change, Committed, Millis, Position};
use peers::Peers;
use ruma::{OwnedServerName, ServerName};
use serde_json::Value;
use store::{
    Store, Write, broadcast_deliveries,
    broadcasts::{self, BroadcastRow, Counts},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;
use users::Users;

use crate::{now, system_events::Severity};

pub use across::Told;
pub use audience::{Audience, Person};
pub use draft::{Draft, Priority};
pub use error::BroadcastError;
pub use reading::{Page, Seen, Wanted};
pub use receive::PeerBroadcast;

/// How broadcasts are kept, and from whom they are taken.
#[derive(Clone, Debug)]
pub struct BroadcastsConfig {
    /// Whether what full peers broadcast is shown here.
    pub from_peers: bool,
    /// For how long they are kept.
    pub keep: Duration,
}

impl Default for BroadcastsConfig {
    fn default() -> Self {
        Self { from_peers: true, keep: Duration::from_hours(365 * 24) }
    }
}

/// How a broadcast is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It will be published.
    Scheduled,
    /// It holds.
    Published,
    /// It has run out.
    Expired,
    /// It was called back.
    Cancelled,
}

impl State {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Published => "published",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// What is stored of it.
    pub row: BroadcastRow,
    /// Whom it is for.
    pub audience: Audience,
}

impl Broadcast {
    /// How it is at a moment.
    pub fn state_at(&self, now: Millis) -> State {
        let has_expired = self.row.expires_at.is_some_and(|at| at <= now);
        match (self.row.cancelled_at, self.row.position) {
            (Some(_), _) => State::Cancelled,
            _ if has_expired => State::Expired,
            (None, None) => State::Scheduled,
            (None, Some(_)) => State::Published,
        }
    }

    /// How it is now.
    pub fn state(&self) -> State {
        self.state_at(now())
    }
}

impl From<BroadcastRow> for Broadcast {
    fn from(row: BroadcastRow) -> Self {
        // What can't be read is for nobody.
        Self { audience: serde_json::from_str(&row.audience).unwrap_or(Audience::Users { users: Vec::new() }), row }
    }
}

/// Broadcasts. Cheap to clone.
#[derive(Clone)]
pub struct Broadcasts {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    peers: Peers,
    users: Arc<Users>,
    config: BroadcastsConfig,
    /// Told whenever one may have been published or called back.
    changed: watch::Sender<()>,
    /// Something is to be published earlier than was thought.
    news: Notify,
    /// What is on its way to peers.
    outgoing: across::Outgoing,
    /// Cancelled when who waits is to be answered with what there is.
    ending: CancellationToken,
}

impl Broadcasts {
    /// `ending`: cancelled when who waits is to be answered with what there is.
    pub fn new(
        store: Store,
        peers: Peers,
        users: Arc<Users>,
        config: BroadcastsConfig,
        ending: CancellationToken,
    ) -> Self {
        let (changed, news, outgoing) = (watch::Sender::new(()), Notify::new(), across::Outgoing::default());
        Self { shared: Arc::new(Shared { store, peers, users, config, changed, news, outgoing, ending }) }
    }

    /// Hears of a commit. Doesn't block.
    pub fn ingest(&self, committed: &Committed) {
        let is_news = |(_, change): &(Position, Change)| matches!(change, Change::Broadcast { .. });
        if committed.gap || committed.changes.iter().any(is_news) {
            self.shared.changed.send_replace(());
            self.shared.news.notify_one();
            self.shared.outgoing.look();
        }
    }

    /// Makes a broadcast of `author`'s, published at once unless it is scheduled, and answers when it is durable. The same again,
    /// by its id, changes nothing.
    pub async fn create(&self, author: &str, draft: Draft) -> Result<Broadcast, BroadcastError> {
        let us = self.shared.peers.server_name();
        if let Some(id) = &draft.id
            && let Some(known) = self.shared.store.broadcasts().find(id).await?
        {
            return draft.same_as(known, us);
        }
        let broadcast = draft.clone().checked(author, us, now())?;
        let mut write = Write::new();
        broadcasts::insert(&mut write, &broadcast.row);
        if broadcast.row.published_at.is_some() {
            self.owe_peers(&mut write, &broadcast).await?;
        }
        match self.shared.store.commit(write).await {
            Ok(_) => {}
            // Somebody was faster.
            Err(store::Error::Duplicate) => return draft.same_as(self.get(&broadcast.row.id).await?.row, us),
            Err(error) => return Err(error.into()),
        }
        self.shared.news.notify_one();
        info!(broadcast.id = broadcast.row.id, "{author} made a broadcast, {}", broadcast.row.id);
        self.get(&broadcast.row.id).await
    }

    /// Takes what another program published at the bus as `id`. `document`: a [`Draft`] as JSON.
    pub async fn take(&self, id: &str, author: &str, document: Value) -> Result<Broadcast, BroadcastError> {
        let draft: Draft =
            serde_json::from_value(document).map_err(|error| BroadcastError::Document(error.to_string()))?;
        self.create(author, Draft { id: Some(id.to_owned()), ..draft }).await
    }

    /// The broadcast called `id`, for those who make them.
    pub async fn get(&self, id: &str) -> Result<Broadcast, BroadcastError> {
        self.shared.store.broadcasts().find(id).await?.map(Broadcast::from).ok_or(BroadcastError::Unknown)
    }

    /// Up to `limit` of all, whatever became of them, those written last first, for those who make them.
    pub async fn list(&self, before: Option<Position>, limit: u32) -> Result<Vec<Broadcast>, BroadcastError> {
        let rows = self.shared.store.broadcasts().list(before.unwrap_or(Position(i64::MAX)), limit).await?;
        Ok(rows.into_iter().map(Broadcast::from).collect())
    }

    /// How many people here it is for, and how many have read it: counted now.
    pub async fn counts(&self, broadcast: &Broadcast) -> Result<Counts, BroadcastError> {
        let us = self.shared.peers.server_name();
        Ok(broadcast.audience.count(&self.shared.store, &broadcast.row, us).await?)
    }

    /// Calls a broadcast back: nobody is told any more, and who was told by a notice has it taken away. Once more does nothing.
    pub async fn cancel(&self, id: &str, by: &str) -> Result<(), BroadcastError> {
        let known = self.get(id).await?;
        if known.row.cancelled_at.is_some() {
            return Ok(());
        }
        let mut write = Write::new();
        broadcasts::cancel(&mut write, id, by, now());
        if known.row.origin == self.shared.peers.server_name() {
            broadcast_deliveries::cancel(&mut write, id, now());
        }
        self.shared.store.commit(write).await?;
        info!(broadcast.id = id, "{by} called a broadcast back, {id}");
        Ok(())
    }

    /// What other servers were told of it, a thousand at most, by name.
    pub async fn told(&self, id: &str) -> Result<Vec<Told>, BroadcastError> {
        const MOST: u32 = 1_000;
        let rows = self.shared.store.broadcast_deliveries().of(id, MOST).await?;
        Ok(rows.into_iter().map(Told::from).collect())
    }
}

/// What admins are told of a system event.
pub(crate) fn notice_to_admins(
    us: &ServerName,
    event_id: &str,
    title: String,
    body: String,
    severity: Severity,
) -> BroadcastRow {
    let now = now();
    let audience = Audience::Roles { roles: vec!["admin".to_owned()] };
    let priority = if severity >= Severity::Critical { Priority::Urgent } else { Priority::High };
    BroadcastRow {
        // Nobody who makes one can give it an id with a colon.
        id: format!("event:{event_id}"),
        origin: OwnedServerName::from(us),
        author: crate::system_events::SERVER.to_owned(),
        title: title.chars().take(draft::MAX_TITLE).collect(),
        body,
        html: None,
        priority: priority.as_str().to_owned(),
        audience: audience.json(),
        across: false,
        created_at: now,
        publish_at: now,
        expires_at: None,
        published_at: Some(now),
        cancelled_at: None,
        cancelled_by: None,
        created: Position(0),
        position: None,
        changed: None,
    }
}
