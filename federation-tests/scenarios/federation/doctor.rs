//! Peers that are broken, each in its own way, and what `comity doctor` says of them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use federation_tests::{Door, Engine, FakePeer, Leaf, Network, Reply, Server, now, pdu};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What every examination says something of.
const STEPS: [&str; 20] = [
    "configuration",
    "name",
    "well_known",
    "srv",
    "dns_a",
    "dns_aaaa",
    "addresses",
    "tcp",
    "tls",
    "certificate",
    "alpn",
    "http",
    "keys",
    "key_validity",
    "clock",
    "version",
    "signed",
    "body_size",
    "notary",
    "peer_status",
];
const KEYS: &str = "/_matrix/key/v2/server";
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Alice's server, whose operator examines others.
struct Scene {
    network: Network,
    a: Server,
}

/// What the doctor must say of a peer.
struct Case {
    name: &'static str,
    /// Which steps have faults: these and no others.
    faults: &'static [&'static str],
    /// What one finding is: its step and outcome.
    step: &'static str,
    outcome: &'static str,
    /// What its remedy says, and for whom it is.
    addressee: &'static str,
    remedy: &'static str,
}

/// What the doctor said.
struct Said {
    success: bool,
    text: String,
}

/// A case of a fault.
fn fault(name: &'static str, faults: &'static [&'static str], addressee: &'static str, remedy: &'static str) -> Case {
    Case { name, faults, step: faults[0], outcome: "fault", addressee, remedy }
}

/// A case of a warning, without a fault.
fn warning(name: &'static str, step: &'static str, addressee: &'static str, remedy: &'static str) -> Case {
    Case { name, faults: &[], step, outcome: "warning", addressee, remedy }
}

impl Scene {
    async fn set() -> Self {
        // Short, for peers that never answer; but reading a large transaction takes a loaded machine its time.
        Self::waiting("8s").await
    }

    /// `limit`: how long a peer may take to answer.
    async fn waiting(limit: &str) -> Self {
        let network = Network::new();
        let builder = network.server(&Engine::Sqlite, "a.test").await;
        let builder = builder.set("federation", "connect_timeout", "4s").set("federation", "request_timeout", limit);
        let a = builder.start().await;
        Self { network, a }
    }

    /// An address that `name` leads to, where nobody is yet.
    fn place(&self, name: &str) -> SocketAddr {
        let ip = self.network.spare_ip();
        self.network.names.host(name, &[ip]);
        SocketAddr::new(ip, 8448)
    }

    /// A peer at port 8448 of its name, with nothing wrong.
    async fn peer(&self, name: &str) -> FakePeer {
        FakePeer::listen(&self.network, name, self.place(name), &[name]).await
    }

    /// The same behind another door.
    async fn behind(&self, name: &str, door: impl Into<Door>) -> FakePeer {
        FakePeer::listen_at(&self.network, name, self.place(name), door).await
    }

    /// A peer that answers to requests that begin with this as it says, and is fine otherwise.
    async fn saying(&self, name: &str, method: &str, path: &str, reply: Reply) {
        self.peer(name).await.reply(method, path, reply);
    }

    /// A web server of `name` that answers this where the well-known file should be, and no server behind it.
    async fn well_known(&self, name: &str, reply: Reply) {
        let address = SocketAddr::new(self.place(name).ip(), Network::well_known_port().expect("it was asked before"));
        let web = FakePeer::listen(&self.network, name, address, &[name]).await;
        web.reply("GET", "/.well-known/matrix/server", reply);
    }

    async fn doctor(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        let mut command = std::process::Command::new(federation_tests::binary());
        command.arg("doctor").args(arguments).arg("--config").arg(self.a.folder().join("config.toml"));
        command.envs(variables.iter().copied());
        // Not in this thread, for the peers live in it.
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("it is not cancelled").expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Said { success: output.status.success(), text }
    }

    async fn examine(&self, name: &str) -> Value {
        self.examine_with(name, &[]).await
    }

    /// Examines a server, and checks what is true of every examination.
    async fn examine_with(&self, name: &str, variables: &[(&str, &str)]) -> Value {
        let said = self.doctor(&[name, "--json"], variables).await;
        let examination: Value = serde_json::from_str(&said.text).unwrap_or_else(|_| panic!("{name}: {}", said.text));
        assert_eq!(examination["examined_by"], "a.test");
        assert_eq!(said.success, faults_of(&examination).is_empty(), "{name}: {examination:#}");
        for step in STEPS {
            assert!(findings(&examination).any(|finding| finding["step"] == step), "{name}, {step}: {examination:#}");
        }
        for finding in findings(&examination) {
            let text = |value: &Value| value.as_str().unwrap_or_default().len();
            assert!(text(&finding["seen"]) > 2, "{name}: {finding}");
            let is_bad = ["warning", "fault"].iter().any(|bad| finding["outcome"] == *bad);
            assert_eq!(is_bad, text(&finding["remedy"]["what"]) > 10, "{name}: {finding}");
        }
        examination
    }

    /// Examines the peers of all cases, a few at a time.
    async fn check(&self, cases: &[Case]) {
        let examined = stream::iter(cases).map(async |case| (case, self.examine(case.name).await)).buffered(4);
        examined.for_each(async |(case, examination)| case.check(&examination)).await;
    }
}

impl Case {
    fn check(&self, examination: &Value) {
        let name = self.name;
        assert_eq!(faults_of(examination), self.faults.iter().copied().collect(), "{name}: {examination:#}");
        let mut of_step = findings(examination).filter(|finding| finding["step"] == self.step);
        let found = of_step.find(|finding| finding["outcome"] == self.outcome);
        let found = found.unwrap_or_else(|| panic!("{name}: no {} of {}: {examination:#}", self.outcome, self.step));
        assert_eq!(found["remedy"]["for"], self.addressee, "{name}: {found}");
        let remedy = found["remedy"]["what"].as_str().unwrap_or_default();
        assert!(remedy.contains(self.remedy), "{name}: `{}` is not in the remedy: {remedy}", self.remedy);
    }
}

fn findings(examination: &Value) -> impl Iterator<Item = &Value> {
    examination["findings"].as_array().expect("a list of findings").iter()
}

/// The steps that have faults.
fn faults_of(examination: &Value) -> BTreeSet<&str> {
    let faults = findings(examination).filter(|finding| finding["outcome"] == "fault");
    faults.map(|finding| finding["step"].as_str().expect("an id")).collect()
}

fn outcome_of<'a>(examination: &'a Value, step: &str) -> &'a str {
    let found = findings(examination).find(|finding| finding["step"] == step).expect("each step is there");
    found["outcome"].as_str().expect("a word")
}

#[tokio::test]
async fn a_healthy_server_has_no_fault() {
    let mut scene = Scene::waiting("30s").await;
    let b = scene.network.server(&Engine::Sqlite, "b.test").await.start().await;
    let examination = scene.examine("b.test").await;
    assert!(faults_of(&examination).is_empty(), "{examination:#}");
    for step in STEPS.iter().filter(|step| !["dns_aaaa", "peer_status"].contains(step)) {
        assert_eq!(outcome_of(&examination, step), "ok", "{step}: {examination:#}");
    }
    let version = findings(&examination).find(|finding| finding["step"] == "version").expect("each step is there");
    assert!(version["seen"].as_str().is_some_and(|seen| seen.starts_with("Comity")), "{version}");

    let said = scene.doctor(&["b.test"], &[]).await;
    assert!(said.success && said.text.contains("Faults: 0"), "{}", said.text);
    for step in STEPS {
        assert!(said.text.contains(step), "{step} is not mentioned:\n{}", said.text);
    }

    // It examines others as well while its own server is down; the peer believes what it knows already.
    scene.a.stop().await;
    let examination = scene.examine("b.test").await;
    assert_eq!(outcome_of(&examination, "signed"), "ok", "{examination:#}");
    drop(b);
}

#[tokio::test]
async fn names_and_records_that_lead_nowhere_are_told() {
    let scene = Scene::set().await;
    let names = &scene.network.names;

    scene.place("gone-host.test");
    names.service("_matrix-fed._tcp.gone-host.test", &[(10, 5, 8448, "nowhere.gone-host.test")]);

    let dead = scene.place("host.dead-port.test");
    names.service("_matrix-fed._tcp.dead-port.test", &[(10, 5, 9, "host.dead-port.test")]);

    let alive = scene.peer("half.test").await;
    let address = alive_address(&scene, "half.test");
    names.host("half.test", &[address, IpAddr::V6(Ipv6Addr::LOCALHOST)]);

    let old = scene.peer("old-record.test").await;
    let address = alive_address(&scene, "old-record.test");
    names.host("host.old-record.test", &[address]);
    names.service("_matrix._tcp.old-record.test", &[(10, 5, 8448, "host.old-record.test")]);

    scene
        .check(&[
            fault("nowhere.test", &["dns_a", "dns_aaaa"], "both", "nowhere.test"),
            fault("gone-host.test", &["dns_a", "dns_aaaa"], "both", "nowhere.gone-host.test"),
            fault("dead-port.test", &["tcp"], "peer", "port 9"),
            warning("half.test", "tcp", "peer", "port 8448"),
            warning("old-record.test", "srv", "peer", "_matrix-fed._tcp"),
            warning("OLD-record.test", "name", "us", "old-record.test"),
            fault("no name", &["name"], "us", "domain"),
            fault("a.test", &["configuration"], "us", "another server"),
        ])
        .await;
    drop((dead, alive, old));

    let inside = [("COMITY__FEDERATION__ALLOW_PRIVATE_ADDRESSES", "false")];
    let examination = scene.examine_with("half.test", &inside).await;
    fault("half.test", &["addresses"], "both", "allow_private_addresses").check(&examination);
}

fn alive_address(scene: &Scene, name: &str) -> IpAddr {
    scene.network.names.addresses(name).first().copied().expect("it has one")
}

#[tokio::test]
async fn well_known_files_that_lead_nowhere_are_told() {
    if Network::well_known_port().is_none() {
        eprintln!("SKIPPED: well-known files need port 443, which this user may not open");
        return;
    }
    let scene = Scene::set().await;
    scene.well_known("page.test", Reply::Html(200)).await;
    scene.well_known("broken.test", Reply::Html(500)).await;
    scene.well_known("to-dead.test", Reply::Json(200, json!({ "m.server": "to-dead.test:9" }))).await;
    scene.well_known("url.test", Reply::Json(200, json!({ "m.server": "https://url.test" }))).await;
    let circle = "https://circle.test/.well-known/matrix/server".to_owned();
    scene.well_known("circle.test", Reply::Redirect(circle)).await;
    scene.well_known("silent.test", Reply::Never).await;
    // There is a page, and a server all the same.
    scene.well_known("both.test", Reply::Html(200)).await;
    let address = SocketAddr::new(alive_address(&scene, "both.test"), 8448);
    let _both = FakePeer::listen(&scene.network, "both.test", address, &["both.test"]).await;
    scene
        .check(&[
            fault("page.test", &["well_known", "tcp"], "peer", "m.server"),
            fault("broken.test", &["well_known", "tcp"], "peer", "404"),
            fault("to-dead.test", &["tcp"], "peer", "port 9"),
            fault("url.test", &["well_known", "tcp"], "peer", "no https://"),
            fault("circle.test", &["well_known", "tcp"], "peer", "circles"),
            fault("silent.test", &["well_known", "tcp"], "peer", "waits"),
            warning("both.test", "well_known", "peer", "web page"),
        ])
        .await;
}

#[tokio::test]
async fn connections_and_certificates_that_are_of_no_use_are_told() {
    let scene = Scene::set().await;
    let authority = &scene.network.authority;
    let now = SystemTime::now();
    let for_name = |name| authority.leaf(&[name]);

    scene.place("refused.test");
    let mute = TcpListener::bind(scene.place("mute.test")).await.expect("a port");
    let elsewhere = Network::new();
    let _peers = [
        scene.behind("self-signed.test", Leaf::self_signed(&["self-signed.test"]).acceptor()).await,
        scene.behind("unknown.test", elsewhere.authority.leaf(&["unknown.test"]).acceptor()).await,
        scene.behind("wrong-name.test", for_name("right-name.test").acceptor()).await,
        scene
            .behind("ended.test", authority.leaf_between(&["ended.test"], now - 48 * HOUR, now - HOUR).acceptor())
            .await,
        scene
            .behind("early.test", authority.leaf_between(&["early.test"], now + HOUR, now + 48 * HOUR).acceptor())
            .await,
        scene.behind("soon.test", authority.leaf_between(&["soon.test"], now - HOUR, now + 48 * HOUR).acceptor()).await,
        scene.behind("plain.test", Door::plain()).await,
        scene.behind("other-protocol.test", for_name("other-protocol.test").acceptor_for(&["imap"])).await,
        scene.behind("h2-only.test", for_name("h2-only.test").acceptor_for(&["h2"])).await,
        scene.behind("false-h2.test", Door::from(for_name("false-h2.test").acceptor()).http1_only()).await,
        scene.behind("http1.test", for_name("http1.test").acceptor_for(&["http/1.1"])).await,
    ];
    scene
        .check(&[
            fault("refused.test", &["tcp"], "peer", "port 8448"),
            fault("mute.test", &["tls"], "peer", "port 8448"),
            fault("self-signed.test", &["certificate"], "peer", "fullchain.pem"),
            fault("unknown.test", &["certificate"], "peer", "federation.ca_file"),
            fault("wrong-name.test", &["certificate"], "peer", "names wrong-name.test"),
            fault("ended.test", &["certificate"], "peer", "renew"),
            fault("early.test", &["certificate"], "both", "clock"),
            warning("soon.test", "certificate", "peer", "renew"),
            fault("plain.test", &["tls"], "peer", "TLS with a certificate for plain.test"),
            fault("other-protocol.test", &["alpn"], "peer", "http/1.1"),
            warning("h2-only.test", "alpn", "peer", "http/1.1"),
            warning("false-h2.test", "alpn", "peer", "h2"),
        ])
        .await;
    let examination = scene.examine("http1.test").await;
    assert_eq!(outcome_of(&examination, "alpn"), "ok", "{examination:#}");
    drop(mute);
}

#[tokio::test]
async fn answers_that_are_of_no_use_are_told() {
    let scene = Scene::set().await;
    let refusal = |status, errcode: &str| Reply::Json(status, json!({ "errcode": errcode, "error": "no" }));
    scene.saying("silent.test", "GET", "/", Reply::Never).await;
    scene.saying("dropping.test", "GET", "/", Reply::HangUp).await;
    scene.saying("endless.test", "GET", KEYS, Reply::Endless).await;
    scene.saying("no-keys.test", "GET", KEYS, Reply::Html(404)).await;
    scene.saying("down.test", "GET", KEYS, Reply::Html(502)).await;
    scene.saying("page.test", "GET", KEYS, Reply::Html(200)).await;

    // Documents that are not what they should be.
    let other = FakePeer::start(&scene.network, "other.test").await;
    scene.saying("other-name.test", "GET", KEYS, Reply::Json(200, other.published_keys())).await;
    let changed = scene.peer("changed.test").await;
    let mut keys = changed.published_keys();
    keys["valid_until_ts"] = json!(now() + 1000 * 60 * 60 * 48);
    changed.reply("GET", KEYS, Reply::Json(200, keys));
    let late = scene.peer("late.test").await;
    late.reply("GET", KEYS, Reply::Json(200, keys_until(&late, now() - 60_000)));
    let nearly = scene.peer("nearly.test").await;
    nearly.reply("GET", KEYS, Reply::Json(200, keys_until(&nearly, now() + 60_000)));
    let skewed = scene.peer("skewed.test").await;
    let date = httpdate::fmt_http_date(SystemTime::now() - HOUR);
    skewed.reply("GET", KEYS, Reply::Headed("date", date, skewed.published_keys()));

    // Requests that are refused.
    let send = "/_matrix/federation/v1/send/";
    let profile = "/_matrix/federation/v1/query/profile";
    scene.saying("disbelieving.test", "GET", profile, refusal(401, "M_UNAUTHORIZED")).await;
    scene.saying("denying.test", "GET", profile, refusal(403, "M_FORBIDDEN")).await;
    scene.saying("narrow.test", "PUT", send, Reply::Html(413)).await;
    scene.saying("hanging-up.test", "PUT", send, Reply::HangUp).await;

    // How it sees us.
    let query = "/_matrix/key/v2/query";
    scene.saying("blind.test", "POST", query, Reply::Json(200, json!({ "server_keys": [] }))).await;
    let mut forged = other.published_keys();
    forged["server_name"] = json!("a.test");
    forged.as_object_mut().expect("an object").remove("signatures");
    pdu::sign(&mut forged, "a.test", other.key_id(), other.key());
    scene.saying("mistaken.test", "POST", query, Reply::Json(200, json!({ "server_keys": [forged] }))).await;
    let status = "/api/v1/federation/peer-status";
    scene.saying("blocking.test", "GET", status, Reply::Json(200, json!({ "level": "blocked" }))).await;
    scene.saying("trusting.test", "GET", status, Reply::Json(200, json!({ "level": "full" }))).await;

    scene
        .check(&[
            fault("silent.test", &["http"], "peer", "overloaded"),
            fault("dropping.test", &["http"], "peer", "homeserver runs"),
            fault("endless.test", &["http"], "peer", "homeserver itself"),
            fault("no-keys.test", &["keys"], "peer", "/_matrix/"),
            fault("down.test", &["keys"], "peer", "start the homeserver"),
            fault("page.test", &["keys"], "peer", "/_matrix/"),
            fault("other-name.test", &["keys"], "peer", "`other.test`"),
            fault("changed.test", &["keys"], "peer", "signature"),
            fault("late.test", &["key_validity"], "both", "clocks"),
            warning("nearly.test", "key_validity", "peer", "renew"),
            fault("skewed.test", &["clock"], "both", "timedatectl"),
            fault("disbelieving.test", &["signed"], "us", "https://a.test/_matrix/key/v2/server"),
            warning("denying.test", "signed", "peer", "a.test is blocked"),
            fault("narrow.test", &["body_size"], "peer", "client_max_body_size"),
            fault("hanging-up.test", &["body_size"], "peer", "client_max_body_size"),
            fault("blind.test", &["notary"], "us", "comity doctor a.test"),
            fault("mistaken.test", &["notary"], "us", "key was changed"),
            fault("blocking.test", &["peer_status"], "peer", "unblock a.test"),
        ])
        .await;
    let examination = scene.examine("trusting.test").await;
    let told = findings(&examination).find(|finding| finding["step"] == "peer_status").expect("each step is there");
    assert_eq!((&told["outcome"], &told["details"]), (&json!("ok"), &json!({ "level": "full" })), "{told}");
}

/// What a peer says of its keys, signed, for as long as the test wants.
fn keys_until(peer: &FakePeer, end: u64) -> Value {
    let mut keys = peer.published_keys();
    keys["valid_until_ts"] = json!(end);
    keys.as_object_mut().expect("an object").remove("signatures");
    pdu::sign(&mut keys, &peer.name, peer.key_id(), peer.key());
    keys
}
