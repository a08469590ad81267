//! Changing how a peer is trusted.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use metrics::counter;
use model::{
    Kind, Millis, Refusal,
    peer::{Capability, Override, PeerPattern, Regard, Standing, TrustLevel, WrongGrant},
};
use ruma::{OwnedRoomId, OwnedServerName, ServerName};
use serde::{Deserialize, Deserializer};
use store::{
    Write,
    peers::{self, PeerRow},
};
use tracing::{info, warn};

use super::{Act, Author, Limits, PeerSettings, Rate, Transport, Trust, View, standing_of};

/// How often a change is tried again because somebody else changed something meanwhile.
const TRIES: u32 = 16;
/// No more is kept for one peer.
const MOST_SETTINGS: usize = 64 << 10;

/// What is to be changed of a peer; what isn't set stays as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerChange {
    /// How far it is trusted; a new peer needs it.
    pub level: Option<TrustLevel>,
    /// False: nothing goes there and nothing is taken from there, whatever the level.
    pub active: Option<bool>,
    /// Capabilities that are not as the level has them; `null`: as the level has it again.
    pub overrides: BTreeMap<Capability, Option<Override>>,
    /// How much it may do.
    pub limits: Option<Limits>,
    /// The only keys that it may sign with, by their ids, base64.
    pub pinned_keys: Option<BTreeMap<String, String>>,
    /// Where the server is, as host and port; `null`: where its name leads.
    #[serde(deserialize_with = "some")]
    pub endpoint: Option<Option<OwnedServerName>>,
    /// Rooms there that people of this server may join where that needs an admin's approval.
    pub approved_rooms: Option<Vec<OwnedRoomId>>,
    /// How transactions travel.
    pub transport: Option<Transport>,
    /// Refusals are counted and logged, but not made.
    pub shadow: Option<bool>,
    /// For other admins.
    pub notes: Option<String>,
    /// From then on the row counts for nothing, milliseconds since 1970; `null`: it holds until it is changed.
    #[serde(deserialize_with = "some")]
    pub expires_at: Option<Option<Millis>>,
    /// It is known why the peer signs with another key, and all is well.
    pub clear_alarm: bool,
}

/// Makes `null` something else than nothing.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Why a peer was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Somebody else changed it since.
    #[error("{pattern} was changed meanwhile: it is at revision {current} now; look at it, and try again")]
    Outdated {
        /// Which peer.
        pattern: PeerPattern,
        /// Its revision now; 0: it is gone.
        current: i64,
    },
    /// A new peer has no level.
    #[error("{0} is not known yet: say with `level` how far it is to be trusted")]
    NoLevel(PeerPattern),
    /// What was set for it can't be read.
    #[error("what was set for {0} can't be read: set it anew, with its `level` and all that it is to have")]
    Unreadable(PeerPattern),
    /// There is no such peer.
    #[error("nothing is set for {0}")]
    Unknown(PeerPattern),
    /// It is this server.
    #[error("{0} is this server, or this server lies below it: it can't be a peer of its own")]
    Ourselves(PeerPattern),
    /// No reason was given.
    #[error("say with `reason` why: other admins will want to know")]
    NoReason,
    /// A capability can't be so.
    #[error(transparent)]
    Grant(#[from] WrongGrant),
    /// Something else in it makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// The store failed.
    #[error("the peer could not be changed")]
    Store(#[from] store::Error),
}

impl Refusal for ChangeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Outdated { .. } => Kind::Conflict,
            Self::Unknown(_) => Kind::NotFound,
            Self::Unreadable(_) => Kind::Conflict,
            Self::NoLevel(_) | Self::Ourselves(_) | Self::NoReason | Self::Grant(_) | Self::Invalid(_) => Kind::Invalid,
            Self::Store(error) => error.kind(),
        }
    }
}

impl Trust {
    /// Every peer that is set, by name.
    pub async fn list(&self) -> Result<Vec<View>, store::Error> {
        Ok(self.shared.store.peers().list().await?.iter().map(view).collect())
    }

    /// What is set for a peer.
    pub async fn get(&self, pattern: &PeerPattern) -> Result<Option<View>, store::Error> {
        Ok(self.shared.store.peers().find(pattern).await?.as_ref().map(view))
    }

    /// Changes what is set for a peer, or adds one. It is in force when this returns, here; on other nodes within a second.
    ///
    /// `seen`: the revision that the author has looked at; `None`: whatever is there. Of two who change one at once, one is told.
    pub async fn change(
        &self,
        pattern: &PeerPattern,
        change: &PeerChange,
        author: &Author,
        seen: Option<i64>,
    ) -> Result<View, ChangeError> {
        if pattern.matches(&self.shared.us) {
            return Err(ChangeError::Ourselves(pattern.clone()));
        }
        let after =
            self.write(pattern, "peer.set", author, seen, |before| apply(pattern, change, before).map(Some)).await?;
        after.as_ref().map(view).ok_or_else(|| ChangeError::Unknown(pattern.clone()))
    }

    /// Forgets what is set for a peer: it is regarded as if nobody had ever set it.
    pub async fn remove(&self, pattern: &PeerPattern, author: &Author, seen: Option<i64>) -> Result<(), ChangeError> {
        let gone = |before: Option<&PeerRow>| match before {
            Some(_) => Ok(None),
            None => Err(ChangeError::Unknown(pattern.clone())),
        };
        self.write(pattern, "peer.remove", author, seen, gone).await.map(drop)
    }

    /// A server signs with other keys than those it was pinned to: nothing of it is believed any more.
    pub(crate) async fn raise_alarm(&self, server: &ServerName, what: &str) -> Result<(), store::Error> {
        counter!("comity_trust_key_alarms_total").increment(1);
        if self.is_listed(server) {
            return self.alarm_listed(server, what).await;
        }
        let author = Author { actor: "key pinning".to_owned(), reason: format!("{server}: {what}") };
        let alarmed = |before: Option<&PeerRow>| {
            let row = before.filter(|row| row.alarm.is_none()).cloned();
            Ok(row.map(|row| PeerRow { alarm: Some(what.to_owned()), ..row }))
        };
        self.write_own(server, "peer.key_alarm", &author, alarmed).await
    }

    /// A server has changed its keys, and the old one has signed that: it is pinned to `keys` from now on.
    pub(crate) async fn move_pins(
        &self,
        server: &ServerName,
        keys: BTreeMap<String, String>,
    ) -> Result<(), store::Error> {
        if self.is_listed(server) {
            return self.move_listed(server, keys).await;
        }
        let reason = "a pinned key has signed the new ones".to_owned();
        let author = Author { actor: "key pinning".to_owned(), reason };
        let moved = |before: Option<&PeerRow>| {
            let Some(row) = before else { return Ok(None) };
            // Of what can't be read nothing is known, so nothing of it can be moved.
            let Ok(settings) = PeerSettings::read(row) else { return Ok(None) };
            let settings = PeerSettings { pinned_keys: keys.clone(), ..settings };
            let settings = serde_json::to_string(&settings).expect("settings are JSON");
            Ok(Some(PeerRow { settings, ..row.clone() }))
        };
        self.write_own(server, "peer.keys_rotated", &author, moved).await
    }

    /// As [`Self::write`], where nobody is there to be told; nothing happens where nothing becomes of the row.
    async fn write_own(
        &self,
        server: &ServerName,
        action: &str,
        author: &Author,
        become_: impl Fn(Option<&PeerRow>) -> Result<Option<PeerRow>, ChangeError> + Send + Sync,
    ) -> Result<(), store::Error> {
        let Ok(pattern) = server.as_str().parse::<PeerPattern>() else { return Ok(()) };
        let change = |before: Option<&PeerRow>| match become_(before)? {
            Some(row) => Ok(Some(row)),
            // Somebody else has done it, or the row is gone.
            None => Err(ChangeError::Unknown(pattern.clone())),
        };
        match self.write(&pattern, action, author, None, change).await {
            Ok(_) | Err(ChangeError::Unknown(_)) => Ok(()),
            Err(ChangeError::Store(error)) => Err(error),
            Err(error) => {
                warn!(server.name = %server, error = &error as &dyn std::error::Error, "could not change a peer");
                Ok(())
            }
        }
    }

    /// As [`Self::change`], where what `also` says becomes true with it, or neither does.
    pub(crate) async fn change_with<'f, E: From<ChangeError> + Send>(
        &self,
        pattern: &PeerPattern,
        action: &str,
        change: &PeerChange,
        author: &Author,
        also: impl Fn() -> BoxFuture<'f, Result<Write, E>> + Send + Sync,
    ) -> Result<(), E> {
        let changed = |before: Option<&PeerRow>| apply(pattern, change, before).map(Some);
        self.write_with(pattern, action, author, None, changed, also).await.map(drop)
    }

    async fn write(
        &self,
        pattern: &PeerPattern,
        action: &str,
        author: &Author,
        seen: Option<i64>,
        become_: impl Fn(Option<&PeerRow>) -> Result<Option<PeerRow>, ChangeError> + Send + Sync,
    ) -> Result<Option<PeerRow>, ChangeError> {
        self.write_with(pattern, action, author, seen, become_, || future::ready(Ok(Write::new())).boxed()).await
    }

    /// What becomes of the row, together with an entry of the log that says so, and with what else there is to write.
    async fn write_with<'f, E: From<ChangeError> + Send>(
        &self,
        pattern: &PeerPattern,
        action: &str,
        author: &Author,
        seen: Option<i64>,
        become_: impl Fn(Option<&PeerRow>) -> Result<Option<PeerRow>, ChangeError> + Send + Sync,
        also: impl Fn() -> BoxFuture<'f, Result<Write, E>> + Send + Sync,
    ) -> Result<Option<PeerRow>, E> {
        let (become_, also) = (&become_, &also);
        let step = |number| {
            async move {
                let before = self.shared.store.peers().find(pattern).await.map_err(ChangeError::from)?;
                let current = before.as_ref().map_or(0, |row| row.revision);
                if seen.is_some_and(|seen| seen != current) {
                    return Err(ChangeError::Outdated { pattern: pattern.clone(), current }.into());
                }
                let mut after = become_(before.as_ref())?;
                if let Some(row) = &mut after {
                    row.revision = number;
                    row.changed_by.clone_from(&author.actor);
                    row.changed_at = crate::keys::wall_clock();
                }
                let mut write = also().await?;
                match &after {
                    Some(row) => peers::put(&mut write, row),
                    None => peers::remove(&mut write, pattern),
                }
                let logged = |row: &Option<PeerRow>| row.as_ref().map(logged);
                Ok::<_, E>(Audited { write, before: logged(&before), after: logged(&after), outcome: after })
            }
            .boxed()
        };
        let after = self.audited(action, &pattern.to_string(), author, step).await?;
        let level = after.as_ref().map(|row| row.level.as_str());
        info!(server.name = %pattern, actor = author.actor, trust.level = level, action, "changed a peer");
        Ok(after)
    }

    /// Writes what `step` says together with an entry of the log, whose number `step` is given; of two who do so at once one
    /// comes after the other, and has then read what the other wrote.
    pub async fn audited<'f, T: Send, E: From<ChangeError> + Send>(
        &self,
        action: &str,
        subject: &str,
        author: &Author,
        step: impl Fn(i64) -> BoxFuture<'f, Result<Audited<T>, E>> + Send + Sync,
    ) -> Result<T, E> {
        if author.reason.trim().is_empty() {
            return Err(ChangeError::NoReason.into());
        }
        for _ in 0..TRIES {
            let turn = self.turn().await.map_err(ChangeError::from)?;
            let Audited { write, before, after, outcome } = step(turn.number()).await?;
            let act = Act { action, subject, author, before, after };
            if self.record(turn, write, act).await.map_err(ChangeError::from)? {
                return Ok(outcome);
            }
        }
        Err(ChangeError::from(store::Error::Conflict).into())
    }
}

impl Trust {
    /// Writes down an act of which nothing else is written, before it is done.
    pub async fn note_act(
        &self,
        action: &str,
        subject: &str,
        author: &Author,
        after: Option<String>,
    ) -> Result<(), ChangeError> {
        let step = |_| {
            let after = after.clone();
            async move { Ok::<_, ChangeError>(Audited { write: Write::new(), before: None, after, outcome: () }) }
                .boxed()
        };
        self.audited(action, subject, author, step).await
    }
}

/// What is written together with an entry of the log.
pub struct Audited<T> {
    /// What it is.
    pub write: Write,
    /// How what it is about was, JSON.
    pub before: Option<String>,
    /// How it becomes.
    pub after: Option<String>,
    /// What whoever does this wants to know.
    pub outcome: T,
}

fn apply(pattern: &PeerPattern, change: &PeerChange, before: Option<&PeerRow>) -> Result<PeerRow, ChangeError> {
    let now = crate::keys::wall_clock();
    let mut settings = match before.map(PeerSettings::read).transpose() {
        Ok(settings) => settings.unwrap_or_default(),
        // A level makes it whole again; a smaller change would make it look as if the rest were known.
        Err(_) if change.level.is_some() => PeerSettings::default(),
        Err(_) => return Err(ChangeError::Unreadable(pattern.clone())),
    };
    for (capability, wish) in &change.overrides {
        match wish {
            Some(wish) if wish.reason.trim().is_empty() => return Err(ChangeError::NoReason),
            Some(wish) => {
                capability.check(wish.grant)?;
                settings.overrides.insert(*capability, wish.clone());
            }
            None => drop(settings.overrides.remove(capability)),
        }
    }
    if let Some(limits) = change.limits {
        check_rate(limits.requests)?;
        settings.limits = limits;
    }
    if let Some(keys) = &change.pinned_keys {
        if matches!(pattern, PeerPattern::Below(_)) && !keys.is_empty() {
            return Err(ChangeError::Invalid("`pinned_keys` are those of one server, not of all below a domain"));
        }
        check_keys(keys)?;
        settings.pinned_keys.clone_from(keys);
    }
    if let Some(endpoint) = &change.endpoint {
        if let Some(endpoint) = endpoint {
            check_endpoint(pattern, endpoint)?;
        }
        settings.endpoint.clone_from(endpoint);
    }
    if let Some(rooms) = &change.approved_rooms {
        settings.approved_rooms = rooms.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    }
    if matches!((pattern, change.transport), (PeerPattern::Below(_), Some(Transport::Amqp))) {
        return Err(ChangeError::Invalid("`amqp` is the way to one server, not to all below a domain"));
    }
    settings.transport = change.transport.unwrap_or(settings.transport);
    settings.shadow = change.shadow.unwrap_or(settings.shadow);
    if let Some(notes) = &change.notes {
        settings.notes.clone_from(notes);
    }
    let settings = serde_json::to_string(&settings).expect("settings are JSON");
    if settings.len() > MOST_SETTINGS {
        return Err(ChangeError::Invalid("more is set for this peer than can be kept (64 KiB)"));
    }
    let level = change.level.or(before.map(|row| row.level)).ok_or_else(|| ChangeError::NoLevel(pattern.clone()))?;
    let was_inactive = before.and_then(|row| row.inactive_at);
    let expires_at = change.expires_at.unwrap_or(before.and_then(|row| row.expires_at));
    if change.expires_at.flatten().is_some_and(|at| at <= now) {
        return Err(ChangeError::Invalid("`expires_at` has passed already"));
    }
    Ok(PeerRow {
        pattern: pattern.clone(),
        level,
        inactive_at: match change.active {
            Some(true) => None,
            Some(false) => was_inactive.or(Some(now)),
            None => was_inactive,
        },
        alarm: before.and_then(|row| row.alarm.clone()).filter(|_| !change.clear_alarm),
        settings,
        expires_at,
        revision: 0,
        changed_by: String::new(),
        changed_at: 0,
    })
}

fn check_rate(rate: Option<Rate>) -> Result<(), ChangeError> {
    match rate {
        Some(rate) if !(rate.per_second > 0.0 && rate.per_second <= 1e6 && rate.burst > 0) => {
            Err(ChangeError::Invalid("`limits.requests` must be more than nothing, and at most a million a second"))
        }
        _ => Ok(()),
    }
}

fn check_endpoint(pattern: &PeerPattern, endpoint: &ServerName) -> Result<(), ChangeError> {
    let PeerPattern::Exact(server) = pattern else {
        return Err(ChangeError::Invalid("`endpoint` is that of one server, not of all below a domain"));
    };
    if server.port().is_some() || server.is_ip_literal() {
        return Err(ChangeError::Invalid("a server whose name has a port, or is an address, has no other `endpoint`"));
    }
    match endpoint.port() {
        Some(port) if port > 0 => Ok(()),
        _ => Err(ChangeError::Invalid("`endpoint` is of the form \"HOST:PORT\"")),
    }
}

fn check_keys(keys: &BTreeMap<String, String>) -> Result<(), ChangeError> {
    let is_key = |(id, key): (&String, &String)| {
        let bytes = ruma::serde::Base64::<ruma::serde::base64::Standard>::parse(key);
        id.starts_with("ed25519:") && bytes.is_ok_and(|bytes| bytes.as_bytes().len() == 32)
    };
    match keys.iter().all(is_key) {
        true => Ok(()),
        false => Err(ChangeError::Invalid("`pinned_keys` are of the form \"ed25519:name\": \"32 bytes in base64\"")),
    }
}

/// The row as the log has it.
fn logged(row: &PeerRow) -> String {
    serde_json::to_string(&view(row)).expect("a view is JSON")
}

/// How a row is seen.
pub(super) fn view(row: &PeerRow) -> View {
    let (settings, standing, unreadable) = match PeerSettings::read(row) {
        Ok(settings) => (settings, standing_of(row.inactive_at, row.alarm.as_deref()), None),
        Err(error) => (PeerSettings::default(), Standing::Inactive, Some(error.to_string())),
    };
    View {
        pattern: row.pattern.to_string(),
        level: row.level,
        standing,
        expired: row.expires_at.is_some_and(|at| at <= crate::keys::wall_clock()),
        alarm: unreadable.or_else(|| row.alarm.clone()),
        capabilities: Regard::new(row.level, standing, &settings.overrides).grants(),
        settings,
        expires_at: row.expires_at,
        revision: row.revision,
        changed_by: row.changed_by.clone(),
        changed_at: row.changed_at,
        source: None,
    }
}
