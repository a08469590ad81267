//! How this server talks to others.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use model::SigningKey;
use ruma::OwnedServerName;

use crate::{RetiredKey, TrustConfig};

/// `[federation]`, as far as it is about asking.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Whether this server talks to others at all.
    pub enabled: bool,
    /// PEM certificates of authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the certificates of other servers are checked. Only tests may do without.
    pub verify_tls: bool,
    /// Whether servers at loopback and private addresses are talked to.
    pub allow_private_addresses: bool,
    /// Which name servers are asked; none: the system's.
    pub nameservers: Vec<SocketAddr>,
    /// Servers that are asked for the keys of those that don't answer.
    pub trusted_key_servers: Vec<OwnedServerName>,
    /// Keys that this server used to sign with.
    pub retired_keys: Vec<RetiredKey>,
    /// That of them which was retired last, private half included: it signs what this server says of its keys.
    pub previous_key: Option<Arc<SigningKey>>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an answer may take, from connecting to its last byte.
    pub request_timeout: Duration,
    /// How servers are trusted that nobody has set.
    pub trust: TrustConfig,
    /// How often publishers are asked for their lists.
    pub list_refresh: Duration,
}

impl Default for PeersConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            ca_file: None,
            verify_tls: true,
            allow_private_addresses: false,
            nameservers: Vec::new(),
            trusted_key_servers: Vec::new(),
            retired_keys: Vec::new(),
            previous_key: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            trust: TrustConfig::default(),
            list_refresh: Duration::from_hours(1),
        }
    }
}
