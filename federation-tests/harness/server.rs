//! The real binary, in a folder of its own.

use std::{
    env,
    fs::{self, OpenOptions, Permissions},
    io::Write as _,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use toml::{Table, Value};

use crate::{Authority, Client, Database, Engine, Peer, Place};

/// How long a start may take, migrations included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a graceful shutdown may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Where clients find a server that has an address of its own.
const CLIENT_PORT: u16 = 8008;
/// The longest that a request of [`Server::federation`] may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The domain of a server that is alone.
const SERVER_NAME: &str = "a.test";
/// The secret of [`Server::register_with_secret`].
const SHARED_SECRET: &str = "a secret that only tests share";

/// A server that is about to be started.
#[derive(Debug)]
pub struct ServerBuilder {
    engine: Engine,
    /// Section, key and value, in the order in which they were set.
    settings: Vec<(String, String, Value)>,
    data_dir: Option<PathBuf>,
    federation: Option<Federation>,
    is_public: bool,
}

/// What a server among others has besides.
#[derive(Clone, Debug)]
struct Federation {
    place: Place,
    authority_pem: String,
    certificate_pem: String,
    key_pem: String,
    /// Speaks to the server as another server would.
    http: reqwest::Client,
}

impl ServerBuilder {
    /// Sets `key` of `[section]` in `config.toml`; an empty section means the top of the file.
    pub fn set(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        self.settings.push((section.to_owned(), key.to_owned(), value.into()));
        self
    }

    /// Tells it where it is reached, so that it has pages to send browsers to.
    pub fn public(mut self) -> Self {
        self.is_public = true;
        self
    }

    /// Keeps the data in `folder` instead of the server's own.
    pub fn data_dir(mut self, folder: &Path) -> Self {
        self.data_dir = Some(folder.to_owned());
        self
    }

    /// Makes it a server among others, at `place`, which `authority` vouches for.
    pub(crate) fn federated(mut self, place: &Place, authority: &Authority) -> Self {
        let host = place.name.split(':').next().expect("a name has a first part");
        let leaf = authority.leaf(&[host]);
        let http = authority.client().resolve(host, place.address).timeout(REQUEST_TIMEOUT);
        self.federation = Some(Federation {
            place: place.clone(),
            authority_pem: authority.pem(),
            certificate_pem: leaf.certificate_pem(),
            key_pem: leaf.key_pem(),
            http: http.build().expect("a client needs no more than this"),
        });
        self
    }

    /// Starts the server and waits until it is ready.
    pub async fn start(self) -> Server {
        let folder = tempfile::Builder::new().prefix("comity-test-").tempdir().expect("a temporary folder");
        let database = Database::create(&self.engine).await;
        let address = match &self.federation {
            Some(federation) => SocketAddr::new(federation.place.address.ip(), CLIENT_PORT),
            None => SocketAddr::from(([127, 0, 0, 1], free_port())),
        };
        let data_dir = self.data_dir.unwrap_or_else(|| folder.path().join("data"));
        let database_url = match &database {
            Database::Sqlite => format!("sqlite://{}", data_dir.join("comity.db").display()),
            Database::Postgres { .. } => database.url(folder.path()),
        };

        let mut settings = defaults();
        put(&mut settings, "", "data_dir", data_dir.display().to_string().into());
        put(&mut settings, "", "keys_dir", folder.path().join("keys").display().to_string().into());
        put(&mut settings, "listen", "client", address.to_string().into());
        if self.is_public {
            put(&mut settings, "", "public_baseurl", format!("http://{address}").into());
        }
        put(&mut settings, "database", "url", database_url.into());
        if let Some(federation) = &self.federation {
            federation.configure(&mut settings, folder.path());
        }
        for (section, key, value) in self.settings {
            put(&mut settings, &section, &key, value);
        }
        let config = folder.path().join("config.toml");
        fs::write(&config, settings.to_string()).expect("config.toml can be written");
        // It holds a secret, and the server says so when others could read it.
        fs::set_permissions(&config, Permissions::from_mode(0o600)).expect("one's own file");

        let mut server =
            Server { folder, address, database, owns_database: true, federation: self.federation, process: None };
        server.spawn().await;
        server
    }
}

impl Federation {
    fn configure(&self, settings: &mut Table, folder: &Path) {
        let mut file = |section: &str, key: &str, name: &str, content: &str| {
            let path = folder.join(name);
            fs::write(&path, content).expect("one's own folder can be written to");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("one's own file");
            put(settings, section, key, path.display().to_string().into());
        };
        file("federation", "ca_file", "authority.pem", &self.authority_pem);
        file("tls", "certificate", "certificate.pem", &self.certificate_pem);
        file("tls", "private_key", "key.pem", &self.key_pem);
        put(settings, "", "server_name", self.place.name.clone().into());
        put(settings, "listen", "federation", self.place.address.to_string().into());
        put(settings, "federation", "nameservers", vec![self.place.resolver.to_string()].into());
        put(settings, "federation", "allow_private_addresses", true.into());
        put(settings, "federation", "default_trust", "full".into());
    }
}

fn defaults() -> Table {
    let mut settings = Table::new();
    put(&mut settings, "", "server_name", SERVER_NAME.into());
    put(&mut settings, "registration", "enabled", true.into());
    put(&mut settings, "registration", "shared_secret", SHARED_SECRET.into());
    put(&mut settings, "rate_limits", "enabled", false.into());
    // The cheapest that Argon2 knows: a test is not about how long a password takes.
    put(&mut settings, "accounts.argon2", "memory_kib", 8.into());
    put(&mut settings, "accounts.argon2", "iterations", 1.into());
    put(&mut settings, "accounts.argon2", "parallelism", 1.into());
    settings
}

/// Sets `key` in a section; `accounts.argon2` is a section inside another.
fn put(settings: &mut Table, section: &str, key: &str, value: Value) {
    let mut table = settings;
    for name in section.split('.').filter(|name| !name.is_empty()) {
        let inner = table.entry(name.to_owned()).or_insert_with(|| Value::Table(Table::new()));
        table = inner.as_table_mut().expect("a section is a table");
    }
    table.insert(key.to_owned(), value);
}

/// A running server. Dropped, it is killed, its folder and its database go, and a test that failed is shown its log.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    address: SocketAddr,
    database: Database,
    /// Whether the database goes with this server.
    owns_database: bool,
    federation: Option<Federation>,
    process: Option<Child>,
}

impl Server {
    /// Starts a server with the settings that most tests want.
    pub async fn start(engine: &Engine) -> Self {
        Self::builder(engine).start().await
    }

    /// A server whose settings are still open.
    pub fn builder(engine: &Engine) -> ServerBuilder {
        ServerBuilder {
            engine: engine.clone(),
            settings: Vec::new(),
            data_dir: None,
            federation: None,
            is_public: false,
        }
    }

    /// Another node of the same deployment: its own process, folder and addresses; the same database, keys, media and settings. Other
    /// servers don't know its address. It must end before this one does.
    pub async fn another_node(&self) -> Self {
        let Database::Postgres { .. } = self.database else { panic!("nodes share a PostgreSQL, and no file") };
        let folder = tempfile::Builder::new().prefix("comity-test-node-").tempdir().expect("a temporary folder");
        let config = fs::read_to_string(self.folder.path().join("config.toml")).expect("this one has a config.toml");
        let mut settings: Table = config.parse().expect("it wrote it itself");
        let address = SocketAddr::new(self.address.ip(), free_port());
        // With a bucket, what is being written is each node's own.
        let shares_a_folder =
            settings.get("media").is_none_or(|media| media.get("path").is_none() && media.get("storage").is_none());
        if shares_a_folder {
            let data_dir = settings["data_dir"].as_str().expect("it is a path").to_owned();
            put(&mut settings, "media", "path", format!("{data_dir}/media").into());
        }
        put(&mut settings, "", "data_dir", folder.path().join("data").display().to_string().into());
        put(&mut settings, "listen", "client", address.to_string().into());
        let federation = self.federation.clone().map(|federation| {
            let place =
                Place { address: SocketAddr::new(federation.place.address.ip(), free_port()), ..federation.place };
            put(&mut settings, "listen", "federation", place.address.to_string().into());
            Federation { place, ..federation }
        });
        let config = folder.path().join("config.toml");
        fs::write(&config, settings.to_string()).expect("config.toml can be written");
        fs::set_permissions(&config, Permissions::from_mode(0o600)).expect("one's own file");
        let database = self.database.clone();
        let mut node = Self { folder, address, database, owns_database: false, federation, process: None };
        node.spawn().await;
        node
    }

    /// Where clients speak to it, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address of its client listener.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its domain.
    pub fn name(&self) -> &str {
        self.federation.as_ref().map_or(SERVER_NAME, |federation| &federation.place.name)
    }

    /// Where other servers speak to it.
    pub fn federation_address(&self) -> SocketAddr {
        self.place().address
    }

    /// Speaks to it as another server would, but for the signature.
    #[track_caller]
    pub fn federation(&self) -> Client {
        let Federation { place, http, .. } = self.federation.as_ref().expect("a server of a network");
        let host = place.name.split(':').next().expect("a name has a first part");
        Client::over(http.clone(), &format!("https://{host}:{}", place.address.port()))
    }

    /// Its database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Its folder, with `config.toml`, `data/`, `keys/` and `log`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The registration secret in its configuration.
    pub fn shared_secret(&self) -> &str {
        SHARED_SECRET
    }

    /// Everything it has written to stdout and stderr.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// A client that nobody has logged in.
    pub fn anonymous(&self) -> Client {
        Client::new(&self.url())
    }

    /// The counter or gauge `name` of `/metrics`, its labels summed up; 0 if it isn't there, or the server isn't.
    pub async fn figure(&self, name: &str) -> f64 {
        let Ok(answer) = self.anonymous().try_get("/metrics").await else { return 0.0 };
        let is_its = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let lines = answer.text.lines().filter(is_its);
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// An admin, `root`.
    pub async fn admin(&self) -> Client {
        let mut admin = self.anonymous();
        admin.register_with_secret(self.shared_secret(), "root", "a long password", true).await;
        admin
    }

    /// A new account with the password `<localpart>'s password`, logged in.
    pub async fn register(&self, localpart: &str) -> Client {
        let mut client = self.anonymous();
        client.register(localpart, &password_of(localpart)).await;
        client
    }

    /// A new account, logged in, made in one step with the shared secret: cheaper than [`Self::register`].
    pub async fn register_with_secret(&self, localpart: &str) -> Client {
        let mut client = self.anonymous();
        client.register_with_secret(SHARED_SECRET, localpart, &password_of(localpart), false).await;
        client
    }

    /// Another device of an account that [`Self::register`] made.
    pub async fn login(&self, localpart: &str) -> Client {
        let mut client = self.anonymous();
        client.login(localpart, &password_of(localpart)).await;
        client
    }

    /// SIGKILL, and the end of the process. Nothing is flushed, nobody is told.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().expect("a running process can be killed");
        process.wait().expect("a killed process ends");
    }

    /// Asks for an end with SIGTERM without waiting for it.
    pub fn terminate(&self) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status().expect("there is a kill command");
        assert!(status.success(), "kill -TERM {pid}: {status}");
    }

    /// Waits for the end of the process after [`Self::terminate`].
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_TIMEOUT;
        let process = self.process.as_mut().expect("the server runs");
        loop {
            if let Some(status) = process.try_wait().expect("a child can be asked") {
                self.process = None;
                return status;
            }
            assert!(Instant::now() < deadline, "the server didn't end within {STOP_TIMEOUT:?} of SIGTERM");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM, and a clean end.
    pub async fn stop(&mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "the server ended with {status} after SIGTERM");
    }

    /// Starts it again, in the same folder and on the same port, and waits until it is ready.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        self.spawn().await;
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// What the process has used so far, and holds now.
    pub fn usage(&self) -> Usage {
        Usage::of(self.pid())
    }

    async fn spawn(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log file");
        let process = Command::new(binary())
            .arg("serve")
            .arg("--config")
            .arg(self.folder.path().join("config.toml"))
            .current_dir(self.folder.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().expect("a file handle can be cloned")))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", binary().display()));
        self.process = Some(process);
        self.ready().await;
    }

    async fn ready(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut probes = vec![(self.anonymous(), "/_matrix/client/versions")];
        if self.federation.is_some() {
            probes.push((self.federation(), "/_matrix/key/v2/server"));
        }
        loop {
            let mut answered = 0;
            for (probe, path) in &probes {
                answered += usize::from(probe.try_get(path).await.is_ok_and(|answer| answer.status == 200));
            }
            if answered == probes.len() {
                return;
            }
            let process = self.process.as_mut().expect("it was just started");
            if let Some(status) = process.try_wait().expect("a child can be asked") {
                panic!("the server ended with {status} instead of getting ready");
            }
            assert!(Instant::now() < deadline, "the server wasn't ready within {START_TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Peer for Server {
    fn place(&self) -> &Place {
        &self.federation.as_ref().expect("a server of a network").place
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have died by itself; either way it is gone afterwards.
            let _ = process.kill();
            let _ = process.wait();
        }
        let log = self.log();
        let panicked = log.lines().any(|line| line.contains("panicked at"));
        if thread::panicking() || panicked {
            let from = log.lines().count().saturating_sub(200);
            let tail: Vec<&str> = log.lines().skip(from).collect();
            let _ = writeln!(std::io::stderr(), "--- the server's log ---\n{}\n--- end ---", tail.join("\n"));
        }
        if thread::panicking()
            && let Some(folder) = kept()
        {
            // What can't be kept is no reason to fail in another way.
            let _ = Command::new("cp").arg("-r").arg(self.folder.path()).arg(folder.join(self.name())).status();
        }
        if self.owns_database && matches!(self.database, Database::Postgres { .. }) {
            remove_in_a_thread(&self.database);
        }
        assert!(!panicked || thread::panicking(), "the server panicked; its log is above");
    }
}

/// Drop can't wait inside the test's own runtime, so it borrows another one.
fn remove_in_a_thread(database: &Database) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(database.remove());
        });
    });
}

/// Where what is left of a failed test goes, if anybody wants to look into it: `COMITY_TEST_KEEP`.
pub(crate) fn kept() -> Option<PathBuf> {
    let folder = PathBuf::from(env::var_os("COMITY_TEST_KEEP")?);
    fs::create_dir_all(&folder).is_ok().then_some(folder)
}

/// The password of every account that the harness makes.
pub(crate) fn password_of(localpart: &str) -> String {
    format!("{localpart}'s password")
}

/// `COMITY_BIN`, or `comity` in the folder that cargo built this executable into.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("COMITY_BIN") {
        return PathBuf::from(path);
    }
    let this = env::current_exe().expect("a test knows its own path");
    let folder = this.ancestors().skip(1).find(|folder| folder.join("comity").is_file());
    folder.map(|folder| folder.join("comity")).expect("no comity beside the tests: run `cargo build` first")
}

/// A port below those that the kernel gives to outgoing connections, so that nobody takes it between two starts.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + (std::process::id() % 180) as u16 * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What the kernel says about a process.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Seconds of processor time, user and system, since its start.
    pub cpu_seconds: f64,
    /// Kilobytes of memory that are resident.
    pub resident_kb: u64,
    /// Those of them that are no pages of its program or of files, which come and go.
    pub anonymous_kb: u64,
    /// Open file descriptors.
    pub files: usize,
}

impl Usage {
    /// Reads the figures of process `pid`.
    pub fn of(pid: u32) -> Self {
        /// Linux counts processor time in hundredths of a second wherever it tells user space about it.
        const TICKS_PER_SECOND: f64 = 100.0;
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("the process lives");
        let stat = read("stat");
        let after_name = stat.rsplit_once(')').expect("stat names the program in brackets").1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // utime and stime are fields 14 and 15 of the whole line; the first after the name is field 3.
        let ticks = |index: usize| fields[index].parse::<f64>().expect("a number of ticks");
        let status = read("status");
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the line is there");
            line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
        };
        Self {
            cpu_seconds: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
            resident_kb: kilobytes("VmRSS:"),
            anonymous_kb: kilobytes("RssAnon:"),
            files: fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count(),
        }
    }
}
