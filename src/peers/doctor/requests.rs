//! What only a server that is believed may ask, asked so that nothing comes of it.

use bytes::Bytes;
use http::Method;
use ruma::CanonicalJsonValue;
use serde_json::{Value, json};

use super::{Finding, Remedy, Step, line::Line};
use crate::{Failure, PeerError, client::refused, keys::wall_clock};

/// As large as a transaction gets: 50 events of 64 KiB. What a proxy allows by default is often 1 MiB.
const PADDING: usize = 50 * (64 << 10);
/// An ephemeral unit of no known type, which servers ignore.
const EDU_TYPE: &str = "chat.comity.doctor";
/// Below it, a user that nobody has.
const LOCALPART: &str = "comity-doctor";

/// Which software it says to be.
pub(super) async fn version(line: &Line) -> Finding {
    const STEP: Step = Step::Version;
    let path = "/_matrix/federation/v1/version";
    let remedy =
        |what: &str| Remedy::theirs(format!("{what}; federation works without, but those who look for faults miss it"));
    let answer = match line.ask(Method::GET, path, None).await {
        Ok(answer) => answer,
        Err(error) => {
            let seen = format!("{path}: {}", line.why(&error));
            return Finding::warning(STEP, seen, remedy("see what the homeserver and its proxy log of this request"));
        }
    };
    let said: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let word = |field: &str| said["server"][field].as_str().unwrap_or_default().to_owned();
    if answer.status().is_success() && !word("name").is_empty() {
        return Finding::ok(STEP, format!("{} {}", word("name"), word("version")));
    }
    let seen = format!("{path} answered {} and named no software", answer.status());
    Finding::warning(STEP, seen, remedy("let the proxy pass everything below /_matrix/ on to the homeserver"))
}

/// Whether it believes our signature: it is asked for the profile of a user that nobody has.
pub(super) async fn signed(line: &Line) -> Finding {
    const STEP: Step = Step::Signed;
    let path =
        format!("/_matrix/federation/v1/query/profile?user_id=%40{LOCALPART}%3A{}", query_part(line.server.as_str()));
    let us = line.key.server_name();
    let answer = match line.ask_signed(Method::GET, &path, None).await {
        Ok(answer) => answer,
        Err(error) => return unanswered(line, STEP, "a signed request", &error),
    };
    let (errcode, message) = said(line, &answer);
    let told = told("a signed request", &answer, &message);
    match answer.status().as_u16() {
        200..=299 => Finding::ok(STEP, "it believes our signature"),
        404 if errcode == "M_NOT_FOUND" => Finding::ok(STEP, "it believes our signature"),
        401 => Finding::fault(STEP, format!("it does not believe our signature: {message}"), disbelieved(line)),
        403 => {
            let remedy = Remedy::theirs(format!(
                "say whether {us} is blocked or limited at yours; some servers refuse profiles to everybody, and then \
                 this is no fault"
            ));
            Finding::warning(STEP, told, remedy)
        }
        429 => {
            Finding::warning(STEP, told, Remedy::ours("wait a few minutes, and examine it again: it limits requests"))
        }
        500..=599 => {
            Finding::fault(STEP, told, Remedy::theirs("see what the homeserver and its proxy log of this request"))
        }
        _ => {
            let remedy = "let the proxy pass everything below /_matrix/ on to the homeserver as it comes, with its query \
                          and its Authorization header";
            Finding::fault(STEP, told, Remedy::theirs(remedy))
        }
    }
}

/// Why a server may not believe us lies mostly with us.
fn disbelieved(line: &Line) -> Remedy {
    let us = line.key.server_name();
    Remedy::ours(format!(
        "see what `notary` says below: the peer must be able to fetch https://{us}/_matrix/key/v2/server as servers find \
         {us} (run `comity doctor {us}` elsewhere), with the key {} in it; after a lost or replaced key, restore the old \
         one from its copy or ask the peer's admin to forget what was known of {us}. If that is all right, the peer's \
         proxy changes requests (path, Host or Authorization header) on their way",
        line.key.key_id()
    ))
}

/// Whether it takes a transaction as large as they get: one with nothing in it that servers know.
pub(super) async fn body_size(line: &Line) -> Finding {
    const STEP: Step = Step::BodySize;
    let now = wall_clock();
    let path = format!("/_matrix/federation/v1/send/doctor{now}{}", rand::random::<u32>());
    let transaction = json!({
        "origin": line.key.server_name(),
        "origin_server_ts": now,
        "pdus": [],
        "edus": [{ "edu_type": EDU_TYPE, "content": { "padding": "x".repeat(PADDING) } }],
    });
    let Ok(transaction) = CanonicalJsonValue::try_from(transaction) else {
        return Finding::skipped(STEP, "it can't be made");
    };
    let what = format!("a transaction of {} KiB", PADDING >> 10);
    let larger = || {
        Remedy::theirs(
            "let the proxy before the homeserver take bodies of 25 MiB or more below /_matrix/ (nginx: \
             `client_max_body_size 50m;`): busy rooms and joins get stuck otherwise",
        )
    };
    let answer = match line.ask_signed(Method::PUT, &path, Some(&transaction)).await {
        Ok(answer) => answer,
        // Some proxies end the connection while the body is still on its way.
        Err(error) if error.failure() == Failure::Broken => {
            let seen = format!("{what}: the connection broke: {}", line.why(&error));
            return Finding::fault(STEP, seen, larger());
        }
        Err(error) => return unanswered(line, STEP, &what, &error),
    };
    let (_, message) = said(line, &answer);
    let told = told(&what, &answer, &message);
    match answer.status().as_u16() {
        200..=299 => Finding::ok(STEP, format!("it takes {what}")),
        413 => Finding::fault(STEP, told, larger()),
        401 => {
            Finding::skipped(STEP, "it does not believe our signature, so it can't be told whether it would take it")
        }
        403 => {
            let us = line.key.server_name();
            let remedy =
                Remedy::theirs(format!("say whether {us} is blocked at yours: transactions of it are refused"));
            Finding::fault(STEP, told, remedy)
        }
        429 => {
            Finding::warning(STEP, told, Remedy::ours("wait a few minutes, and examine it again: it limits requests"))
        }
        _ => {
            let remedy = "see what the homeserver and its proxy log of this request: a transaction without events and \
                          with an unknown ephemeral unit must be taken";
            Finding::fault(STEP, told, Remedy::theirs(remedy))
        }
    }
}

fn told(what: &str, answer: &http::Response<Bytes>, message: &str) -> String {
    let status = answer.status().to_string();
    // Without words of its own, a refusal is told by its status.
    let words = if message == status { String::new() } else { format!(": {message}") };
    format!("{what} was answered {status}{words}")
}

/// What a refusal says: an error code, and words.
fn said(line: &Line, answer: &http::Response<Bytes>) -> (String, String) {
    match refused(&line.server, answer) {
        PeerError::Refused { errcode, message, .. } => (errcode.unwrap_or_default(), message),
        _ => Default::default(),
    }
}

fn unanswered(line: &Line, step: Step, what: &str, error: &PeerError) -> Finding {
    let remedy = "see whether the homeserver is overloaded, and what it and its proxy log of this request; the peer may \
                  also wait for an answer of ours: see `notary`";
    Finding::fault(step, format!("{what}: {}", line.why(error)), Remedy::theirs(remedy))
}

/// A server's name inside a query.
fn query_part(name: &str) -> String {
    name.replace(':', "%3A").replace('[', "%5B").replace(']', "%5D")
}
