//! How to log in at a server's broker: as a peer is told it, and as an admin says it.

use std::fmt;

use fabric::management::{LinkWay, pattern::percent_encoded};
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{LinkTls, LinksError, way_of};

/// Nothing in an offer is longer, in bytes.
const LONGEST: usize = 1_024;
/// In seconds: how long the other broker may be silent.
const HEARTBEAT: u32 = 15;
/// In milliseconds: how long connecting may take.
const CONNECT: u32 = 10_000;

/// How a peer logs in at this server's broker, and nobody else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Whose broker it is.
    pub server_name: OwnedServerName,
    /// Where it is: `amqps://` or `amqp://`, host and port, and nothing else.
    pub url: String,
    /// The virtual host that is there for the peer alone.
    pub vhost: String,
    /// The user that may do nothing but the link.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The exchange to which the peer may publish what this server is to get: for shovels.
    pub push_exchange: String,
    /// The exchange from which the peer may fetch what it is to get: for upstreams.
    pub pull_exchange: String,
    /// What this server makes its links of: `upstream` or `shovel`.
    pub link: String,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("server_name", &self.server_name)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// How this server logs in at a peer's broker, as it is kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub(super) enum Theirs {
    /// The peer said so.
    Peer { offer: Offer },
    /// An admin said so.
    Admin { uri: String, link: Option<String> },
}

/// Host and port of a broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) is_tls: bool,
    /// As it stands in a URL: an IPv6 address in brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Endpoint {
    /// Reads a URL that says where, and nothing else: in the others there are files of our broker's machine.
    pub(super) fn read(text: &str) -> Result<Self, LinksError> {
        let wrong = |why: &str| LinksError::Address(format!("the address of the broker {why}"));
        let url = Url::parse(text).map_err(|_| wrong("is no URL"))?;
        let is_tls = match url.scheme() {
            "amqps" => true,
            "amqp" => false,
            _ => return Err(wrong("is neither amqp:// nor amqps://")),
        };
        let is_bare = url.username().is_empty()
            && url.password().is_none()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none();
        if !is_bare {
            return Err(wrong("has more in it than host and port"));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("has no host"))?.to_owned();
        Ok(Self { is_tls, host, port: url.port().unwrap_or(if is_tls { 5671 } else { 5672 }) })
    }
}

impl Offer {
    /// Refuses what can't be used. Answers where the broker is.
    pub(super) fn check(&self) -> Result<Endpoint, LinksError> {
        let texts = [&self.url, &self.vhost, &self.user, &self.password, &self.push_exchange, &self.pull_exchange];
        if texts.iter().any(|text| text.is_empty() || text.len() > LONGEST) {
            return Err(LinksError::Address("what the peer says of its broker is empty, or too long".to_owned()));
        }
        Endpoint::read(&self.url)
    }
}

impl Theirs {
    /// Where our broker connects to, with user and password.
    pub(super) fn uri(&self, tls: &LinkTls) -> Result<String, LinksError> {
        let offer = match self {
            Self::Admin { uri, .. } => return Ok(uri.clone()),
            Self::Peer { offer } => offer,
        };
        let Endpoint { is_tls, host, port } = offer.check()?;
        let scheme = if is_tls { "amqps" } else { "amqp" };
        let enc = percent_encoded;
        let (user, password, vhost) = (enc(&offer.user), enc(&offer.password), enc(&offer.vhost));
        let mut uri = format!("{scheme}://{user}:{password}@{host}:{port}/{vhost}");
        uri.push_str(&format!("?heartbeat={HEARTBEAT}&connection_timeout={CONNECT}"));
        if is_tls {
            let name = host.trim_matches(['[', ']']);
            let path = |path: &str| enc(path).replace("%2F", "/");
            let ca_file = path(&tls.ca_file);
            uri.push_str(&format!("&verify=verify_peer&server_name_indication={name}&cacertfile={ca_file}"));
            if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.private_key) {
                uri.push_str(&format!("&certfile={}&keyfile={}", path(certificate), path(key)));
            }
        }
        Ok(uri)
    }

    /// What the link is made of. Two servers that want it otherwise fetch from each other: so there is one link each way.
    pub(super) fn way(&self, ours: LinkWay) -> LinkWay {
        match self {
            Self::Admin { link, .. } => link.as_deref().and_then(way_of).unwrap_or(ours),
            Self::Peer { offer } if way_of(&offer.link) == Some(ours) => ours,
            Self::Peer { .. } => LinkWay::Upstream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(url: &str) -> Offer {
        Offer {
            server_name: OwnedServerName::try_from("b.test").expect("a name"),
            url: url.into(),
            vhost: "fed.a.test:8448".into(),
            user: "peer.a.test".into(),
            password: "p/w".into(),
            push_exchange: "fed.in.a.test".into(),
            pull_exchange: "fed.out.a.test".into(),
            link: "upstream".into(),
        }
    }

    fn tls() -> LinkTls {
        let path = |name: &str| Some(format!("/etc/rabbitmq/{name}"));
        LinkTls { ca_file: "/etc/ssl/ca.crt".into(), certificate: path("cert.pem"), private_key: path("key.pem") }
    }

    #[test]
    fn an_offer_becomes_a_uri_whose_tls_is_as_this_server_wants_it() {
        let uri = |url: &str| Theirs::Peer { offer: offer(url) }.uri(&tls()).expect("a good offer");
        assert_eq!(
            uri("amqps://mq.b.test"),
            "amqps://peer.a.test:p%2Fw@mq.b.test:5671/fed.a.test%3A8448?heartbeat=15&connection_timeout=10000\
             &verify=verify_peer&server_name_indication=mq.b.test&cacertfile=/etc/ssl/ca.crt\
             &certfile=/etc/rabbitmq/cert.pem&keyfile=/etc/rabbitmq/key.pem"
        );
        assert!(uri("amqp://10.0.0.1:5673/").starts_with("amqp://peer.a.test:p%2Fw@10.0.0.1:5673/fed.a.test%3A8448?"));
        assert!(!uri("amqp://10.0.0.1:5673/").contains("file="));
    }

    #[test]
    fn a_peer_says_where_its_broker_is_and_nothing_else() {
        for wrong in [
            "mq.b.test",
            "http://mq.b.test",
            "amqps://us:secret@mq.b.test",
            "amqps://mq.b.test/vhost",
            "amqps://mq.b.test?cacertfile=/etc/passwd",
            "amqps://",
            "",
        ] {
            let refused = offer(wrong).check().expect_err(wrong).to_string();
            assert!(!refused.contains("secret"), "{refused}");
        }
        assert_eq!(offer("amqps://[::1]:1").check().ok().map(|endpoint| endpoint.host).as_deref(), Some("[::1]"));
    }

    #[test]
    fn two_who_want_different_links_fetch_from_each_other() {
        let of = |link: &str| Theirs::Peer { offer: Offer { link: link.into(), ..offer("amqps://b") } };
        assert_eq!(of("shovel").way(LinkWay::Shovel), LinkWay::Shovel);
        assert_eq!(of("shovel").way(LinkWay::Upstream), LinkWay::Upstream);
        assert_eq!(of("upstream").way(LinkWay::Shovel), LinkWay::Upstream);
        assert_eq!(of("pigeon").way(LinkWay::Shovel), LinkWay::Upstream);
    }

    #[test]
    fn an_offer_is_shown_without_its_password() {
        assert!(!format!("{:?}", offer("amqps://b")).contains("p/w"));
    }
}
