//! The OAuth 2.0 API: people sign in at this server's own pages, and allow clients to act for them. What comes of it is an ordinary
//! session on an ordinary device.
//!
//! Nothing of a flow is kept in memory, so that any node serves any step of it. Codes are stored as hashes, are used once, and soon.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api>

mod clients;
mod codes;
mod device_codes;
mod redirect;
mod scope;
mod sessions;

use model::{Kind, Refusal};

pub use clients::{ClientMetadata, OauthClient};
pub use codes::{CodeWish, Redemption};
pub use device_codes::{DEVICE_CODE_LIFETIME, DeviceGrant, PendingDevice};
pub use scope::Scope;
pub use sessions::{Granted, OauthSession};

use crate::{Limited, LoginError};

/// The grant by which a client gets tokens for an authorization code.
pub const AUTHORIZATION_CODE: &str = "authorization_code";
/// The grant by which it gets others for a refresh token.
pub const REFRESH_TOKEN: &str = "refresh_token";
/// The grant by which it gets tokens for a device code.
pub const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// `[oauth]`: whether clients may come by the OAuth 2.0 API.
#[derive(Clone, Debug)]
pub struct OauthConfig {
    /// Whether it is there.
    pub enabled: bool,
}

impl Default for OauthConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Why a client was refused, in the words of RFC 6749, 7591 and 8628.
#[derive(Debug, thiserror::Error)]
pub enum OauthError {
    /// The request lacks something, or has it twice.
    #[error("{0}")]
    Request(&'static str),
    /// Nobody has registered by this id.
    #[error("no client has registered by this `client_id`; register again")]
    Client,
    /// The client did not register for this grant.
    #[error("the client has not registered for this grant type")]
    UnauthorizedClient,
    /// There is no such grant here.
    #[error("this server does not know this grant type")]
    GrantType,
    /// The code or token is not good, or not for this client.
    #[error("{0}")]
    Grant(&'static str),
    /// What is asked for can't be granted.
    #[error("{0}")]
    Scope(&'static str),
    /// Nobody has decided yet.
    #[error("nobody has decided yet; ask again")]
    Pending,
    /// The client asks too often.
    #[error("this was asked less than five seconds ago; ask less often")]
    SlowDown,
    /// Somebody has said no.
    #[error("it was refused")]
    Denied,
    /// The device code is too old.
    #[error("the device code has expired")]
    Expired,
    /// An address to come back to won't do.
    #[error("{0}")]
    RedirectUri(String),
    /// What a client says of itself won't do.
    #[error("{0}")]
    Metadata(String),
    /// Too often.
    #[error(transparent)]
    Limited(#[from] Limited),
    /// No session was opened.
    #[error(transparent)]
    Login(LoginError),
    /// The store failed.
    #[error("the grant could not be looked up")]
    Store(#[from] store::Error),
}

impl From<LoginError> for OauthError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::UnknownRefreshToken => Self::Grant("the refresh token is not valid"),
            LoginError::RefreshTokenReused => {
                Self::Grant("the refresh token was used before: the session has been ended")
            }
            LoginError::Locked => Self::Grant("the account is locked"),
            LoginError::Deactivated => Self::Grant("the account has been deactivated"),
            LoginError::Limited(limited) => Self::Limited(limited),
            LoginError::Store(error) => Self::Store(error),
            error => Self::Login(error),
        }
    }
}

impl Refusal for OauthError {
    fn kind(&self) -> Kind {
        match self {
            Self::Client => Kind::Unauthenticated,
            Self::Limited(limited) => limited.kind(),
            Self::Login(error) => error.kind(),
            Self::Store(error) => error.kind(),
            _ => Kind::Invalid,
        }
    }

    /// The word that the RFCs have for it.
    fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::Request(_) => "invalid_request",
            Self::Client => "invalid_client",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::GrantType => "unsupported_grant_type",
            Self::Grant(_) => "invalid_grant",
            Self::Scope(_) => "invalid_scope",
            Self::Pending => "authorization_pending",
            Self::SlowDown => "slow_down",
            Self::Denied => "access_denied",
            Self::Expired => "expired_token",
            Self::RedirectUri(_) => "invalid_redirect_uri",
            Self::Metadata(_) => "invalid_client_metadata",
            Self::Limited(_) => "temporarily_unavailable",
            Self::Login(_) | Self::Store(_) => "server_error",
        })
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Limited(limited) => limited.retry_after_ms(),
            _ => None,
        }
    }
}
