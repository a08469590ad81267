//! The way from one server to another, which a test can cut, slow down and make forgetful.
//!
//! It ends TLS with a certificate of the network's authority and begins it again, so that it sees requests where a wire
//! would show bytes: it can lose one, or its answer, or bring it twice, or so late that others have overtaken it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, Method, header, response::Parts},
    response::Response,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use crate::{network::Wire, web::NoAnswer};

/// The largest body that goes through.
const MAX_BODY: usize = 64 << 20;

/// The longest that a belated request is on its way.
const LATEST: Duration = Duration::from_secs(3);

/// What goes wrong on a link. By default nothing does.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Every request waits for a time below this before it goes on. Requests overtake each other by it.
    pub delay: Duration,
    /// How many of all requests are lost on their way: 0.0 none, 1.0 all.
    pub lost_requests: f64,
    /// How many of all answers are lost, after the request has been obeyed.
    pub lost_answers: f64,
    /// How many of all requests arrive twice.
    pub doubled: f64,
    /// How many of all requests seem lost, and arrive after all when later ones have overtaken them.
    pub belated: f64,
}

/// What happens to one request.
struct Fate {
    delay: Duration,
    is_lost: bool,
    is_answer_lost: bool,
    times: usize,
    /// After which time it arrives though it seemed lost.
    belated: Option<Duration>,
}

/// One request that went over a link.
#[derive(Clone, Debug)]
pub struct Crossing {
    /// The server that asked.
    pub from: String,
    /// The server that was asked.
    pub to: String,
    /// What it said to whom: the `Host`.
    pub host: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The body, which begins empty for most methods.
    pub body: Bytes,
    /// The status and the body that came back, or nothing if nothing did.
    pub answer: Option<(u16, Bytes)>,
}

impl std::fmt::Display for Crossing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to, method, path, body, answer, .. } = self;
        write!(f, "{from} to {to}: {method} {path} {}", excerpt(body))?;
        match answer {
            Some((status, body)) => write!(f, " -> {status} {}", excerpt(body)),
            None => write!(f, " -> no answer"),
        }
    }
}

/// As much of a body as fits a line.
fn excerpt(body: &[u8]) -> String {
    const LENGTH: usize = 400;
    String::from_utf8_lossy(body).chars().take(LENGTH).collect()
}

/// The way from one server to another.
pub struct Link {
    from: String,
    to: String,
    /// Where the server at its end listens.
    target: SocketAddr,
    http: reqwest::Client,
    state: Mutex<LinkState>,
    wire: Wire,
}

struct LinkState {
    faults: Faults,
    /// Ends every connection when the link is cut; nothing while it is cut.
    alive: Option<CancellationToken>,
    answers_to_lose: usize,
    dice: StdRng,
}

impl Link {
    pub(crate) fn new(from: &str, to: &str, target: SocketAddr, client: reqwest::ClientBuilder, wire: Wire) -> Self {
        let host = to.split(':').next().expect("a name has a first part");
        // Connections are not kept: one that its server has closed meanwhile would look like a fault of the server.
        let http = client.resolve(host, target).pool_max_idle_per_host(0).build().expect("a client of the rig");
        let alive = Some(CancellationToken::new());
        let dice = StdRng::from_rng(&mut rand::rng());
        let state = Mutex::new(LinkState { faults: Faults::default(), alive, answers_to_lose: 0, dice });
        Self { from: from.to_owned(), to: to.to_owned(), target, http, state, wire }
    }

    /// Ends every connection; no new one comes about.
    pub fn cut(&self) {
        if let Some(alive) = self.state().alive.take() {
            alive.cancel();
        }
    }

    /// The opposite of [`Self::cut`].
    pub fn mend(&self) {
        self.state().alive.get_or_insert_default();
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Has its dice fall as they fell with the same `seed` before.
    pub fn set_dice(&self, seed: u64) {
        self.state().dice = StdRng::seed_from_u64(seed);
    }

    /// Lets the next `count` requests through and loses what is answered.
    pub fn lose_answers(&self, count: usize) {
        self.state().answers_to_lose = count;
    }

    /// What went over it so far.
    pub fn crossings(&self) -> Vec<Crossing> {
        self.wire.crossings(|crossing| crossing.from == self.from && crossing.to == self.to)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LinkState> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// What ends a connection that is about to be made; none is made while the link is cut or nobody is at its end.
    pub(crate) async fn alive(self: Arc<Self>) -> Option<CancellationToken> {
        let alive = self.state().alive.clone()?;
        tokio::net::TcpStream::connect(self.target).await.ok()?;
        Some(alive)
    }

    /// What happens to the next request.
    fn fate(&self) -> Fate {
        let mut state = self.state();
        let faults = state.faults.clone();
        let dice = &mut state.dice;
        let mut fate = Fate {
            delay: faults.delay.mul_f64(dice.random_range(0.0..1.0)),
            is_lost: dice.random_bool(faults.lost_requests),
            is_answer_lost: dice.random_bool(faults.lost_answers),
            times: if dice.random_bool(faults.doubled) { 2 } else { 1 },
            belated: dice.random_bool(faults.belated).then(|| LATEST.mul_f64(dice.random_range(0.0..1.0))),
        };
        if state.answers_to_lose > 0 {
            state.answers_to_lose -= 1;
            fate.is_answer_lost = true;
        }
        fate
    }
}

/// Carries one request over, and its answer back.
pub(crate) async fn cross(link: Arc<Link>, request: Request) -> Result<Response, NoAnswer> {
    let (parts, body) = request.into_parts();
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let host = host.or_else(|| parts.uri.authority().map(ToString::to_string)).unwrap_or_default();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| NoAnswer)?;
    let number = link.wire.note(Crossing {
        from: link.from.clone(),
        to: link.to.clone(),
        host: host.clone(),
        method: parts.method.to_string(),
        path: path.clone(),
        body: body.clone(),
        answer: None,
    });

    let fate = link.fate();
    if let Some(after) = fate.belated {
        // Nobody waits for it any more; a link that is cut in the meantime doesn't lose what is on its way.
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            link.carry(&parts.method, &host, &path, &parts.headers, body).await;
        });
        return Err(NoAnswer);
    }
    tokio::time::sleep(fate.delay).await;
    if fate.is_lost {
        return Err(NoAnswer);
    }
    let mut answer = Err(NoAnswer);
    for _ in 0..fate.times {
        answer = link.carry(&parts.method, &host, &path, &parts.headers, body.clone()).await.ok_or(NoAnswer);
    }
    let (head, body) = answer?;
    if fate.is_answer_lost {
        return Err(NoAnswer);
    }
    link.wire.answered(number, head.status.as_u16(), body.clone());
    Ok(Response::from_parts(head, Body::from(body)))
}

impl Link {
    async fn carry(
        &self,
        method: &Method,
        host: &str,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Option<(Parts, Bytes)> {
        let name = self.to.split(':').next().expect("a name has a first part");
        let url = format!("https://{name}:{}{path}", self.target.port());
        let mut headers = headers.clone();
        for hop in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::HOST] {
            headers.remove(hop);
        }
        let request = self.http.request(method.clone(), url).version(reqwest::Version::HTTP_11);
        let request = request.headers(headers).header(header::HOST, host);
        let answer = request.body(body).send().await.ok()?;
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if ![header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH].contains(name) {
                response = response.header(name, value);
            }
        }
        let (head, ()) = response.body(()).expect("an answer that came is an answer").into_parts();
        Some((head, answer.bytes().await.ok()?))
    }
}
