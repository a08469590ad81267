//! What follows from the lists that this server goes by, for servers that no admin has set.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use metrics::gauge;
use model::{
    Millis,
    peer::{Standing, TrustLevel},
};
use ruma::OwnedServerName;
use serde::Serialize;
use store::{Store, federation_lists::SubscriptionRow};
use tracing::error;

use super::document::{Entries, SignedList};
use crate::trust::Source;

/// Whether a list is up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListState {
    /// It is.
    Current,
    /// It has ended, and no newer version could be had: it goes on for everybody in it.
    Static,
    /// It ended so long ago that it lifts nobody with whom this server has had no dealings.
    Closed,
}

impl ListState {
    const ALL: [Self; 3] = [Self::Current, Self::Static, Self::Closed];

    pub(super) fn of(expires_at: Millis, closed_at: Option<Millis>, now: Millis) -> Self {
        match closed_at {
            Some(_) => Self::Closed,
            None if expires_at <= now => Self::Static,
            None => Self::Current,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Static => "static",
            Self::Closed => "closed",
        }
    }
}

/// The lists that this server goes by, as the store has them.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    lists: Vec<Listing>,
    /// Servers that have shown other keys than their lists name.
    shown: HashMap<String, Shown>,
}

#[derive(Debug)]
struct Listing {
    publisher: OwnedServerName,
    highest_level: TrustLevel,
    version: i64,
    expires_at: Millis,
    closed_at: Option<Millis>,
    /// With whom there had been dealings when it was closed.
    acquaintances: HashSet<String>,
    entries: Arc<Entries>,
}

/// What a listed server has shown instead of its listed keys.
#[derive(Debug)]
struct Shown {
    listed: BTreeMap<String, String>,
    moved: Option<BTreeMap<String, String>>,
    alarm: Option<String>,
}

/// What the documents say that were read already, by publisher.
#[derive(Default)]
pub(crate) struct Remembered(Mutex<HashMap<OwnedServerName, Read>>);

/// The digest and the version of a document, and what it says of servers.
type Read = (String, i64, Arc<Entries>);

/// What follows.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// By name, in lower case.
    pub(crate) servers: HashMap<String, Decided>,
    /// When time changes something of it.
    pub(crate) next_change: Option<Millis>,
    /// When the first list ended that goes on for everybody in it.
    pub(crate) first_stale: Option<Millis>,
}

/// How one server is regarded by lists.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    pub(crate) level: TrustLevel,
    pub(crate) standing: Standing,
    pub(crate) source: Source,
    /// The only keys that it may sign with; none: whatever it says of itself.
    pub(crate) keys: BTreeMap<String, String>,
    /// The same as the list has them.
    pub(crate) listed_keys: BTreeMap<String, String>,
}

impl Listings {
    pub(crate) async fn read(store: &Store, remembered: &Remembered) -> Result<Self, store::Error> {
        let lists = store.federation_lists();
        let rows = lists.subscriptions().await?;
        remembered.keep_only(&rows);
        if rows.is_empty() {
            return Ok(Self::default());
        }
        let mut found = Self::default();
        for row in rows {
            let Some((version, entries)) = remembered.entries_of(store, &row).await? else { continue };
            let SubscriptionRow { publisher, highest_level, expires_at, closed_at, .. } = row;
            let acquaintances = HashSet::new();
            found.lists.push(Listing {
                publisher,
                highest_level,
                version,
                expires_at,
                closed_at,
                acquaintances,
                entries,
            });
        }
        for (publisher, server) in lists.acquaintances().await? {
            if let Some(listing) = found.lists.iter_mut().find(|listing| listing.publisher == publisher) {
                listing.acquaintances.insert(server);
            }
        }
        let keys = |json: &str| serde_json::from_str(json).unwrap_or_default();
        for row in lists.listed_keys().await? {
            let shown = Shown { listed: keys(&row.listed), moved: row.moved.as_deref().map(keys), alarm: row.alarm };
            found.shown.insert(row.server.to_string(), shown);
        }
        Ok(found)
    }

    /// What follows at `now`, where servers that nobody knows are trusted as far as `default`.
    ///
    /// Of several lists that name a server the one counts that trusts it least: each of them only says how far it may be trusted
    /// at most. Of those that agree, one that names keys goes before one that doesn't, and then the first by publisher.
    pub(crate) fn decide(&self, default: TrustLevel, now: Millis) -> Decisions {
        let mut decisions = Decisions::default();
        let mut count = [0_u32; ListState::ALL.len()];
        for listing in &self.lists {
            let state = ListState::of(listing.expires_at, listing.closed_at, now);
            count[state as usize] += 1;
            match state {
                ListState::Current => decisions.changes_at(listing.expires_at),
                ListState::Static => {
                    let first = decisions.first_stale.get_or_insert(listing.expires_at);
                    *first = listing.expires_at.min(*first);
                }
                ListState::Closed => {}
            }
            self.decide_by(listing, state, default, now, &mut decisions);
        }
        for (state, count) in ListState::ALL.iter().zip(count) {
            gauge!("comity_federation_lists", "state" => state.as_str()).set(count);
        }
        decisions
    }

    fn decide_by(
        &self,
        listing: &Listing,
        state: ListState,
        default: TrustLevel,
        now: Millis,
        decisions: &mut Decisions,
    ) {
        for (server, entry) in listing.entries.iter() {
            // How far the publisher itself is trusted is for the admins here to say, and not for it.
            if *server == listing.publisher {
                continue;
            }
            if let Some(at) = entry.expires_at {
                if at <= now {
                    continue;
                }
                decisions.changes_at(at);
            }
            let mut level = entry.level.min(listing.highest_level);
            if state == ListState::Closed && !listing.acquaintances.contains(server.as_str()) {
                level = level.min(default);
            }
            let is_better = |known: &Decided| {
                level < known.level || (level == known.level && known.listed_keys.is_empty() && !entry.keys.is_empty())
            };
            if decisions.servers.get(server.as_str()).is_some_and(|known| !is_better(known)) {
                continue;
            }
            let source = Source::List { publisher: listing.publisher.clone(), version: listing.version, state };
            // What was shown counts as long as the list names the keys that it named then.
            let shown = self.shown.get(server.as_str()).filter(|shown| shown.listed == entry.keys);
            let is_alarmed = shown.is_some_and(|shown| shown.alarm.is_some());
            let decided = Decided {
                level,
                standing: if is_alarmed { Standing::Alarmed } else { Standing::Active },
                source,
                keys: shown.and_then(|shown| shown.moved.clone()).unwrap_or_else(|| entry.keys.clone()),
                listed_keys: entry.keys.clone(),
            };
            decisions.servers.insert(server.to_string(), decided);
        }
    }
}

impl Decisions {
    fn changes_at(&mut self, at: Millis) {
        self.next_change = Some(self.next_change.map_or(at, |next| next.min(at)));
    }
}

impl Remembered {
    /// Forgets lists that this server no longer goes by.
    fn keep_only(&self, rows: &[SubscriptionRow]) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|publisher, _| rows.iter().any(|row| row.publisher == *publisher));
    }

    /// The version of a list that was taken, and what it says.
    async fn entries_of(
        &self,
        store: &Store,
        row: &SubscriptionRow,
    ) -> Result<Option<(i64, Arc<Entries>)>, store::Error> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&row.publisher).cloned();
        if let Some((_, version, entries)) = known.filter(|(digest, ..)| *digest == row.digest) {
            return Ok(Some((version, entries)));
        }
        let Some(document) = store.federation_lists().document(&row.publisher).await? else { return Ok(None) };
        match SignedList::read(document.as_bytes()) {
            Ok(SignedList { list, digest, .. }) => {
                let entries = Arc::new(list.entries);
                let known = (digest, list.version, entries.clone());
                self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(row.publisher.clone(), known);
                Ok(Some((list.version, entries)))
            }
            Err(fault) => {
                error!(server.name = %row.publisher, error = &fault as &dyn std::error::Error,
                    "the list of {} that is stored can't be read: it counts for nothing", row.publisher);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{ServerName, server_name};

    use super::*;
    use crate::lists::ListEntry;

    const END: Millis = 1_000;

    fn entry(level: TrustLevel) -> ListEntry {
        ListEntry { level, keys: BTreeMap::new(), contact: String::new(), expires_at: None }
    }

    fn listing(publisher: &ServerName, highest_level: TrustLevel, entries: &[(&ServerName, ListEntry)]) -> Listing {
        Listing {
            publisher: publisher.to_owned(),
            highest_level,
            version: 7,
            expires_at: END,
            closed_at: None,
            acquaintances: HashSet::new(),
            entries: Arc::new(entries.iter().map(|(name, entry)| ((*name).to_owned(), entry.clone())).collect()),
        }
    }

    fn by(decided: &Decided) -> (&str, ListState) {
        match &decided.source {
            Source::List { publisher, version: 7, state } => (publisher.as_str(), *state),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_list_lifts_no_server_above_what_the_subscription_allows_and_not_its_own_publisher() {
        use TrustLevel::{Blocked, Full, Limited};
        let p = server_name!("p.test");
        let (b, c) = (server_name!("b.test"), server_name!("c.test"));
        let list = listing(p, Limited, &[(b, entry(Full)), (c, entry(Blocked)), (p, entry(Full))]);
        let decisions = Listings { lists: vec![list], ..Listings::default() }.decide(Limited, 0);
        assert_eq!(decisions.servers["b.test"].level, Limited);
        assert_eq!(decisions.servers["c.test"].level, Blocked);
        assert!(!decisions.servers.contains_key("p.test"));
        assert_eq!(decisions.next_change, Some(END));
    }

    #[test]
    fn of_several_lists_the_one_counts_that_trusts_a_server_least() {
        use TrustLevel::{Full, Limited, Restricted};
        let (p, q, b) = (server_name!("p.test"), server_name!("q.test"), server_name!("b.test"));
        let keys = BTreeMap::from([("ed25519:1".to_owned(), "AAAA".to_owned())]);
        let decided = |lists| Listings { lists, ..Listings::default() }.decide(Limited, 0).servers["b.test"].clone();
        let lower = decided(vec![
            listing(p, Full, &[(b, ListEntry { keys: keys.clone(), ..entry(Full) })]),
            listing(q, Full, &[(b, entry(Restricted))]),
        ]);
        assert_eq!((lower.level, by(&lower).0, lower.keys.len()), (Restricted, "q.test", 0));
        // The subscription's own limit is part of that.
        let limited =
            decided(vec![listing(p, Restricted, &[(b, entry(Full))]), listing(q, Full, &[(b, entry(Limited))])]);
        assert_eq!((limited.level, by(&limited).0), (Restricted, "p.test"));
        let agreed = decided(vec![
            listing(p, Full, &[(b, entry(Full))]),
            listing(q, Full, &[(b, ListEntry { keys: keys.clone(), ..entry(Full) })]),
        ]);
        assert_eq!((by(&agreed).0, &agreed.keys), ("q.test", &keys));
    }

    #[test]
    fn a_list_that_has_ended_goes_on_and_then_lifts_nobody_new() {
        use TrustLevel::{Blocked, Full, Limited, Restricted};
        let (p, b, c, d) =
            (server_name!("p.test"), server_name!("b.test"), server_name!("c.test"), server_name!("d.test"));
        let entries = [(b, entry(Full)), (c, entry(Full)), (d, entry(Restricted))];
        let mut listings = Listings { lists: vec![listing(p, Full, &entries)], ..Listings::default() };
        let levels = |listings: &Listings, default, now| {
            let decisions = listings.decide(default, now);
            let level = |name| decisions.servers[name].level;
            (["b.test", "c.test", "d.test"].map(level), by(&decisions.servers["b.test"]).1, decisions.first_stale)
        };
        assert_eq!(levels(&listings, Limited, END - 1), ([Full, Full, Restricted], ListState::Current, None));
        assert_eq!(levels(&listings, Limited, END), ([Full, Full, Restricted], ListState::Static, Some(END)));
        listings.lists[0].closed_at = Some(END + 5);
        listings.lists[0].acquaintances.insert("b.test".to_owned());
        // Newcomers are regarded as if they weren't listed, but no better than the list would have it.
        assert_eq!(levels(&listings, Limited, END + 5), ([Full, Limited, Restricted], ListState::Closed, None));
        assert_eq!(levels(&listings, Blocked, END + 5), ([Full, Blocked, Blocked], ListState::Closed, None));
        assert_eq!(levels(&listings, Full, END + 5), ([Full, Full, Restricted], ListState::Closed, None));
    }

    #[test]
    fn an_entry_that_has_ended_says_nothing() {
        let (p, b) = (server_name!("p.test"), server_name!("b.test"));
        let list = listing(p, TrustLevel::Full, &[(b, ListEntry { expires_at: Some(10), ..entry(TrustLevel::Full) })]);
        let listings = Listings { lists: vec![list], ..Listings::default() };
        let before = listings.decide(TrustLevel::Limited, 9);
        assert_eq!((before.servers.len(), before.next_change), (1, Some(10)));
        let after = listings.decide(TrustLevel::Limited, 10);
        assert_eq!((after.servers.len(), after.next_change), (0, Some(END)));
    }
}
