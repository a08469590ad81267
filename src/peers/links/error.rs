//! Why something with a link did not work.

use fabric::ManagementError;
use model::{Kind, Refusal};
use ruma::OwnedServerName;

use crate::trust::ChangeError;
use crate::vault::VaultError;

/// Why something with a link did not work.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// There is to be no link with this server.
    #[error(
        "there is no link with {0}: it takes a row of its own, trusted fully, active, and with the transport `auto` or `amqp`"
    )]
    NotLinked(OwnedServerName),
    /// This server does not say where its broker is.
    #[error("this server has no broker that peers can reach")]
    NoBroker,
    /// What the peer needs is not at our broker yet.
    #[error("the link is being made; ask again soon")]
    NotReady,
    /// An address of a broker is none.
    #[error("{0}")]
    Address(String),
    /// Secrets can't be sealed or opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The broker could not be asked, or refused.
    #[error(transparent)]
    Management(#[from] ManagementError),
    /// The log of what admins do could not be written.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("the links could not be read or stored")]
    Store(#[from] store::Error),
}

impl Refusal for LinksError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotLinked(_) => Kind::Forbidden,
            Self::NoBroker => Kind::NotFound,
            Self::NotReady => Kind::Unavailable,
            Self::Address(_) => Kind::Invalid,
            Self::Vault(_) => Kind::Internal,
            Self::Management(_) => Kind::Unavailable,
            Self::Change(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::NotLinked(_) => Some("no_link"),
            Self::NoBroker => Some("no_broker"),
            Self::NotReady => Some("link_not_ready"),
            Self::Address(_) => Some("wrong_address"),
            Self::Management(_) => Some("broker_unavailable"),
            Self::Change(error) => error.code(),
            Self::Vault(_) | Self::Store(_) => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        matches!(self, Self::NotReady).then_some(2_000)
    }
}
