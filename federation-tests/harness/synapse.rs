//! Synapse, which was written by others: what it makes of us is what most of the world makes of us.

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Client, Network, Peer, Place, pdu, server::password_of};

/// The Python that has Synapse installed, as `federation-tests/run` sets it.
const PYTHON: &str = "COMITY_TEST_SYNAPSE";
/// How long a start may take: much of Python is read for it.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const CLIENT_PORT: u16 = 8008;
const SHARED_SECRET: &str = "a secret that only tests share";

/// Starts Synapse as it is, but for where it asks for names: those of the network.
const LAUNCHER: &str = r#"
import sys
from twisted.internet import reactor
from twisted.names import client

host, port = sys.argv.pop(1).rsplit(":", 1)
client.theResolver = client.Resolver(servers=[(host, int(port))])
reactor.installResolver(client.theResolver)
# Synapse would go back to the machine's own resolver.
reactor.installNameResolver = lambda resolver: resolver

from synapse.app.homeserver import main
main()
"#;

/// A running Synapse. Dropped, it is killed, and a test that failed is shown its log.
#[derive(Debug)]
pub struct Synapse {
    folder: TempDir,
    place: Place,
    process: Option<Child>,
    python: PathBuf,
}

impl Synapse {
    /// The Python to run it with, or a word to the reader that there is none.
    pub fn python() -> Option<PathBuf> {
        let python = env::var_os(PYTHON).filter(|path| !path.is_empty()).map(PathBuf::from);
        if python.is_none() {
            eprintln!(
                "SKIPPED with Synapse: {PYTHON} isn't set; federation-tests/run installs it where there is Python"
            );
        }
        python
    }

    /// Starts a Synapse called `name` in `network` and waits until it is ready.
    pub async fn start(network: &Network, python: &Path, name: &str) -> Self {
        let place = network.settle(name, true).await;
        let folder = tempfile::Builder::new().prefix("comity-synapse-").tempdir().expect("a temporary folder");
        let leaf = network.authority.leaf(&[name]);
        let seed: [u8; 32] = rand::random();
        let files = [
            ("launch.py", LAUNCHER.to_owned()),
            ("authority.pem", network.authority.pem()),
            ("certificate.pem", leaf.certificate_pem()),
            ("key.pem", leaf.key_pem()),
            ("signing.key", format!("ed25519 test {}\n", pdu::base64(&seed))),
            ("log.json", log_config().to_string()),
            ("homeserver.json", config(folder.path(), &place).to_string()),
        ];
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("one's own folder can be written to");
        }
        let mut synapse = Self { folder, place, process: None, python: python.to_owned() };
        synapse.spawn();
        synapse.ready(network).await;
        synapse
    }

    /// Its server name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// A new account, logged in.
    pub async fn register(&self, localpart: &str) -> Client {
        let mut client = self.anonymous();
        client.register_with_secret(SHARED_SECRET, localpart, &password_of(localpart), false).await;
        client
    }

    /// A client that nobody has logged in.
    pub fn anonymous(&self) -> Client {
        Client::new(&format!("http://{}", SocketAddr::new(self.place.address.ip(), CLIENT_PORT)))
    }

    fn spawn(&mut self) {
        let path = self.folder.path();
        let log = OpenOptions::new().create(true).append(true).open(path.join("log")).expect("a log file");
        let process = Command::new(&self.python)
            .arg(path.join("launch.py"))
            .arg(self.place.resolver.to_string())
            .arg("--config-path")
            .arg(path.join("homeserver.json"))
            .current_dir(path)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().expect("a file handle can be cloned")))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", self.python.display()));
        self.process = Some(process);
    }

    async fn ready(&mut self, network: &Network) {
        let http = network.authority.client().resolve(self.name(), self.place.address).build().expect("a client");
        let federation = Client::over(http, &format!("https://{}:{}", self.name(), self.place.address.port()));
        let probes = [(self.anonymous(), "/_matrix/client/versions"), (federation, "/_matrix/key/v2/server")];
        let deadline = Instant::now() + START_TIMEOUT;
        for (probe, path) in &probes {
            while !probe.try_get(path).await.is_ok_and(|answer| answer.status == 200) {
                let process = self.process.as_mut().expect("it was just started");
                if let Some(status) = process.try_wait().expect("a child can be asked") {
                    panic!("Synapse ended with {status} instead of getting ready");
                }
                assert!(Instant::now() < deadline, "Synapse wasn't ready within {START_TIMEOUT:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Peer for Synapse {
    fn place(&self) -> &Place {
        &self.place
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have died by itself; either way it is gone afterwards.
            let _ = process.kill();
            let _ = process.wait();
        }
        if thread::panicking() {
            let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let from = log.lines().count().saturating_sub(150);
            let tail: Vec<&str> = log.lines().skip(from).collect();
            let _ = writeln!(std::io::stderr(), "--- Synapse's log ---\n{}\n--- end ---", tail.join("\n"));
        }
    }
}

fn log_config() -> Value {
    json!({
        "version": 1,
        "disable_existing_loggers": false,
        "formatters": { "plain": { "format": "%(asctime)s %(levelname)s %(name)s: %(message)s" } },
        "handlers": { "console": { "class": "logging.StreamHandler", "formatter": "plain" } },
        "root": { "level": "INFO", "handlers": ["console"] },
    })
}

/// JSON is YAML.
fn config(folder: &Path, place: &Place) -> Value {
    let file = |name: &str| folder.join(name).display().to_string();
    let address = place.address.ip().to_string();
    let plenty = json!({ "per_second": 100_000, "burst_count": 100_000 });
    json!({
        "server_name": place.name,
        "pid_file": file("pid"),
        "listeners": [
            {
                "port": CLIENT_PORT, "bind_addresses": [address], "type": "http", "tls": false,
                "resources": [{ "names": ["client"] }],
            },
            {
                "port": place.address.port(), "bind_addresses": [address], "type": "http", "tls": true,
                "resources": [{ "names": ["federation"] }],
            },
        ],
        "tls_certificate_path": file("certificate.pem"),
        "tls_private_key_path": file("key.pem"),
        "federation_custom_ca_list": [file("authority.pem")],
        "ip_range_blacklist": [],
        "trusted_key_servers": [],
        "database": { "name": "sqlite3", "args": { "database": file("homeserver.db") } },
        "media_store_path": file("media"),
        "signing_key_path": file("signing.key"),
        "log_config": file("log.json"),
        "registration_shared_secret": SHARED_SECRET,
        "macaroon_secret_key": "nobody else knows it",
        "form_secret": "nor this",
        "report_stats": false,
        "allow_public_rooms_over_federation": true,
        // It would tell again for two minutes what it told a moment ago.
        "caches": { "sync_response_cache_duration": "0s" },
        // What was not reached a moment ago may be reached now.
        "federation": { "destination_min_retry_interval": "1s", "destination_max_retry_interval": "2s" },
        "bcrypt_rounds": 4,
        "rc_message": plenty, "rc_registration": plenty, "rc_admin_redaction": plenty,
        "rc_login": { "address": plenty, "account": plenty, "failed_attempts": plenty },
        "rc_joins": { "local": plenty, "remote": plenty },
        "rc_joins_per_room": plenty,
        "rc_invites": { "per_room": plenty, "per_user": plenty, "per_issuer": plenty },
        "rc_presence": { "per_user": plenty },
        "rc_federation": { "window_size": 1000, "sleep_limit": 10_000, "sleep_delay": 1, "reject_limit": 10_000, "concurrent": 100 },
    })
}
