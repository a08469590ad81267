//! The composition root: builds every service from its part of the configuration, and owns the end.

mod core;
mod outward;
mod settings;
mod tasks;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use api::{Dependency, Services};
use fabric::{Broker, BrokerError, Cache, CacheError, MailError};
use integrations::{
    Announcements, Cascade, ContentRuleError, ContentRules, Integration, PushParts, Pushers, RuntimeSettings,
    Statistics, Stream, Webhooks, system_events::Severity,
};
use media::{Media, MediaConfig, OpenError};
use model::Millis;
use peers::{
    Links, LinksError, Outbound, PeerError, Peers,
    vault::{Vault, VaultError},
};
use rooms::Search;
use serde_json::json;
use store::Store;
use sync::Sync;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use users::{SecurityEvent, Users};

use crate::{
    certificate::{Certificate, CertificateError},
    config::Config,
    listener::Listener,
    nodes::{Listeners, Name, Nodes},
    proxies::Proxies,
    signing_key::{KeyError, take_next},
    telemetry::Telemetry,
};
use outward::Outward;
use tasks::Tasks;

pub use self::core::Core;
pub(crate) use settings::peers_config;

/// How long those who are connected have to hear that the server ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The whole server, taking connections.
pub struct Homeserver {
    /// For clients, and for other servers.
    listeners: Vec<Listener>,
    services: Arc<Services>,
    /// Cancelled when long polls shall answer with what there is.
    ending: CancellationToken,
    /// What time does by itself, and who follows what happens here; ends with `ending`.
    following: Tasks,
    /// Tells people what they are to be told, while they can be reached.
    announcing: Tasks,
    /// What goes to other servers and comes from them.
    federating: Option<Tasks>,
    /// Keeps this node's share of what only one may do; ends when it is cancelled.
    on_duty: Option<(CancellationToken, JoinHandle<()>)>,
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
    /// The bucket for images and files can't be reached, or refuses.
    #[error("files can't be kept in a bucket, as media.storage says")]
    MediaBucket(#[source] OpenError),
    /// The database can't be used.
    #[error("the database could not be opened")]
    Store(#[from] store::Error),
    /// The words that people don't get past with can't be looked for.
    #[error("the sets of words could not be read")]
    ContentRules(#[from] ContentRuleError),
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
    /// The mail relay can't be used as it is configured.
    #[error("the mail relay can't be used as it is configured")]
    Mail(#[from] MailError),
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
        make_data_folder(&config)?;
        let broker = settings::amqp_config(&config).map(|config| Broker::new(&config)).transpose()?;
        let nodes = Nodes::new(open_cache(&config)?, broker.as_ref(), Name::of(&config.data_dir));
        let mut core = Core::of_node(&config, &nodes).await?;
        let courier = core.courier.take();
        let Core { store, peers, users, rooms, .. } = &core;
        peers.keys().warn_of_notaries();
        let vault = core.vault.clone();
        let links = links(&config, peers, &vault)?;
        let media = open_media(settings::media_config(&config), store, peers).await?;
        let off_duty = CancellationToken::new();
        let on_duty = nodes.join(store, off_duty.clone()).await?.map(|on_duty| (off_duty, on_duty));

        let ending = CancellationToken::new();
        let (notifier, sync_config) = (core.notifier.clone(), settings::sync_config(&config));
        let sync = Sync::new(store.clone(), rooms.clone(), notifier, sync_config, ending.clone());
        sync.connections().say_in(nodes.cache().clone(), nodes.name());
        if store.is_shared() {
            sync.connections().ask_others_by(nodes.others(store));
        }
        let node = store.is_shared().then(|| nodes.name());
        if let Some(node) = &node {
            sync.share(nodes.cache().clone(), node.clone());
        }
        let announcements = Announcements::new(
            store.clone(),
            peers.clone(),
            users.clone(),
            rooms.clone(),
            sync.clone(),
            settings::announcements_config(&config),
            ending.clone(),
        );
        core.audience.announcements.get_or_init(|| announcements.clone());
        let outward = Outward::new(&core, &sync, broker, node, settings::federation_config(&config));
        let federating = peers.is_enabled().then(|| {
            outward.connect(&core, &sync, &announcements, nodes.clone());
            outward.start(&core, links.as_ref())
        });
        let stream = Stream::new(store.clone(), config.server_name.clone());
        core.audience.stream.get_or_init(|| stream.clone());
        let search = Search::new(rooms.clone(), &settings::search_config(&config));
        core.audience.search.get_or_init(|| search.clone());
        let log_filter = telemetry.log_filter();
        let said = settings::runtime_settings(&config, log_filter.configured());
        let settings = RuntimeSettings::open(store.clone(), users.clone(), rooms.clone(), log_filter, said).await?;
        let statistics = Statistics::new(store.clone(), config.server_name.clone());
        core.audience.statistics.get_or_init(|| statistics.clone());
        let bus = settings::bus_config(&config)
            .map(|bus| Integration::new(bus, stream.clone(), rooms.clone(), users.clone(), announcements.clone()))
            .transpose()?;
        let parts = PushParts {
            store: store.clone(),
            users: users.clone(),
            sync: sync.clone(),
            stream: stream.clone(),
            outbound: Outbound::new(&settings::outbound_config(&config))?,
            vault: vault.clone(),
        };
        let pushers = Pushers::new(settings::push_config(&config), parts);
        let webhooks = Webhooks::new(store.clone(), stream, vault, peers.plain_client()?);
        let sharing = settings::cascade_config(&config);
        let cascade = Cascade::open(store.clone(), peers.clone(), users.clone(), sharing).await?;
        // Before anybody can come, so that nothing is done without asking who wants to be asked.
        let content_rules = ContentRules::open(store.clone(), webhooks.gate().await?).await?;
        let gate = users.suspension_gate(content_rules.gate());
        for slot in [rooms.gate(), users.gate(), media.gate()] {
            slot.set(gate.clone());
        }
        let ended = nodes.clone();
        let connections = sync.connections().clone();
        users.on_session_end(Box::new(move |user_id| {
            connections.check(Some(user_id));
            ended.ended(user_id);
        }));

        let (connections, banned) = (sync.connections().clone(), Arc::downgrade(users));
        users.on_bans_changed(Box::new(move || {
            if let Some(users) = banned.upgrade() {
                connections.disconnect_from(|address| users.is_banned(address));
            }
        }));

        let following = Tasks::until(ending.clone());
        if let Some(courier) = courier {
            following.spawn(|stop| courier.run(stop));
        }
        report_security(users, &announcements, &following);
        let tended = sync.clone();
        following.spawn(|stop| async move { tended.tend(stop).await });
        let tended = media.clone();
        following.spawn(|stop| async move { tended.tend(stop).await });
        let timed = rooms.clone();
        following.spawn(|stop| async move { timed.tend_timed(stop).await });
        let connections = sync.connections().clone();
        following.spawn(|stop| async move { connections.tend(stop).await });
        let seen = users.clone();
        following.spawn(|stop| async move { stop.run_until_cancelled(seen.tend()).await.unwrap_or_default() });
        let trust = peers.trust().clone();
        following.spawn(|stop| async move { trust.tend(stop).await });
        let rules = content_rules.clone();
        following.spawn(|stop| async move { rules.tend(stop).await });
        let set = settings.clone();
        following.spawn(|stop| async move { set.tend(stop).await });
        let counting = statistics.clone();
        following.spawn(|stop| async move { counting.run(stop).await });
        let hooks = webhooks.clone();
        following.spawn(|stop| async move { hooks.run(stop).await });
        let pushing = pushers.clone();
        following.spawn(|stop| async move { pushing.run(stop).await });
        let shared = cascade.clone();
        following.spawn(|stop| async move { shared.run(stop).await });
        let index = search.clone();
        following.spawn(|stop| async move { index.run(stop).await });
        if let Some(bus) = bus.clone() {
            following.spawn(|stop| async move { bus.run(stop).await });
        }
        let (sender, bridge) = (outward.sender.clone(), outward.bridge.clone());
        let hearing = Listeners { store: store.clone(), users: users.clone(), sync: sync.clone(), sender, bridge };
        if let Some(in_touch) = nodes.keep_in_touch(hearing, ending.clone()) {
            following.spawn(|_| in_touch);
        }
        let listeners = listen(&config).await?;
        let announcing = Tasks::until(CancellationToken::new());
        let tells = announcements.clone();
        announcing.spawn(|stop| async move { tells.run(stop).await });

        let services = Arc::new(Services {
            config: settings::api_config(&config),
            public_baseurl: settings::public_baseurl(&config),
            dependencies: dependencies(links.as_ref(), bus.as_ref(), nodes.cache(), &media),
            limits: users.limits(),
            media,
            sync,
            search,
            ledger: outward.sender.ledger(),
            carrier: outward.carrier,
            inbound: outward.inbound,
            bridge: outward.bridge,
            announcements,
            settings: settings.clone(),
            statistics,
            logs: telemetry.logs(),
            links,
            webhooks,
            pushers,
            cascade,
            content_rules,
            metrics: telemetry.render().map(|_| Box::new(move || telemetry.render().unwrap_or_default()) as _),
            store: core.store,
            users: core.users,
            peers: core.peers,
            rooms: core.rooms,
        });
        Ok(Self { listeners, services, ending, following, announcing, federating, on_duty })
    }

    /// Serves until `stop` is cancelled, then takes no more connections, lets long polls answer with what there is, and
    /// requests end.
    pub async fn wait_for_shutdown(self, stop: CancellationToken) {
        let Self { listeners, services, ending, following, announcing, federating, on_duty } = self;
        let store = services.store.clone();
        let users = services.users.clone();
        let connections = services.sync.connections().clone();
        let router = api::router(services);
        let serving = listeners.into_iter().map(|listener| listener.serve(router.clone(), stop.clone()));
        let end = async {
            stop.cancelled().await;
            ending.cancel();
        };
        tokio::join!(futures_util::future::join_all(serving), end);
        // They have been told to go with `ending`; what they are in the middle of doing ends first.
        connections.ended(LAST_WORDS).await;
        announcing.end().await;
        if let Some(federating) = federating {
            federating.end().await;
        }
        if let Some((off_duty, on_duty)) = on_duty {
            off_duty.cancel();
            let _ = on_duty.await;
        }
        // What it still has to write down is written before the database is closed.
        following.end().await;
        if let Err(error) = users.flush_last_seen().await {
            warn!(error = &error as &dyn std::error::Error, "could not write when devices were last seen");
        }
        store.close().await;
    }
}

/// Has signs that somebody is after an account told as system events.
fn report_security(users: &Users, announcements: &Announcements, tasks: &Tasks) {
    let (sender, mut signs) = mpsc::channel::<SecurityEvent>(1_000);
    // Each is in the log in any case.
    users.on_security_event(Box::new(move |sign| drop(sender.try_send(sign.clone()))));
    let events = announcements.events.clone();
    tasks.spawn(|stop| async move {
        while let Some(Some(sign)) = stop.run_until_cancelled(signs.recv()).await {
            let kind = format!("security.{}", sign.name());
            match sign {
                SecurityEvent::RefreshTokenReused { user_id, device_id } => {
                    let data = json!({ "device_id": device_id });
                    events.record(None, &kind, user_id.as_str(), Severity::Warning, data).await;
                }
            }
        }
    });
}

async fn listen(config: &Config) -> Result<Vec<Listener>, StartError> {
    let most = config.listen.max_connections;
    let proxies = Proxies::new(&config.listen.trusted_proxies);
    let taken = |key, address| move |source| StartError::Listen { address, key, source };
    let address = config.listen.client;
    let clients = Listener::bind(address, None, most, proxies.clone()).await.map_err(taken("client", address))?;
    let address = clients.address().unwrap_or(address);
    info!(%address, server.name = %config.server_name, "{} takes clients at http://{address}", config.server_name);
    let mut listeners = vec![clients];
    if let Some(address) = config.listen.federation {
        let certificate = config.tls.certificate.as_ref().ok_or(StartError::NoCertificate("certificate"))?;
        let private_key = config.tls.private_key.as_ref().ok_or(StartError::NoCertificate("private_key"))?;
        let certificate = Certificate::load(certificate, private_key)?;
        let servers =
            Listener::bind(address, Some(certificate), most, proxies).await.map_err(taken("federation", address))?;
        let address = servers.address().unwrap_or(address);
        info!(%address, server.name = %config.server_name, "{} takes other servers at https://{address}", config.server_name);
        listeners.push(servers);
    }
    Ok(listeners)
}

fn make_data_folder(config: &Config) -> Result<(), StartError> {
    std::fs::create_dir_all(&config.data_dir).map_err(|source| {
        let folder = config.data_dir.display().to_string();
        StartError::DataFolder { folder, source }
    })
}

fn open_cache(config: &Config) -> Result<Cache, CacheError> {
    settings::cache_config(config).map_or_else(|| Ok(Cache::in_process()), |config| Cache::open(&config))
}

async fn open_media(config: MediaConfig, store: &Store, peers: &Peers) -> Result<Media, StartError> {
    let folder = config.path.display().to_string();
    let opened = Media::open(config, store.clone(), peers.clone()).await;
    opened.map_err(|error| match error {
        OpenError::Folder(source) => StartError::MediaFolder { folder, source },
        error => StartError::MediaBucket(error),
    })
}

/// The links with the brokers of peers, if the configuration says where this server's own is managed.
pub(crate) fn links(config: &Config, peers: &Peers, vault: &Arc<Vault>) -> Result<Option<Links>, LinksError> {
    settings::links_config(config).map(|config| Links::new(peers.clone(), vault.clone(), config)).transpose()
}

/// What the server works with besides its database, and can do without for a while.
fn dependencies(links: Option<&Links>, bus: Option<&Integration>, cache: &Cache, media: &Media) -> Vec<Dependency> {
    let links = links.cloned().map(|links| Dependency::new("links", move || links.findings()));
    let bus = bus.cloned().map(|bus| Dependency::new("bus", move || bus.findings()));
    let cache = cache.is_shared().then(|| cache.clone()).map(|cache| {
        Dependency::new("cache", move || {
            let away =
                "Redis can't be reached: each node counts limits by itself, and may hear of the others a second later";
            if cache.is_up() { Vec::new() } else { vec![away.to_owned()] }
        })
    });
    let media = media.config().bucket.is_some().then(|| media.clone());
    let media = media.map(|media| Dependency::new("media", move || media.findings()));
    [links, bus, cache, media].into_iter().flatten().collect()
}

/// Milliseconds since 1970.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
