//! Questions to notaries that are under way: of several who have the same one, one asks, and the others wait for the end.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ruma::OwnedServerName;
use tokio::sync::watch;

/// For which servers notaries are being asked.
#[derive(Default)]
pub(super) struct UnderWay(Mutex<HashMap<OwnedServerName, watch::Receiver<()>>>);

/// Servers for which only the owner of this asks, until it is dropped.
pub(super) struct Claim<'a> {
    under_way: &'a UnderWay,
    pub(super) servers: Vec<OwnedServerName>,
    /// Dropped with this; that is what the others wait for.
    _end: watch::Sender<()>,
}

impl UnderWay {
    /// Claims those of `servers` for which nobody asks yet. Answers besides what to wait for where somebody does.
    pub(super) fn claim(
        &self,
        servers: impl IntoIterator<Item = OwnedServerName>,
    ) -> (Claim<'_>, Vec<watch::Receiver<()>>) {
        let (end, ended) = watch::channel(());
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut claimed, mut others) = (Vec::new(), Vec::new());
        for server in servers {
            match under_way.get(&server) {
                Some(ended) => others.push(ended.clone()),
                None => {
                    under_way.insert(server.clone(), ended.clone());
                    claimed.push(server);
                }
            }
        }
        drop(under_way);
        (Claim { under_way: self, servers: claimed, _end: end }, others)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut under_way = self.under_way.0.lock().unwrap_or_else(PoisonError::into_inner);
        for server in &self.servers {
            under_way.remove(server);
        }
    }
}
