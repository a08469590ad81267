//! Push: telling gateways, and mailboxes, what notifies people who aren't looking.
//!
//! **Invariant.** Only users who have pushers cost anything, and nothing of it is in the way of a send. One node, under a duty, follows
//! the stream ([`follow`]), asks the push rules of those who are in the room and have pushers, and puts what notifies into a queue, in
//! the Write that notes how far it has come: so what notifies is queued once, however often a node dies. What waits is told until a
//! gateway has taken it ([`deliver`]): after a crash perhaps twice, which gateways expect.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-notifications>,
//! <https://spec.matrix.org/v1.19/push-gateway-api/>

mod deliver;
mod follow;
mod gateway;
mod letter;
mod payload;
mod pushers;
mod wish;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use peers::{Outbound, vault::Vault};
use store::Store;
use sync::{Sync, SyncError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use users::Users;
use zeroize::Zeroizing;

use crate::{Stream, follow::while_on_duty};

pub use pushers::PusherError;
pub use wish::{PusherWish, ShownPusher};

/// The name of what one node does for all, among duties and followers.
const DUTY: &str = "push";
/// What the key is for by which links in letters are signed.
const PURPOSE: &str = "comity: links that end letters, 1";
/// How often it is looked whether another node has made the first pusher.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// `[push]`.
#[derive(Clone, Debug)]
pub struct PushConfig {
    /// Whether gateways are told what was said, unless a pusher wants to have ids only.
    pub include_content: bool,
    /// Whether a badge counts rooms in which something is unread, instead of what is unread.
    pub badge_counts_rooms: bool,
    /// How long something waits to be read before a letter tells of it.
    pub email_after: Duration,
    /// How long after a letter the next one may come.
    pub email_every: Duration,
    /// Where clients reach this server: where links in letters lead.
    pub public_baseurl: Option<String>,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            include_content: true,
            badge_counts_rooms: true,
            email_after: Duration::from_mins(10),
            email_every: Duration::from_hours(1),
            public_baseurl: None,
        }
    }
}

/// The pushers of this deployment. Cheap to clone.
#[derive(Clone)]
pub struct Pushers {
    shared: Arc<Shared>,
}

struct Shared {
    config: PushConfig,
    store: Store,
    users: Arc<Users>,
    sync: Sync,
    stream: Stream,
    outbound: Outbound,
    link_key: Zeroizing<[u8; 32]>,
    /// A pusher was made or changed.
    changed: Notify,
    /// Something was queued.
    queued: Notify,
}

/// What pushers stand on.
pub struct PushParts {
    /// Where they are kept.
    pub store: Store,
    /// Whose they are.
    pub users: Arc<Users>,
    /// What notifies, and how much is unread.
    pub sync: Sync,
    /// What happens.
    pub stream: Stream,
    /// Asks gateways.
    pub outbound: Outbound,
    /// By which links are signed.
    pub vault: Arc<Vault>,
}

/// Why something was not pushed for now.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error("what is to be pushed could not be found out")]
    Sync(#[from] SyncError),
    #[error("the queue could not be read or written")]
    Store(#[from] store::Error),
    /// Another node does it.
    #[error("another node has taken this over")]
    OffDuty,
}

impl Pushers {
    /// Pushers that nobody is told by yet.
    pub fn new(config: PushConfig, parts: PushParts) -> Self {
        let PushParts { store, users, sync, stream, outbound, vault } = parts;
        let (changed, queued, link_key) = (Notify::new(), Notify::new(), vault.derive(PURPOSE));
        Self { shared: Arc::new(Shared { config, store, users, sync, stream, outbound, link_key, changed, queued }) }
    }

    /// Finds out what notifies whom, and tells it, until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        let work = || -> BoxFuture<'_, ()> {
            Box::pin(async {
                tokio::join!(self.follow(), self.deliver());
            })
        };
        let _ = stop.run_until_cancelled(while_on_duty(&self.shared.store, DUTY, &work)).await;
    }

    /// A Write that takes effect only while pushing is this node's to do.
    fn write(&self) -> Result<store::Write, PushError> {
        let duty = self.shared.store.duties().of(DUTY).ok_or(PushError::OffDuty)?;
        let mut write = store::Write::new();
        write.on_duty(duty);
        Ok(write)
    }
}
