//! How this server regards one other, with everything that an admin has set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Capability, Grant, TABLE, TrustLevel};

/// What an admin has set for single capabilities, apart from the level, and why.
pub type Overrides = BTreeMap<Capability, Override>;

/// One capability that is not as the level has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// How far it reaches.
    pub grant: Grant,
    /// Why.
    pub reason: String,
}

/// A capability, or how far it shall reach, that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongGrant {
    /// There is no such capability.
    #[error("`{0}` is no capability: it is one of {all}", all = words(TABLE.iter().map(|row| row.word)))]
    Capability(String),
    /// It can't reach so far, or not in that way.
    #[error("{capability} can't be `{grant}`: it is one of {all}",
        all = words(capability.row().grants.iter().map(|grant| grant.as_str())))]
    Grant {
        /// Of what.
        capability: Capability,
        /// What was wanted.
        grant: String,
    },
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

impl Capability {
    /// How far it can reach by this name.
    pub fn grant_of(self, word: &str) -> Result<Grant, WrongGrant> {
        let found = self.row().grants.iter().copied().find(|grant| grant.as_str() == word);
        found.ok_or_else(|| WrongGrant::Grant { capability: self, grant: word.to_owned() })
    }

    /// Refuses a grant that this capability doesn't know.
    pub fn check(self, grant: Grant) -> Result<(), WrongGrant> {
        self.grant_of(grant.as_str()).map(drop)
    }
}

/// Whether a peer's row holds at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It holds.
    Active,
    /// An admin has switched the peer off.
    Inactive,
    /// It signs with keys that are not those it was pinned to: nothing is believed until an admin has looked at it.
    Alarmed,
}

/// How this server regards one other: its level with everything that was set apart from it, ready to be decided upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regard {
    /// How far it is trusted.
    pub level: TrustLevel,
    /// Whether that holds.
    pub standing: Standing,
    grants: [Grant; TABLE.len()],
    /// One bit for each capability that is not as the level has it.
    overridden: u32,
}

impl Regard {
    /// As `level` has it, but for `overrides`.
    pub fn new(level: TrustLevel, standing: Standing, overrides: &Overrides) -> Self {
        let mut grants = [Grant::No; TABLE.len()];
        let mut overridden = 0;
        for (grant, row) in grants.iter_mut().zip(&TABLE) {
            *grant = row.capability.at(level);
            if let Some(change) = overrides.get(&row.capability) {
                *grant = change.grant;
                overridden |= 1 << row.capability as u32;
            }
        }
        Self { level, standing, grants, overridden }
    }

    /// As `level` has it.
    pub fn of_level(level: TrustLevel) -> Self {
        Self::new(level, Standing::Active, &Overrides::new())
    }

    /// How far a capability reaches, whatever the standing.
    pub fn grant(&self, capability: Capability) -> Grant {
        self.grants[capability as usize]
    }

    /// Whether an admin has set the capability apart from the level.
    pub fn is_overridden(&self, capability: Capability) -> bool {
        self.overridden & (1 << capability as u32) != 0
    }

    /// All capabilities by name.
    pub fn grants(&self) -> BTreeMap<&'static str, Grant> {
        TABLE.iter().map(|row| (row.word, self.grant(row.capability))).collect()
    }
}
