//! The signature over a body.

use bytes::Bytes;
use http::HeaderMap;
use ruma::CanonicalJsonValue;

use super::{BODY_SIGNATURE, TokenError};
use crate::x_matrix::decode_signature;

/// How many signatures of one body are looked at; a server has one, or two while it changes its key.
const MOST_SIGNATURES: usize = 4;

/// The signatures that came with a body: key ids, all `ed25519:…`, each with what it made.
pub(super) fn signatures_of(headers: &HeaderMap) -> Result<Vec<(String, [u8; 64])>, TokenError> {
    let mut found = Vec::new();
    for header in headers.get_all(BODY_SIGNATURE).iter().take(MOST_SIGNATURES) {
        let text = header.to_str().map_err(|_| TokenError::Body("its header is not ASCII"))?;
        let (key_id, signature) =
            text.trim().split_once(' ').ok_or(TokenError::Body("its header is no key id and base64"))?;
        if !key_id.starts_with("ed25519:") || key_id.len() > 255 {
            return Err(TokenError::Body("its key is no ed25519 key"));
        }
        let signature = decode_signature(signature.trim()).ok_or(TokenError::Body("it is not 64 bytes in base64"))?;
        found.push((key_id.to_owned(), signature));
    }
    if found.is_empty() { Err(TokenError::UnsignedBody) } else { Ok(found) }
}

/// A body as it came, and, if that is another, as canonical JSON spells it: the latter is what is to be signed, and the
/// former does no harm.
pub(super) fn spellings_of(body: Bytes) -> Vec<Bytes> {
    let canonical = serde_json::from_slice::<CanonicalJsonValue>(&body).ok().map(|body| Bytes::from(body.to_string()));
    let mut spellings = vec![body];
    spellings.extend(canonical.filter(|canonical| *canonical != spellings[0]));
    spellings
}
