//! How an offer, and what became of it, is seen.

use std::collections::BTreeMap;

use model::{Millis, peer::TrustLevel};
use ruma::OwnedServerName;
use serde::Serialize;
use serde_json::Value;
use store::peering::PeeringRow;

use super::{
    PeeringError,
    documents::{Agreement, Known, Offer},
    signed::Signed,
    words::words_of,
};

/// An offer, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct PeeringView {
    /// Its id.
    pub id: String,
    /// The other server.
    pub peer: OwnedServerName,
    /// Whether this server made the offer.
    pub is_ours: bool,
    /// `offered`, `accepted`, `agreed`, `withdrawn`, `refused`, `ended`.
    pub state: &'static str,
    /// How far each of the two is to be trusted by the other, or is.
    pub levels: BTreeMap<OwnedServerName, TrustLevel>,
    /// The other server's keys.
    pub keys: BTreeMap<String, String>,
    /// The words of these, to be compared by phone.
    pub words: Vec<&'static str>,
    /// Where the other server says to be, host and port, if its name does not lead there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<OwnedServerName>,
    /// Whom to ask about the other server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// From then on it can't be accepted, milliseconds since 1970.
    pub expires_at: Millis,
    /// When the other server took what this one has to say of it, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Millis>,
    /// How the other server was last told that it is trusted here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
    /// How the other server last said to trust this one, if that is not as agreed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard: Option<String>,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Who brought it into this state.
    pub changed_by: String,
    /// When, milliseconds since 1970.
    pub changed_at: Millis,
    /// The offer or the agreement, as it was signed.
    pub document: Value,
}

pub(super) fn view(row: &PeeringRow) -> Result<PeeringView, PeeringError> {
    let (offer, agreement) = match Signed::<Agreement>::read(&row.document) {
        Ok(agreement) => (agreement.offer()?.content, Some(agreement.content)),
        Err(_) => (Signed::<Offer>::read(&row.document)?.content, None),
    };
    let other = match row.is_ours {
        true => offer.to,
        false => Known { server: offer.from.server, keys: offer.from.keys },
    };
    let (endpoint, contact) = match (row.is_ours, &agreement) {
        (true, Some(agreement)) => (agreement.from.endpoint.clone(), agreement.from.contact.clone()),
        (true, None) => (None, None),
        (false, _) => (offer.from.endpoint, offer.from.contact),
    };
    Ok(PeeringView {
        id: row.id.clone(),
        peer: row.peer.clone(),
        is_ours: row.is_ours,
        state: row.state.as_str(),
        levels: agreement.map_or(offer.levels, |agreement| agreement.levels),
        words: words_of(&other.server, &other.keys),
        keys: other.keys,
        endpoint,
        contact,
        expires_at: row.expires_at,
        sent_at: row.sent_at,
        told: row.told.clone(),
        heard: row.heard.clone(),
        trouble: row.trouble.clone(),
        changed_by: row.changed_by.clone(),
        changed_at: row.changed_at,
        document: serde_json::from_str(&row.document).unwrap_or_default(),
    })
}
