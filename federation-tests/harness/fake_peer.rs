//! A server that says what the test makes it say: the truth, a lie, nonsense, or nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::Response,
};
use ed25519_dalek::SigningKey;
use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    Answer, Client, Network, Peer, eventually, pdu,
    web::{self, Door, NoAnswer, Sni},
};

/// The id of its key.
const KEY_ID: &str = "ed25519:fake";
/// The largest body that it reads.
const MAX_BODY: usize = 64 << 20;
/// How long one request of its own may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A scripted server, with a name, a key and a certificate of its own.
pub struct FakePeer {
    /// Its server name.
    pub name: String,
    key: SigningKey,
    /// The authority's trust, for connections to servers.
    client: Box<dyn Fn() -> reqwest::ClientBuilder + Send + Sync>,
    shared: Arc<Shared>,
    transactions: AtomicU64,
}

struct Shared {
    name: String,
    key: SigningKey,
    heard: Mutex<Vec<Heard>>,
    rules: Mutex<Vec<Rule>>,
}

/// Answers requests, or leaves them to an older rule.
type Rule = Arc<dyn Fn(&Heard) -> Option<Reply> + Send + Sync>;

/// One request that it was sent.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The method.
    pub method: String,
    /// The path, as it came.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// The `Host`, or the `:authority`.
    pub host: String,
    /// The name that TLS was made for.
    pub sni: Option<String>,
    /// The `Authorization`.
    pub authorization: String,
    /// The `X-Comity-Signature`.
    pub body_signature: String,
    /// The body; null when it is no JSON.
    pub body: Value,
}

/// What it says.
#[derive(Clone, Debug)]
pub enum Reply {
    /// JSON.
    Json(u16, Value),
    /// JSON with a header, which goes before the one that there would be.
    Headed(&'static str, String, Value),
    /// A 200 with these bytes, which claim to be JSON.
    Bytes(Vec<u8>),
    /// A status and a body that is no JSON, as proxies answer.
    Html(u16),
    /// Elsewhere.
    Redirect(String),
    /// Nothing, ever.
    Never,
    /// The end of the connection.
    HangUp,
    /// A 200 that begins and then brings a byte a second.
    Drip,
    /// A 200 that never ends, as fast as it is read.
    Endless,
}

impl FakePeer {
    /// A peer that servers of `network` find, with its keys published and no room.
    pub async fn start(network: &Network, name: &str) -> Self {
        let place = network.settle(name, false).await;
        let host = name.split(':').next().expect("a name has a first part").to_owned();
        Self::listen(network, name, place.address, &[&host]).await
    }

    /// A peer at an address of the test's choice, with a certificate for `hosts`, whom no record leads to.
    pub async fn listen(network: &Network, name: &str, address: SocketAddr, hosts: &[&str]) -> Self {
        Self::listen_at(network, name, address, network.authority.leaf(hosts).acceptor()).await
    }

    /// The same with another way of taking connections.
    pub async fn listen_at(network: &Network, name: &str, address: SocketAddr, door: impl Into<Door>) -> Self {
        let seed: [u8; 32] = rand::random();
        let key = SigningKey::from_bytes(&seed);
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            key: key.clone(),
            heard: Mutex::default(),
            rules: Mutex::default(),
        });
        let listener = web::listen(address).await;
        let door = door.into();
        let hearing = shared.clone();
        let handler = move |request| hear(hearing.clone(), request);
        network.spawn(web::serve(listener, door, handler, || async { Some(CancellationToken::new()) }));
        let root = network.authority.root();
        let client = Box::new(move || {
            reqwest::Client::builder().tls_certs_only([root.clone()]).no_proxy().timeout(REQUEST_TIMEOUT)
        });
        Self { name: name.to_owned(), key, client, shared, transactions: AtomicU64::new(0) }
    }

    /// One of its users.
    pub fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.name)
    }

    /// Its private key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The id of its key.
    pub fn key_id(&self) -> &'static str {
        KEY_ID
    }

    /// What it publishes about its keys.
    pub fn published_keys(&self) -> Value {
        self.shared.keys()
    }

    // === being asked ===

    /// Answers requests with `method` whose path begins with `path` by `reply` from now on.
    pub fn reply(&self, method: &str, path: &str, reply: Reply) {
        let (method, path) = (method.to_owned(), path.to_owned());
        self.answer(move |heard| (heard.method == method && heard.path.starts_with(&path)).then(|| reply.clone()));
    }

    /// Asks `rule` for an answer before all earlier ones.
    pub fn answer(&self, rule: impl Fn(&Heard) -> Option<Reply> + Send + Sync + 'static) {
        self.shared.rules.lock().expect("nobody panics while holding it").push(Arc::new(rule));
    }

    /// What it was sent so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.heard.lock().expect("nobody panics while holding it").clone()
    }

    /// Waits until it was sent something in which `found` finds what it looks for.
    pub async fn hears<T>(&self, what: &str, found: impl Fn(&Heard) -> Option<T>) -> T {
        eventually(&format!("{} hears {what}", self.name), async || self.heard().iter().find_map(&found)).await
    }

    /// The events of all transactions that it was sent, in order, each as often as it came.
    pub fn pdus(&self) -> Vec<Value> {
        self.of_transactions("pdus")
    }

    /// The ephemeral data of all transactions that it was sent, in order.
    pub fn edus(&self) -> Vec<Value> {
        self.of_transactions("edus")
    }

    fn of_transactions(&self, what: &str) -> Vec<Value> {
        let heard = self.heard();
        let transactions = heard.iter().filter(|heard| heard.path.starts_with("/_matrix/federation/v1/send/"));
        transactions.flat_map(|heard| heard.body[what].as_array().cloned().unwrap_or_default()).collect()
    }

    // === asking ===

    /// The header that makes a request its own.
    pub fn authorization(&self, destination: &str, method: &str, uri: &str, content: Option<&Value>) -> String {
        self.authorization_of(&self.name, destination, method, uri, content, &self.key)
    }

    /// The same for another's name or another's key.
    pub fn authorization_of(
        &self,
        origin: &str,
        destination: &str,
        method: &str,
        uri: &str,
        content: Option<&Value>,
        key: &SigningKey,
    ) -> String {
        let mut signed = json!({ "method": method, "uri": uri, "origin": origin, "destination": destination });
        if let Some(content) = content {
            signed["content"] = content.clone();
        }
        let signature = pdu::signature(key, &signed);
        format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{KEY_ID}",sig="{signature}""#)
    }

    /// Asks `server`, as it should be asked. `path` begins with a slash.
    pub async fn ask(&self, server: &impl Peer, method: Method, path: &str, body: Option<Value>) -> Answer {
        let header = self.authorization(&server.place().name, method.as_str(), path, body.as_ref());
        self.ask_with(server, method, path, body, Some(&header)).await
    }

    /// Asks `server` with an `Authorization` of the test's choice.
    pub async fn ask_with(
        &self,
        server: &impl Peer,
        method: Method,
        path: &str,
        body: Option<Value>,
        header: Option<&str>,
    ) -> Answer {
        let client = self.speaker(server);
        let body = body.map(|body| body.to_string().into_bytes());
        let content_type = if body.is_some() { "application/json" } else { "" };
        client
            .raw_with(method, path, content_type, body.unwrap_or_default(), header)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Sends a body as long as the server takes it, and answers the status if there is one.
    pub async fn pour<S>(&self, server: &impl Peer, path: &str, header: &str, body: S) -> Option<u16>
    where
        S: futures_util::Stream<Item = Vec<u8>> + Send + Sync + 'static,
    {
        let body = body.map(Ok::<_, std::io::Error>);
        let host = server.place().name.as_str().split(':').next().expect("a name has a first part");
        let address = server.place().address;
        let http = (self.client)().resolve(host, address).build().expect("a client needs no more than this");
        let request = http.put(format!("https://{host}:{}{path}", address.port()));
        let request = request.header(header::AUTHORIZATION, header).header(header::CONTENT_TYPE, "application/json");
        let answer = request.body(reqwest::Body::wrap_stream(body)).send().await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    /// A client that reaches `server` where its address says, whatever the names say.
    pub fn speaker(&self, server: &impl Peer) -> Client {
        let host = server.place().name.as_str().split(':').next().expect("a name has a first part");
        let address = server.place().address;
        let http = (self.client)().resolve(host, address).build().expect("a client needs no more than this");
        Client::over(http, &format!("https://{host}:{}", address.port()))
    }

    /// GET.
    pub async fn get(&self, server: &impl Peer, path: &str) -> Answer {
        self.ask(server, Method::GET, path, None).await
    }

    /// PUT.
    pub async fn put(&self, server: &impl Peer, path: &str, body: Value) -> Answer {
        self.ask(server, Method::PUT, path, Some(body)).await
    }

    /// POST.
    pub async fn post(&self, server: &impl Peer, path: &str, body: Value) -> Answer {
        self.ask(server, Method::POST, path, Some(body)).await
    }

    /// Sends events under a transaction id that was never used before, and answers the results by event id.
    pub async fn send(&self, server: &impl Peer, pdus: &[&Value]) -> Value {
        let answer = self.transaction(server, &self.transaction_id(), pdus, &[]).await.ok();
        answer["pdus"].clone()
    }

    /// Sends one event that must be taken.
    pub async fn deliver(&self, server: &impl Peer, event: &Value) {
        let results = self.send(server, &[event]).await;
        let refused = results.as_object().into_iter().flatten().any(|(_, result)| result.get("error").is_some());
        assert!(!refused, "a good event was refused: {results} for {event}");
    }

    /// Sends ephemeral data.
    pub async fn send_edus(&self, server: &impl Peer, edus: &[Value]) {
        let edus: Vec<&Value> = edus.iter().collect();
        self.transaction(server, &self.transaction_id(), &[], &edus).await.ok();
    }

    /// Sends a transaction.
    pub async fn transaction(&self, server: &impl Peer, id: &str, pdus: &[&Value], edus: &[&Value]) -> Answer {
        let body = json!({ "origin": self.name, "origin_server_ts": now(), "pdus": pdus, "edus": edus });
        self.put(server, &format!("/_matrix/federation/v1/send/{id}"), body).await
    }

    fn transaction_id(&self) -> String {
        format!("fake{}", self.transactions.fetch_add(1, Ordering::Relaxed))
    }

    // === signing ===

    /// Hashes and signs an event.
    pub fn sign(&self, event: &mut Value, version: &str) {
        pdu::add_hash(event);
        pdu::sign_event(event, version, &self.name, KEY_ID, &self.key);
    }
}

/// The time of now, as events say it.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    now.as_millis().try_into().expect("and not much later than now")
}

// === its side of a connection ===

async fn hear(shared: Arc<Shared>, request: axum::extract::Request) -> Result<Response, NoAnswer> {
    let (parts, body) = request.into_parts();
    let text = |name: header::HeaderName| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let mut host = text(header::HOST);
    if let Some(authority) = parts.uri.authority() {
        host = authority.to_string();
    }
    let sni = parts.extensions.get::<Sni>().and_then(|sni| sni.0.clone());
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| NoAnswer)?;
    let heard = Heard {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        host,
        sni,
        authorization: text(header::AUTHORIZATION),
        body_signature: text(header::HeaderName::from_static("x-comity-signature")),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let rules = shared.rules.lock().expect("nobody panics while holding it").clone();
    let reply = rules.iter().rev().find_map(|rule| rule(&heard));
    let reply = reply.unwrap_or_else(|| shared.manners(&heard));
    shared.heard.lock().expect("nobody panics while holding it").push(heard);
    say(reply).await
}

impl Shared {
    /// What it answers to where the test has said nothing: its keys, its thanks for transactions, and that it knows nothing else.
    fn manners(&self, heard: &Heard) -> Reply {
        match (heard.method.as_str(), heard.path.as_str()) {
            ("GET", "/_matrix/key/v2/server") => Reply::Json(200, self.keys()),
            ("PUT", path) if path.starts_with("/_matrix/federation/v1/send/") => {
                Reply::Json(200, json!({ "pdus": {} }))
            }
            ("GET", path) if path.starts_with("/_matrix/federation/v1/user/devices/") => {
                let user = path.rsplit('/').next().unwrap_or_default();
                Reply::Json(200, json!({ "user_id": user, "stream_id": 1, "devices": [] }))
            }
            _ => Reply::Json(404, json!({ "errcode": "M_NOT_FOUND", "error": "a fake peer has nothing else" })),
        }
    }

    fn keys(&self) -> Value {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        let mut keys = json!({
            "server_name": self.name,
            "valid_until_ts": now() + DAY,
            "verify_keys": { KEY_ID: { "key": pdu::base64(self.key.verifying_key().as_bytes()) } },
            "old_verify_keys": {},
        });
        pdu::sign(&mut keys, &self.name, KEY_ID, &self.key);
        keys
    }
}

async fn say(reply: Reply) -> Result<Response, NoAnswer> {
    /// So much is said at once of what never ends.
    const CHUNK: usize = 16 * 1024;
    let (status, kind, body) = match reply {
        Reply::Json(status, value) => (status, "application/json", Body::from(value.to_string())),
        Reply::Headed(name, value, body) => {
            let response = Response::builder().header(header::CONTENT_TYPE, "application/json").header(name, value);
            return response.body(Body::from(body.to_string())).map_err(|_| NoAnswer);
        }
        Reply::Bytes(bytes) => (200, "application/json", Body::from(bytes)),
        Reply::Html(status) => (status, "text/html", Body::from("<html><body>Oh no!</body></html>")),
        Reply::Redirect(to) => {
            let response = Response::builder().status(307).header(header::LOCATION, to);
            return response.body(Body::empty()).map_err(|_| NoAnswer);
        }
        Reply::Never => return std::future::pending().await,
        Reply::HangUp => return Err(NoAnswer),
        Reply::Drip => {
            let drops = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
            });
            (200, "application/json", Body::from_stream(drops))
        }
        Reply::Endless => {
            let flood = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; CHUNK])));
            (200, "application/json", Body::from_stream(flood))
        }
    };
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
    response.body(body).map_err(|_| NoAnswer)
}
