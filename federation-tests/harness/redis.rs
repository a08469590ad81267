//! A Redis of one's own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use tempfile::TempDir;

use crate::{Authority, server::free_port};

/// The program, as `federation-tests/run` sets it.
const PROGRAM: &str = "COMITY_TEST_REDIS";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running Redis, which keeps nothing on disk. Dropped, it is killed.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    /// What it is started with besides.
    arguments: Vec<String>,
    /// Before `://` in its URL, and after the port.
    url: (&'static str, &'static str),
    process: Option<Child>,
}

impl Redis {
    /// The program, or a word to the reader that there is none.
    pub fn program() -> Option<PathBuf> {
        let program = env::var_os(PROGRAM).filter(|path| !path.is_empty()).map(PathBuf::from);
        if program.is_none() {
            eprintln!("SKIPPED with Redis: {PROGRAM} isn't set; federation-tests/run installs it");
        }
        program
    }

    /// Starts a Redis and waits until it is ready.
    pub async fn start(program: &Path) -> Self {
        Self::start_as(program, ("redis", ""), |_, port| vec!["--port".to_owned(), port.to_string()]).await
    }

    /// A cluster of one server, which has all slots.
    pub async fn start_cluster(program: &Path) -> Self {
        let redis = Self::start_as(program, ("redis+cluster", ""), |_, port| {
            // Nodes speak at the port plus 10000 unless told otherwise, where anybody may be.
            let (port, nodes) = (port.to_string(), free_port().to_string());
            ["--port", &port, "--cluster-enabled", "yes", "--cluster-port", &nodes].map(ToOwned::to_owned).to_vec()
        })
        .await;
        redis.say("CLUSTER ADDSLOTSRANGE 0 16383").await;
        let deadline = Instant::now() + START_TIMEOUT;
        while !redis.say("CLUSTER INFO").await.contains("cluster_state:ok") {
            assert!(Instant::now() < deadline, "the cluster isn't ready after {START_TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        redis
    }

    /// One that speaks TLS and nothing else, with a certificate of `authority`; which is good for its address.
    pub async fn start_tls(program: &Path, authority: &Authority) -> Self {
        let leaf = authority.leaf(&["127.0.0.1"]);
        Self::start_as(program, ("rediss", ""), |folder, port| {
            let file = |name: &str, content: String| {
                let path = folder.join(name);
                fs::write(&path, content).expect("one's own folder can be written to");
                path.display().to_string()
            };
            let (port, certificate) = (port.to_string(), file("certificate.pem", leaf.certificate_pem()));
            let (key, authority) = (file("key.pem", leaf.key_pem()), file("authority.pem", authority.pem()));
            [
                ["--port", "0"],
                ["--tls-port", &port],
                ["--tls-cert-file", &certificate],
                ["--tls-key-file", &key],
                ["--tls-ca-cert-file", &authority],
                ["--tls-auth-clients", "no"],
            ]
            .as_flattened()
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect()
        })
        .await
    }

    /// A sentinel that watches `master` and calls it `im`.
    pub async fn start_sentinel(program: &Path, master: &Self) -> Self {
        let watched = format!("sentinel monitor im 127.0.0.1 {} 1\n", master.port);
        Self::start_as(program, ("redis+sentinel", "/im"), |folder, port| {
            let config = folder.join("sentinel.conf");
            fs::write(&config, format!("port {port}\n{watched}")).expect("one's own folder can be written to");
            vec![config.display().to_string(), "--sentinel".to_owned()]
        })
        .await
    }

    async fn start_as(
        program: &Path,
        url: (&'static str, &'static str),
        arguments: impl FnOnce(&Path, u16) -> Vec<String>,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("comity-redis-").tempdir().expect("a temporary folder");
        let port = free_port();
        let arguments = arguments(folder.path(), port);
        let mut redis = Self { program: program.to_owned(), folder, port, arguments, url, process: None };
        redis.spawn().await;
        redis
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}{}", self.url.0, self.port, self.url.1)
    }

    /// Says `command` to it, as `redis-cli` would, and answers the first kilobytes of the reply as they are on the wire.
    pub async fn say(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("Redis listens");
        stream.write_all(format!("{command}\r\n").as_bytes()).await.expect("Redis reads");
        let mut reply = vec![0; 64 << 10];
        let read = timeout(Duration::from_secs(10), stream.read(&mut reply)).await.expect("Redis answers in time");
        String::from_utf8_lossy(&reply[..read.expect("Redis answers")]).into_owned()
    }

    /// SIGKILL: everything in it is gone.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("Redis runs");
        process.kill().expect("a running process can be killed");
        process.wait().expect("a killed process ends");
    }

    /// Starts it again, empty, on the same port.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        self.spawn().await;
    }

    async fn spawn(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(["--bind", "127.0.0.1"]);
        if !self.arguments.iter().any(|argument| argument == "--sentinel") {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        let process = command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Redis is where it was installed");
        self.process = Some(process);
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(Instant::now() < deadline, "Redis isn't ready after {START_TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
