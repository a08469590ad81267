//! Why something does not count as said by a server.

use std::sync::Arc;

use model::{Kind, Millis, Refusal};
use ruma::OwnedServerName;

/// Why something does not count as said by a server.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeyError {
    /// A key that would be needed can't be had.
    #[error("the key {key_id} of {server} can't be had: {reason}")]
    Unavailable {
        /// Whose.
        server: OwnedServerName,
        /// Which.
        key_id: String,
        /// What was tried, and what came of it.
        reason: String,
        /// Its server did not say what its keys are, and may do so later.
        may_pass: bool,
    },
    /// The key is known, but what it signed then does not count.
    #[error("the key {key_id} of {server} does not count: {reason}")]
    Expired {
        /// Whose.
        server: OwnedServerName,
        /// Which.
        key_id: String,
        /// Until when it did, and whose clock may be wrong.
        reason: String,
    },
    /// The signature is not by the key, or there is none.
    #[error("there is no valid signature of {server}: {reason}")]
    Signature {
        /// Whose signature was needed.
        server: OwnedServerName,
        /// What is wrong.
        reason: String,
    },
    /// It has no form that could be signed.
    #[error("what was signed is malformed: {0}")]
    Malformed(String),
    /// The store failed.
    #[error("the keys of other servers could not be read or stored")]
    Store(#[source] Arc<store::Error>),
}

impl KeyError {
    /// One word, for counting.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unknown_key",
            Self::Expired { .. } => "expired_key",
            Self::Signature { .. } => "bad_signature",
            Self::Malformed(_) => "malformed",
            Self::Store(_) => "store",
        }
    }
}

impl Refusal for KeyError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Malformed(_) => Kind::Invalid,
            _ => Kind::Forbidden,
        }
    }
}

impl From<store::Error> for KeyError {
    fn from(error: store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// A length of time, for people: its two largest units.
pub(crate) fn span(length: Millis) -> String {
    let seconds = length / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (1.., _, _) => format!("{days} d {hours} h"),
        (_, 1.., _) => format!("{hours} h {minutes} min"),
        (_, _, 1..) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_length_of_time_is_told_by_its_two_largest_units() {
        let told: Vec<String> = [0, 59_999, 61_000, 3_660_000, 90_000_000].into_iter().map(super::span).collect();
        assert_eq!(told, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }
}
