//! A user's address: one identity, two spellings, `@alice:b.example` as Matrix has it and `alice@b.example` as people do.

use std::{fmt, str::FromStr};

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest user id, in bytes, whichever way it is spelled.
///
/// Spec: <https://spec.matrix.org/v1.19/appendices/#user-identifiers>
const MAX_BYTES: usize = 255;

/// A user of this server or another, read from either spelling and written as `alice@b.example`.
///
/// What is written is read as the same user again: where the short spelling could not say whom it means (the local part
/// begins with `@`, or the domain has capitals, which Matrix tells apart and people don't), the Matrix spelling is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(OwnedUserId);

/// Why a text is nobody's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no domain, or nobody at it.
    #[error("an address is written alice@example.org or @alice:example.org")]
    Shape,
    /// What stands for the domain is none.
    #[error("what follows the name in the address is no domain")]
    Domain,
    /// The name has a colon or a NUL in it.
    #[error("the name in an address has no colon")]
    Name,
    /// More than a user id has room for.
    #[error("an address has at most {MAX_BYTES} bytes")]
    TooLong,
}

impl Address {
    /// Whose it is.
    pub fn user_id(&self) -> &UserId {
        &self.0
    }

    /// Whose it is.
    pub fn into_user_id(self) -> OwnedUserId {
        self.0
    }

    /// Of which server.
    pub fn server_name(&self) -> &ServerName {
        self.0.server_name()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads either spelling. What begins with `@` is spelled as in Matrix.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_BYTES {
            return Err(AddressError::TooLong);
        }
        match text.strip_prefix('@') {
            Some(rest) => {
                let (name, domain) = rest.split_once(':').ok_or(AddressError::Shape)?;
                let domain = ServerName::parse(domain).map_err(|_| AddressError::Domain)?;
                Self::of(name, &domain)
            }
            None => {
                // A name may have an @ in it, a domain never.
                let (name, domain) = text.rsplit_once('@').ok_or(AddressError::Shape)?;
                Self::of(name, &domain_of(domain)?)
            }
        }
    }
}

impl Address {
    fn of(name: &str, domain: &ServerName) -> Result<Self, AddressError> {
        if name.is_empty() {
            return Err(AddressError::Shape);
        }
        let user_id = format!("@{name}:{domain}");
        if user_id.len() > MAX_BYTES {
            return Err(AddressError::TooLong);
        }
        let is_name = !name.contains([':', '\0']);
        UserId::parse(user_id).ok().filter(|_| is_name).map(Self).ok_or(AddressError::Name)
    }
}

/// A domain as people write it, who use capitals and letters beyond ASCII as they please.
fn domain_of(text: &str) -> Result<OwnedServerName, AddressError> {
    let domain = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        let host = idna::domain_to_ascii(host).map_err(|_| AddressError::Domain)?;
        port.map_or(host.clone(), |port| format!("{host}:{port}"))
    };
    ServerName::parse(domain).map_err(|_| AddressError::Domain)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = format!("{}@{}", self.0.localpart(), self.0.server_name());
        if short.parse().as_ref() == Ok(self) { f.write_str(&short) } else { f.write_str(self.0.as_str()) }
    }
}

impl From<OwnedUserId> for Address {
    fn from(user_id: OwnedUserId) -> Self {
        Self(user_id)
    }
}

impl From<&UserId> for Address {
    fn from(user_id: &UserId) -> Self {
        Self(user_id.to_owned())
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, AddressError> {
        text.parse::<Address>().map(|address| address.into_user_id().to_string())
    }

    #[test]
    fn both_spellings_name_the_same_user() {
        for text in ["alice@b.example", "@alice:b.example", "alice@B.Example"] {
            assert_eq!(read(text).as_deref(), Ok("@alice:b.example"), "{text}");
            let address: Address = text.parse().expect("it was read a moment ago");
            assert_eq!(address.to_string(), "alice@b.example");
        }
        assert_eq!(read("alice@b.example:8448").as_deref(), Ok("@alice:b.example:8448"));
        assert_eq!(read("alice@[::1]:8448").as_deref(), Ok("@alice:[::1]:8448"));
        assert_eq!(read("alice@mail@b.example").as_deref(), Ok("@alice@mail:b.example"));
        assert_eq!(read("alice@Bücher.example:8448").as_deref(), Ok("@alice:xn--bcher-kva.example:8448"));
        assert_eq!(read("@alice:B.example").as_deref(), Ok("@alice:B.example"), "as Matrix tells them apart");
    }

    #[test]
    fn what_is_nobodys_address_is_refused_with_its_reason() {
        for text in ["", "alice", "@alice", "@b.example", "@:b.example", "alice.b.example"] {
            assert_eq!(read(text), Err(AddressError::Shape), "{text}");
        }
        for text in ["alice@", "alice@b/example", "alice@b example", "@alice:", "@alice:b_example", "alice@b.example:x"]
        {
            assert_eq!(read(text), Err(AddressError::Domain), "{text}");
        }
        assert_eq!(read("al:ice@b.example"), Err(AddressError::Name));
        assert_eq!(read("al\0ice@b.example"), Err(AddressError::Name));
        assert_eq!(read(&format!("{}@b.example", "x".repeat(245))), Err(AddressError::TooLong));
        assert!(read(&format!("{}@b.example", "x".repeat(244))).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same_user(
            name in "[a-zA-Z0-9@._=/+é-]{1,40}",
            domain in "[a-zA-Z0-9][a-zA-Z0-9.-]{0,40}(:[1-9][0-9]{0,3})?",
        ) {
            if let Ok(user_id) = UserId::parse(format!("@{name}:{domain}")) {
                let address = Address::from(user_id);
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }

        #[test]
        fn no_text_is_too_strange_to_be_read(text in ".{0,300}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert!(address.user_id().as_str().len() <= MAX_BYTES);
            }
        }
    }
}
