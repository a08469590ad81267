//! Asking one of them.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::{counter, histogram};
use model::{
    Millis,
    gate::{Act, Proposal},
};
use peers::vault::Vault;
use reqwest::header;
use store::before_hooks::BeforeHookRow;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};
use url::Url;
use zeroize::Zeroizing;

use super::{
    OnFailure,
    breaker::{Breaker, Pass},
    words::{Decision, Failure, decision, question},
};
use crate::{
    now,
    webhooks::{SECRET, deliver::plainly, sign},
};

/// How many questions one is asked at once; more wait, as long as they would for an answer.
const AT_ONCE: usize = 32;
/// The largest answer: a content of 60 KiB, however it is written.
const LARGEST_ANSWER: usize = 256 << 10;

/// One that is asked, and how it is doing.
pub(super) struct Hook {
    pub(super) row: BeforeHookRow,
    pub(super) acts: Vec<Act>,
    pub(super) on_failure: OnFailure,
    deadline: Duration,
    /// Or why it can't be asked at all.
    target: Result<Target, String>,
    turns: Semaphore,
    health: Mutex<Health>,
}

struct Target {
    url: Url,
    secret: Zeroizing<String>,
}

#[derive(Default)]
struct Health {
    breaker: Breaker,
    failing_since: Option<Millis>,
    last_error: Option<String>,
}

/// How one is doing, for those who look after it.
pub(super) struct Condition {
    pub(super) failing_since: Option<Millis>,
    pub(super) last_error: Option<String>,
    pub(super) resting_until: Option<Millis>,
}

impl Hook {
    pub(super) fn new(row: BeforeHookRow, vault: &Vault) -> Self {
        // What another node knows, and this one doesn't, it can't ask about.
        let acts: Vec<serde_json::Value> = serde_json::from_str(&row.acts).unwrap_or_default();
        let acts = acts.into_iter().filter_map(|act| serde_json::from_value(act).ok()).collect();
        let target = Target::of(&row, vault);
        let health = Health { last_error: target.as_ref().err().cloned(), ..Health::default() };
        if let Err(error) = &target {
            warn!(webhook.id = row.id, error, "the webhook {} can't be asked", row.id);
        }
        Self {
            acts,
            on_failure: OnFailure::of(&row.on_failure),
            deadline: Duration::from_millis(u64::try_from(row.deadline_ms).unwrap_or_default()),
            target,
            turns: Semaphore::new(AT_ONCE),
            health: Mutex::new(health),
            row,
        }
    }

    /// Asks whether `proposal` may be done. `left`: there is no more time than this, however long it may take else.
    pub(super) async fn ask(
        &self,
        client: &reqwest::Client,
        id: &str,
        proposal: &Proposal<'_>,
        left: Duration,
    ) -> Result<Decision, Failure> {
        let (began, act, hook) = (Instant::now(), proposal.act.as_str(), &self.row.id);
        let answer = self.ask_if_well(client, id, proposal, left).await;
        let outcome = match &answer {
            Ok(decision) => decision.word(),
            Err(Failure::Resting) => "not_asked",
            Err(_) => "failed",
        };
        counter!("comity_before_hook_requests_total", "webhook" => hook.clone(), "act" => act, "outcome" => outcome)
            .increment(1);
        histogram!("comity_before_hook_seconds", "webhook" => hook.clone()).record(began.elapsed().as_secs_f64());
        match &answer {
            Ok(Decision::Allow) => debug!(webhook.id = hook, act, outcome, "the webhook {hook} was asked"),
            Ok(_) => info!(
                webhook.id = hook,
                act,
                outcome,
                question.id = id,
                "the webhook {hook} was asked before {act}: {outcome}"
            ),
            Err(failure) => {
                debug!(webhook.id = hook, act, outcome, question.id = id, %failure, "the webhook {hook} gave no answer");
            }
        }
        answer
    }

    async fn ask_if_well(
        &self,
        client: &reqwest::Client,
        id: &str,
        proposal: &Proposal<'_>,
        left: Duration,
    ) -> Result<Decision, Failure> {
        let target = self.target.as_ref().map_err(|error| Failure::Broken(error.clone()))?;
        if left.is_zero() {
            return Err(Failure::NoTime);
        }
        let pass = self.health().breaker.pass(Instant::now()).ok_or(Failure::Resting)?;
        let body = question(&self.row.id, id, now(), proposal);
        let asking = async {
            let _turn = self.turns.acquire().await.map_err(|_| Failure::Resting)?;
            target.post(client, body).await
        };
        let limit = self.deadline.min(left);
        let answer = match timeout(limit, asking).await {
            Ok(answer) => answer,
            // That others took the time says nothing of this one.
            Err(_) if limit < self.deadline => return Err(Failure::NoTime),
            Err(_) => Err(Failure::Late(self.deadline.as_millis())),
        };
        let answer = answer.and_then(|body| decision(&body, proposal));
        match &answer {
            Ok(_) => self.answered(None),
            // It is there, and answers: it need not be left alone.
            Err(Failure::Change(_)) => self.answered(answer.as_ref().err()),
            Err(failure) => self.failed(failure, pass),
        }
        answer
    }

    fn answered(&self, mistake: Option<&Failure>) {
        let mut health = self.health();
        health.breaker.answered();
        if health.failing_since.take().is_some() {
            info!(webhook.id = self.row.id, "the webhook {} answers again", self.row.id);
        }
        health.last_error = mistake.map(ToString::to_string);
    }

    fn failed(&self, failure: &Failure, pass: Pass) {
        let mut health = self.health();
        let id = &self.row.id;
        let without = match self.on_failure {
            OnFailure::Allow => "what it is asked about is done all the same",
            OnFailure::Refuse => "what it is asked about is not done",
        };
        if health.failing_since.is_none() {
            warn!(webhook.id = id, %failure, "the webhook {id} does not answer what it is asked; {without}");
        }
        health.failing_since.get_or_insert_with(now);
        health.last_error = Some(failure.to_string());
        if health.breaker.failed(pass, Instant::now()) {
            warn!(webhook.id = id, %failure, "the webhook {id} failed too often in a row and is not asked for a while; {without}");
        }
    }

    pub(super) fn condition(&self) -> Condition {
        let health = self.health();
        let until = health.breaker.until();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()).as_millis());
        Condition {
            failing_since: health.failing_since,
            last_error: health.last_error.clone(),
            resting_until: left.map(|left| now().saturating_add(Millis::try_from(left).unwrap_or(Millis::MAX))),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    fn of(row: &BeforeHookRow, vault: &Vault) -> Result<Self, String> {
        let url = Url::parse(&row.url).map_err(|error| error.to_string())?;
        let secret = vault.unseal(&row.id, SECRET, &row.secret).map_err(|error| error.to_string())?;
        Ok(Self { url, secret })
    }

    async fn post(&self, client: &reqwest::Client, body: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let unreachable = |error| Failure::Unreachable(plainly(error));
        let signature = sign::signature(&self.secret, now(), &body);
        let request = client.post(self.url.clone()).header(header::CONTENT_TYPE, "application/json");
        let request = request.header(sign::HEADER, signature).body(body);
        let mut answer = request.send().await.map_err(unreachable)?;
        if !answer.status().is_success() {
            return Err(Failure::Status(answer.status()));
        }
        let mut said = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
            if said.len() + piece.len() > LARGEST_ANSWER {
                return Err(Failure::TooLarge);
            }
            said.extend_from_slice(&piece);
        }
        Ok(said)
    }
}
