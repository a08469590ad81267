//! Reverse proxies of the operator's own, which say for whom they ask.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use http::HeaderMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An address, or a network of them: `10.0.0.7`, `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse()
            .or_else(|_| address())
            .map(Self)
            .map_err(|_| format!("found {text:?}; expected an IP address or a network, such as 10.0.0.7 or 10.0.0.0/8"))
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Those that are believed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Arc<[Network]>);

impl Proxies {
    pub fn new(networks: &[Network]) -> Self {
        Self(networks.into())
    }

    /// Whether `address` is one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.0.contains(&address))
    }

    /// Who asks: `peer` itself or, if it is one of them, the last address in `X-Forwarded-For` that is none; whoever asks may have
    /// written what stands before that. What isn't an address ends the search at the proxy that passed it on.
    pub fn asker(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let mut asker = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let lines = headers.get_all("x-forwarded-for").into_iter().collect::<Vec<_>>();
        let mut said = lines.into_iter().rev().flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        while self.contain(asker.ip())
            && let Some(address) = said.next().and_then(address)
        {
            asker = SocketAddr::new(address, 0);
        }
        asker
    }
}

/// An address as proxies write them: some add a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn asker(peer: &str, lines: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "::1", "192.0.2.7"].map(|network| network.parse().expect("a network"));
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_str(line).expect("a header"));
        }
        let peer = SocketAddr::new(peer.parse().expect("an address"), 4711);
        Proxies::new(&networks).asker(peer, &headers).ip().to_string()
    }

    #[test]
    fn a_proxy_says_for_whom_it_asks_and_nobody_else_does() {
        assert_eq!(asker("10.1.2.3", &["203.0.113.5"]), "203.0.113.5");
        assert_eq!(asker("::ffff:10.1.2.3", &["203.0.113.5"]), "203.0.113.5", "IPv4 at a listener of IPv6");
        assert_eq!(asker("203.0.113.9", &["203.0.113.5"]), "203.0.113.9", "it is no proxy of ours");
        assert_eq!(asker("10.1.2.3", &[]), "10.1.2.3");
    }

    #[test]
    fn what_the_asker_wrote_itself_is_not_believed() {
        assert_eq!(asker("10.1.2.3", &["198.51.100.1, 203.0.113.5"]), "203.0.113.5");
        assert_eq!(asker("10.1.2.3", &["198.51.100.1", "203.0.113.5, 192.0.2.7"]), "203.0.113.5", "by way of two");
        assert_eq!(asker("10.1.2.3", &["10.9.9.9, 203.0.113.5"]), "203.0.113.5");
        assert_eq!(asker("10.1.2.3", &["203.0.113.5, nonsense"]), "10.1.2.3");
        assert_eq!(asker("::1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(asker("::1", &["10.0.0.1, 10.0.0.2"]), "10.0.0.1", "all of them are proxies");
    }

    #[test]
    fn networks_are_read_as_they_are_written() {
        for text in ["10.0.0.0/8", "2001:db8::/32"] {
            assert_eq!(text.parse::<Network>().expect("a network").to_string(), text);
        }
        assert_eq!("10.0.0.7".parse::<Network>().expect("an address").to_string(), "10.0.0.7/32");
        assert!("nginx".parse::<Network>().expect_err("a name is none").contains("10.0.0.0/8"));
    }
}
