//! HTTP over TLS, as the rig's own servers speak it.

use std::net::SocketAddr;

use axum::{body::Body, extract::Request, response::Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A request that gets no answer: its connection ends instead.
#[derive(Debug)]
pub(crate) struct NoAnswer;

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection ends without an answer")
    }
}

impl std::error::Error for NoAnswer {}

/// The name that a connection was made for, if it named one.
#[derive(Clone, Debug)]
pub(crate) struct Sni(pub(crate) Option<String>);

/// How connections are taken.
#[derive(Clone)]
pub struct Door {
    acceptor: Option<TlsAcceptor>,
    http1_only: bool,
}

impl Door {
    /// Without TLS.
    pub fn plain() -> Self {
        Self { acceptor: None, http1_only: false }
    }

    /// In HTTP/1.1, whatever was agreed on in TLS.
    pub fn http1_only(self) -> Self {
        Self { http1_only: true, ..self }
    }
}

impl From<TlsAcceptor> for Door {
    fn from(acceptor: TlsAcceptor) -> Self {
        Self { acceptor: Some(acceptor), http1_only: false }
    }
}

/// Answers by `handler` on every connection, until the task is dropped. `alive` is asked for each: it says what ends it,
/// or that none comes about.
pub(crate) async fn serve<H, F, A>(listener: TcpListener, door: impl Into<Door>, handler: H, alive: impl Fn() -> A)
where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response, NoAnswer>> + Send + 'static,
    A: Future<Output = Option<CancellationToken>> + Send + 'static,
{
    let door = door.into();
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let alive = alive();
        let connection = serve_connection(stream, door.clone(), handler.clone());
        connections.spawn(async move {
            if let Some(end) = alive.await {
                end.run_until_cancelled(connection).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection<H, F>(stream: TcpStream, door: Door, handler: H)
where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response, NoAnswer>> + Send + 'static,
{
    // Small answers must not wait for each other: Nagle's 40 ms would be in every measurement.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = door.acceptor else { return talk(stream, None, door.http1_only, handler).await };
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let sni = stream.get_ref().1.server_name().map(str::to_owned);
    talk(stream, sni, door.http1_only, handler).await;
}

async fn talk<S, H, F>(stream: S, sni: Option<String>, http1_only: bool, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response, NoAnswer>> + Send + 'static,
{
    let service = tower::service_fn(move |request: axum::http::Request<_>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Sni(sni.clone()));
        handler(request)
    });
    let service = TowerToHyperService::new(service);
    let builder = auto::Builder::new(TokioExecutor::new());
    let builder = if http1_only { builder.http1_only() } else { builder };
    // A peer that goes away in the middle is an everyday matter here.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Listens at `address`, which nobody else may have.
pub(crate) async fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address} can't be listened at: {error}"))
}
