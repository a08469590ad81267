//! What a token says, and what of it no key can make right.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use model::Millis;
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, de::DeserializeOwned};

use super::{MAX_LIFETIME, SKEW, Scope, Token, TokenError};

/// No honest token is longer.
const MAX_BYTES: usize = 4 << 10;
/// Nor its name for itself.
const MAX_ID_BYTES: usize = 255;

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// What one must understand to believe it. There is nothing of the kind that this server understands.
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    scope: Vec<String>,
    iat: i64,
    exp: i64,
    nbf: Option<i64>,
    jti: String,
}

impl Token {
    /// Reads the headers of a request to `us`, and refuses what no key could make right.
    pub(super) fn read(headers: &HeaderMap, us: &ServerName, now: Millis) -> Result<Self, TokenError> {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let header = all.next().ok_or(TokenError::Missing)?;
        if all.next().is_some() {
            return Err(malformed("there is more than one Authorization header"));
        }
        let header = header.to_str().map_err(|_| malformed("it is not ASCII"))?;
        match header.trim().split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Self::parse(token.trim(), us, now),
            _ => Err(TokenError::Missing),
        }
    }

    fn parse(token: &str, us: &ServerName, now: Millis) -> Result<Self, TokenError> {
        if token.len() > MAX_BYTES {
            return Err(malformed(&format!("it is longer than {MAX_BYTES} bytes")));
        }
        let mut parts = token.split('.');
        let (Some(head), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("it is not three parts with dots between"));
        };
        let key_id = key_id_of(decode::<Head>(head, "its head")?)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
        let signature = signature.ok_or_else(|| malformed("its signature is not 64 bytes in unpadded base64url"))?;
        let claims = decode::<Claims>(claims, "its claims")?;
        let (issuer, expires_at) = claims.check(us, now)?;
        let scopes = Scope::ALL.into_iter().filter(|scope| claims.scope.iter().any(|word| word == scope.word()));
        Ok(Self {
            issuer,
            scopes: scopes.collect(),
            id: claims.jti,
            expires_at,
            key_id,
            text: token[..token.rfind('.').unwrap_or_default()].to_owned(),
            signature,
        })
    }
}

/// By which key, if the head names a kind of signature that is known. What else it says is not asked: a key that comes
/// with a token proves nothing.
fn key_id_of(head: Head) -> Result<String, TokenError> {
    if head.alg != "EdDSA" {
        return Err(TokenError::Algorithm(head.alg.chars().take(20).collect()));
    }
    if head.crit.is_some() {
        return Err(malformed("its head demands something (`crit`) that this server does not know"));
    }
    if head.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt")) {
        return Err(malformed("it is something else than a JWT"));
    }
    let key_id = head.kid.ok_or_else(|| malformed("its head does not say which key signed it (`kid`)"))?;
    match key_id.split_once(':') {
        Some(("ed25519", version)) if !version.is_empty() && key_id.len() <= 255 => Ok(key_id),
        _ => Err(TokenError::Algorithm(key_id.chars().take(20).collect())),
    }
}

impl Claims {
    /// Whose it is, and until when it may be used, if it may be used here and now.
    fn check(&self, us: &ServerName, now: Millis) -> Result<(OwnedServerName, Millis), TokenError> {
        let issuer = || TokenError::Issuer(self.iss.chars().take(255).collect());
        let name = ServerName::parse(&self.iss).map_err(|_| issuer())?;
        if name == us {
            return Err(issuer());
        }
        if self.aud != us.as_str() {
            let audience = self.aud.chars().take(255).collect();
            return Err(TokenError::Audience { audience, us: us.to_string() });
        }
        if !is_of(&self.sub, &name) {
            return Err(TokenError::Subject(self.sub.chars().take(255).collect()));
        }
        if self.jti.is_empty() || self.jti.len() > MAX_ID_BYTES {
            return Err(malformed("`jti` is empty or longer than 255 bytes"));
        }
        let millis = |seconds: i64| seconds.saturating_mul(1_000);
        let (begins, ends) = (millis(self.nbf.unwrap_or(self.iat).max(self.iat)), millis(self.exp));
        if begins > now.saturating_add(SKEW) {
            return Err(TokenError::NotYet(begins.saturating_sub(now) / 1_000));
        }
        if ends.saturating_add(SKEW) <= now {
            return Err(TokenError::Expired(now.saturating_sub(ends) / 1_000));
        }
        let lifetime = ends.saturating_sub(millis(self.iat));
        if lifetime <= 0 || lifetime > MAX_LIFETIME {
            return Err(TokenError::Lifetime);
        }
        Ok((name, ends.saturating_add(SKEW)))
    }
}

/// Whether a subject is the server itself, or one of its users, in either spelling.
fn is_of(subject: &str, server: &ServerName) -> bool {
    let user = subject.strip_prefix('@').and_then(|user| user.split_once(':')).or_else(|| subject.rsplit_once('@'));
    subject == server.as_str() || user.is_some_and(|(name, domain)| !name.is_empty() && domain == server.as_str())
}

fn decode<T: DeserializeOwned>(part: &str, what: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed(&format!("{what} is not unpadded base64url")))?;
    serde_json::from_slice(&bytes).map_err(|error| malformed(&format!("{what}: {error}")))
}

fn malformed(problem: &str) -> TokenError {
    TokenError::Malformed(problem.to_owned())
}
