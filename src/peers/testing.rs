//! For tests of the crates above: servers that talk to nobody, and servers that know each other's keys.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method};
use model::{Millis, SigningKey};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    api::federation::discovery::{ServerSigningKeys, get_remote_server_keys_batch::v2 as query},
    serde::{Base64, Raw},
    signatures::{KeyPair as _, sign_json},
};
use serde_json::{Value, json, value::RawValue};
use store::Store;

use crate::{
    Failure, PeerError, Peers, PeersConfig, Scope,
    keys::{Fetch, wall_clock},
};

/// The peers of a server called `name` that federates with nobody.
pub fn alone(name: &ServerName, store: Store) -> Peers {
    let config = PeersConfig { enabled: false, ..PeersConfig::default() };
    Peers::new(store, Arc::new(key_of(name)), config).expect("nothing has to be reached")
}

/// The peers of a server called `name` that is asked by others, whose keys are those of [`key_of`] `known`.
pub fn knowing(name: &ServerName, store: Store, known: &[&ServerName]) -> Peers {
    let known = known.iter().map(|server| ((*server).to_owned(), key_of(server))).collect();
    let fetch = Arc::new(Known(known));
    Peers::with(store, Arc::new(key_of(name)), PeersConfig::default(), fetch, Arc::new(wall_clock))
        .expect("nothing has to be reached")
}

/// The key that the server called `name` has in tests.
pub fn key_of(name: &ServerName) -> SigningKey {
    SigningKey::from_seed(name.to_owned(), "test", &[7; 32]).expect("any seed makes a key")
}

/// The `Authorization` header of a request from the owner of `key` to `destination`.
pub fn authorization(
    key: &SigningKey,
    destination: &ServerName,
    method: &Method,
    uri: &str,
    content: Option<&CanonicalJsonValue>,
) -> HeaderValue {
    let origin = key.server_name();
    let mut signed = CanonicalJsonObject::from([
        ("destination".to_owned(), destination.as_str().into()),
        ("method".to_owned(), method.as_str().into()),
        ("origin".to_owned(), origin.as_str().into()),
        ("uri".to_owned(), uri.into()),
    ]);
    if let Some(content) = content {
        signed.insert("content".to_owned(), content.clone());
    }
    let text = CanonicalJsonValue::Object(signed).to_string();
    let (_, signature) = key.sign(text.as_bytes()).into_parts();
    let signature: Base64 = Base64::new(signature);
    let (key_id, signature) = (key.key_id(), signature.encode());
    let header = format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#);
    HeaderValue::from_str(&header).expect("it is ASCII")
}

/// What a token from the owner of `key` to `destination` says: everything one may ask for, from `now` in seconds on.
pub fn claims(key: &SigningKey, destination: &ServerName, token_id: &str, now: i64) -> Value {
    let (us, scopes) = (key.server_name(), Scope::ALL.map(Scope::word));
    json!({ "iss": us, "aud": destination, "sub": us, "scope": scopes, "iat": now, "exp": now + 60, "jti": token_id })
}

/// `Bearer` and a token of these claims, signed by `key`.
pub fn bearer(key: &SigningKey, head: &Value, claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let text = format!("{}.{}", part(head), part(claims));
    let (_, signature) = key.sign(text.as_bytes()).into_parts();
    format!("Bearer {text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The head of an honest token.
pub fn token_head(key: &SigningKey) -> Value {
    json!({ "alg": "EdDSA", "typ": "JWT", "kid": key.key_id() })
}

/// The header that signs a body.
pub fn body_signature(key: &SigningKey, body: &[u8]) -> String {
    let (_, signature) = key.sign(body).into_parts();
    let signature: Base64 = Base64::new(signature);
    format!("{} {}", key.key_id(), signature.encode())
}

/// What the owner of `key` says of its keys: signed, and valid until then.
pub fn key_answer(key: &SigningKey, valid_until: Millis) -> Raw<ServerSigningKeys> {
    let public_key: Base64 = Base64::new(key.public_key().to_vec());
    let answer = json!({
        "server_name": key.server_name(),
        "verify_keys": { key.key_id().as_str(): { "key": public_key.encode() } },
        "old_verify_keys": {},
        "valid_until_ts": valid_until,
    });
    let mut object: CanonicalJsonObject = serde_json::from_value(answer).expect("it is canonical");
    sign_json(key.server_name().as_str(), key, &mut object).expect("it is an object");
    let text = CanonicalJsonValue::Object(object).to_string();
    Raw::from_json(RawValue::from_string(text).expect("it is JSON"))
}

/// Servers that answer what their keys are.
struct Known(HashMap<OwnedServerName, SigningKey>);

impl Fetch for Known {
    fn server_keys<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Raw<ServerSigningKeys>, PeerError>> {
        let unknown = || PeerError::Unreachable { server: server.to_owned(), failure: Failure::Connect, source: None };
        let answer = self.0.get(server).map(|key| key_answer(key, wall_clock() + 60_000)).ok_or_else(unknown);
        Box::pin(async { answer })
    }

    fn query<'a>(
        &'a self,
        _notary: &'a ServerName,
        _request: query::Request,
    ) -> BoxFuture<'a, Result<Vec<Raw<ServerSigningKeys>>, PeerError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
