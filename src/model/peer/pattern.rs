//! Which servers a rule is about: one, or all below a domain.

use std::{borrow::Cow, fmt, str::FromStr};

use ruma::{OwnedServerName, ServerName};

/// One server, or every server below a domain. Lower case, international names in their ASCII form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerPattern {
    /// The server of this name; with a port, only that one.
    Exact(OwnedServerName),
    /// `*.corp.example`: `a.corp.example` and `b.a.corp.example`, but neither `corp.example` nor `evilcorp.example`.
    Below(String),
}

/// Neither a server's name nor `*.` and a domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither the name of a server, such as chat.example.org, nor all below a domain, such as *.example.org"
)]
pub struct PatternError(String);

impl PeerPattern {
    /// Whether the rule is about `server`.
    pub fn matches(&self, server: &ServerName) -> bool {
        let name = normal_name(server);
        match self {
            Self::Exact(exact) => *exact.as_str() == *name,
            Self::Below(domain) => domains_above(host_of(&name)).any(|above| above == domain),
        }
    }
}

impl FromStr for PeerPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = || PatternError(text.chars().take(300).collect());
        let text = text.trim();
        let (below, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (host, port) = match name.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, Some(port))
            }
            _ => (name, None),
        };
        let host = match host.starts_with('[') {
            true => host.to_ascii_lowercase(),
            // As browsers do: lower case, and international names in their ASCII form.
            false => idna::domain_to_ascii_strict(host).map_err(|_| wrong())?,
        };
        let name = match port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        let name: OwnedServerName = ServerName::parse(&name).map_err(|_| wrong())?.to_owned();
        match below {
            false => Ok(Self::Exact(name)),
            true if name.port().is_none() && !name.is_ip_literal() => Ok(Self::Below(name.to_string())),
            true => Err(wrong()),
        }
    }
}

impl fmt::Display for PeerPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(formatter, "{name}"),
            Self::Below(domain) => write!(formatter, "*.{domain}"),
        }
    }
}

/// A server's name as rules have it: in lower case.
pub fn normal_name(server: &ServerName) -> Cow<'_, str> {
    let name = server.as_str();
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

/// A name without its port.
pub fn host_of(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => name,
    }
}

/// `b.corp.example`: `corp.example`, `example`. Nothing is above an address.
pub fn domains_above(host: &str) -> impl Iterator<Item = &str> {
    let is_address = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
    let first = (!is_address).then_some(host);
    std::iter::successors(first, |host| host.split_once('.').map(|(_, above)| above)).skip(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, server: &str) -> bool {
        let pattern: PeerPattern = pattern.parse().expect("it is a pattern");
        pattern.matches(<&ServerName>::try_from(server).expect("it is a name"))
    }

    #[test]
    fn a_wildcard_matches_at_the_boundary_of_labels_only() {
        assert!(matches("*.corp.example", "a.corp.example"));
        assert!(matches("*.corp.example", "b.A.Corp.Example:8448"));
        assert!(!matches("*.corp.example", "corp.example"));
        assert!(!matches("*.corp.example", "evilcorp.example"));
        assert!(!matches("*.corp.example", "a.corp.example.evil.test"));
        assert!(!matches("*.0.0.1", "127.0.0.1"));
        assert!(!matches("*.example", "[::1]:8448"));
    }

    #[test]
    fn an_exact_name_is_one_server_however_it_is_spelt() {
        assert!(matches("B.Example", "b.example"));
        assert!(matches("b.example:8448", "b.example:8448"));
        assert!(!matches("b.example", "a.b.example"));
        assert!(!matches("b.example:1", "b.example:2"));
        assert!(matches("bücher.example", "xn--bcher-kva.example"));
        assert!(matches("*.bücher.example", "chat.xn--bcher-kva.example"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in
            ["", "*", "*.", "a.*.example", "b.example/x", "*.b.example:1", "b example", "*.127.0.0.1", "-b-.é\u{200b}"]
        {
            assert!(wrong.parse::<PeerPattern>().is_err(), "{wrong}");
        }
    }
}
