//! How others are asked for their keys.

use futures_util::future::BoxFuture;
use ruma::{
    ServerName,
    api::federation::discovery::{ServerSigningKeys, get_remote_server_keys_batch::v2 as query},
    serde::Raw,
};

use crate::{PeerError, keys::Fetch};

/// Asks nobody.
pub(crate) struct Nobody;

impl Fetch for Nobody {
    fn server_keys<'a>(&'a self, _: &'a ServerName) -> BoxFuture<'a, Result<Raw<ServerSigningKeys>, PeerError>> {
        Box::pin(async { Err(PeerError::Disabled) })
    }

    fn query<'a>(
        &'a self,
        _: &'a ServerName,
        _: query::Request,
    ) -> BoxFuture<'a, Result<Vec<Raw<ServerSigningKeys>>, PeerError>> {
        Box::pin(async { Err(PeerError::Disabled) })
    }
}
