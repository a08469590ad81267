//! A Redis of one's own.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::server::free_port;

/// The program, as `federation-tests/run` sets it.
const PROGRAM: &str = "COMITY_TEST_REDIS";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running Redis, which keeps nothing on disk. Dropped, it is killed.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
    port: u16,
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
        let mut redis = Self { program: program.to_owned(), port: free_port(), process: None };
        redis.spawn().await;
        redis
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
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
        let process = Command::new(&self.program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
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
