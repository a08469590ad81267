//! Which row is about a server.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use model::{
    Millis,
    peer::{Overrides, PeerPattern, Regard, Standing, TrustLevel, domains_above, host_of, normal_name},
};
use ruma::{OwnedServerName, ServerName};
use serde::Serialize;
use store::peers::PeerRow;
use tracing::error;

use super::{
    PeerSettings,
    rates::{Bucket, bucket},
    standing_of,
};
use crate::lists::{Decided, ListState, Listings};

/// All rows that are in force, for looking up.
pub(crate) struct Register {
    exact: HashMap<String, Arc<Entry>>,
    below: HashMap<String, Arc<Entry>>,
    /// Servers that lists name, where no row is about them.
    listed: HashMap<String, Arc<Entry>>,
    nobody: Arc<Entry>,
    /// The audit log's last entry when this was read.
    head: i64,
    /// When the next row expires, or the next list changes by itself.
    next_expiry: Option<Millis>,
    /// When the first list ended that goes on for everybody.
    first_stale: Option<Millis>,
}

/// What is known of a server.
pub(crate) struct Entry {
    pub(crate) regard: Regard,
    pub(crate) source: Source,
    /// Refusals are only logged.
    pub(crate) shadow: bool,
    /// A rate of its own.
    pub(crate) rate: Option<Arc<Bucket>>,
    pub(crate) settings: PeerSettings,
    /// The keys that a list names for it.
    pub(crate) listed_keys: BTreeMap<String, String>,
}

/// Why a server is regarded as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Source {
    /// Nobody has set it, and no list names it: the configuration's default.
    Default,
    /// A row of its own.
    Row {
        /// The name in the row.
        pattern: String,
    },
    /// The row of a domain that it lies below.
    Wildcard {
        /// `*.` and the domain.
        pattern: String,
    },
    /// A list that this server is subscribed to: of several, the one that trusts it least.
    List {
        /// Whose list.
        publisher: OwnedServerName,
        /// Which version of it.
        version: i64,
        /// Whether the list is up to date.
        state: ListState,
    },
}

impl Register {
    pub(crate) fn empty(default: TrustLevel) -> Self {
        let nobody = Arc::new(Entry {
            regard: Regard::of_level(default),
            source: Source::Default,
            shadow: false,
            rate: None,
            settings: PeerSettings::default(),
            listed_keys: BTreeMap::new(),
        });
        Self {
            exact: HashMap::new(),
            below: HashMap::new(),
            listed: HashMap::new(),
            nobody,
            head: -1,
            next_expiry: None,
            first_stale: None,
        }
    }

    pub(crate) fn new(rows: &[PeerRow], default: TrustLevel, head: i64, now: Millis) -> Self {
        let mut register = Self { head, ..Self::empty(default) };
        for row in rows {
            if let Some(expiry) = row.expires_at {
                if expiry <= now {
                    continue;
                }
                register.next_expiry = Some(register.next_expiry.map_or(expiry, |next| next.min(expiry)));
            }
            let name = row.pattern.to_string();
            let (settings, standing) = match PeerSettings::read(row) {
                Ok(settings) => (settings, standing_of(row.inactive_at, row.alarm.as_deref())),
                Err(error) => {
                    error!(server.name = name, %error, "the peer {name} is switched off: {error}");
                    (PeerSettings::default(), Standing::Inactive)
                }
            };
            let source = match &row.pattern {
                PeerPattern::Exact(_) => Source::Row { pattern: name },
                PeerPattern::Below(_) => Source::Wildcard { pattern: name },
            };
            let entry = Entry {
                regard: Regard::new(row.level, standing, &settings.overrides),
                source,
                shadow: settings.shadow,
                rate: settings.limits.requests.map(|rate| Arc::new(bucket(rate))),
                settings,
                listed_keys: BTreeMap::new(),
            };
            let entry = Arc::new(entry);
            match &row.pattern {
                PeerPattern::Exact(name) => register.exact.insert(name.to_string(), entry),
                PeerPattern::Below(domain) => register.below.insert(domain.clone(), entry),
            };
        }
        register
    }

    /// The same, with what lists say of servers. What an admin has set goes before it.
    pub(crate) fn with_lists(mut self, lists: &Listings, now: Millis) -> Self {
        let decided = lists.decide(self.nobody.regard.level, now);
        self.next_expiry = self.next_expiry.into_iter().chain(decided.next_change).min();
        self.first_stale = decided.first_stale;
        let entries = decided.servers.into_iter().map(|(server, decided)| {
            let Decided { level, standing, source, keys, listed_keys } = decided;
            let entry = Entry {
                regard: Regard::new(level, standing, &Overrides::new()),
                source,
                shadow: false,
                rate: None,
                settings: PeerSettings { pinned_keys: keys, ..PeerSettings::default() },
                listed_keys,
            };
            (server, Arc::new(entry))
        });
        self.listed = entries.collect();
        self
    }

    /// The same, with the buckets of `before` where they hold as much: who has used up what there was in one gets no full one because
    /// something else was changed.
    pub(crate) fn with_buckets_of(mut self, before: &Self) -> Self {
        for (entries, known) in [(&mut self.exact, &before.exact), (&mut self.below, &before.below)] {
            for (name, entry) in entries {
                let known =
                    known.get(name).filter(|known| known.settings.limits.requests == entry.settings.limits.requests);
                if let (Some(known), Some(entry)) = (known, Arc::get_mut(entry)) {
                    entry.rate.clone_from(&known.rate);
                }
            }
        }
        self
    }

    /// What is known of `server`: by its own row, by that of the nearest domain that it lies below, by a list that names it,
    /// or by default.
    ///
    /// A name with a port that has no row of its own is trusted no further than the host's row says, and no further than
    /// somebody unknown: whoever has the host has all its ports, but not all of its ports are the peer. So it is with lists.
    pub(crate) fn find(&self, server: &ServerName) -> Arc<Entry> {
        let name = normal_name(server);
        if let Some(entry) = self.exact.get(&*name) {
            return entry.clone();
        }
        let host = host_of(&name);
        let has_port = host.len() < name.len();
        if has_port && let Some(entry) = self.exact.get(host) {
            return self.of_host(entry);
        }
        if let Some(entry) = domains_above(host).find_map(|domain| self.below.get(domain)) {
            return entry.clone();
        }
        match self.listed.get(&*name) {
            Some(entry) => entry.clone(),
            None if has_port => self.listed.get(host).map_or_else(|| self.nobody.clone(), |entry| self.of_host(entry)),
            None => self.nobody.clone(),
        }
    }

    /// What is known of a port of a host of which `entry` is known.
    fn of_host(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        let is_less = entry.regard.level < self.nobody.regard.level || entry.regard.standing != Standing::Active;
        if is_less { entry.clone() } else { self.nobody.clone() }
    }

    /// All rows that are in force, without what lists say.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (PeerPattern, &Entry)> {
        let exact = self.exact.iter().filter_map(|(name, entry)| Some((name.parse().ok()?, &**entry)));
        exact.chain(self.below.iter().map(|(domain, entry)| (PeerPattern::Below(domain.clone()), &**entry)))
    }

    pub(crate) fn head(&self) -> i64 {
        self.head
    }

    /// When the first list ended that goes on for everybody in it.
    pub(crate) fn first_stale(&self) -> Option<Millis> {
        self.first_stale
    }

    /// Whether a row has expired since, or a list has changed by itself.
    pub(crate) fn is_outdated(&self, now: Millis) -> bool {
        self.next_expiry.is_some_and(|expiry| expiry <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pattern: &str, level: TrustLevel) -> PeerRow {
        PeerRow {
            pattern: pattern.parse().expect("it is one"),
            level,
            inactive_at: None,
            alarm: None,
            settings: "{}".into(),
            expires_at: None,
            revision: 1,
            changed_by: String::new(),
            changed_at: 0,
        }
    }

    fn level(register: &Register, server: &str) -> TrustLevel {
        register.find(<&ServerName>::try_from(server).expect("it is a name")).regard.level
    }

    #[test]
    fn the_nearest_row_counts() {
        use TrustLevel::{Blocked, Full, Limited, Restricted};
        let rows = [
            row("b.example", Full),
            row("*.example", Restricted),
            row("*.corp.example", Full),
            row("evil.corp.example", Blocked),
            row("port.example:8448", Full),
            row("off.example", Blocked),
        ];
        let register = Register::new(&rows, Limited, 0, 0);
        assert_eq!(level(&register, "b.example"), Full);
        assert_eq!(level(&register, "B.Example"), Full);
        assert_eq!(level(&register, "b.example:9999"), Limited, "another port is not that peer");
        assert_eq!(level(&register, "off.example:9999"), Blocked, "a blocked host is so on every port");
        assert_eq!(level(&register, "port.example:8448"), Full);
        assert_eq!(level(&register, "port.example"), Restricted);
        assert_eq!(level(&register, "a.b.corp.example"), Full);
        assert_eq!(level(&register, "evil.corp.example"), Blocked);
        assert_eq!(level(&register, "corp.example"), Restricted);
        assert_eq!(level(&register, "evilcorp.example"), Restricted);
        assert_eq!(level(&register, "elsewhere.test"), Limited);
    }

    #[test]
    fn a_row_that_has_expired_counts_for_nothing() {
        let rows = [PeerRow { expires_at: Some(10), ..row("b.example", TrustLevel::Full) }];
        let before = Register::new(&rows, TrustLevel::Limited, 0, 9);
        assert_eq!(level(&before, "b.example"), TrustLevel::Full);
        assert!(!before.is_outdated(9) && before.is_outdated(10));
        let after = Register::new(&rows, TrustLevel::Limited, 0, 10);
        assert_eq!(level(&after, "b.example"), TrustLevel::Limited);
        assert!(!after.is_outdated(1_000));
    }

    #[test]
    fn a_bucket_stays_as_empty_as_it_is_until_its_size_is_changed() {
        let of = |burst: u32| {
            let settings = serde_json::json!({ "limits": { "requests": { "per_second": 0.001, "burst": burst } } });
            PeerRow { settings: settings.to_string(), ..row("b.example", TrustLevel::Full) }
        };
        let ask = |register: &Register| {
            let entry = register.find(ruma::server_name!("b.example"));
            entry.rate.as_ref().expect("it has a rate of its own").check().is_ok()
        };
        let first = Register::new(&[of(1)], TrustLevel::Limited, 0, 0);
        assert!(ask(&first) && !ask(&first));
        let again = Register::new(&[of(1), row("c.example", TrustLevel::Full)], TrustLevel::Limited, 1, 0);
        let again = again.with_buckets_of(&first);
        assert!(!ask(&again), "another row was added");
        let larger = Register::new(&[of(2)], TrustLevel::Limited, 2, 0).with_buckets_of(&again);
        assert!(ask(&larger) && ask(&larger) && !ask(&larger));
    }
}
