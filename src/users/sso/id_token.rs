//! ID tokens: that a provider has signed one, for this server and this very sign-in.
//!
//! Spec: <https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation>, <https://www.rfc-editor.org/rfc/rfc7515>

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// How far clocks may be apart, in seconds.
const SKEW: i64 = 60;

/// The keys of a provider, as it publishes them.
#[derive(Deserialize)]
pub(crate) struct Keys {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that whoever reads the token must understand: none is understood here.
    crit: Option<Value>,
}

/// For whom a token must be.
pub(crate) struct Expected<'a> {
    /// Who has made it.
    pub(crate) issuer: &'a str,
    /// For whom.
    pub(crate) client_id: &'a str,
    /// For which sign-in.
    pub(crate) nonce: &'a str,
    /// Now, in seconds since 1970.
    pub(crate) now: i64,
}

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFault {
    #[error("its ID token can't be read")]
    Malformed,
    #[error("its ID token is signed in a way that this server doesn't know")]
    Algorithm,
    #[error("its ID token is signed by a key that it doesn't publish")]
    UnknownKey,
    #[error("the signature of its ID token is wrong")]
    Signature,
    #[error("its ID token is of another issuer")]
    Issuer,
    #[error("its ID token is for somebody else")]
    Audience,
    #[error("its ID token is of another sign-in")]
    Nonce,
    #[error("its ID token has expired, or is not good yet")]
    Time,
}

/// The claims of a token that is to be believed.
pub(crate) fn verify(token: &str, keys: &Keys, expected: &Expected<'_>) -> Result<Map<String, Value>, TokenFault> {
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenFault::Malformed)?;
    if header.crit.is_some() {
        return Err(TokenFault::Algorithm);
    }
    let signature = decode(signature)?;
    check_signature(keys, &header, signed.as_bytes(), &signature)?;
    let claims: Map<String, Value> = serde_json::from_slice(&decode(payload)?).map_err(|_| TokenFault::Malformed)?;
    check_claims(&claims, expected)?;
    Ok(claims)
}

fn check_signature(keys: &Keys, header: &Header, signed: &[u8], signature: &[u8]) -> Result<(), TokenFault> {
    let kty = match header.alg.as_str() {
        "RS256" | "RS384" | "RS512" | "PS256" => "RSA",
        "ES256" | "ES384" => "EC",
        "EdDSA" | "Ed25519" => "OKP",
        // Nothing that needs no key, and none that both sides know.
        _ => return Err(TokenFault::Algorithm),
    };
    let may_be = |key: &&Jwk| {
        key.kty == kty
            && key.r#use.as_deref().is_none_or(|used| used == "sig")
            && key.alg.as_ref().is_none_or(|alg| *alg == header.alg)
            && (header.kid.is_none() || key.kid.is_none() || key.kid == header.kid)
    };
    let mut candidates = keys.keys.iter().filter(may_be).peekable();
    if candidates.peek().is_none() {
        return Err(TokenFault::UnknownKey);
    }
    let is_signed = candidates.any(|key| is_signed_by(key, &header.alg, signed, signature).unwrap_or(false));
    if is_signed { Ok(()) } else { Err(TokenFault::Signature) }
}

fn is_signed_by(key: &Jwk, alg: &str, signed: &[u8], signature: &[u8]) -> Option<bool> {
    let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?.trim_end_matches('=')).ok();
    let rsa = |parameters: &'static RsaParameters| {
        let key = RsaPublicKeyComponents { n: part(&key.n)?, e: part(&key.e)? };
        Some(key.verify(parameters, signed, signature).is_ok())
    };
    let curve = |name: &str, size: usize, algorithm: &'static dyn VerificationAlgorithm| {
        let (x, y) = (part(&key.x)?, part(&key.y)?);
        if key.crv.as_deref() != Some(name) || x.len() != size || y.len() != size {
            return None;
        }
        // SEC 1, 2.3.3: a point that is not compressed.
        let point = [&[4], x.as_slice(), y.as_slice()].concat();
        Some(UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok())
    };
    match alg {
        "RS256" => rsa(&RSA_PKCS1_2048_8192_SHA256),
        "RS384" => rsa(&RSA_PKCS1_2048_8192_SHA384),
        "RS512" => rsa(&RSA_PKCS1_2048_8192_SHA512),
        "PS256" => rsa(&RSA_PSS_2048_8192_SHA256),
        "ES256" => curve("P-256", 32, &ECDSA_P256_SHA256_FIXED),
        "ES384" => curve("P-384", 48, &ECDSA_P384_SHA384_FIXED),
        "EdDSA" | "Ed25519" if key.crv.as_deref() == Some("Ed25519") => {
            Some(UnparsedPublicKey::new(&ED25519, part(&key.x)?).verify(signed, signature).is_ok())
        }
        _ => None,
    }
}

fn check_claims(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<(), TokenFault> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(expected.issuer) {
        return Err(TokenFault::Issuer);
    }
    let is_us = |value: &Value| value.as_str() == Some(expected.client_id);
    let (is_for_us, is_for_others) = match claims.get("aud") {
        Some(Value::Array(all)) => (all.iter().any(is_us), all.len() > 1),
        Some(one) => (is_us(one), false),
        None => (false, false),
    };
    // 3.1.3.7: "If the ID Token contains multiple audiences, the Client SHOULD verify that an azp Claim is present", and that it is ours.
    let authorized = text("azp");
    let is_by_us = authorized == Some(expected.client_id) || (authorized.is_none() && !is_for_others);
    if !is_for_us || !is_by_us {
        return Err(TokenFault::Audience);
    }
    if text("nonce") != Some(expected.nonce) {
        return Err(TokenFault::Nonce);
    }
    // Some say it in fractions.
    let seconds = |name: &str| claims.get(name).and_then(Value::as_f64).map(|seconds| seconds as i64);
    let expires_at = seconds("exp").ok_or(TokenFault::Time)?;
    let is_early = |name: &str| seconds(name).is_some_and(|at| at > expected.now.saturating_add(SKEW));
    if expires_at.saturating_add(SKEW) <= expected.now || is_early("iat") || is_early("nbf") {
        return Err(TokenFault::Time);
    }
    match text("sub") {
        Some(subject) if !subject.is_empty() && subject.len() <= 255 => Ok(()),
        _ => Err(TokenFault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
            let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("there is randomness");
            Self(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("it was just made"))
        }

        fn keys(&self) -> Keys {
            let point = self.0.public_key().as_ref();
            let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
            let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "x": x, "y": y }] });
            serde_json::from_value(keys).expect("it has the shape")
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).expect("it can sign");
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn claims() -> Value {
        json!({ "iss": "https://i.test", "aud": "us", "sub": "s", "nonce": "n", "exp": NOW + 300, "iat": NOW })
    }

    const EXPECTED: Expected<'_> = Expected { issuer: "https://i.test", client_id: "us", nonce: "n", now: NOW };

    #[test]
    fn a_token_is_believed_that_says_all_it_must() {
        let signer = Signer::new();
        let token = signer.sign(&json!({ "alg": "ES256", "kid": "k" }), &claims());
        assert_eq!(verify(&token, &signer.keys(), &EXPECTED).expect("it is good")["sub"], "s");
        let mut many = claims();
        many["aud"] = json!(["us", "them"]);
        many["azp"] = json!("us");
        let token = signer.sign(&json!({ "alg": "ES256" }), &many);
        verify(&token, &signer.keys(), &EXPECTED).expect("it is by us");
    }

    #[test]
    fn what_it_says_wrongly_is_found() {
        let signer = Signer::new();
        for (field, value, fault) in [
            ("iss", json!("https://j.test"), TokenFault::Issuer),
            ("aud", json!("them"), TokenFault::Audience),
            ("aud", json!(["us", "them"]), TokenFault::Audience),
            ("azp", json!("them"), TokenFault::Audience),
            ("aud", Value::Null, TokenFault::Audience),
            ("nonce", json!("m"), TokenFault::Nonce),
            ("nonce", Value::Null, TokenFault::Nonce),
            ("exp", json!(NOW - 61), TokenFault::Time),
            ("exp", Value::Null, TokenFault::Time),
            ("iat", json!(NOW + 120), TokenFault::Time),
            ("nbf", json!(NOW + 120), TokenFault::Time),
            ("sub", json!(""), TokenFault::Malformed),
        ] {
            let mut wrong = claims();
            wrong[field] = value.clone();
            let token = signer.sign(&json!({ "alg": "ES256", "kid": "k" }), &wrong);
            assert_eq!(verify(&token, &signer.keys(), &EXPECTED).err(), Some(fault), "{field}: {value}");
        }
    }

    #[test]
    fn a_token_that_another_or_nobody_has_signed_is_not_believed() {
        let (signer, other) = (Signer::new(), Signer::new());
        let header = json!({ "alg": "ES256", "kid": "k" });
        let fault = |token: &str, keys: &Keys| verify(token, keys, &EXPECTED).err();
        let token = signer.sign(&header, &claims());
        assert_eq!(fault(&token, &other.keys()), Some(TokenFault::Signature));
        for alg in ["none", "HS256", "ES512", ""] {
            let token = signer.sign(&json!({ "alg": alg, "kid": "k" }), &claims());
            assert_eq!(fault(&token, &signer.keys()), Some(TokenFault::Algorithm), "{alg}");
        }
        let token = signer.sign(&json!({ "alg": "ES256", "kid": "other" }), &claims());
        assert_eq!(fault(&token, &signer.keys()), Some(TokenFault::UnknownKey));
        let token = signer.sign(&json!({ "alg": "ES256", "crit": ["b64"] }), &claims());
        assert_eq!(fault(&token, &signer.keys()), Some(TokenFault::Algorithm));
        for broken in ["", ".", "..", "a.b", "a.b.c", "e30.e30.e30"] {
            assert_eq!(fault(broken, &signer.keys()), Some(TokenFault::Malformed), "{broken}");
        }
    }

    #[test]
    fn rs256_is_verified_as_in_rfc_7515() {
        // Appendix A.2.
        let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-\
                 yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-\
                 KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_\
                 h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        let signed = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5\
                         jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L\
                         07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUi\
                         pUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let keys: Keys =
            serde_json::from_value(json!({ "keys": [{ "kty": "RSA", "n": n, "e": "AQAB" }] })).expect("keys");
        let header = Header { alg: "RS256".into(), kid: None, crit: None };
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("it is base64");
        assert_eq!(check_signature(&keys, &header, signed.as_bytes(), &signature), Ok(()));
        assert_eq!(check_signature(&keys, &header, b"another", &signature), Err(TokenFault::Signature));
    }
}
