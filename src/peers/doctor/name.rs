//! Whether a name can be the name of a server, and what it is when it is written as people write it.

use ruma::{OwnedServerName, ServerName};

use super::{Finding, Remedy, Step};

/// A name as it was read.
pub(super) struct Read {
    /// Nothing: it can't be made one.
    pub(super) server: Option<OwnedServerName>,
    pub(super) finding: Finding,
}

/// Reads the name of a server. Whoever writes a URL, a user's id, capitals or letters beyond ASCII means a name that
/// is spelt otherwise on the wire, which is what is examined.
pub(super) fn read(written: &str) -> Read {
    let bare = bare(written);
    let Some(server) = on_the_wire(bare) else {
        let seen = format!("`{written}` can't be the name of a server");
        let remedy = "write the domain as in its users' ids: what follows the first colon of @alice:example.org";
        return Read { server: None, finding: Finding::fault(Step::Name, seen, Remedy::ours(remedy)) };
    };
    if server == written {
        return Read { finding: Finding::ok(Step::Name, server.to_string()), server: Some(server) };
    }
    let mut wrong = Vec::new();
    if bare != written {
        wrong.push("it is no bare domain");
    }
    if !bare.is_ascii() {
        wrong.push("it has letters beyond ASCII, which are spelt `xn--…` between servers");
    } else if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        wrong.push("it has capitals, and servers compare names byte by byte");
    }
    let seen = format!("`{written}` is examined as {server}: {}", wrong.join("; "));
    let remedy =
        Remedy::ours(format!("write {server} wherever this server is named: ids with another spelling differ"));
    Read { finding: Finding::warning(Step::Name, seen, remedy), server: Some(server) }
}

/// What is left of a URL, or of an id of a user, an alias or a room.
fn bare(written: &str) -> &str {
    let mut name = written.trim();
    if let Some((scheme, rest)) = name.split_once("://")
        && scheme.bytes().all(|byte| byte.is_ascii_alphabetic())
    {
        name = rest;
    }
    name = name.split(['/', '?']).next().unwrap_or_default();
    if name.starts_with(['@', '#', '!']) {
        name = name.split_once(':').map_or(name, |(_, server)| server);
    }
    name.strip_suffix('.').unwrap_or(name)
}

fn on_the_wire(name: &str) -> Option<OwnedServerName> {
    if name.starts_with('[') {
        return ServerName::parse(name.to_ascii_lowercase()).ok();
    }
    let (host, port) = match name.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (name, None),
    };
    let host = match host.is_ascii() {
        true => host.to_ascii_lowercase(),
        false => url::Host::parse(host).ok()?.to_string(),
    };
    let is_name = host.split('.').all(|label| (1..=63).contains(&label.len())) && host.len() <= 253;
    let name = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    ServerName::parse(name).ok().filter(|_| is_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn names_are_read_as_people_write_them() {
        for (written, name) in [
            ("example.org", "example.org"),
            ("example.org:8448", "example.org:8448"),
            ("1.2.3.4", "1.2.3.4"),
            ("[2001:db8::1]:8448", "[2001:db8::1]:8448"),
            ("Example.ORG", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example:8448", "xn--bcher-kva.example:8448"),
            ("https://example.org/", "example.org"),
            ("https://example.org:443/x?y", "example.org:443"),
            ("@alice:example.org", "example.org"),
            (" example.org. ", "example.org"),
        ] {
            let read = read(written);
            assert_eq!(read.server.as_deref().map(ServerName::as_str), Some(name), "{written}");
            let expected = if written == name { Outcome::Ok } else { Outcome::Warning };
            assert_eq!((read.finding.outcome, read.finding.remedy.is_some()), (expected, written != name), "{written}");
        }
        let long = format!("{}.org", "a".repeat(64));
        for written in ["", " ", "a b", "example..org", "-.org:x", "exa_mple.org", "[::1", "@alice", ":8448", &long] {
            let read = read(written);
            assert!(read.server.is_none(), "{written}");
            assert!(read.finding.outcome == Outcome::Fault && read.finding.remedy.is_some(), "{written}");
        }
    }
}
