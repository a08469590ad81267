//! Signing what this server asks.

use http::{HeaderValue, Method, header::InvalidHeaderValue};
use model::SigningKey;
use ruma::{
    CanonicalJsonValue, ServerName,
    serde::{Base64, base64::Standard},
    signatures::KeyPair as _,
};
use serde::Serialize;

/// What is signed of a request: in the order of canonical JSON.
#[derive(Serialize)]
struct Signed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a CanonicalJsonValue>,
    destination: &'a str,
    method: &'a str,
    origin: &'a str,
    uri: &'a str,
}

/// The `Authorization` header of a request to `destination`. `uri`: path and query. `content`: the body, if there is one.
pub(crate) fn sign(
    key: &SigningKey,
    destination: &ServerName,
    method: &Method,
    uri: &str,
    content: Option<&CanonicalJsonValue>,
) -> Result<HeaderValue, InvalidHeaderValue> {
    let origin = key.server_name();
    let signed =
        Signed { content, destination: destination.as_str(), method: method.as_str(), origin: origin.as_str(), uri };
    // Its keys are in order, and `serde_json` spells texts as Matrix's canonical JSON does. `serde_canonical_json` doesn't: it leaves line
    // breaks and other control characters as they are, and whoever checks the signature finds another text.
    let text = serde_json::to_vec(&signed).expect("canonical JSON can be written to memory");
    let (_, signature) = key.sign(&text).into_parts();
    let signature: Base64<Standard> = Base64::new(signature);
    let (key_id, signature) = (key.key_id(), signature.encode());
    HeaderValue::from_str(&format!(
        r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#
    ))
}
