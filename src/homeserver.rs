//! The composition root: builds every service from its part of the configuration, and owns the end.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

use api::{ApiConfig, Services};
use fabric::{AmqpConfig, Broker, BrokerError, Cache, CacheConfig, CacheError, ManagementConfig, management::LinkWay};
use federation::{Bridge, Carrier, FederationConfig, Inbound, Sender};
use integrations::{
    Announcements, AnnouncementsConfig, BusConfig, Integration, Stream, Webhooks, broadcasts::BroadcastsConfig,
    notices::NoticesConfig, system_events::SystemEventsConfig,
};
use media::{Media, MediaConfig};
use model::{Committed, Millis, SigningKey};
use peers::{
    Links, LinksConfig, LinksError, PeerError, Peers, PeersConfig, TrustConfig,
    links::LinkTls,
    vault::{Vault, VaultError},
};
use rooms::{Rooms, RoomsConfig};
use store::{Location, Store};
use sync::{Notifier, Sync, SyncConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;
use users::{
    AccountsConfig, HashCosts, RateLimitsConfig, RegistrationConfig, RemoteUsers, RemoteUsersConfig, Users, UsersConfig,
};

use crate::{
    certificate::{Certificate, CertificateError},
    config::{Config, DatabaseUrl, LinkKind, Rate, Secret, ServiceUrl},
    listener::Listener,
    nodes::{Listeners, Name, Nodes},
    signing_key::{KeyError, KeyFile, previous, retired, take_next},
    telemetry::Telemetry,
};

/// The whole server, taking connections.
pub struct Homeserver {
    /// For clients, and for other servers.
    listeners: Vec<Listener>,
    services: Arc<Services>,
    /// Cancelled when long polls shall answer with what there is.
    ending: CancellationToken,
    /// What time does by itself to those who sync; ends with `ending`.
    tending: JoinHandle<()>,
    /// Writes down when devices were seen, until it is aborted.
    watching: JoinHandle<()>,
    /// Keeps up with how peers are trusted; ends with `ending`.
    trusting: JoinHandle<()>,
    /// Tells other nodes of commits, and hears of theirs; ends with `ending`.
    in_touch: Option<JoinHandle<()>>,
    /// Keeps this node's share of what only one may do; ends when it is cancelled.
    on_duty: Option<(CancellationToken, JoinHandle<()>)>,
    /// What goes to other servers and comes from them.
    federating: Option<Federating>,
    /// Tells people what they are to be told; ends with `announced`.
    announcing: JoinHandle<()>,
    announced: CancellationToken,
    /// What other programs are told, and say; ends with `ending`.
    integrating: JoinHandle<()>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It has nothing to sign with.
    #[error("the server has no signing key")]
    SigningKey(#[from] KeyError),
    /// The key's id can't be one.
    #[error("the signing key's id `{0}` is not of the form ed25519:name")]
    KeyId(String),
    /// The folder for its data can't be made.
    #[error("the data folder {folder} can't be made")]
    DataFolder {
        /// Which folder.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder for images and files can't be made or read.
    #[error("the media folder {folder} can't be used")]
    MediaFolder {
        /// Which folder.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database can't be used.
    #[error("the database could not be opened")]
    Store(#[from] store::Error),
    /// The cache that is configured can't be one.
    #[error("the cache can't be used")]
    Cache(#[from] CacheError),
    /// Other servers can't be talked to.
    #[error("other servers can't be talked to")]
    Peers(#[from] PeerError),
    /// The broker can't be managed as the configuration says.
    #[error("the links with the brokers of peers can't be managed")]
    Links(#[from] LinksError),
    /// Secrets can't be kept.
    #[error("secrets in the database can't be sealed and opened")]
    Vault(#[from] VaultError),
    /// The bus can't be used as it is configured.
    #[error("the bus can't be used as it is configured")]
    Bus(#[from] BrokerError),
    /// It has nothing to show itself by in TLS.
    #[error("the server has no certificate to show to other servers")]
    Certificate(#[from] CertificateError),
    /// A listener in TLS needs a certificate.
    #[error("listen.federation is set, and tls.{0} is not: other servers are spoken to in TLS")]
    NoCertificate(&'static str),
    /// The address can't be listened on.
    #[error("{address} can't be listened on: is another server running there? `listen.{key}` sets the address")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// The key of the configuration that sets it.
        key: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Homeserver {
    /// Opens the database, builds every service and takes connections before it returns.
    pub async fn start(config: Config, telemetry: Telemetry) -> Result<Self, StartError> {
        take_next(&config.keys_dir, now())?;
        std::fs::create_dir_all(&config.data_dir).map_err(no_folder(&config))?;
        let broker = amqp_config(&config).map(|config| Broker::new(&config)).transpose()?;
        let nodes = Nodes::new(open_cache(&config)?, Name::of(&config.data_dir));
        let Core { notifier, store, key, peers, users, rooms, to_send, to_bridge, to_announce, to_followers } =
            Core::of_node(&config, &nodes).await?;
        peers.keys().warn_of_notaries();
        let vault = Arc::new(Vault::open(&config.keys_dir)?);
        let links = links(&config, &peers, &vault)?;
        let media = open_media(&config, &store, &peers).await?;
        let ending = CancellationToken::new();
        let off_duty = CancellationToken::new();
        let on_duty = nodes.join(&store, off_duty.clone()).await?.map(|on_duty| (off_duty, on_duty));
        let sync = Sync::new(store.clone(), rooms.clone(), notifier, sync_config(&config), ending.clone());
        let tended = sync.clone();
        let stop = ending.clone();
        let tending = tokio::spawn(async move { tended.tend(stop).await });
        let watching = tokio::spawn(users.clone().tend());
        let trust = peers.trust().clone();
        let until = ending.clone();
        let trusting = tokio::spawn(async move { trust.tend(until).await });
        let inbound = Inbound::new(store.clone(), rooms.clone(), sync.clone(), users.clone());
        let curves = federation_config(&config).curves;
        let (bridge_users, bridge_peers) = (users.clone(), peers.clone());
        let bridge = Bridge::new(store.clone(), rooms.clone(), bridge_users, bridge_peers, inbound.clone(), curves);
        let carrier = Carrier::new(peers.clone(), inbound.clone(), key, broker);
        let way = Arc::new(carrier.clone());
        let sender = Sender::new(store.clone(), rooms.clone(), users.clone(), way, federation_config(&config));
        let (teller, ended) = (nodes.clone(), nodes.clone());
        users.on_session_end(Box::new(move |user_id| ended.ended(user_id)));
        let (listening, sending, bridging) = (users.clone(), sender.clone(), bridge.clone());
        let listeners = Listeners { store: store.clone(), users: listening, sender: sending, bridge: bridging };
        let in_touch = nodes.start(listeners, ending.clone());
        let ledger = sender.ledger();
        let announcements = Announcements::new(
            store.clone(),
            peers.clone(),
            users.clone(),
            rooms.clone(),
            sync.clone(),
            announcements_config(&config),
            ending.clone(),
        );
        to_announce.get_or_init(|| announcements.clone());
        let federating = peers.is_enabled().then(|| {
            to_send.get_or_init(|| sender.clone());
            to_bridge.get_or_init(|| bridge.clone());
            let (heard, bridging, broadcasts) = (sender.clone(), bridge.clone(), announcements.broadcasts.clone());
            peers.on_heard(Box::new(move |server| {
                heard.alive(server);
                bridging.alive(server);
                broadcasts.alive(server);
                if !heard.sends_to(server) || !bridging.sends_to(server) {
                    teller.alive(server);
                }
            }));
            let able = sender.clone();
            carrier.on_up(Box::new(move |server| able.alive(server)));
            let arriving = sender.clone();
            sync.on_arrival(Box::new(move |arrival| arriving.arrived(arrival)));
            let parts = Parts {
                sender,
                inbound: inbound.clone(),
                bridge: bridge.clone(),
                carrier,
                links: links.clone(),
                peers: peers.clone(),
                rooms: rooms.clone(),
            };
            Federating::start(parts)
        });
        let stream = Stream::new(store.clone(), config.server_name.clone());
        to_followers.get_or_init(|| stream.clone());
        let bus = bus_config(&config)
            .map(|bus| Integration::new(bus, stream.clone(), rooms.clone(), users.clone(), announcements.clone()));
        let bus = bus.transpose()?;
        let webhooks = Webhooks::new(store.clone(), stream, vault, peers.plain_client()?);
        let (hooks, ends) = (webhooks.clone(), ending.clone());
        let integrating = tokio::spawn(async move {
            let publishing = async {
                if let Some(bus) = bus {
                    bus.run(ends.clone()).await;
                }
            };
            tokio::join!(publishing, hooks.run(ends.clone()));
        });
        let services = Arc::new(Services {
            config: ApiConfig {
                max_body: usize::try_from(config.client_api.max_body.as_u64()).unwrap_or(usize::MAX),
                public_rooms_for_servers: config.federation.public_rooms,
                well_known_server: config.federation.well_known_server.clone(),
            },
            public_baseurl: config.public_baseurl.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned()),
            store,
            limits: users.limits(),
            users,
            peers,
            rooms,
            media,
            sync,
            inbound,
            bridge,
            ledger,
            announcements: announcements.clone(),
            links,
            webhooks,
            metrics: telemetry.render().map(|_| Box::new(move || telemetry.render().unwrap_or_default()) as _),
        });
        let listeners = listen(&config).await?;
        let announced = CancellationToken::new();
        let until = announced.clone();
        let announcing = tokio::spawn(async move { announcements.run(until).await });
        Ok(Self {
            listeners,
            services,
            ending,
            tending,
            watching,
            trusting,
            in_touch,
            on_duty,
            federating,
            announcing,
            announced,
            integrating,
        })
    }

    /// Serves until `stop` is cancelled, then takes no more connections, lets long polls answer with what there is, and
    /// requests end.
    pub async fn wait_for_shutdown(self, stop: CancellationToken) {
        let Self {
            listeners,
            services,
            ending,
            tending,
            watching,
            trusting,
            in_touch,
            on_duty,
            federating,
            announcing,
            announced,
            integrating,
        } = self;
        let store = services.store.clone();
        let users = services.users.clone();
        let router = api::router(services);
        let serving = listeners.into_iter().map(|listener| listener.serve(router.clone(), stop.clone()));
        let end = async {
            stop.cancelled().await;
            ending.cancel();
        };
        tokio::join!(futures_util::future::join_all(serving), end);
        announced.cancel();
        let _ = announcing.await;
        if let Some(federating) = federating {
            federating.end().await;
        }
        if let Some((off_duty, on_duty)) = on_duty {
            off_duty.cancel();
            let _ = on_duty.await;
        }
        // What it still has to write down is written before the database is closed.
        let _ = tending.await;
        let _ = trusting.await;
        if let Some(in_touch) = in_touch {
            let _ = in_touch.await;
        }
        let _ = integrating.await;
        watching.abort();
        if let Err(error) = users.flush_last_seen().await {
            warn!(error = &error as &dyn std::error::Error, "could not write when devices were last seen");
        }
        store.close().await;
    }
}

/// Who sends to other servers and takes what comes from them.
struct Parts {
    sender: Sender,
    inbound: Inbound,
    bridge: Bridge,
    carrier: Carrier,
    links: Option<Links>,
    peers: Peers,
    rooms: Rooms,
}

/// What goes to other servers and comes from them, until it is ended.
struct Federating {
    stop: CancellationToken,
    sending: JoinHandle<()>,
    receiving: JoinHandle<()>,
    bridging: JoinHandle<()>,
    /// Keeps the lines to peers over the broker.
    carrying: JoinHandle<()>,
    /// Keeps the links with the brokers of peers.
    linking: Option<JoinHandle<()>>,
    /// Tells other servers of offers and agreements.
    peering: JoinHandle<()>,
    /// Sums up what was delivered.
    accounting: JoinHandle<()>,
    /// Keeps up with the lists of others.
    listing: JoinHandle<()>,
    /// Keeps the access control lists of rooms that demand trust.
    keeping: JoinHandle<()>,
}

impl Federating {
    fn start(parts: Parts) -> Self {
        let Parts { sender, inbound, bridge, carrier, links, peers, rooms } = parts;
        let stop = CancellationToken::new();
        let (until, till, end, to, stopped) = (stop.clone(), stop.clone(), stop.clone(), stop.clone(), stop.clone());
        let ledger = sender.ledger();
        let accounting = tokio::spawn(async move { ledger.run(to).await });
        let ends = stop.clone();
        let keeping = tokio::spawn(async move { rooms.keep_acls(ends).await });
        let sending = tokio::spawn(async move { sender.run(until).await });
        let receiving = tokio::spawn(async move { inbound.run(till).await });
        let bridging = tokio::spawn(async move { bridge.run(end).await });
        let till_then = stop.clone();
        let carrying = tokio::spawn(async move { carrier.run(till_then).await });
        let (peering, lists, ended) = (peers.peering(), peers.lists(), stop.clone());
        let peering = tokio::spawn(async move { peering.tend(stopped).await });
        let listing = tokio::spawn(async move { lists.tend(ended).await });
        let until_then = stop.clone();
        let linking = links.map(|links| tokio::spawn(async move { links.run(until_then).await }));
        Self { stop, sending, receiving, bridging, carrying, linking, peering, accounting, listing, keeping }
    }

    /// Sends no more. Waits a few seconds for what is under way.
    async fn end(self) {
        self.stop.cancel();
        let _ = self.sending.await;
        let _ = self.receiving.await;
        let _ = self.bridging.await;
        let _ = self.carrying.await;
        if let Some(linking) = self.linking {
            let _ = linking.await;
        }
        let _ = self.peering.await;
        let _ = self.accounting.await;
        let _ = self.listing.await;
        let _ = self.keeping.await;
    }
}

async fn listen(config: &Config) -> Result<Vec<Listener>, StartError> {
    let most = config.listen.max_connections;
    let taken = |key, address| move |source| StartError::Listen { address, key, source };
    let address = config.listen.client;
    let clients = Listener::bind(address, None, most).await.map_err(taken("client", address))?;
    let address = clients.address().unwrap_or(address);
    info!(%address, server.name = %config.server_name, "{} takes clients at http://{address}", config.server_name);
    let mut listeners = vec![clients];
    if let Some(address) = config.listen.federation {
        let certificate = config.tls.certificate.as_ref().ok_or(StartError::NoCertificate("certificate"))?;
        let private_key = config.tls.private_key.as_ref().ok_or(StartError::NoCertificate("private_key"))?;
        let certificate = Certificate::load(certificate, private_key)?;
        let servers = Listener::bind(address, Some(certificate), most).await.map_err(taken("federation", address))?;
        let address = servers.address().unwrap_or(address);
        info!(%address, server.name = %config.server_name, "{} takes other servers at https://{address}", config.server_name);
        listeners.push(servers);
    }
    Ok(listeners)
}

/// What both the server and the command line stand on.
pub struct Core {
    pub notifier: Notifier,
    pub store: Store,
    /// What this server signs with.
    key: Arc<SigningKey>,
    pub peers: Peers,
    pub users: Arc<Users>,
    pub rooms: Rooms,
    /// Who hears of what other servers are owed, as soon as there is somebody.
    to_send: Arc<OnceLock<Sender>>,
    /// Who hears of what is said in the rooms of the bridge.
    to_bridge: Arc<OnceLock<Bridge>>,
    /// Who hears of what people are to be told.
    to_announce: Arc<OnceLock<Announcements>>,
    /// Where everything is taken note of that other programs are told.
    to_followers: Arc<OnceLock<Stream>>,
}

impl Core {
    /// Opens the database, the accounts and the rooms, for a command: nodes find out within a second what it does.
    pub async fn open(config: &Config) -> Result<Self, StartError> {
        Self::of_node(config, &Nodes::none()).await
    }

    /// As [`Self::open`], for a node that tells the others.
    async fn of_node(config: &Config, nodes: &Nodes) -> Result<Self, StartError> {
        std::fs::create_dir_all(&config.data_dir).map_err(no_folder(config))?;
        let file = KeyFile::load_or_create(&config.keys_dir)?;
        let key = SigningKey::from_seed(config.server_name.clone(), file.version(), file.seed())
            .ok_or_else(|| StartError::KeyId(file.key_id()))?;
        let location = match config.database_url() {
            DatabaseUrl::Sqlite(path) => Location::Sqlite(path),
            DatabaseUrl::Postgres(url) => Location::Postgres(url.expose().to_owned()),
        };
        let notifier = Notifier::new(&sync_config(config));
        let listener = notifier.clone();
        let rooms_in_memory: Arc<OnceLock<Rooms>> = Arc::default();
        let who_remembers = rooms_in_memory.clone();
        let remote_users: Arc<OnceLock<RemoteUsers>> = Arc::default();
        let who_hears = remote_users.clone();
        let to_send: Arc<OnceLock<Sender>> = Arc::default();
        let who_sends = to_send.clone();
        let to_bridge: Arc<OnceLock<Bridge>> = Arc::default();
        let who_bridges = to_bridge.clone();
        let to_announce: Arc<OnceLock<Announcements>> = Arc::default();
        let who_announces = to_announce.clone();
        let others = nodes.clone();
        let to_followers: Arc<OnceLock<Stream>> = Arc::default();
        let who_follow = to_followers.clone();
        let on_commit = Arc::new(move |committed: Committed| {
            // Somebody else wrote to this database, such as `comity user`: what is remembered may be old.
            if let Some(rooms) = who_remembers.get() {
                match (committed.foreign, committed.gap) {
                    (true, true) => rooms.forget_all(),
                    (true, false) => rooms.forget_changed(&committed),
                    (false, _) => rooms.ingest(&committed),
                }
            }
            listener.ingest(&committed);
            others.ingest(&committed);
            if let Some(sender) = who_sends.get() {
                sender.ingest(&committed);
            }
            if let Some(bridge) = who_bridges.get() {
                bridge.ingest(&committed);
            }
            if let Some(announcements) = who_announces.get() {
                announcements.ingest(&committed);
            }
            if let Some(stream) = who_follow.get() {
                stream.ingest(&committed);
            }
            if let Some(remote_users) = who_hears.get() {
                remote_users.ingest(&committed);
            }
        });
        let store = Store::open(&location, config.database.max_connections, on_commit).await?;
        let key = Arc::new(key);
        let peers = Peers::new(store.clone(), key.clone(), peers_config(config)?)?;
        peers.trust().open().await?;
        let rooms = Rooms::new(store.clone(), peers.clone(), key.clone(), rooms_config(config));
        rooms_in_memory.get_or_init(|| rooms.clone());
        let cache = nodes.cache().clone();
        let users = Users::open_sharing(users_config(config), store.clone(), peers.clone(), cache).await?;
        remote_users.get_or_init(|| users.remote_users().clone());
        Ok(Self { notifier, store, key, peers, users, rooms, to_send, to_bridge, to_announce, to_followers })
    }
}

fn no_folder(config: &Config) -> impl FnOnce(io::Error) -> StartError {
    let folder = config.data_dir.display().to_string();
    |source| StartError::DataFolder { folder, source }
}

fn open_cache(config: &Config) -> Result<Cache, StartError> {
    let Some(url) = &config.cache.url else { return Ok(Cache::in_process()) };
    Ok(Cache::open(&CacheConfig { url: url.expose().to_owned(), ca_file: config.cache.ca_file.clone() })?)
}

async fn open_media(config: &Config, store: &Store, peers: &Peers) -> Result<Media, StartError> {
    let config = media_config(config);
    let folder = config.path.display().to_string();
    let opened = Media::open(config, store.clone(), peers.clone()).await;
    opened.map_err(|source| StartError::MediaFolder { folder, source })
}

/// The links with the brokers of peers, if the configuration says where this server's own is managed.
pub(crate) fn links(config: &Config, peers: &Peers, vault: &Arc<Vault>) -> Result<Option<Links>, LinksError> {
    let bus = &config.bus;
    let Some(url) = &bus.management_url else { return Ok(None) };
    let text = |url: &Option<ServiceUrl>| url.as_ref().and_then(|url| Url::parse(url.expose()).ok());
    let user = text(&bus.url).map(|url| fabric::management::pattern::percent_decoded(url.username()));
    let config = LinksConfig {
        management: ManagementConfig { url: url.expose().to_owned(), ca_file: bus.ca_file.clone() },
        user: user.filter(|user| !user.is_empty()),
        public_url: text(&bus.public_url),
        way: match bus.link {
            LinkKind::Upstream => LinkWay::Upstream,
            LinkKind::Shovel => LinkWay::Shovel,
        },
        tls: LinkTls {
            ca_file: bus.link_ca_file.clone(),
            certificate: bus.link_certificate.clone(),
            private_key: bus.link_private_key.clone(),
        },
    };
    Links::new(peers.clone(), vault.clone(), config).map(Some)
}

/// Milliseconds since 1970.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

// === what each service is configured by ===

fn users_config(config: &Config) -> UsersConfig {
    let rate = |rate: Rate| users::Rate::per_second(rate.per_second, rate.burst);
    let costs = &config.accounts.argon2;
    let expose = |secret: &Secret| secret.expose().to_owned();
    UsersConfig {
        accounts: AccountsConfig {
            access_token_lifetime: config.accounts.access_token_lifetime,
            failed_logins_allowed: config.accounts.failed_logins_allowed,
            hash_costs: HashCosts {
                memory_kib: costs.memory_kib,
                iterations: costs.iterations,
                parallelism: costs.parallelism,
            },
            ..AccountsConfig::default()
        },
        registration: RegistrationConfig {
            enabled: config.registration.enabled,
            token: config.registration.token.as_ref().map(expose),
            tokens: config.registration.tokens.iter().map(expose).collect(),
            shared_secret: config.registration.shared_secret.as_ref().map(expose),
        },
        rate_limits: RateLimitsConfig {
            enabled: config.rate_limits.enabled,
            login_address: rate(config.rate_limits.login),
            login_account: rate(config.rate_limits.login),
            registration: rate(config.rate_limits.registration),
            messages: rate(config.rate_limits.messages),
            joins: rate(config.rate_limits.joins),
        },
        remote_users: RemoteUsersConfig {
            fresh: config.federation.remote_user_fresh,
            stale: config.federation.remote_user_stale,
            missing: config.federation.remote_user_missing,
            kept: config.federation.remote_users_kept,
        },
    }
}

pub(crate) fn peers_config(config: &Config) -> Result<PeersConfig, KeyError> {
    let federation = &config.federation;
    Ok(PeersConfig {
        retired_keys: retired(&config.keys_dir)?,
        previous_key: previous_key(config)?,
        enabled: federation.enabled,
        ca_file: federation.ca_file.clone(),
        verify_tls: federation.verify_tls,
        allow_private_addresses: federation.allow_private_addresses,
        nameservers: federation.nameservers.clone(),
        trusted_key_servers: federation.trusted_key_servers.clone(),
        connect_timeout: federation.connect_timeout,
        request_timeout: federation.request_timeout,
        trust: TrustConfig {
            default_level: federation.default_trust,
            shadow: federation.trust_shadow,
            list_grace: federation.list_grace,
            paced: peer_rate(federation.paced),
            slow: peer_rate(federation.slow),
        },
        list_refresh: federation.list_refresh,
    })
}

fn previous_key(config: &Config) -> Result<Option<Arc<SigningKey>>, KeyError> {
    let file = previous(&config.keys_dir)?;
    let key = file.and_then(|file| SigningKey::from_seed(config.server_name.clone(), file.version(), file.seed()));
    Ok(key.map(Arc::new))
}

fn peer_rate(rate: Rate) -> peers::trust::Rate {
    peers::trust::Rate { per_second: rate.per_second, burst: rate.burst }
}

fn bus_config(config: &Config) -> Option<BusConfig> {
    Some(BusConfig { amqp: amqp_config(config)?, rules: config.bus.publishers.clone() })
}

/// The broker, if there is one.
fn amqp_config(config: &Config) -> Option<AmqpConfig> {
    let bus = &config.bus;
    Some(AmqpConfig {
        url: bus.url.as_ref()?.expose().to_owned(),
        ca_file: bus.ca_file.clone(),
        certificate: bus.certificate.clone(),
        private_key: bus.private_key.clone(),
    })
}

fn rooms_config(config: &Config) -> RoomsConfig {
    RoomsConfig { default_version: config.rooms.default_version.clone(), ..RoomsConfig::default() }
}

fn media_config(config: &Config) -> MediaConfig {
    MediaConfig {
        max_upload: config.media.max_upload.as_u64(),
        max_remote: config.media.max_remote.as_u64(),
        ..MediaConfig::at(config.media_path())
    }
}

fn sync_config(config: &Config) -> SyncConfig {
    SyncConfig { presence: config.sync.presence, max_timeout: config.sync.max_timeout, ..SyncConfig::default() }
}

fn announcements_config(config: &Config) -> AnnouncementsConfig {
    let (events, broadcasts) = (&config.events, &config.broadcasts);
    AnnouncementsConfig {
        events: SystemEventsConfig { keep: events.keep, notify: events.notify },
        broadcasts: BroadcastsConfig { from_peers: broadcasts.from_peers, keep: broadcasts.keep },
        notices: NoticesConfig { enabled: broadcasts.notices, name: broadcasts.notices_name.clone() },
    }
}

fn federation_config(config: &Config) -> FederationConfig {
    FederationConfig {
        presence: config.sync.presence,
        ledger_keep: config.federation.ledger_keep,
        ..FederationConfig::default()
    }
}
