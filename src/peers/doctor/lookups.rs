//! What the ways to find a server say: its domain's well-known file, its SRV records, its addresses of both kinds.

use http::StatusCode;
use ruma::ServerName;

use super::{Finding, Remedy, Step};
use crate::{Addresses, Failure, Family, Lookup, Missing, Unnamed};

/// What was found on the way to `server`. `is_found`: whether an address came of it all.
pub(super) fn findings(server: &ServerName, trail: &[Lookup], is_found: bool, private_allowed: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut hosts = Vec::new();
    for lookup in trail {
        match lookup {
            Lookup::Endpoint(endpoint) => {
                let seen =
                    format!("an admin of this server has set that it is at {endpoint}, whatever its domain says");
                findings.extend([Step::WellKnown, Step::Srv].map(|step| Finding::skipped(step, seen.clone())));
            }
            Lookup::WellKnown { domain, said } => findings.push(well_known(domain, said)),
            Lookup::Services { name, found } => findings.extend(services(name, found)),
            Lookup::Addresses(addresses) => {
                findings.extend(families(addresses, is_found));
                hosts.push(addresses);
            }
        }
    }
    let has = |findings: &[Finding], step| findings.iter().any(|finding| finding.step == step);
    if !has(&findings, Step::WellKnown) {
        findings.push(Finding::skipped(Step::WellKnown, format!("{server} says itself where it is")));
    }
    if !has(&findings, Step::Srv) {
        let asked_none = !trail.iter().any(|lookup| matches!(lookup, Lookup::Services { .. }));
        findings.push(match asked_none {
            true => Finding::skipped(Step::Srv, "the name that counts says itself where the server is"),
            false => Finding::ok(Step::Srv, "there are none, so it is port 8448 of the name itself"),
        });
    }
    for (step, family) in [(Step::DnsA, Family::V4), (Step::DnsAaaa, Family::V6)] {
        if !has(&findings, step) && hosts.iter().all(|host| host.asked.iter().all(|(asked, _)| *asked != family)) {
            findings.push(Finding::skipped(step, "no name had to be looked up"));
        }
    }
    let is_told = trail.iter().any(|lookup| matches!(lookup, Lookup::Endpoint(_)));
    findings.extend(match is_told && hosts.iter().all(|host| host.asked.is_empty()) {
        true => Some(Finding::ok(Step::Addresses, "an admin has named the address, so it need not be a public one")),
        false => allowed(&hosts, private_allowed),
    });
    findings
}

// === well-known ===

/// What can't be read is a warning here; it becomes a fault when the server can't be reached without it either.
fn well_known(domain: &str, said: &Result<ruma::OwnedServerName, Unnamed>) -> Finding {
    const STEP: Step = Step::WellKnown;
    let file = format!("https://{domain}/.well-known/matrix/server");
    let good = r#"a JSON object such as {"m.server": "matrix.example.org:443"}"#;
    let either = |what: &str| Remedy::theirs(format!("let {file} answer {good}, or 404 if there is none; {what}"));
    match said {
        Ok(server) => Finding::ok(STEP, format!("{server} speaks for {domain}")),
        Err(Unnamed::Status(StatusCode::NOT_FOUND | StatusCode::GONE)) => {
            Finding::ok(STEP, format!("there is none at {file}; SRV records and port 8448 count"))
        }
        Err(Unnamed::Unreachable { failure: Failure::Timeout, reason }) => {
            let remedy = either("now every server waits for it in vain before it tries another way");
            Finding::warning(STEP, format!("nothing came from {file} in time: {reason}"), remedy)
        }
        Err(Unnamed::Unreachable { failure: Failure::Tls, reason }) => {
            let remedy = either(&format!("for that, the web server of {domain} needs a certificate that is valid"));
            Finding::warning(STEP, format!("no TLS connection for {file}: {reason}"), remedy)
        }
        Err(Unnamed::Unreachable { reason, .. }) => {
            Finding::ok(STEP, format!("nobody answers at {file} ({reason}); SRV records and port 8448 count"))
        }
        Err(Unnamed::Status(status)) => {
            let remedy = either("servers ignore an answer with another status");
            Finding::warning(STEP, format!("{file} answered {status}"), remedy)
        }
        Err(Unnamed::Redirected(to)) => {
            let remedy =
                either("it may redirect a few times, to https on the public internet only, and not in circles");
            Finding::warning(STEP, format!("{file} ends in a redirect to {to} that is not followed any more"), remedy)
        }
        Err(Unnamed::Malformed(reason)) => {
            let remedy = either("what answers there now is often a web page that is shown for every path");
            Finding::warning(STEP, format!("{file} answered something that names no server: {reason}"), remedy)
        }
        Err(Unnamed::Misnamed(named)) => {
            let remedy = format!("write a host, with a port if it isn't 8448, and no https:// before it: {good}");
            Finding::fault(STEP, format!("{file} names `{named}`, which is no server"), Remedy::theirs(remedy))
        }
    }
}

// === SRV ===

fn services(name: &str, found: &Result<Vec<(String, u16)>, Missing>) -> Option<Finding> {
    const STEP: Step = Step::Srv;
    let finding = match found {
        // That neither is there is said once.
        Err(Missing::NoName | Missing::NoRecord) => return None,
        Err(Missing::Failed(reason)) => {
            let seen = format!("it can't be known whether there are SRV records: {reason}");
            let remedy = "let the domain's name servers answer for this name, with the records or without; if other \
                          domains show the same here, look at federation.nameservers of this server";
            Finding::warning(STEP, seen, Remedy::of_both(remedy))
        }
        Ok(targets) if targets.is_empty() => Finding::ok(STEP, "it says that there is no such service"),
        Ok(targets) => {
            let told: Vec<String> = targets.iter().map(|(host, port)| format!("{host}:{port}")).collect();
            let seen = format!("it leads to {}", told.join(", "));
            if name.starts_with("_matrix._tcp.") {
                let remedy = "add the same record under _matrix-fed._tcp: _matrix._tcp is deprecated since Matrix 1.8";
                Finding::warning(STEP, seen, Remedy::theirs(remedy))
            } else {
                Finding::ok(STEP, seen)
            }
        }
    };
    Some(finding.at(name))
}

// === addresses ===

/// A and AAAA records each by themselves: where one kind is missing, some servers find the way and others don't.
fn families(addresses: &Addresses, is_found: bool) -> Vec<Finding> {
    let has_any = addresses.asked.iter().any(|(_, found)| found.is_ok());
    let findings = addresses.asked.iter().map(|(family, found)| {
        let (step, record, kind) = match family {
            Family::V4 => (Step::DnsA, "A", "IPv4"),
            Family::V6 => (Step::DnsAaaa, "AAAA", "IPv6"),
        };
        let host = &addresses.host;
        let is_fault = !has_any && !is_found;
        let finding = match found {
            Ok(ips) => Finding::ok(step, ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            Err(Missing::NoName) => {
                let remedy = format!("add A and AAAA records for {host}, or correct what names it; check the spelling");
                Finding::fault_if(is_fault, step, format!("the name {host} does not exist"), Remedy::of_both(remedy))
            }
            Err(Missing::NoRecord) => {
                let seen = format!("there is no {record} record: servers with {kind} alone don't find it");
                let remedy = format!("add an {record} record for {host} if the server has an {kind} address");
                Finding::fault_if(is_fault, step, seen, Remedy::theirs(remedy))
            }
            Err(Missing::Failed(reason)) => {
                let seen = format!("the name servers gave no {record} records and did not say that there are none: {reason}");
                let remedy = format!(
                    "ask each name server of {host} for its {record} records (dig), and mend the one that fails; if other \
                     domains show the same here, look at federation.nameservers of this server"
                );
                Finding::fault_if(is_fault, step, seen, Remedy::of_both(remedy))
            }
        };
        finding.at(host)
    });
    findings.collect()
}

/// Whether what was found may be connected to.
fn allowed(hosts: &[&Addresses], private_allowed: bool) -> Option<Finding> {
    const STEP: Step = Step::Addresses;
    let closed: Vec<String> = hosts.iter().flat_map(|host| &host.closed).map(ToString::to_string).collect();
    let open = hosts.iter().map(|host| host.open.len()).sum::<usize>();
    if !closed.is_empty() {
        let seen = format!("not on the public internet, so never connected to: {}", closed.join(", "));
        let remedy = "name public addresses in DNS; or, if this server is inside your own network, let its operator set \
                      `allow_private_addresses = true` in [federation]";
        return Some(Finding::fault_if(open == 0, STEP, seen, Remedy::of_both(remedy)));
    }
    match (open, private_allowed) {
        (0, _) => None,
        (_, true) => {
            Some(Finding::ok(STEP, "any address may be connected to: federation.allow_private_addresses is on"))
        }
        (_, false) => Some(Finding::ok(STEP, "all of them are on the public internet")),
    }
}
