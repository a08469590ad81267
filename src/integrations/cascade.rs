//! The cascade: full peers share their directories, people and SIP phones and organisations, so that each can look up the
//! people of the others without asking.
//!
//! Each server reads the directory of each peer that an admin has made full by name, page by page, from where it stopped the last
//! time: what was read, and up to where, is one Write, so that nothing is read twice or left out however it ends. What a peer
//! tells counts for its own domain only. What is known of a peer goes when it is full no longer; until it is gone, whoever reads
//! asks for the trust first.

mod judge;
mod page;
mod pull;
mod serve;
mod status;
mod tend;
mod token;

use std::{sync::Arc, time::Duration};

use model::{Kind, Refusal};
use peers::Peers;
use ruma::OwnedServerName;
use store::Store;
use tokio::sync::Notify;
use users::{DirectoryError, Users};

pub use page::Page;
pub use status::PeerStatus;

/// Where a server's directory is.
pub const PATH: &str = "/api/v1/cascade/directory";
/// No page has more entries.
pub const MAX_PAGE: u32 = 500;

/// How directories are shared with full peers.
#[derive(Clone, Debug)]
pub struct CascadeConfig {
    /// Whether they are, both ways.
    pub enabled: bool,
    /// How often peers are asked what has changed.
    pub interval: Duration,
    /// How many entries are asked for at once.
    pub page: u32,
    /// How many people and units of one peer are kept.
    pub max_entries: u32,
}

impl Default for CascadeConfig {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_secs(5 * 60), page: 200, max_entries: 200_000 }
    }
}

/// Why a peer is told nothing, or an admin can't have it asked.
#[derive(Debug, thiserror::Error)]
pub enum CascadeError {
    /// The configuration says so.
    #[error("this server shares its directory with nobody")]
    Disabled,
    /// It isn't one of those that an admin has named.
    #[error("{0} is not a server with which the directory is shared: an admin makes it full by its name")]
    NotShared(OwnedServerName),
    /// Phones were looked for that can't be.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The store failed.
    #[error("the directory could not be read")]
    Store(#[from] store::Error),
}

impl Refusal for CascadeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Disabled => Kind::NotFound,
            Self::NotShared(_) => Kind::Forbidden,
            Self::Directory(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Disabled => Some("cascade_off"),
            Self::NotShared(_) => Some("not_shared"),
            Self::Directory(_) | Self::Store(_) => None,
        }
    }
}

/// The directories of this deployment and of its full peers. Cheap to clone.
#[derive(Clone)]
pub struct Cascade {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    peers: Peers,
    users: Arc<Users>,
    config: CascadeConfig,
    tokens: token::Tokens,
    /// It may be time to ask somebody.
    news: Notify,
}

impl Cascade {
    /// On what `store` holds.
    pub async fn open(
        store: Store,
        peers: Peers,
        users: Arc<Users>,
        config: CascadeConfig,
    ) -> Result<Self, store::Error> {
        let tokens = token::Tokens::open(&store).await?;
        Ok(Self { shared: Arc::new(Shared { store, peers, users, config, tokens, news: Notify::new() }) })
    }
}
