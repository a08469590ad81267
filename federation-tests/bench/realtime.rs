//! WebSockets: what each costs, how long a message takes to all of them, and what happens when all come back at once.

use std::time::{Duration, Instant};

use federation_tests::{Client, Engine, Server, Socket};
use tokio::{sync::mpsc, task::LocalSet};
use tokio_util::sync::CancellationToken;

use crate::{Arguments, memory, people, table::Table};

/// Between two messages, so that everybody is quiet again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one message may take to all, and how long a storm may last.
const DEADLINE: Duration = Duration::from_secs(60);
/// How many messages those who come back have missed.
const MISSED: usize = 10;

/// What a connection has heard: one message more, or that it ended with its position.
enum Heard {
    Message(Instant),
    Ended(usize, String),
}

pub async fn measure(engine: &Engine, arguments: &Arguments, table: &mut Table) {
    let count = arguments.sockets();
    eprintln!("realtime: {count} people join a room");
    let server = Server::builder(engine).set("listen", "max_connections", 20_000).start().await;
    let speaker = server.register_with_secret("speaker").await;
    let room = speaker.create_public_room().await;
    let clients = people(&server, "connected", count).await;
    for client in &clients {
        client.join(&room).await;
    }
    LocalSet::new().run_until(all(&server, &speaker, &room, clients, arguments, table)).await;
}

async fn all(
    server: &Server,
    speaker: &Client,
    room: &str,
    clients: Vec<Client>,
    arguments: &Arguments,
    table: &mut Table,
) {
    let count = clients.len();
    let before = memory::settled(server).await;
    eprintln!("realtime: opening {count} WebSockets");
    let mut sockets = Vec::new();
    for client in &clients {
        sockets.push(Socket::open(client).await);
    }
    let after = memory::settled(server).await;
    let each = after.resident_kb.saturating_sub(before.resident_kb) as f64 / count as f64;
    table.alone(&format!("each of {count} WebSockets, idle"), format!("{each:.1} KB"), "under 25 KB");

    let (heard, mut news) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    for (number, socket) in sockets.into_iter().enumerate() {
        tokio::task::spawn_local(listen(number, socket, heard.clone(), stop.clone()));
    }
    let (mut each, mut last) = (Vec::new(), Vec::new());
    let cpu = server.usage().cpu_seconds;
    for number in 0..arguments.messages() {
        let began = Instant::now();
        speaker.say(room, &format!("to all, {number}")).await;
        let mut latest = Duration::ZERO;
        for at in messages(&mut news, count).await {
            latest = latest.max(at.saturating_duration_since(began));
            each.push(at.saturating_duration_since(began));
        }
        last.push(latest);
        tokio::time::sleep(PAUSE).await;
    }
    let cpu = (server.usage().cpu_seconds - cpu) * 1000.0 / each.len() as f64;
    table.percentiles(&format!("from send to each of {count} WebSockets"), &mut each, ["", ""]);
    table.percentiles(&format!("from send to the last of {count} WebSockets"), &mut last, ["", ""]);
    table.alone("server CPU for 1000 frames", format!("{cpu:.3} s"), "");
    let busy = memory::settled(server).await;
    let each = busy.resident_kb.saturating_sub(before.resident_kb) as f64 / count as f64;
    table.alone(&format!("each of {count} WebSockets, after that"), format!("{each:.1} KB"), "under 25 KB");

    eprintln!("realtime: all of them break off and come back at once");
    stop.cancel();
    let mut positions = vec![String::new(); count];
    let mut ended = 0;
    while ended < count {
        if let Heard::Ended(number, position) = next(&mut news).await {
            positions[number] = position;
            ended += 1;
        }
    }
    for number in 0..MISSED {
        speaker.say(room, &format!("missed, {number}")).await;
    }
    let began = Instant::now();
    let stop = CancellationToken::new();
    for (number, (client, position)) in clients.into_iter().zip(positions).enumerate() {
        let (heard, stop) = (heard.clone(), stop.clone());
        tokio::task::spawn_local(async move {
            let socket = Socket::resume(&client, &position).await;
            listen(number, socket, heard, stop).await;
        });
    }
    messages(&mut news, count * MISSED).await;
    let storm = began.elapsed();
    table.alone(
        &format!("{count} come back at once and have {MISSED} missed messages each"),
        format!("{storm:.2?}"),
        "",
    );
    let again = memory::settled(server).await;
    let each = again.resident_kb.saturating_sub(before.resident_kb) as f64 / count as f64;
    table.alone(&format!("each of {count} WebSockets, after the storm"), format!("{each:.1} KB"), "");
    stop.cancel();
}

/// Tells of each message, until `stop`.
async fn listen(number: usize, mut socket: Socket, heard: mpsc::UnboundedSender<Heard>, stop: CancellationToken) {
    loop {
        let frame = tokio::select! {
            frame = socket.take() => frame.unwrap_or_else(|closed| panic!("it was closed: {closed:?}")),
            () = stop.cancelled() => break,
        };
        if frame["type"] == "message" && heard.send(Heard::Message(Instant::now())).is_err() {
            return;
        }
    }
    let _ = heard.send(Heard::Ended(number, socket.break_off()));
}

async fn next(news: &mut mpsc::UnboundedReceiver<Heard>) -> Heard {
    let next = tokio::time::timeout(DEADLINE, news.recv()).await;
    next.expect("something is heard in time").expect("connections live")
}

async fn messages(news: &mut mpsc::UnboundedReceiver<Heard>, count: usize) -> Vec<Instant> {
    let mut at = Vec::with_capacity(count);
    while at.len() < count {
        if let Heard::Message(moment) = next(news).await {
            at.push(moment);
        }
    }
    at
}
