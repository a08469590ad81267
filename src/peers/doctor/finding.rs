//! What an examination finds, and what is to be done about it.

use std::fmt;

use model::Millis;
use ruma::OwnedServerName;
use serde::{Serialize, Serializer};

/// So much of what a peer said is shown.
const LONGEST: usize = 500;

/// What is examined. The ids are stable: tools may rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Whether this server's own configuration lets it talk to others, and as it should.
    Configuration,
    /// Whether the name can be the name of a server.
    Name,
    /// What its domain's well-known file says.
    WellKnown,
    /// What its SRV records say.
    Srv,
    /// Its IPv4 addresses.
    DnsA,
    /// Its IPv6 addresses.
    DnsAaaa,
    /// Whether the configuration lets these addresses be connected to.
    Addresses,
    /// A connection to each address.
    Tcp,
    /// A TLS handshake at each address.
    Tls,
    /// Who vouches for the certificate, for which names, and how long.
    Certificate,
    /// Which version of HTTP is agreed on.
    Alpn,
    /// An answer in HTTP from each address.
    Http,
    /// What it says of its keys.
    Keys,
    /// How long these keys count.
    KeyValidity,
    /// Its clock and ours.
    Clock,
    /// Which software it says to be.
    Version,
    /// Whether it believes our signature.
    Signed,
    /// Whether it takes a transaction as large as they get.
    BodySize,
    /// Whether it can have our keys.
    Notary,
    /// What it says it lets us do.
    PeerStatus,
}

impl Step {
    /// All of them, in the order in which they are done.
    pub const ALL: [Self; 20] = [
        Self::Configuration,
        Self::Name,
        Self::WellKnown,
        Self::Srv,
        Self::DnsA,
        Self::DnsAaaa,
        Self::Addresses,
        Self::Tcp,
        Self::Tls,
        Self::Certificate,
        Self::Alpn,
        Self::Http,
        Self::Keys,
        Self::KeyValidity,
        Self::Clock,
        Self::Version,
        Self::Signed,
        Self::BodySize,
        Self::Notary,
        Self::PeerStatus,
    ];

    /// Its id.
    pub fn id(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Name => "name",
            Self::WellKnown => "well_known",
            Self::Srv => "srv",
            Self::DnsA => "dns_a",
            Self::DnsAaaa => "dns_aaaa",
            Self::Addresses => "addresses",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Certificate => "certificate",
            Self::Alpn => "alpn",
            Self::Http => "http",
            Self::Keys => "keys",
            Self::KeyValidity => "key_validity",
            Self::Clock => "clock",
            Self::Version => "version",
            Self::Signed => "signed",
            Self::BodySize => "body_size",
            Self::Notary => "notary",
            Self::PeerStatus => "peer_status",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

/// What came of a step, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It could not be tried, or does not apply.
    Skipped,
    /// As it should be.
    Ok,
    /// It works, but worse than it should, or for some servers only, or not for long.
    Warning,
    /// It does not work.
    Fault,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Skipped => "skipped",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        })
    }
}

/// Who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Addressee {
    /// The operator of this server.
    Us,
    /// The admin of the server that was examined.
    Peer,
    /// Both: who of them it is can't be seen from here.
    Both,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// By whom.
    #[serde(rename = "for")]
    pub addressee: Addressee,
    /// What, in words that say it concretely.
    pub what: String,
}

impl Remedy {
    pub(super) fn ours(what: impl Into<String>) -> Self {
        Self { addressee: Addressee::Us, what: tidy(&what.into()) }
    }

    pub(super) fn theirs(what: impl Into<String>) -> Self {
        Self { addressee: Addressee::Peer, what: tidy(&what.into()) }
    }

    pub(super) fn of_both(what: impl Into<String>) -> Self {
        Self { addressee: Addressee::Both, what: tidy(&what.into()) }
    }
}

/// What came of one step, or of one step at one address.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Which step.
    pub step: Step,
    /// Which address or host, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// What was seen, or why nothing was.
    pub seen: String,
    /// What is to be done; there for each warning and each fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// What the peer answered, where tools may want to read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

impl Finding {
    pub(super) fn ok(step: Step, seen: impl Into<String>) -> Self {
        Self::new(step, Outcome::Ok, &seen.into(), None)
    }

    pub(super) fn skipped(step: Step, reason: impl Into<String>) -> Self {
        Self::new(step, Outcome::Skipped, &reason.into(), None)
    }

    pub(super) fn warning(step: Step, seen: impl Into<String>, remedy: Remedy) -> Self {
        Self::new(step, Outcome::Warning, &seen.into(), Some(remedy))
    }

    pub(super) fn fault(step: Step, seen: impl Into<String>, remedy: Remedy) -> Self {
        Self::new(step, Outcome::Fault, &seen.into(), Some(remedy))
    }

    /// A fault, or, where it stops nothing, a warning.
    pub(super) fn fault_if(is_fault: bool, step: Step, seen: impl Into<String>, remedy: Remedy) -> Self {
        let outcome = if is_fault { Outcome::Fault } else { Outcome::Warning };
        Self::new(step, outcome, &seen.into(), Some(remedy))
    }

    /// Where it was found.
    pub(super) fn at(mut self, subject: impl fmt::Display) -> Self {
        self.subject = Some(tidy(&subject.to_string()));
        self
    }

    pub(super) fn with(mut self, details: serde_json::Value) -> Self {
        self.details = Some(details);
        self
    }

    fn new(step: Step, outcome: Outcome, seen: &str, remedy: Option<Remedy>) -> Self {
        Self { step, subject: None, outcome, seen: tidy(seen), remedy, details: None }
    }
}

/// All that was found of a server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Examination {
    /// Which server, as it was examined: without what surrounded its name, and in lower case.
    pub server_name: String,
    /// Who examined it.
    pub examined_by: OwnedServerName,
    /// When it began.
    pub began_at: Millis,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The worst of all findings.
    pub outcome: Outcome,
    /// In the order of the steps; each step is there at least once.
    pub findings: Vec<Finding>,
}

impl Examination {
    /// How many findings came out like this.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.findings.iter().filter(|finding| finding.outcome == outcome).count()
    }
}

/// Peers have a say in what is shown to people: no more of it than that needs, and nothing that moves a cursor.
fn tidy(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn steps_are_listed_once_in_their_order_and_have_ids_of_their_own() {
        assert!(Step::ALL.is_sorted());
        let ids: BTreeSet<&str> = Step::ALL.iter().map(|step| step.id()).collect();
        assert_eq!(ids.len(), Step::ALL.len());
    }

    #[test]
    fn a_finding_is_what_tools_read() {
        let remedy = Remedy::theirs("renew it");
        let finding = Finding::fault(Step::Certificate, "it \u{1b}[31mended", remedy).at("127.0.0.1:8448");
        let expected = serde_json::json!({
            "step": "certificate",
            "subject": "127.0.0.1:8448",
            "outcome": "fault",
            "seen": "it [31mended",
            "remedy": { "for": "peer", "what": "renew it" },
        });
        assert_eq!(serde_json::to_value(finding).expect("it is JSON"), expected);
    }
}
