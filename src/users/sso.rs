//! Signing in by another provider: OpenID Connect, with discovery, PKCE, nonce and state.
//!
//! Who comes for the first time gets an account; from then on the provider's own name for them (`iss` and `sub`) says whose account it is,
//! and nothing that they could change there.
//!
//! Spec: <https://openid.net/specs/openid-connect-core-1_0.html>, <https://spec.matrix.org/v1.19/client-server-api/#sso-client-loginauthentication>

mod accounts;
mod config;
mod flow;
mod id_token;
mod provider;

use model::{Kind, Refusal};

pub use config::{SsoConfig, SsoProvider};
pub use flow::{Goal, SsoFinished};
pub(crate) use provider::Providers;

use crate::{LoginError, RegisterError};

/// Why nobody was signed in by a provider.
#[derive(Debug, thiserror::Error)]
pub enum SsoError {
    /// There is none of this name.
    #[error("this server knows no such provider")]
    UnknownProvider,
    /// It has no address to come back to.
    #[error("this server has no `public_baseurl`, to which a browser could come back")]
    NoAddress,
    /// It comes to another browser, too late, or twice.
    #[error("this sign-in is not known in this browser, has expired, or was used: begin anew")]
    UnknownState,
    /// The provider has sent the browser back without a code.
    #[error("the provider refused the sign-in: {0}")]
    RefusedThere(String),
    /// The provider can't be asked, or answers what can't be believed.
    #[error("the provider could not be asked, or gave an answer that can't be believed: {0}")]
    Provider(String),
    /// Accounts are not made for whoever the provider knows.
    #[error("you have no account on this server, and this provider makes none")]
    NoAccount,
    /// The name that the provider has for somebody belongs to somebody else here.
    #[error("the name {0} belongs to another account of this server: ask those who run it")]
    NameTaken(String),
    /// The provider tells no name that could be one here.
    #[error("the provider tells no name that could be a user name here")]
    NoName,
    /// The account may not be entered.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The account was not made.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The store failed.
    #[error("the sign-in could not be looked up")]
    Store(#[from] store::Error),
}

impl Refusal for SsoError {
    fn kind(&self) -> Kind {
        match self {
            Self::UnknownProvider => Kind::NotFound,
            Self::NoAddress | Self::NoAccount | Self::NameTaken(_) | Self::NoName => Kind::Forbidden,
            Self::UnknownState => Kind::Invalid,
            Self::RefusedThere(_) => Kind::Forbidden,
            Self::Provider(_) => Kind::Unreachable,
            Self::Login(error) => error.kind(),
            Self::Register(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownProvider => "unknown_provider",
            Self::NoAddress => "no_public_baseurl",
            Self::UnknownState => "unknown_sign_in",
            Self::RefusedThere(_) => "refused_by_provider",
            Self::Provider(_) => "provider_failed",
            Self::NoAccount => "no_account",
            Self::NameTaken(_) => "name_taken",
            Self::NoName => "no_name",
            Self::Login(error) => return error.code(),
            Self::Register(error) => return error.code(),
            Self::Store(_) => return None,
        })
    }
}
