//! The certificate that was shown in a handshake: who vouches for it, for which names, and how long.

use std::time::Duration;

use rustls::{
    CertificateError, Error,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{Doctor, Finding, Remedy, Step};
use crate::keys::span;

/// A certificate that ends sooner is worth a word. Let's Encrypt's are renewed 30 days before.
const SOON: Duration = Duration::from_hours(14 * 24);

/// The chain and the names are looked at each by themselves, so that both are told when both are wrong.
pub(super) fn examine(doctor: &Doctor, chain: &[CertificateDer<'static>], name: &ServerName<'static>) -> Vec<Finding> {
    const STEP: Step = Step::Certificate;
    let Some((first, others)) = chain.split_first() else {
        let remedy = Remedy::theirs("let the server or its proxy show a certificate");
        return vec![Finding::fault(STEP, "no certificate was shown", remedy)];
    };
    let told = name.to_str();
    let parsed = match ParsedCertificate::try_from(first) {
        Ok(parsed) => parsed,
        Err(error) => {
            let remedy = Remedy::theirs("let the server or its proxy show an X.509 certificate of version 3");
            return vec![Finding::fault(STEP, format!("the certificate can't be read: {error}"), remedy)];
        }
    };
    let vouched_at = |at: UnixTime| {
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &doctor.roots, others, at, algorithms)
    };
    let now = UnixTime::now();
    let mut wrong = Vec::new();
    if let Err(error) = vouched_at(now) {
        wrong.push(mistrusted(&error, chain.len(), now));
    }
    if let Err(error) = verify_server_name(&parsed, name) {
        let names = match &error {
            Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
                presented.join(", ")
            }
            other => other.to_string(),
        };
        let seen = format!("the certificate is not for {told}; it is for: {names}");
        let remedy = format!(
            "get a certificate that names {told}: others compare it with the name in the well-known file or, without \
             one, with the server's own, never with the target of an SRV record"
        );
        wrong.push((seen, Remedy::theirs(remedy)));
    }
    if wrong.is_empty() {
        let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + SOON);
        return vec![match vouched_at(soon).map_err(|error| end_of(&error)) {
            Err(Some(end)) => {
                let left = span_of(end.as_secs().saturating_sub(now.as_secs()));
                let remedy = Remedy::theirs("renew the certificate, and see why that didn't happen by itself");
                Finding::warning(STEP, format!("the certificate for {told} ends in {left}"), remedy)
            }
            _ => Finding::ok(STEP, format!("valid for {told}, by an authority that is trusted here")),
        }];
    }
    let is_checked = doctor.config.verify_tls;
    let findings = wrong.into_iter().map(|(seen, remedy)| match is_checked {
        true => Finding::fault(STEP, seen, remedy),
        false => Finding::warning(STEP, format!("{seen} (federation.verify_tls is off, so it is taken)"), remedy),
    });
    findings.collect()
}

/// What is wrong with the chain. `length`: how many certificates were shown.
fn mistrusted(error: &Error, length: usize, now: UnixTime) -> (String, Remedy) {
    if let Some(end) = end_of(error) {
        let ago = span_of(now.as_secs().saturating_sub(end.as_secs()));
        let remedy =
            "renew the certificate, let the server or its proxy read the new one, and see why it wasn't renewed";
        return (format!("the certificate, or one that vouches for it, ended {ago} ago"), Remedy::theirs(remedy));
    }
    let Error::InvalidCertificate(error) = error else {
        let remedy = Remedy::theirs("replace the certificate by one of a public authority");
        return (format!("the certificate can't be trusted: {error}"), remedy);
    };
    match error {
        CertificateError::NotValidYetContext { not_before, .. } => {
            let left = span_of(not_before.as_secs().saturating_sub(now.as_secs()));
            let remedy = "compare this machine's clock with the time (timedatectl); if it is right, the peer's admin must \
                          show a certificate that has begun";
            (format!("the certificate begins only in {left}"), Remedy::of_both(remedy))
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let shown = match length {
                1 => "it was shown without any that vouches for it".to_owned(),
                _ => format!("{length} certificates were shown"),
            };
            let whose = match error {
                CertificateError::BadSignature => ": it names one that is trusted, and is signed by another key",
                _ => "",
            };
            let remedy = "show the whole chain of a public authority's certificate (fullchain.pem, not cert.pem), none \
                          signed by itself; for an authority of one's own, each peer's operator must name it in \
                          `federation.ca_file`";
            let seen = format!("no authority that is trusted here vouches for the certificate{whose}; {shown}");
            (seen, Remedy::theirs(remedy))
        }
        error => {
            let remedy = Remedy::theirs("replace the certificate by one for servers, of a public authority");
            (format!("the certificate can't be trusted: {error}"), remedy)
        }
    }
}

fn end_of(error: &Error) -> Option<UnixTime> {
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => Some(*not_after),
        _ => None,
    }
}

fn span_of(seconds: u64) -> String {
    span(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000))
}
