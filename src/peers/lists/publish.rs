//! The list that this deployment publishes.

use std::collections::BTreeMap;

use model::{
    Millis,
    peer::{PeerPattern, TrustLevel},
};
use ruma::{CanonicalJsonValue, OwnedServerName, ServerName};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use store::{
    Write,
    federation_lists::{self as rows, PublishedRow},
    peers::PeerRow,
};
use tracing::info;

use super::{
    Entries, FederationList, ListEntry, ListError, Listable, Lists, PublishedView, TRIES,
    document::{MAX_BYTES, MAX_ENTRIES, MAX_LIFETIME, MAX_VERSION, SignedList},
    view::difference,
};
use crate::trust::{Act, Author, PeerSettings, standing_of};

/// A day, in milliseconds.
const DAY: Millis = 24 * 60 * 60_000;
/// How long a list is good for if nobody says.
const LIFETIME: Millis = 30 * DAY;

/// A new version of this deployment's list: what it begins with, and what is to be changed of that.
#[derive(Clone, Debug, Default)]
pub struct Edition {
    /// What it begins with.
    pub from: Base,
    /// Servers of which it says what is set for them here, each by a row of its own.
    pub peers: Vec<String>,
    /// What is to be said of servers, by name; `null`: nothing.
    pub entries: BTreeMap<String, Option<EntryChange>>,
    /// How long others go by it, in milliseconds; 30 days if it isn't set.
    pub lifetime: Option<Millis>,
    /// Its number, which must be larger than that of the version before; the next one if it isn't set. For a server whose
    /// database was lost.
    pub version: Option<i64>,
}

/// What a new version of a list begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// What the version before says.
    #[default]
    Last,
    /// What is set for single servers here: all whose rows are in force.
    Peers,
    /// Nothing.
    Nothing,
}

impl std::str::FromStr for Base {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "last" => Ok(Self::Last),
            "peers" => Ok(Self::Peers),
            "nothing" => Ok(Self::Nothing),
            _ => Err("it is one of last, peers, nothing"),
        }
    }
}

/// What is to be changed of an entry; what isn't set stays as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntryChange {
    /// How far the server may be trusted at most; a new entry needs it.
    pub level: Option<TrustLevel>,
    /// The only keys that it may sign with, by their ids, base64.
    pub keys: Option<BTreeMap<String, String>>,
    /// How to reach who runs it.
    pub contact: Option<String>,
    /// From then on the list says nothing of it, milliseconds since 1970; `null`: it says so until it is changed.
    #[serde(deserialize_with = "some")]
    pub expires_at: Option<Option<Millis>>,
}

/// Makes `null` something else than nothing.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

impl Lists {
    /// Publishes a new version, which is served when this returns.
    pub async fn publish(&self, edition: &Edition, author: &Author) -> Result<PublishedView, ListError> {
        let action = if is_withdrawal(edition) { "list.withdrawn" } else { "list.published" };
        if author.reason.trim().is_empty() {
            return Err(ListError::NoReason);
        }
        let (trust, us) = (self.peers.trust(), self.peers.server_name());
        let store = trust.store();
        for _ in 0..TRIES {
            let turn = trust.turn().await?;
            let last = store.federation_lists().published().await?;
            let before = last.as_ref().map(read_entries).transpose()?.unwrap_or_default();
            let rows = store.peers().list().await?;
            let entries = entries_of(edition, &before, &rows, us, turn.now)?;
            let list = self.list(edition, last.as_ref().map_or(0, |last| last.version), turn.now, entries)?;
            let signed = self.signed(&list)?;
            let row = PublishedRow {
                version: list.version,
                issued_at: list.issued_at,
                expires_at: list.expires_at,
                entries: serde_json::to_string(&list.entries).expect("entries are JSON"),
            };
            let mut write = Write::new();
            rows::publish(&mut write, &row);
            let after = json!({
                "version": list.version, "expires_at": list.expires_at, "digest": signed.digest,
                "changes": difference(&before, &list.entries),
            });
            let before = last.map(|last| json!({ "version": last.version, "expires_at": last.expires_at }).to_string());
            let act = Act { action, subject: us.as_str(), author, before, after: Some(after.to_string()) };
            if trust.record(turn, write, act).await? {
                let (version, servers) = (list.version, list.entries.len());
                info!(actor = author.actor, version, servers, "published version {version} of the list");
                return Ok(PublishedView::of(&signed, self.our_key(), crate::keys::wall_clock()));
            }
        }
        Err(store::Error::Conflict.into())
    }

    /// Publishes a version that names nobody, so that who goes by the list doesn't any more. There is nothing to withdraw where
    /// nothing was published.
    pub async fn withdraw(&self, author: &Author) -> Result<PublishedView, ListError> {
        if self.peers.trust().store().federation_lists().published().await?.is_none() {
            return Err(ListError::NotPublished);
        }
        self.publish(&Edition { from: Base::Nothing, ..Edition::default() }, author).await
    }

    /// The latest version, signed by the key that this server has now, as it is served.
    pub async fn published(&self) -> Result<Value, ListError> {
        Ok(CanonicalJsonValue::Object(self.latest().await?.into_object()).into())
    }

    /// The same, for admins.
    pub async fn show_published(&self) -> Result<PublishedView, ListError> {
        Ok(PublishedView::of(&self.latest().await?, self.our_key(), crate::keys::wall_clock()))
    }

    async fn latest(&self) -> Result<SignedList, ListError> {
        let row = self.peers.trust().store().federation_lists().published().await?.ok_or(ListError::NotPublished)?;
        let us = self.peers.server_name().to_owned();
        let entries = read_entries(&row)?;
        self.signed(&FederationList::new(us, row.version, row.issued_at, row.expires_at, entries))
    }

    /// The next version.
    fn list(&self, edition: &Edition, last: i64, now: Millis, entries: Entries) -> Result<FederationList, ListError> {
        let invalid = |wrong: String| Err(ListError::Invalid(wrong));
        let version = edition.version.unwrap_or(last + 1);
        if version <= last || version > MAX_VERSION {
            return invalid(format!("`version` must be larger than {last}, that of the version before"));
        }
        let lifetime = edition.lifetime.unwrap_or(LIFETIME);
        if !(1..=MAX_LIFETIME).contains(&lifetime) {
            return invalid("a list is good for a year at most, and for some time at least".to_owned());
        }
        if entries.len() > MAX_ENTRIES {
            return invalid(format!("a list names {MAX_ENTRIES} servers at most"));
        }
        let us = self.peers.server_name().to_owned();
        let list = FederationList::new(us, version, now, now + lifetime, entries);
        match list.check() {
            Ok(()) => Ok(list),
            Err(wrong) => invalid(wrong),
        }
    }

    fn signed(&self, list: &FederationList) -> Result<SignedList, ListError> {
        let object = list.sign(&self.peers.shared.key).map_err(|error| ListError::Invalid(error.to_string()))?;
        let signed = SignedList::of(object).map_err(|fault| ListError::Invalid(fault.to_string()))?;
        if signed.to_json().len() > MAX_BYTES {
            return Err(ListError::Invalid(format!("a list has {MAX_BYTES} bytes at most")));
        }
        Ok(signed)
    }

    /// The key that this server signs with: its id, and its public half in base64.
    fn our_key(&self) -> (String, String) {
        let key = &self.peers.shared.key;
        let public: ruma::serde::Base64 = ruma::serde::Base64::new(key.public_key().to_vec());
        (key.key_id().to_string(), public.encode())
    }
}

fn is_withdrawal(edition: &Edition) -> bool {
    edition.from == Base::Nothing && edition.peers.is_empty() && edition.entries.is_empty()
}

fn read_entries(row: &PublishedRow) -> Result<Entries, ListError> {
    let corrupt = |error| store::Error::Corrupt(format!("published_lists.entries: {error}"));
    Ok(serde_json::from_str(&row.entries).map_err(corrupt)?)
}

/// What the new version says.
fn entries_of(
    edition: &Edition,
    last: &Entries,
    rows: &[PeerRow],
    us: &ServerName,
    now: Millis,
) -> Result<Entries, ListError> {
    let mut entries = match edition.from {
        Base::Last => last.clone(),
        Base::Peers => rows.iter().filter_map(|row| entry_of(row, last, now)).collect(),
        Base::Nothing => Entries::new(),
    };
    for name in &edition.peers {
        let server = server_of(name, us)?;
        let row = rows.iter().find(|row| row.pattern == PeerPattern::Exact(server.clone()));
        let entry = row.and_then(|row| entry_of(row, last, now)).ok_or_else(|| {
            ListError::Invalid(format!("nothing is set for {server} that is in force, so the list can't say it of it"))
        })?;
        entries.extend([entry]);
    }
    for (name, change) in &edition.entries {
        let server = server_of(name, us)?;
        match change {
            None => drop(entries.remove(&server)),
            Some(change) => {
                let entry = changed(&server, entries.get(&server), change, now)?;
                entries.insert(server, entry);
            }
        }
    }
    // What has ended by now is nothing to be said.
    entries.retain(|_, entry| entry.expires_at.is_none_or(|at| at > now));
    Ok(entries)
}

/// What is set for one server, as a list says it. A row that is switched off or alarmed is no statement about the server.
fn entry_of(row: &PeerRow, last: &Entries, now: Millis) -> Option<(OwnedServerName, ListEntry)> {
    let PeerPattern::Exact(server) = &row.pattern else { return None };
    let is_over = row.expires_at.is_some_and(|at| at <= now);
    if is_over || standing_of(row.inactive_at, row.alarm.as_deref()) != model::peer::Standing::Active {
        return None;
    }
    // Nor is one of which nobody can read what it says.
    let settings = PeerSettings::read(row).ok()?;
    let contact = last.get(server).map(|entry| entry.contact.clone()).unwrap_or_default();
    let keys = unpadded(settings.pinned_keys);
    Some((server.clone(), ListEntry { level: row.level, keys, contact, expires_at: row.expires_at }))
}

fn changed(
    server: &ServerName,
    before: Option<&ListEntry>,
    change: &EntryChange,
    now: Millis,
) -> Result<ListEntry, ListError> {
    let level = change.level.or(before.map(|entry| entry.level));
    let level = level.ok_or_else(|| {
        ListError::Invalid(format!("{server} is not in the list yet: say with `level` how far it goes"))
    })?;
    let expires_at = change.expires_at.unwrap_or(before.and_then(|entry| entry.expires_at));
    if change.expires_at.flatten().is_some_and(|at| at <= now) {
        return Err(ListError::Invalid(format!("`expires_at` of {server} has passed already")));
    }
    let keys = change.keys.clone().or_else(|| before.map(|entry| entry.keys.clone())).unwrap_or_default();
    let contact = change.contact.clone().or_else(|| before.map(|entry| entry.contact.clone())).unwrap_or_default();
    let entry = ListEntry { level, keys: unpadded(keys), contact, expires_at };
    entry.check().map_err(|wrong| ListError::Invalid(format!("{wrong} in the entry of {server}")))?;
    Ok(entry)
}

/// Keys as lists spell them.
pub(super) fn unpadded(keys: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let spelt = |key: String| ruma::serde::Base64::<ruma::serde::base64::Standard>::parse(&key).map(|key| key.encode());
    keys.into_iter().map(|(id, key)| (id, spelt(key.clone()).unwrap_or(key))).collect()
}

/// A server as lists name it.
fn server_of(name: &str, us: &ServerName) -> Result<OwnedServerName, ListError> {
    match name.parse::<Listable>() {
        Ok(Listable(server)) if server == us => Err(ListError::Ourselves(server)),
        Ok(Listable(server)) => Ok(server),
        Err(wrong) => Err(ListError::Invalid(wrong)),
    }
}
