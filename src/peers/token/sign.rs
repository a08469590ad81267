//! Asking other servers on their native API.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use rand::RngExt as _;
use ruma::{
    CanonicalJsonValue, ServerName,
    serde::{Base64, base64::Standard},
    signatures::KeyPair as _,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{BODY_SIGNATURE, Scope};
use crate::{
    PeerError, Peers,
    client::{Asked, ORDINARY},
};

/// How long our tokens live, in seconds: as long as a request may take, and clocks differ.
const LIFETIME: i64 = 120;

/// A request on another server's native API.
#[derive(Clone, Copy, Debug)]
pub struct NativeRequest<'a, B> {
    /// `/api/v1/federation/messages/deliver`.
    pub path: &'static str,
    /// On whose behalf: `alice@a.example`, or the name of this server.
    pub subject: &'a str,
    /// What for.
    pub scope: Scope,
    /// An object.
    pub body: &'a B,
}

impl Peers {
    /// Posts to the native API of `destination`, and reads the answer. Takes `request_timeout` at most.
    pub async fn post_native<B: Serialize, A: DeserializeOwned>(
        &self,
        destination: &ServerName,
        request: NativeRequest<'_, B>,
    ) -> Result<A, PeerError> {
        let ours = |reason: String| PeerError::Configuration(format!("the request can't be made: {reason}"));
        let body = serde_json::to_value(request.body).map_err(|error| ours(error.to_string()))?;
        let body = CanonicalJsonValue::try_from(body).map_err(|error| ours(error.to_string()))?.to_string();
        let NativeRequest { subject, scope, .. } = request;
        let headers = self.native_headers(destination, subject, scope, Some(&body));
        let headers = headers.map_err(|error| ours(error.to_string()))?;
        let asked = Asked { method: Method::POST, uri: request.path.to_owned(), headers, body: body.into() };
        let answer = self.exchange_native(destination, asked, ORDINARY).await?;
        serde_json::from_slice(answer.body())
            .map_err(|error| PeerError::Malformed { server: destination.to_owned(), reason: error.to_string() })
    }

    /// Gets from the native API of `destination`. `uri`: the path and its query. Takes `request_timeout` at most.
    pub async fn get_native<A: DeserializeOwned>(
        &self,
        destination: &ServerName,
        uri: String,
        subject: &str,
        scope: Scope,
    ) -> Result<A, PeerError> {
        self.get_native_up_to(ORDINARY, destination, uri, subject, scope).await
    }

    /// As [`Self::get_native`], for an answer of `bytes` at most.
    pub async fn get_native_up_to<A: DeserializeOwned>(
        &self,
        bytes: usize,
        destination: &ServerName,
        uri: String,
        subject: &str,
        scope: Scope,
    ) -> Result<A, PeerError> {
        let ours = |reason: String| PeerError::Configuration(format!("the request can't be made: {reason}"));
        let headers =
            self.native_headers(destination, subject, scope, None).map_err(|error| ours(error.to_string()))?;
        let asked = Asked { method: Method::GET, uri, headers, body: Bytes::new() };
        let answer = self.exchange_native(destination, asked, bytes).await?;
        serde_json::from_slice(answer.body())
            .map_err(|error| PeerError::Malformed { server: destination.to_owned(), reason: error.to_string() })
    }

    fn native_headers(
        &self,
        destination: &ServerName,
        subject: &str,
        scope: Scope,
        body: Option<&str>,
    ) -> Result<HeaderMap, header::InvalidHeaderValue> {
        let key = &self.shared.key;
        let now = self.keys().now() / 1_000;
        let head = json!({ "alg": "EdDSA", "typ": "JWT", "kid": key.key_id() });
        let claims = json!({
            "iss": self.server_name(), "aud": destination, "sub": subject, "scope": [scope.word()],
            "iat": now, "exp": now + LIFETIME, "jti": URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 18]>()),
        });
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", part(head), part(claims));
        let (_, signature) = key.sign(text.as_bytes()).into_parts();
        let token = format!("Bearer {text}.{}", URL_SAFE_NO_PAD.encode(signature));
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&token)?);
        if let Some(body) = body {
            let (_, signature) = key.sign(body.as_bytes()).into_parts();
            let signature: Base64<Standard> = Base64::new(signature);
            let signature = format!("{} {}", key.key_id(), signature.encode());
            headers.insert(BODY_SIGNATURE, HeaderValue::from_str(&signature)?);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(headers)
    }
}
