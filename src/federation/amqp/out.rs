//! Which way a transaction goes, and what came of it.
//!
//! What became of a transaction over the broker is told as if it had gone over HTTPS, so that whoever sends it does the right thing:
//! no broker has it, so it did not leave (`connect`); the broker did not confirm it, or nobody answered, so that it may have arrived,
//! and the same one is sent again under its id (`broken`, `timeout`); or what the peer said.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fabric::line::PublishError;
use metrics::{counter, histogram};
use model::peer::{Capability, Context, Direction};
use peers::{Failure, PeerError, trust::Transport};
use ruma::{
    ServerName,
    api::federation::transactions::send_transaction_message::v1::{Request, Response},
};
use tracing::{debug, info};

use super::{
    Shared,
    auto::Plan,
    bodies::Sent,
    envelope::{Kind, LIFETIME, Letter},
    line::{PeerLine, Waiting},
    pending::Ask,
};
use crate::now;

/// How long HTTPS may take where there is another way.
const HTTPS_PATIENCE: Duration = Duration::from_secs(8);
/// How long the broker may take where there is another way.
const AMQP_PATIENCE: Duration = Duration::from_secs(20);

impl Shared {
    /// Sends a transaction the way that the peer's row says.
    pub(super) async fn carry(
        self: Arc<Self>,
        destination: &ServerName,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, PeerError> {
        let trust = self.peers.trust();
        match trust.transport(destination) {
            Transport::Https => self.over_https(destination, request, timeout).await,
            Transport::Amqp => {
                trust.allow(destination, Capability::Broadcasts, &Context::outbound())?;
                if self.broker.is_none() {
                    let problem = format!("the transport of {destination} is `amqp`, and `[bus] url` is not set");
                    return Err(PeerError::Configuration(problem));
                }
                let Some(line) = self.line(destination) else {
                    let reason = "the line to it over the broker is not there";
                    return Err(unreachable(destination, Failure::Connect, Some(reason.into())));
                };
                self.over_amqp(&line, &request, timeout).await
            }
            Transport::Auto => match self.line(destination) {
                Some(line) if trust.may_carry(destination, Direction::Out) => {
                    self.either_way(line, request, timeout).await
                }
                _ => self.over_https(destination, request, timeout).await,
            },
        }
    }

    async fn either_way(
        self: &Arc<Self>,
        line: Arc<PeerLine>,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, PeerError> {
        let began = Instant::now();
        let destination = line.peer.clone();
        let plan = line.auto().plan(line.wire.is_up(), began);
        match plan {
            Plan::Https => {
                let answer = self.over_https(&destination, request, timeout).await;
                note_https(&line, &answer);
                answer
            }
            Plan::Amqp { probe } => {
                if probe {
                    self.probe(&line, &request, timeout);
                }
                let answer = self.over_amqp(&line, &request, timeout.min(AMQP_PATIENCE)).await;
                line.auto().amqp(answer.as_ref().map_or_else(says_something, |_| true), Instant::now());
                answer
            }
            Plan::HttpsFirst => {
                let patience = timeout.min(HTTPS_PATIENCE);
                let first = self.over_https(&destination, request.clone(), patience).await;
                note_https(&line, &first);
                if first.is_ok() {
                    // An answer to an attempt before this one is of no interest any more.
                    line.pending().forget(request.transaction_id.as_str());
                }
                let failure = match first {
                    Err(error) if is_no_way(&error) => error,
                    answer => return answer,
                };
                let left = timeout.saturating_sub(began.elapsed()).min(AMQP_PATIENCE);
                let second = self.over_amqp(&line, &request, left).await;
                line.auto().amqp(second.as_ref().map_or_else(says_something, |_| true), Instant::now());
                match second {
                    // It has not left by this way, but perhaps by the other.
                    Err(PeerError::Unreachable { failure: Failure::Connect, .. }) => Err(failure),
                    answer => answer,
                }
            }
        }
    }

    /// Looks, beside the broker, whether HTTPS works again. The transaction takes effect once.
    fn probe(self: &Arc<Self>, line: &Arc<PeerLine>, request: &Request, timeout: Duration) {
        let (shared, line, request) = (self.clone(), line.clone(), request.clone());
        tokio::spawn(async move {
            let id = request.transaction_id.to_string();
            let answer = shared.over_https(&line.peer, request, timeout.min(HTTPS_PATIENCE)).await;
            note_https(&line, &answer);
            if let Ok(response) = answer {
                // Whoever waits for the broker to bring the answer has it now.
                line.pending().answered(&id, response.pdus.into(), Instant::now());
            }
        });
    }

    async fn over_https(
        &self,
        destination: &ServerName,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, PeerError> {
        let began = Instant::now();
        let answer = self.peers.ask_within(timeout, destination, request).await;
        count("https", began, &answer);
        answer
    }

    async fn over_amqp(&self, line: &PeerLine, request: &Request, timeout: Duration) -> Result<Response, PeerError> {
        let began = Instant::now();
        // As over HTTPS, whatever else the peer is trusted with.
        self.peers.trust().admit(&line.peer, Capability::Events, Direction::Out)?;
        let answer = self.exchange(line, request, timeout).await;
        line.note_outcome("amqp", &answer);
        count("amqp", began, &answer);
        answer
    }

    async fn exchange(&self, line: &PeerLine, request: &Request, timeout: Duration) -> Result<Response, PeerError> {
        let (peer, id) = (&line.peer, request.transaction_id.as_str());
        let began = Instant::now();
        let asked = line.pending().ask(id, began);
        let (answer, publish) = match asked {
            Ask::Answered(response) => return response.read(peer),
            Ask::Wait { answer, publish } => (answer, publish),
        };
        let _waiting = Waiting::begin();
        if publish {
            if let Err(error) = self.publish(line, request).await {
                line.pending().forget(id);
                return Err(error);
            }
            line.pending().published(id, Instant::now());
        }
        match tokio::time::timeout(timeout.saturating_sub(began.elapsed()), answer).await {
            Ok(Ok(response)) => response.read(peer),
            Ok(Err(_)) => Err(unreachable(peer, Failure::Timeout, Some("it was crowded out by others".into()))),
            Err(_) => {
                debug!(destination = %peer, txn.id = id, "no answer of {peer} came over the broker yet");
                Err(unreachable(peer, Failure::Timeout, Some("no answer came over the broker".into())))
            }
        }
    }

    async fn publish(&self, line: &PeerLine, request: &Request) -> Result<(), PeerError> {
        let Request { transaction_id, origin_server_ts, pdus, edus, .. } = request;
        let body = Sent { edus, origin_server_ts: origin_server_ts.get().into(), pdus };
        let letter =
            Letter { kind: Kind::Transaction, destination: &line.peer, transaction_id: transaction_id.as_str() };
        let envelope = letter.seal(&body, &self.key, now()).map_err(|error| {
            PeerError::Configuration(format!("the transaction can't be put into an envelope: {error}"))
        })?;
        line.wire.publish(Kind::Transaction.as_str(), &envelope, LIFETIME).await.map_err(|error| {
            let failure = match error {
                PublishError::Kept(_) => Failure::Connect,
                PublishError::Unsure(_) => Failure::Broken,
            };
            unreachable(&line.peer, failure, Some(error.into()))
        })?;
        line.note_sent();
        Ok(())
    }
}

/// What came of HTTPS where there is another way.
fn note_https(line: &PeerLine, answer: &Result<Response, PeerError>) {
    line.note_outcome("https", answer);
    let worked = !answer.as_ref().err().is_some_and(is_no_way);
    if line.auto().https(worked, Instant::now()) {
        let peer = &line.peer;
        match worked {
            true => info!(destination = %peer, "transactions go to {peer} over HTTPS again"),
            false => info!(destination = %peer, "HTTPS to {peer} fails: transactions go over the broker if they can"),
        }
    }
}

/// Whether HTTPS is no way to the peer now, as far as this shows.
fn is_no_way(error: &PeerError) -> bool {
    match error {
        PeerError::Unresolved { .. } => true,
        PeerError::Unreachable { failure, .. } => *failure != Failure::Ours,
        // What stands before the peer says that it isn't there.
        PeerError::Refused { status, .. } => matches!(status, 502 | 504),
        _ => false,
    }
}

/// Whether the broker has brought something, if only a refusal.
fn says_something(error: &PeerError) -> bool {
    matches!(error, PeerError::Refused { .. })
}

fn count(transport: &'static str, began: Instant, answer: &Result<Response, PeerError>) {
    let outcome = answer.as_ref().map_or_else(|error| error.failure().word(), |_| "ok");
    counter!("comity_federation_sent_total", "transport" => transport, "outcome" => outcome).increment(1);
    histogram!("comity_federation_sent_seconds", "transport" => transport).record(began.elapsed().as_secs_f64());
}

fn unreachable(
    server: &ServerName,
    failure: Failure,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
) -> PeerError {
    PeerError::Unreachable { server: server.to_owned(), failure, source }
}
