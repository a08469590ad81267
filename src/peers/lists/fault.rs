//! Why a list was not taken, and why something about lists was not done.

use model::{Kind, Millis, Refusal};
use ruma::OwnedServerName;

use crate::{Failure, PeerError, keys::span};

/// Why what a publisher answers is not taken as its list. What was taken before goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListFault {
    /// It can't be asked, or answers with an error.
    #[error("it does not answer: {0}")]
    Unreachable(String),
    /// It doesn't want to tell.
    #[error("it refuses to tell: {0}")]
    Refused(String),
    /// This server may not ask it.
    #[error("this server does not trust it enough to ask: {0}")]
    NotTrusted(String),
    /// It has none.
    #[error("it publishes no list")]
    Missing,
    /// It is more than can be kept.
    #[error("it is too large: {0}")]
    TooLarge(String),
    /// It is no list.
    #[error("it is no list: {0}")]
    Malformed(String),
    /// It is another's.
    #[error("it is the list of {0}")]
    WrongPublisher(OwnedServerName),
    /// None of the keys has signed it that its publisher is pinned to.
    #[error("no key that its publisher is pinned to has signed it: {0}")]
    WrongKey(String),
    /// It is older than what was taken already.
    #[error("it is version {told}, and version {known} was published before")]
    Rollback {
        /// Which version it is.
        told: i64,
        /// Which was taken.
        known: i64,
    },
    /// The version that was taken said something else.
    #[error("it is another version {0} than the one that was published before")]
    Equivocation(i64),
    /// It is out of date.
    #[error("it ended {ago} ago", ago = span(*.0))]
    Expired(Millis),
    /// It is dated ahead.
    #[error("it is dated {ahead} ahead of this server's clock", ahead = span(*.0))]
    FromFuture(Millis),
}

impl ListFault {
    /// One word that stays as it is, for programs and figures.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "list_unreachable",
            Self::Refused(_) => "list_refused",
            Self::NotTrusted(_) => "list_not_trusted",
            Self::Missing => "list_missing",
            Self::TooLarge(_) => "list_too_large",
            Self::Malformed(_) => "list_malformed",
            Self::WrongPublisher(_) => "list_wrong_publisher",
            Self::WrongKey(_) => "list_wrong_key",
            Self::Rollback { .. } => "list_rollback",
            Self::Equivocation(_) => "list_equivocation",
            Self::Expired(_) => "list_expired",
            Self::FromFuture(_) => "list_from_future",
        }
    }

    /// Whether it may be gone when it is tried again soon.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Whether somebody may be lying.
    pub(super) fn is_suspicious(&self) -> bool {
        matches!(self, Self::WrongPublisher(_) | Self::WrongKey(_) | Self::Rollback { .. } | Self::Equivocation(_))
    }
}

/// What an admin can do about a fault, by its code.
pub fn remedy_of(code: &str) -> &'static str {
    match code {
        "list_unreachable" => "see what `comity doctor` says of the publisher; it is asked again within minutes",
        "list_refused" => "ask the publisher's admin how this server is trusted there",
        "list_not_trusted" => "set the publisher with `comity peer set`, or look at the alarm of its keys",
        "list_missing" => "ask the publisher's admin whether a list is published, with `comity list publish`",
        "list_too_large" => "tell the publisher's admin: a list has at most 5000 servers and 1 MiB",
        "list_malformed" => "tell the publisher's admin, or see whether this server is too old for its format",
        "list_wrong_publisher" => "tell the publisher's admin: another server answers by its name",
        "list_wrong_key" => {
            "compare the words of the publisher's keys with its admin by phone; if they are right, subscribe again with --words, \
             and if not, somebody is in between"
        }
        "list_rollback" => {
            "tell the publisher's admin: an older version than before is published, perhaps from a backup; publishing with a \
             higher --version mends that"
        }
        "list_equivocation" => {
            "tell the publisher's admin: two lists bear one version; publishing a new version mends that"
        }
        "list_expired" => "tell the publisher's admin, who has to publish again",
        "list_from_future" => "compare the clocks of the publisher and of this server",
        _ => "ask for it again with `comity list refresh`",
    }
}

impl From<PeerError> for ListFault {
    fn from(error: PeerError) -> Self {
        let told = |error: &PeerError| {
            let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
            format!("{error}{cause}")
        };
        match &error {
            PeerError::Refused { status: 404, .. } => Self::Missing,
            PeerError::Trust(_) => Self::NotTrusted(error.to_string()),
            _ if error.failure() == Failure::Unauthorized => Self::Refused(error.to_string()),
            _ => Self::Unreachable(told(&error)),
        }
    }
}

/// Why something about lists was not done.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// What the publisher answers can't be taken.
    #[error("the list of {publisher} was not taken: {fault}; {remedy}", remedy = remedy_of(fault.code()))]
    Fault {
        /// Whose list.
        publisher: OwnedServerName,
        /// Why.
        fault: ListFault,
    },
    /// This deployment doesn't go by that list.
    #[error("this server is not subscribed to a list of {0}")]
    NotSubscribed(OwnedServerName),
    /// This deployment publishes nothing.
    #[error("this server publishes no list")]
    NotPublished,
    /// It is this server's own.
    #[error("{0} is this server: it goes by what its admins set")]
    Ourselves(OwnedServerName),
    /// There is no alarm.
    #[error("no key of {0} has raised an alarm")]
    NoAlarm(OwnedServerName),
    /// Somebody else changed it since.
    #[error("the subscription was changed meanwhile: it is at revision {current} now; look at it, and try again")]
    Outdated {
        /// Its revision now; 0: there is none.
        current: i64,
    },
    /// No reason was given.
    #[error("say with `reason` why: other admins will want to know")]
    NoReason,
    /// Something in it makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The store failed.
    #[error("the lists could not be read or changed")]
    Store(#[from] store::Error),
}

impl Refusal for ListError {
    fn kind(&self) -> Kind {
        match self {
            Self::Fault { .. } => Kind::Unreachable,
            Self::NotSubscribed(_) | Self::NotPublished | Self::NoAlarm(_) => Kind::NotFound,
            Self::Outdated { .. } => Kind::Conflict,
            Self::Ourselves(_) | Self::NoReason | Self::Invalid(_) => Kind::Invalid,
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Fault { fault, .. } => Some(fault.code()),
            Self::NotPublished => Some("no_list"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_a_code_and_a_remedy_of_its_own() {
        let text = String::new;
        let all = [
            ListFault::Unreachable(text()),
            ListFault::Refused(text()),
            ListFault::NotTrusted(text()),
            ListFault::Missing,
            ListFault::TooLarge(text()),
            ListFault::Malformed(text()),
            ListFault::WrongPublisher(ruma::server_name!("a.test").to_owned()),
            ListFault::WrongKey(text()),
            ListFault::Rollback { told: 1, known: 2 },
            ListFault::Equivocation(1),
            ListFault::Expired(1),
            ListFault::FromFuture(1),
        ];
        let codes: std::collections::BTreeSet<_> = all.iter().map(ListFault::code).collect();
        let remedies: std::collections::BTreeSet<_> = codes.iter().map(|code| remedy_of(code)).collect();
        assert_eq!((codes.len(), remedies.len()), (all.len(), all.len()));
        assert!(!remedies.contains(remedy_of("something else")));
    }
}
