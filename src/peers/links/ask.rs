//! Asking a peer how this server logs in at its broker.

use std::time::{Duration, Instant};

use model::peer::{Capability, Context};
use ruma::ServerName;
use store::{Write, broker_links};
use tracing::{debug, info};

use super::{Links, LinksError, Offer, PATH, offer::Theirs};
use crate::{PeerError, Scope, addresses, keys::wall_clock as now};

/// After how long a peer that did not answer is asked again, at first …
const SOONEST: Duration = Duration::from_secs(2);
/// … and at most.
const LATEST: Duration = Duration::from_secs(5 * 60);
/// What is sealed of a link: how to log in at the peer's broker.
pub(super) const THEIRS: &str = "theirs";

/// Why a peer did not say how to log in at its broker, in a sentence for an admin.
struct Unanswered(String);

impl Links {
    /// Asks `peer`, unless it was asked a short time ago, and keeps what it says. Answers what is wrong, if something is.
    ///
    /// `known`: what it said before, which may be the same.
    pub(super) async fn ask(&self, peer: &ServerName, known: Option<&Theirs>) -> Option<String> {
        let is_paused = self.with_watched(peer, |watched| watched.pause.is_some_and(|until| until > Instant::now()));
        if is_paused {
            return None;
        }
        // Until it has answered well, it isn't asked again at once, whatever becomes of this.
        self.with_watched(peer, |watched| {
            let pause = SOONEST.saturating_mul(1 << watched.failures.min(16)).min(LATEST);
            watched.pause = Some(Instant::now() + pause);
            watched.failures = watched.failures.saturating_add(1);
        });
        match self.asked(peer).await {
            Ok(offer) => match self.keep(peer, offer, known).await {
                Ok(()) => None,
                Err(error) => Some(error.to_string()),
            },
            Err(Unanswered(why)) => {
                debug!(server.name = %peer, why, "{peer} does not say how to log in at its broker");
                Some(why)
            }
        }
    }

    async fn asked(&self, peer: &ServerName) -> Result<Offer, Unanswered> {
        let peers = &self.shared.peers;
        let because = |why: String| Unanswered(format!("{peer} does not say how to log in at its broker: {why}"));
        let allowed = peers.trust().allow(peer, Capability::Broadcasts, &Context::outbound());
        allowed.map_err(|error| because(error.to_string()))?;
        let asked = peers.get_native::<Offer>(peer, PATH.to_owned(), self.us().as_str(), Scope::Cascade).await;
        let offer = asked.map_err(|error| match error {
            // What can't be read may have the password in it.
            PeerError::Malformed { .. } => because("its answer can't be read".to_owned()),
            PeerError::Refused { status: 404, .. } => {
                because("it has no broker for that, or none that it manages".to_owned())
            }
            error => because(error.to_string()),
        })?;
        let unusable = |why: String| Unanswered(format!("what {peer} says of its broker is of no use: {why}"));
        if offer.server_name != *peer {
            return Err(unusable("it speaks of another server".to_owned()));
        }
        let place = offer.check().map_err(|error| unusable(error.to_string()))?;
        // Our broker is not made to knock at our own doors. It looks the name up by itself, later: this is no more than a
        // first look.
        let found = peers.shared.wire.resolver.addresses_of(&place.host, place.port).await.map_err(unusable)?;
        if !place.is_tls && found.iter().any(|address| addresses::is_open(address.ip())) {
            return Err(unusable(
                "its address is amqp://, and the password would cross the internet in plain text".to_owned(),
            ));
        }
        Ok(offer)
    }

    async fn keep(&self, peer: &ServerName, offer: Offer, known: Option<&Theirs>) -> Result<(), LinksError> {
        if matches!(known, Some(Theirs::Peer { offer: before }) if *before == offer) {
            return Ok(());
        }
        let theirs = serde_json::to_string(&Theirs::Peer { offer }).unwrap_or_default();
        let sealed = self.shared.vault.seal(peer.as_str(), THEIRS, &theirs)?;
        let mut write = Write::new();
        broker_links::set_heard(&mut write, peer, Some(&sealed), now());
        self.store().commit(write).await?;
        info!(server.name = %peer, "{peer} has said how to log in at its broker");
        self.with_watched(peer, |watched| watched.failures = 0);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// There is a sign that the peer may answer now.
    pub(super) fn ask_soon(&self, peer: &ServerName) {
        let was_paused = self.with_watched(peer, |watched| {
            watched.failures = 0;
            watched.pause.take().is_some()
        });
        if was_paused {
            self.shared.wake.notify_one();
        }
    }
}
