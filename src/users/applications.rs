//! Applications: back ends of others that an organisation lets use its server. Each shows who it is by signed requests, and may do what its
//! scopes say: act as a user, open sessions for users, make users.
//!
//! Nothing of them is remembered but which requests were used and how fast they come: who is switched off is off at once, on every node.

mod manage;
mod scope;
mod sessions;
mod signature;

use ipnet::IpNet;
use model::{Kind, Millis, Refusal};
use peers::{trust::ChangeError, vault::VaultError};
use serde_json::{Value, json};
use store::applications::ApplicationRow;

pub use manage::{ApplicationChange, ApplicationSecret, MadeApplication, NewApplication};
pub use scope::{AppScope, UnknownScope};
pub use sessions::{ActingError, AppSession, MintWish, Minted};
pub(crate) use signature::Signed;
pub use signature::{SignatureError, SignedRequest};

use crate::config::Rate;

/// An application.
#[derive(Clone, Debug, PartialEq)]
pub struct Application {
    /// By which it says who it is.
    pub app_key: String,
    /// What people see.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<AppScope>,
    /// From which networks; empty: from anywhere.
    pub addresses: Vec<IpNet>,
    /// How many requests a second.
    pub per_second: u32,
    /// How many at once after a rest.
    pub burst: u32,
    /// From then on it may do nothing.
    pub expires_at: Option<Millis>,
    /// Since when it may do nothing.
    pub disabled_at: Option<Millis>,
    /// Another one with each change.
    pub version: i64,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Millis,
    /// When it was changed last.
    pub changed_at: Millis,
}

impl Application {
    /// Whether it may do anything.
    pub fn is_on(&self, now: Millis) -> bool {
        self.disabled_at.is_none() && !self.is_expired(now)
    }

    /// Refuses what its scopes don't have.
    pub fn check_scope(&self, scope: AppScope) -> Result<(), SignatureError> {
        if self.scopes.contains(&scope) { Ok(()) } else { Err(SignatureError::Scope(scope)) }
    }

    fn is_expired(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    fn rate(&self) -> Rate {
        Rate::per_second(f64::from(self.per_second), self.burst)
    }

    /// How the audit log has it.
    fn told(&self) -> Value {
        json!({
            "name": self.name, "scopes": self.scopes, "addresses": texts(&self.addresses), "per_second": self.per_second,
            "burst": self.burst, "expires_at": self.expires_at, "disabled_at": self.disabled_at,
        })
    }

    fn row(&self) -> ApplicationRow {
        ApplicationRow {
            app_key: self.app_key.clone(),
            name: self.name.clone(),
            scopes: json!(self.scopes).to_string(),
            addresses: json!(texts(&self.addresses)).to_string(),
            per_second: self.per_second.into(),
            burst: self.burst.into(),
            expires_at: self.expires_at,
            disabled_at: self.disabled_at,
            version: self.version,
            created_by: self.created_by.clone(),
            created_at: self.created_at,
            changed_at: self.changed_at,
        }
    }
}

fn texts(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

impl TryFrom<ApplicationRow> for Application {
    type Error = store::Error;

    fn try_from(row: ApplicationRow) -> Result<Self, store::Error> {
        let corrupt = |what: &str| store::Error::Corrupt(format!("the {what} of an application can't be read"));
        let addresses: Vec<IpNet> = serde_json::from_str::<Vec<String>>(&row.addresses)
            .ok()
            .and_then(|texts| texts.iter().map(|text| text.parse().ok()).collect())
            .ok_or_else(|| corrupt("networks"))?;
        // A word of a later version, which this one does nothing about, is no scope here.
        let scopes: Vec<String> = serde_json::from_str(&row.scopes).map_err(|_| corrupt("scopes"))?;
        Ok(Self {
            app_key: row.app_key,
            name: row.name,
            scopes: scopes.iter().filter_map(|word| word.parse().ok()).collect(),
            addresses,
            per_second: u32::try_from(row.per_second).map_err(|_| corrupt("limit"))?,
            burst: u32::try_from(row.burst).map_err(|_| corrupt("limit"))?,
            expires_at: row.expires_at,
            disabled_at: row.disabled_at,
            version: row.version,
            created_by: row.created_by,
            created_at: row.created_at,
            changed_at: row.changed_at,
        })
    }
}

/// Why an application was not made, shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplicationError {
    /// There is none of this key.
    #[error("there is no application of this key")]
    Unknown,
    /// Something about it can't be so.
    #[error("`{field}` {wrong}")]
    Field {
        /// Which.
        field: &'static str,
        /// Why.
        wrong: String,
    },
    /// Somebody else changed it since.
    #[error("it was changed since you read it: read it again")]
    Outdated,
    /// There are as many as there may be.
    #[error("there are {0} applications already")]
    TooMany(i64),
    /// It has as many secrets as it may have.
    #[error(
        "{0} secrets of it are good at the moment: wait until one has run out, or let the next one have no overlap"
    )]
    TooManySecrets(usize),
    /// Its secret can't be sealed.
    #[error("the secret could not be sealed")]
    Vault(#[from] VaultError),
    /// It could not be written down.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("the application could not be read or changed")]
    Store(#[from] store::Error),
}

impl Refusal for ApplicationError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown => Kind::NotFound,
            Self::Field { .. } => Kind::Invalid,
            Self::Outdated | Self::TooMany(_) | Self::TooManySecrets(_) => Kind::Conflict,
            Self::Vault(_) => Kind::Internal,
            Self::Change(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Outdated => Some("precondition_failed"),
            Self::TooMany(_) => Some("too_many_applications"),
            Self::TooManySecrets(_) => Some("too_many_secrets"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
