//! A SIP phone, and what one may look like.

use std::str::FromStr;

use ruma::{OwnedUserId, ServerName};
use serde::{Deserialize, Serialize};
use store::sip_phones::PhoneRow;

use super::{DirectoryError, is_text};

/// No number is longer.
const MAX_NUMBER: usize = 32;
/// Nor any address.
const MAX_URI: usize = 255;

/// A SIP phone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SipPhone {
    /// What one dials: an extension, or a whole number with a +.
    pub number: String,
    /// `sip:1001@sip.a.example`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// What it is.
    #[serde(default)]
    pub kind: PhoneKind,
    /// For people: `Reception`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What a phone is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhoneKind {
    /// It stands on a desk.
    #[default]
    Desk,
    /// A program.
    Softphone,
    /// It is carried along.
    Mobile,
    /// Several people meet there.
    Conference,
    /// For facsimiles.
    Fax,
    /// Something else, or something that this version doesn't know.
    #[serde(other)]
    Other,
}

impl PhoneKind {
    const ALL: [Self; 6] = [Self::Desk, Self::Softphone, Self::Mobile, Self::Conference, Self::Fax, Self::Other];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Desk => "desk",
            Self::Softphone => "softphone",
            Self::Mobile => "mobile",
            Self::Conference => "conference",
            Self::Fax => "fax",
            Self::Other => "other",
        }
    }
}

impl FromStr for PhoneKind {
    type Err = DirectoryError;

    fn from_str(word: &str) -> Result<Self, DirectoryError> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == word);
        found.ok_or_else(|| DirectoryError::Kind(word.chars().take(100).collect()))
    }
}

impl SipPhone {
    /// The same with its number as it is kept, if it can be a phone.
    pub fn checked(self) -> Result<Self, DirectoryError> {
        let number = number_of(&self.number)?;
        if let Some(uri) = self.uri.as_deref().filter(|uri| !is_uri(uri)) {
            return Err(DirectoryError::Uri(uri.chars().take(MAX_URI).collect()));
        }
        if self.label.as_deref().is_some_and(|label| !is_text(label)) {
            return Err(DirectoryError::Text("label"));
        }
        Ok(Self { number, ..self })
    }

    /// As the store has it.
    pub fn into_row(self, user_id: OwnedUserId) -> PhoneRow {
        let Self { number, uri, kind, label } = self;
        PhoneRow { user_id, number, uri, kind: kind.as_str().to_owned(), label }
    }
}

impl From<PhoneRow> for SipPhone {
    fn from(row: PhoneRow) -> Self {
        let PhoneRow { number, uri, kind, label, .. } = row;
        Self { number, uri, kind: kind.parse().unwrap_or(PhoneKind::Other), label }
    }
}

/// A number as it is kept: without what people put between its digits.
pub(super) fn number_of(text: &str) -> Result<String, DirectoryError> {
    let number: String = text.chars().filter(|c| !matches!(c, ' ' | '-' | '.' | '(' | ')' | '/')).collect();
    let digits = number.strip_prefix('+').unwrap_or(&number);
    let is_digit = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'*' | b'#');
    match (1..=MAX_NUMBER).contains(&digits.len()) && digits.bytes().all(is_digit) {
        true => Ok(number),
        false => Err(DirectoryError::Number(text.chars().take(100).collect())),
    }
}

/// Spec: <https://www.rfc-editor.org/rfc/rfc3261#section-19.1>, as far as the address of somebody needs it: no password, no headers.
fn is_uri(uri: &str) -> bool {
    let rest = uri.strip_prefix("sip:").or_else(|| uri.strip_prefix("sips:"));
    let Some((user, place)) = rest.and_then(|rest| rest.split_once('@')) else { return false };
    let (host, parameters) = place.split_once(';').unwrap_or((place, "x"));
    let is_of_user = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/%#".contains(&byte);
    let is_of_parameter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()=;[]:&+$%/".contains(&byte);
    uri.len() <= MAX_URI
        && !user.is_empty()
        && user.bytes().all(is_of_user)
        && <&ServerName>::try_from(host).is_ok()
        && !parameters.is_empty()
        && parameters.bytes().all(is_of_parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phone(number: &str, uri: &str) -> Result<SipPhone, DirectoryError> {
        let uri = (!uri.is_empty()).then(|| uri.to_owned());
        SipPhone { number: number.into(), uri, kind: PhoneKind::Desk, label: None }.checked()
    }

    #[test]
    fn a_number_is_digits_however_it_was_written() {
        for (text, number) in [("1001", "1001"), ("+49 (30) 123-456", "+4930123456"), ("*97#", "*97#")] {
            assert_eq!(phone(text, "").expect(text).number, number);
        }
        for text in ["", "+", "10x", "1+2", "١٢٣", "- -", &"1".repeat(33)] {
            assert!(matches!(phone(text, ""), Err(DirectoryError::Number(_))), "{text}");
        }
    }

    #[test]
    fn an_address_is_one_of_sip() {
        for uri in
            ["sip:1001@a.test", "sips:+49.30@sip.a.test:5061", "sip:bob@[2001:db8::1]", "sip:b@1.2.3.4;transport=tls"]
        {
            phone("1", uri).expect(uri);
        }
        let long = format!("sip:{}@a.test", "1".repeat(255));
        for uri in [
            "1001@a.test",
            "tel:1001",
            "sip:@a.test",
            "sip:1001",
            "sip:a b@a.test",
            "sip:a@b@c",
            "sip:a@b;",
            "sip:a@<b>",
            &long,
        ] {
            assert!(matches!(phone("1", uri), Err(DirectoryError::Uri(_))), "{uri}");
        }
    }

    #[test]
    fn a_kind_that_is_not_known_yet_is_another() {
        let read = |kind: &str| serde_json::from_value::<SipPhone>(serde_json::json!({ "number": "1", "kind": kind }));
        assert_eq!(read("hologram").expect("it is read").kind, PhoneKind::Other);
        assert_eq!(read("fax").expect("it is read").kind, PhoneKind::Fax);
        assert!("hologram".parse::<PhoneKind>().is_err());
    }
}
