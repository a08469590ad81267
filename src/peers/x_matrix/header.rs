//! The `Authorization` header of a signed request.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderValue, header};
use ruma::{OwnedServerName, ServerName};

use super::AuthError;

/// With padding or without, but no stray bits: a signature has one spelling.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const SCHEME: &str = "X-Matrix";

/// How many signatures of one request are looked at; a server has one, or two while it changes its key.
const MOST_SIGNATURES: usize = 4;

/// Who says to have signed a request, and the signatures. Nothing of it has been checked by a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub origin: OwnedServerName,
    /// Key ids, all `ed25519:…`, each with its signature; at least one.
    pub signatures: Vec<(String, [u8; 64])>,
}

impl Claim {
    /// Reads the headers of a request to `us`, and refuses what no key could make right.
    pub fn read(headers: &HeaderMap, us: &ServerName) -> Result<Self, AuthError> {
        let mut claim: Option<Self> = None;
        let mut is_there = false;
        for header in headers.get_all(header::AUTHORIZATION).iter().take(MOST_SIGNATURES) {
            let Some(parameters) = parameters_of(header)? else { continue };
            is_there = true;
            let Some((origin, key_id, signature)) = Parameters::parse(parameters)?.check(us)? else { continue };
            match &mut claim {
                None => claim = Some(Self { origin, signatures: vec![(key_id, signature)] }),
                Some(claim) if claim.origin == origin => claim.signatures.push((key_id, signature)),
                Some(_) => return Err(AuthError::Malformed("two origins sign one request")),
            }
        }
        claim.ok_or(if is_there { AuthError::Algorithm } else { AuthError::Missing })
    }
}

/// What follows the scheme, if it is ours.
fn parameters_of(header: &HeaderValue) -> Result<Option<&str>, AuthError> {
    let text = header.to_str().map_err(|_| AuthError::Malformed("it is not ASCII"))?;
    let (scheme, parameters) = text.trim().split_once([' ', '\t']).unwrap_or((text, ""));
    Ok(scheme.eq_ignore_ascii_case(SCHEME).then_some(parameters))
}

#[derive(Default)]
struct Parameters {
    origin: Option<String>,
    destination: Option<String>,
    key: Option<String>,
    sig: Option<String>,
}

impl Parameters {
    fn parse(mut rest: &str) -> Result<Self, AuthError> {
        let mut found = Self::default();
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return Ok(found);
            }
            let (name, after) = rest.split_once('=').ok_or(AuthError::Malformed("a parameter has no value"))?;
            let (value, after) = value_of(after.trim_start_matches([' ', '\t']))?;
            rest = after.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(AuthError::Malformed("no comma stands between two parameters"));
            }
            let slot = match name.trim_end_matches([' ', '\t']).to_ascii_lowercase().as_str() {
                "origin" => &mut found.origin,
                "destination" => &mut found.destination,
                "key" => &mut found.key,
                "sig" => &mut found.sig,
                // Spec: unknown parameters are ignored.
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(AuthError::Malformed("a parameter stands there twice"));
            }
        }
    }

    /// Answers nothing where the signature is of an algorithm that this server doesn't know.
    fn check(self, us: &ServerName) -> Result<Option<(OwnedServerName, String, [u8; 64])>, AuthError> {
        let origin = self.origin.ok_or(AuthError::Malformed("`origin` is missing"))?;
        let origin =
            ServerName::parse(origin).map_err(|_| AuthError::Malformed("`origin` is not the name of a server"))?;
        // Spec: older servers leave it out; where it is, it must be ours.
        if self.destination.is_some_and(|destination| destination != us.as_str()) {
            return Err(AuthError::Destination { origin, us: us.to_owned() });
        }
        if origin == us {
            return Err(AuthError::Ourselves);
        }
        let key = self.key.ok_or(AuthError::Malformed("`key` is missing"))?;
        let signature = self.sig.ok_or(AuthError::Malformed("`sig` is missing"))?;
        let Some((algorithm, version)) = key.split_once(':') else {
            return Err(AuthError::Malformed("`key` is not of the form algorithm:version"));
        };
        if algorithm != "ed25519" {
            return Ok(None);
        }
        if version.is_empty() || version.len() > 255 {
            return Err(AuthError::Malformed("`key` is not of the form algorithm:version"));
        }
        let signature =
            decode_signature(&signature).ok_or(AuthError::Malformed("`sig` is not a signature in base64"))?;
        Ok(Some((origin, key, signature)))
    }
}

/// A signature in base64, with padding or without.
pub(crate) fn decode_signature(text: &str) -> Option<[u8; 64]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> Result<(String, &str), AuthError> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Spec: "for compatibility with older servers, the recipient should allow colons to be included in values
        // without requiring the value to be enclosed in quotes"; base64 has characters that a token lacks, too.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        let is_bare = !value.is_empty() && !value.contains(['"', '\\']);
        return if is_bare { Ok((value.to_owned(), rest)) } else { Err(AuthError::Malformed("a value is malformed")) };
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => match characters.next() {
                Some((_, escaped)) => value.push(escaped),
                None => break,
            },
            other => value.push(other),
        }
    }
    Err(AuthError::Malformed("a quoted value does not end"))
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn read(headers: &[&str]) -> Result<Claim, AuthError> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(header::AUTHORIZATION, HeaderValue::from_str(header).expect("it can be a header"));
        }
        Claim::read(&map, server_name!("b.test"))
    }

    fn sig() -> String {
        BASE64.encode([7; 64])
    }

    #[test]
    fn what_servers_write_is_read() {
        let sig = sig();
        let bare = sig.trim_end_matches('=');
        for header in [
            format!(r#"X-Matrix origin="a.test:8448",destination="b.test",key="ed25519:k1",sig="{sig}""#),
            format!(r#"X-Matrix origin="a.test:8448",key="ed25519:k1",sig="{bare}",destination="b.test""#),
            format!(r"X-Matrix origin=a.test:8448,key=ed25519:k1,sig={bare}"),
            format!(r"x-matrix  origin=a.test:8448 , KEY = ed25519:k1 ,	sig={sig},"),
            format!(r#"X-Matrix origin="a.t\est:8448",other=x,key="ed25519:k1",sig="{sig}""#),
        ] {
            let claim = read(&[&header]).unwrap_or_else(|error| panic!("{header}: {error}"));
            assert_eq!(claim.origin, "a.test:8448");
            assert_eq!(claim.signatures, [("ed25519:k1".to_owned(), [7; 64])]);
        }
    }

    #[test]
    fn what_no_key_can_make_right_is_refused_with_its_reason() {
        let sig = sig();
        let reason = |header: &str| read(&[header]).expect_err(header).reason();
        assert_eq!(read(&[]).expect_err("nothing is there").reason(), "missing_header");
        assert_eq!(reason("Bearer abc"), "missing_header");
        for malformed in [
            "X-Matrix".to_owned(),
            "X-Matrix origin".to_owned(),
            r#"X-Matrix origin="a.test"#.to_owned(),
            format!("X-Matrix key=ed25519:k,sig={sig}"),
            format!("X-Matrix origin=a.test,sig={sig}"),
            "X-Matrix origin=a.test,key=ed25519:k".to_owned(),
            format!("X-Matrix origin=a.test,origin=a.test,key=ed25519:k,sig={sig}"),
            format!(r#"X-Matrix origin="a.test"key="ed25519:k",sig="{sig}""#),
            format!("X-Matrix origin=a/test,key=ed25519:k,sig={sig}"),
            format!("X-Matrix origin=a.test,key=ed25519,sig={sig}"),
            format!("X-Matrix origin=a.test,key=ed25519:,sig={sig}"),
            "X-Matrix origin=a.test,key=ed25519:k,sig=AAAA".to_owned(),
            "X-Matrix origin=a.test,key=ed25519:k,sig=???".to_owned(),
            // The last character has bits that are no part of the signature.
            format!("X-Matrix origin=a.test,key=ed25519:k,sig={}x", &sig[..85]),
        ] {
            assert_eq!(reason(&malformed), "malformed_header", "{malformed}");
        }
        assert_eq!(
            reason(&format!("X-Matrix origin=a.test,destination=c.test,key=ed25519:k,sig={sig}")),
            "wrong_destination"
        );
        assert_eq!(reason(&format!("X-Matrix origin=b.test,key=ed25519:k,sig={sig}")), "own_origin");
        assert_eq!(reason(&format!("X-Matrix origin=a.test,key=rsa:k,sig={sig}")), "unknown_algorithm");
    }

    #[test]
    fn one_server_may_sign_by_two_keys_and_two_servers_may_not() {
        let header = |origin: &str, key: &str| format!("X-Matrix origin={origin},key={key},sig={}", sig());
        let claim = read(&[&header("a.test", "ed25519:old"), &header("a.test", "ed25519:new")]).expect("it is one");
        assert_eq!(claim.signatures.len(), 2);
        let claim = read(&[&header("a.test", "rsa:x"), &header("a.test", "ed25519:new")]).expect("one is known");
        assert_eq!(claim.signatures.len(), 1);
        let refused = read(&[&header("a.test", "ed25519:x"), &header("c.test", "ed25519:x")]).expect_err("two");
        assert_eq!(refused.reason(), "malformed_header");
    }
}
