//! How the links of a broker are: those of federation, and shovels.

use serde::Deserialize;

use super::{Management, ManagementError};

/// What a link is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkWay {
    /// Federation: this broker fetches from an exchange of the other one.
    Upstream,
    /// A shovel: this broker brings what is in a queue to the other one.
    Shovel,
}

/// A link as its broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkThere {
    /// In which virtual host.
    pub vhost: String,
    /// The name of the upstream, or of the shovel.
    pub name: String,
    /// What it is made of.
    pub way: LinkWay,
    /// `None`: it is up. Otherwise why it isn't.
    pub fault: Option<LinkFault>,
}

/// Why a link is not up. What the broker says of it is not repeated: it is made for people who read Erlang, and may hold
/// what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFault {
    /// It has just been made, or is being made again: a shovel never says why that fails.
    Starting,
    /// The other broker does not know the user, or the password is another one.
    Login,
    /// The user may not do there what the link needs.
    Permission,
    /// Nobody listens where the other broker should be.
    Refused,
    /// The name of its host is not known.
    Name,
    /// No answer came.
    Timeout,
    /// TLS failed: a certificate, or a name in it.
    Tls,
    /// What it should read from, or write to, is not there.
    Missing,
    /// Something else, which is in the broker's log.
    Other,
}

impl LinkFault {
    /// In plain words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Starting => {
                "it is being made; if that lasts, the other broker is away or refuses the login, as the broker's log says"
            }
            Self::Login => "the other broker refuses the login",
            Self::Permission => "the other broker does not permit what the link does",
            Self::Refused => "nobody takes connections where the other broker should be",
            Self::Name => "the name of the other broker's host is not known",
            Self::Timeout => "the other broker does not answer",
            Self::Tls => {
                "TLS with the other broker fails: look at its certificate, and at the authorities that this broker trusts"
            }
            Self::Missing => "the other broker has not, or not any more, what the link is to read or write",
            Self::Other => "the broker's log says why",
        }
    }

    /// What an Erlang term that tells of a failure means.
    fn of(text: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match () {
            () if has(&["auth_failure", "Login was refused", "not_allowed", "sasl"]) => Self::Login,
            () if has(&["ACCESS_REFUSED", "access_refused"]) => Self::Permission,
            () if has(&["econnrefused"]) => Self::Refused,
            () if has(&["nxdomain", "unknown_host"]) => Self::Name,
            () if has(&["tls_alert", "hostname_check_failed", "unknown_ca", "bad_certificate", "cacertfile"]) => {
                Self::Tls
            }
            () if has(&["NOT_FOUND", "not_found"]) => Self::Missing,
            () if has(&["timeout", "etimedout", "ehostunreach", "enetunreach"]) => Self::Timeout,
            () => Self::Other,
        }
    }
}

#[derive(Deserialize)]
struct FederationLink {
    vhost: String,
    upstream: String,
    status: String,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Shovel {
    #[serde(default)]
    vhost: String,
    name: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    reason: Option<serde_json::Value>,
}

impl Management {
    /// Every link of federation and every shovel in the virtual hosts for peers. Without the plugins there are none.
    pub(super) async fn links(&self) -> Result<Vec<LinkThere>, ManagementError> {
        let upstreams: Vec<FederationLink> = self.find("/federation-links").await?.unwrap_or_default();
        let shovels: Vec<Shovel> = self.find("/shovels").await?.unwrap_or_default();
        let upstreams = upstreams.into_iter().map(|link| LinkThere {
            fault: fault(&link.status, link.error.as_ref()),
            vhost: link.vhost,
            name: link.upstream,
            way: LinkWay::Upstream,
        });
        let shovels = shovels.into_iter().map(|shovel| LinkThere {
            fault: fault(&shovel.state, shovel.reason.as_ref()),
            vhost: shovel.vhost,
            name: shovel.name,
            way: LinkWay::Shovel,
        });
        Ok(upstreams.chain(shovels).collect())
    }
}

fn fault(state: &str, reason: Option<&serde_json::Value>) -> Option<LinkFault> {
    match (state, reason) {
        ("running", _) => None,
        ("starting", None) => Some(LinkFault::Starting),
        (_, Some(reason)) => Some(LinkFault::of(&reason.to_string())),
        _ => Some(LinkFault::Other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_broker_says_of_a_link_becomes_plain_words() {
        let of = |state: &str, error: &str| fault(state, Some(&json!(error)));
        assert_eq!(fault("running", None), None);
        assert_eq!(fault("starting", None), Some(LinkFault::Starting));
        let login = r#"{auth_failure,"ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"}"#;
        assert_eq!(of("error", login), Some(LinkFault::Login));
        let tls = r#"{tls_alert,{handshake_failure,"... hostname_check_failed"}}"#;
        assert_eq!(of("error", tls), Some(LinkFault::Tls));
        assert_eq!(of("terminated", "\"needed a restart\""), Some(LinkFault::Other));
        assert_eq!(of("error", "econnrefused"), Some(LinkFault::Refused));
        let write = "{shutdown,{server_initiated_close,403,<<\"ACCESS_REFUSED - write access refused\">>}}";
        assert_eq!(of("terminated", write), Some(LinkFault::Permission));
    }
}
