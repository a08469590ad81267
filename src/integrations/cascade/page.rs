//! A page of a directory, as one server tells another.

use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use users::{Facts, SipPhone, Unit};

/// A page of a directory, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page {
    /// Whose directory.
    pub server: OwnedServerName,
    /// It begins at the beginning: what isn't told from here until there are no more entries isn't there any more.
    pub from_start: bool,
    /// People, as they are now.
    pub users: Vec<Entry>,
    /// Units, as they are now.
    pub units: Vec<Unit>,
    /// What isn't there any more.
    pub removed: Removed,
    /// From where on one asks the next time.
    pub next: String,
    /// Whether there is more to be told now.
    pub more: bool,
}

/// Somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Who.
    pub user_id: OwnedUserId,
    /// False: the account is closed, and there is nothing else to tell.
    pub active: bool,
    /// As the person wants to be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// A picture, an `mxc://` URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// What the person is in the organisation.
    #[serde(flatten)]
    pub facts: Facts,
    /// By number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sip_phones: Vec<SipPhone>,
}

/// What isn't there any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// People.
    pub users: Vec<OwnedUserId>,
    /// Units, by their ids.
    pub units: Vec<String>,
}

/// A page as it comes, of which nothing has been judged.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RawPage {
    pub(super) server: OwnedServerName,
    pub(super) from_start: bool,
    #[serde(default)]
    pub(super) users: Vec<Value>,
    #[serde(default)]
    pub(super) units: Vec<Value>,
    #[serde(default)]
    pub(super) removed: RawRemoved,
    pub(super) next: String,
    pub(super) more: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RawRemoved {
    #[serde(default)]
    pub(super) users: Vec<Value>,
    #[serde(default)]
    pub(super) units: Vec<Value>,
}

impl RawPage {
    pub(super) fn len(&self) -> usize {
        self.users.len() + self.units.len() + self.removed.users.len() + self.removed.units.len()
    }
}
