//! What each service is configured by: the configuration, in the words of the services.

use std::{sync::Arc, time::Duration};

use api::{ApiConfig, native::RealtimeConfig};
use fabric::{AmqpConfig, CacheConfig, MailConfig, MailTls, ManagementConfig, management::LinkWay};
use federation::FederationConfig;
use integrations::{
    AnnouncementsConfig, BusConfig, CascadeConfig, PushConfig,
    broadcasts::BroadcastsConfig,
    notices::NoticesConfig,
    runtime_settings::{Configured, SetLimits, SetRate},
    system_events::SystemEventsConfig,
};
use media::{Kinds, MediaConfig, S3Config, ScanConfig};
use model::SigningKey;
use peers::{LinksConfig, OutboundConfig, PeersConfig, TrustConfig, links::LinkTls};
use rooms::{RoomsConfig, SearchConfig};
use store::Location;
use sync::{SyncConfig, feed::ConnectionsConfig};
use url::Url;
use users::{
    AccountsConfig, ApplicationsConfig, CallsConfig, DirectoryConfig, HashCosts, RateLimitsConfig, RegistrationConfig,
    RemoteUsersConfig, UsersConfig,
    oauth::OauthConfig,
    sso::{SsoConfig, SsoProvider},
};
use zeroize::Zeroizing;

use crate::{
    config::{self, Config, DatabaseUrl, EmailTls, LinkKind, MediaStorage, Rate, Secret, ServiceUrl},
    signing_key::{KeyError, previous, retired},
};

pub(super) fn users_config(config: &Config) -> UsersConfig {
    let rate = |rate: Rate| users::Rate::per_second(rate.per_second, rate.burst);
    let costs = &config.accounts.argon2;
    let expose = |secret: &Secret| secret.expose().to_owned();
    UsersConfig {
        accounts: AccountsConfig {
            access_token_lifetime: config.accounts.access_token_lifetime,
            signed_token_lifetime: config.accounts.signed_token_lifetime,
            code_lifetime: config.email.code_lifetime,
            session_idle: config.accounts.session_idle,
            session_lifetime: config.accounts.session_lifetime,
            failed_logins_allowed: config.accounts.failed_logins_allowed,
            hash_costs: HashCosts {
                memory_kib: costs.memory_kib,
                iterations: costs.iterations,
                parallelism: costs.parallelism,
            },
            ..AccountsConfig::default()
        },
        applications: ApplicationsConfig {
            signature_window: config.applications.signature_window,
            session_lifetime: config.applications.session_lifetime,
        },
        registration: RegistrationConfig {
            enabled: config.registration.enabled,
            token: config.registration.token.as_ref().map(expose),
            tokens: config.registration.tokens.iter().map(expose).collect(),
            approval: config.registration.approval,
            require_email: config.registration.require_email,
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
        directory: DirectoryConfig { own_phones: config.cascade.own_phones },
        calls: CallsConfig {
            turn_uris: config.calls.turn_uris.clone(),
            turn_secret: config.calls.turn_secret.as_ref().map(expose),
            turn_lifetime: config.calls.turn_lifetime,
            livekit_url: config.calls.livekit_url.as_ref().map(ToString::to_string),
        },
        oauth: OauthConfig { enabled: config.oauth.enabled },
        sso: sso_config(config),
        public_baseurl: public_baseurl(config),
    }
}

fn sso_config(config: &Config) -> SsoConfig {
    let provider = |provider: &config::SsoProvider| SsoProvider {
        id: provider.id.clone(),
        name: provider.name.clone(),
        brand: provider.brand.clone(),
        issuer: provider.issuer.as_str().trim_end_matches('/').to_owned(),
        client_id: provider.client_id.clone(),
        client_secret: provider.client_secret.as_ref().map(|secret| secret.expose().to_owned()),
        scopes: provider.scopes.clone(),
        localpart_claim: provider.localpart_claim.clone(),
        display_name_claim: provider.display_name_claim.clone(),
        email_claim: provider.email_claim.clone(),
        register: provider.register,
        link_by_name: provider.link_by_name,
    };
    SsoConfig {
        providers: config.sso.providers.iter().map(provider).collect(),
        trusted_redirects: config.sso.trusted_redirects.clone(),
    }
}

/// Where clients and browsers reach this server, without a slash at the end.
pub(super) fn public_baseurl(config: &Config) -> Option<String> {
    config.public_baseurl.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned())
}

/// The mail relay, if there is one.
pub(super) fn mail_config(config: &Config) -> Option<MailConfig> {
    let email = &config.email;
    let password = email.password.as_ref().map_or("", Secret::expose);
    Some(MailConfig {
        host: email.smtp_host.clone()?,
        port: email.smtp_port,
        tls: match email.tls {
            EmailTls::None => MailTls::None,
            EmailTls::StartTls => MailTls::StartTls,
            EmailTls::Tls => MailTls::Tls,
        },
        ca_file: email.ca_file.clone(),
        from: email.from.clone().unwrap_or_else(|| format!("no-reply@{}", config.server_name.host())),
        login: email.user.clone().map(|user| (user, password.to_owned())),
    })
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

pub(super) fn outbound_config(config: &Config) -> OutboundConfig {
    let outbound = &config.outbound;
    OutboundConfig { ca_file: outbound.ca_file.clone(), allow_private_addresses: outbound.allow_private_addresses }
}

fn previous_key(config: &Config) -> Result<Option<Arc<SigningKey>>, KeyError> {
    let file = previous(&config.keys_dir)?;
    let key = file.and_then(|file| SigningKey::from_seed(config.server_name.clone(), file.version(), file.seed()));
    Ok(key.map(Arc::new))
}

fn peer_rate(rate: Rate) -> peers::trust::Rate {
    peers::trust::Rate { per_second: rate.per_second, burst: rate.burst }
}

pub(super) fn bus_config(config: &Config) -> Option<BusConfig> {
    Some(BusConfig { amqp: amqp_config(config)?, rules: config.bus.publishers.clone() })
}

/// The broker, if there is one.
pub(super) fn amqp_config(config: &Config) -> Option<AmqpConfig> {
    let bus = &config.bus;
    Some(AmqpConfig {
        url: bus.url.as_ref()?.expose().to_owned(),
        ca_file: bus.ca_file.clone(),
        certificate: bus.certificate.clone(),
        private_key: bus.private_key.clone(),
    })
}

pub(super) fn rooms_config(config: &Config) -> RoomsConfig {
    RoomsConfig {
        default_version: config.rooms.default_version.clone(),
        recall_window: config.rooms.recall_window,
        ..RoomsConfig::default()
    }
}

pub(super) fn search_config(config: &Config) -> SearchConfig {
    SearchConfig { enabled: config.search.enabled }
}

/// What can be set while the server runs: as it is configured, and as it would be if nothing were.
pub(super) fn runtime_settings(config: &Config, log_filter: &str) -> (Configured, Configured) {
    let rate = |rate: Rate| SetRate { per_second: rate.per_second, burst: rate.burst };
    let said = |config: &Config, log_filter: &str| Configured {
        registration: config.registration.enabled,
        approval: config.registration.approval,
        recall_window: config.rooms.recall_window,
        rate_limits: SetLimits {
            enabled: config.rate_limits.enabled,
            login: rate(config.rate_limits.login),
            registration: rate(config.rate_limits.registration),
            messages: rate(config.rate_limits.messages),
            joins: rate(config.rate_limits.joins),
        },
        log_filter: log_filter.to_owned(),
    };
    let default = Config::default();
    (said(config, log_filter), said(&default, &default.logging.filter))
}

pub(super) fn media_config(config: &Config) -> MediaConfig {
    let section = &config.media;
    let kinds = Kinds { allowed: section.allowed_types.clone(), denied: section.denied_types.clone() };
    let scan = section.clamd.clone().map(|address| ScanConfig {
        address,
        timeout: section.clamd_timeout,
        concurrent: usize::try_from(section.clamd_concurrency).unwrap_or(usize::MAX),
        is_required: section.clamd_required,
    });
    MediaConfig {
        kinds,
        scan,
        max_upload: config.media.max_upload.as_u64(),
        max_remote: config.media.max_remote.as_u64(),
        quota: config.media.quota.map(|quota| quota.as_u64()),
        bucket: s3_config(&config.media),
        ..MediaConfig::at(config.media_path())
    }
}

/// `None`: files are in a folder.
fn s3_config(media: &config::Media) -> Option<S3Config> {
    let s3 = &media.s3;
    let bucket = s3.bucket.clone().filter(|_| media.storage == MediaStorage::S3)?;
    let credentials = s3.access_key_id.clone().zip(s3.secret_access_key.as_ref());
    Some(S3Config {
        endpoint: s3.endpoint.as_ref().map(|endpoint| endpoint.as_str().trim_end_matches('/').to_owned()),
        bucket,
        region: s3.region.clone(),
        prefix: s3.prefix.clone(),
        credentials: credentials.map(|(id, secret)| (id, Zeroizing::new(secret.expose().to_owned()))),
        path_style: s3.path_style,
    })
}

pub(super) fn sync_config(config: &Config) -> SyncConfig {
    let whole = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    SyncConfig {
        presence: config.sync.presence,
        max_timeout: config.sync.max_timeout,
        connections: ConnectionsConfig {
            most: whole(config.realtime.max_connections),
            most_of_user: whole(config.realtime.max_connections_per_user),
        },
        ..SyncConfig::default()
    }
}

pub(super) fn push_config(config: &Config) -> PushConfig {
    let push = &config.push;
    PushConfig {
        include_content: push.include_content,
        badge_counts_rooms: push.badge_counts_rooms,
        email_after: push.email_after,
        email_every: push.email_every,
        public_baseurl: config.public_baseurl.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned()),
    }
}

pub(super) fn cascade_config(config: &Config) -> CascadeConfig {
    let cascade = &config.cascade;
    CascadeConfig {
        enabled: cascade.enabled,
        interval: cascade.interval,
        page: cascade.page,
        max_entries: cascade.max_entries,
    }
}

pub(super) fn announcements_config(config: &Config) -> AnnouncementsConfig {
    let (events, broadcasts) = (&config.events, &config.broadcasts);
    AnnouncementsConfig {
        events: SystemEventsConfig { keep: events.keep, notify: events.notify },
        broadcasts: BroadcastsConfig { from_peers: broadcasts.from_peers, keep: broadcasts.keep },
        notices: NoticesConfig { enabled: broadcasts.notices, name: broadcasts.notices_name.clone() },
    }
}

pub(super) fn federation_config(config: &Config) -> FederationConfig {
    FederationConfig {
        presence: config.sync.presence,
        ledger_keep: config.federation.ledger_keep,
        ..FederationConfig::default()
    }
}

pub(super) fn api_config(config: &Config) -> ApiConfig {
    ApiConfig {
        max_body: usize::try_from(config.client_api.max_body.as_u64()).unwrap_or(usize::MAX),
        public_rooms_for_servers: config.federation.public_rooms,
        well_known_server: config.federation.well_known_server.clone(),
        realtime: realtime_config(&config.realtime),
    }
}

fn realtime_config(config: &crate::config::Realtime) -> RealtimeConfig {
    RealtimeConfig {
        heartbeat: config.heartbeat,
        stall: config.stall_timeout,
        window: usize::try_from(config.window).unwrap_or(usize::MAX),
        max_frame: usize::try_from(config.max_frame.as_u64()).unwrap_or(usize::MAX),
        frame_period: Duration::from_secs_f64(1.0 / config.frames.per_second),
        frames_at_once: config.frames.burst,
        most_missed: usize::try_from(config.most_missed).unwrap_or(usize::MAX),
    }
}

/// Where the database is.
pub(super) fn location(config: &Config) -> Location {
    match config.database_url() {
        DatabaseUrl::Sqlite(path) => Location::Sqlite(path),
        DatabaseUrl::Postgres(url) => Location::Postgres(url.expose().to_owned()),
    }
}

/// The cache that nodes share, if there is one.
pub(super) fn cache_config(config: &Config) -> Option<CacheConfig> {
    let url = config.cache.url.as_ref()?;
    Some(CacheConfig { url: url.expose().to_owned(), ca_file: config.cache.ca_file.clone() })
}

/// The links with the brokers of peers, if the configuration says where this server's own is managed.
pub(super) fn links_config(config: &Config) -> Option<LinksConfig> {
    let bus = &config.bus;
    let text = |url: &Option<ServiceUrl>| url.as_ref().and_then(|url| Url::parse(url.expose()).ok());
    let user = text(&bus.url).map(|url| fabric::management::pattern::percent_decoded(url.username()));
    Some(LinksConfig {
        management: ManagementConfig {
            url: bus.management_url.as_ref()?.expose().to_owned(),
            ca_file: bus.ca_file.clone(),
        },
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
    })
}
