//! Offers: making one, taking one of another server, taking one back.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use model::{
    Millis,
    peer::{Capability, Context, PeerPattern, TrustLevel},
};
use rand::RngExt as _;
use ruma::{OwnedServerName, ServerName};
use store::{
    Write,
    peering::{self as table, PeeringRow, PeeringState},
};
use tracing::{info, warn};

use super::{
    LONGEST_OFFER, MOST_WAITING, Peering, PeeringError, PeeringView, Told,
    documents::{Known, Offer},
    now,
    signed::Signed,
};
use crate::{
    PeerError,
    trust::{Audited, Author, ChangeError},
};

/// What an admin offers to another server.
#[derive(Clone, Debug)]
pub struct OfferWish {
    /// Which.
    pub server: OwnedServerName,
    /// The words of its keys, as an admin of it has said them by phone.
    pub words: String,
    /// How far this server will trust it.
    pub give: TrustLevel,
    /// How far it is asked to trust this one.
    pub ask: TrustLevel,
    /// How long the offer counts.
    pub lifetime: Duration,
    /// What the other server is told of this one.
    pub told: Told,
}

impl Peering {
    /// Makes an offer, instead of an earlier one to the same server, and tries to hand it over.
    ///
    /// Asks the other server for its keys, for they are part of it. If it can't be handed over now, it is tried again, and it may
    /// as well be carried there by hand: it is the view's `document`.
    pub async fn offer(&self, wish: &OfferWish, author: &Author) -> Result<PeeringView, PeeringError> {
        let server = &wish.server;
        if !self.peers.is_enabled() {
            return Err(PeerError::Disabled.into());
        }
        let pattern: PeerPattern =
            server.as_str().parse().map_err(|_| PeeringError::Unknown(server.as_str().to_owned()))?;
        if self.peers.is_us(server) {
            return Err(ChangeError::Ourselves(pattern).into());
        }
        let lifetime = Millis::try_from(wish.lifetime.as_millis()).unwrap_or(Millis::MAX);
        if !(60_000..=LONGEST_OFFER).contains(&lifetime) {
            return Err(PeeringError::Lifetime("an offer counts for a minute at least, and for 30 days at most"));
        }
        let keys = self.peers.keys().shown_by(server).await?;
        let pins = self.peers.trust().pinned_keys(server);
        if !pins.is_empty() && pins != keys {
            return Err(self.swapped(server, "it is pinned to"));
        }
        self.check_words(server, &keys, &wish.words)?;
        let id = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>());
        let made_at = now();
        let mut offer = Signed::new(Offer {
            id: id.clone(),
            from: self.ourselves(&wish.told),
            to: Known { server: server.clone(), keys },
            levels: [(self.us().to_owned(), wish.ask), (server.clone(), wish.give)].into(),
            made_at,
            expires_at: made_at + lifetime,
        })?;
        offer.sign(&self.peers.shared.key)?;
        offer.check_offer(server, made_at)?;
        let row = PeeringRow {
            id: id.clone(),
            peer: server.clone(),
            is_ours: true,
            state: PeeringState::Offered,
            document: offer.json(),
            expires_at: made_at + lifetime,
            sent_at: None,
            told: None,
            heard: None,
            heard_number: 0,
            trouble: None,
            changed_by: author.actor.clone(),
            changed_at: made_at,
        };
        let offered = &row;
        let step = |_| {
            async move {
                let mut write = Write::new();
                table::forget(&mut write, made_at);
                for earlier in self.store().peerings().of_peer(server).await? {
                    if earlier.is_ours && earlier.state == PeeringState::Offered {
                        table::put(&mut write, &PeeringRow { state: PeeringState::Withdrawn, ..earlier });
                    }
                }
                table::put(&mut write, offered);
                Ok::<_, PeeringError>(Audited {
                    write,
                    before: None,
                    after: Some(offered.document.clone()),
                    outcome: (),
                })
            }
            .boxed()
        };
        self.peers.trust().audited("peering.offer", server.as_str(), author, step).await?;
        info!(server.name = %server, peering.id = id, "made an offer to be peers");
        self.say(&row).await?;
        self.show(&id).await
    }

    /// Takes an offer of another server, for admins to look at.
    ///
    /// `from`: the server that has just brought it and proved who it is; `None`: it was carried here by hand.
    pub async fn take(&self, json: &str, from: Option<&ServerName>) -> Result<PeeringView, PeeringError> {
        let offer = Signed::<Offer>::read(json)?;
        let Offer { id, from: maker, to, expires_at, .. } = &offer.content;
        let peer = &maker.server;
        if from.is_some_and(|from| from != peer) {
            return Err(PeeringError::NotConcerned { from: peer.clone(), to: to.server.clone() });
        }
        offer.check_offer(self.us(), now())?;
        if to.keys != self.our_keys() {
            return Err(self.swapped(self.us(), "the offer says"));
        }
        let peerings = self.store().peerings();
        if let Some(known) = peerings.find(id).await? {
            // It was brought twice.
            return match !known.is_ours && known.peer == *peer {
                true => self.show(id).await,
                false => Err(PeeringError::Used { id: id.clone(), state: known.state.as_str() }),
            };
        }
        let row = PeeringRow {
            id: id.clone(),
            peer: peer.clone(),
            is_ours: false,
            state: PeeringState::Offered,
            document: offer.json(),
            expires_at: *expires_at,
            sent_at: None,
            told: None,
            heard: None,
            heard_number: 0,
            trouble: None,
            changed_by: peer.to_string(),
            changed_at: now(),
        };
        let mut write = Write::new();
        table::forget(&mut write, now());
        if from.is_some() {
            self.peers.trust().allow(peer, Capability::Events, &Context::inbound())?;
            let earlier = peerings.of_peer(peer).await?;
            let waiting = earlier.iter().filter(|row| !row.is_ours && row.state == PeeringState::Offered);
            for row in waiting {
                table::leave(&mut write, &row.id, PeeringState::Offered, PeeringState::Withdrawn);
            }
            if peerings.count_waiting().await? >= MOST_WAITING {
                return Err(PeeringError::TooMany);
            }
        }
        table::insert(&mut write, &row);
        self.store().commit(write).await?;
        info!(server.name = %peer, peering.id = id, "a server offers to be a peer: an admin may accept it");
        self.show(id).await
    }

    /// Takes an offer back, or declines one.
    pub async fn withdraw(&self, which: &str, author: &Author) -> Result<PeeringView, PeeringError> {
        let PeeringRow { id, peer, .. } = &self.find(which).await?;
        let step = |_| {
            async move {
                let row = self.find(id).await?;
                let state = match (row.state, row.is_ours) {
                    (PeeringState::Offered, true) => PeeringState::Withdrawn,
                    (PeeringState::Offered, false) => PeeringState::Refused,
                    (PeeringState::Accepted | PeeringState::Agreed, _) => return Err(PeeringError::InForce(row.id)),
                    (state, _) => return Err(PeeringError::Used { id: row.id, state: state.as_str() }),
                };
                let mut write = Write::new();
                let row = PeeringRow { state, changed_by: author.actor.clone(), changed_at: now(), ..row };
                table::put(&mut write, &row);
                Ok(Audited { write, before: Some(row.document.clone()), after: None, outcome: () })
            }
            .boxed()
        };
        self.peers.trust().audited("peering.withdraw", peer.as_str(), author, step).await?;
        self.show(id).await
    }

    /// Somebody may stand between the two servers: counted, and told to the operator.
    pub(super) fn swapped(&self, server: &ServerName, says: &'static str) -> PeeringError {
        metrics::counter!("comity_peering_keys_swapped_total").increment(1);
        warn!(server.name = %server, "{server} has other keys than {says}: somebody may stand between the two servers");
        PeeringError::KeysSwapped { server: server.to_owned(), says }
    }
}
