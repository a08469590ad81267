//! Taking connections: plain or TLS, bounded in number and in patience.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use metrics::{counter, gauge};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{certificate::Certificate, proxies::Proxies};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(30);
/// After an error of the listener itself, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);
/// How many connections wait in the kernel to be taken, as far as it allows: after an outage all clients come back at once, and who
/// finds no place there tries again only after a second, and then after longer.
const BACKLOG: u32 = 8_192;
/// From one address no more than one in so many connections.
const SHARE: u32 = 4;

/// Where connections are taken.
pub struct Listener {
    listener: TcpListener,
    /// Set: in TLS.
    certificate: Option<Certificate>,
    max_connections: u32,
    proxies: Proxies,
}

impl Listener {
    /// Takes connections at `address`, in TLS if there is a certificate.
    pub async fn bind(
        address: SocketAddr,
        certificate: Option<Certificate>,
        max_connections: u32,
        proxies: Proxies,
    ) -> Result<Self, io::Error> {
        Ok(Self { listener: listen(address)?, certificate, max_connections, proxies })
    }

    /// Where that is.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `router` until `stop`; then takes no more, and returns when what is under way has ended.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let graceful = GracefulShutdown::new();
        let slots = Arc::new(Semaphore::new(self.max_connections as usize));
        let addresses = Arc::new(Addresses {
            most: self.max_connections.div_ceil(SHARE),
            proxies: self.proxies.clone(),
            open: Mutex::default(),
        });
        let http = Arc::new(http());
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &slots) => accepted,
            };
            let (stream, peer, slot) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "could not take a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(of_address) = Addresses::enter(&addresses, peer.ip()) else {
                counter!("comity_connections_refused_total").increment(1);
                continue;
            };
            // Answers are written whole; waiting for more to send would only delay them.
            let _ = stream.set_nodelay(true);
            let connection = Connection {
                router: router.clone(),
                peer,
                proxies: self.proxies.clone(),
                http: http.clone(),
                watcher: graceful.watcher(),
            };
            let acceptor = self.certificate.as_ref().map(Certificate::acceptor);
            tokio::spawn(async move {
                let _held = (slot, of_address);
                gauge!("comity_connections").increment(1.0);
                match acceptor {
                    None => connection.serve(stream).await,
                    Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => connection.serve(stream).await,
                        Ok(Err(error)) => debug!(address = %peer, %error, "a TLS handshake failed"),
                        Err(_) => debug!(address = %peer, "a TLS handshake took too long"),
                    },
                }
                gauge!("comity_connections").decrement(1.0);
            });
        }
        drop(self.listener);
        graceful.shutdown().await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // What was closed a moment ago is no reason not to start again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    // Who comes when all places are taken waits in the kernel's queue.
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(true);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .keep_alive_interval(Some(Duration::from_secs(60)))
        .keep_alive_timeout(Duration::from_secs(20));
    http
}

struct Connection {
    router: Router,
    peer: SocketAddr,
    proxies: Proxies,
    http: Arc<auto::Builder<TokioExecutor>>,
    watcher: hyper_util::server::graceful::Watcher,
}

impl Connection {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { router, peer, proxies, http, watcher } = self;
        let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            let asker = proxies.asker(peer, request.headers());
            request.extensions_mut().insert(ConnectInfo(asker));
            let router = router.clone();
            async move {
                Ok::<_, Infallible>(
                    tower::ServiceExt::oneshot(router, request).await.unwrap_or_else(|never| match never {}),
                )
            }
        });
        let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
        if let Err(error) = watcher.watch(connection.into_owned()).await {
            debug!(address = %peer, error, "a connection ended early");
        }
    }
}

/// How many connections each address has open.
struct Addresses {
    most: u32,
    proxies: Proxies,
    open: Mutex<HashMap<IpAddr, u32>>,
}

impl Addresses {
    /// `None`: the address has enough of them. A reverse proxy, and who is on this machine, may have all.
    fn enter(all: &Arc<Self>, address: IpAddr) -> Option<OfAddress> {
        let mut open = all.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_insert(0);
        if *count >= all.most && !address.is_loopback() && !all.proxies.contain(address.to_canonical()) {
            return None;
        }
        *count += 1;
        Some(OfAddress { all: all.clone(), address })
    }
}

struct OfAddress {
    all: Arc<Addresses>,
    address: IpAddr,
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut open = self.all.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}
