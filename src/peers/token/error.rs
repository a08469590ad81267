//! Why a token does not count.

use model::{Kind, Refusal};

use crate::KeyError;

/// Why a token does not count.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// This server federates with nobody.
    #[error("this server does not talk with other servers")]
    Disabled,
    /// There is none.
    #[error("the request has no token: it needs `Authorization: Bearer` and a JWT, or the scheme X-Matrix")]
    Missing,
    /// It can't be read.
    #[error("the token can't be read: {0}")]
    Malformed(String),
    /// It is signed by something else than ed25519.
    #[error("the token is signed by `{0}`; this server knows EdDSA with an ed25519 key")]
    Algorithm(String),
    /// It is meant for another server.
    #[error("the token is for `{audience}`; this server is {us}")]
    Audience {
        /// For which.
        audience: String,
        /// This server.
        us: String,
    },
    /// Its issuer can't be a server that asks.
    #[error("`iss` is `{0}`, which is not the name of another server")]
    Issuer(String),
    /// Its subject is nobody of its issuer's.
    #[error("`sub` is `{0}`, which is neither its issuer nor a user of its issuer")]
    Subject(String),
    /// It is too old.
    #[error("the token expired {0} s ago")]
    Expired(i64),
    /// It counts only later.
    #[error("the token counts only in {0} s: one of the two clocks is wrong")]
    NotYet(i64),
    /// It lives longer than a token may.
    #[error("the token lives longer than 5 minutes, or ends before it begins")]
    Lifetime,
    /// It was used before.
    #[error("the token was used before: each request needs one of its own, with a new `jti`")]
    Replayed,
    /// The key that it is signed by isn't known, or isn't valid now, or the signature is wrong.
    #[error(transparent)]
    Key(KeyError),
    /// There is a body, and no signature over it.
    #[error("the body is not signed: it needs the header X-Comity-Signature")]
    UnsignedBody,
    /// The signature over the body is none.
    #[error("the signature over the body does not count: {0}")]
    Body(&'static str),
    /// The store failed.
    #[error("whether the token was used before could not be read or stored")]
    Store(#[from] store::Error),
}

impl TokenError {
    /// One word, for counting, and for the other server's programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Missing => "missing_token",
            Self::Malformed(_) => "malformed_token",
            Self::Algorithm(_) => "unsupported_algorithm",
            Self::Audience { .. } => "wrong_audience",
            Self::Issuer(_) => "wrong_issuer",
            Self::Subject(_) => "wrong_subject",
            Self::Expired(_) => "token_expired",
            Self::NotYet(_) => "token_not_yet_valid",
            Self::Lifetime => "token_lives_too_long",
            Self::Replayed => "token_replayed",
            Self::Key(error) => error.reason(),
            Self::UnsignedBody => "unsigned_body",
            Self::Body(_) => "wrong_body_signature",
            Self::Store(_) => "store",
        }
    }
}

impl Refusal for TokenError {
    fn kind(&self) -> Kind {
        match self {
            Self::Disabled => Kind::Forbidden,
            Self::Key(KeyError::Store(error)) => error.kind(),
            Self::Store(error) => error.kind(),
            _ => Kind::Unauthenticated,
        }
    }

    fn code(&self) -> Option<&'static str> {
        matches!(self.kind(), Kind::Unauthenticated).then(|| self.reason())
    }
}
