//! A bucket of one's own, at an S3 that others wrote, which looks at signatures and at what its user may do.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use url::form_urlencoded::Serializer;

use crate::{ServerBuilder, server::free_port};

/// Python with moto in it, as `federation-tests/run` sets it.
const PROGRAM: &str = "COMITY_TEST_S3";
const START_TIMEOUT: Duration = Duration::from_secs(60);
const NAME: &str = "im-media";

/// What docs/storage.md says that this server must be allowed.
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/bucket-policy.json");

/// A bucket, in memory. Dropped, it is gone.
#[derive(Debug)]
pub struct Bucket {
    process: Child,
    inner: SocketAddr,
    outer: SocketAddr,
    door: Option<JoinHandle<()>>,
    login: (String, String),
}

impl Bucket {
    /// The program, or a word to the reader that there is none.
    pub fn program() -> Option<PathBuf> {
        let program = env::var_os(PROGRAM).filter(|path| !path.is_empty()).map(PathBuf::from);
        if program.is_none() {
            eprintln!(
                "SKIPPED with a bucket: {PROGRAM} isn't set; federation-tests/run installs it where there is Python"
            );
        }
        program
    }

    /// Starts an S3, makes a bucket in it, and a user who may do there what is documented and no more.
    pub async fn start(program: &Path) -> Self {
        let [inner, outer] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let process = Command::new(program)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &inner.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python runs");
        let mut bucket = Self { process, inner, outer, door: None, login: Default::default() };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(inner).await.is_err() {
            assert!(Instant::now() < deadline, "the S3 isn't ready after {START_TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bucket.furnish().await;
        bucket.come_back().await;
        bucket
    }

    async fn furnish(&mut self) {
        let http = reqwest::Client::new();
        let at = |path: &str| format!("http://{}{path}", self.inner);
        let made = http.put(at(&format!("/{NAME}"))).send().await.expect("it answers");
        assert!(made.status().is_success(), "{made:?}");
        let policy = fs::read_to_string(POLICY).expect("it is documented").replace("BUCKET", NAME);
        self.iam("CreateUser", &[]).await;
        self.iam("PutUserPolicy", &[("PolicyName", "media"), ("PolicyDocument", &policy)]).await;
        let key = self.iam("CreateAccessKey", &[]).await;
        let of = |tag: &str| {
            let (_, rest) = key.split_once(&format!("<{tag}>")).expect("it is XML");
            rest.split('<').next().expect("a text ends").to_owned()
        };
        self.login = (of("AccessKeyId"), of("SecretAccessKey"));
        // From here on it asks who one is.
        let request = http.post(at("/moto-api/reset-auth")).header("content-type", "application/octet-stream");
        let closed = request.body("0").send().await.expect("it answers");
        assert!(closed.status().is_success(), "{closed:?}");
    }

    async fn iam(&self, action: &str, more: &[(&str, &str)]) -> String {
        let mut form = Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", "2010-05-08").append_pair("UserName", "comity");
        form.extend_pairs(more);
        let scope =
            "AWS4-HMAC-SHA256 Credential=root/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0";
        let request = reqwest::Client::new().post(format!("http://{}/", self.inner)).header("authorization", scope);
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form.finish());
        let answer = request.send().await.expect("it answers");
        assert!(answer.status().is_success(), "{action}: {answer:?}");
        answer.text().await.expect("it comes")
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.outer)
    }

    /// A server that keeps its files there.
    pub fn serve(&self, builder: ServerBuilder) -> ServerBuilder {
        let section = "media.s3";
        builder
            .set("media", "storage", "s3")
            .set(section, "endpoint", self.url())
            .set(section, "bucket", NAME)
            .set(section, "prefix", "comity")
            .set(section, "allow_http", true)
            .set(section, "access_key_id", self.login.0.clone())
            .set(section, "secret_access_key", self.login.1.clone())
    }

    /// The secret of the server's login.
    pub fn secret(&self) -> &str {
        &self.login.1
    }

    /// Nobody reaches it any more, and who was being answered hears no more.
    pub async fn go_away(&mut self) {
        let door = self.door.take().expect("it is there");
        door.abort();
        let _ = door.await;
    }

    /// It is there again, with all that was in it.
    pub async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.outer).await.expect("the port is its own");
        self.door = Some(tokio::spawn(pass_on(listener, self.inner)));
    }
}

async fn pass_on(listener: TcpListener, to: SocketAddr) {
    let mut under_way = JoinSet::new();
    loop {
        let Ok((mut from, _)) = listener.accept().await else { return };
        under_way.spawn(async move {
            let Ok(mut to) = TcpStream::connect(to).await else { return };
            // Either may end it as it likes.
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        });
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(door) = self.door.take() {
            door.abort();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
