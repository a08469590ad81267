//! Why another server could not be asked, or what it answered instead.

use std::time::Duration;

use model::{Kind, Refusal};
use ruma::OwnedServerName;

use crate::TrustError;

/// Why another server could not be asked, or what it answered instead.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The configuration forbids all of it.
    #[error("this server does not talk with other servers")]
    Disabled,
    /// Its name leads nowhere.
    #[error("{server} can't be found: {reason}")]
    Unresolved {
        /// Which server.
        server: OwnedServerName,
        /// The last step that was tried.
        reason: String,
    },
    /// No connection came about, or it broke.
    #[error("{server} can't be reached")]
    Unreachable {
        /// Which server.
        server: OwnedServerName,
        /// What failed: TLS, the connection, time.
        failure: Failure,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// It answered with an error.
    #[error("{server} refused: {message}")]
    Refused {
        /// Which server.
        server: OwnedServerName,
        /// The HTTP status.
        status: u16,
        /// The Matrix error code, if there was one.
        errcode: Option<String>,
        /// What it said.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It answered something that isn't an answer.
    #[error("{server} answered something else than was asked for: {reason}")]
    Malformed {
        /// Which server.
        server: OwnedServerName,
        /// What is wrong with it.
        reason: String,
    },
    /// It is not trusted enough.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// This server's own configuration is at fault.
    #[error("the configuration of federation is of no use: {0}")]
    Configuration(String),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] store::Error),
}

/// What failed, as far as it says when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The name could not be resolved.
    Dns,
    /// The address is one that is never connected to.
    Blocked,
    /// No TCP connection.
    Connect,
    /// No TLS, or a certificate of somebody else.
    Tls,
    /// It took too long.
    Timeout,
    /// The connection broke before the answer was complete.
    Broken,
    /// 401 or 403: it doesn't believe our signature, or doesn't want us.
    Unauthorized,
    /// 429.
    RateLimited,
    /// 5xx.
    Server,
    /// Another error, or an answer that can't be read.
    Rejected,
    /// This server's trust policy doesn't allow it.
    Untrusted,
    /// A fault of ours.
    Ours,
}

impl Failure {
    /// One word, for figures and log lines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Blocked => "blocked",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::Server => "server",
            Self::Rejected => "rejected",
            Self::Untrusted => "untrusted",
            Self::Ours => "ours",
        }
    }
}

impl PeerError {
    /// Whether the same question may have an answer later: the peer is away, or has too much to do.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unresolved { .. } | Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// What failed.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Unresolved { .. } => Failure::Dns,
            Self::Unreachable { failure, .. } => *failure,
            Self::Refused { status: 401 | 403, .. } => Failure::Unauthorized,
            Self::Refused { status: 429, .. } => Failure::RateLimited,
            Self::Refused { status: 500.., .. } => Failure::Server,
            Self::Refused { .. } | Self::Malformed { .. } => Failure::Rejected,
            Self::Trust(_) => Failure::Untrusted,
            Self::Disabled | Self::Configuration(_) | Self::Store(_) => Failure::Ours,
        }
    }
}

impl Refusal for PeerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Disabled => Kind::Forbidden,
            Self::Refused { status: 401 | 403, .. } => Kind::Forbidden,
            Self::Refused { status: 404, .. } => Kind::NotFound,
            Self::Refused { status: 400, .. } => Kind::Invalid,
            Self::Refused { status: 429, .. } => Kind::RateLimited,
            Self::Trust(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Configuration(_) => Kind::Internal,
            _ => Kind::Unreachable,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Refused { retry_after: Some(delay), .. } => u64::try_from(delay.as_millis()).ok(),
            _ => None,
        }
    }
}
