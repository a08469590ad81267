//! An address that a server tells things.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{body::to_bytes, extract::Request, response::Response};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::web::{Door, NoAnswer, serve};

/// A request that was made to a [`Hook`].
#[derive(Clone, Debug)]
pub struct Told {
    /// The headers, their names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Told {
    /// The header called `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("it is JSON")
    }
}

/// An HTTP server that remembers what it is told. Dropped, it is gone.
pub struct Hook {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

struct Shared {
    status: u16,
    told: Vec<Told>,
}

impl Hook {
    /// Answers everything with 200 until it is told otherwise.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let shared = Arc::new(Mutex::new(Shared { status: 200, told: Vec::new() }));
        let heard = shared.clone();
        let handler = move |request: Request| {
            let heard = heard.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, 32 << 20).await.map_err(|_| NoAnswer)?.to_vec();
                let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
                let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.told.push(Told { headers, body });
                let answer = Response::builder().status(heard.status).body("".into());
                Ok(answer.expect("a status is a number"))
            }
        };
        let alive = async || Some(CancellationToken::new());
        let task =
            tokio::spawn(async move { serve(listener, Door::plain(), handler, move || Box::pin(alive())).await });
        Self { address, shared, task }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// From now on it answers with this status.
    pub fn answer(&self, status: u16) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).status = status;
    }

    /// What it was told so far.
    pub fn told(&self) -> Vec<Told> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).told.clone()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}
