//! Which servers a room's access control list is to deny, and the list that says so.
//!
//! The list is read and written by people and their tools too. What this server put there stands once more under [`RECORD`] in the
//! same event, so that whatever else is in it is known to be theirs, and is left alone.

use std::collections::BTreeSet;

use model::peer::{PeerPattern, domains_above, host_of, normal_name};
use ruma::ServerName;
use serde_json::{Map, Value, json};

/// The field of `m.room.server_acl` that says which entries this server put there, `{"deny": ["c.example"]}`.
const RECORD: &str = "org.comity.room.trust";
/// No more than this of names is put into a list: an event holds 64 KiB.
const MOST_BYTES: usize = 24 << 10;

/// How servers are regarded by a room that demands trust.
pub(super) struct Regarded<'a> {
    /// This server.
    pub(super) us: &'a ServerName,
    /// The servers with members in the room.
    pub(super) members: Vec<&'a ServerName>,
    /// What admins have set, and whether it is enough for the room.
    pub(super) rows: Vec<(PeerPattern, bool)>,
    /// What was denied before.
    pub(super) before: BTreeSet<String>,
    /// Whether the trust in a server is enough for the room.
    pub(super) is_enough: &'a dyn Fn(&ServerName) -> bool,
}

impl Regarded<'_> {
    /// The entries that deny those whom the room doesn't trust, and nobody else. Those who are in the room go first, should there be
    /// more than fit; then those who were, then the others that admins have set. Answers besides whether all of them fit.
    ///
    /// A list knows no exceptions and no ports, so an entry that would also be about a server which is trusted is left out.
    pub(super) fn entries(&self) -> (BTreeSet<String>, bool) {
        let below: BTreeSet<&str> = self.rows.iter().filter_map(|row| self.below(row)).collect();
        let members = self.members.iter().copied().filter(|server| !(self.is_enough)(server)).map(host);
        let before = self.before.iter().filter(|entry| self.is_still_denied(entry)).cloned();
        let exact = self.rows.iter().filter_map(|row| match row {
            (PeerPattern::Exact(server), false) => Some(host(server)),
            _ => None,
        });
        let hosts = members.chain(before).chain(exact).filter(|host| self.is_nobody_elses(host));
        let is_covered = |host: &String| domains_above(host).any(|domain| below.contains(domain));
        let wildcards = below.iter().map(|domain| format!("*.{domain}"));
        let (mut entries, mut bytes) = (BTreeSet::new(), 0);
        for entry in wildcards.chain(hosts.filter(|host| !is_covered(host))) {
            if entries.contains(&entry) {
                continue;
            }
            bytes += entry.len();
            if bytes > MOST_BYTES {
                return (entries, false);
            }
            entries.insert(entry);
        }
        (entries, true)
    }

    /// The domain below which nobody is trusted.
    fn below<'a>(&self, row: &'a (PeerPattern, bool)) -> Option<&'a str> {
        let (PeerPattern::Below(domain), false) = row else { return None };
        let lies_below = |host: &str| domains_above(host).any(|above| above == domain);
        let is_excepted = |(pattern, is_enough): &(PeerPattern, bool)| match pattern {
            _ if !is_enough => false,
            PeerPattern::Exact(server) => lies_below(&host(server)),
            PeerPattern::Below(other) => lies_below(other),
        };
        let is_trusted = |server: &ServerName| lies_below(&host(server)) && (self.is_enough)(server);
        let has_exception = lies_below(&host(self.us))
            || self.rows.iter().any(is_excepted)
            || self.members.iter().any(|server| is_trusted(server));
        (!has_exception).then_some(domain)
    }

    /// Whether no server of this host is trusted, at any port, and none is this one.
    fn is_nobody_elses(&self, entry: &str) -> bool {
        let is_of_host = |server: &ServerName| host(server) == entry;
        let is_trusted = |server: &ServerName| is_of_host(server) && (self.is_enough)(server);
        let has_trusted_row = self.rows.iter().any(
            |(pattern, is_enough)| matches!(pattern, PeerPattern::Exact(server) if *is_enough && is_of_host(server)),
        );
        let bare = <&ServerName>::try_from(entry);
        !is_of_host(self.us)
            && !has_trusted_row
            && !self.members.iter().any(|server| is_trusted(server))
            && bare.is_ok_and(|server| !(self.is_enough)(server))
    }

    /// Whether a single server that was denied is still not trusted: it may have left because it was denied.
    fn is_still_denied(&self, entry: &str) -> bool {
        <&ServerName>::try_from(entry).is_ok_and(|server| !(self.is_enough)(server))
    }
}

fn host(server: &ServerName) -> String {
    host_of(&normal_name(server)).to_owned()
}

/// What this server has put into a list.
pub(super) fn recorded(list: Option<&Map<String, Value>>) -> BTreeSet<String> {
    let record = list.and_then(|list| list.get(RECORD));
    record.map(|record| texts(record.get("deny"))).unwrap_or_default().into_iter().collect()
}

/// The list with these entries in the place of those that this server put there before; `None`: it says so already.
pub(super) fn with_denied(list: Option<&Map<String, Value>>, denied: &BTreeSet<String>) -> Option<Map<String, Value>> {
    let before = recorded(list);
    // Without a list everybody may take part; with one, only whom it allows.
    let mut after = list.cloned().unwrap_or_else(|| Map::from_iter([("allow".to_owned(), json!(["*"]))]));
    let mut deny: Vec<String> = texts(after.get("deny")).into_iter().filter(|entry| !before.contains(entry)).collect();
    let ours: Vec<String> = denied.iter().filter(|entry| !deny.contains(entry)).cloned().collect();
    if ours.is_empty() && before.is_empty() {
        return None;
    }
    after.insert(RECORD.to_owned(), json!({ "deny": ours }));
    deny.extend(ours);
    after.insert("deny".to_owned(), json!(deny));
    (list != Some(&after)).then_some(after)
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let all = list.and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn rows(set: &[(&str, bool)]) -> Vec<(PeerPattern, bool)> {
        set.iter().map(|(pattern, is_enough)| (pattern.parse().expect("it is one"), *is_enough)).collect()
    }

    /// What is denied in a room of ours, `us.corp.test`, where these are members, and everybody is enough but `low` and the rows.
    fn denied(members: &[&str], low: &[&str], set: &[(&str, bool)], before: &[&str]) -> Vec<String> {
        let rows = rows(set);
        let find = |server: &ServerName| {
            let exact = rows.iter().find(|(pattern, _)| matches!(pattern, PeerPattern::Exact(name) if name == server));
            let row = exact.or_else(|| rows.iter().find(|(pattern, _)| pattern.matches(server)));
            row.map_or(!low.contains(&server.as_str()), |(_, is_enough)| *is_enough)
        };
        let regarded = Regarded {
            us: server_name!("us.corp.test"),
            members: members.iter().map(|name| (*name).try_into().expect("it is a name")).collect(),
            rows: rows.clone(),
            before: before.iter().map(|entry| (*entry).to_owned()).collect(),
            is_enough: &find,
        };
        let (entries, is_all) = regarded.entries();
        assert!(is_all);
        entries.into_iter().collect()
    }

    #[test]
    fn those_are_denied_whom_the_room_does_not_trust_and_nobody_else() {
        assert!(denied(&["us.corp.test", "b.test"], &[], &[("b.test", true)], &[]).is_empty());
        let set = [("c.test", false), ("*.evil.test", false), ("d.test", true)];
        assert_eq!(
            denied(&["us.corp.test", "low.test"], &["low.test"], &set, &[]),
            ["*.evil.test", "c.test", "low.test"]
        );
        // Whoever lies below a domain that is denied needs no entry of their own.
        assert_eq!(denied(&["x.evil.test"], &[], &set, &[]), ["*.evil.test", "c.test"]);
        // Who left because they were denied stays so until they are trusted.
        assert_eq!(denied(&[], &["left.test"], &[], &["left.test", "risen.test", "*.risen.test"]), ["left.test"]);
    }

    #[test]
    fn no_entry_is_about_this_server_or_one_that_is_trusted() {
        // A list knows no exceptions …
        for exception in ["good.evil.test", "*.good.evil.test"] {
            let set = [("*.evil.test", false), (exception, true)];
            assert!(denied(&["us.corp.test"], &[], &set, &[]).is_empty(), "{exception}");
        }
        let set = [("*.evil.test", false), ("good.evil.test", true)];
        assert_eq!(denied(&["bad.evil.test", "good.evil.test"], &[], &set, &[]), ["bad.evil.test"]);
        assert!(denied(&["us.corp.test"], &[], &[("*.corp.test", false), ("us.corp.test", true)], &[]).is_empty());
        assert!(denied(&[], &["us.corp.test:9"], &[("us.corp.test:9", false)], &["us.corp.test"]).is_empty());
        // … and no ports.
        assert!(denied(&[], &[], &[("b.test:9", false), ("b.test", true)], &[]).is_empty());
        assert_eq!(denied(&[], &[], &[("b.test:9", false), ("b.test", false)], &[]), ["b.test"]);
    }

    #[test]
    fn what_people_put_into_the_list_stays_there() {
        let entries = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let object = |value: Value| value.as_object().expect("it is one").clone();
        assert_eq!(with_denied(None, &entries(&[])), None);
        let new = with_denied(None, &entries(&["c.test"])).expect("there was none");
        assert_eq!(
            Value::from(new.clone()),
            json!({ "allow": ["*"], "deny": ["c.test"], RECORD: { "deny": ["c.test"] } })
        );
        assert_eq!(with_denied(Some(&new), &entries(&["c.test"])), None, "it says so already");
        let none = with_denied(Some(&new), &entries(&[])).expect("one is to go");
        assert_eq!(Value::from(none), json!({ "allow": ["*"], "deny": [], RECORD: { "deny": [] } }));

        let theirs =
            object(json!({ "allow": ["*.test"], "deny": ["spam.test", "c.test"], "allow_ip_literals": false }));
        assert_eq!(with_denied(Some(&theirs), &entries(&["c.test"])), None, "they say so themselves");
        let both = with_denied(Some(&theirs), &entries(&["c.test", "d.test"])).expect("one is new");
        assert_eq!(
            Value::from(both.clone()),
            json!({
                "allow": ["*.test"], "deny": ["spam.test", "c.test", "d.test"], "allow_ip_literals": false,
                RECORD: { "deny": ["d.test"] },
            })
        );
        let after = with_denied(Some(&both), &entries(&[])).expect("one is to go");
        assert_eq!(after["deny"], theirs["deny"]);
    }
}
