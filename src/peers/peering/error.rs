//! Why two servers did not become peers.

use model::{Kind, Refusal, peer::TrustLevel};
use ruma::OwnedServerName;

use crate::{KeyError, PeerError, TrustError, trust::ChangeError};

/// Why an offer was not made, not taken or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PeeringError {
    /// It is none.
    #[error("the {what} can't be read: {reason}")]
    Malformed {
        /// Offer or agreement.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// There is no such offer.
    #[error("there is no offer `{0}` that could be answered: ask for a new one")]
    Unknown(String),
    /// It was answered, taken back or declined before.
    #[error("the offer `{id}` was {state} already, and is good once: ask for a new one")]
    Used {
        /// Which.
        id: String,
        /// What became of it.
        state: &'static str,
    },
    /// It is too old.
    #[error("the offer `{0}` has expired: ask for a new one")]
    Expired(String),
    /// It counts for longer than an offer may, or only later.
    #[error("the offer can't count from then until then: {0}")]
    Lifetime(&'static str),
    /// It is meant for another server, or by another one.
    #[error("the offer is from {from} to {to}, which is not this server's")]
    NotConcerned {
        /// Who made it, as it says.
        from: OwnedServerName,
        /// To whom.
        to: OwnedServerName,
    },
    /// Somebody may stand between the two servers.
    #[error(
        "{server} has other keys than {says}: somebody may stand between the two servers. Nothing was agreed; compare the words of both servers' keys by phone"
    )]
    KeysSwapped {
        /// Whose keys.
        server: OwnedServerName,
        /// Where others stand.
        says: &'static str,
    },
    /// What an admin was told by phone is not what the offer says.
    #[error(
        "these are not the words of the keys that {0} shows here: compare them again by phone; if they stay different, somebody stands between the two servers, and nothing is to be agreed"
    )]
    WordsDiffer(OwnedServerName),
    /// More than was offered, or nothing.
    #[error("{server} can't be trusted as {level} by this: {reason}")]
    Level {
        /// Who.
        server: OwnedServerName,
        /// How far.
        level: TrustLevel,
        /// Why not.
        reason: &'static str,
    },
    /// It can't be taken back any more.
    #[error("the agreement `{0}` is in force: change how far the peer is trusted instead, and it is told so")]
    InForce(String),
    /// Too many offers wait for an answer.
    #[error("too many offers wait for an answer here: let an admin of this server look at them")]
    TooMany,
    /// It is signed by somebody else.
    #[error("it is not signed as it should be")]
    Signature(#[from] KeyError),
    /// Who made it is not trusted to.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The peer could not be changed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The other server could not be asked, or refused.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The store failed.
    #[error("the offers could not be read or stored")]
    Store(#[from] store::Error),
}

impl Refusal for PeeringError {
    fn kind(&self) -> Kind {
        match self {
            Self::Malformed { .. } | Self::Lifetime(_) | Self::NotConcerned { .. } | Self::Level { .. } => {
                Kind::Invalid
            }
            Self::Unknown(_) => Kind::NotFound,
            Self::Used { .. } | Self::Expired(_) | Self::InForce(_) => Kind::Conflict,
            Self::KeysSwapped { .. } | Self::WordsDiffer(_) => Kind::Forbidden,
            Self::TooMany => Kind::RateLimited,
            Self::Signature(KeyError::Store(error)) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Signature(_) => Kind::Forbidden,
            Self::Trust(error) => error.kind(),
            Self::Change(error) => error.kind(),
            Self::Peer(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::Malformed { .. } => "malformed_document",
            Self::Unknown(_) => "offer_unknown",
            Self::Used { .. } => "offer_used",
            Self::Expired(_) => "offer_expired",
            Self::Lifetime(_) => "offer_lifetime",
            Self::NotConcerned { .. } => "offer_of_others",
            Self::KeysSwapped { .. } => "keys_swapped",
            Self::WordsDiffer(_) => "words_differ",
            Self::Level { .. } => "level_not_offered",
            Self::InForce(_) => "agreement_in_force",
            Self::TooMany => "too_many_offers",
            Self::Signature(KeyError::Store(_)) | Self::Store(_) => return None,
            Self::Signature(error) => error.reason(),
            Self::Trust(error) => return error.code(),
            Self::Change(error) => return error.code(),
            Self::Peer(error) => return error.code(),
        })
    }
}
