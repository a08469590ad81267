//! By what other programs verify access tokens.
//!
//! Spec: <https://www.rfc-editor.org/rfc/rfc7517>, <https://www.rfc-editor.org/rfc/rfc8037>

use serde::Serialize;
use utoipa::ToSchema;

use super::super::{Answer, Anybody, Call, Endpoint, get};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![get("/api/v1/auth/jwks.json", "The keys by which access tokens are verified.", keys).explained(
        "Access tokens are JWTs with `alg` EdDSA: `iss` the name of this server, `sub` the user's address, `sid` the device, `iat`, `exp` and \
         `jti`. Who verifies one by the key alone believes it until `exp`; who asks this server with it learns at once that its session \
         was ended.",
    )]
}

/// The keys, as RFC 7517 has them.
#[derive(Serialize, ToSchema)]
struct KeySet {
    /// One, as long as nobody replaces the file that it comes out of.
    keys: Vec<Key>,
}

/// A key, as RFC 8037 has it.
#[derive(Serialize, ToSchema)]
#[schema(as = TokenVerifyingKey)]
struct Key {
    /// `OKP`.
    kty: &'static str,
    /// `Ed25519`.
    crv: &'static str,
    /// 32 bytes, base64 for URLs.
    x: String,
    /// As in the head of tokens.
    kid: String,
    /// `EdDSA`.
    alg: &'static str,
    /// `sig`.
    #[serde(rename = "use")]
    purpose: &'static str,
}

async fn keys(call: Call<Anybody>) -> Answer<KeySet> {
    let key = call.services.users.public_token_key();
    Ok(KeySet { keys: vec![Key { kty: "OKP", crv: "Ed25519", x: key.x, kid: key.id, alg: "EdDSA", purpose: "sig" }] })
}
