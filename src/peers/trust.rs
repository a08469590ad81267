//! How far other servers are trusted, and what follows from it: the one place that every act by a peer, and every act towards
//! one, passes through.
//!
//! What the levels mean stands in [`model::peer::TABLE`], and what follows in [`model::peer::decide`]. Here is what that needs to
//! know: which row is about a server, and what an admin has set in it.

mod acts;
mod audit;
mod change;
mod paths;
mod rates;
mod register;
mod retry;
mod settings;
mod simulate;
mod turn;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use model::{
    Kind, Millis, Refusal,
    peer::{
        Allowed, Capability, Context, Decision, Denied, Direction, Fact, PeerPattern, Regard, Rule, Standing,
        TrustLevel, decide,
    },
};
use ruma::{OwnedServerName, RoomId, ServerName};
use store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::lists::{Listings, Remembered};
use acts::Acts;
use rates::Rates;
use register::{Entry, Register};

pub use audit::{AuditEntry, Author, Broken};
pub use change::{Audited, ChangeError, PeerChange};
pub use rates::Rate;
pub use register::Source;
pub use settings::{Limits, PeerSettings, Transport, View};
pub use simulate::{Simulated, Simulation};
pub(crate) use turn::Act;

/// How often it is looked whether somebody else has changed a peer: another node, or the command line.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often what peers did is written down.
const WRITE_ACTS_EVERY: u32 = 10;

/// How servers are trusted that no admin has set, and what that means in numbers.
#[derive(Clone, Debug)]
pub struct TrustConfig {
    /// The level of servers that nobody has set.
    pub default_level: TrustLevel,
    /// Refusals are counted and logged, but not made.
    pub shadow: bool,
    /// How often a peer may ask whose requests are paced …
    pub paced: Rate,
    /// … and one whose requests are slow.
    pub slow: Rate,
    /// How long a list of servers that is out of date goes on for everybody in it, before it lifts nobody new.
    pub list_grace: Duration,
}

impl Default for TrustConfig {
    fn default() -> Self {
        Self {
            default_level: TrustLevel::Limited,
            shadow: false,
            paced: Rate { per_second: 50.0, burst: 250 },
            slow: Rate { per_second: 5.0, burst: 50 },
            list_grace: Duration::from_hours(7 * 24),
        }
    }
}

/// How far other servers are trusted. Cheap to clone.
#[derive(Clone)]
pub struct Trust {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    us: OwnedServerName,
    config: TrustConfig,
    register: RwLock<Arc<Register>>,
    rates: Rates,
    acts: Acts,
    /// Told whenever the register was read.
    read: watch::Sender<()>,
    /// What the lists say that this server goes by.
    remembered: Remembered,
}

/// Why the trust policy refused something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The peer may not.
    #[error("{server} may not do this here: {denied}")]
    Inbound {
        /// Which peer.
        server: OwnedServerName,
        /// By which rule.
        denied: Denied,
    },
    /// This server may not, towards that peer.
    #[error("this server's trust policy does not allow this towards {server} ({rule})", rule = denied.rule)]
    Outbound {
        /// Which peer.
        server: OwnedServerName,
        /// By which rule.
        denied: Denied,
    },
    /// Too often.
    #[error("{server} asks too often ({rule})")]
    TooOften {
        /// Which peer.
        server: OwnedServerName,
        /// By which rule.
        rule: Rule,
        /// When it may ask again.
        retry_after: Duration,
    },
}

impl TrustError {
    /// By which rule.
    pub fn rule(&self) -> Rule {
        match self {
            Self::Inbound { denied, .. } | Self::Outbound { denied, .. } => denied.rule,
            Self::TooOften { rule, .. } => *rule,
        }
    }
}

impl Refusal for TrustError {
    fn kind(&self) -> Kind {
        match self {
            Self::Inbound { .. } | Self::Outbound { .. } => Kind::Forbidden,
            Self::TooOften { .. } => Kind::RateLimited,
        }
    }

    fn code(&self) -> Option<&'static str> {
        (self.kind() == Kind::Forbidden).then_some("not_trusted")
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::TooOften { retry_after, .. } => u64::try_from(retry_after.as_millis()).ok(),
            _ => None,
        }
    }
}

impl Trust {
    /// `us`: the name of this server, which may do everything. Knows no peer until [`Self::load`].
    pub(crate) fn new(store: Store, us: OwnedServerName, config: TrustConfig) -> Self {
        let rates = Rates::new(&config);
        let register = RwLock::new(Arc::new(Register::empty(config.default_level)));
        let (acts, read) = (Acts::default(), watch::Sender::new(()));
        let remembered = Remembered::default();
        let shared = Shared { store, us, config, register, rates, acts, read, remembered };
        Self { shared: Arc::new(shared) }
    }

    /// Counts what peers ask together with other nodes, as far as `cache` reaches. Before [`Self::tend`].
    pub fn share(&self, cache: &fabric::Cache) {
        self.shared.rates.share(cache);
    }

    /// How `server` is regarded now.
    pub fn regard(&self, server: &ServerName) -> Regard {
        match *server == self.shared.us {
            true => Regard::of_level(TrustLevel::Full),
            false => self.register().find(server).regard,
        }
    }

    /// Decides whether a peer may do something here, or this server towards it; counted, and logged if it is refused.
    ///
    /// A fact that would have to be looked up and that `context` doesn't know counts as not so: who can look it up, asks
    /// [`Self::allow_knowing`].
    pub fn allow(&self, server: &ServerName, capability: Capability, context: &Context) -> Result<Allowed, TrustError> {
        match self.decide(server, capability, context) {
            Decision::Ask(fact) => {
                let context = context.knowing(fact, false);
                self.settle(server, capability, &context, self.decide(server, capability, &context))
            }
            decided => self.settle(server, capability, context, decided),
        }
    }

    /// As [`Self::allow`], where what the decision hangs on can be looked up; most hang on nothing.
    pub async fn allow_knowing<E: From<TrustError>>(
        &self,
        server: &ServerName,
        capability: Capability,
        context: &Context,
        look_up: impl AsyncFnOnce(Fact) -> Result<bool, E>,
    ) -> Result<Allowed, E> {
        let mut context = *context;
        let mut decision = self.decide(server, capability, &context);
        if let Decision::Ask(fact) = decision {
            context = context.knowing(fact, look_up(fact).await?);
            decision = self.decide(server, capability, &context);
        }
        Ok(self.settle(server, capability, &context, decision)?)
    }

    /// As [`Self::allow`], but what hangs on something that isn't known is let pass: whoever goes on decides it.
    pub fn admit(&self, server: &ServerName, capability: Capability, direction: Direction) -> Result<(), TrustError> {
        let context = Context { direction, ..Context::inbound() };
        // Whoever answers, or asks, decides the rest, and counts it then.
        let is_decided_here = capability == Capability::Events;
        match self.decide(server, capability, &context) {
            Decision::Ask(_) => Ok(()),
            Decision::Allow(_) if !is_decided_here => Ok(()),
            decided => self.settle(server, capability, &context, decided).map(drop),
        }
    }

    /// Whether a peer may make this request of the server-server API: its share of requests, and what it asks for. What hangs on
    /// whom it asks about is let pass; whoever answers decides that.
    pub fn admit_request(&self, server: &ServerName, path: &str) -> Result<(), TrustError> {
        self.admit(server, paths::capability_of(path, Direction::In), Direction::In)?;
        self.pace(server)
    }

    /// As [`Self::admit_request`], the other way.
    pub(crate) fn admit_asking(&self, server: &ServerName, path: &str) -> Result<(), TrustError> {
        self.admit(server, paths::capability_of(path, Direction::Out), Direction::Out)
    }

    /// Whether an admin has approved of people of this server joining `room_id` through `server`.
    pub fn has_approved(&self, server: &ServerName, room_id: &RoomId) -> bool {
        self.register().find(server).settings.approved_rooms.iter().any(|approved| approved == room_id)
    }

    /// The servers with which there are to be links between brokers: each has a row of its own, by which it is trusted with that,
    /// and which does not say that its transport is HTTPS.
    pub fn broker_peers(&self) -> Vec<(OwnedServerName, Transport)> {
        let register = self.register();
        let linked = register.rows().filter_map(|(pattern, entry)| {
            let PeerPattern::Exact(server) = pattern else { return None };
            let allowed = decide(&entry.regard, Capability::Broadcasts, &Context::inbound());
            let transport = entry.settings.transport;
            let is_linked = matches!(allowed, Decision::Allow(_)) && transport != Transport::Https;
            is_linked.then_some((server, transport))
        });
        linked.collect()
    }

    /// The servers with which this one shares its directory: each has a row of its own, by which it is trusted with that.
    pub fn cascade_peers(&self) -> Vec<OwnedServerName> {
        let register = self.register();
        let named = register.rows().filter_map(|(pattern, _)| match pattern {
            PeerPattern::Exact(server) => Some(server),
            PeerPattern::Below(_) => None,
        });
        named.filter(|server| self.is_cascade_peer(server)).collect()
    }

    /// Whether `server` is one of [`Self::cascade_peers`]. Not counted as an act of it.
    pub fn is_cascade_peer(&self, server: &ServerName) -> bool {
        let entry = self.register().find(server);
        let allowed = decide(&entry.regard, Capability::Broadcasts, &Context::outbound());
        *server != self.shared.us
            && matches!(allowed, Decision::Allow(_))
            && matches!(&entry.source, Source::Row { pattern } if pattern.eq_ignore_ascii_case(server.as_str()))
    }

    /// The only keys that a server may sign with, by their ids, base64; none: whatever it says of itself.
    pub(crate) fn pinned_keys(&self, server: &ServerName) -> BTreeMap<String, String> {
        self.register().find(server).settings.pinned_keys.clone()
    }

    /// Where a server is, as host and port, if an admin has set that.
    pub(crate) fn endpoint(&self, server: &ServerName) -> Option<OwnedServerName> {
        // The row of a host says nothing of other servers at other ports of it.
        let entry = server.port().is_none().then(|| self.register().find(server))?;
        entry.settings.endpoint.clone()
    }

    /// How transactions travel to `server`, as an admin has set it.
    pub fn transport(&self, server: &ServerName) -> Transport {
        self.register().find(server).settings.transport
    }

    /// Whether `server` may send transactions over a broker; not counted as an act of it.
    pub fn may_carry(&self, server: &ServerName, direction: Direction) -> bool {
        let context = Context { direction, ..Context::inbound() };
        self.is_shadow(server) || matches!(self.decide(server, Capability::Broadcasts, &context), Decision::Allow(_))
    }

    /// How transactions travel to those that admins have set, this server left aside.
    pub fn transports(&self) -> Vec<(PeerPattern, Transport)> {
        let rows = self.register();
        let others = rows.rows().filter(|(pattern, _)| !pattern.matches(&self.shared.us));
        others.map(|(pattern, entry)| (pattern, entry.settings.transport)).collect()
    }

    /// Whether it is by a list that `server` is regarded as it is.
    pub(crate) fn is_listed(&self, server: &ServerName) -> bool {
        matches!(self.source(server), Source::List { .. })
    }

    /// The keys that the list names by which `server` is regarded.
    pub(crate) fn listed_keys(&self, server: &ServerName) -> BTreeMap<String, String> {
        self.register().find(server).listed_keys.clone()
    }

    /// When the first list ended that goes on for everybody in it.
    pub(crate) fn first_stale_list(&self) -> Option<Millis> {
        self.register().first_stale()
    }

    /// How long lists go on so, in milliseconds.
    pub(crate) fn list_grace(&self) -> Millis {
        Millis::try_from(self.shared.config.list_grace.as_millis()).unwrap_or(Millis::MAX / 2)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// How large a file a peer is given at most, where an admin has set that.
    pub fn media_limit(&self, server: &ServerName) -> Option<u64> {
        self.register().find(server).settings.limits.media_bytes
    }

    /// In how many rooms here people of a peer may be, where an admin has set that.
    pub fn room_limit(&self, server: &ServerName) -> Option<u64> {
        self.register().find(server).settings.limits.rooms
    }

    /// Refuses that people of a peer come into another room, for they are in as many as they may be.
    pub fn refuse_room(
        &self,
        server: &ServerName,
        capability: Capability,
        direction: Direction,
    ) -> Result<(), TrustError> {
        let context = Context { direction, ..Context::inbound() };
        let denied = Decision::Deny(Denied { rule: Rule::Rooms });
        self.settle(server, capability, &context, denied).map(drop)
    }

    /// The last change of the peers that this node has heard of.
    pub fn revision(&self) -> i64 {
        self.register().head()
    }

    /// Why `server` is regarded as it is, and how: for its own admins and ours.
    pub fn source(&self, server: &ServerName) -> Source {
        self.register().find(server).source.clone()
    }

    /// The server is there: it has answered, or proved who it is.
    pub(crate) fn note_answered(&self, server: &ServerName) {
        self.shared.acts.note_answered(server);
    }

    /// Takes one request of a peer's from what it may ask in a time.
    pub fn pace(&self, server: &ServerName) -> Result<(), TrustError> {
        let entry = self.register().find(server);
        let grant = entry.regard.grant(Capability::Events);
        let Err(retry_after) = self.shared.rates.take(server, grant, &entry) else {
            return Ok(());
        };
        let rule = Rule::Rate(Capability::Events);
        self.note(server, Capability::Events, &Context::inbound(), Some(rule));
        match self.is_shadow(server) {
            true => Ok(()),
            false => Err(TrustError::TooOften { server: server.to_owned(), rule, retry_after }),
        }
    }

    /// Whether people are shown what somebody of `server` said in a room, or while, it demanded `least`.
    pub fn shows(&self, server: &ServerName, least: TrustLevel) -> bool {
        let context = Context::inbound().in_room(Some(least));
        *server == self.shared.us
            || self.is_shadow(server)
            || matches!(decide(&self.regard(server), Capability::Events, &context), Decision::Allow(_))
    }

    /// What admins have set, and whether people are shown what servers that it is about say in a room that demands `least`.
    pub fn rows_shown(&self, least: TrustLevel) -> Vec<(PeerPattern, bool)> {
        let context = Context::inbound().in_room(Some(least));
        let shows = |entry: &Entry| {
            self.shared.config.shadow
                || entry.shadow
                || matches!(decide(&entry.regard, Capability::Events, &context), Decision::Allow(_))
        };
        self.register().rows().map(|(pattern, entry)| (pattern, shows(entry))).collect()
    }

    /// Tells whenever what is set for peers may have changed, here or elsewhere.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.read.subscribe()
    }

    /// What the sender's server must be trusted for people to be shown an event that has just come, in a room that demands
    /// `ceiling`. `None`: it may be shown whatever becomes of the trust.
    pub fn withholds(&self, server: &ServerName, ceiling: Option<TrustLevel>) -> Option<TrustLevel> {
        if *server == self.shared.us {
            return None;
        }
        let context = Context::inbound().in_room(ceiling);
        match decide(&self.regard(server), Capability::Events, &context) {
            Decision::Deny(denied) => {
                self.note(server, Capability::Events, &context, Some(denied.rule));
                Some(ceiling.unwrap_or(TrustLevel::Restricted).max(TrustLevel::Restricted))
            }
            Decision::Allow(_) | Decision::Ask(_) => None,
        }
    }

    fn decide(&self, server: &ServerName, capability: Capability, context: &Context) -> Decision {
        decide(&self.regard(server), capability, context)
    }

    fn settle(
        &self,
        server: &ServerName,
        capability: Capability,
        context: &Context,
        decision: Decision,
    ) -> Result<Allowed, TrustError> {
        if *server == self.shared.us {
            return Ok(Allowed { grant: capability.at(TrustLevel::Full) });
        }
        let denied = match decision {
            Decision::Allow(allowed) => {
                self.note(server, capability, context, None);
                return Ok(allowed);
            }
            Decision::Deny(denied) => denied,
            Decision::Ask(_) => unreachable_ask(capability),
        };
        self.note(server, capability, context, Some(denied.rule));
        if self.is_shadow(server) {
            return Ok(Allowed { grant: capability.at(TrustLevel::Full) });
        }
        let server = server.to_owned();
        Err(match context.direction {
            Direction::In => TrustError::Inbound { server, denied },
            Direction::Out => TrustError::Outbound { server, denied },
        })
    }

    fn note(&self, server: &ServerName, capability: Capability, context: &Context, rule: Option<Rule>) {
        let is_set = context.direction == Direction::In || self.register().find(server).source != Source::Default;
        self.shared.acts.note(server, is_set, capability, context, rule);
        if let Some(rule) = rule {
            debug!(server.name = %server, %rule, direction = context.direction.as_str(), "the trust policy refused something");
        }
    }

    /// Whether refusals concerning this server are only logged.
    fn is_shadow(&self, server: &ServerName) -> bool {
        self.shared.config.shadow || self.register().find(server).shadow
    }

    fn register(&self) -> Arc<Register> {
        self.shared.register.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is set for peers, and what lists say of them, as the store has it.
    pub async fn load(&self) -> Result<(), store::Error> {
        let Shared { store, config, remembered, .. } = &*self.shared;
        let head = store.audit().head().await?;
        let rows = store.peers().list().await?;
        let lists = Listings::read(store, remembered).await?;
        let now = crate::keys::wall_clock();
        let register = Register::new(&rows, config.default_level, head, now).with_lists(&lists, now);
        let mut current = self.shared.register.write().unwrap_or_else(PoisonError::into_inner);
        // Of two who read at once, the one who read first must not have the last word.
        if register.head() >= current.head() {
            *current = Arc::new(register.with_buckets_of(&current));
        }
        drop(current);
        self.shared.read.send_replace(());
        Ok(())
    }

    /// As [`Self::load`], and closes lists that ran out meanwhile: to be called before anybody is let in.
    pub async fn open(&self) -> Result<(), store::Error> {
        self.load().await?;
        self.close_stale_lists(crate::keys::wall_clock()).await
    }

    /// Keeps up with changes that others make, lets rows expire, and writes down what peers did, until `stop` is cancelled.
    pub async fn tend(&self, stop: CancellationToken) {
        tokio::join!(self.shared.rates.add_up(&stop), self.keep_up(&stop));
    }

    async fn keep_up(&self, stop: &CancellationToken) {
        let mut ticks = 0_u32;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.look().await {
                warn!(error = &error as &dyn std::error::Error, "could not look up how peers are trusted");
            }
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(WRITE_ACTS_EVERY) {
                self.write_acts().await;
            }
        }
        self.write_acts().await;
    }

    async fn look(&self) -> Result<(), store::Error> {
        let known = self.register();
        let now: Millis = crate::keys::wall_clock();
        if known.is_outdated(now) || self.shared.store.audit().head().await? != known.head() {
            self.load().await?;
        }
        self.close_stale_lists(now).await
    }

    pub(crate) async fn write_acts(&self) {
        if let Err(error) = self.shared.acts.write(&self.shared.store).await {
            warn!(error = &error as &dyn std::error::Error, "could not write down what peers did");
        }
    }
}

/// [`decide`] asks for one fact at most, and it was given.
fn unreachable_ask(capability: Capability) -> Denied {
    debug_assert!(false, "{capability} hangs on two facts");
    Denied { rule: Rule::Level(TrustLevel::Blocked, capability, model::peer::Grant::No) }
}

/// Whether a row is in force, in the words of the API.
pub(crate) fn standing_of(inactive_at: Option<Millis>, alarm: Option<&str>) -> Standing {
    match (inactive_at, alarm) {
        (Some(_), _) => Standing::Inactive,
        (None, Some(_)) => Standing::Alarmed,
        (None, None) => Standing::Active,
    }
}

#[cfg(test)]
mod tests;
