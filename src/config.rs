//! The configuration: a TOML file below, the environment above, checked before anything starts.
//!
//! Each section is a struct with defaults that run on a laptop. To add a key: a field here or in [`sections`], its
//! default, and a documented line in `config.toml`, whose test fails until it is there.

mod database_url;
mod human;
mod layers;
mod load;
mod secret;
mod sections;
mod service_url;
mod warnings;

use std::path::{Path, PathBuf};

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use url::Url;

pub use self::{
    database_url::DatabaseUrl,
    load::{ConfigError, Loaded, Origin},
    secret::Secret,
    sections::{
        Accounts, Applications, Broadcasts, Bus, Cache, Calls, Cascade, ClientApi, Database, Email, EmailTls, Events,
        Federation, LinkKind, Listen, LogFormat, Logging, Media, MediaStorage, Metrics, Oauth, Outbound, Push, Rate,
        RateLimits, Realtime, Registration, Rooms, Search, Sso, SsoProvider, Sync, Tls,
    },
    service_url::ServiceUrl,
};

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The domain in the ids of this server's users and rooms.
    #[serde(deserialize_with = "human::server_name")]
    pub server_name: OwnedServerName,
    /// Where clients reach this server, if not at `https://{server_name}`.
    #[serde(deserialize_with = "human::base_url")]
    pub public_baseurl: Option<Url>,
    /// The folder of everything the server writes, keys excepted. Absolute after loading.
    pub data_dir: PathBuf,
    /// The folder of the signing key. Absolute after loading.
    pub keys_dir: PathBuf,
    pub listen: Listen,
    pub tls: Tls,
    pub federation: Federation,
    pub outbound: Outbound,
    pub database: Database,
    pub bus: Bus,
    pub broadcasts: Broadcasts,
    pub cascade: Cascade,
    pub push: Push,
    pub events: Events,
    pub cache: Cache,
    pub registration: Registration,
    pub email: Email,
    pub accounts: Accounts,
    pub applications: Applications,
    pub oauth: Oauth,
    pub sso: Sso,
    pub rate_limits: RateLimits,
    pub rooms: Rooms,
    pub calls: Calls,
    pub search: Search,
    pub sync: Sync,
    pub realtime: Realtime,
    pub client_api: ClientApi,
    pub media: Media,
    pub logging: Logging,
    pub metrics: Metrics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_name: "localhost".try_into().expect("localhost is a server name"),
            public_baseurl: None,
            data_dir: "data".into(),
            keys_dir: "keys".into(),
            listen: Listen::default(),
            tls: Tls::default(),
            federation: Federation::default(),
            outbound: Outbound::default(),
            database: Database::default(),
            bus: Bus::default(),
            broadcasts: Broadcasts::default(),
            cascade: Cascade::default(),
            push: Push::default(),
            events: Events::default(),
            cache: Cache::default(),
            registration: Registration::default(),
            email: Email::default(),
            accounts: Accounts::default(),
            applications: Applications::default(),
            oauth: Oauth::default(),
            sso: Sso::default(),
            rate_limits: RateLimits::default(),
            rooms: Rooms::default(),
            calls: Calls::default(),
            search: Search::default(),
            sync: Sync::default(),
            realtime: Realtime::default(),
            client_api: ClientApi::default(),
            media: Media::default(),
            logging: Logging::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Config {
    /// Where the database is: what `database.url` says, else `comity.db` in the data folder.
    pub fn database_url(&self) -> DatabaseUrl {
        self.database.url.clone().unwrap_or_else(|| DatabaseUrl::Sqlite(self.data_dir.join("comity.db")))
    }

    /// Where images and files are: what `media.path` says, else `media` in the data folder.
    pub fn media_path(&self) -> PathBuf {
        self.media.path.clone().unwrap_or_else(|| self.data_dir.join("media"))
    }

    /// Makes relative paths start at `base`, the folder of the configuration file.
    fn resolve_paths(&mut self, base: &Path) {
        self.data_dir = base.join(&self.data_dir);
        self.keys_dir = base.join(&self.keys_dir);
        let Self { tls, federation, outbound, bus, cache, email, media, .. } = self;
        let files = [
            &mut tls.certificate,
            &mut tls.private_key,
            &mut federation.ca_file,
            &mut outbound.ca_file,
            &mut bus.ca_file,
            &mut bus.certificate,
            &mut bus.private_key,
            &mut cache.ca_file,
            &mut email.ca_file,
            &mut media.path,
        ];
        for path in files.into_iter().flatten() {
            *path = base.join(&*path);
        }
        if let Some(DatabaseUrl::Sqlite(path)) = &mut self.database.url {
            *path = base.join(&*path);
        }
    }
}
