//! The people of this server: their accounts, sessions, devices, keys and profiles.
//!
//! **Invariant.** Nobody acts as a user without a token that this crate gave out, and of tokens and passwords only
//! hashes are kept. What remembers anything in memory is bounded.
//!
//! **To add a way to log in:** a variant of [`Credentials`], checked in `login.rs`. **To add something that asks for
//! the password again:** an [`Act`], and [`Users::authorize`] before it takes effect.

mod accounts;
mod admin_register;
pub mod applications;
mod approvals;
mod browsers;
mod calls;
mod config;
mod cross_signing;
mod custody;
mod device_keys;
mod devices;
pub mod directory;
mod discovery;
mod emails;
mod failures;
mod guests;
mod ip_bans;
mod jwt;
mod key_backups;
mod key_updates;
mod last_seen;
mod limits;
mod login;
pub mod oauth;
mod openid;
mod own_email;
mod passwords;
mod profiles;
mod remote_fetch;
mod remote_key_updates;
mod remote_keys;
mod remote_lists;
mod remote_users;
mod roles;
mod search;
mod search_elsewhere;
mod second_factor;
mod secrets;
mod security;
mod server_user;
pub mod sso;
mod suspensions;
mod tickets;
mod timeouts;
mod tokens;
mod uia;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use fabric::{Cache, Mailer};
use model::{Millis, gate::GateSlot};
use peers::{Peers, vault::Vault};
use ruma::OwnedServerName;
use store::Store;

pub use accounts::{Account, AccountError, NewAccount, RegisterError, Registered, Registration};
pub use admin_register::AdminRegistration;
pub use approvals::{ApprovalError, PendingAccount};
pub use browsers::{BROWSER_LIFETIME, SignIn};
pub use calls::{CallsConfig, TurnCredentials};
pub use config::{AccountsConfig, ApplicationsConfig, HashCosts, Rate, RateLimitsConfig, RegistrationConfig};
pub use cross_signing::{CrossSigningUpload, SignatureFailures};
pub use custody::{AccountState, CustodyError, Restriction, UserDetails, UserRecord};
pub use device_keys::{ClaimedKeys, KeyError, KeyQuery, KeyUpload};
pub use devices::{Device, DeviceError};
pub use directory::{
    Card, DirectoryConfig, DirectoryError, Facts, FoundPhone, FoundPhones, PhoneKind, PhoneSearch, SipPhone, Unit,
};
pub use discovery::LookupError;
pub use emails::{CodePurpose, EmailError, EmailProof};
pub use ip_bans::{IpBanError, OnBansChanged};
pub use jwt::PublicTokenKey;
pub use key_backups::{KeyBackup, KeyBackupError};
pub use limits::{Limited, Limits};
pub use login::{Credentials, LoginError, LoginRequest};
pub use openid::{OPENID_LIFETIME, OpenIdError};
pub use profiles::{Profile, ProfileError};
pub use remote_keys::RemoteFailures;
pub use remote_users::{RemoteProfile, RemoteUser, RemoteUserError, RemoteUsers, RemoteUsersConfig, native_name};
pub use roles::{Role, UnknownRole};
pub use search::{People, Person};
pub use search_elsewhere::SearchElsewhereError;
pub use second_factor::{Enrolment, SecondFactor, SecondFactorError};
pub use security::{OnSecurityEvent, SecurityEvent};
pub use store::{
    custody::CustodySearch as AccountSearch,
    key_backups::{BackedUpKeyRow as BackedUpKey, KeyRange},
};
pub use tickets::{TICKET_LIFETIME, TicketError};
pub use tokens::{NewSession, OnSessionEnd, Session, SessionData, TokenError, TokenStyle};
pub use uia::{Act, Refused};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// How accounts and their sessions behave.
#[derive(Clone, Debug, Default)]
pub struct UsersConfig {
    /// `[accounts]`.
    pub accounts: AccountsConfig,
    /// `[registration]`.
    pub registration: RegistrationConfig,
    /// `[rate_limits]`.
    pub rate_limits: RateLimitsConfig,
    /// `[federation] remote_user…`.
    pub remote_users: RemoteUsersConfig,
    /// `[applications]`.
    pub applications: ApplicationsConfig,
    /// `[cascade]`, what of it is about this server's own people.
    pub directory: DirectoryConfig,
    /// `[calls]`.
    pub calls: CallsConfig,
    /// `[oauth]`.
    pub oauth: oauth::OauthConfig,
    /// `[sso]`.
    pub sso: sso::SsoConfig,
    /// Where browsers reach this server, without a slash at the end; `None`: there are no pages to send them to.
    pub public_baseurl: Option<String>,
}

/// What the nodes of a deployment have in common besides the database.
pub struct Shared {
    /// In which they count how often somebody asks.
    pub cache: Cache,
    /// By which secrets in the database are sealed. One that was made for this process alone knows nothing of what another has sealed.
    pub vault: Arc<Vault>,
    /// Where letters are handed over; `None`: this server sends none.
    pub mailer: Option<Mailer>,
}

/// The users of this server.
pub struct Users {
    server_name: OwnedServerName,
    config: UsersConfig,
    store: Store,
    peers: Peers,
    clock: Clock,
    limits: Arc<Limits>,
    lookups: discovery::Lookups,
    failures: failures::Failures,
    passwords: passwords::Passwords,
    sessions: tokens::Sessions,
    tickets: tickets::Tickets,
    /// What is remembered of the requests of applications.
    signed: applications::Signed,
    last_seen: last_seen::LastSeen,
    remote_users: RemoteUsers,
    list_fetches: remote_fetch::ListFetches,
    signer: secrets::Signer,
    /// Seals what is stored and must be read again.
    vault: Arc<Vault>,
    /// Signs the access tokens that other programs can verify.
    token_key: jwt::TokenKey,
    /// Where letters are handed over, if this server sends any.
    mailer: Option<Mailer>,
    watch: security::Watch,
    suspensions: suspensions::Suspensions,
    bans: ip_bans::Bans,
    door: accounts::Door,
    gate: GateSlot,
    /// Who else vouches for people.
    sso: sso::Providers,
}

impl Users {
    /// Opens the service on what `store` holds.
    pub async fn open(config: UsersConfig, store: Store, peers: Peers) -> Result<Arc<Self>, store::Error> {
        Self::open_at(config, store, peers, Arc::new(wall_clock)).await
    }

    /// As [`Self::open`], for a node of a deployment.
    pub async fn open_sharing(
        config: UsersConfig,
        store: Store,
        peers: Peers,
        shared: Shared,
    ) -> Result<Arc<Self>, store::Error> {
        Self::open_with(config, store, peers, shared, Arc::new(wall_clock)).await
    }

    /// As [`Self::open`], with a clock.
    pub async fn open_at(
        config: UsersConfig,
        store: Store,
        peers: Peers,
        clock: Clock,
    ) -> Result<Arc<Self>, store::Error> {
        let vault = Vault::ephemeral().expect("a system without randomness runs no server");
        let shared = Shared { cache: Cache::in_process(), vault: Arc::new(vault), mailer: None };
        Self::open_with(config, store, peers, shared, clock).await
    }

    async fn open_with(
        config: UsersConfig,
        store: Store,
        peers: Peers,
        shared: Shared,
        clock: Clock,
    ) -> Result<Arc<Self>, store::Error> {
        let Shared { cache, vault, mailer } = shared;
        let server_name = peers.server_name().to_owned();
        let parts =
            remote_users::Parts { source: Arc::new(peers.clone()), trust: peers.trust().clone(), clock: clock.clone() };
        let users = Arc::new(Self {
            remote_users: RemoteUsers::new(config.remote_users.clone(), server_name.clone(), store.clone(), parts),
            server_name,
            signer: secrets::Signer::open(&store).await?,
            limits: Arc::new(Limits::new(&config.rate_limits, &cache)),
            signed: applications::Signed::new(&cache),
            lookups: discovery::Lookups::default(),
            failures: failures::Failures::new(config.accounts.failed_logins_allowed, cache),
            passwords: passwords::Passwords::new(config.accounts.concurrent_hashes, config.accounts.hash_costs),
            sessions: tokens::Sessions::new(config.accounts.session_cache),
            tickets: tickets::Tickets::default(),
            last_seen: last_seen::LastSeen::default(),
            list_fetches: remote_fetch::ListFetches::default(),
            token_key: jwt::TokenKey::of(&vault),
            vault,
            mailer,
            watch: security::Watch::default(),
            suspensions: suspensions::Suspensions::default(),
            bans: ip_bans::Bans::default(),
            door: accounts::Door::of(&config.registration),
            sso: sso::Providers::of(&config.sso),
            gate: GateSlot::default(),
            config,
            store,
            peers,
            clock,
        });
        // Before anybody is let in.
        users.look_at_suspensions().await?;
        users.look_at_bans().await?;
        Ok(users)
    }

    /// Where to put whoever is to be asked before somebody registers.
    pub fn gate(&self) -> &GateSlot {
        &self.gate
    }

    /// The rate limits of this server, for those who take what users send.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.clone()
    }

    /// What is known of users of other domains.
    pub fn remote_users(&self) -> &RemoteUsers {
        &self.remote_users
    }

    /// How accounts and their sessions behave.
    pub fn config(&self) -> &UsersConfig {
        &self.config
    }

    /// Where letters are handed over, if this server sends any.
    pub fn mailer(&self) -> Option<&Mailer> {
        self.mailer.as_ref()
    }

    /// Whether a user of this name would be one of ours.
    pub fn is_ours(&self, user_id: &ruma::UserId) -> bool {
        user_id.server_name() == self.server_name
    }

    fn now(&self) -> Millis {
        (self.clock)()
    }
}

/// A length of time as this crate counts it.
fn millis(length: std::time::Duration) -> Millis {
    Millis::try_from(length.as_millis()).unwrap_or(Millis::MAX / 2)
}

fn wall_clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod testing;
