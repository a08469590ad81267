//! A RabbitMQ of one's own.

use std::{
    env,
    fs::{self, OpenOptions, Permissions},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::free_port;

/// The folder of RabbitMQ's programs, as `federation-tests/run` sets it.
const PROGRAMS: &str = "COMITY_TEST_RABBITMQ";
/// How long a start may take; several on a busy machine take half a minute.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// How long an end may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// Who may do everything at each of these brokers.
const ADMIN: &str = "admin";
const PASSWORD: &str = "a password that only tests share";
/// How many lines of its log are shown when a test has failed.
const LAST_WORDS: usize = 60;
const PLUGINS: &str = "[rabbitmq_management,rabbitmq_federation,rabbitmq_federation_management,rabbitmq_shovel,\
    rabbitmq_shovel_management,rabbitmq_auth_mechanism_ssl].";

/// A running RabbitMQ. Dropped, it is killed, and a test that failed is shown its log.
#[derive(Debug)]
pub struct Broker {
    folder: TempDir,
    programs: PathBuf,
    /// Its name in the cluster that it is all of.
    name: String,
    amqp: u16,
    distribution: u16,
    management: u16,
    names: u16,
    http: reqwest::Client,
    process: Option<Child>,
    /// Tells Erlang's nodes where they are; the broker would start one that stays.
    epmd: Child,
}

impl Broker {
    /// The folder of its programs, or a word to the reader that there are none.
    pub fn programs() -> Option<PathBuf> {
        let programs = env::var_os(PROGRAMS).filter(|path| !path.is_empty()).map(PathBuf::from);
        if programs.is_none() {
            eprintln!("SKIPPED with RabbitMQ: {PROGRAMS} isn't set; federation-tests/run installs it");
        }
        programs
    }

    /// Starts a broker that calls itself `name` to other brokers, with management, federation and shovels, and waits until it is
    /// ready.
    pub async fn start(programs: &Path, name: &str) -> Self {
        Self::start_with(programs, name, PLUGINS.to_owned()).await
    }

    /// As [`Self::start`], without `plugin` and those whose names begin with its name.
    pub async fn start_without(programs: &Path, name: &str, plugin: &str) -> Self {
        let plugins: Vec<_> = PLUGINS.trim_matches(['[', ']', '.']).split(',').collect();
        let kept: Vec<_> = plugins.into_iter().map(str::trim).filter(|known| !known.starts_with(plugin)).collect();
        Self::start_with(programs, name, format!("[{}].", kept.join(","))).await
    }

    async fn start_with(programs: &Path, name: &str, plugins: String) -> Self {
        let folder = tempfile::Builder::new().prefix("comity-rabbit-").tempdir().expect("a temporary folder");
        let names = free_port();
        // Root's own server and its files belong to root, as the cookie must.
        let epmd = Command::new("epmd")
            .args(["-port", &names.to_string(), "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("epmd comes with Erlang");
        let http = crate::http_client().timeout(Duration::from_secs(30)).build().expect("a plain client");
        let (amqp, distribution, management) = (free_port(), free_port(), free_port());
        let programs = programs.to_owned();
        let mut broker = Self {
            folder,
            programs,
            name: name.to_owned(),
            amqp,
            distribution,
            management,
            names,
            http,
            process: None,
            epmd,
        };
        broker.configure(&plugins);
        broker.spawn();
        broker.ready().await;
        let (status, answer) = broker.api("PUT", "/cluster-name", Some(json!({ "name": name }))).await;
        assert!((200..300).contains(&status), "{status} {answer}");
        broker
    }

    /// Where its management is, with the user and the password of somebody who may do everything.
    pub fn management_url(&self) -> String {
        format!("http://{ADMIN}:{}@127.0.0.1:{}", PASSWORD.replace(' ', "%20"), self.management)
    }

    /// Where it is, as somebody who may do everything in `vhost`.
    pub fn url(&self, vhost: &str) -> String {
        self.url_of(ADMIN, PASSWORD, vhost)
    }

    /// Where it is, as `user`.
    pub fn url_of(&self, user: &str, password: &str, vhost: &str) -> String {
        let enc =
            |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
        format!("amqp://{}:{}@127.0.0.1:{}/{}", enc(user), enc(password), self.amqp, enc(vhost))
    }

    /// The port of AMQP.
    pub fn port(&self) -> u16 {
        self.amqp
    }

    /// A request to its management API. `path` begins after `/api`. Answers the status and the body, `null` if there is none.
    pub async fn api(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{}/api{path}", self.management);
        let method = method.parse().expect("a method");
        let mut request = self.http.request(method, &url).basic_auth(ADMIN, Some(PASSWORD));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap_or_default();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Makes a virtual host in which the admin may do everything.
    pub async fn make_vhost(&self, vhost: &str) {
        let (status, answer) = self.api("PUT", &format!("/vhosts/{}", crate::enc(vhost)), None).await;
        assert!((200..300).contains(&status), "{status} {answer}");
        self.permit(ADMIN, vhost, ".*", ".*", ".*").await;
    }

    /// Makes a user who may do nothing yet.
    pub async fn make_user(&self, user: &str, password: &str) {
        let body = json!({ "password": password, "tags": "" });
        let (status, answer) = self.api("PUT", &format!("/users/{}", crate::enc(user)), Some(body)).await;
        assert!((200..300).contains(&status), "{status} {answer}");
    }

    /// Lets `user` do in `vhost` what the patterns match.
    pub async fn permit(&self, user: &str, vhost: &str, configure: &str, write: &str, read: &str) {
        let path = format!("/permissions/{}/{}", crate::enc(vhost), crate::enc(user));
        let body = json!({ "configure": configure, "write": write, "read": read });
        let (status, answer) = self.api("PUT", &path, Some(body)).await;
        assert!((200..300).contains(&status), "{status} {answer}");
    }

    /// How many messages wait in a queue; `None`: there is no such queue. The broker counts them every few seconds.
    pub async fn waiting(&self, vhost: &str, queue: &str) -> Option<u64> {
        let (_, answer) = self.api("GET", &format!("/queues/{}/{}", crate::enc(vhost), crate::enc(queue)), None).await;
        answer["name"].as_str()?;
        Some(answer["messages"].as_u64().unwrap_or_default())
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("out"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the broker runs");
        signal_group("-KILL", &process);
        process.wait().expect("a killed process ends");
    }

    /// SIGTERM, and a clean end.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("the broker runs");
        let status = Command::new("kill").args(["-TERM", &process.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "the broker runs");
        let deadline = Instant::now() + STOP_TIMEOUT;
        while process.try_wait().expect("one's own process").is_none() {
            assert!(Instant::now() < deadline, "the broker didn't end within {STOP_TIMEOUT:?} of SIGTERM");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        signal_group("-KILL", &process);
    }

    /// Starts it again, with what it had written down, on the same ports.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        self.spawn();
        self.ready().await;
    }

    fn configure(&self, plugins: &str) {
        let home = self.folder.path();
        let write = |name: &str, content: &str| fs::write(home.join(name), content).expect("one's own folder");
        write(".erlang.cookie", &format!("{:032x}", rand::random::<u128>()));
        fs::set_permissions(home.join(".erlang.cookie"), Permissions::from_mode(0o400)).expect("one's own file");
        write("enabled_plugins", plugins);
        let Self { amqp, management, .. } = self;
        write(
            "rabbitmq.conf",
            &format!(
                "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
                 management.tcp.ip = 127.0.0.1\n\
                 management.tcp.port = {management}\n\
                 management.rates_mode = none\n\
                 collect_statistics_interval = 1000\n\
                 default_user = {ADMIN}\n\
                 default_pass = {PASSWORD}\n\
                 default_user_tags.administrator = true\n\
                 log.console = true\n\
                 log.file = false\n\
                 vm_memory_high_watermark.absolute = 1GB\n\
                 disk_free_limit.absolute = 100MB\n\
                 cluster_formation.randomized_startup_delay_range.min = 0\n\
                 cluster_formation.randomized_startup_delay_range.max = 0\n"
            ),
        );
    }

    fn spawn(&mut self) {
        let home = self.folder.path();
        let log = OpenOptions::new().create(true).append(true).open(home.join("out")).expect("a log file");
        let path = |name: &str| home.join(name);
        let process = Command::new(self.programs.join("rabbitmq-server"))
            .current_dir(home)
            .env("HOME", home)
            .env("LANG", "C.UTF-8")
            .env("RABBITMQ_NODENAME", format!("{}@localhost", self.name.replace(['.', ':'], "-")))
            .env("RABBITMQ_NODE_PORT", self.amqp.to_string())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
            )
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.names.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            // Erlang has helpers beside it, which end with it.
            .process_group(0)
            .spawn()
            .expect("RabbitMQ's programs are where they were installed");
        self.process = Some(process);
    }

    async fn ready(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        let url = format!("http://127.0.0.1:{}/api/health/checks/local-alarms", self.management);
        loop {
            let process = self.process.as_mut().expect("it was started");
            if let Ok(Some(status)) = process.try_wait() {
                panic!("RabbitMQ ended with {status}:\n{}", self.log());
            }
            let asked = self.http.get(&url).basic_auth(ADMIN, Some(PASSWORD)).send().await;
            let listens = tokio::net::TcpStream::connect(("127.0.0.1", self.amqp)).await.is_ok();
            if listens && asked.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            assert!(Instant::now() < deadline, "RabbitMQ isn't ready after {START_TIMEOUT:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            signal_group("-KILL", &process);
            let _ = process.wait();
        }
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "--- log of the broker {}\n{}",
                self.name,
                lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
            );
        }
    }
}

fn signal_group(signal: &str, process: &Child) {
    let _ = Command::new("kill").args([signal, "--", &format!("-{}", process.id())]).stderr(Stdio::null()).status();
}
