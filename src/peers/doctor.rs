//! The federation doctor: takes every step of reaching another server by itself, and says of each what came of it and
//! what is to be done.
//!
//! Every step has a deadline and a limit of bytes, and so has the whole. It connects to no address that the server
//! itself would not connect to. A step that can't be taken because of one before it says so.
//!
//! **To examine something new:** a [`Step`], and a function in a file of [`self`] that answers a [`Finding`].

mod certificate;
mod connect;
mod finding;
mod keys;
mod line;
mod lookups;
mod name;
mod requests;
mod secure;
mod view;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use model::SigningKey;
use ruma::{OwnedServerName, ServerName};
use rustls::{ClientConfig, RootCertStore};

pub use finding::{Addressee, Examination, Finding, Outcome, Remedy, Step};

use self::line::Line;
use crate::{
    PeerError, Peers, PeersConfig,
    keys::wall_clock,
    resolver::{Place, Resolver},
    tls,
};

/// How long an examination takes at most.
const DEADLINE: Duration = Duration::from_secs(60);
/// How many addresses of one server are looked at.
const MOST_ADDRESSES: usize = 8;

/// Examines other servers as this one would reach them. Remembers nothing, and needs no store: it looks afresh each time.
pub struct Doctor {
    config: PeersConfig,
    key: Arc<SigningKey>,
    resolver: Resolver,
    roots: Arc<RootCertStore>,
    tls: ClientConfig,
    /// How long an examination takes at most.
    deadline: Duration,
    /// Where an admin says that a server is.
    endpoint_of: EndpointOf,
}

type EndpointOf = Box<dyn Fn(&ServerName) -> Option<OwnedServerName> + Send + Sync>;

/// Why an examination ends before its last step: what the steps after it are skipped for.
struct Stopped(&'static str);

/// What was found so far.
#[derive(Default)]
struct Chart {
    findings: Vec<Finding>,
}

impl Peers {
    /// Examines the server called `name`, which may be written as people do. Takes a minute at most; no more than
    /// a few are examined at once.
    ///
    /// Errors: this server's own configuration is at fault.
    pub async fn examine(&self, name: &str) -> Result<Examination, PeerError> {
        let broken = |reason: &str| PeerError::Configuration(reason.to_owned());
        let _turn = self.shared.examinations.acquire().await.map_err(|_| broken("this server is ending"))?;
        let (key, config) = (self.shared.key.clone(), self.shared.config.clone());
        // It reads the files of certificate authorities.
        let doctor = tokio::task::spawn_blocking(move || Doctor::new(key, config)).await;
        let mut doctor = doctor.map_err(|_| broken("this server is ending"))??;
        let trust = self.trust().clone();
        doctor.endpoint_of = Box::new(move |server| trust.endpoint(server));
        Ok(doctor.examine(name).await)
    }
}

impl Doctor {
    /// `key`: what this server signs with.
    pub fn new(key: Arc<SigningKey>, config: PeersConfig) -> Result<Self, PeerError> {
        let roots = Arc::new(tls::roots_of_peers(&config)?);
        let tls = tls::client_config(&config, &roots)?;
        let (resolver, endpoint_of) = (Resolver::new(&config, &tls)?, Box::new(|_: &ServerName| None));
        Ok(Self { resolver, config, key, roots, tls, deadline: DEADLINE, endpoint_of })
    }

    /// Takes servers to be at `endpoint`, host and port, whatever their names say.
    #[must_use]
    pub fn by_way_of(mut self, endpoint: OwnedServerName) -> Self {
        self.endpoint_of = Box::new(move |_| Some(endpoint.clone()));
        self
    }

    /// Examines the server called `name`, which may be written as people do. Takes a minute at most.
    pub async fn examine(&self, name: &str) -> Examination {
        let (began, began_at) = (Instant::now(), wall_clock());
        let mut chart = Chart::default();
        let read = name::read(name);
        let server_name = read.server.as_ref().map_or_else(|| name.trim().to_owned(), ToString::to_string);
        chart.note(read.finding);
        let reason = match &read.server {
            None => "the name can't be the name of a server",
            Some(server) => {
                let run = tokio::time::timeout(self.deadline, self.run(server, &mut chart)).await;
                match run {
                    Ok(Ok(())) => "it does not apply",
                    Ok(Err(Stopped(reason))) => reason,
                    Err(_) => {
                        chart.note_overdue(self.deadline);
                        "there was no time left for it"
                    }
                }
            }
        };
        let findings = chart.complete(reason);
        Examination {
            server_name,
            examined_by: self.key.server_name().to_owned(),
            began_at,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            outcome: findings.iter().map(|finding| finding.outcome).max().unwrap_or(Outcome::Skipped),
            findings,
        }
    }

    async fn run(&self, server: &ServerName, chart: &mut Chart) -> Result<(), Stopped> {
        self.check_ourselves(server, chart)?;
        let endpoint = (self.endpoint_of)(server);
        let (place, _, trail) = self.resolver.look(server, endpoint.as_deref()).await;
        chart.extend(lookups::findings(server, &trail, place.is_ok(), self.config.allow_private_addresses));
        let place = place.map_err(|_| Stopped("no address of it is known"))?;

        let connected = self.connect(&place, chart).await;
        if connected.is_empty() {
            return Err(Stopped("no connection to it came about"));
        }
        let trusted = self.secure(&place, connected, chart).await;
        if trusted.is_empty() {
            return Err(Stopped("no TLS connection to it can be trusted"));
        }
        let (line, document) = self.ask_for_keys(server, &place, trusted, chart).await?;
        chart.note(keys::validity(&document));

        let asked = tokio::join!(
            requests::version(&line),
            requests::signed(&line),
            view::notary(&line),
            view::peer_status(&line),
        );
        chart.extend(<[Finding; 4]>::from(asked));
        // By itself and last: who can't take it may end the connection for everything else on it.
        chart.note(requests::body_size(&line).await);
        Ok(())
    }

    /// Whether this server is one that may ask at all.
    fn check_ourselves(&self, server: &ServerName, chart: &mut Chart) -> Result<(), Stopped> {
        const STEP: Step = Step::Configuration;
        if server == self.key.server_name() {
            let remedy = Remedy::ours("run `comity doctor` on another server to see how this one is seen from there");
            chart.note(Finding::fault(STEP, format!("{server} is this very server"), remedy));
            return Err(Stopped("a server is no peer of itself"));
        }
        if !self.config.enabled {
            let remedy = Remedy::ours("set `enabled = true` in [federation] of the configuration, and restart");
            chart.note(Finding::fault(STEP, "federation.enabled is off: this server talks to no other", remedy));
            return Err(Stopped("this server talks to no other"));
        }
        chart.note(if self.config.verify_tls {
            Finding::ok(STEP, format!("examined as {}, with its key {}", self.key.server_name(), self.key.key_id()))
        } else {
            let remedy =
                Remedy::ours("set `verify_tls = true` in [federation]; for authorities of your own, `ca_file`");
            let seen = "federation.verify_tls is off: anybody between this server and others can pass for them";
            Finding::warning(STEP, seen, remedy)
        });
        Ok(())
    }

    /// Connects to each address. Answers those that took the connection.
    async fn connect(&self, place: &Place, chart: &mut Chart) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in &place.addresses {
            if !addresses.contains(address) && addresses.len() < MOST_ADDRESSES {
                addresses.push(*address);
            }
        }
        let tried = join_all(addresses.iter().map(|address| connect::tcp(*address, self.config.connect_timeout))).await;
        let connected: Vec<SocketAddr> =
            addresses.iter().zip(&tried).filter(|(_, tried)| tried.is_ok()).map(|(address, _)| *address).collect();
        let outcomes = addresses.iter().zip(&tried);
        chart.extend(outcomes.map(|(address, tried)| connect::finding(*address, tried, connected.is_empty())));
        connected
    }

    /// Makes a TLS connection to each address. Answers those that can be trusted.
    async fn secure(&self, place: &Place, addresses: Vec<SocketAddr>, chart: &mut Chart) -> Vec<SocketAddr> {
        let checked = join_all(addresses.iter().map(|address| secure::check(self, place, *address))).await;
        let mut trusted = Vec::new();
        for (address, checked) in addresses.into_iter().zip(checked) {
            if checked.is_trusted {
                trusted.push(address);
            }
            chart.extend(checked.findings.into_iter().map(|finding| finding.at(address)));
        }
        trusted
    }

    /// Asks at each address for the server's keys. Answers the first line that had an answer of use, and what it was.
    async fn ask_for_keys(
        &self,
        server: &ServerName,
        place: &Place,
        addresses: Vec<SocketAddr>,
        chart: &mut Chart,
    ) -> Result<(Line, keys::Document), Stopped> {
        let mut lines = Vec::new();
        for address in addresses {
            match Line::new(self, server, place, address) {
                Ok(line) => lines.push(line),
                Err(error) => {
                    let remedy = Remedy::ours("report this: it is a fault of Comity");
                    chart.note(Finding::fault(Step::Http, error.to_string(), remedy).at(address));
                }
            }
        }
        let answers = join_all(lines.iter().map(keys::ask)).await;
        let mut best = None;
        let mut has_answered = false;
        for (line, answer) in lines.into_iter().zip(answers) {
            chart.extend(answer.findings.into_iter().map(|finding| finding.at(line.address)));
            if let Some(clock) = answer.clock.filter(|_| !has_answered) {
                chart.note(clock);
                has_answered = true;
            }
            if let Some(document) = answer.document.filter(|_| best.is_none()) {
                best = Some((line, document));
            }
        }
        let nothing = if has_answered { "what answers there is no Matrix server" } else { "it did not answer" };
        best.ok_or(Stopped(nothing))
    }
}

impl Chart {
    fn note(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }

    fn has(&self, step: Step, outcome: Outcome) -> bool {
        self.findings.iter().any(|finding| finding.step == step && finding.outcome == outcome)
    }

    /// The examination's time is over: that is a fault of the step that was under way.
    fn note_overdue(&mut self, deadline: Duration) {
        let is_open = |step: &Step| !self.findings.iter().any(|finding| finding.step == *step);
        let Some(step) = Step::ALL.into_iter().find(is_open) else { return };
        let remedy = "examine it again; if it stays like this, see whether the homeserver or the network between is \
                      overloaded: a healthy server is examined in a few seconds";
        let seen = format!("it was not done when the {deadline:?} of the examination were over");
        self.note(Finding::fault(step, seen, Remedy::of_both(remedy)));
    }

    /// All findings in the order of the steps; `reason`: why those that aren't there were not taken.
    fn complete(mut self, reason: &str) -> Vec<Finding> {
        for step in Step::ALL {
            if !self.findings.iter().any(|finding| finding.step == step) {
                self.findings.push(Finding::skipped(step, reason));
            }
        }
        // A well-known file that nobody can read does no harm where servers find the way without it.
        if !self.has(Step::Http, Outcome::Ok) {
            let broken =
                |finding: &&mut Finding| finding.step == Step::WellKnown && finding.outcome == Outcome::Warning;
            self.findings.iter_mut().filter(broken).for_each(|finding| finding.outcome = Outcome::Fault);
        }
        self.findings.sort_by_key(|finding| finding.step);
        self.findings
    }
}

#[cfg(test)]
mod tests;
