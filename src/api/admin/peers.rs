//! Peers: how far they are trusted.

use std::collections::BTreeMap;

use model::peer::{Capability, Override, PeerPattern, TrustLevel};
use peers::trust::{Author, ChangeError, Limits, PeerChange, Simulation, Transport, View};
use ruma::{OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use utoipa::{IntoParams, ToSchema};

use super::staff::{Admin, Viewer};
use crate::native::{Answer, Call, Endpoint, Nothing, delete, get, patch, post};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/peers", "Every peer that is set, by name.", list),
        get("/api/v1/admin/peers/{pattern}", "What is set for a peer.", show),
        patch("/api/v1/admin/peers/{pattern}", "Sets a peer, or changes what is set for it.", change).explained(CHANGE),
        delete("/api/v1/admin/peers/{pattern}", "Forgets what is set for a peer.", remove),
        post("/api/v1/admin/peers/{pattern}/simulate", "What a change would have meant for the last days.", simulate),
        get("/api/v1/admin/servers/{server}/trust", "How a server is regarded, and by which row.", regard),
    ]
}

const CHANGE: &str = "What isn't named stays as it is. It is in force when this answers, on other nodes within a second. With \
    `revision`, which is what the author has looked at, a change that somebody else made meanwhile is not overwritten: \
    409 `conflict`.";

/// A peer as an admin has set it.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub(super) struct Peer(View);

/// Every peer.
#[derive(Serialize, ToSchema)]
struct Peers {
    /// By name.
    peers: Vec<Peer>,
}

/// What is to be changed of a peer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    /// Why: for other admins, and for the log.
    reason: String,
    /// The revision that was looked at; 0: there was none. Left out: whatever is there.
    #[serde(default)]
    revision: Option<i64>,
    /// `full`, `limited`, `restricted` or `blocked`; a new peer needs it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    level: Option<TrustLevel>,
    /// False: nothing goes there and nothing is taken from there, whatever the level.
    #[serde(default)]
    active: Option<bool>,
    /// Capabilities that are not as the level has them, `{"typing": {"grant": "yes", "reason": "…"}}`; `null` instead: as the
    /// level has it again.
    #[serde(default)]
    #[schema(value_type = Object)]
    overrides: BTreeMap<Capability, Option<Override>>,
    /// How much it may do: `{"requests": {"per_second": 10, "burst": 50}, "media_bytes": 1000000, "rooms": 10}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    limits: Option<Limits>,
    /// The only keys that it may sign with, by their ids, base64.
    #[serde(default)]
    pinned_keys: Option<BTreeMap<String, String>>,
    /// Where the server is, `HOST:PORT`, whatever its name says; its certificate is for its name. Empty: where its name leads.
    #[serde(default, deserialize_with = "endpoint")]
    #[schema(value_type = Option<String>)]
    endpoint: Option<Option<OwnedServerName>>,
    /// Rooms there that people of this server may join where that needs an admin's approval.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    approved_rooms: Option<Vec<OwnedRoomId>>,
    /// `auto`, `https` or `amqp`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    transport: Option<Transport>,
    /// Refusals are counted and logged, but not made.
    #[serde(default)]
    shadow: Option<bool>,
    /// For other admins.
    #[serde(default)]
    notes: Option<String>,
    /// From then on the row counts for nothing, milliseconds since 1970; 0: it holds until it is changed.
    #[serde(default)]
    expires_at: Option<i64>,
    /// It is known why the peer signs with another key, and all is well.
    #[serde(default)]
    clear_alarm: bool,
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<OwnedServerName>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(Some(None));
    }
    let endpoint = OwnedServerName::try_from(text);
    endpoint.map(|endpoint| Some(Some(endpoint))).map_err(|_| D::Error::custom("`endpoint` is of the form HOST:PORT"))
}

/// A change to be tried out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Trial {
    /// `full`, `limited`, `restricted` or `blocked`; left out: as it is.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    level: Option<TrustLevel>,
    /// Capabilities that are not as the level has them.
    #[serde(default)]
    #[schema(value_type = Object)]
    overrides: BTreeMap<Capability, Option<Override>>,
    /// How many days back, 1 to 31.
    #[serde(default = "week")]
    days: i64,
}

fn week() -> i64 {
    7
}

/// What would have become of what the peer did.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
struct Tried(Simulation);

/// Why a peer is forgotten.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Removal {
    /// Why: for other admins, and for the log.
    reason: String,
    /// The revision that was looked at.
    #[serde(default)]
    revision: Option<i64>,
}

/// How a server is regarded.
#[derive(Serialize, ToSchema)]
struct Regarded {
    /// Which.
    #[schema(value_type = String)]
    server: OwnedServerName,
    /// `full`, `limited`, `restricted` or `blocked`.
    #[schema(value_type = String)]
    level: TrustLevel,
    /// `active`, `inactive` or `alarmed`.
    #[schema(value_type = String)]
    standing: model::peer::Standing,
    /// Every capability, by name.
    #[schema(value_type = Object)]
    capabilities: BTreeMap<&'static str, model::peer::Grant>,
    /// Which change of the peers this server has heard of last, whoever made it: a revision of some peer.
    revision: i64,
    /// By its own row, by that of a domain, by a list and which version of it, or by default.
    #[schema(value_type = Object)]
    source: peers::trust::Source,
}

fn author(caller: &Admin, reason: String) -> Author {
    Author { actor: caller.session.user_id.to_string(), reason }
}

async fn list(call: Call<Viewer>) -> Answer<Peers> {
    let peers = call.services.peers.trust().list().await?;
    Ok(Peers { peers: peers.into_iter().map(Peer).collect() })
}

async fn show(call: Call<Viewer>) -> Answer<Peer> {
    let pattern: PeerPattern = call.argument("pattern")?;
    let found = call.services.peers.trust().get(&pattern).await?;
    Ok(Peer(found.ok_or(ChangeError::Unknown(pattern))?))
}

async fn change(call: Call<Admin, Nothing, Change>) -> Answer<Peer> {
    let pattern: PeerPattern = call.argument("pattern")?;
    let Change { reason, revision, .. } = &call.body;
    let (author, seen) = (author(&call.caller, reason.clone()), *revision);
    let services = &call.services;
    let view = services.peers.trust().change(&pattern, &call.body.into(), &author, seen).await?;
    // What is no longer to be known is not kept either; and who may be talked with again is not waited for.
    services.users.remote_users().purge(&pattern).await?;
    if let PeerPattern::Exact(server) = &pattern {
        services.ledger.retry(server);
    }
    Ok(Peer(view))
}

async fn remove(call: Call<Admin, Removal>) -> Answer<Nothing> {
    let pattern: PeerPattern = call.argument("pattern")?;
    let author = author(&call.caller, call.query.reason.clone());
    call.services.peers.trust().remove(&pattern, &author, call.query.revision).await?;
    Ok(Nothing)
}

async fn simulate(call: Call<Viewer, Nothing, Trial>) -> Answer<Tried> {
    let pattern: PeerPattern = call.argument("pattern")?;
    let Trial { level, overrides, days } = call.body;
    let change = PeerChange { level, overrides, ..PeerChange::default() };
    Ok(Tried(call.services.peers.trust().simulate(&pattern, &change, days).await?))
}

async fn regard(call: Call<Viewer>) -> Answer<Regarded> {
    let server: OwnedServerName = call.argument("server")?;
    let trust = call.services.peers.trust();
    let regard = trust.regard(&server);
    Ok(Regarded {
        level: regard.level,
        standing: regard.standing,
        capabilities: regard.grants(),
        revision: trust.revision(),
        source: trust.source(&server),
        server,
    })
}

impl From<Change> for PeerChange {
    fn from(change: Change) -> Self {
        Self {
            level: change.level,
            active: change.active,
            overrides: change.overrides,
            limits: change.limits,
            pinned_keys: change.pinned_keys,
            endpoint: change.endpoint,
            approved_rooms: change.approved_rooms,
            transport: change.transport,
            shadow: change.shadow,
            notes: change.notes,
            expires_at: change.expires_at.map(|at| (at != 0).then_some(at)),
            clear_alarm: change.clear_alarm,
        }
    }
}
