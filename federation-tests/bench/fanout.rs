//! One message to many members who all wait for it.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use federation_tests::{Client, Server, enc};
use tokio::{sync::mpsc, task::LocalSet};

use crate::{Arguments, people, table::Table, wire::Wire};

/// What a careful client asks for. Presence is left out: that many people who come online at once are a story of
/// their own.
const FILTER: &str =
    r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":100}},"presence":{"not_types":["*"]}}"#;
/// Between the last answer and the next message, so that everybody waits again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one message may take to all members.
const DEADLINE: Duration = Duration::from_secs(30);

pub async fn measure(server: &Server, arguments: &Arguments, table: &mut Table) {
    let (members, messages) = (arguments.members, arguments.messages());
    eprintln!("fan-out: {members} people join");
    let speaker = server.register_with_secret("speaker").await;
    let room = speaker.create_public_room().await;
    let listeners = people(server, "listener", members).await;
    for listener in &listeners {
        listener.join(&room).await;
    }
    eprintln!("fan-out: {messages} messages");
    let local = LocalSet::new();
    let (heard, mut arrivals) = mpsc::unbounded_channel();
    let marker = Rc::new(RefCell::new(String::from("nothing yet")));
    for listener in listeners {
        let wire = Wire::connect(&server.address(), &listener).await;
        let since = first_token(&listener).await;
        local.spawn_local(listen(wire, since, marker.clone(), heard.clone()));
    }
    let mut wire = Wire::connect(&server.address(), &speaker).await;
    let (each, last, cpu) = local
        .run_until(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (mut each, mut last) = (Vec::new(), Vec::new());
            let before = server.usage();
            for number in 0..messages {
                let word = format!("fan-out number {number}.");
                marker.replace(word.clone());
                let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/f{number}");
                let body = format!(r#"{{"msgtype":"m.text","body":"{word}"}}"#);
                let began = Instant::now();
                let sent = wire.exchange("PUT", &path, Some(&body)).await;
                assert_eq!(sent.status, 200, "a send was answered {}", sent.body);
                for _ in 0..members {
                    let arrival = tokio::time::timeout(DEADLINE, arrivals.recv()).await;
                    let at: Instant = arrival.expect("everybody hears in time").expect("listeners live");
                    each.push(at - began);
                }
                last.push(each[each.len() - members..].iter().max().copied().unwrap_or_default());
                tokio::time::sleep(PAUSE).await;
            }
            (each, last, server.usage().cpu_seconds - before.cpu_seconds)
        })
        .await;
    let (mut each, mut last) = (each, last);
    let deliveries = each.len() as f64;
    table.percentiles(&format!("from send to each of {members} members"), &mut each, ["", ""]);
    table.percentiles(&format!("from send to the last of {members} members"), &mut last, ["", ""]);
    table.alone("server CPU for 1000 deliveries", format!("{:.3} s", cpu * 1000.0 / deliveries), "at most 0.08 s");
}

/// The token from which `client` may wait for news.
pub async fn first_token(client: &Client) -> String {
    let query = format!("&set_presence=offline&filter={}", enc(FILTER));
    let answer = client.sync_with(None, Duration::ZERO, &query).await.ok();
    answer["next_batch"].as_str().expect("next_batch is a string").to_owned()
}

/// The path of a long-poll from `since`.
pub fn poll_path(since: &str, timeout: Duration) -> String {
    let (timeout, since, filter) = (timeout.as_millis(), enc(since), enc(FILTER));
    format!("/_matrix/client/v3/sync?timeout={timeout}&since={since}&set_presence=offline&filter={filter}")
}

/// Waits for one message after the other, and tells when each has come.
async fn listen(mut wire: Wire, mut since: String, marker: Rc<RefCell<String>>, heard: mpsc::UnboundedSender<Instant>) {
    loop {
        let path = poll_path(&since, Duration::from_secs(30));
        let answer = wire.exchange("GET", &path, None).await;
        let now = Instant::now();
        assert_eq!(answer.status, 200, "a long-poll was answered {}", answer.body);
        let news = answer.body.contains(marker.borrow().as_str());
        answer.text("next_batch").expect("a next_batch").clone_into(&mut since);
        if news && heard.send(now).is_err() {
            return;
        }
    }
}
