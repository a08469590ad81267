//! Why a broadcast could not be made, read or called back.

use model::{Kind, Refusal};
use peers::PeerError;

/// Why a broadcast could not be made, read or called back.
#[derive(Debug, thiserror::Error)]
pub enum BroadcastError {
    /// Something in it is wrong.
    #[error("`{field}` {wrong}")]
    Field {
        /// What.
        field: &'static str,
        /// Why.
        wrong: String,
    },
    /// It is no broadcast at all.
    #[error("the document is no broadcast: {0}")]
    Document(String),
    /// The id is another's.
    #[error("the id `{0}` is another broadcast's")]
    IdTaken(String),
    /// There is no such broadcast, or not for the asker.
    #[error("there is no such broadcast, or it isn't for you")]
    Unknown,
    /// The admins of this server don't want those of peers.
    #[error("this server takes no broadcasts of other servers")]
    Declined,
    /// Nobody here is meant.
    #[error("the audience has nobody of this server in it")]
    NobodyHere,
    /// A peer sends too many.
    #[error("this server takes no more broadcasts of yours today")]
    TooMany,
    /// A peer could not be told.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The store failed.
    #[error("the broadcast could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for BroadcastError {
    fn kind(&self) -> Kind {
        match self {
            Self::Field { .. } | Self::Document(_) | Self::NobodyHere => Kind::Invalid,
            Self::IdTaken(_) => Kind::Conflict,
            Self::Unknown => Kind::NotFound,
            Self::Declined => Kind::Forbidden,
            Self::TooMany => Kind::RateLimited,
            Self::Peer(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::IdTaken(_) => Some("id_taken"),
            Self::Declined => Some("declined"),
            Self::NobodyHere => Some("nobody_here"),
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        const AN_HOUR: u64 = 60 * 60_000;
        matches!(self, Self::TooMany).then_some(AN_HOUR)
    }
}
