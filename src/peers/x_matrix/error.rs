//! Why a request does not count as made by the server that says so.

use model::{Kind, Refusal};
use ruma::OwnedServerName;

use crate::keys::KeyError;

/// Why a request does not count as made by the server that says so.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It isn't signed at all.
    #[error("the request is not signed: it needs an Authorization header of the scheme X-Matrix")]
    Missing,
    /// The header can't be read.
    #[error("the Authorization header can't be read: {0}")]
    Malformed(&'static str),
    /// It is meant for another server.
    #[error("the request is for another server; this one is {us}")]
    Destination {
        /// Who says so.
        origin: OwnedServerName,
        /// This server.
        us: OwnedServerName,
    },
    /// It says to be from this server.
    #[error("the request says to be made by this very server")]
    Ourselves,
    /// Signed by an algorithm that this server doesn't know.
    #[error("the request is signed by no algorithm that this server knows; it knows ed25519")]
    Algorithm,
    /// This server federates with nobody.
    #[error("this server does not talk with other servers")]
    Disabled,
    /// The body is no JSON, so nobody can have signed it.
    #[error("the body is not JSON: {0}")]
    Body(String),
    /// The key that it is signed by isn't known, or isn't valid now, or the signature is wrong.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl AuthError {
    /// One word, for counting.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing_header",
            Self::Malformed(_) => "malformed_header",
            Self::Destination { .. } => "wrong_destination",
            Self::Ourselves => "own_origin",
            Self::Algorithm => "unknown_algorithm",
            Self::Disabled => "disabled",
            Self::Body(_) => "not_json",
            Self::Key(error) => error.reason(),
        }
    }
}

impl Refusal for AuthError {
    fn kind(&self) -> Kind {
        match self {
            Self::Disabled => Kind::Forbidden,
            Self::Body(_) => Kind::Invalid,
            Self::Key(KeyError::Store(error)) => error.kind(),
            _ => Kind::Unauthenticated,
        }
    }

    fn code(&self) -> Option<&'static str> {
        (self.kind() == Kind::Unauthenticated).then(|| self.reason())
    }

    fn errcode(&self) -> Option<&'static str> {
        match self.kind() {
            Kind::Unauthenticated => Some("M_UNAUTHORIZED"),
            Kind::Invalid => Some("M_NOT_JSON"),
            _ => None,
        }
    }
}
