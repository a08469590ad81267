//! How others are asked for their keys.

use std::sync::{Arc, OnceLock, Weak};

use futures_util::future::BoxFuture;
use ruma::{
    ServerName,
    api::federation::discovery::{
        ServerSigningKeys, get_remote_server_keys_batch::v2 as query, get_server_keys::v2 as server_keys,
    },
    serde::Raw,
};

use crate::{PeerError, Peers, Shared, keys::Fetch};

/// Asks over the network. The key ring is a part of the peers that it asks through, so it learns of them afterwards.
#[derive(Default)]
pub(crate) struct OverNetwork(OnceLock<Weak<Shared>>);

impl OverNetwork {
    pub(crate) fn go_through(&self, peers: &Peers) {
        self.0.set(Arc::downgrade(&peers.shared)).ok();
    }

    fn peers(&self) -> Result<Peers, PeerError> {
        let shared = self.0.get().and_then(Weak::upgrade).ok_or(PeerError::Disabled)?;
        Ok(Peers { shared })
    }
}

impl Fetch for OverNetwork {
    fn server_keys<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Raw<ServerSigningKeys>, PeerError>> {
        Box::pin(async { Ok(self.peers()?.ask_unsigned(server, server_keys::Request::new()).await?.server_key) })
    }

    fn query<'a>(
        &'a self,
        notary: &'a ServerName,
        request: query::Request,
    ) -> BoxFuture<'a, Result<Vec<Raw<ServerSigningKeys>>, PeerError>> {
        Box::pin(async { Ok(self.peers()?.ask_unsigned(notary, request).await?.server_keys) })
    }
}
