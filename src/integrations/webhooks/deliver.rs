//! Telling one address.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fabric::bus::{Envelope, Message, matches};
use futures_util::future::BoxFuture;
use metrics::counter;
use reqwest::{StatusCode, header};
use serde::Serialize;
use store::{
    Write,
    webhooks::{self, DeadLetterRow, WebhookRow},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;
use zeroize::Zeroizing;

use super::{SECRET, WebhookError, Webhooks, follower_of, sign};
use crate::{
    follow::{FollowError, Follower, while_on_duty},
    now,
};

/// How many messages one request holds at most, and about how many bytes.
const AT_ONCE: usize = 100;
const BYTES: usize = 1 << 20;
/// How long an address may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The first wait after a failure; each in a row doubles it.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// After so many attempts, which take an hour and a half, a request is given up. One that is refused as wrong is given up sooner.
const ATTEMPTS: u32 = 25;
const ATTEMPTS_IF_REFUSED: u32 = 5;

/// Tells one address, one request after the other.
pub(super) struct Worker {
    hooks: Webhooks,
    row: WebhookRow,
    target: Arc<Target>,
}

struct Target {
    id: String,
    url: Url,
    patterns: Vec<String>,
    secret: Zeroizing<String>,
    /// How often in a row what is next was not taken.
    failures: Mutex<u32>,
}

/// The body of a request.
#[derive(Serialize)]
struct Body<'a> {
    webhook: &'a str,
    messages: Vec<Told<'a>>,
}

#[derive(Serialize)]
struct Told<'a> {
    routing_key: String,
    #[serde(flatten)]
    envelope: &'a Envelope,
}

/// Why an address did not take something.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("status {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Unreachable(String),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Worker {
    pub(super) fn new(hooks: Webhooks, row: &WebhookRow) -> Result<Self, WebhookError> {
        let field = |field, wrong: String| WebhookError::Field { field, wrong };
        let url = Url::parse(&row.url).map_err(|error| field("url", error.to_string()))?;
        let patterns = serde_json::from_str(&row.patterns).map_err(|error| field("keys", error.to_string()))?;
        let secret = hooks.shared.vault.unseal(&row.id, SECRET, &row.secret)?;
        let target = Arc::new(Target { id: row.id.clone(), url, patterns, secret, failures: Mutex::default() });
        Ok(Self { hooks, row: row.clone(), target })
    }

    pub(super) async fn run(self, ends: CancellationToken) {
        let name = follower_of(&self.row.id);
        let follow = || -> BoxFuture<'_, ()> { Box::pin(self.follow()) };
        tokio::select! {
            () = ends.cancelled() => {}
            () = while_on_duty(&self.hooks.shared.store, &name, &follow) => {}
        }
    }

    async fn follow(&self) {
        let mut follower = loop {
            match self.begin().await {
                Ok(follower) => break follower,
                Err(error) => self.failed(&NotTaken::Store(error)).await,
            }
        };
        let (hooks, target) = (self.hooks.clone(), self.target.clone());
        let tell = move |messages: Vec<Message>| -> BoxFuture<'static, Result<(), NotTaken>> {
            let (hooks, target) = (hooks.clone(), target.clone());
            Box::pin(async move { target.tell(&hooks, messages).await })
        };
        loop {
            let passed = follower.pass(&tell).await;
            self.hooks.progress().entry(self.row.id.clone()).or_default().at = follower.at();
            match passed {
                Ok(()) => {}
                Err(FollowError::Told(error)) => self.failed(&error).await,
                Err(FollowError::Store(error)) => self.failed(&NotTaken::Store(error)).await,
            }
        }
    }

    async fn begin(&self) -> Result<Follower, store::Error> {
        let name = follower_of(&self.row.id);
        let hooks = &self.hooks.shared;
        if let Some(position) = self.row.replay_from {
            let mut write = Write::new();
            webhooks::begin_replay(&mut write, &self.row.id, &name, position, now());
            hooks.store.commit(write).await?;
        }
        let follower = Follower::begin(hooks.stream.clone(), name.into(), AT_ONCE).await?;
        self.hooks.progress().entry(self.row.id.clone()).or_default().at = follower.at();
        Ok(follower)
    }

    /// Notes it, and waits before it is tried again.
    async fn failed(&self, error: &NotTaken) {
        let failures = self.target.failures();
        {
            let mut progress = self.hooks.progress();
            let progress = progress.entry(self.row.id.clone()).or_default();
            if progress.failing_since.is_none() {
                warn!(webhook.id = self.row.id, %error, "the webhook {} does not take what it is told", self.row.id);
            }
            progress.failing_since.get_or_insert_with(now);
            progress.last_error = Some(error.to_string());
        }
        let wait = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
        sleep(wait.mul_f64(0.75 + 0.5 * rand::random::<f64>())).await;
    }
}

impl Target {
    fn failures(&self) -> u32 {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_failures(&self, failures: u32) {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = failures;
    }

    /// Tells what of `messages` the address wants. Ok: it took them, or they were given up and kept.
    async fn tell(&self, hooks: &Webhooks, mut messages: Vec<Message>) -> Result<(), NotTaken> {
        messages.retain(|message| {
            let key = message.key.routing_key();
            self.patterns.iter().any(|pattern| matches(pattern, &key))
        });
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let (now_told, later) = rest.split_at(fitting(rest));
            rest = later;
            match self.post(hooks, now_told).await {
                Ok(()) => self.took(hooks),
                Err(NotTaken::Status(StatusCode::GONE)) => return self.stop(hooks).await,
                Err(error) => {
                    let failures = self.failures() + 1;
                    self.set_failures(failures);
                    counter!("comity_webhook_requests_total", "outcome" => "failed").increment(1);
                    let most = if is_refusal(&error) { ATTEMPTS_IF_REFUSED } else { ATTEMPTS };
                    if failures < most {
                        return Err(error);
                    }
                    self.bury(hooks, now_told, &error).await?;
                    self.set_failures(0);
                }
            }
        }
        Ok(())
    }

    async fn post(&self, hooks: &Webhooks, messages: &[Message]) -> Result<(), NotTaken> {
        let told = |message: &'_ Message| message.key.routing_key();
        let messages = messages.iter().map(|message| Told { routing_key: told(message), envelope: &message.envelope });
        let body = Body { webhook: &self.id, messages: messages.collect() };
        let body = serde_json::to_vec(&body).expect("envelopes are JSON");
        let signature = sign::signature(&self.secret, now(), &body);
        let request = hooks.shared.client.post(self.url.clone()).timeout(TIMEOUT);
        let request = request.header(header::CONTENT_TYPE, "application/json").header(sign::HEADER, signature);
        let answer = request.body(body).send().await.map_err(|error| NotTaken::Unreachable(plainly(error)))?;
        // What it says besides is not read.
        if answer.status().is_success() { Ok(()) } else { Err(NotTaken::Status(answer.status())) }
    }

    fn took(&self, hooks: &Webhooks) {
        self.set_failures(0);
        counter!("comity_webhook_requests_total", "outcome" => "taken").increment(1);
        let mut progress = hooks.progress();
        let progress = progress.entry(self.id.clone()).or_default();
        if progress.failing_since.take().is_some() {
            info!(webhook.id = self.id, "the webhook {} takes what it is told again", self.id);
        }
        progress.last_error = None;
    }

    /// It said that it wants nothing any more.
    async fn stop(&self, hooks: &Webhooks) -> Result<(), NotTaken> {
        info!(webhook.id = self.id, "the webhook {} wants to be told nothing any more", self.id);
        let mut write = Write::new();
        webhooks::stop(&mut write, &self.id, "it answered 410 Gone", now());
        hooks.shared.store.commit(write).await?;
        hooks.shared.changed.notify_one();
        Err(NotTaken::Status(StatusCode::GONE))
    }

    async fn bury(&self, hooks: &Webhooks, messages: &[Message], error: &NotTaken) -> Result<(), NotTaken> {
        let (reason, count) = (error.to_string(), messages.len());
        warn!(webhook.id = self.id, reason, "gave up telling the webhook {} {count} messages; they are kept", self.id);
        counter!("comity_webhook_dead_letters_total").increment(count as u64);
        let mut write = Write::new();
        for message in messages {
            let letter = DeadLetterRow {
                message_id: message.envelope.id.clone(),
                routing_key: message.key.routing_key(),
                envelope: serde_json::to_string(&message.envelope).expect("an envelope is JSON"),
                reason: reason.clone(),
                at: now(),
            };
            webhooks::bury(&mut write, &self.id, &letter);
        }
        hooks.shared.store.commit(write).await?;
        Ok(())
    }
}

/// How many of `messages` one request holds; at least one.
fn fitting(messages: &[Message]) -> usize {
    let mut bytes = 0;
    let count = messages.iter().take_while(|message| {
        bytes += message.envelope.data.get().len() + 300;
        bytes <= BYTES
    });
    count.count().max(1)
}

/// What is wrong with the request will be wrong with it again.
fn is_refusal(error: &NotTaken) -> bool {
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    matches!(error, NotTaken::Status(status) if status.is_client_error() && !passing.contains(status))
}

/// The reason behind an error, without the URL, in which there may be a secret.
pub(crate) fn plainly(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut reason: &dyn std::error::Error = &error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    if error.is_timeout() { "it did not answer in time".to_owned() } else { reason.to_string() }
}
