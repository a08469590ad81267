//! The operator's side: started, watched, stopped, and through bad days.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use federation_tests::{Client, Engine, PATIENCE, Server, eventually, on_each_engine};
use serde_json::json;

async fn room_with_words(client: &Client, words: usize) -> (String, Vec<String>) {
    let room = client.create_public_room().await;
    let mut sent = Vec::new();
    for number in 0..words {
        sent.push(client.say(&room, &format!("{number}")).await);
    }
    (room, sent)
}

async fn assert_all_there(client: &Client, room: &str, sent: &[String]) {
    let history = client.history(room).await;
    let found: Vec<&str> = history
        .iter()
        .filter(|event| event["type"] == "m.room.message")
        .filter_map(|event| event["event_id"].as_str())
        .filter(|id| sent.iter().any(|sent| sent == id))
        .collect();
    assert_eq!(found, sent, "acknowledged messages are missing, doubled or out of order");
}

#[tokio::test]
async fn health_tells_that_the_server_lives_and_is_ready() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let client = server.anonymous();
        for path in ["/health/live", "/health/ready", "/health"] {
            assert_eq!(client.get(path).await.status, 200, "{path}");
        }
        let health = client.get("/health").await.ok();
        assert!(health.to_string().contains("database"), "{health}");
        let versions = client.get("/_matrix/client/versions").await.ok();
        assert!(versions["versions"].as_array().is_some_and(|versions| !versions.is_empty()), "{versions}");
    })
    .await;
}

fn health_at(address: &str, server: &Server) -> std::process::Output {
    let mut command = Command::new(federation_tests::binary());
    command.arg("health").current_dir(server.folder()).env("COMITY__LISTEN__CLIENT", address);
    command.output().expect("it runs")
}

#[tokio::test]
async fn a_supervisor_without_an_http_client_is_told_whether_the_server_is_ready() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let address = server.address();
        // As in a container, where the server listens on every address.
        for address in [&address, &address.replace("127.0.0.1:", "0.0.0.0:")] {
            let ready = health_at(address, &server);
            assert!(ready.status.success(), "{}", String::from_utf8_lossy(&ready.stderr));
            assert_eq!(String::from_utf8_lossy(&ready.stdout), "ready\n");
        }
        server.kill();
        let gone = health_at(&address, &server);
        assert_eq!(gone.status.code(), Some(1));
        let said = String::from_utf8_lossy(&gone.stderr);
        assert!(said.contains("nobody answers at") && said.contains(&address), "{said}");
    })
    .await;
}

#[tokio::test]
async fn metrics_can_be_scraped_and_count_what_happens() {
    on_each_engine(async |engine| {
        let server = Server::start(&engine).await;
        let alice = server.register_with_secret("alice").await;
        room_with_words(&alice, 5).await;
        let metrics = server.anonymous().get("/metrics").await;
        assert_eq!(metrics.status, 200);
        let mut samples = 0;
        for line in metrics.text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let value = line.rsplit(' ').next().expect("a line has words");
            assert!(value.parse::<f64>().is_ok(), "{line:?} is no sample");
            samples += 1;
        }
        assert!(samples > 10, "only {samples} samples:\n{}", metrics.text);
        for word in ["comity_", "request", "writer", "sync"] {
            assert!(metrics.text.contains(word), "nothing about {word} in\n{}", metrics.text);
        }
        assert!(!metrics.text.contains(&alice.user_id), "metrics are not about people");
    })
    .await;
}

#[tokio::test]
async fn a_stop_ends_the_waiting_and_loses_nothing() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let alice = server.register_with_secret("alice").await;
        let (room, sent) = room_with_words(&alice, 10).await;
        let since = alice.now().await;
        let poll = alice.another();
        let polling = tokio::spawn({
            let since = since.clone();
            async move { poll.try_get(&format!("sync?timeout=30000&since={}", federation_tests::enc(&since))).await }
        });
        eventually("the long-poll has reached the server", async || {
            let metrics = server.usage().files;
            (metrics > 0 && !polling.is_finished()).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let asked = Instant::now();
        server.stop().await;
        assert!(asked.elapsed() < Duration::from_secs(15), "the shutdown took {:?}", asked.elapsed());
        let answer = polling.await.expect("the task ended").expect("a poll in flight is answered, not cut off");
        assert!([200, 503].contains(&answer.status), "{} {}", answer.status, answer.text);

        server.restart().await;
        assert_all_there(&alice, &room, &sent).await;
        let quiet = alice.sync(Some(&since)).await;
        assert!(quiet["rooms"]["join"].get(&room).is_none(), "{quiet}");
    })
    .await;
}

#[tokio::test]
async fn a_stop_under_load_keeps_what_was_acknowledged() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let alice = server.register_with_secret("alice").await;
        let (room, _) = room_with_words(&alice, 1).await;
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let (client, room) = (alice.another(), room.clone());
            writers.spawn(async move {
                let mut sent = Vec::new();
                loop {
                    let path = format!("rooms/{room}/send/m.room.message/{writer}-{}", sent.len());
                    let content = json!({ "msgtype": "m.text", "body": "load" });
                    match client.attempt(reqwest::Method::PUT, &path, Some(&content)).await {
                        Ok(answer) if answer.status == 200 => sent.push(answer.body["event_id"].clone()),
                        _ => return sent,
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.stop().await;
        let sent: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
        assert!(sent.len() > 8, "there was no load to speak of");
        server.restart().await;
        let history = alice.history(&room).await;
        for event_id in &sent {
            let count = history.iter().filter(|event| event["event_id"] == *event_id).count();
            assert_eq!(count, 1, "{event_id} is there {count} times");
        }
    })
    .await;
}

#[tokio::test]
async fn a_restart_keeps_sessions_keys_and_rooms() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let alice = server.register_with_secret("alice").await;
        let (room, sent) = room_with_words(&alice, 30).await;
        let since = alice.now().await;
        let keys = signing_keys(server.folder());
        assert!(!keys.is_empty(), "no signing key in keys/");
        for _ in 0..2 {
            server.stop().await;
            server.restart().await;
            assert_eq!(alice.get("account/whoami").await.ok()["user_id"], alice.user_id);
            assert_all_there(&alice, &room, &sent).await;
            assert_eq!(signing_keys(server.folder()), keys, "a restart has changed the signing keys");
        }
        let new = alice.say(&room, "after the restart").await;
        let news = alice.sync(Some(&since)).await;
        let timeline = news["rooms"]["join"][&room]["timeline"]["events"].as_array().expect("news").clone();
        let ids: Vec<&str> = timeline.iter().filter_map(|event| event["event_id"].as_str()).collect();
        assert_eq!(ids, [new]);
    })
    .await;
}

/// The files in `keys/` and what is in them; nobody else may read them.
fn signing_keys(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt as _;
    let entries = fs::read_dir(folder.join("keys")).expect("there is a keys folder");
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let mode = fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{} has mode {mode:o}", path.display());
        let bytes = fs::read(&path).expect("a readable file");
        keys.push((path, bytes));
    }
    keys.sort();
    keys
}

#[tokio::test]
async fn the_log_keeps_secrets() {
    on_each_engine(async |engine| {
        let mut server = Server::start(&engine).await;
        let alice = server.register("alice").await;
        let (room, _) = room_with_words(&alice, 1).await;
        alice.say(&room, "a very private remark").await;
        server.anonymous().try_login("alice", "nearly the password").await.refused(403, "M_FORBIDDEN");
        alice.get(&format!("sync?timeout=0&access_token={}", alice.token.as_deref().unwrap_or_default())).await;
        server.stop().await;
        let log = server.log();
        assert!(!log.is_empty(), "the server said nothing at all");
        let token = alice.token.clone().expect("logged in");
        for secret in
            [token.as_str(), "alice's password", "nearly the password", server.shared_secret(), "a very private remark"]
        {
            assert!(!log.contains(secret), "{secret:?} is in the log");
        }
    })
    .await;
}

#[tokio::test]
async fn an_unknown_setting_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("config.toml");
    fs::write(&config, "server_name = \"a.test\"\n[registration]\nenabld = true\n")
        .expect("config.toml can be written");
    let run =
        Command::new(federation_tests::binary()).arg("serve").arg("--config").arg(&config).output().expect("it runs");
    assert!(!run.status.success(), "a wrong config.toml was accepted");
    let said = String::from_utf8_lossy(&run.stderr).into_owned() + String::from_utf8_lossy(&run.stdout).as_ref();
    assert!(
        said.contains("enabld") && said.contains("enabled"),
        "neither the key nor the nearest one is named: {said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

fn postgres() -> Option<Engine> {
    let engine = Engine::postgres();
    if engine.is_none() {
        eprintln!("SKIPPED: only a PostgreSQL can be taken away from outside, and COMITY_TEST_POSTGRES_URL isn't set");
    }
    engine
}

#[tokio::test]
async fn a_database_that_goes_away_and_comes_back_costs_time_and_nothing_else() {
    let Some(engine) = postgres() else { return };
    let server = Server::start(&engine).await;
    let alice = server.register_with_secret("alice").await;
    let (room, mut sent) = room_with_words(&alice, 10).await;
    let path = |transaction: &str| format!("rooms/{room}/send/m.room.message/{transaction}");
    let content = json!({ "msgtype": "m.text", "body": "into the void" });

    server.database().go_away().await;
    let refused = alice.put(&path("away"), content.clone()).await;
    assert!(refused.status >= 500, "without a database a send was answered {}", refused.text);
    assert!(!refused.errcode().is_empty(), "{}", refused.text);
    let probe = server.anonymous();
    eventually("readiness is withdrawn", async || (probe.get("/health/ready").await.status == 503).then_some(())).await;
    assert_eq!(probe.get("/health/live").await.status, 200, "a server without a database is alive all the same");

    server.database().come_back().await;
    eventually("readiness is back", async || (probe.get("/health/ready").await.status == 200).then_some(())).await;
    // The client repeats what was refused, under the same transaction id.
    let again = eventually("the repeated send is taken", async || {
        let answer = alice.put(&path("away"), content.clone()).await;
        (answer.status < 500).then(|| answer.ok())
    })
    .await;
    sent.push(again["event_id"].as_str().expect("an event id").to_owned());
    sent.push(alice.say(&room, "back to normal").await);
    assert_all_there(&alice, &room, &sent).await;
    let words = alice.history(&room).await;
    let count = words.iter().filter(|event| event["content"]["body"] == "into the void").count();
    assert_eq!(count, 1, "the message that was refused first is there {count} times");
}

#[tokio::test]
async fn cut_connections_to_the_database_are_made_again() {
    let Some(engine) = postgres() else { return };
    let server = Server::start(&engine).await;
    let alice = server.register_with_secret("alice").await;
    let (room, mut sent) = room_with_words(&alice, 3).await;
    for round in 0..10 {
        server.database().cut_connections().await;
        let path = format!("rooms/{room}/send/m.room.message/cut-{round}");
        let answer = eventually("the send is taken", async || {
            let answer = alice.put(&path, json!({ "msgtype": "m.text", "body": format!("cut {round}") })).await;
            (answer.status < 500).then(|| answer.ok())
        })
        .await;
        sent.push(answer["event_id"].as_str().expect("an event id").to_owned());
    }
    assert_all_there(&alice, &room, &sent).await;
    let words = alice.history(&room).await;
    for round in 0..10 {
        let count = words.iter().filter(|event| event["content"]["body"] == format!("cut {round}")).count();
        assert_eq!(count, 1, "message {round} is there {count} times");
    }
}

/// A small disk of its own, if this user may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(megabytes: usize) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("comity-small-disk-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            _ => {
                let _ = fs::remove_dir(&folder);
                eprintln!("SKIPPED: this user can't mount a small disk");
                None
            }
        }
    }

    /// Leaves no more than `kilobytes` free.
    fn fill(&self, kilobytes: u64) {
        let output = Command::new("df").args(["--output=avail", "-k"]).arg(&self.0).output().expect("df runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let free: u64 = text.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number of kilobytes");
        let ballast = vec![7_u8; (free.saturating_sub(kilobytes) * 1024) as usize];
        fs::write(self.0.join("ballast"), ballast).expect("the ballast fits");
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).expect("the ballast is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached at once, gone when the server has closed its files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let server = Server::builder(&Engine::Sqlite).data_dir(&disk.0.join("data")).start().await;
    let alice = server.register_with_secret("alice").await;
    let (room, mut sent) = room_with_words(&alice, 5).await;
    disk.fill(256);

    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        let content = json!({ "msgtype": "m.text", "body": "x".repeat(20_000) });
        let answer = alice.send(&room, "m.room.message", content).await;
        if answer.status != 200 {
            break answer;
        }
        sent.push(answer.body["event_id"].as_str().expect("an event id").to_owned());
        assert!(Instant::now() < deadline, "a full disk took {} messages", sent.len());
    };
    assert!(refused.status >= 500, "a full disk isn't the client's mistake: {}", refused.text);
    assert!(!refused.errcode().is_empty(), "{}", refused.text);
    assert_eq!(server.anonymous().get("/health/live").await.status, 200);
    assert_all_there(&alice, &room, &sent).await;
    alice.sync(None).await;

    disk.make_room();
    let event_id = eventually("there is room again", async || {
        let content = json!({ "msgtype": "m.text", "body": "room to breathe" });
        let answer = alice.send(&room, "m.room.message", content).await;
        (answer.status == 200).then(|| answer.body["event_id"].as_str().expect("an event id").to_owned())
    })
    .await;
    sent.push(event_id);
    assert_all_there(&alice, &room, &sent).await;
}
