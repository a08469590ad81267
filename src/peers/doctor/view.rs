//! How the peer sees this server: whether it can have our keys, and what it lets us do.

use http::{Method, StatusCode};
use model::SigningKey;
use ruma::{CanonicalJsonValue, api::federation::discovery::ServerSigningKeys, serde::Raw};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Finding, Remedy, Step, line::Line};
use crate::keys::{KeyAnswer, span, wall_clock};

/// Keys fetched now count for a day, less the hour for which they are kept rendered: older copies won't do.
const FRESH: i64 = 23 * 60 * 60_000 - 60_000;
/// So much of what it says of us is shown.
const LARGEST_STATUS: usize = 16 << 10;

/// Asks the peer, as a notary, for the keys of this server: so it has to fetch them if it has none that are fresh.
pub(super) async fn notary(line: &Line) -> Finding {
    const STEP: Step = Step::Notary;
    #[derive(Deserialize)]
    struct Answer {
        server_keys: Vec<Raw<ServerSigningKeys>>,
    }
    let us = line.key.server_name();
    let wanted = wall_clock() + FRESH;
    let criteria = json!({ "minimum_valid_until_ts": wanted });
    let query = json!({ "server_keys": { us: { line.key.key_id().as_str(): criteria } } });
    let Ok(query) = CanonicalJsonValue::try_from(query) else { return Finding::skipped(STEP, "it can't be asked") };
    let answer = match line.ask(Method::POST, "/_matrix/key/v2/query", Some(&query)).await {
        Ok(answer) => answer,
        Err(error) => {
            let seen = format!("asked for our keys, it gave no answer: {}", line.why(&error));
            return Finding::warning(STEP, seen, reach_us(line, "it may be waiting for this server in vain"));
        }
    };
    if !answer.status().is_success() {
        return Finding::skipped(STEP, format!("it is no notary: it answered {}", answer.status()));
    }
    let Ok(Answer { server_keys }) = serde_json::from_slice(answer.body()) else {
        return Finding::skipped(STEP, "it is no notary: its answer lists no keys");
    };
    let now = wall_clock();
    let known = server_keys.iter().take(20).filter_map(|raw| KeyAnswer::read(raw, now).ok());
    let Some(known) = known.filter(|known| known.server == us).max_by_key(|known| known.valid_until) else {
        return Finding::fault(
            STEP,
            format!("it can't get the keys of {us}"),
            reach_us(line, "it can't reach this server"),
        );
    };
    if !lists(&known, &line.key) {
        let seen = format!("it knows keys of {us}, and {} as it is used now is not among them", line.key.key_id());
        let remedy = format!(
            "start this server again if its key was changed; see that no other server answers for {us}; after a lost key, \
             ask the peer's admin to forget what was known of {us}"
        );
        return Finding::fault(STEP, seen, Remedy::ours(remedy));
    }
    let left = known.valid_until - now;
    if left <= 0 {
        let seen = format!("the copy of our keys that it has ended {} ago", span(-left));
        return Finding::fault(STEP, seen, reach_us(line, "it got no newer one"));
    }
    if known.valid_until < wanted {
        let seen = format!("it has our key, but answered an old copy, which counts for another {}", span(left));
        return Finding::warning(STEP, seen, reach_us(line, "asked for a newer one, it may have tried in vain"));
    }
    Finding::ok(STEP, format!("it has our key {}, for another {}", line.key.key_id(), span(left)))
}

/// Whether our present key is in what somebody knows of us.
fn lists(known: &KeyAnswer, key: &SigningKey) -> bool {
    let found = known.keys.get(key.key_id().as_str());
    found.is_some_and(|found| found.expired_at.is_none() && found.public_key.as_bytes() == key.public_key())
}

fn reach_us(line: &Line, why: &str) -> Remedy {
    let us = line.key.server_name();
    Remedy::ours(format!(
        "{why}: see that this server runs, that {us} leads to it from outside (DNS, well-known file, port 8448 through \
         firewall and router), and that its certificate is valid: run `comity doctor {us}` on a machine elsewhere; if \
         all is well there, the peer's own way out is closed (its DNS, firewall or clock)"
    ))
}

/// Asks what the peer lets us do, where it has an answer to that.
pub(super) async fn peer_status(line: &Line) -> Finding {
    const STEP: Step = Step::PeerStatus;
    let none =
        |what: String| Finding::skipped(STEP, format!("{what}: it has no native federation API, or none for us"));
    let answer = match line.ask_signed(Method::GET, "/api/v1/federation/peer-status", None).await {
        Ok(answer) => answer,
        Err(error) => return none(line.why(&error)),
    };
    if answer.status() != StatusCode::OK || answer.body().len() > LARGEST_STATUS {
        return none(format!("it answered {}", answer.status()));
    }
    let Ok(status @ Value::Object(_)) = serde_json::from_slice::<Value>(answer.body()) else {
        return none("it answered something else".to_owned());
    };
    let level = ["level", "trust_level"].iter().find_map(|field| status[field].as_str());
    let finding = match level {
        Some("blocked") => {
            let remedy = Remedy::theirs(format!("unblock {} if it shall be talked to", line.key.server_name()));
            Finding::fault(STEP, "it has blocked this server", remedy)
        }
        Some(level) => Finding::ok(STEP, format!("it trusts this server at the level {level}")),
        None => Finding::ok(STEP, status.to_string()),
    };
    finding.with(status)
}
