//! What a peer has sent over the broker.

use std::{sync::Arc, time::Duration};

use fabric::line::{Message, PublishError, Verdict};
use model::{
    Refusal,
    peer::{Capability, Context, Direction},
};
use peers::TrustError;
use tracing::{debug, warn};

use super::{
    Shared,
    bodies::{Came, ResponseBody},
    envelope::{Envelope, Kind, LIFETIME, Letter, Refused},
    line::PeerLine,
};
use crate::{InboundError, Incoming, now};

/// What fails for a moment is tried again after so long, each time.
const AGAIN: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// Why something was refused is told in so many characters.
const MOST_DETAIL: usize = 300;
/// What trust says of a transaction over HTTPS it says of it here.
const PATH: &str = "/_matrix/federation/v1/send/amqp";

/// Takes what comes from one peer.
pub(super) struct Inward {
    shared: Arc<Shared>,
    line: Arc<PeerLine>,
}

impl Inward {
    pub(super) fn new(shared: Arc<Shared>, line: Arc<PeerLine>) -> Self {
        Self { shared, line }
    }

    /// What becomes of a message.
    pub(super) async fn handle(&self, message: Message) -> Verdict {
        if message.is_copy {
            self.hear(&message).await;
            return Verdict::Taken;
        }
        match self.take(&message).await {
            Ok(verdict) => verdict,
            Err(Refused { reason, detail, .. }) => {
                // Parts of it are the sender's words.
                let detail: String = detail.chars().take(MOST_DETAIL).collect();
                self.line.note_refused(reason, &detail);
                self.shared.peers.note_refusal(Some(&self.line.peer), reason, &detail);
                Verdict::Dead { reason, detail }
            }
        }
    }

    async fn take(&self, message: &Message) -> Result<Verdict, Refused> {
        let peers = &self.shared.peers;
        let envelope = self.open(message).await?;
        let (kind, sent_at) = (envelope.kind, envelope.sent_at);
        let key = (kind, envelope.transaction_id.clone(), sent_at);
        // A link may bring a thing twice, and so may whoever has seen it; what is asked again comes in another envelope.
        if !message.redelivered && self.line.seen.get(&key).is_some() {
            return Err(Refused::new("replayed", "the very same envelope was taken before"));
        }
        let untrusted = |error: TrustError| Refused::new("untrusted", error.to_string());
        peers.trust().allow(&self.line.peer, Capability::Broadcasts, &Context::inbound()).map_err(untrusted)?;
        self.line.note_received(kind);
        let verdict = match kind {
            Kind::Response => {
                self.line.answered(&envelope.transaction_id, envelope.content()?, sent_at);
                Verdict::Taken
            }
            Kind::Transaction => {
                let body = match peers.trust().admit_request(&self.line.peer, PATH) {
                    Ok(()) => self.receive(&envelope).await?,
                    Err(error @ TrustError::TooOften { .. }) => {
                        peers.note_refusal(Some(&self.line.peer), "untrusted", &error);
                        ResponseBody::of(&error)
                    }
                    Err(error) => return Err(untrusted(error)),
                };
                self.answer(&envelope.transaction_id, &body).await
            }
        };
        if matches!(verdict, Verdict::Taken) {
            self.line.seen.insert(key, ());
        }
        // It is there, and may be owed something, or have answered what is to be sent again.
        peers.note_heard(&self.line.peer);
        Ok(verdict)
    }

    /// Takes the copy of a response, for it may be this node that waits for it. Whether the original is all right says the node that
    /// has it, and counts it.
    async fn hear(&self, message: &Message) {
        let taken = async {
            let envelope = self.open(message).await?;
            let trust = self.shared.peers.trust();
            if envelope.kind == Kind::Response && trust.may_carry(&self.line.peer, Direction::In) {
                self.line.answered(&envelope.transaction_id, envelope.content()?, envelope.sent_at);
            }
            Ok::<_, Refused>(())
        };
        if let Err(Refused { reason, detail, .. }) = taken.await {
            debug!(server.name = %self.line.peer, reason, "the copy of a response counts for nothing: {detail}");
        }
    }

    /// The envelope, if it may be believed.
    async fn open(&self, message: &Message) -> Result<Envelope, Refused> {
        let peers = &self.shared.peers;
        let mut waits = AGAIN.into_iter();
        loop {
            let envelope = Envelope::read(&message.data)?;
            envelope.check(&self.line.peer, peers.server_name(), now())?;
            match envelope.verify(peers.keys()).await {
                Err(refused) if refused.may_pass => {
                    let Some(wait) = waits.next() else { return Err(refused) };
                    let Refused { reason, detail, .. } = refused;
                    debug!(server.name = %self.line.peer, reason, "looks again at a message: {detail}");
                    tokio::time::sleep(wait).await;
                }
                opened => return opened,
            }
        }
    }

    /// Gives a transaction to the inbox of all transactions.
    async fn receive(&self, envelope: &Envelope) -> Result<ResponseBody, Refused> {
        let mut waits = AGAIN.into_iter();
        loop {
            let Came { pdus, edus, .. } = envelope.content()?;
            let incoming = Incoming {
                origin: self.line.peer.clone(),
                transaction_id: envelope.transaction_id.clone(),
                pdus,
                edus,
            };
            match self.shared.inbound.receive(incoming).await {
                Ok(answers) => return Ok(answers.into()),
                Err(error @ InboundError::Store(_)) => {
                    let Some(wait) = waits.next() else {
                        let peer = &self.line.peer;
                        let error = &error as &dyn std::error::Error;
                        warn!(error, server.name = %peer, "could not take a transaction of {peer} for want of the database");
                        return Ok(ResponseBody::refusal(503, "M_UNKNOWN", "it could not be stored; try again"));
                    };
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Ok(ResponseBody::of(&error as &dyn Refusal)),
            }
        }
    }

    /// Sends what came of a transaction. Who can't be answered sends it again.
    async fn answer(&self, transaction_id: &str, body: &ResponseBody) -> Verdict {
        let peer = &self.line.peer;
        let letter = Letter { kind: Kind::Response, destination: peer, transaction_id };
        let envelope = match letter.seal(body, &self.shared.key, now()) {
            Ok(envelope) => envelope,
            Err(error) => {
                warn!(%error, server.name = %peer, "an answer can't be put into an envelope");
                return Verdict::Taken;
            }
        };
        let mut waits = AGAIN.into_iter();
        loop {
            match self.line.wire.publish(Kind::Response.as_str(), &envelope, LIFETIME).await {
                Ok(()) => {
                    self.line.note_sent();
                    return Verdict::Taken;
                }
                Err(PublishError::Unsure(_)) => return Verdict::Again,
                Err(PublishError::Kept(error)) => {
                    let Some(wait) = waits.next() else {
                        let error = &error as &dyn std::error::Error;
                        warn!(error, server.name = %peer, "{peer} could not be answered over the broker");
                        return Verdict::Taken;
                    };
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}
