//! Whom to ask, and when; and whose people are to be forgotten.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use ruma::OwnedServerName;
use store::cascade::PeerRow;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Cascade, pull::duty_name};
use crate::now;

/// How often it is looked who is to be asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many are asked side by side.
const AT_ONCE: usize = 4;

/// What is being done for peers now: each one's own, so that nobody waits for a slow one.
#[derive(Default)]
struct UnderWay {
    acts: FuturesUnordered<BoxFuture<'static, OwnedServerName>>,
    servers: HashSet<OwnedServerName>,
}

impl Cascade {
    /// Reads the directories of full peers, and forgets those of peers that are no longer full, until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        let mut changes = self.shared.peers.trust().changes();
        let mut under_way = UnderWay::default();
        // Whether there may be something of peers that are not full.
        let mut has_changed = true;
        loop {
            if let Err(error) = self.look(&mut under_way, &mut has_changed).await {
                warn!(error = &error as &dyn std::error::Error, "could not look up whose people are to be asked for");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(server) = under_way.acts.next(), if !under_way.acts.is_empty() => {
                    under_way.servers.remove(&server);
                }
                Ok(()) = changes.changed() => has_changed = true,
                () = self.shared.news.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&self, under_way: &mut UnderWay, has_changed: &mut bool) -> Result<(), store::Error> {
        let shared = &self.shared;
        let is_enabled = shared.config.enabled && shared.peers.is_enabled();
        let wanted: BTreeSet<OwnedServerName> = match is_enabled {
            true => shared.peers.trust().cascade_peers().into_iter().collect(),
            false => BTreeSet::new(),
        };
        if wanted.is_empty() && !*has_changed {
            return Ok(());
        }
        let known: HashMap<OwnedServerName, PeerRow> =
            shared.store.cascade().peers().await?.into_iter().map(|row| (row.server.clone(), row)).collect();
        *has_changed = false;
        for server in known.keys().filter(|server| !wanted.contains(*server)) {
            // Whoever is not done with it will be looked at again.
            *has_changed = true;
            let (cascade, server) = (self.clone(), server.clone());
            under_way.add(self, server.clone(), async move { cascade.purge(&server).await });
        }
        let now = now();
        for server in wanted {
            if known.get(&server).is_none_or(|row| row.next_at <= now) {
                let (cascade, asked) = (self.clone(), server.clone());
                under_way.add(self, server, async move { cascade.pull(&asked).await });
            }
        }
        Ok(())
    }
}

impl UnderWay {
    /// Begins `act` for `server`, unless it is another node's to do, something is being done for that one already, or enough is.
    fn add(
        &mut self,
        cascade: &Cascade,
        server: OwnedServerName,
        act: impl Future<Output = Result<(), store::Error>> + Send + 'static,
    ) {
        let is_ours = cascade.shared.store.duties().of(&duty_name(&server)).is_some();
        if !is_ours || self.servers.len() >= AT_ONCE || !self.servers.insert(server.clone()) {
            return;
        }
        self.acts.push(Box::pin(async move {
            if let Err(error) = act.await {
                warn!(server.name = %server, error = &error as &dyn std::error::Error, "could not keep up with the people of {server}");
            }
            server
        }));
    }
}
