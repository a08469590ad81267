//! What servers sign of becoming peers: the offer, the agreement, and later what has changed.

use std::collections::BTreeMap;

use model::{Millis, peer::TrustLevel};
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::signed::Document;

/// A server that wants to be a peer, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Party {
    pub(super) server: OwnedServerName,
    /// What it signs with, by their ids, base64.
    pub(super) keys: BTreeMap<String, String>,
    /// How transactions can reach it.
    pub(super) transports: Vec<String>,
    /// Where it is, host and port, if its name does not lead there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<OwnedServerName>,
    /// Whom to ask about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) contact: Option<String>,
}

/// The server that an offer is made to, as the one that makes it knows it: if those are not its keys, somebody stands between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    pub(super) server: OwnedServerName,
    pub(super) keys: BTreeMap<String, String>,
}

/// "Let us be peers." Signed by the server that makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Offer {
    /// Of its maker's choice; good once.
    pub(super) id: String,
    pub(super) from: Party,
    pub(super) to: Known,
    /// How far each of the two is to be trusted by the other.
    pub(super) levels: BTreeMap<OwnedServerName, TrustLevel>,
    pub(super) made_at: Millis,
    pub(super) expires_at: Millis,
}

/// "Yes." Signed by the server that the offer was made to, and then by the one that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Agreement {
    /// As it came, with its signature.
    pub(super) offer: Value,
    /// Who accepts it.
    pub(super) from: Party,
    /// How far each of the two is trusted by the other.
    pub(super) levels: BTreeMap<OwnedServerName, TrustLevel>,
    pub(super) agreed_at: Millis,
}

/// "I see you otherwise now." Proved by the request that brings it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Of the offer.
    pub id: String,
    /// `full`, `limited`, `restricted`, `blocked`, or `inactive`.
    pub trusted: String,
    /// Nobody holds to the agreement any more.
    pub ended: bool,
    /// Larger with each notice.
    pub number: i64,
}

impl Document for Offer {
    const TYPE: &'static str = "org.comity.peering.offer";
    const NAME: &'static str = "offer";
}

impl Document for Agreement {
    const TYPE: &'static str = "org.comity.peering.agreement";
    const NAME: &'static str = "agreement";
}
