//! What a client asks for: all of the client-server API, on a device that it names.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#scope>

use ruma::{DeviceId, OwnedDeviceId};

use super::OauthError;

/// Before and after the specification took them over.
const API: [&str; 2] = ["urn:matrix:client:api:*", "urn:matrix:org.matrix.msc2967.client:api:*"];
const DEVICE: [&str; 2] = ["urn:matrix:client:device:", "urn:matrix:org.matrix.msc2967.client:device:"];
/// The longest scope that is read, in bytes.
const LONGEST: usize = 2_048;
const LONGEST_DEVICE_ID: usize = 255;

/// What is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The words that were understood, as they were said, with spaces between.
    pub text: String,
    /// The device that the session will have.
    pub device_id: OwnedDeviceId,
}

impl Scope {
    /// Reads what a client asks for. Words that mean nothing here are left out of what is granted.
    pub fn parse(text: &str) -> Result<Self, OauthError> {
        if text.len() > LONGEST {
            return Err(OauthError::Scope("`scope` is longer than 2048 bytes"));
        }
        let (mut words, mut device_id): (Vec<&str>, Option<OwnedDeviceId>) = (Vec::new(), None);
        let mut has_api = false;
        for word in text.split_ascii_whitespace() {
            if API.contains(&word) {
                has_api = true;
            } else if let Some(id) = DEVICE.iter().find_map(|prefix| word.strip_prefix(prefix)) {
                check_device_id(id)?;
                // Spec: "There MUST be exactly one".
                if device_id.as_ref().is_some_and(|other| other.as_str() != id) {
                    return Err(OauthError::Scope("`scope` names several devices"));
                }
                device_id = Some(<&DeviceId>::from(id).to_owned());
            } else {
                continue;
            }
            if !words.contains(&word) {
                words.push(word);
            }
        }
        if !has_api {
            return Err(OauthError::Scope("`scope` lacks urn:matrix:client:api:*"));
        }
        let device_id = device_id.ok_or(OauthError::Scope("`scope` lacks urn:matrix:client:device:<device id>"))?;
        Ok(Self { text: words.join(" "), device_id })
    }
}

fn check_device_id(id: &str) -> Result<(), OauthError> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if id.is_empty() || id.len() > LONGEST_DEVICE_ID || !id.bytes().all(is_allowed) {
        return Err(OauthError::Scope(
            "the device id in `scope` is empty, too long, or has characters that none may have",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_understood_and_granted_as_they_were_said() {
        for text in [
            "urn:matrix:client:api:* urn:matrix:client:device:ABCDEFGHIJ",
            "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:ABCDEFGHIJ",
        ] {
            let scope = Scope::parse(&format!("openid {text} email")).expect("it is complete");
            assert_eq!((scope.text.as_str(), scope.device_id.as_str()), (text, "ABCDEFGHIJ"));
        }
    }

    #[test]
    fn a_scope_has_the_api_and_exactly_one_device() {
        for wrong in [
            "",
            "openid",
            "urn:matrix:client:api:*",
            "urn:matrix:client:device:ABC",
            "urn:matrix:client:api:* urn:matrix:client:device:",
            "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B",
            "urn:matrix:client:api:* urn:matrix:client:device:\u{e9}",
        ] {
            let refused = Scope::parse(wrong).expect_err(wrong);
            assert!(matches!(refused, OauthError::Scope(_)), "{wrong}: {refused}");
        }
    }
}
