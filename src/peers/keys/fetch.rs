//! Learning keys: from memory, from the store, from the server whose they are, from notaries.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use metrics::counter;
use model::{
    Millis,
    peer::{Capability, Context, Fact},
};
use ruma::{
    OwnedServerName, OwnedServerSigningKeyId, ServerName,
    api::federation::discovery::{ServerSigningKeys, get_remote_server_keys_batch::v2 as query},
    serde::Raw,
};
use store::{
    Write,
    server_keys::{KeyAnswerRow, ServerKeyRow, put, put_answer},
};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    FETCHES, KeyError, KeyRing,
    answer::{KeyAnswer, LONGEST_VALIDITY},
    error::span,
    known::{KeySet, KeySets, Need, ServerKey, check_signatures},
};
use crate::{PeerError, TrustError};

/// How long a server may take to say what its keys are, the wait for our turn included.
const PATIENCE: Duration = Duration::from_secs(10);
/// A server is not asked again sooner than this, whatever it answered.
const SOONEST: Millis = 5_000;
/// Nor later than this, if it is needed: the ceiling of the back-off.
const LATEST: Millis = 2 * 60_000;
/// Notaries are not asked for the same server again sooner than this.
const NOTARIES_SOONEST: Millis = 60_000;
/// How many servers' keys one request to a notary asks for.
const SERVERS_A_QUERY: usize = 100;

/// How others are asked for keys.
pub(crate) trait Fetch: Send + Sync {
    /// `GET /_matrix/key/v2/server`.
    fn server_keys<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Raw<ServerSigningKeys>, PeerError>>;

    /// `POST /_matrix/key/v2/query`.
    fn query<'a>(
        &'a self,
        notary: &'a ServerName,
        request: query::Request,
    ) -> BoxFuture<'a, Result<Vec<Raw<ServerSigningKeys>>, PeerError>>;
}

/// What came of asking a server for its keys.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// When it may be asked again.
    next_at: Millis,
    /// How often it has failed in a row.
    failures: u32,
    /// What went wrong, or nothing.
    error: Option<Arc<str>>,
    /// How long ago the keys that it answered had ended.
    late_by: Option<Millis>,
    /// When notaries may be asked for it again.
    notaries_at: Millis,
}

/// Who says so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Origin,
    Notary,
}

impl KeyRing {
    /// The keys of all servers in `needs`, after whatever could be done so that they meet them.
    pub(super) async fn learn(&self, needs: &[Need]) -> Result<KeySets, store::Error> {
        let mut keys = self.known(needs.iter().map(|need| &*need.server)).await?;
        let unmet = |needs, keys: &_| {
            let mut servers = unmet(needs, keys);
            // Nobody knows ours better.
            servers.remove(self.shared.key.server_name());
            servers
        };
        if unmet(needs, &keys).is_empty() {
            return Ok(keys);
        }
        stream::iter(unmet(needs, &keys))
            .for_each_concurrent(FETCHES, |server| async move {
                self.ask_origin(&server).await;
            })
            .await;
        self.refresh(needs, &mut keys).await?;
        let still_unmet = unmet(needs, &keys);
        if !still_unmet.is_empty() && !self.shared.notaries.is_empty() {
            self.ask_notaries(still_unmet).await;
            self.refresh(needs, &mut keys).await?;
        }
        Ok(keys)
    }

    /// What is known of these servers, from memory or from the store.
    async fn known<'a>(&self, servers: impl Iterator<Item = &'a ServerName>) -> Result<KeySets, store::Error> {
        let mut found = KeySets::new();
        let mut missing = BTreeSet::new();
        for server in servers {
            if server == self.shared.key.server_name() {
                found.insert(server.to_owned(), self.shared.ours.clone());
            } else if let Some(keys) = self.shared.known.get(server) {
                found.insert(server.to_owned(), keys);
            } else {
                missing.insert(server);
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let missing: Vec<&ServerName> = missing.into_iter().collect();
        let mut stored: HashMap<OwnedServerName, KeySet> = HashMap::new();
        for row in self.shared.store.server_keys().of_servers(&missing).await? {
            if let Some(key) = ServerKey::from_row(&row) {
                stored.entry(row.server).or_default().insert(row.key_id, key);
            }
        }
        for server in missing {
            let keys = Arc::new(stored.remove(server).unwrap_or_default());
            // Somebody may have learnt more meanwhile.
            let keys = self.shared.known.get_or_insert_with(server, || Ok::<_, store::Error>(keys))?;
            found.insert(server.to_owned(), keys);
        }
        Ok(found)
    }

    async fn refresh(&self, needs: &[Need], keys: &mut KeySets) -> Result<(), store::Error> {
        keys.extend(self.known(unmet(needs, keys).iter().map(|server| &**server)).await?);
        Ok(())
    }

    // === the server itself ===

    /// The keys that `server` says to sign with now, by their ids, base64; whatever is remembered of it.
    pub(crate) async fn shown_by(&self, server: &ServerName) -> Result<BTreeMap<String, String>, PeerError> {
        Ok(self.told_by(server).await?.keys_in_use())
    }

    /// What `server` says of its keys now; nothing of it is remembered.
    pub(crate) async fn told_by(&self, server: &ServerName) -> Result<KeyAnswer, PeerError> {
        let malformed = |reason: String| PeerError::Malformed { server: server.to_owned(), reason };
        let asked = timeout(PATIENCE, self.shared.fetch.server_keys(server)).await;
        let raw = asked.map_err(|_| PeerError::Unreachable {
            server: server.to_owned(),
            failure: crate::Failure::Timeout,
            source: None,
        })??;
        let answer = KeyAnswer::read(&raw, self.now()).map_err(|error| malformed(error.to_string()))?;
        match answer.server == server {
            true => Ok(answer),
            false => Err(malformed(format!("it answered for {}", answer.server))),
        }
    }

    /// Asks a server for its keys, unless it was asked just now or failed to answer not long ago; of several who want
    /// that at once, one does.
    pub(super) async fn ask_origin(&self, server: &ServerName) -> Attempt {
        let now = self.now();
        let attempts = &self.shared.attempts;
        let before = attempts.get(server);
        attempts.remove_if(server, |attempt| attempt.next_at <= now);
        let asked = attempts.get_or_insert_async(server, async {
            Ok::<_, std::convert::Infallible>(self.attempt(server, before).await)
        });
        match asked.await {
            Ok(attempt) => attempt,
            Err(never) => match never {},
        }
    }

    async fn attempt(&self, server: &ServerName, before: Option<Attempt>) -> Attempt {
        let asked = timeout(PATIENCE, async {
            let _turn = self.shared.fetches.acquire().await;
            self.shared.fetch.server_keys(server).await
        });
        let answer = asked.await.map_err(|_| "it did not answer in time".to_owned());
        let now = self.now();
        let read = answer.and_then(|answer| answer.map_err(|error| error.to_string())).and_then(|raw| {
            let answer = KeyAnswer::read(&raw, now).map_err(|error| error.to_string())?;
            if answer.server == server { Ok(answer) } else { Err(format!("it answered for {}", answer.server)) }
        });
        let late_by = read.as_ref().ok().map(|answer| now - answer.valid_until).filter(|late| *late > 0);
        let done = match read {
            Ok(answer) => self.absorb(vec![answer], Source::Origin).await.map_err(|error| error.to_string()),
            Err(reason) => Err(reason),
        };
        let failures = if done.is_ok() { 0 } else { before.as_ref().map_or(0, |before| before.failures) + 1 };
        let outcome = if done.is_ok() { "ok" } else { "failed" };
        counter!("comity_federation_key_fetches_total", "outcome" => outcome).increment(1);
        if let Err(reason) = &done {
            debug!(server.name = %server, failures, "could not get the keys of {server}: {reason}");
        }
        let pause = (SOONEST << failures.min(16)).min(LATEST);
        Attempt {
            next_at: now + pause,
            failures,
            error: done.err().map(Into::into),
            late_by,
            notaries_at: before.map_or(Millis::MIN, |before| before.notaries_at),
        }
    }

    // === notaries ===

    /// Asks each notary for what the ones before it didn't know. Where somebody else does so already, waits for that.
    async fn ask_notaries(&self, servers: BTreeSet<OwnedServerName>) {
        let servers = servers.into_iter().filter(|server| !self.shared.notaries.contains(server));
        let (claim, others) = self.shared.under_way.claim(servers);
        self.ask_each_notary(&claim.servers).await;
        drop(claim);
        for mut ended in others {
            // It fails when whoever asks has done so.
            let _ = ended.changed().await;
        }
    }

    async fn ask_each_notary(&self, servers: &[OwnedServerName]) {
        let now = self.now();
        let attempts = &self.shared.attempts;
        let may_be_asked =
            |server: &&OwnedServerName| attempts.get(*server).is_none_or(|attempt| attempt.notaries_at <= now);
        let mut wanted: Vec<OwnedServerName> = servers.iter().filter(may_be_asked).cloned().collect();
        for server in &wanted {
            if let Some(mut attempt) = attempts.get(server) {
                attempt.notaries_at = now + NOTARIES_SOONEST;
                attempts.insert(server.clone(), attempt);
            }
        }
        for notary in &self.shared.notaries {
            if let Err(refused) = self.may_vouch(notary) {
                debug!(server.name = %notary, "the notary {notary} is not asked: {refused}");
                continue;
            }
            let mut still_wanted = Vec::new();
            for chunk in wanted.chunks(SERVERS_A_QUERY) {
                match timeout(PATIENCE, self.ask_notary(notary, chunk)).await {
                    Ok(Ok(found)) => still_wanted.extend(chunk.iter().filter(|it| !found.contains(*it)).cloned()),
                    Ok(Err(reason)) => {
                        debug!(server.name = %notary, "the notary {notary} was of no use: {reason}");
                        still_wanted.extend(chunk.iter().cloned());
                    }
                    Err(_) => still_wanted.extend(chunk.iter().cloned()),
                }
            }
            wanted = still_wanted;
            if wanted.is_empty() {
                return;
            }
        }
    }

    /// Whether a server that the configuration names as a notary is trusted to be one.
    fn may_vouch(&self, notary: &ServerName) -> Result<(), TrustError> {
        let context = Context::outbound().knowing(Fact::OptedIn, true);
        self.shared.trust.allow(notary, Capability::Notary, &context).map(drop)
    }

    /// Says in the log which notaries are not asked for want of trust, and what would change that. For the start of the server.
    pub fn warn_of_notaries(&self) {
        for notary in &self.shared.notaries {
            let Err(refused) = self.may_vouch(notary) else { continue };
            let (rule, level) = (refused.rule(), self.shared.trust.regard(notary).level);
            warn!(
                server.name = %notary, %rule,
                "{notary} is one of federation.trusted_key_servers, but is trusted too little to be asked for the keys of other \
                 servers ({rule}): it is not asked. If you trust it that far, run `comity peer set {notary} --level full \
                 --reason ...`, or, for its word on keys alone, `comity peer set {notary} --level {level} --grant \
                 notary=opt_in --reason ...`",
            );
        }
    }

    /// Answers whose keys the notary knew.
    async fn ask_notary(
        &self,
        notary: &ServerName,
        servers: &[OwnedServerName],
    ) -> Result<BTreeSet<OwnedServerName>, String> {
        let all_keys: BTreeMap<OwnedServerSigningKeyId, query::QueryCriteria> = BTreeMap::new();
        let wanted = servers.iter().map(|server| (server.clone(), all_keys.clone())).collect();
        let answers =
            self.shared.fetch.query(notary, query::Request::new(wanted)).await.map_err(|error| error.to_string())?;
        let now = self.now();
        let notary_keys = self.valid_now(notary).await?;
        let mut found = BTreeSet::new();
        let mut believed = Vec::new();
        for raw in answers.iter().take(SERVERS_A_QUERY * 4) {
            let checked = KeyAnswer::read(raw, now)
                .and_then(|answer| check_signatures(&answer.object, notary, &notary_keys).map(|()| answer));
            match checked {
                Ok(answer) if servers.contains(&answer.server) => {
                    found.insert(answer.server.clone());
                    believed.push(answer);
                }
                Ok(_) => {}
                Err(error) => {
                    debug!(server.name = %notary, "the notary {notary} answered something unbelievable: {error}")
                }
            }
        }
        self.absorb(believed, Source::Notary).await.map_err(|error| error.to_string())?;
        Ok(found)
    }

    /// The keys that a notary signs by; they are its own to tell.
    async fn valid_now(&self, notary: &ServerName) -> Result<ruma::signatures::PublicKeySet, String> {
        let now = self.now();
        let valid = async || -> Result<_, String> {
            let keys = self.known(std::iter::once(notary)).await.map_err(|error| error.to_string())?;
            let keys = keys.get(notary).into_iter().flat_map(|keys| keys.iter());
            let valid = keys.filter(|(_, key)| key.is_valid_at(now));
            Ok(valid.map(|(key_id, key)| (key_id.clone(), key.public_key.clone())).collect::<BTreeMap<_, _>>())
        };
        let keys = valid().await?;
        if !keys.is_empty() {
            return Ok(keys);
        }
        self.ask_origin(notary).await;
        valid().await
    }

    // === what is made of it ===

    /// Keeps what was said, in the store and then in memory.
    async fn absorb(&self, answers: Vec<KeyAnswer>, source: Source) -> Result<(), store::Error> {
        if answers.is_empty() {
            return Ok(());
        }
        let mut believed = Vec::with_capacity(answers.len());
        for answer in answers {
            if self.heeds_pins(&answer).await? {
                believed.push(answer);
            }
        }
        let answers = believed;
        let now = self.now();
        let known = self.known(answers.iter().map(|answer| &*answer.server)).await?;
        let mut write = Write::new();
        let mut merged: HashMap<OwnedServerName, KeySet> = HashMap::new();
        for answer in answers {
            let is_first = known.get(&answer.server).is_none_or(|keys| keys.is_empty());
            let keys = merged
                .entry(answer.server.clone())
                .or_insert_with(|| known.get(&answer.server).map(|keys| (**keys).clone()).unwrap_or_default());
            for (key_id, key) in answer.keys {
                if !replaces(&answer.server, &key_id, keys.get(&key_id), &key, source, now) {
                    continue;
                }
                put(&mut write, &row_of(&answer.server, &key_id, &key, now));
                keys.insert(key_id, key);
            }
            // What a notary remembers may be older than what its server said to us.
            if source == Source::Origin || is_first {
                let KeyAnswer { server, json, valid_until, .. } = answer;
                put_answer(&mut write, &KeyAnswerRow { server, json, valid_until, fetched_at: now });
            }
        }
        self.shared.store.commit(write).await?;
        for (server, keys) in merged {
            self.shared.known.insert(server, Arc::new(keys));
        }
        Ok(())
    }

    /// Why `need` isn't met.
    pub(super) fn explain(&self, need: &Need, keys: &KeySets) -> KeyError {
        let server = need.server.clone();
        let now = self.now();
        let attempt = self.shared.attempts.get(&need.server);
        let keys = keys.get(&need.server);
        let known = need.key_ids.iter().find_map(|key_id| Some((key_id, keys?.get(key_id)?)));
        if let Some((key_id, key)) = known {
            let reason = why_ended(key, need.at, now, attempt.as_ref().and_then(|attempt| attempt.late_by));
            return KeyError::Expired { server, key_id: key_id.clone(), reason };
        }
        let key_id = need.key_ids.first().cloned().unwrap_or_else(|| "ed25519:?".to_owned());
        let (reason, may_pass) = match attempt.and_then(|attempt| attempt.error) {
            Some(error) => (format!("asked for its keys, {error}"), true),
            None => ("its server does not list it".to_owned(), false),
        };
        KeyError::Unavailable { server, key_id, reason, may_pass }
    }
}

/// Which servers' keys don't do.
fn unmet(needs: &[Need], keys: &KeySets) -> BTreeSet<OwnedServerName> {
    let is_met = |need: &&Need| keys.get(&need.server).is_some_and(|keys| need.is_met_by(keys));
    needs.iter().filter(|need| !is_met(need)).map(|need| need.server.clone()).collect()
}

/// Whether what was said of a key goes before what is known. A server may say of its keys what it wants; a notary adds
/// what isn't known and what is newer, and changes no key.
fn replaces(
    server: &ServerName,
    key_id: &str,
    known: Option<&ServerKey>,
    said: &ServerKey,
    source: Source,
    now: Millis,
) -> bool {
    let Some(known) = known else { return true };
    let is_same = known.public_key == said.public_key;
    if !is_same {
        warn!(server.name = %server, "{server} has another key than before by the name of {key_id}");
    }
    source == Source::Origin || (is_same && !known.is_valid_at(now))
}

fn row_of(server: &ServerName, key_id: &str, key: &ServerKey, now: Millis) -> ServerKeyRow {
    ServerKeyRow {
        server: server.to_owned(),
        key_id: key_id.to_owned(),
        public_key: key.public_key.encode(),
        valid_until: key.valid_until,
        expired_at: key.expired_at,
        fetched_at: now,
    }
}

/// Names the clock that is probably wrong, if one is.
fn why_ended(key: &ServerKey, at: Millis, now: Millis, late_by: Option<Millis>) -> String {
    if at > now + LONGEST_VALIDITY {
        return format!("what it signed is dated {} ahead of this server's clock", span(at - now));
    }
    let ended = format!("it ended {} before it was used", span(at - key.ends_at()));
    match late_by {
        _ if key.expired_at.is_some() => format!("{ended}, says its server"),
        Some(late) => format!(
            "{ended}; the keys that its server answered had ended {} before: its clock or this server's is wrong, or \
             it no longer renews them",
            span(late)
        ),
        None => ended,
    }
}
