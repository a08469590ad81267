//! Requests on the native API, proved by a token that the asking server signs: a JWT, and a signature over the body.
//!
//! The token is a compact JWS by an ed25519 key of the server, found through the same key ring as any other signature of
//! it. Nothing of it is believed before it is verified, no other algorithm is known, and each is good once.
//!
//! Spec: <https://www.rfc-editor.org/rfc/rfc7519>, <https://www.rfc-editor.org/rfc/rfc8725>

mod body;
mod error;
mod read;
mod sign;
#[cfg(test)]
mod tests;
mod used;

use bytes::Bytes;
use http::HeaderMap;
use model::Millis;
use ruma::OwnedServerName;

pub use error::TokenError;
pub use sign::NativeRequest;
pub(crate) use used::Used;

use crate::{KeyError, Peers};

/// Where the signature over the body stands: `ed25519:auto` and unpadded base64, with a space between.
pub const BODY_SIGNATURE: &str = "x-comity-signature";

/// No token lives longer, in milliseconds.
const MAX_LIFETIME: Millis = 5 * 60_000;
/// How far another server's clock may be off, in milliseconds.
const SKEW: Millis = 30_000;

/// What a token lets its bearer do, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Deliver messages.
    Messaging,
    /// Say who is there.
    Presence,
    /// Look a user up by id.
    Users,
    /// Look for users by a part of their name.
    Search,
    /// Ask how this server regards theirs, and what it says of others in its list.
    Status,
    /// Offer to be peers, and what follows from that.
    Peering,
    /// Tell people here of a broadcast.
    Broadcasts,
    /// Ask for what full peers share: how to log in at the broker.
    Cascade,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Messaging,
        Self::Presence,
        Self::Users,
        Self::Search,
        Self::Status,
        Self::Peering,
        Self::Broadcasts,
        Self::Cascade,
    ];

    /// As a token spells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Messaging => "messaging",
            Self::Presence => "presence",
            Self::Users => "users",
            Self::Search => "search",
            Self::Status => "status",
            Self::Peering => "peering",
            Self::Broadcasts => "broadcasts",
            Self::Cascade => "cascade",
        }
    }
}

/// What a token says. Nothing of it has been checked by a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The server that says to have signed it.
    pub issuer: OwnedServerName,
    /// What it may be used for, at most.
    pub scopes: Vec<Scope>,
    /// Its own name, good once.
    id: String,
    expires_at: Millis,
    key_id: String,
    /// Head and claims as they came, which is what is signed.
    text: String,
    signature: [u8; 64],
}

impl Peers {
    /// The token that came with these headers, unless no key could make it right.
    pub fn token_of(&self, headers: &HeaderMap) -> Result<Token, TokenError> {
        if !self.is_enabled() {
            return Err(TokenError::Disabled);
        }
        Token::read(headers, self.server_name(), self.keys().now())
    }

    /// Checks that the token and the body were signed by whom the token names, by a key that counts now, and that the token
    /// was not used before, on any node. What isn't believed, or comes too often, uses nothing up.
    ///
    /// Answers the body as it was signed.
    pub async fn verify_token(&self, token: &Token, headers: &HeaderMap, body: Bytes) -> Result<Bytes, TokenError> {
        let Token { issuer, key_id, text, signature, .. } = token;
        let by = [(key_id.clone(), *signature)];
        self.keys().check_texts(issuer, &by, std::iter::once(text.as_bytes())).await.map_err(TokenError::Key)?;
        let body = match body.is_empty() {
            true => body,
            false => self.verify_body(issuer, headers, body).await?,
        };
        self.trust().pace(issuer)?;
        self.shared.used.take(token, self.keys().now()).await?;
        Ok(body)
    }

    async fn verify_body(
        &self,
        issuer: &OwnedServerName,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, TokenError> {
        let by = body::signatures_of(headers)?;
        let mut spellings = body::spellings_of(body);
        let texts = spellings.iter().map(|text| &**text);
        match self.keys().check_texts(issuer, &by, texts).await {
            Ok(signed) => Ok(spellings.swap_remove(signed)),
            Err(KeyError::Signature { .. }) => Err(TokenError::Body("it was signed by another key, or was changed")),
            Err(error) => Err(TokenError::Key(error)),
        }
    }
}
