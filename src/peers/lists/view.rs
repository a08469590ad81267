//! How admins see lists.

use std::collections::BTreeMap;

use model::{
    Millis,
    peer::{Standing, TrustLevel},
};
use ruma::OwnedServerName;
use serde::Serialize;
use serde_json::Value;
use store::federation_lists::{Asked, ListedKeysRow, SubscriptionRow};

use super::{Entries, ListEntry, ListState, document::SignedList, remedy_of};
use crate::{
    peering::words_of,
    trust::{Source, Trust},
};

/// The list that this deployment publishes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublishedView {
    /// By whose name.
    pub publisher: OwnedServerName,
    /// Which version it is.
    pub version: i64,
    /// When it was made, milliseconds since 1970.
    pub issued_at: Millis,
    /// Until when others go by it, milliseconds since 1970.
    pub expires_at: Millis,
    /// Whether that is over.
    pub expired: bool,
    /// SHA-256 of what is signed, base64: two who see the same have the same list.
    pub digest: String,
    /// The key that signs it: its id, and base64.
    pub keys: BTreeMap<String, String>,
    /// The words of it, for those who want to compare it by phone.
    pub words: Vec<&'static str>,
    /// What it says of whom.
    pub entries: Entries,
}

/// A list that this deployment goes by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubscriptionView {
    /// Whose list.
    pub publisher: OwnedServerName,
    /// How far it can make this server trust others.
    pub highest_level: TrustLevel,
    /// The only keys that may sign it, by their ids, base64.
    pub keys: BTreeMap<String, String>,
    /// The words of these, to be compared with the publisher's admin by phone.
    pub words: Vec<&'static str>,
    /// The newest version that was taken.
    pub version: i64,
    /// SHA-256 of what was signed in it, base64.
    pub digest: String,
    /// Whether it is up to date.
    pub state: ListState,
    /// Until when it is, milliseconds since 1970.
    pub expires_at: Millis,
    /// When it lifts nobody new any more, or since when it hasn't, milliseconds since 1970.
    pub closes_at: Millis,
    /// When that version was taken, milliseconds since 1970.
    pub taken_at: Millis,
    /// When the publisher last answered with it, or with a newer one that could be taken.
    pub checked_at: Millis,
    /// When it is asked again.
    pub next_at: Millis,
    /// Why what came last was not taken, if it wasn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalView>,
    /// Which change of it this is; who changes it says which one was seen.
    pub revision: i64,
    /// Who made that change.
    pub changed_by: String,
    /// When, milliseconds since 1970.
    pub changed_at: Millis,
    /// What it says of whom, and what follows; where only one subscription is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<ListedServer>>,
}

/// Why what came last was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusalView {
    /// One word that stays as it is.
    pub code: String,
    /// The same in a sentence.
    pub reason: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// When it came, milliseconds since 1970.
    pub at: Millis,
}

/// A server in a list, and how this one regards it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedServer {
    /// Which.
    pub server: OwnedServerName,
    /// What the list says of it.
    pub listed: ListEntry,
    /// How far it is trusted here.
    pub level: TrustLevel,
    /// Whether that holds.
    pub standing: Standing,
    /// Why: by this list, by another, or because an admin has set it.
    pub source: Source,
    /// Which key it shows instead of those in its list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
}

impl PublishedView {
    pub(super) fn of(signed: &SignedList, (key_id, key): (String, String), now: Millis) -> Self {
        let list = signed.list.clone();
        let keys = [(key_id, key)].into();
        Self {
            words: words_of(&list.publisher, &keys),
            publisher: list.publisher,
            version: list.version,
            issued_at: list.issued_at,
            expires_at: list.expires_at,
            expired: list.expires_at <= now,
            digest: signed.digest.clone(),
            keys,
            entries: list.entries,
        }
    }
}

impl SubscriptionView {
    pub(super) fn of(row: SubscriptionRow, grace: Millis, now: Millis) -> Self {
        let Asked { checked_at, next_at, refusal } = row.asked;
        let keys = serde_json::from_str(&row.pins).unwrap_or_default();
        Self {
            words: words_of(&row.publisher, &keys),
            state: ListState::of(row.expires_at, row.closed_at, now),
            closes_at: row.closed_at.unwrap_or(row.expires_at + grace),
            publisher: row.publisher,
            highest_level: row.highest_level,
            keys,
            version: row.version,
            digest: row.digest,
            expires_at: row.expires_at,
            taken_at: row.taken_at,
            checked_at,
            next_at,
            refusal: refusal.map(|refusal| RefusalView {
                remedy: remedy_of(&refusal.code),
                code: refusal.code,
                reason: refusal.reason,
                at: refusal.at,
            }),
            revision: row.revision,
            changed_by: row.changed_by,
            changed_at: row.changed_at,
            servers: None,
        }
    }
}

impl ListedServer {
    /// `shown`: listed servers that have shown other keys.
    pub(super) fn of(server: OwnedServerName, listed: ListEntry, trust: &Trust, shown: &[ListedKeysRow]) -> Self {
        let regard = trust.regard(&server);
        let source = trust.source(&server);
        let is_alarmed = regard.standing == Standing::Alarmed && matches!(source, Source::List { .. });
        let shown = shown.iter().find(|row| is_alarmed && row.server == server);
        let alarm = shown.and_then(|row| row.alarm.clone());
        Self { server, listed, level: regard.level, standing: regard.standing, source, alarm }
    }
}

/// What is said otherwise, for the log: by server, what is said now; `null`: nothing.
pub(super) fn difference(before: &Entries, after: &Entries) -> Value {
    let gone =
        before.keys().filter(|server| !after.contains_key(*server)).map(|server| (server.to_string(), Value::Null));
    let said = after.iter().filter(|(server, entry)| before.get(*server) != Some(*entry));
    let said = said.map(|(server, entry)| (server.to_string(), serde_json::to_value(entry).expect("an entry is JSON")));
    Value::Object(gone.chain(said).collect())
}
