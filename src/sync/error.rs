//! Why a sync, or what stands beside it, was refused.

use model::{Kind, Refusal};
use rooms::RoomError;

/// Why a sync, or what stands beside it, was refused.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The token is none of ours.
    #[error("{field} is not a token of this server: {token:?}")]
    Token {
        /// Which parameter.
        field: &'static str,
        /// What it was.
        token: String,
    },
    /// The connection of sliding sync isn't known, or no longer.
    #[error("pos is none that this connection was given lately; begin anew without one")]
    UnknownPos,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What was sent is not what belongs there.
    #[error("{0}")]
    BadBody(String),
    /// The server keeps account data of this type by itself.
    #[error("{0} has endpoints of its own")]
    NotByThisEndpoint(String),
    /// It isn't there.
    #[error("{0}")]
    NotFound(String),
    /// It isn't the asker's to do.
    #[error("{0}")]
    Forbidden(String),
    /// It would be more than one may keep here.
    #[error("{0}")]
    TooLarge(String),
    /// A room refused.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The store failed.
    #[error("the store could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for SyncError {
    fn kind(&self) -> Kind {
        match self {
            Self::Token { .. }
            | Self::UnknownPos
            | Self::Invalid(_)
            | Self::BadBody(_)
            | Self::NotByThisEndpoint(_) => Kind::Invalid,
            Self::NotFound(_) => Kind::NotFound,
            Self::Forbidden(_) => Kind::Forbidden,
            Self::TooLarge(_) => Kind::TooLarge,
            Self::Room(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::Room(error) => error.errcode(),
            Self::UnknownPos => Some("M_UNKNOWN_POS"),
            Self::BadBody(_) | Self::NotByThisEndpoint(_) => Some("M_BAD_JSON"),
            _ => None,
        }
    }
}
