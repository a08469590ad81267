//! How far another server is trusted.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How far another server is trusted, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustLevel {
    /// Nothing goes there, and nothing of it is taken.
    Blocked,
    /// Only what people of this server have asked for.
    Restricted,
    /// Chat, and little that tells of people.
    Limited,
    /// Everything.
    Full,
}

impl TrustLevel {
    /// All of them, from the least to the most.
    pub const ALL: [Self; 4] = [Self::Blocked, Self::Restricted, Self::Limited, Self::Full];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Restricted => "restricted",
            Self::Limited => "limited",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for TrustLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// There is no such level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no trust level: it is one of full, limited, restricted, blocked")]
pub struct UnknownLevel(String);

impl FromStr for TrustLevel {
    type Err = UnknownLevel;

    fn from_str(word: &str) -> Result<Self, UnknownLevel> {
        Self::ALL.into_iter().find(|level| level.as_str() == word).ok_or_else(|| UnknownLevel(word.to_owned()))
    }
}
