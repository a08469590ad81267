//! Signing what this server asks.

use http::{HeaderValue, Method, header::InvalidHeaderValue};
use model::SigningKey;
use ruma::{
    CanonicalJsonValue, ServerName,
    serde::{Base64, base64::Standard},
    signatures::KeyPair as _,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// What is signed of a request.
#[derive(Serialize)]
struct Signed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Box<RawValue>>,
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
    // `CanonicalFormatter` leaves line breaks and other control characters as they are, which Matrix escapes: so what may hold some is
    // spelled by `CanonicalJsonValue`, which does, and goes in as it is.
    let content = content.map(|content| to_raw_value(content).expect("canonical JSON can be written to memory"));
    let signed =
        Signed { content, destination: destination.as_str(), method: method.as_str(), origin: origin.as_str(), uri };
    let mut text = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut text, serde_canonical_json::CanonicalFormatter::new());
    signed.serialize(&mut writer).expect("canonical JSON can be written to memory");
    let (_, signature) = key.sign(&text).into_parts();
    let signature: Base64<Standard> = Base64::new(signature);
    let (key_id, signature) = (key.key_id(), signature.encode());
    HeaderValue::from_str(&format!(
        r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#
    ))
}
