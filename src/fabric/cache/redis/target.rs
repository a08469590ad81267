//! From a URL to whoever answers there.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError, RedisResult,
    TlsCertificates, TlsMode,
    aio::{ConnectionLike, MultiplexedConnection, PubSub},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use url::Url;

use super::super::{CacheConfig, CacheError};
use crate::file;

/// How long connecting may take, TLS and login included.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
/// How long an answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Who is to be asked.
#[derive(Clone)]
pub(super) enum Target {
    One(Box<Client>),
    Cluster { all: Box<ClusterClient>, seeds: Vec<Client> },
    Sentinel(Box<Sentinels>),
}

/// Servers that know who is the master.
#[derive(Clone)]
pub(super) struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    master: String,
    server: Login,
    sentinel_password: Option<String>,
    certificates: Option<TlsCertificates>,
    is_tls: bool,
}

#[derive(Clone, Default)]
struct Login {
    user: Option<String>,
    password: Option<String>,
    database: i64,
}

/// A connection that many share.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Target {
    pub(super) fn new(config: &CacheConfig) -> Result<Self, CacheError> {
        let certificates = match &config.ca_file {
            None => None,
            Some(path) => {
                let pem = file::read(path)?;
                Some(TlsCertificates { client_tls: None, root_cert: Some(pem) })
            }
        };
        // redis takes what is installed for the process, and there is nothing if more than one is compiled in. Who was first stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (scheme, _) = config.url.split_once("://").ok_or_else(|| CacheError::Url("it has no scheme".to_owned()))?;
        match scheme.split_once('+') {
            Some((redis, "cluster")) => {
                Self::cluster(&Several::read(&config.url, REDIS_PORT)?, redis == "rediss", certificates)
            }
            Some((redis, "sentinel")) => {
                Self::sentinel(Several::read(&config.url, SENTINEL_PORT)?, redis == "rediss", certificates)
            }
            _ => Ok(Self::One(Box::new(client(&*config.url, certificates.as_ref())?))),
        }
    }

    fn cluster(several: &Several, is_tls: bool, certificates: Option<TlsCertificates>) -> Result<Self, CacheError> {
        let nodes: Vec<ConnectionInfo> =
            several.addresses(is_tls).into_iter().map(|address| several.login.at(address)).collect::<Result<_, _>>()?;
        let seeds = nodes.iter().map(|node| client(node.clone(), certificates.as_ref())).collect::<Result<_, _>>()?;
        let mut builder = ClusterClient::builder(nodes).connection_timeout(CONNECT).response_timeout(ANSWER).retries(1);
        if let Some(certificates) = certificates {
            builder = builder.certs(certificates);
        }
        Ok(Self::Cluster { all: Box::new(builder.build().map_err(unusable)?), seeds })
    }

    fn sentinel(several: Several, is_tls: bool, certificates: Option<TlsCertificates>) -> Result<Self, CacheError> {
        let mut path = several.path.split('/');
        let master = path.next().filter(|name| !name.is_empty()).map(ToOwned::to_owned);
        let master = master
            .ok_or_else(|| CacheError::Url("it doesn't name the master: redis+sentinel://HOSTS/MASTER".to_owned()))?;
        let database = path.next().map_or(Ok(0), str::parse);
        let database = database
            .map_err(|_| CacheError::Url("what follows the master is not the number of a database".to_owned()))?;
        let addresses = several.addresses(is_tls);
        let server = Login { database, ..several.login };
        let sentinel_password = several.sentinel_password;
        let sentinels = Sentinels { addresses, master, server, sentinel_password, certificates, is_tls };
        sentinels.client().map_err(unusable)?;
        Ok(Self::Sentinel(Box::new(sentinels)))
    }

    /// A new connection. It was answered.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        let mut connection = match self {
            Self::One(client) => Connection::One(client.get_multiplexed_async_connection_with_config(&config).await?),
            Self::Sentinel(sentinels) => {
                let client = sentinels.client()?.async_get_client().await?;
                Connection::One(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Self::Cluster { all, .. } => Connection::Cluster(all.get_async_connection().await?),
        };
        connection.ping().await?;
        Ok(connection)
    }

    /// A connection to listen by. In a cluster each server says what was said to any.
    pub(super) async fn listen(&self) -> RedisResult<PubSub> {
        match self {
            Self::One(client) => client.get_async_pubsub().await,
            Self::Sentinel(sentinels) => sentinels.client()?.async_get_client().await?.get_async_pubsub().await,
            Self::Cluster { seeds, .. } => {
                let mut failure =
                    RedisError::from((redis::ErrorKind::ClusterConnectionNotFound, "no server of the cluster answers"));
                for seed in seeds {
                    match seed.get_async_pubsub().await {
                        Ok(listening) => return Ok(listening),
                        Err(error) => failure = error,
                    }
                }
                Err(failure)
            }
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(client) => write!(f, "{}", client.get_connection_info().addr()),
            Self::Cluster { seeds, .. } => write!(f, "a cluster of {} known servers", seeds.len()),
            Self::Sentinel(sentinels) => write!(f, "{} of {} sentinels", sentinels.master, sentinels.addresses.len()),
        }
    }
}

impl Sentinels {
    fn client(&self) -> RedisResult<redis::sentinel::SentinelClient> {
        let kind = SentinelServerType::Master;
        let mut builder = SentinelClientBuilder::new(self.addresses.clone(), self.master.clone(), kind)?
            .set_client_to_redis_db(self.server.database);
        if let Some(user) = &self.server.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.server.password {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(password) = &self.sentinel_password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if self.is_tls {
            builder =
                builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = self.certificates.as_ref().filter(|_| self.is_tls) {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        builder.build()
    }
}

impl Login {
    fn at(&self, address: ConnectionAddr) -> Result<ConnectionInfo, CacheError> {
        let mut settings = redis::RedisConnectionInfo::default().set_db(self.database);
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        Ok(address.into_connection_info().map_err(unusable)?.set_redis_settings(settings))
    }
}

impl Connection {
    pub(super) async fn ping(&mut self) -> RedisResult<()> {
        redis::cmd("PING").query_async(self).await
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a redis::Cmd) -> redis::RedisFuture<'a, redis::Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<redis::Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

fn client(at: impl redis::IntoConnectionInfo, certificates: Option<&TlsCertificates>) -> Result<Client, CacheError> {
    let info = at.into_connection_info().map_err(unusable)?;
    match (certificates, info.addr()) {
        (Some(certificates), ConnectionAddr::TcpTls { .. }) => Client::build_with_tls(info, certificates.clone()),
        _ => Client::open(info),
    }
    .map_err(unusable)
}

/// The message of the crate may repeat the URL; its kind doesn't.
fn unusable(error: RedisError) -> CacheError {
    CacheError::Url(format!("{:?}", error.kind()))
}

/// A URL of several hosts: `scheme://user:password@host1:port,host2:port/path`.
struct Several {
    hosts: Vec<(String, u16)>,
    login: Login,
    path: String,
    sentinel_password: Option<String>,
}

impl Several {
    /// Each host is read as that of a URL of its own.
    fn read(text: &str, port: u16) -> Result<Self, CacheError> {
        let none = |what: &str| CacheError::Url(what.to_owned());
        let (_, rest) = text.split_once("://").ok_or_else(|| none("it has no scheme"))?;
        let ends = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(ends);
        let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let mut several =
            Self { hosts: Vec::new(), login: Login::default(), path: String::new(), sentinel_password: None };
        for host in hosts.split(',') {
            let at = if login.is_empty() { String::new() } else { format!("{login}@") };
            let url = Url::parse(&format!("redis://{at}{host}{tail}")).map_err(|error| none(&error.to_string()))?;
            let name = url.host_str().filter(|name| !name.is_empty()).ok_or_else(|| none("a host has no name"))?;
            several.hosts.push((name.trim_matches(['[', ']']).to_owned(), url.port().unwrap_or(port)));
            let decode = |text: &str| {
                Url::parse(&format!("x:?p={text}"))
                    .ok()
                    .and_then(|url| url.query_pairs().next().map(|(_, value)| value.into_owned()))
            };
            several.login.user = Some(url.username()).filter(|user| !user.is_empty()).and_then(decode);
            several.login.password = url.password().and_then(decode);
            url.path().trim_start_matches('/').clone_into(&mut several.path);
            several.sentinel_password =
                url.query_pairs().find(|(name, _)| name == "sentinel_password").map(|(_, value)| value.into_owned());
        }
        Ok(several)
    }

    fn addresses(&self, is_tls: bool) -> Vec<ConnectionAddr> {
        let address = |(host, port): &(String, u16)| match is_tls {
            false => ConnectionAddr::Tcp(host.clone(), *port),
            true => ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None },
        };
        self.hosts.iter().map(address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, CacheError> {
        Target::new(&CacheConfig { url: url.to_owned(), ca_file: None })
    }

    #[test]
    fn several_hosts_share_a_login_and_have_ports_of_their_own() {
        let several = Several::read("redis+cluster://us:p%40ss@h1:7000,h2,[::1]:7002/0", REDIS_PORT).expect("a URL");
        let hosts: Vec<_> = several.hosts.iter().map(|(host, port)| format!("{host} {port}")).collect();
        assert_eq!(hosts, ["h1 7000", "h2 6379", "::1 7002"]);
        assert_eq!((several.login.user.as_deref(), several.login.password.as_deref()), (Some("us"), Some("p@ss")));
    }

    #[test]
    fn every_kind_of_url_has_a_target_and_others_are_refused_without_being_repeated() {
        let urls = [
            "redis://:secret@127.0.0.1:6379/1",
            "rediss://cache.a.test",
            "redis+unix:///run/redis.sock",
            "redis+cluster://:secret@h1,h2:7001",
            "rediss+cluster://h1",
            "redis+sentinel://:secret@s1,s2:26380/im/2?sentinel_password=other",
            "rediss+sentinel://s1/im",
        ];
        for url in urls {
            let target = target(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert!(!format!("{target:?}").contains("secret"), "{target:?}");
        }
        for url in
            ["redis+sentinel://:secret@s1", "redis+sentinel://:secret@s1/im/x", "redis+cluster://:secret@", "secret"]
        {
            let refused = target(url).expect_err("no target").to_string();
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
