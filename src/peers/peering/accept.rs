//! Accepting another server's offer.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use model::peer::{PeerPattern, TrustLevel};
use ruma::ServerName;
use store::{
    Write,
    peering::{self as table, PeeringRow, PeeringState},
};
use tracing::{info, warn};

use super::{
    Peering, PeeringError, PeeringView, Told,
    documents::{Agreement, Offer},
    now,
    signed::Signed,
    words::{are_said, words_of},
};
use crate::trust::{Audited, Author, PeerChange};

/// What an admin who accepts an offer says.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// The words of the other server's keys, as an admin of it has said them by phone.
    pub words: String,
    /// How far the other server is trusted; `None`: as it asks.
    pub level: Option<TrustLevel>,
    /// What the other server is told of this one.
    pub told: Told,
}

impl Peering {
    /// Accepts an offer, by its id or by its server's name, and tells the server that made it. It is in force when that server
    /// has signed the agreement too; if it is away, that is tried again until the offer expires.
    pub async fn accept(
        &self,
        which: &str,
        acceptance: &Acceptance,
        author: &Author,
    ) -> Result<PeeringView, PeeringError> {
        let row = self.find(which).await?;
        let offer = match (row.is_ours, row.state) {
            (true, _) => return Err(PeeringError::Unknown(row.id)),
            (false, PeeringState::Offered) => Signed::<Offer>::read(&row.document)?,
            (false, state) => return Err(PeeringError::Used { id: row.id, state: state.as_str() }),
        };
        offer.check_offer(self.us(), now())?;
        let Offer { id, from, to, .. } = &offer.content;
        if to.keys != self.our_keys() {
            return Err(self.swapped(self.us(), "the offer says"));
        }
        self.check_words(&from.server, &from.keys, &acceptance.words)?;
        if self.peers.keys().shown_by(&from.server).await? != from.keys {
            return Err(self.swapped(&from.server, "the offer says"));
        }
        let level = acceptance.level.unwrap_or(offer.level_of(&from.server)?);
        let mut agreement = Signed::new(Agreement {
            offer: serde_json::from_str(&row.document).unwrap_or_default(),
            from: self.ourselves(&acceptance.told),
            levels: [(self.us().to_owned(), offer.level_of(self.us())?), (from.server.clone(), level)].into(),
            agreed_at: now(),
        })?;
        agreement.sign(&self.peers.shared.key)?;
        check_levels(&agreement, &offer)?;
        let accepted = PeeringRow {
            state: PeeringState::Accepted,
            document: agreement.json(),
            sent_at: None,
            trouble: None,
            changed_by: author.actor.clone(),
            changed_at: now(),
            ..row
        };
        let row = &accepted;
        let step = |_| {
            async move {
                self.still(id, PeeringState::Offered).await?;
                let mut write = Write::new();
                table::put(&mut write, row);
                Ok::<_, PeeringError>(Audited { write, before: None, after: Some(row.document.clone()), outcome: () })
            }
            .boxed()
        };
        self.peers.trust().audited("peering.accept", from.server.as_str(), author, step).await?;
        self.say(&accepted).await?;
        self.show(id).await
    }

    /// Refuses to go on if these are not the words that were said by phone.
    pub(super) fn check_words(
        &self,
        server: &ServerName,
        keys: &BTreeMap<String, String>,
        said: &str,
    ) -> Result<(), PeeringError> {
        if are_said(&words_of(server, keys), said) {
            return Ok(());
        }
        metrics::counter!("comity_peering_words_differ_total").increment(1);
        warn!(server.name = %server, "the words that were said are not those of the keys that {server} shows");
        Err(PeeringError::WordsDiffer(server.to_owned()))
    }

    /// What the server that made the offer has signed beside us: it is in force now, here too.
    pub(super) async fn settle(&self, row: &PeeringRow, answer: &str) -> Result<(), PeeringError> {
        let (ours, theirs) = (Signed::<Agreement>::read(&row.document)?, Signed::<Agreement>::read(answer)?);
        let maker = ours.offer()?.content.from;
        if theirs.unsigned() != ours.unsigned() {
            let reason = format!("{} has signed something else than was agreed", maker.server);
            return Err(PeeringError::Malformed { what: "agreement", reason });
        }
        theirs.check(self.us(), &self.our_keys())?;
        theirs.check(&maker.server, &maker.keys)?;
        let change = PeerChange {
            level: Some(theirs.level_of(&maker.server)?),
            active: Some(true),
            pinned_keys: Some(maker.keys.clone()),
            expires_at: Some(None),
            // An admin has compared these very keys.
            clear_alarm: true,
            ..PeerChange::default()
        };
        let reason = format!("both servers have signed the agreement {}", row.id);
        let author = Author { actor: row.changed_by.clone(), reason };
        self.come_into_force(row, &theirs, &change, &author, PeeringState::Accepted).await?;
        info!(server.name = %maker.server, peering.id = row.id, "the two servers are peers by agreement");
        Ok(())
    }

    /// Sets the peer as was agreed, and keeps the agreement; what was agreed with it before has ended.
    pub(super) async fn come_into_force(
        &self,
        row: &PeeringRow,
        agreement: &Signed<Agreement>,
        change: &PeerChange,
        author: &Author,
        from: PeeringState,
    ) -> Result<(), PeeringError> {
        let pattern: PeerPattern =
            row.peer.as_str().parse().map_err(|_| PeeringError::Unknown(row.peer.as_str().to_owned()))?;
        let level = agreement.level_of(&row.peer)?;
        let also = || {
            async move {
                let row = self.still(&row.id, from).await?;
                let mut write = Write::new();
                for earlier in self.store().peerings().of_peer(&row.peer).await? {
                    if earlier.state == PeeringState::Agreed {
                        table::leave(&mut write, &earlier.id, PeeringState::Agreed, PeeringState::Ended);
                    }
                }
                let agreed = PeeringRow {
                    state: PeeringState::Agreed,
                    document: agreement.json(),
                    sent_at: Some(now()),
                    told: Some(level.to_string()),
                    trouble: None,
                    changed_at: now(),
                    ..row
                };
                table::put(&mut write, &agreed);
                Ok(write)
            }
            .boxed()
        };
        self.peers.trust().change_with::<PeeringError>(&pattern, "peering.agree", change, author, also).await
    }

    /// The offer, if it is still as it was.
    pub(super) async fn still(&self, id: &str, state: PeeringState) -> Result<PeeringRow, PeeringError> {
        let row = self.find(id).await?;
        match row.state == state {
            true => Ok(row),
            false => Err(PeeringError::Used { id: row.id, state: row.state.as_str() }),
        }
    }
}

/// Nobody is trusted further by an agreement than by its offer.
pub(super) fn check_levels(agreement: &Signed<Agreement>, offer: &Signed<Offer>) -> Result<(), PeeringError> {
    for server in [&offer.content.from.server, &offer.content.to.server] {
        let level = agreement.level_of(server)?;
        if level > offer.level_of(server)? {
            let reason = "it is more than was offered";
            return Err(PeeringError::Level { server: server.clone(), level, reason });
        }
    }
    Ok(())
}
