//! What a server says of its keys, and what the answer tells besides: that it speaks HTTP, and what time it has.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use model::Millis;
use ruma::{api::federation::discovery::ServerSigningKeys, serde::Raw};
use serde_json::Value;

use super::{Finding, Remedy, Step, line::Line};
use crate::{
    Failure, KeyError, PeerError,
    keys::{KeyAnswer, span, wall_clock},
};

const PATH: &str = "/_matrix/key/v2/server";
/// Keys that end sooner are no longer renewed as they should be.
const SOON: Millis = 60 * 60_000;
/// More than a slow answer and a whole second's rounding can explain.
const SKEWED: Millis = 30_000;
/// Signed tokens of the native API count for minutes.
const FAR_SKEWED: Millis = 5 * 60_000;

/// What came of asking for keys.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) findings: Vec<Finding>,
    pub(super) clock: Option<Finding>,
    /// There if a Matrix server seems to have answered, whatever is wrong with what it said.
    pub(super) document: Option<Document>,
}

/// What a server says of its keys.
pub(super) struct Document {
    valid_until: Option<Millis>,
}

/// Asks a server for its keys.
pub(super) async fn ask(line: &Line) -> Answer {
    let began = wall_clock();
    let answer = match line.ask(Method::GET, PATH, None).await {
        Ok(answer) => answer,
        Err(error) => return Answer { findings: vec![silent(line, &error)], ..Answer::default() },
    };
    let took = wall_clock() - began;
    let mut findings = vec![Finding::ok(Step::Http, format!("it answers, in {took} ms"))];
    let document = read(line, &answer, &mut findings);
    Answer { findings, clock: Some(clock(&answer, began, took)), document }
}

fn silent(line: &Line, error: &PeerError) -> Finding {
    const STEP: Step = Step::Http;
    let why = line.why(error);
    match error.failure() {
        Failure::Timeout => {
            let remedy = "see whether the homeserver runs and is not overloaded, and whether its proxy passes requests on \
                          to the right port";
            Finding::fault(STEP, format!("{PATH}: {why}"), Remedy::theirs(remedy))
        }
        Failure::Rejected => {
            let remedy = "let the homeserver itself answer; a list of keys is a few hundred bytes long";
            Finding::fault(STEP, format!("{PATH}: {error}"), Remedy::theirs(remedy))
        }
        _ => {
            let remedy = "see whether the homeserver runs, and what it and its proxy log of this request; behind TLS it \
                          must speak HTTP";
            Finding::fault(STEP, format!("{PATH}: no answer in HTTP came: {why}"), Remedy::theirs(remedy))
        }
    }
}

// === the document ===

fn read(line: &Line, answer: &http::Response<Bytes>, findings: &mut Vec<Finding>) -> Option<Document> {
    const STEP: Step = Step::Keys;
    let mut fault = |seen: String, what: &str| findings.push(Finding::fault(STEP, seen, Remedy::theirs(what)));
    let status = answer.status();
    if status != StatusCode::OK {
        fault(format!("{PATH} answered {status}"), by_status(status));
        return None;
    }
    let Ok(document @ Value::Object(_)) = serde_json::from_slice::<Value>(answer.body()) else {
        let what = "let the proxy pass everything below /_matrix/ on to the homeserver: what answers there is something \
                    else, such as a web page";
        fault(format!("{PATH} answered something that is no JSON object"), what);
        return None;
    };
    let read = Document { valid_until: document["valid_until_ts"].as_i64() };
    let name = document["server_name"].as_str().unwrap_or_default();
    if name != line.server {
        let what = format!(
            "the server that answers at this place is `{name}`: let DNS, the well-known file or the proxy lead {server} \
             to its own server, or, if that has no users yet, set its server name to {server}",
            server = line.server
        );
        fault(format!("it answers for `{name}`, not for {}", line.server), &what);
        return Some(read);
    }
    let raw = serde_json::from_slice::<Raw<ServerSigningKeys>>(answer.body());
    let keys = raw.map_err(|error| KeyError::Malformed(error.to_string()));
    findings.push(match keys.and_then(|raw| KeyAnswer::read(&raw, wall_clock())) {
        Ok(keys) => {
            let current = keys.keys.iter().filter(|(_, key)| key.expired_at.is_none()).map(|(id, _)| id.as_str());
            Finding::ok(STEP, format!("{}, signed by itself", current.collect::<Vec<_>>().join(", ")))
        }
        Err(KeyError::Signature { reason, .. }) => {
            let what = "let the homeserver itself answer: a copy of the document, or one whose server_name or keys were \
                        changed by hand, bears no valid signature; if the homeserver answers this, its signing key and \
                        what it publishes differ, so start it again with one key file";
            Finding::fault(STEP, format!("no key that it lists has signed the list: {reason}"), Remedy::theirs(what))
        }
        Err(error) => {
            let what = "let the homeserver itself answer, in a version that follows the Matrix specification";
            Finding::fault(STEP, error.to_string(), Remedy::theirs(what))
        }
    });
    Some(read)
}

fn by_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        404 | 405 => {
            "let the proxy pass everything below /_matrix/ on to the homeserver (nginx: `location /_matrix`), also on \
             this port, and see that federation is enabled there"
        }
        300..=399 => {
            "let this path answer itself: servers don't follow redirects here; delegate by the well-known file"
        }
        401 | 403 => {
            "let the proxy ask for no password and shut out no address below /_matrix/: servers prove themselves by \
                      signatures; see that federation is enabled there"
        }
        429 => "let the proxy limit servers less: keys are asked for rarely",
        502..=504 => "start the homeserver behind the proxy, or correct where the proxy passes requests on to",
        _ => "see what the homeserver and its proxy log of this request",
    }
}

/// How long the keys count.
pub(super) fn validity(document: &Document) -> Finding {
    const STEP: Step = Step::KeyValidity;
    let Some(valid_until) = document.valid_until else {
        let remedy = Remedy::theirs("let the homeserver say until when its keys count, in `valid_until_ts`");
        return Finding::fault(STEP, "the keys have no `valid_until_ts`", remedy);
    };
    let left = valid_until.saturating_sub(wall_clock());
    if left <= 0 {
        let remedy = "set both machines' clocks; if they are right, let the homeserver itself answer: it renews \
                      `valid_until_ts`, and a proxy's cache or a copy in a file doesn't";
        let seen = format!("the keys ended {} ago: nothing that they sign counts now", span(left.saturating_neg()));
        return Finding::fault(STEP, seen, Remedy::of_both(remedy));
    }
    if left < SOON {
        let remedy =
            "let the homeserver renew `valid_until_ts` earlier (a day is usual), and no proxy cache the answer";
        return Finding::warning(STEP, format!("the keys end in {}", span(left)), Remedy::theirs(remedy));
    }
    Finding::ok(STEP, format!("they count for another {}", span(left)))
}

// === the clock ===

fn clock(answer: &http::Response<Bytes>, began: Millis, took: Millis) -> Finding {
    const STEP: Step = Step::Clock;
    let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok()).and_then(millis);
    let Some(date) = date else { return Finding::skipped(STEP, "the answer had no date") };
    // It is told in whole seconds, cut off.
    let ahead = date + 500 - (began + took / 2);
    let skew = ahead.abs() - took / 2;
    if skew < SKEWED {
        return Finding::ok(STEP, "it has the same time as this machine, as far as can be seen");
    }
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let seen = format!("its clock is {} {direction} this machine's", span(ahead.abs()));
    let remedy = "compare this machine's clock with the time (timedatectl, chronyc tracking); if it is right, the peer's \
                  admin must set the other by NTP: keys and signed tokens end too early or count too late";
    Finding::fault_if(skew >= FAR_SKEWED, STEP, seen, Remedy::of_both(remedy))
}

fn millis(time: SystemTime) -> Option<Millis> {
    Millis::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}
