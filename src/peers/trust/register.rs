//! Which row is about a server.

use std::{collections::HashMap, sync::Arc};

use model::{
    Millis,
    peer::{PeerPattern, Regard, Standing, TrustLevel, domains_above, host_of, normal_name},
};
use ruma::ServerName;
use serde::Serialize;
use store::peers::PeerRow;
use tracing::error;

use super::{
    PeerSettings,
    rates::{Bucket, bucket},
    standing_of,
};

/// All rows that are in force, for looking up.
pub(crate) struct Register {
    exact: HashMap<String, Arc<Entry>>,
    below: HashMap<String, Arc<Entry>>,
    nobody: Arc<Entry>,
    /// The audit log's last entry when this was read.
    head: i64,
    /// When the next row expires.
    next_expiry: Option<Millis>,
}

/// What is known of a server.
pub(crate) struct Entry {
    pub(crate) regard: Regard,
    pub(crate) source: Source,
    /// Refusals are only logged.
    pub(crate) shadow: bool,
    /// A rate of its own.
    pub(crate) rate: Option<Bucket>,
    pub(crate) settings: PeerSettings,
}

/// Why a server is regarded as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", content = "pattern", rename_all = "snake_case")]
pub enum Source {
    /// Nobody has set it: the configuration's default.
    Default,
    /// A row of its own.
    Row(String),
    /// The row of a domain that it lies below.
    Wildcard(String),
}

impl Register {
    pub(crate) fn empty(default: TrustLevel) -> Self {
        let nobody = Arc::new(Entry {
            regard: Regard::of_level(default),
            source: Source::Default,
            shadow: false,
            rate: None,
            settings: PeerSettings::default(),
        });
        Self { exact: HashMap::new(), below: HashMap::new(), nobody, head: -1, next_expiry: None }
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
                PeerPattern::Exact(_) => Source::Row(name),
                PeerPattern::Below(_) => Source::Wildcard(name),
            };
            let entry = Entry {
                regard: Regard::new(row.level, standing, &settings.overrides),
                source,
                shadow: settings.shadow,
                rate: settings.limits.requests.map(bucket),
                settings,
            };
            let entry = Arc::new(entry);
            match &row.pattern {
                PeerPattern::Exact(name) => register.exact.insert(name.to_string(), entry),
                PeerPattern::Below(domain) => register.below.insert(domain.clone(), entry),
            };
        }
        register
    }

    /// What is known of `server`: by its own row, by that of the nearest domain that it lies below, or by default.
    ///
    /// A name with a port that has no row of its own is trusted no further than the host's row says, and no further than
    /// somebody unknown: whoever has the host has all its ports, but not all of its ports are the peer.
    pub(crate) fn find(&self, server: &ServerName) -> Arc<Entry> {
        let name = normal_name(server);
        if let Some(entry) = self.exact.get(&*name) {
            return entry.clone();
        }
        let host = host_of(&name);
        if host.len() < name.len()
            && let Some(entry) = self.exact.get(host)
        {
            let is_less = entry.regard.level < self.nobody.regard.level || entry.regard.standing != Standing::Active;
            return if is_less { entry.clone() } else { self.nobody.clone() };
        }
        let above = domains_above(host).find_map(|domain| self.below.get(domain));
        above.unwrap_or(&self.nobody).clone()
    }

    /// All rows that are in force.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (PeerPattern, &Entry)> {
        let exact = self.exact.iter().filter_map(|(name, entry)| Some((name.parse().ok()?, &**entry)));
        exact.chain(self.below.iter().map(|(domain, entry)| (PeerPattern::Below(domain.clone()), &**entry)))
    }

    pub(crate) fn head(&self) -> i64 {
        self.head
    }

    /// Whether a row has expired since.
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
}
