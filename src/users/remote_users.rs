//! Users of other domains: what they last said of themselves, kept so that nobody waits for their servers.
//!
//! What a user's server said is *fresh* for a while and answered from memory, or from the store after a restart. Past three
//! quarters of that time whoever asks gets it as it is, and it is asked for again behind their back. Past all of it the
//! server is asked first; if it is away, what it said before is answered with a mark for as long as the configuration allows.
//! Of all who want to know of one user, one asks. That there is no such user, or that it isn't for us to know, is remembered
//! too, but shorter and in memory only, so that nobody can fill the database with made-up names.
//!
//! **Invariant.** Memory never holds what the store has refused to keep, and nothing that was on its way when a server's users
//! were [purged](RemoteUsers::purge) comes back afterwards.

mod entry;
mod flights;
mod hearsay;
mod profile;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU32},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use metrics::{counter, gauge, histogram};
use model::{
    Kind, Millis, Refusal,
    peer::{Capability, Context, Grant, PeerPattern},
};
use peers::{PeerError, Peers, Trust, TrustError};
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedServerName, OwnedUserId, UserId, api::federation::query::get_profile_information::v1 as query};
use store::{Store, Write, remote_users as rows};
use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;

use crate::{Clock, Profile, millis};
use entry::{Entry, Outcome, Standing};

pub use profile::{RemoteProfile, native_name};

/// How long another server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long somebody waits for it who could have an older answer at once.
const PATIENCE_WITH_STALE: Duration = Duration::from_secs(2);
/// How many users are asked for again at once behind the backs of those who look them up.
const IN_BACKGROUND: usize = 16;
/// How much memory they may take, in bytes.
const CACHED_BYTES: u64 = 16 << 20;
/// About how many that is.
const CACHED_USERS: usize = 40_000;
/// How often what is too old is removed from the store.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);

/// `[federation] remote_user…`: for how long it counts what users of other domains said of themselves.
#[derive(Clone, Debug)]
pub struct RemoteUsersConfig {
    /// How long their servers aren't asked again.
    pub fresh: Duration,
    /// How long it is shown with a mark if they can't be asked.
    pub stale: Duration,
    /// How long it counts that there is no such user.
    pub missing: Duration,
    /// Of how many users it is kept in the store; those that were asked for last.
    pub kept: u32,
}

impl Default for RemoteUsersConfig {
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(60 * 60),
            stale: Duration::from_secs(7 * 24 * 60 * 60),
            missing: Duration::from_secs(5 * 60),
            kept: 100_000,
        }
    }
}

/// What is known of a user of another domain.
#[derive(Clone, Debug)]
pub struct RemoteUser {
    /// Who.
    pub user_id: OwnedUserId,
    /// What the user says of themselves.
    pub profile: Arc<RemoteProfile>,
    /// When the user's server said so.
    pub fetched_at: Millis,
    /// Until when that is taken to be so.
    pub expires_at: Millis,
    /// It is past that time; since then the server could not be asked, as far as anybody tried.
    pub stale_since: Option<Millis>,
}

impl RemoteUser {
    /// As much of it as `grant` allows.
    fn cut_to(mut self, grant: Grant) -> Self {
        if grant == Grant::Names && !self.profile.fields.is_empty() {
            let RemoteProfile { display_name, avatar_url, .. } = &*self.profile;
            self.profile = Arc::new(RemoteProfile::of_names(display_name.as_deref(), avatar_url.as_deref()));
        }
        self
    }
}

/// Why nothing can be told of a user of another domain.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemoteUserError {
    /// The user's server is not trusted enough to be asked.
    #[error(transparent)]
    Untrusted(#[from] TrustError),
    /// The user's server knows no such user.
    #[error("there is no such user")]
    Missing,
    /// The user's server doesn't tell this one.
    #[error("{server} refused: {reason}")]
    Refused {
        /// Which server.
        server: OwnedServerName,
        /// What it said.
        reason: Arc<str>,
    },
    /// The user's server can't be asked now, and nothing is known from before.
    #[error("{reason}")]
    Away {
        /// Why.
        reason: Arc<str>,
    },
    /// This server asks no other.
    #[error("this server does not talk with other servers")]
    Disabled,
    /// More users are being asked for than this server asks for at once.
    #[error("too many users of {server} are being looked up; try again in a moment")]
    Busy {
        /// Of which server.
        server: OwnedServerName,
    },
    /// This server has not asked, or has lost the answer.
    #[error("the user could not be looked up: {reason}")]
    Ours {
        /// What kind of refusal that is.
        kind: Kind,
        /// Why.
        reason: Arc<str>,
    },
    /// The store failed.
    #[error("what is known of the user could not be read")]
    Store(#[source] Arc<store::Error>),
}

impl Refusal for RemoteUserError {
    fn kind(&self) -> Kind {
        match self {
            Self::Untrusted(error) => error.kind(),
            Self::Missing => Kind::NotFound,
            Self::Refused { .. } | Self::Disabled => Kind::Forbidden,
            Self::Away { .. } => Kind::Unreachable,
            Self::Busy { .. } => Kind::RateLimited,
            Self::Ours { kind, .. } => *kind,
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Untrusted(_) => Some("not_trusted"),
            Self::Refused { .. } => Some("refused_by_peer"),
            Self::Away { .. } => Some("peer_unreachable"),
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Untrusted(error) => error.retry_after_ms(),
            Self::Busy { .. } => Some(1_000),
            _ => None,
        }
    }
}

impl From<store::Error> for RemoteUserError {
    fn from(error: store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Who knows what a user says of themselves.
pub(crate) trait Source: Send + Sync {
    /// Asks the user's server.
    fn ask<'a>(&'a self, user_id: &'a UserId) -> BoxFuture<'a, Result<Profile, PeerError>>;
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryprofile>
impl Source for Peers {
    fn ask<'a>(&'a self, user_id: &'a UserId) -> BoxFuture<'a, Result<Profile, PeerError>> {
        Box::pin(async move {
            let request = query::Request::new(user_id.to_owned());
            let answer = self.ask_within(PATIENCE, user_id.server_name(), request).await?;
            Ok(answer.into_iter().collect())
        })
    }
}

/// The users of other domains. Cheap to clone.
#[derive(Clone)]
pub struct RemoteUsers {
    shared: Arc<Shared>,
}

struct Shared {
    config: RemoteUsersConfig,
    our_name: OwnedServerName,
    store: Store,
    source: Arc<dyn Source>,
    trust: Trust,
    clock: Clock,
    memory: Cache<OwnedUserId, Arc<Entry>, Size>,
    book: Mutex<Book>,
    background: Arc<Semaphore>,
    hearsay: hearsay::Hearsay,
    /// How many rows were put since some were last removed.
    put: AtomicU32,
}

/// What must change together with what memory holds.
#[derive(Default)]
struct Book {
    flights: flights::Flights,
    /// How often users were purged: what began before the last time is not kept.
    purges: u64,
}

#[derive(Clone)]
struct Size;

impl Weighter<OwnedUserId, Arc<Entry>> for Size {
    fn weight(&self, user_id: &OwnedUserId, entry: &Arc<Entry>) -> u64 {
        2 * user_id.as_str().len() as u64 + entry.bytes() + 250
    }
}

impl RemoteUsers {
    pub(crate) fn new(config: RemoteUsersConfig, our_name: OwnedServerName, store: Store, parts: Parts) -> Self {
        let Parts { source, trust, clock } = parts;
        let config = RemoteUsersConfig { stale: config.stale.max(config.fresh), ..config };
        Self {
            shared: Arc::new(Shared {
                config,
                our_name,
                store,
                source,
                trust,
                clock,
                memory: Cache::with_weighter(CACHED_USERS, CACHED_BYTES, Size),
                book: Mutex::default(),
                background: Arc::new(Semaphore::new(IN_BACKGROUND)),
                hearsay: hearsay::Hearsay::default(),
                put: AtomicU32::new(0),
            }),
        }
    }

    /// What a user of another domain says of themselves, as their server said at most a while ago.
    ///
    /// Waits for the server only if nothing fresh is known; at most 10 s, and 2 s where there is an older answer, which is
    /// then marked. Dropped, it goes on for the others who wait.
    ///
    /// `asker`: the user of this server who wants to know; `None`: whoever it is. Where the other server is trusted with
    /// names only, that is all there is to know.
    pub async fn get(&self, asker: Option<&UserId>, user_id: &UserId) -> Result<RemoteUser, RemoteUserError> {
        let began = Instant::now();
        let looked = match self.check_trust(asker, user_id).await {
            Ok(grant) => self.look_up(user_id).await.map(|(user, outcome)| (user.cut_to(grant), outcome)),
            Err(error) => Err(error),
        };
        let (looked, outcome) = match looked {
            Ok((user, outcome)) => (Ok(user), outcome),
            Err(error) => {
                let outcome = match error {
                    RemoteUserError::Untrusted(_) => "untrusted",
                    RemoteUserError::Missing => "missing",
                    RemoteUserError::Refused { .. } | RemoteUserError::Disabled => "refused",
                    RemoteUserError::Away { .. } => "away",
                    RemoteUserError::Busy { .. } => "busy",
                    RemoteUserError::Ours { .. } | RemoteUserError::Store(_) => "failed",
                };
                (Err(error), outcome)
            }
        };
        counter!("comity_remote_user_lookups_total", "outcome" => outcome).increment(1);
        histogram!("comity_remote_user_lookup_seconds", "outcome" => outcome).record(began.elapsed().as_secs_f64());
        looked
    }

    /// How much may be known of the users of a server, whether it is known or not: what was fetched while the server was
    /// trusted more isn't shown on any node.
    async fn check_trust(&self, asker: Option<&UserId>, user_id: &UserId) -> Result<Grant, RemoteUserError> {
        let rooms = self.shared.store.rooms();
        // The one fact that this can hang on is whether the two know each other.
        let are_acquainted = async |_| match asker {
            Some(asker) => Ok(rooms.share_a_room(asker, user_id).await?),
            None => Ok::<_, RemoteUserError>(rooms.is_joined_anywhere(user_id).await?),
        };
        let trust = &self.shared.trust;
        let allowed = trust
            .allow_knowing(user_id.server_name(), Capability::Profiles, &Context::outbound(), are_acquainted)
            .await?;
        Ok(allowed.grant)
    }

    async fn look_up(&self, user_id: &UserId) -> Result<(RemoteUser, &'static str), RemoteUserError> {
        let known = self.known(user_id).await?;
        let standing = known.as_ref().map_or(Standing::Useless, |entry| self.standing(entry));
        match (known, standing) {
            (Some(entry), Standing::Fresh) => Ok((self.answer(user_id, &entry)?, "hit")),
            (Some(entry), Standing::Ageing) => {
                self.ask_in_background(user_id, &entry);
                Ok((self.answer(user_id, &entry)?, "hit"))
            }
            (Some(entry), Standing::Stale) => {
                let entry = if entry.unanswered_since.is_some() {
                    self.ask_in_background(user_id, &entry);
                    entry
                } else {
                    // Whatever hinders it, this is better than nothing.
                    let asked = timeout(PATIENCE_WITH_STALE, self.ask(user_id)).await;
                    asked.ok().and_then(Result::ok).unwrap_or(entry)
                };
                let user = self.answer(user_id, &entry)?;
                let outcome = if user.stale_since.is_some() { "stale" } else { "miss" };
                Ok((user, outcome))
            }
            (_, Standing::Useless) | (None, _) => {
                let entry = self.ask(user_id).await?;
                Ok((self.answer(user_id, &entry)?, "miss"))
            }
        }
    }

    fn answer(&self, user_id: &UserId, entry: &Entry) -> Result<RemoteUser, RemoteUserError> {
        let server = || user_id.server_name().to_owned();
        match &entry.outcome {
            Outcome::Found(profile) => {
                let is_stale = self.now() >= entry.expires_at;
                Ok(RemoteUser {
                    user_id: user_id.to_owned(),
                    profile: profile.clone(),
                    fetched_at: entry.fetched_at,
                    expires_at: entry.expires_at,
                    stale_since: is_stale.then(|| entry.unanswered_since.unwrap_or(entry.expires_at)),
                })
            }
            Outcome::Missing => Err(RemoteUserError::Missing),
            Outcome::Refused(reason) => Err(RemoteUserError::Refused { server: server(), reason: reason.clone() }),
            Outcome::Away(reason) => Err(RemoteUserError::Away { reason: reason.clone() }),
        }
    }

    /// What is known of a user without asking.
    async fn known(&self, user_id: &UserId) -> Result<Option<Arc<Entry>>, store::Error> {
        if let Some(entry) = self.shared.memory.get(user_id) {
            return Ok(Some(entry));
        }
        let begun = self.book().purges;
        let Some(entry) = self.stored(user_id).await? else { return Ok(None) };
        let entry = Arc::new(entry);
        self.remember(user_id, &entry, begun);
        Ok(Some(entry))
    }

    async fn stored(&self, user_id: &UserId) -> Result<Option<Entry>, store::Error> {
        let row = self.shared.store.remote_users().find(user_id).await?;
        row.map(|row| Entry::of_row(row, &self.shared.config)).transpose()
    }

    /// Memory holds `entry` from now on, unless users were purged since `begun`.
    fn remember(&self, user_id: &UserId, entry: &Arc<Entry>, begun: u64) {
        let book = self.book();
        if book.purges == begun {
            self.shared.memory.insert(user_id.to_owned(), entry.clone());
        }
    }

    /// Forgets everything about the users of the servers that `pattern` means: call it when they are trusted less than
    /// before. What was on its way from there is not kept either. Other nodes need not be told: each asks how far a
    /// server is trusted before it shows anything.
    pub async fn purge(&self, pattern: &PeerPattern) -> Result<(), store::Error> {
        let servers = self.shared.store.remote_users().servers().await?;
        let mut write = Write::new();
        for server in servers.iter().filter(|server| pattern.matches(server)) {
            rows::purge(&mut write, server);
        }
        let slot = self.shared.store.reserve().await?;
        let pending = {
            let mut book = self.book();
            self.forget(pattern, &mut book);
            slot.enqueue(write)
        };
        pending.committed().await?;
        // Once more for those who have read what was about to go.
        self.forget(pattern, &mut self.book());
        counter!("comity_remote_user_purges_total").increment(1);
        Ok(())
    }

    fn forget(&self, pattern: &PeerPattern, book: &mut Book) {
        book.purges += 1;
        self.shared.memory.retain(|user_id, _| !pattern.matches(user_id.server_name()));
    }

    /// Takes in what is heard, and removes from the store what is too old, until it is dropped.
    pub async fn tend(&self) {
        let mut sweeps = tokio::time::interval(SWEEP_EVERY);
        loop {
            let done = tokio::select! {
                _ = sweeps.tick() => self.sweep().await,
                heard = self.hear() => self.take_in(heard).await,
            };
            if let Err(error) = done {
                warn!(error = &error as &dyn std::error::Error, "failed to keep the profiles of remote users in order");
            }
        }
    }

    async fn sweep(&self) -> Result<(), store::Error> {
        let mut write = Write::new();
        self.add_sweep(&mut write);
        self.shared.store.commit(write).await?;
        gauge!("comity_remote_users_kept").set(self.shared.store.remote_users().count().await? as f64);
        Ok(())
    }

    fn add_sweep(&self, write: &mut Write) {
        let until = self.now().saturating_sub(millis(self.shared.config.stale));
        rows::sweep(write, until, self.shared.config.kept);
    }

    fn standing(&self, entry: &Entry) -> Standing {
        entry.standing(self.now(), &self.shared.config)
    }

    fn now(&self) -> Millis {
        (self.shared.clock)()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tests bring their own of.
pub(crate) struct Parts {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) trust: Trust,
    pub(crate) clock: Clock,
}
