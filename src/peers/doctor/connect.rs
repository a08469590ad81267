//! A connection to each address.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::{Finding, Remedy, Step};

/// Why there is no connection.
pub(super) enum Unconnected {
    Timeout(Duration),
    Failed(io::Error),
}

/// Whether `address` takes a connection.
pub(super) async fn tcp(address: SocketAddr, limit: Duration) -> Result<(), Unconnected> {
    open(address, limit).await.map(|_| ())
}

/// Connects.
pub(super) async fn open(address: SocketAddr, limit: Duration) -> Result<TcpStream, Unconnected> {
    let connected = timeout(limit, TcpStream::connect(address)).await.map_err(|_| Unconnected::Timeout(limit))?;
    connected.map_err(Unconnected::Failed)
}

/// `is_fault`: no other address took a connection either.
pub(super) fn finding(address: SocketAddr, tried: &Result<(), Unconnected>, is_fault: bool) -> Finding {
    const STEP: Step = Step::Tcp;
    let port = address.port();
    let kind = if address.is_ipv4() { ("IPv4", "A") } else { ("IPv6", "AAAA") };
    let finding = match tried {
        Ok(()) => Finding::ok(STEP, "it takes connections"),
        Err(Unconnected::Timeout(limit)) => {
            let seen = format!("no connection within {limit:?}");
            let remedy = Remedy::theirs(format!(
                "let the firewall and the router pass TCP port {port} to the server at this address; if the address is \
                 no longer its, take it out of DNS"
            ));
            Finding::fault_if(is_fault, STEP, seen, remedy)
        }
        Err(Unconnected::Failed(error)) if is_our_way(error) => {
            let (kind, record) = kind;
            let seen = format!("this machine has no way there: {error}");
            let remedy = Remedy::ours(format!(
                "give this machine {kind}, or, if it has none, do nothing: then the {record} records of others don't \
                 matter here"
            ));
            Finding::fault_if(is_fault, STEP, seen, remedy)
        }
        Err(Unconnected::Failed(error)) => {
            let seen = format!("it takes no connection: {error}");
            let remedy = Remedy::theirs(format!(
                "let the server or its proxy listen at TCP port {port} of this address, or correct the record or the \
                 well-known file that leads there"
            ));
            Finding::fault_if(is_fault, STEP, seen, remedy)
        }
    };
    finding.at(address)
}

/// Whether it failed before anything left this machine.
fn is_our_way(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable)
}
