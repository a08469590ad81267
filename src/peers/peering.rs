//! Becoming peers: an admin of one server makes an offer, one of the other accepts it, and both keep an agreement that both servers
//! have signed.
//!
//! Before that the two talk by phone, and each says the words of the own server's keys. Who makes the offer, and who accepts it,
//! gives the words of the other: so neither takes the keys of somebody in between for those of the other. The offer holds the keys
//! of both servers, and whoever accepts it looks whether they are still what the other one shows.
//!
//! What the two have agreed is kept in their rows like whatever else admins set: level and pinned keys. Whenever one of the two
//! sees the other otherwise from then on, it says so.

mod accept;
mod conclude;
mod documents;
mod error;
mod offer;
mod say;
mod signed;
mod view;
mod words;

use std::collections::BTreeMap;

use model::{Millis, peer::TrustLevel};
use ruma::{OwnedServerName, ServerName};
use store::peering::PeeringRow;

pub use accept::Acceptance;
pub use documents::Notice;
pub use error::PeeringError;
pub use offer::OfferWish;
pub use view::PeeringView;
pub(crate) use words::are_said;
pub use words::words_of;

use crate::{Peers, keys::wall_clock as now};
use documents::{Agreement, Offer, Party};
use signed::Signed;

/// How long an offer counts at most.
pub const LONGEST_OFFER: Millis = 30 * 24 * 60 * 60_000;
/// How far another server's clock may be off.
const SKEW: Millis = 5 * 60_000;
/// How many offers of other servers may wait for an answer.
const MOST_WAITING: i64 = 1_000;

/// Where other servers take offers.
const OFFER_PATH: &str = "/api/v1/federation/peering/offer";
/// Where they take that an offer of theirs was accepted.
const ACCEPT_PATH: &str = "/api/v1/federation/peering/accept";
/// Where they are told that they are seen otherwise.
const NOTICE_PATH: &str = "/api/v1/federation/peering/notice";

/// What an admin tells the other server of this one.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Where this server is, host and port, if its name does not lead there. Nobody goes there unless an admin says so.
    pub endpoint: Option<OwnedServerName>,
    /// Whom to ask about this server.
    pub contact: Option<String>,
}

/// Offers, and what becomes of them. Cheap to clone.
#[derive(Clone)]
pub struct Peering {
    peers: Peers,
}

impl Peers {
    /// Offers to be peers, and what becomes of them.
    pub fn peering(&self) -> Peering {
        Peering { peers: self.clone() }
    }
}

impl Peering {
    /// The words of this server's keys, which its admins say by phone.
    pub fn our_words(&self) -> Vec<&'static str> {
        words_of(self.us(), &self.our_keys())
    }

    /// Every offer, and what became of it, the latest first.
    pub async fn list(&self) -> Result<Vec<PeeringView>, PeeringError> {
        let rows = self.store().peerings().list().await?;
        rows.iter().map(view::view).collect()
    }

    /// The offer called `which`, or the only one of a server called so that waits for an answer.
    async fn find(&self, which: &str) -> Result<PeeringRow, PeeringError> {
        let peerings = self.store().peerings();
        if let Some(row) = peerings.find(which).await? {
            return Ok(row);
        }
        let Ok(server) = <&ServerName>::try_from(which) else { return Err(PeeringError::Unknown(which.to_owned())) };
        let rows = peerings.of_peer(server).await?;
        let waits = |row: &PeeringRow| !row.is_ours && row.state.is_open();
        rows.into_iter().find(waits).ok_or_else(|| PeeringError::Unknown(which.to_owned()))
    }

    async fn show(&self, id: &str) -> Result<PeeringView, PeeringError> {
        let row = self.store().peerings().find(id).await?;
        view::view(&row.ok_or_else(|| PeeringError::Unknown(id.to_owned()))?)
    }

    /// This server, as it says itself.
    fn ourselves(&self, told: &Told) -> Party {
        let Told { endpoint, contact } = told.clone();
        let transports = vec!["https".to_owned()];
        Party { server: self.us().to_owned(), keys: self.our_keys(), transports, endpoint, contact }
    }

    fn our_keys(&self) -> BTreeMap<String, String> {
        let key = &self.peers.shared.key;
        let public: ruma::serde::Base64 = ruma::serde::Base64::new(key.public_key().to_vec());
        [(key.key_id().to_string(), public.encode())].into()
    }

    fn us(&self) -> &ServerName {
        self.peers.server_name()
    }

    fn store(&self) -> &store::Store {
        self.peers.shared.keys.store()
    }
}

impl Signed<Offer> {
    /// Refuses an offer that `from` hasn't made to `to`, or that doesn't count now.
    fn check_offer(&self, to: &ServerName, now: Millis) -> Result<(), PeeringError> {
        let offer = &self.content;
        let (maker, other) = (&offer.from.server, &offer.to.server);
        if !is_id(&offer.id) {
            let reason = "its `id` is not 16 to 64 letters, digits, - and _".to_owned();
            return Err(PeeringError::Malformed { what: "offer", reason });
        }
        if other != to || maker == other {
            return Err(PeeringError::NotConcerned { from: maker.clone(), to: other.clone() });
        }
        self.check(maker, &offer.from.keys)?;
        if offer.made_at > now + SKEW || offer.expires_at > offer.made_at + LONGEST_OFFER {
            let reason = "an offer counts from when it was made, and 30 days at most; or one of the clocks is wrong";
            return Err(PeeringError::Lifetime(reason));
        }
        if offer.expires_at <= now {
            return Err(PeeringError::Expired(offer.id.clone()));
        }
        self.level_of(maker)?;
        self.level_of(other).map(drop)
    }

    /// How far one of the two is to be trusted by the other.
    fn level_of(&self, server: &ServerName) -> Result<TrustLevel, PeeringError> {
        level_in(&self.content.levels, server)
    }
}

impl Signed<Agreement> {
    fn offer(&self) -> Result<Signed<Offer>, PeeringError> {
        Signed::read(&self.content.offer.to_string())
    }

    fn level_of(&self, server: &ServerName) -> Result<TrustLevel, PeeringError> {
        level_in(&self.content.levels, server)
    }
}

fn is_id(text: &str) -> bool {
    (16..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn level_in(levels: &BTreeMap<OwnedServerName, TrustLevel>, server: &ServerName) -> Result<TrustLevel, PeeringError> {
    let level = levels.get(server).copied().unwrap_or(TrustLevel::Blocked);
    match level {
        TrustLevel::Blocked => {
            let reason = "who are peers trust each other as restricted at least";
            Err(PeeringError::Level { server: server.to_owned(), level, reason })
        }
        level => Ok(level),
    }
}

/// How a document of ours is posted.
fn body_of(json: &str) -> serde_json::Value {
    serde_json::from_str(json).unwrap_or_default()
}
