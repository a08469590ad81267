//! `comity health`: what a supervisor asks that has no HTTP client at hand, such as a container's.

use std::{
    io::{self, Read as _, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use super::Failure;
use crate::config::Config;

/// How long connecting may take, and each wait for a part of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// No more of the answer is read.
const LONGEST: u64 = 16 * 1024;

/// Asks the server that is configured here for `/health/ready`, at its listener for clients, and prints what it says. Fails unless it
/// is ready.
pub fn run(config: &Config, out: &mut impl Write) -> Result<(), Failure> {
    let address = from_here(config.listen.client);
    let answer = ask(address).map_err(|error| format!("nobody answers at {address}: {error}"))?;
    let (status, said) = read(&answer).ok_or_else(|| format!("what answers at {address} speaks no HTTP"))?;
    if status != 200 {
        return Err(format!("not ready, status {status}: {said}").into());
    }
    writeln!(out, "{said}")?;
    Ok(())
}

/// Where somebody on this machine finds who listens at `listening`.
fn from_here(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// HTTP/1.0, whose answers end with the connection.
fn ask(address: SocketAddr) -> io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(format!("GET /health/ready HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    connection.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The status, and the body.
fn read(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.strip_prefix("HTTP/1.")?.split_ascii_whitespace();
    let status = words.nth(1)?.parse().ok()?;
    Some((status, body.trim_end()))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// What is said about a server that gives this answer.
    fn health_of(answer: &'static str) -> Result<String, String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let mut config = Config::default();
        config.listen.client = listener.local_addr().expect("it is bound");
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            let mut request = [0; 256];
            let length = stream.read(&mut request).expect("and asks");
            assert!(request[..length].starts_with(b"GET /health/ready HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).expect("and listens");
        });
        let mut out = Vec::new();
        let done = run(&config, &mut out).map_err(|failure| failure.to_string());
        serving.join().expect("it was asked rightly");
        done.map(|()| String::from_utf8(out).expect("it is text"))
    }

    #[test]
    fn only_a_server_that_says_so_is_ready() {
        assert_eq!(health_of("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nready").as_deref(), Ok("ready\n"));
        let refused = health_of("HTTP/1.0 503 Service Unavailable\r\n\r\nthe database does not answer");
        assert_eq!(refused.expect_err("it is not"), "not ready, status 503: the database does not answer");
        assert!(health_of("220 mail.a.test ESMTP\r\n\r\n").expect_err("no HTTP").contains("speaks no HTTP"));
        assert!(health_of("").expect_err("no HTTP").contains("speaks no HTTP"));
    }

    #[test]
    fn who_listens_everywhere_is_found_here() {
        let found = |listening: &str| from_here(listening.parse().expect("an address")).to_string();
        assert_eq!(found("0.0.0.0:8008"), "127.0.0.1:8008");
        assert_eq!(found("[::]:8008"), "[::1]:8008");
        assert_eq!(found("10.90.1.10:8008"), "10.90.1.10:8008");
    }
}
