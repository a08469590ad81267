//! A TLS handshake at each address: whether it comes about, and which HTTP it agrees on.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    AlertDescription, ClientConfig, Error, ProtocolVersion,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Doctor, Finding, Outcome, Remedy, Step, certificate, connect};
use crate::{resolver::Place, tls};

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// What came of one address.
pub(super) struct Checked {
    pub(super) findings: Vec<Finding>,
    /// Whether this server would go on to speak there.
    pub(super) is_trusted: bool,
}

/// What the other side has shown in a handshake.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    version: Option<ProtocolVersion>,
    protocol: Option<Vec<u8>>,
}

/// Why a handshake came to nothing.
enum Broken {
    Timeout,
    Io(io::Error),
    Tls(Error),
}

impl Broken {
    /// None of the protocols that were offered is spoken there.
    fn is_about_protocols(&self) -> bool {
        matches!(self, Self::Tls(Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
    }
}

/// Makes TLS connections to `address`, and looks at what they show.
pub(super) async fn check(doctor: &Doctor, place: &Place, address: SocketAddr) -> Checked {
    let limit = doctor.config.connect_timeout;
    let host = place.host.trim_start_matches('[').trim_end_matches(']');
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        let remedy = Remedy::theirs(format!("give the server a name that can stand in a certificate; {host} can't"));
        let finding = Finding::fault(Step::Tls, format!("{host} can't be named in TLS"), remedy);
        return Checked { findings: vec![finding], is_trusted: false };
    };
    let mut shaken = handshake(address, &name, &[H2, HTTP_1_1], limit).await;
    let refuses_http = matches!(&shaken, Err(broken) if broken.is_about_protocols());
    if refuses_http {
        // This server offers none and so can go on; most others can't.
        shaken = handshake(address, &name, &[], limit).await;
    }
    let (shown, stream) = match shaken {
        Ok(shaken) => shaken,
        Err(broken) => {
            let finding = refused(address, place, &broken, limit).await;
            return Checked { findings: vec![finding], is_trusted: false };
        }
    };
    let version = match shown.version {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "TLS 1.2",
    };
    let mut findings = vec![Finding::ok(Step::Tls, version)];
    let certificate = certificate::examine(doctor, &shown.chain, &name);
    let is_trusted = certificate.iter().all(|finding| finding.outcome != Outcome::Fault);
    findings.extend(certificate);
    findings.push(match shown.protocol.as_deref() {
        _ if refuses_http => {
            let seen = "it refuses both HTTP/2 and HTTP/1.1 (no_application_protocol), so no server that offers them \
                        gets through";
            let remedy = "let the server or its proxy offer http/1.1 in ALPN, and h2 if it can, or no ALPN at all";
            Finding::fault(Step::Alpn, seen, Remedy::theirs(remedy))
        }
        None => Finding::ok(Step::Alpn, "it has no preference, so it is HTTP/1.1"),
        Some(HTTP_1_1) => Finding::ok(Step::Alpn, "HTTP/1.1"),
        Some(_) => http2(address, &name, stream, limit).await,
    });
    Checked { findings, is_trusted }
}

async fn handshake(
    address: SocketAddr,
    name: &ServerName<'static>,
    protocols: &[&[u8]],
    limit: Duration,
) -> Result<(Shown, TlsStream<TcpStream>), Broken> {
    let mut config = tls::believing_anybody().map_err(Broken::Tls)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let shaking = async {
        let stream = connect::open(address, limit).await.map_err(|unconnected| match unconnected {
            connect::Unconnected::Timeout(_) => Broken::Timeout,
            connect::Unconnected::Failed(error) => Broken::Io(error),
        })?;
        let connector = TlsConnector::from(Arc::<ClientConfig>::new(config));
        let stream = connector.connect(name.clone(), stream).await.map_err(of_tls)?;
        let session = stream.get_ref().1;
        let shown = Shown {
            chain: session.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect(),
            version: session.protocol_version(),
            protocol: session.alpn_protocol().map(<[u8]>::to_vec),
        };
        Ok((shown, stream))
    };
    timeout(limit, shaking).await.unwrap_or(Err(Broken::Timeout))
}

fn of_tls(error: io::Error) -> Broken {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(tls) => Broken::Tls(tls.clone()),
        None => Broken::Io(error),
    }
}

// === no handshake ===

async fn refused(address: SocketAddr, place: &Place, broken: &Broken, limit: Duration) -> Finding {
    const STEP: Step = Step::Tls;
    let host = &place.host;
    if !matches!(broken, Broken::Tls(Error::AlertReceived(_))) && speaks_plain_http(address, host, limit).await {
        let remedy = Remedy::theirs(format!(
            "put TLS with a certificate for {host} on port {} (Comity: `listen.federation` and [tls]; else a reverse \
             proxy), or let the well-known file or the SRV record name the port that speaks it",
            address.port()
        ));
        return Finding::fault(STEP, "it speaks plain HTTP where TLS is spoken to", remedy);
    }
    let fault = |seen: String, what: String| Finding::fault(STEP, seen, Remedy::theirs(what));
    match broken {
        Broken::Timeout => fault(
            format!("it takes the connection, and no TLS handshake comes about within {limit:?}"),
            format!(
                "see whether a server speaks TLS at port {}, or something else that waits to be spoken to",
                address.port()
            ),
        ),
        Broken::Io(error) => fault(
            format!("it ends the connection instead of a TLS handshake: {error}"),
            format!("see whether port {} speaks TLS, and whether its proxy knows the name {host}", address.port()),
        ),
        Broken::Tls(Error::AlertReceived(AlertDescription::UnrecognisedName)) => fault(
            format!("it knows no server called {host} (unrecognized_name)"),
            format!(
                "give the server or its proxy a certificate for {host}, which is the name in the well-known file or, without one, the server's own"
            ),
        ),
        Broken::Tls(
            error @ (Error::PeerIncompatible(_)
            | Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure)),
        ) => fault(
            format!("no version or cipher of TLS is spoken by both: {error}"),
            "let the server or its proxy speak TLS 1.2 and 1.3, with ECDHE and AES-GCM or ChaCha20".to_owned(),
        ),
        Broken::Tls(error) => fault(
            format!("the TLS handshake fails: {error}"),
            format!("see whether a server speaks TLS at port {}, and what it logs of this", address.port()),
        ),
    }
}

/// Whether somebody answers in HTTP without TLS.
async fn speaks_plain_http(address: SocketAddr, host: &str, limit: Duration) -> bool {
    let asking = async {
        let mut stream = connect::open(address, limit).await.ok()?;
        let request = format!("GET /_matrix/key/v2/server HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut begin = [0; 5];
        stream.read_exact(&mut begin).await.ok()?;
        Some(&begin == b"HTTP/")
    };
    timeout(limit, asking).await.ok().flatten().unwrap_or(false)
}

// === which HTTP ===

/// HTTP/2 was agreed on: whether it is spoken too, and HTTP/1.1 beside it. This server asks in HTTP/1.1, so neither stops it.
async fn http2(
    address: SocketAddr,
    name: &ServerName<'static>,
    stream: TlsStream<TcpStream>,
    limit: Duration,
) -> Finding {
    const STEP: Step = Step::Alpn;
    if !speaks_http2(stream, limit).await {
        let seen = "HTTP/2 is agreed on, and then not spoken: servers that ask in it get no answer";
        let remedy = "offer h2 in ALPN only where HTTP/2 is spoken behind it: a proxy that ends TLS and passes the rest \
                      through must offer http/1.1 alone if the homeserver speaks nothing else";
        return Finding::warning(STEP, seen, Remedy::theirs(remedy));
    }
    match handshake(address, name, &[HTTP_1_1], limit).await {
        Err(broken) if broken.is_about_protocols() => {
            let remedy = "offer http/1.1 in ALPN beside h2: the specification asks for it, and many servers speak nothing \
                          else";
            Finding::warning(STEP, "HTTP/2; it refuses HTTP/1.1", Remedy::theirs(remedy))
        }
        _ => Finding::ok(STEP, "HTTP/2, or HTTP/1.1"),
    }
}

/// Whether the other side begins as HTTP/2 begins: with its settings.
///
/// Spec: <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>
async fn speaks_http2(mut stream: TlsStream<TcpStream>, limit: Duration) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// A frame's type is the byte after the three of its length.
    const SETTINGS: u8 = 4;
    const NO_SETTINGS: [u8; 9] = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    let greeting = async {
        stream.write_all(&[PREFACE, &NO_SETTINGS].concat()).await?;
        stream.flush().await?;
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await?;
        Ok::<_, io::Error>(frame[3] == SETTINGS && frame[5..] == NO_SETTINGS[5..])
    };
    timeout(limit, greeting).await.is_ok_and(|greeted| greeted.unwrap_or(false))
}
