//! What other servers bring: that they accept an offer of ours, and that they see this server otherwise.

use futures_util::FutureExt as _;
use ruma::ServerName;
use store::{
    Write,
    peering::{self as table, PeeringRow, PeeringState},
};
use tracing::{info, warn};

use super::{
    Notice, Peering, PeeringError,
    accept::check_levels,
    documents::{Agreement, Offer},
    now,
    signed::Signed,
};
use crate::trust::{Audited, Author, PeerChange};

impl Peering {
    /// `from` accepts an offer of this server's. It is in force when this returns, with this server's signature too. Who asks again
    /// because the answer was lost is answered the same.
    pub async fn conclude(&self, json: &str, from: &ServerName) -> Result<String, PeeringError> {
        let mut agreement = Signed::<Agreement>::read(json)?;
        let offer = agreement.offer()?;
        let Offer { id, from: maker, to, .. } = &offer.content;
        let known = self.store().peerings().find(id).await?.filter(|row| row.is_ours && row.peer == *from);
        let known = known.ok_or_else(|| PeeringError::Unknown(id.clone()))?;
        if maker.server != self.us() || agreement.content.from.server != from {
            return Err(PeeringError::NotConcerned { from: maker.server.clone(), to: to.server.clone() });
        }
        match known.state {
            PeeringState::Offered => {}
            PeeringState::Agreed => {
                let before = Signed::<Agreement>::read(&known.document)?;
                if before.unsigned() == agreement.unsigned() {
                    return Ok(known.document);
                }
                return Err(PeeringError::Used { id: known.id, state: known.state.as_str() });
            }
            state => return Err(PeeringError::Used { id: known.id, state: state.as_str() }),
        }
        if offer.json() != known.document {
            let reason = "the offer in it is not the one that was made".to_owned();
            return Err(PeeringError::Malformed { what: "agreement", reason });
        }
        offer.check_offer(from, now())?;
        if agreement.content.from.keys != to.keys {
            return Err(self.swapped(from, "they were when the offer was made"));
        }
        agreement.check(from, &to.keys)?;
        check_levels(&agreement, &offer)?;
        agreement.sign(&self.peers.shared.key)?;
        let change = PeerChange {
            level: Some(agreement.level_of(from)?),
            active: Some(true),
            pinned_keys: Some(to.keys.clone()),
            expires_at: Some(None),
            ..PeerChange::default()
        };
        let reason = format!("{from} has accepted the offer {id}, and both servers have signed the agreement");
        let author = Author { actor: known.changed_by.clone(), reason };
        self.come_into_force(&known, &agreement, &change, &author, PeeringState::Offered).await?;
        info!(server.name = %from, peering.id = id, "the two servers are peers by agreement");
        Ok(agreement.json())
    }

    /// `from`, with whom there is an agreement, sees this server otherwise than before.
    pub async fn hear(&self, notice: &Notice, from: &ServerName) -> Result<(), PeeringError> {
        let Notice { id, trusted, ended, number } = notice;
        if trusted.len() > 32 {
            return Err(PeeringError::Malformed { what: "notice", reason: "`trusted` is no level".to_owned() });
        }
        let known = self.store().peerings().find(id).await?;
        let known = known.filter(|row| row.peer == *from && row.state == PeeringState::Agreed);
        let Some(known) = known else { return Err(PeeringError::Unknown(id.clone())) };
        if known.heard_number >= *number {
            // It was said before, or overtaken.
            return Ok(());
        }
        let says = if *ended { "ends the agreement; it trusts" } else { "trusts" };
        let author = Author { actor: from.to_string(), reason: format!("{from} {says} this server as {trusted}") };
        let step = |_| {
            async move {
                let row = self.still(id, PeeringState::Agreed).await?;
                let state = if *ended { PeeringState::Ended } else { PeeringState::Agreed };
                let row = PeeringRow { state, heard: Some(trusted.clone()), heard_number: *number, ..row };
                let mut write = Write::new();
                table::put(&mut write, &row);
                let after = Some(serde_json::json!({ "id": id, "trusted": trusted, "ended": ended }).to_string());
                Ok::<_, PeeringError>(Audited { write, before: None, after, outcome: () })
            }
            .boxed()
        };
        self.peers.trust().audited("peering.notice", from.as_str(), &author, step).await?;
        warn!(server.name = %from, peering.id = id, peer.trusts_us = trusted, peering.ended = ended, "{}", author.reason);
        Ok(())
    }
}
