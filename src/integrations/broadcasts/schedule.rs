//! What time does by itself: what is due is published, once, whichever node finds it due; what is old is forgotten.

use std::time::Duration;

use model::Millis;
use store::{Write, broadcasts};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Broadcast, Broadcasts};
use crate::now;

/// How many are published together.
const AT_ONCE: u32 = 50;
/// How often it is looked at least: another node may have scheduled something.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Broadcasts {
    /// Publishes what is due, and tells peers, until `stop` is cancelled.
    pub async fn tend(&self, stop: CancellationToken) {
        tokio::join!(self.publish(stop.clone()), self.tell_peers(stop));
    }

    async fn publish(&self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.publish_due().await {
                warn!(error = &error as &dyn std::error::Error, "could not publish the broadcasts that are due");
            }
            let next = self.shared.store.broadcasts().next_due(now()).await.ok().flatten();
            let until = next.map_or(LOOK_EVERY, |at| Duration::from_millis((at - now()).max(1).unsigned_abs()));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.shared.news.notified() => {}
                () = tokio::time::sleep(until.min(LOOK_EVERY)) => {}
            }
        }
    }

    async fn publish_due(&self) -> Result<(), store::Error> {
        loop {
            let now = now();
            let due = self.shared.store.broadcasts().due(now, AT_ONCE).await?;
            let is_last = due.len() < AT_ONCE as usize;
            for row in due {
                let broadcast = Broadcast::from(row);
                let mut write = Write::new();
                broadcasts::publish(&mut write, &broadcast.row.id, now);
                self.owe_peers(&mut write, &broadcast).await?;
                self.shared.store.commit(write).await?;
                info!(broadcast.id = broadcast.row.id, "published a broadcast that was due, {}", broadcast.row.id);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Forgets what is older than the configuration has it kept.
    pub(crate) async fn prune(&self) -> Result<(), store::Error> {
        let keep = Millis::try_from(self.shared.config.keep.as_millis()).unwrap_or(Millis::MAX);
        let mut write = Write::new();
        broadcasts::prune(&mut write, now().saturating_sub(keep));
        self.shared.store.commit(write).await.map(drop)
    }
}
