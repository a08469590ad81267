//! Keeping up with the lists of others.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, header};
use metrics::counter;
use model::{
    Millis,
    peer::{Capability, Direction},
};
use rand::RngExt as _;
use ruma::{OwnedServerName, ServerName};
use serde_json::json;
use store::{
    Write,
    federation_lists::{self as rows, Asked, RefusalRow, SubscriptionRow},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    ListError, ListFault, Lists, PATH, SubscriptionView, TRIES,
    document::{MAX_BYTES, SignedList},
    judge::{Known, Verdict, judge},
    subscribe::logged,
    view::difference,
};
use crate::{
    PeerError,
    client::{Asked as Request, collect, refused},
    trust::{Act, Author},
    x_matrix,
};

/// How often it is looked whether somebody is to be asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many are asked at once.
const AT_ONCE: usize = 4;
/// A publisher that doesn't answer is asked again after this time, or sooner if lists are refreshed more often.
const AFTER_SILENCE: Duration = Duration::from_secs(5 * 60);
/// No list is asked for less often, whatever the configuration says.
const SELDOMEST: Duration = Duration::from_hours(30 * 24);
/// How often it is looked whether our own list comes to its end.
const WARN_EVERY: Duration = Duration::from_secs(60 * 60);

impl Lists {
    /// Asks `publisher` for its list now. What can't be taken is an error, and changes nothing.
    pub async fn refresh(&self, publisher: &ServerName) -> Result<SubscriptionView, ListError> {
        let told = self.fetch(publisher).await;
        match self.take(publisher, told).await? {
            Ok(_) => self.show(publisher).await,
            Err(fault) => Err(ListError::Fault { publisher: publisher.to_owned(), fault }),
        }
    }

    /// Asks publishers when it is time to, until `stop` is cancelled.
    pub async fn tend(&self, stop: CancellationToken) {
        let mut warning = tokio::time::interval(WARN_EVERY);
        warning.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = warning.tick() => self.warn_of_the_end().await,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = self.ask_who_is_due() => {}
                    }
                }
            }
        }
    }

    async fn ask_who_is_due(&self) {
        if self.peers.trust().store().duties().of("lists").is_none() {
            return;
        }
        let lists = self.peers.trust().store().federation_lists();
        let due = match lists.due(crate::keys::wall_clock(), AT_ONCE as u32).await {
            Ok(due) => due,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "could not look up whose lists are to be asked for");
                return;
            }
        };
        stream::iter(due).for_each_concurrent(AT_ONCE, |publisher| async move { self.ask(&publisher).await }).await;
    }

    async fn ask(&self, publisher: &OwnedServerName) {
        let told = self.fetch(publisher).await;
        if let Err(error) = self.take(publisher, told).await {
            warn!(server.name = %publisher, error = &error as &dyn std::error::Error, "could not keep up with a list");
        }
    }

    /// What `publisher` answers, if that is a list at all. Takes `request_timeout` at most.
    pub(super) async fn fetch(&self, publisher: &ServerName) -> Result<SignedList, ListFault> {
        let peers = &self.peers;
        peers.trust().admit(publisher, Capability::Events, Direction::Out).map_err(PeerError::Trust)?;
        let ours = |error: String| PeerError::Configuration(error);
        let header = x_matrix::sign(&peers.shared.key, publisher, &Method::GET, PATH, None);
        let header = header.map_err(|error| ours(error.to_string()))?;
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, header)]);
        let request = Request { method: Method::GET, uri: PATH.to_owned(), headers, body: Bytes::new() };
        let asking = async {
            let (response, _turn) = peers.send(publisher, request).await?;
            match collect(MAX_BYTES, publisher, response).await {
                Ok(answer) => Ok(Some(answer)),
                // Nothing else is looked at while an answer is read.
                Err(PeerError::Malformed { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let answer = peers.within(peers.shared.config.request_timeout, publisher, asking).await?;
        let answer = answer.ok_or_else(|| ListFault::TooLarge(format!("more than {MAX_BYTES} bytes")))?;
        match answer.status().is_success() {
            true => SignedList::read(answer.body()),
            false => Err(refused(publisher, &answer).into()),
        }
    }

    /// Makes of an answer what is to be made of it, and notes what came of asking. Answers what it was, or why it was not taken.
    pub(super) async fn take(
        &self,
        publisher: &ServerName,
        told: Result<SignedList, ListFault>,
    ) -> Result<Result<Verdict, ListFault>, ListError> {
        let outcome = match told {
            Ok(told) => self.take_in(publisher, &told).await?,
            Err(fault) => Err(fault),
        };
        let row = self.peers.trust().store().federation_lists().find(publisher).await?;
        let row = row.ok_or_else(|| ListError::NotSubscribed(publisher.to_owned()))?;
        let now = crate::keys::wall_clock();
        self.tell(&row, outcome.as_ref());
        let fault = outcome.as_ref().err();
        let asked = Asked {
            checked_at: if fault.is_none() { now } else { row.asked.checked_at },
            next_at: now + self.pause(fault),
            refusal: fault.map(|fault| RefusalRow {
                at: now,
                code: fault.code().to_owned(),
                reason: fault.to_string(),
            }),
        };
        let mut write = Write::new();
        rows::asked(&mut write, publisher, &asked);
        self.peers.trust().store().commit(write).await?;
        Ok(outcome)
    }

    async fn take_in(
        &self,
        publisher: &ServerName,
        told: &SignedList,
    ) -> Result<Result<Verdict, ListFault>, ListError> {
        let mut has_asked_for_keys = false;
        let trust = self.peers.trust();
        let lists = trust.store().federation_lists();
        let author = Author { actor: "federation lists".to_owned(), reason: "its publisher has signed it".to_owned() };
        for _ in 0..TRIES {
            let turn = trust.turn().await?;
            let row = lists.find(publisher).await?;
            let row = row.ok_or_else(|| ListError::NotSubscribed(publisher.to_owned()))?;
            let pins: BTreeMap<String, String> = serde_json::from_str(&row.pins).unwrap_or_default();
            match judge(&Known::of(&row, &pins), told, turn.now) {
                Ok(Verdict::Newer) => {}
                // Perhaps it has changed its key; then the old one has signed that.
                Err(ListFault::WrongKey(_)) if !has_asked_for_keys => {
                    has_asked_for_keys = true;
                    self.follow_rotation(publisher).await?;
                    continue;
                }
                judged => return Ok(judged),
            }
            let list = &told.list;
            let before = lists.document(publisher).await?.unwrap_or_default();
            let before = SignedList::read(before.as_bytes()).map(|signed| signed.list.entries).unwrap_or_default();
            let after = SubscriptionRow {
                version: list.version,
                digest: told.digest.clone(),
                expires_at: list.expires_at,
                taken_at: turn.now,
                closed_at: None,
                revision: turn.number(),
                changed_by: author.actor.clone(),
                changed_at: turn.now,
                ..row.clone()
            };
            let mut write = Write::new();
            rows::put(&mut write, &after);
            rows::put_document(&mut write, publisher, &told.to_json());
            let mut logged_after = logged(&after);
            logged_after["changes"] = difference(&before, &list.entries);
            let act = Act {
                action: "list.taken",
                subject: publisher.as_str(),
                author: &author,
                before: Some(logged(&row).to_string()),
                after: Some(logged_after.to_string()),
            };
            if trust.record(turn, write, act).await? {
                let servers = list.entries.len();
                info!(server.name = %publisher, version = list.version, servers, "took a new list of {publisher}");
                return Ok(Ok(Verdict::Newer));
            }
        }
        Err(store::Error::Conflict.into())
    }

    /// Moves the pins of a publisher to the keys that it has now, if one of the old ones has signed these.
    async fn follow_rotation(&self, publisher: &ServerName) -> Result<(), ListError> {
        let answer = match self.peers.keys().told_by(publisher).await {
            Ok(answer) => answer,
            Err(error) => {
                debug!(server.name = %publisher, error = &error as &dyn std::error::Error, "could not get its keys");
                return Ok(());
            }
        };
        let trust = self.peers.trust();
        let author =
            Author { actor: "federation lists".to_owned(), reason: "a pinned key has signed the new ones".to_owned() };
        for _ in 0..TRIES {
            let turn = trust.turn().await?;
            let row = trust.store().federation_lists().find(publisher).await?;
            let row = row.ok_or_else(|| ListError::NotSubscribed(publisher.to_owned()))?;
            let pins: BTreeMap<String, String> = serde_json::from_str(&row.pins).unwrap_or_default();
            let keys = answer.keys_in_use();
            if !answer.is_signed_by_one_of(&pins) || keys == pins {
                return Ok(());
            }
            let after = SubscriptionRow {
                pins: serde_json::to_string(&keys).expect("keys are JSON"),
                revision: turn.number(),
                changed_by: author.actor.clone(),
                changed_at: turn.now,
                ..row.clone()
            };
            let mut write = Write::new();
            rows::put(&mut write, &after);
            let act = Act {
                action: "list.keys_rotated",
                subject: publisher.as_str(),
                author: &author,
                before: Some(json!(pins).to_string()),
                after: Some(json!(keys).to_string()),
            };
            if trust.record(turn, write, act).await? {
                info!(server.name = %publisher, "{publisher} has changed its keys, and a pinned one has signed that");
                return Ok(());
            }
        }
        Err(store::Error::Conflict.into())
    }

    /// Counts what came of asking; says so in the log where it is something else than the last time.
    fn tell(&self, row: &SubscriptionRow, outcome: Result<&Verdict, &ListFault>) {
        let publisher = &row.publisher;
        let last = row.asked.refusal.as_ref().map(|refusal| refusal.code.as_str());
        let word = outcome.map_or_else(|fault| fault.code(), |_| "ok");
        counter!("comity_federation_list_fetches_total", "outcome" => word).increment(1);
        match outcome {
            Ok(_) if last.is_some() => {
                info!(server.name = %publisher, version = row.version, "the list of {publisher} can be taken again");
            }
            Ok(_) => debug!(server.name = %publisher, version = row.version, "the list of {publisher} is up to date"),
            Err(fault) if last == Some(fault.code()) => {
                debug!(server.name = %publisher, code = fault.code(), "the list of {publisher} was not taken: {fault}");
            }
            Err(fault) => {
                if fault.is_suspicious() {
                    counter!("comity_federation_list_alarms_total", "code" => fault.code()).increment(1);
                }
                warn!(server.name = %publisher, code = fault.code(),
                    "the list of {publisher} was not taken, and version {} goes on: {fault}", row.version);
            }
        }
    }

    /// How long a publisher is left alone after what came of asking it, in milliseconds.
    pub(super) fn pause(&self, fault: Option<&ListFault>) -> Millis {
        let refresh = self.peers.shared.config.list_refresh.min(SELDOMEST);
        let pause = match fault {
            Some(fault) if fault.may_pass() => refresh.min(AFTER_SILENCE),
            _ => refresh,
        };
        // Not all who go by a list ask for it at the same moment.
        let pause = pause.mul_f64(rand::rng().random_range(0.9..1.1));
        Millis::try_from(pause.as_millis()).unwrap_or(Millis::MAX / 2)
    }

    /// Reminds of publishing again: others stop going by our list when it ends.
    async fn warn_of_the_end(&self) {
        let Ok(Some(row)) = self.peers.trust().store().federation_lists().published().await else { return };
        let (lifetime, left) = (row.expires_at - row.issued_at, row.expires_at - crate::keys::wall_clock());
        let is_empty = row.entries == "{}";
        if left < lifetime / 4 && !is_empty {
            let left = crate::keys::span(left.max(0));
            warn!(
                version = row.version,
                "the list that this server publishes is good for {left} more: publish it again"
            );
        }
    }
}
