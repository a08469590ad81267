//! The sections of the configuration.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use integrations::system_events::Severity;
use media::{ClamdAddress, KindPattern};
use model::peer::TrustLevel;
use ruma::{OwnedServerName, RoomVersionId};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{DatabaseUrl, Secret, ServiceUrl, human, service_url};
use crate::proxies::Network;

/// `[listen]`: where the server takes connections, and how it lets go of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Listen {
    /// Plain HTTP. Port 0 takes any free port.
    #[serde(deserialize_with = "human::address")]
    pub client: SocketAddr,
    /// TLS, for other servers and for clients; needs `[tls]`. Unset: none.
    pub federation: Option<SocketAddr>,
    /// How many connections may be open at once, and how many of them from one address.
    #[serde(deserialize_with = "human::whole::<_, 10, 1_000_000>")]
    pub max_connections: u32,
    /// Reverse proxies that are believed when they say for whom they ask, in `X-Forwarded-For`.
    pub trusted_proxies: Vec<Network>,
    /// How long requests may go on after SIGINT or SIGTERM before they are cut off.
    #[serde(with = "human::duration")]
    pub shutdown_timeout: Duration,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            client: SocketAddr::from(([127, 0, 0, 1], 8008)),
            federation: None,
            max_connections: 10_000,
            trusted_proxies: Vec::new(),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// `[tls]`: who this server shows itself to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// PEM: the server's certificate, and those between it and an authority.
    pub certificate: Option<PathBuf>,
    /// PEM: the private key of the certificate.
    pub private_key: Option<PathBuf>,
}

/// `[federation]`: talking with other servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Federation {
    /// Whether this server talks with others at all.
    pub enabled: bool,
    /// PEM: authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the certificates of other servers are checked.
    pub verify_tls: bool,
    /// Whether servers at loopback and private addresses are talked to.
    pub allow_private_addresses: bool,
    /// Which name servers are asked; none: the system's.
    pub nameservers: Vec<SocketAddr>,
    /// Servers that are asked for the keys of those that don't answer.
    pub trusted_key_servers: Vec<OwnedServerName>,
    /// How far servers are trusted that no admin has set.
    #[serde(deserialize_with = "human::trust_level")]
    pub default_trust: TrustLevel,
    /// What the trust policy refuses is counted and logged, but let pass.
    pub trust_shadow: bool,
    /// How often lists of servers that are subscribed to are asked for.
    #[serde(with = "human::duration")]
    pub list_refresh: Duration,
    /// How long a list that is out of date goes on for everybody in it.
    #[serde(with = "human::duration")]
    pub list_grace: Duration,
    /// Requests of a peer whose level paces them, by peer.
    pub paced: Rate,
    /// Requests of a peer whose level slows them, by peer.
    pub slow: Rate,
    /// Whether other servers are told of the public rooms.
    pub public_rooms: bool,
    /// Where other servers find this one, as the domain's well-known file says; none: there is no such file here.
    pub well_known_server: Option<OwnedServerName>,
    /// How long a connection to another server may take to be made.
    #[serde(with = "human::duration")]
    pub connect_timeout: Duration,
    /// How long another server's answer may take, from connecting to its last byte.
    #[serde(with = "human::duration")]
    pub request_timeout: Duration,
    /// How long it is taken to be so what users of other servers said of themselves.
    #[serde(with = "human::duration")]
    pub remote_user_fresh: Duration,
    /// How long it is shown, marked as old, while their servers are away.
    #[serde(with = "human::duration")]
    pub remote_user_stale: Duration,
    /// How long it is taken to be so that a server knows no such user.
    #[serde(with = "human::duration")]
    pub remote_user_missing: Duration,
    /// Of how many users of other servers it is kept.
    #[serde(deserialize_with = "human::whole::<_, 1, 100_000_000>")]
    pub remote_users_kept: u32,
    /// How long it is told what became of single events at other servers.
    #[serde(with = "human::duration")]
    pub ledger_keep: Duration,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            enabled: true,
            ca_file: None,
            verify_tls: true,
            allow_private_addresses: false,
            nameservers: Vec::new(),
            trusted_key_servers: Vec::new(),
            default_trust: TrustLevel::Limited,
            trust_shadow: false,
            list_refresh: Duration::from_hours(1),
            list_grace: Duration::from_hours(7 * 24),
            paced: Rate { per_second: 50.0, burst: 250 },
            slow: Rate { per_second: 5.0, burst: 50 },
            public_rooms: true,
            well_known_server: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            remote_user_fresh: Duration::from_hours(1),
            remote_user_stale: Duration::from_hours(7 * 24),
            remote_user_missing: Duration::from_mins(5),
            remote_users_kept: 100_000,
            ledger_keep: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

/// `[outbound]`: asking addresses that users name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Outbound {
    /// PEM: authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether loopback and private addresses are asked.
    pub allow_private_addresses: bool,
}

/// `[calls]`: what clients need to call each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Calls {
    /// Where the relay is.
    pub turn_uris: Vec<String>,
    /// What the relay and this server know.
    pub turn_secret: Option<Secret>,
    /// How long it may be used that a client is told.
    #[serde(with = "human::duration")]
    pub turn_lifetime: Duration,
    /// Where clients are let into calls of many.
    pub livekit_url: Option<Url>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { turn_uris: Vec::new(), turn_secret: None, turn_lifetime: Duration::from_hours(24), livekit_url: None }
    }
}

/// `[database]`: where everything is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Database {
    /// Unset: SQLite in the data folder. Ask [`super::Config::database_url`], which knows.
    pub url: Option<DatabaseUrl>,
    /// How many connections may read at once; the writer has one of its own besides.
    #[serde(deserialize_with = "human::whole::<_, 1, 1000>")]
    pub max_connections: u32,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: None, max_connections: 8 }
    }
}

/// `[bus]`: the broker at which other programs, other nodes and full peers are met.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Bus {
    /// Of RabbitMQ. Unset: the bus is in this process.
    #[serde(deserialize_with = "service_url::amqp")]
    pub url: Option<ServiceUrl>,
    /// Of its management plugin, with a user who may administrate. Unset: links to the brokers of peers are set by hand.
    #[serde(deserialize_with = "service_url::http")]
    pub management_url: Option<ServiceUrl>,
    /// PEM: authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM: the certificate that this server shows to the broker, and those between it and an authority.
    pub certificate: Option<PathBuf>,
    /// PEM: the private key of that certificate.
    pub private_key: Option<PathBuf>,
    /// Where peers reach the broker: host and port. Unset: they aren't told.
    #[serde(deserialize_with = "service_url::public_amqp")]
    pub public_url: Option<ServiceUrl>,
    /// What the links with the brokers of peers are made of.
    #[serde(deserialize_with = "human::link_kind")]
    pub link: LinkKind,
    /// PEM, at the machine of the broker: the authorities by which it knows the brokers of peers.
    pub link_ca_file: String,
    /// PEM, at the machine of the broker: what it shows to the brokers of peers.
    pub link_certificate: Option<String>,
    /// PEM, at the machine of the broker: the private key of that certificate.
    pub link_private_key: Option<String>,
    /// What other programs may publish.
    pub publishers: Vec<integrations::Rule>,
}

/// `[broadcasts]`: what people are told by those who run the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Broadcasts {
    /// Whether what full peers broadcast is shown here.
    pub from_peers: bool,
    /// Whether Matrix clients are told by server notices.
    pub notices: bool,
    /// What the sender of notices and the rooms of notices are called.
    pub notices_name: String,
    /// How long broadcasts are kept.
    #[serde(with = "human::duration")]
    pub keep: Duration,
}

impl Default for Broadcasts {
    fn default() -> Self {
        Self {
            from_peers: true,
            notices: true,
            notices_name: "Server notices".to_owned(),
            keep: Duration::from_secs(365 * 24 * 60 * 60),
        }
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            url: None,
            management_url: None,
            ca_file: None,
            certificate: None,
            private_key: None,
            public_url: None,
            link: LinkKind::Upstream,
            link_ca_file: "/etc/ssl/certs/ca-certificates.crt".to_owned(),
            link_certificate: None,
            link_private_key: None,
            publishers: Vec::new(),
        }
    }
}

/// `[cascade]`: the directory of people, their SIP phones and their organisation, which full peers share.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Cascade {
    /// Whether it is shared with full peers, both ways.
    pub enabled: bool,
    /// How often peers are asked what has changed.
    #[serde(with = "human::duration")]
    pub interval: Duration,
    /// How many entries are asked for at once.
    #[serde(deserialize_with = "human::whole::<_, 1, 500>")]
    pub page: u32,
    /// How many people and units of one peer are kept.
    #[serde(deserialize_with = "human::whole::<_, 1, 10_000_000>")]
    pub max_entries: u32,
    /// Whether people may set their own SIP phones.
    pub own_phones: bool,
}

impl Default for Cascade {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_mins(5), page: 200, max_entries: 200_000, own_phones: false }
    }
}

/// `[push]`: what notifies people who aren't looking.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Push {
    /// Whether gateways, and letters, are told what was said, unless a pusher wants to have ids only.
    pub include_content: bool,
    /// Whether a badge counts rooms instead of what is unread.
    pub badge_counts_rooms: bool,
    /// How long something waits to be read before a letter tells of it.
    #[serde(with = "human::duration")]
    pub email_after: Duration,
    /// How long after a letter the next one may come.
    #[serde(with = "human::duration")]
    pub email_every: Duration,
}

impl Default for Push {
    fn default() -> Self {
        Self {
            include_content: true,
            badge_counts_rooms: true,
            email_after: Duration::from_mins(10),
            email_every: Duration::from_hours(1),
        }
    }
}

/// `[events]`: what happened to the server and to the systems around it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// How long system events are kept.
    #[serde(with = "human::duration")]
    pub keep: Duration,
    /// How bad an event must be for admins to get a notice of it; `None`: they get none.
    #[serde(with = "human::severity")]
    pub notify: Option<Severity>,
}

impl Default for Events {
    fn default() -> Self {
        Self { keep: Duration::from_secs(90 * 24 * 60 * 60), notify: Some(Severity::Error) }
    }
}

/// What a link between two brokers is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// RabbitMQ's federation: each broker fetches from the other.
    Upstream,
    /// Shovels: each broker brings to the other.
    Shovel,
}

/// `[cache]`: what nodes share that may be lost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// Of Redis. Unset: the cache is in this process.
    #[serde(deserialize_with = "service_url::redis")]
    pub url: Option<ServiceUrl>,
    /// PEM: authorities that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// `[registration]`: who may make an account by themselves.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Registration {
    /// Whether clients may register accounts at all.
    pub enabled: bool,
    /// A registration token. Any token here or in `tokens` makes registration ask for one.
    pub token: Option<Secret>,
    /// More registration tokens.
    pub tokens: Vec<Secret>,
    /// Whether an account waits until an admin approves of it.
    pub approval: bool,
    /// Whether somebody who registers must show to have an e-mail address; needs `[email]`.
    pub require_email: bool,
    /// The key of the shared-secret registration endpoint; unset: the endpoint is closed.
    pub shared_secret: Option<Secret>,
}

impl Registration {
    /// Every token that lets somebody register; none means that no token is asked for.
    pub fn all_tokens(&self) -> impl Iterator<Item = &Secret> {
        self.token.iter().chain(&self.tokens)
    }
}

/// `[email]`: letters to people.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Email {
    /// The relay that takes them, over SMTP. Unset: none are sent.
    pub smtp_host: Option<String>,
    /// Its port.
    #[serde(deserialize_with = "human::port")]
    pub smtp_port: u16,
    /// How the line to it is kept secret.
    #[serde(deserialize_with = "human::email_tls")]
    pub tls: EmailTls,
    /// PEM: authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// By whom letters are. Unset: no-reply at the server's name.
    pub from: Option<String>,
    /// Who logs in at the relay. Unset: nobody.
    pub user: Option<String>,
    /// By what.
    pub password: Option<Secret>,
    /// How long a code is good that is sent.
    #[serde(with = "human::duration")]
    pub code_lifetime: Duration,
}

impl Default for Email {
    fn default() -> Self {
        Self {
            smtp_host: None,
            smtp_port: 587,
            tls: EmailTls::StartTls,
            ca_file: None,
            from: None,
            user: None,
            password: None,
            code_lifetime: Duration::from_mins(10),
        }
    }
}

/// How the line to the mail relay is kept secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EmailTls {
    /// It isn't.
    None,
    /// It begins plain, and must become TLS.
    StartTls,
    /// TLS from the first byte.
    Tls,
}

/// `[accounts]`: passwords and sessions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Accounts {
    /// How long an access token of a session with a refresh token lives.
    #[serde(with = "human::duration")]
    pub access_token_lifetime: Duration,
    /// How long an access token of the native API lives.
    #[serde(with = "human::duration")]
    pub signed_token_lifetime: Duration,
    /// How long a session goes on in which nobody is seen.
    #[serde(with = "human::patience")]
    pub session_idle: Option<Duration>,
    /// How long a session goes on at most.
    #[serde(with = "human::patience")]
    pub session_lifetime: Option<Duration>,
    pub argon2: Argon2Costs,
    /// How many wrong passwords for one account in a row cost nothing; after them each costs a wait that doubles.
    #[serde(deserialize_with = "human::whole::<_, 0, 1_000_000>")]
    pub failed_logins_allowed: u32,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            access_token_lifetime: Duration::from_mins(5),
            signed_token_lifetime: Duration::from_mins(15),
            session_idle: None,
            session_lifetime: None,
            argon2: Argon2Costs::default(),
            failed_logins_allowed: 10,
        }
    }
}

/// `[accounts.argon2]`: what hashing one password with Argon2id costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Argon2Costs {
    #[serde(deserialize_with = "human::whole::<_, 8, 4_194_304>")]
    pub memory_kib: u32,
    #[serde(deserialize_with = "human::whole::<_, 1, 1000>")]
    pub iterations: u32,
    #[serde(deserialize_with = "human::whole::<_, 1, 64>")]
    pub parallelism: u32,
}

impl Default for Argon2Costs {
    fn default() -> Self {
        Self { memory_kib: 19_456, iterations: 2, parallelism: 1 }
    }
}

/// `[applications]`: back ends of others that may use this server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Applications {
    /// How far the time in a signed request may be from now.
    #[serde(with = "human::duration")]
    pub signature_window: Duration,
    /// How long a session goes on at most that an application opens for a user.
    #[serde(with = "human::duration")]
    pub session_lifetime: Duration,
}

impl Default for Applications {
    fn default() -> Self {
        Self { signature_window: Duration::from_mins(5), session_lifetime: Duration::from_hours(24 * 30) }
    }
}

/// `[oauth]`: the OAuth 2.0 API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Oauth {
    /// Whether clients may come by it; needs `public_baseurl`.
    pub enabled: bool,
}

impl Default for Oauth {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[sso]`: signing in by other providers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sso {
    /// Beginnings of addresses to which a login token is handed without asking.
    pub trusted_redirects: Vec<String>,
    /// The providers, in the order in which people are shown them; need `public_baseurl`.
    pub providers: Vec<SsoProvider>,
}

/// `[[sso.providers]]`: an OpenID Connect provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SsoProvider {
    /// What it is called in addresses.
    pub id: String,
    /// What people are shown.
    pub name: String,
    /// By which clients choose a picture: `google`, `github`, `gitlab`, `apple`, `facebook`, `twitter`.
    pub brand: Option<String>,
    /// What it calls itself, and where its discovery document is.
    pub issuer: Url,
    /// What it calls this server.
    pub client_id: String,
    /// By what this server shows itself; unset: it is a public client.
    pub client_secret: Option<Secret>,
    /// What is asked for.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// Which claim becomes the user name.
    #[serde(default = "default_localpart_claim")]
    pub localpart_claim: String,
    /// Which claim becomes the display name.
    #[serde(default = "default_display_name_claim")]
    pub display_name_claim: String,
    /// Which claim becomes the e-mail address.
    #[serde(default = "default_email_claim")]
    pub email_claim: String,
    /// Whether who comes for the first time gets an account.
    #[serde(default = "yes")]
    pub register: bool,
    /// Whether an account that has the name already is theirs.
    #[serde(default)]
    pub link_by_name: bool,
}

fn default_scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(String::from).to_vec()
}

fn default_localpart_claim() -> String {
    "preferred_username".to_owned()
}

fn default_display_name_claim() -> String {
    "name".to_owned()
}

fn default_email_claim() -> String {
    "email".to_owned()
}

fn yes() -> bool {
    true
}

/// `[rate_limits]`: how often somebody may do something.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimits {
    /// Whether any limit holds.
    pub enabled: bool,
    /// Password and token logins, by client address.
    pub login: Rate,
    /// Registrations, by client address.
    pub registration: Rate,
    /// Events sent, by user.
    pub messages: Rate,
    /// Rooms joined, by user.
    pub joins: Rate,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            enabled: true,
            login: Rate { per_second: 0.2, burst: 10 },
            registration: Rate { per_second: 0.05, burst: 5 },
            messages: Rate { per_second: 10.0, burst: 50 },
            joins: Rate { per_second: 0.5, burst: 10 },
        }
    }
}

/// A token bucket: `burst` at once, refilled at `per_second`. What is not set has the default of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    #[serde(deserialize_with = "human::rate")]
    pub per_second: f64,
    #[serde(deserialize_with = "human::whole::<_, 1, 1_000_000>")]
    pub burst: u32,
}

/// `[rooms]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Rooms {
    /// The version of rooms whose maker asks for none.
    #[serde(deserialize_with = "human::room_version")]
    pub default_version: RoomVersionId,
    /// For how long people may take back what they said, on the native API; "0s": forever.
    #[serde(with = "human::duration")]
    pub recall_window: Duration,
}

impl Default for Rooms {
    fn default() -> Self {
        Self { default_version: RoomVersionId::V12, recall_window: Duration::from_secs(2 * 60) }
    }
}

/// `[search]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Search {
    /// Whether people can look for what was said.
    pub enabled: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[sync]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Sync {
    /// The longest that a sync waits for news, whatever the client asks for.
    #[serde(with = "human::duration")]
    pub max_timeout: Duration,
    /// Whether people see who is online.
    pub presence: bool,
}

impl Default for Sync {
    fn default() -> Self {
        Self { max_timeout: Duration::from_mins(2), presence: true }
    }
}

/// `[realtime]`: WebSockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Realtime {
    /// How many may be open on this node.
    #[serde(deserialize_with = "human::whole::<_, 1, 1_000_000>")]
    pub max_connections: u32,
    /// How many of one user may be open on this node.
    #[serde(deserialize_with = "human::whole::<_, 1, 10_000>")]
    pub max_connections_per_user: u32,
    /// How often a client has to show that it is there.
    #[serde(with = "human::duration")]
    pub heartbeat: Duration,
    /// How long a client may take nothing of what waits for it.
    #[serde(with = "human::duration")]
    pub stall_timeout: Duration,
    /// How many frames a client gets before it has to acknowledge some.
    #[serde(deserialize_with = "human::whole::<_, 1, 10_000>")]
    pub window: u32,
    /// The largest frame that is taken from a client.
    #[serde(with = "human::size")]
    pub max_frame: ByteSize,
    /// How many frames a client may send.
    pub frames: Rate,
    /// How many events a client may have missed and be told of one by one.
    #[serde(deserialize_with = "human::whole::<_, 0, 1_000_000>")]
    pub most_missed: u32,
}

impl Default for Realtime {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_connections_per_user: 20,
            heartbeat: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            window: 256,
            max_frame: ByteSize::kib(96),
            frames: Rate { per_second: 20.0, burst: 100 },
            most_missed: 1_000,
        }
    }
}

/// `[client_api]`: the Matrix client-server API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientApi {
    /// The largest body that is read.
    #[serde(with = "human::size")]
    pub max_body: ByteSize,
}

impl Default for ClientApi {
    fn default() -> Self {
        Self { max_body: ByteSize::mib(4) }
    }
}

/// `[media]`: images and files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Media {
    /// Unset: `media` in the data folder. Ask [`super::Config::media_path`], which knows. Absolute after loading.
    pub path: Option<PathBuf>,
    /// The largest file that is taken from a client.
    #[serde(with = "human::size")]
    pub max_upload: ByteSize,
    /// The largest file that is fetched from another server.
    #[serde(with = "human::size")]
    pub max_remote: ByteSize,
    /// How much one user may have here; `None`: any amount.
    #[serde(with = "human::quota")]
    pub quota: Option<ByteSize>,
    /// Only these kinds of file are taken; empty: all that aren't denied.
    pub allowed_types: Vec<KindPattern>,
    /// These kinds of file are never taken.
    pub denied_types: Vec<KindPattern>,
    /// Where the daemon of ClamAV listens, which looks at every file; unset: none does.
    pub clamd: Option<ClamdAddress>,
    /// How long it may take over one file.
    #[serde(with = "human::duration")]
    pub clamd_timeout: Duration,
    /// How many files it is given at once.
    #[serde(deserialize_with = "human::whole::<_, 1, 100>")]
    pub clamd_concurrency: u32,
    /// Whether a file that it could not look at is refused.
    pub clamd_required: bool,
    /// Where files are that are whole.
    #[serde(deserialize_with = "human::media_storage")]
    pub storage: MediaStorage,
    pub s3: S3,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            path: None,
            max_upload: ByteSize::mib(50),
            max_remote: ByteSize::mib(50),
            quota: None,
            allowed_types: Vec::new(),
            denied_types: Vec::new(),
            clamd: None,
            clamd_timeout: Duration::from_mins(1),
            clamd_concurrency: 4,
            clamd_required: true,
            storage: MediaStorage::Folder,
            s3: S3::default(),
        }
    }
}

/// Where files are that are whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaStorage {
    /// In the folder `media.path`.
    Folder,
    /// In the bucket of `media.s3`.
    S3,
}

/// `[media.s3]`: a bucket of Amazon S3, or of what speaks like it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct S3 {
    /// Unset: Amazon's of the region.
    #[serde(deserialize_with = "human::base_url")]
    pub endpoint: Option<Url>,
    /// Must be set where `media.storage` is `s3`.
    pub bucket: Option<String>,
    pub region: String,
    /// What the names of all files begin with, before a slash.
    pub prefix: String,
    /// Unset, with its secret: what Amazon's programs find in the environment, or the role of the machine.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    /// Whether the bucket is named in the path, rather than in the host.
    pub path_style: bool,
    /// Whether the endpoint may be plain HTTP.
    pub allow_http: bool,
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            endpoint: None,
            bucket: None,
            region: "us-east-1".to_owned(),
            prefix: String::new(),
            access_key_id: None,
            secret_access_key: None,
            path_style: true,
            allow_http: false,
        }
    }
}

/// `[logging]`: what goes to stderr.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    #[serde(deserialize_with = "human::log_format")]
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,rooms=debug`.
    #[serde(deserialize_with = "human::log_filter")]
    pub filter: String,
}

impl Default for Logging {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[metrics]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Whether figures are kept and served at `/metrics`.
    pub enabled: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true }
    }
}
