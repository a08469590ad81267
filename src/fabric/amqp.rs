//! A broker, over AMQP 0-9-1: connecting to it, and staying connected.
//!
//! lapin's own recovery survives one outage and hangs at the next, so there is none of it here: whatever fails ends the
//! connection, and [`Broker::keep`] makes a new one. What was published without being confirmed is published again by
//! whoever has it.

mod keep;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use lapin::{
    Connection, ConnectionProperties,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPUri, SASLMechanism},
};
use tokio::time::timeout;

use crate::file::{self, FileError};
pub use keep::{Link, LinkState};

/// How long connecting may take, TLS and login included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long ending a connection may take before it is just dropped.
const CLOSE: Duration = Duration::from_secs(2);
/// In seconds: how long the broker may be silent.
const HEARTBEAT: u16 = 15;

/// Where a broker is, and how to show oneself to it.
#[derive(Clone, Debug, Default)]
pub struct AmqpConfig {
    /// `amqp://` or `amqps://`, with user, password and virtual host.
    pub url: String,
    /// PEM: authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM: what to show to the broker.
    pub certificate: Option<PathBuf>,
    /// PEM: the private key of the certificate.
    pub private_key: Option<PathBuf>,
}

/// A virtual host of a broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    uri: Arc<AMQPUri>,
    tls: Arc<OwnedTLSConfig>,
}

/// Why something did not work at a broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL is none.
    #[error("the broker's URL can't be used: {0}")]
    Url(String),
    /// A file of its TLS can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It took too long.
    #[error("the broker did not {0} in time")]
    Slow(&'static str),
    /// The broker, or the way to it.
    #[error("{0}")]
    Broker(#[from] lapin::Error),
    /// It took a message and then gave it up.
    #[error("the broker refused a message")]
    Refused,
    /// No queue takes the message.
    #[error("no queue takes what is published to `{exchange}` with `{routing_key}`")]
    Unroutable {
        /// Where it was published.
        exchange: String,
        /// With which routing key.
        routing_key: String,
    },
    /// What is needed isn't there, and this server may not make it.
    #[error(
        "the {what} `{name}` is missing at the broker, and this server's user may not make it: make it, or let the user configure it"
    )]
    Missing {
        /// `exchange` or `queue`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It ended what was to go on.
    #[error("the broker ended {0}")]
    Ended(&'static str),
}

impl BrokerError {
    /// One word of a few, for figures and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::File(_) => "configuration",
            Self::Slow(_) => "timeout",
            Self::Broker(error) if error.is_amqp_error() => "refused",
            Self::Broker(_) => "unreachable",
            Self::Refused => "nack",
            Self::Unroutable { .. } => "unroutable",
            Self::Missing { .. } => "missing",
            Self::Ended(_) => "ended",
        }
    }

    /// The reply code of AMQP, if the broker gave one: 403, 404, 406 …
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Broker(error) => match error.kind() {
                lapin::ErrorKind::ProtocolError(error) => Some(error.get_id()),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Broker {
    /// The broker of `config`, which is not connected to yet.
    pub fn new(config: &AmqpConfig) -> Result<Self, BrokerError> {
        let mut uri: AMQPUri = config.url.parse().map_err(BrokerError::Url)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let cert_chain = match &config.ca_file {
            Some(path) => Some(String::from_utf8_lossy(&file::read(path)?).into_owned()),
            None => None,
        };
        let identity = match (&config.certificate, &config.private_key) {
            (Some(certificate), Some(key)) => {
                Some(OwnedIdentity::PKCS8 { pem: file::read(certificate)?, key: file::read(key)? })
            }
            _ => None,
        };
        if identity.is_some() && uri.authority.userinfo.password.is_empty() {
            uri.query.auth_mechanism.get_or_insert(SASLMechanism::External);
        }
        Ok(Self { uri: Arc::new(uri), tls: Arc::new(OwnedTLSConfig { identity, cert_chain }) })
    }

    /// Another virtual host of the same broker, as the same user.
    pub fn at_vhost(&self, vhost: &str) -> Self {
        let uri = AMQPUri { vhost: vhost.to_owned(), ..(*self.uri).clone() };
        Self { uri: Arc::new(uri), tls: self.tls.clone() }
    }

    /// Who this server is there; with a certificate it is the broker that knows.
    pub fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    /// Which virtual host.
    pub fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// A new connection, called `name` in the broker's list of connections. The broker answered it.
    pub async fn connect(&self, name: &str) -> Result<Connection, BrokerError> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| BrokerError::Url(error.to_string()))?;
        let (uri, tls) = ((*self.uri).clone(), (*self.tls).clone());
        let connecting = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        Ok(timeout(CONNECT, connecting).await.map_err(|_| BrokerError::Slow("answer"))??)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &*self.uri;
        write!(f, "{scheme}://{}:{}/{vhost}", authority.host, authority.port)
    }
}

/// Ends a connection, so that the broker doesn't have to find out.
pub async fn close(connection: &Connection) {
    let _ = timeout(CLOSE, connection.close(200, "goodbye".into())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_shown_without_its_password() {
        let config = AmqpConfig { url: "amqps://us:secret@mq.a.test/im".to_owned(), ..AmqpConfig::default() };
        let broker = Broker::new(&config).expect("a URL").at_vhost("fed.b.test");
        assert_eq!(format!("{broker:?}"), "amqps://mq.a.test:5671/fed.b.test");
        assert_eq!((broker.user(), broker.vhost()), ("us", "fed.b.test"));
    }
}
