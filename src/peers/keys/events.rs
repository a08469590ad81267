//! Whether events were signed by whom they need to be signed by.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use model::Millis;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName,
    canonical_json::redact,
    room_version_rules::RoomVersionRules,
    signatures::{PublicKeyMap, VerificationError, Verified, required_server_signatures_to_verify_event, verify_event},
};

use super::{
    KeyError, KeyRing,
    known::{KeySets, Need, key_ids_of},
};

/// So many are checked where they are: some hundred microseconds.
const AT_ONCE: usize = 8;
/// The least that is worth another thread.
const SMALLEST_CHUNK: usize = 32;

type Checked = Result<CanonicalJsonObject, KeyError>;

impl KeyRing {
    /// Checks the hash and the signatures of events of a room that obeys `rules`; missing keys of all of them are fetched
    /// first, each once, side by side. Signatures are checked off the runtime when there are many.
    ///
    /// Answers each event as it may be believed, in order: itself, or, when its content is not what was hashed, its
    /// redacted form.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events>
    pub async fn check_events(&self, events: Vec<CanonicalJsonObject>, rules: &RoomVersionRules) -> Vec<Checked> {
        let needs: Vec<Result<Vec<Need>, KeyError>> = events.iter().map(|event| needs_of(event, rules)).collect();
        let keys = match self.learn(&summed_up(needs.iter().flatten().flatten())).await {
            Ok(keys) => keys,
            Err(error) => {
                let error = KeyError::from(error);
                return events.iter().map(|_| Err(error.clone())).collect();
            }
        };
        let work: Vec<_> = events.into_iter().zip(needs).collect();
        if work.len() <= AT_ONCE {
            return work.into_iter().map(|(event, needs)| self.check_event(event, needs, &keys, rules)).collect();
        }
        self.check_elsewhere(work, keys, rules.clone()).await
    }

    /// On as many threads as there are processors.
    async fn check_elsewhere(
        &self,
        mut work: Vec<(CanonicalJsonObject, Result<Vec<Need>, KeyError>)>,
        keys: KeySets,
        rules: RoomVersionRules,
    ) -> Vec<Checked> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let size = work.len().div_ceil(threads).max(SMALLEST_CHUNK);
        let mut chunks = Vec::with_capacity(threads);
        while !work.is_empty() {
            let rest = work.split_off(size.min(work.len()));
            let (chunk, ring, keys, rules) = (work, self.clone(), keys.clone(), rules.clone());
            let count = chunk.len();
            let checking = tokio::task::spawn_blocking(move || {
                chunk.into_iter().map(|(event, needs)| ring.check_event(event, needs, &keys, &rules)).collect()
            });
            chunks.push(async move {
                let failed = || Err(KeyError::Malformed("it could not be checked".to_owned()));
                checking.await.unwrap_or_else(|_| (0..count).map(|_| failed()).collect::<Vec<Checked>>())
            });
            work = rest;
        }
        join_all(chunks).await.into_iter().flatten().collect()
    }

    fn check_event(
        &self,
        event: CanonicalJsonObject,
        needs: Result<Vec<Need>, KeyError>,
        keys: &KeySets,
        rules: &RoomVersionRules,
    ) -> Checked {
        let needs = needs?;
        let mut valid = PublicKeyMap::new();
        for need in &needs {
            let keys_of_server = need.valid_among(keys);
            if keys_of_server.is_empty() {
                return Err(self.explain(need, keys));
            }
            valid.insert(need.server.to_string(), keys_of_server);
        }
        match verify_event(&valid, &event, rules) {
            Ok(Verified::All) => Ok(event),
            // Spec: "if the hash check fails, then it is redacted before being processed further".
            Ok(Verified::Signatures) => {
                redact(event, &rules.redaction, None).map_err(|error| KeyError::Malformed(error.to_string()))
            }
            Err(VerificationError::Json(error)) => Err(KeyError::Malformed(error.to_string())),
            Err(error) => Err(match needs.into_iter().next() {
                Some(need) => KeyError::Signature { server: need.server, reason: error.to_string() },
                None => KeyError::Malformed(error.to_string()),
            }),
        }
    }
}

/// Which keys an event needs, by what it says of itself.
fn needs_of(event: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Vec<Need>, KeyError> {
    let malformed = |error: VerificationError| KeyError::Malformed(error.to_string());
    let servers = required_server_signatures_to_verify_event(event, &rules.signatures).map_err(malformed)?;
    // Since room version 5 a key must have been valid when the event was made.
    let at = match event.get("origin_server_ts") {
        _ if !rules.enforce_key_validity => Millis::MIN,
        Some(CanonicalJsonValue::Integer(at)) => i64::from(*at),
        _ => return Err(KeyError::Malformed("`origin_server_ts` is not a time".to_owned())),
    };
    servers
        .into_iter()
        .map(|server| {
            let key_ids = key_ids_of(event, &server)?;
            Ok(Need { server, key_ids, at })
        })
        .collect()
}

/// The latest time for which each key is needed: what counts then counted before.
fn summed_up<'a>(needs: impl Iterator<Item = &'a Need>) -> Vec<Need> {
    let mut latest: BTreeMap<(&OwnedServerName, &[String]), Millis> = BTreeMap::new();
    for need in needs {
        let at = latest.entry((&need.server, &need.key_ids)).or_insert(need.at);
        *at = need.at.max(*at);
    }
    latest
        .into_iter()
        .map(|((server, key_ids), at)| Need { server: server.clone(), key_ids: key_ids.to_vec(), at })
        .collect()
}
