//! What is looked up on the way to a server, and what comes of each look.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use hickory_resolver::{
    net::{DnsError, NetError},
    proto::op::ResponseCode,
};
use ruma::OwnedServerName;

use crate::well_known::Unnamed;

/// One thing that was looked up, and what came of it.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// An admin has set where it is: nothing that its domain says of that counts.
    Endpoint(OwnedServerName),
    /// `https://{domain}/.well-known/matrix/server`.
    WellKnown {
        /// Who was asked.
        domain: String,
        /// Which server speaks for it.
        said: Result<OwnedServerName, Unnamed>,
    },
    /// The SRV records of `name`.
    Services {
        /// With the service and the protocol before the domain.
        name: String,
        /// Hosts and ports, in the order in which they are to be tried; none: there is no such service.
        found: Result<Vec<(String, u16)>, Missing>,
    },
    /// The addresses of a host.
    Addresses(Addresses),
}

/// Where a host is.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Its name, or its address where that is its name.
    pub host: String,
    /// What its name was looked up for, and what was found; nothing where the host is an address.
    pub asked: Vec<(Family, Result<Vec<IpAddr>, Missing>)>,
    /// What may be connected to, preferred first.
    pub open: Vec<SocketAddr>,
    /// What is not on the public internet and so is never connected to, unless the configuration allows it.
    pub closed: Vec<SocketAddr>,
}

impl Addresses {
    /// What may be connected to, or why there is nothing.
    pub fn usable(&self) -> Result<&[SocketAddr], String> {
        if !self.open.is_empty() {
            return Ok(&self.open);
        }
        if !self.closed.is_empty() {
            let told = told(&self.closed);
            return Err(format!(
                "{told} is not on the public internet; federation.allow_private_addresses would let it be"
            ));
        }
        // Where one family failed and the other has no record, the failure tells more.
        let missing = || self.asked.iter().filter_map(|(_, found)| found.as_ref().err());
        let failed = missing().find(|missing| matches!(missing, Missing::Failed(_)));
        Err(failed.or_else(|| missing().next()).map_or_else(|| Missing::NoRecord.to_string(), ToString::to_string))
    }
}

/// The two kinds of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, in A records.
    V4,
    /// IPv6, in AAAA records.
    V6,
}

/// Why the name servers named nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// NXDOMAIN.
    #[error("there is no such name")]
    NoName,
    /// The name is there; records of this type are not.
    #[error("there is no such record")]
    NoRecord,
    /// They did not answer, or answered that they can't.
    #[error("{0}")]
    Failed(String),
}

impl From<NetError> for Missing {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(no)) if no.response_code == ResponseCode::NXDomain => Self::NoName,
            NetError::Dns(DnsError::NoRecordsFound(_)) => Self::NoRecord,
            error => Self::Failed(error.to_string()),
        }
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(endpoint) => line(f, "set by an admin", Ok::<_, &str>(endpoint.to_string())),
            Self::WellKnown { domain, said } => {
                let what = format!("https://{domain}/.well-known/matrix/server");
                line(f, &what, said.as_ref().map(ToString::to_string))
            }
            Self::Services { name, found } => {
                let targets = |targets: &Vec<(String, u16)>| {
                    let told: Vec<String> = targets.iter().map(|(host, port)| format!("{host}:{port}")).collect();
                    told.join(", ")
                };
                line(f, &format!("SRV {name}"), found.as_ref().map(targets))
            }
            Self::Addresses(addresses) => {
                line(f, &format!("addresses of {}", addresses.host), addresses.usable().map(told))
            }
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, what: &str, outcome: Result<String, impl fmt::Display>) -> fmt::Result {
    match outcome {
        Ok(found) => write!(f, "{what}: {found}"),
        Err(reason) => write!(f, "{what}: no ({reason})"),
    }
}

fn told(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
