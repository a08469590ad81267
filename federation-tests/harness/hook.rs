//! An address that a server tells things, or asks.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{body::to_bytes, extract::Request, response::Response};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
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

    /// Whether whoever sent it knows `secret`.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let Some(signature) = self.header("x-comity-webhook-signature") else { return false };
        let seconds = signature.strip_prefix("t=").and_then(|rest| rest.split(',').next()).unwrap_or_default();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
        mac.update(format!("{seconds}.").as_bytes());
        mac.update(&self.body);
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        signature == format!("t={seconds},v1={hex}")
    }
}

/// What a [`Hook`] says.
#[derive(Clone, Debug)]
pub struct Said {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// How long it thinks first.
    pub after: Duration,
}

impl Said {
    /// 200 and a body, at once.
    pub fn now(body: impl ToString) -> Self {
        Self { status: 200, body: body.to_string(), after: Duration::ZERO }
    }
}

/// An HTTP server that remembers what it is told. Dropped, it is gone.
pub struct Hook {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

type Saying = dyn Fn(&Told) -> Said + Send + Sync;

struct Shared {
    says: Arc<Saying>,
    told: Vec<Told>,
}

impl Hook {
    /// Answers everything with 200 until it is told otherwise.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let shared = Arc::new(Mutex::new(Shared { says: Arc::new(|_| Said::now("")), told: Vec::new() }));
        let heard = shared.clone();
        let handler = move |request: Request| {
            let heard = heard.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, 32 << 20).await.map_err(|_| NoAnswer)?.to_vec();
                let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
                let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
                let told = Told { headers, body };
                let says = {
                    let mut heard = lock(&heard);
                    heard.told.push(told.clone());
                    heard.says.clone()
                };
                let Said { status, body, after } = says(&told);
                tokio::time::sleep(after).await;
                Ok(Response::builder().status(status).body(body.into()).expect("a status is a number"))
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
        self.say(move |_| Said { status, ..Said::now("") });
    }

    /// From now on it answers so.
    pub fn say(&self, says: impl Fn(&Told) -> Said + Send + Sync + 'static) {
        lock(&self.shared).says = Arc::new(says);
    }

    /// What it was told so far.
    pub fn told(&self) -> Vec<Told> {
        lock(&self.shared).told.clone()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}
