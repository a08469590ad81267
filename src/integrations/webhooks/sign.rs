//! How an address knows that a request is from here, and new.

use hmac::{Hmac, KeyInit as _, Mac as _};
use model::Millis;
use sha2::Sha256;

/// The header that holds the signature.
pub(super) const HEADER: &str = "x-comity-webhook-signature";

/// `t=SECONDS,v1=HEX`: HMAC-SHA256 with the webhook's secret over the seconds since 1970, a dot and the body.
pub(super) fn signature(secret: &str, now: Millis, body: &[u8]) -> String {
    let seconds = now / 1000;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_others_compute() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let expected = "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";
        let made = signature("secret", 1_700_000_000_999, b"{}");
        assert_eq!(made, expected);
        assert_ne!(made, signature("secret", 1_700_000_000_999, b"{} "));
        assert_ne!(made, signature("other", 1_700_000_000_999, b"{}"));
    }
}
