//! The native federation API, as a scripted server asks it and is asked.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::Signer as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Answer, FakePeer, Heard, Peer, now, pdu};

/// A request that is good until something in it is changed.
#[derive(Clone, Debug)]
pub struct NativeRequest {
    /// The method.
    pub method: Method,
    /// The path, with its query.
    pub path: String,
    /// The head of its token.
    pub head: Value,
    /// What its token says.
    pub claims: Value,
    /// The body as it is sent; empty: none.
    pub body: Vec<u8>,
    /// The `X-Comity-Signature`; empty: none.
    pub body_signature: String,
}

impl FakePeer {
    /// An honest request to the server called `destination`.
    pub fn native(&self, destination: &str, method: Method, path: &str, body: Option<Value>) -> NativeRequest {
        let seconds = now() / 1_000;
        let claims = json!({
            "iss": self.name, "aud": destination, "sub": self.name,
            "scope": ["messaging", "presence", "users", "search", "status", "peering", "broadcasts", "cascade"],
            "iat": seconds, "exp": seconds + 60, "jti": format!("{:032x}", rand::random::<u128>()),
        });
        let body = body.map(|body| pdu::canonical(&body)).unwrap_or_default();
        let body_signature = if body.is_empty() { String::new() } else { self.body_signature(&body) };
        let head = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.key_id() });
        NativeRequest { method, path: path.to_owned(), head, claims, body, body_signature }
    }

    /// Its signature over a body.
    pub fn body_signature(&self, body: &[u8]) -> String {
        format!("{} {}", self.key_id(), pdu::base64(&self.key().sign(body).to_bytes()))
    }

    /// A token of these claims.
    pub fn token(&self, head: &Value, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", part(head), part(claims));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.key().sign(text.as_bytes()).to_bytes()))
    }

    /// Asks `server` as it is.
    pub async fn ask_native(&self, server: &impl Peer, request: &NativeRequest) -> Answer {
        let bearer = format!("Bearer {}", self.token(&request.head, &request.claims));
        self.ask_bearing(server, request, &bearer).await
    }

    /// Asks `server` with an `Authorization` of the test's choice.
    pub async fn ask_bearing(&self, server: &impl Peer, request: &NativeRequest, authorization: &str) -> Answer {
        let mut headers = vec![("authorization", authorization)];
        if !request.body_signature.is_empty() {
            headers.push(("x-comity-signature", &request.body_signature));
        }
        let content_type = if request.body.is_empty() { "" } else { "application/json" };
        let (method, path) = (request.method.clone(), request.path.as_str());
        let speaker = self.speaker(server);
        let asked = speaker.raw_saying(method, path, content_type, request.body.clone(), &headers);
        asked.await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// GET, honestly.
    pub async fn get_native(&self, server: &impl Peer, path: &str) -> Answer {
        self.ask_native(server, &self.native(&server.place().name, Method::GET, path, None)).await
    }

    /// POST, honestly.
    pub async fn post_native(&self, server: &impl Peer, path: &str, body: Value) -> Answer {
        self.ask_native(server, &self.native(&server.place().name, Method::POST, path, Some(body))).await
    }
}

/// What the token of a request says, and whether it and the body were signed by the owner of `key`.
pub fn claims_of(heard: &Heard, key: &[u8]) -> Option<Value> {
    let token = heard.authorization.strip_prefix("Bearer ")?;
    let (text, signature) = token.rsplit_once('.')?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
    let signature = ed25519_dalek::Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
    key.verify_strict(text.as_bytes(), &signature).ok()?;
    let (_, of_body) = heard.body_signature.split_once(' ')?;
    if !pdu::is_signature(of_body, key.as_bytes(), &heard.body) {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.rsplit_once('.')?.1).ok()?).ok()
}
