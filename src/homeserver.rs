//! The composition root. A placeholder until the services are wired: it answers `/health/live` and `/metrics`.

use std::{io, net::SocketAddr};

use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    config::Config,
    signing_key::{KeyError, KeyFile},
    telemetry::Telemetry,
};

/// The whole server, running.
pub struct Homeserver {
    listener: TcpListener,
    router: Router,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the server has no signing key")]
    SigningKey(#[from] KeyError),
    #[error("the signing key's version `{0}` is not part of a key id")]
    KeyVersion(String),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Why the server ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the client listener failed")]
    Serve(#[from] io::Error),
}

impl Homeserver {
    /// Opens the database, builds every service and takes connections before it returns.
    pub async fn start(config: Config, telemetry: Telemetry) -> Result<Self, StartError> {
        let key = KeyFile::load_or_create(&config.keys_dir)?;
        let _key = model::SigningKey::from_seed(config.server_name.clone(), key.version(), key.seed())
            .ok_or_else(|| StartError::KeyVersion(key.version().to_owned()))?;
        let address = config.listen.client;
        let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
        let address = listener.local_addr().unwrap_or(address);
        info!("{} listens for clients on http://{address}", config.server_name);
        let router = Router::new()
            .route("/health/live", get(async || "ok"))
            .route("/metrics", get(async move || telemetry.render().ok_or(axum::http::StatusCode::NOT_FOUND)));
        Ok(Self { listener, router })
    }

    /// Serves until `stop` is cancelled, then takes no more connections, tells the sockets and lets requests end.
    ///
    /// The caller gives up waiting after `listen.shutdown_timeout`. Errors: a listener or a task failed by itself.
    pub async fn wait_for_shutdown(self, stop: CancellationToken) -> Result<(), RunError> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(stop.cancelled_owned()).await?;
        Ok(())
    }
}
