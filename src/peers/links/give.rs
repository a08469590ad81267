//! Telling a peer how it logs in at this server's broker.

use fabric::naming;
use futures_util::FutureExt as _;
use metrics::counter;
use ruma::ServerName;
use store::{Write, broker_links};
use tracing::info;

use super::{Links, LinksError, Offer, user_of, word_of};
use crate::{
    keys::wall_clock as now,
    trust::{Audited, Author},
};

/// What is sealed of a link: the password of the peer's user.
pub(super) const OURS: &str = "ours";
/// What the log calls it.
const GIVEN: &str = "bus.credentials_given";
/// How often it is written down that a peer has asked again, in milliseconds.
const NOTED_EVERY: i64 = 60_000;

impl Links {
    /// How `peer`, which has proved who it is, logs in here: what was made for it, and for nobody else. That it was told is
    /// in the log of what admins do, once for each password.
    pub async fn give(&self, peer: &ServerName) -> Result<Offer, LinksError> {
        let refused = LinksError::NotLinked(peer.to_owned());
        if !self.wanted().contains_key(peer) {
            return Err(refused);
        }
        let url = self.shared.config.public_url.as_ref().ok_or(LinksError::NoBroker)?;
        let is_made = self.with_watched(peer, |watched| watched.is_made);
        let row = self.store().broker_links().find(peer).await?.filter(|_| is_made).ok_or(LinksError::NotReady)?;
        let password = self.shared.vault.unseal(peer.as_str(), OURS, &row.ours)?;
        let now = now();
        if row.given_at.is_none() {
            self.note_given(peer, now).await?;
            info!(server.name = %peer, "told {peer} how to log in at this server's broker");
        } else if row.given_at.is_some_and(|at| now - at > NOTED_EVERY) {
            let mut write = Write::new();
            broker_links::set_given(&mut write, peer, now);
            self.store().commit(write).await?;
        }
        counter!("comity_bus_credentials_given_total").increment(1);
        // Whoever asks trusts us: it may answer now, if it did not before.
        if row.theirs.is_none() {
            self.ask_soon(peer);
        }
        Ok(Offer {
            server_name: self.us().to_owned(),
            url: url.as_str().trim_end_matches('/').to_owned(),
            vhost: naming::vhost(peer),
            user: user_of(peer),
            password: password.to_string(),
            push_exchange: naming::incoming(peer),
            pull_exchange: naming::outgoing(peer),
            link: word_of(self.shared.config.way).to_owned(),
        })
    }

    async fn note_given(&self, peer: &ServerName, now: i64) -> Result<(), LinksError> {
        let author = Author { actor: peer.to_string(), reason: "it asked, and is trusted fully".to_owned() };
        let given = |_: i64| {
            let mut write = Write::new();
            broker_links::set_given(&mut write, peer, now);
            async move { Ok(Audited { write, before: None, after: None, outcome: () }) }.boxed()
        };
        self.shared.peers.trust().audited(GIVEN, peer.as_str(), &author, given).await
    }
}
