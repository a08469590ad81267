//! Access tokens that other programs can read and verify: JWTs, signed EdDSA by a key of this deployment.
//!
//! What a token opens here is decided by its hash in the database, as for any other, so it can be taken back at once; who verifies it by
//! the key alone believes it until it expires. The key comes out of the file that secrets are sealed by, which all nodes have, and is not
//! the one by which the server speaks to others: what is signed here can't be passed off as the word of the server.
//!
//! Spec: <https://www.rfc-editor.org/rfc/rfc7519>, <https://www.rfc-editor.org/rfc/rfc8037>

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use model::{Address, Millis};
use peers::vault::Vault;
use ruma::{DeviceId, ServerName, UserId};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::secrets::random_text;

/// What the key is for.
const PURPOSE: &str = "comity: access tokens, 1";

/// What access tokens are signed with.
pub(crate) struct TokenKey {
    key: SigningKey,
    id: String,
}

/// The public half of what access tokens are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicTokenKey {
    /// As `kid` in tokens.
    pub id: String,
    /// 32 bytes, base64 for URLs.
    pub x: String,
}

/// What a token says of itself.
pub(crate) struct Claims<'a> {
    /// Who gave it out.
    pub(crate) issuer: &'a ServerName,
    /// Whom it stands for.
    pub(crate) user_id: &'a UserId,
    /// On which device.
    pub(crate) device_id: &'a DeviceId,
    /// When it was given out.
    pub(crate) issued_at: Millis,
    /// When it stops working.
    pub(crate) expires_at: Millis,
}

impl TokenKey {
    pub(crate) fn of(vault: &Vault) -> Self {
        let key = SigningKey::from_bytes(&vault.derive(PURPOSE));
        let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
        // Spec: RFC 7638, the members that RFC 8037 names, in alphabetical order.
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        Self { key, id: URL_SAFE_NO_PAD.encode(Sha256::digest(thumbprint)) }
    }

    pub(crate) fn public(&self) -> PublicTokenKey {
        PublicTokenKey { id: self.id.clone(), x: URL_SAFE_NO_PAD.encode(self.key.verifying_key().as_bytes()) }
    }

    /// A token. It is good for whole seconds, rounded down: none is believed elsewhere that has expired here.
    pub(crate) fn issue(&self, claims: &Claims<'_>) -> String {
        let head = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id });
        let claims = json!({
            "iss": claims.issuer, "sub": Address::from(claims.user_id), "sid": claims.device_id,
            "iat": claims.issued_at / 1_000, "exp": claims.expires_at / 1_000, "jti": random_text(),
        });
        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", part(head), part(claims));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(text.as_bytes()).to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, VerifyingKey};
    use ruma::{device_id, server_name, user_id};

    use super::*;

    #[test]
    fn a_token_is_verified_by_the_public_key_and_says_whose_it_is() {
        let key = TokenKey::of(&Vault::ephemeral().expect("there is randomness"));
        let claims = Claims {
            issuer: server_name!("a.test"),
            user_id: user_id!("@alice:a.test"),
            device_id: device_id!("PHONE"),
            issued_at: 1_700_000_000_999,
            expires_at: 1_700_000_900_999,
        };
        let (one, other) = (key.issue(&claims), key.issue(&claims));
        assert_ne!(one, other, "each has a name of its own");
        let (text, signature) = one.rsplit_once('.').expect("it has three parts");
        let x = URL_SAFE_NO_PAD.decode(key.public().x).expect("it is base64");
        let public = VerifyingKey::from_bytes(&x.try_into().expect("32 bytes")).expect("it is a key");
        let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).expect("it is base64"));
        public.verify_strict(text.as_bytes(), &signature.expect("64 bytes")).expect("it was signed");
        let (head, claims) = text.split_once('.').expect("it has three parts");
        let read =
            |part| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON");
        assert_eq!(read(head), json!({ "alg": "EdDSA", "typ": "JWT", "kid": key.public().id }));
        let mut claims = read(claims);
        claims["jti"].take();
        let expected = json!({
            "iss": "a.test", "sub": "alice@a.test", "sid": "PHONE", "iat": 1_700_000_000, "exp": 1_700_000_900,
            "jti": null,
        });
        assert_eq!(claims, expected);
    }
}
