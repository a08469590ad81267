//! What an admin can set for a peer, and how the peer is seen then.

use std::collections::BTreeMap;

use model::{
    Millis,
    peer::{Grant, Overrides, Standing, TrustLevel},
};
use ruma::{OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Serialize};
use store::peers::PeerRow;

use super::{Rate, Source};

/// What an admin has set for a peer besides its level.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerSettings {
    /// Capabilities that are not as the level has them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: Overrides,
    /// How much it may do.
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// The only keys that it may sign with, by their ids, base64; none: whatever it says of itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pinned_keys: BTreeMap<String, String>,
    /// Where the server is, as host and port, instead of where its name leads. Its certificate is for its name all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<OwnedServerName>,
    /// Rooms there that people of this server may join where that needs an admin's approval.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approved_rooms: Vec<OwnedRoomId>,
    /// How transactions travel.
    pub transport: Transport,
    /// Refusals are counted and logged, but not made.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// For other admins.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub notes: String,
}

/// What was set for a peer can't be read: a later version wrote it, or it was changed behind the server's back.
#[derive(Debug, thiserror::Error)]
#[error(
    "what was set for it can't be read ({0}): it counts as switched off until its level is set anew, and the rest with it"
)]
pub(crate) struct Unreadable(serde_json::Error);

impl PeerSettings {
    /// What was set. Nothing is guessed at: with a part of it missing, a peer could do what an admin has forbidden.
    pub(crate) fn read(row: &PeerRow) -> Result<Self, Unreadable> {
        serde_json::from_str(&row.settings).map_err(Unreadable)
    }
}

/// How much a peer may do; what is not set is as its level has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How often it may ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Rate>,
    /// The largest file that it is given, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_bytes: Option<u64>,
    /// In how many rooms here its people may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<u64>,
}

impl Limits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How transactions travel to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// HTTPS while it works, else the brokers of both servers, if they are linked.
    #[default]
    Auto,
    /// HTTPS.
    Https,
    /// The brokers of both servers.
    Amqp,
}

/// How a peer is seen: what was set for it, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    /// Which servers it is about.
    pub pattern: String,
    /// How far they are trusted.
    pub level: TrustLevel,
    /// Whether that holds.
    pub standing: Standing,
    /// Whether the row has expired, and counts for nothing any more.
    pub expired: bool,
    /// Which key it signs with instead of a pinned one, or why what was set for it counts for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// Every capability, by name.
    pub capabilities: BTreeMap<&'static str, Grant>,
    /// What was set besides the level.
    pub settings: PeerSettings,
    /// From then on the row counts for nothing, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    /// Which change of it this is; who changes it says which one was seen.
    pub revision: i64,
    /// Who made that change.
    pub changed_by: String,
    /// When, milliseconds since 1970.
    pub changed_at: Millis,
    /// Why the server that was asked for is seen like this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}
