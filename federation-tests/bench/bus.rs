//! What goes over the bus: events from the stream to RabbitMQ, beside what that RabbitMQ confirms at most.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use federation_tests::{Broker, Engine, Server};
use lapin::{
    BasicProperties, Connection, ConnectionProperties, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::time::sleep;

use crate::{Arguments, load, table::Table};

const VHOST: &str = "im";
const PUBLISHED: &str = "comity_bus_published_total";
/// As many as the server has on their way.
const UNCONFIRMED: usize = 1_000;
/// As large as what the server publishes of a message of a hundred letters.
const BODY: usize = 480;

pub async fn measure(engine: &Engine, arguments: &Arguments, table: &mut Table) {
    let Some(programs) = Broker::programs() else { return };
    eprintln!("bus: starting RabbitMQ");
    let mut broker = Broker::start(&programs, "bench").await;
    broker.make_vhost(VHOST).await;
    let url = broker.url(VHOST);

    eprintln!("bus: sends without a bus, and with one");
    let server = Server::start(engine).await;
    let without = cost(&server, arguments).await;
    drop(server);
    let mut server = Server::builder(engine).set("bus", "url", url.clone()).start().await;
    while broker.waiting(VHOST, "event_process_queue").await.is_none() {
        sleep(Duration::from_millis(100)).await;
    }
    let with = cost(&server, arguments).await;
    table.against(
        "CPU for 1000 sends with a bus, against without",
        with * 1_000_000.0,
        without * 1_000_000.0,
        " ms",
        "",
    );

    eprintln!("bus: what the broker confirms");
    settled(&server, &broker).await;
    server.stop().await;
    let raw = raw(&url, if arguments.quick { 20_000 } else { 100_000 }).await;
    for queue in ["persistence_queue", "realtime_push_queue"] {
        broker.api("DELETE", &format!("/queues/im/{queue}/contents"), None).await;
    }

    eprintln!("bus: what was said while the broker was away");
    server.restart().await;
    broker.kill();
    let mut senders = load::senders(&server, "speaker", arguments).await;
    let said = load::full_load(&mut senders, arguments.duration()).await as f64;
    drop(senders);
    let before = server.figure(PUBLISHED).await;
    broker.restart().await;
    let mut began = None;
    let (elapsed, count) = loop {
        let count = server.figure(PUBLISHED).await - before;
        if count > 0.0 && began.is_none() {
            began = Some((Instant::now(), count));
        }
        if count >= said
            && let Some((began, first)) = began
        {
            break (began.elapsed(), count - first);
        }
        sleep(Duration::from_millis(20)).await;
    };
    let rate = count / elapsed.as_secs_f64().max(f64::EPSILON);
    table.against("events through the outbox, confirmed", rate, raw, "/s", "at least 0.6 of what the broker confirms");
}

/// Seconds of the server's processor for one send.
async fn cost(server: &Server, arguments: &Arguments) -> f64 {
    let mut senders = load::senders(server, "sender", arguments).await;
    load::full_load(&mut senders, Duration::from_secs(1)).await;
    let before = server.usage().cpu_seconds;
    let sent = load::full_load(&mut senders, arguments.duration()).await;
    (server.usage().cpu_seconds - before) / sent as f64
}

/// Waits until everything was published.
async fn settled(server: &Server, broker: &Broker) {
    while server.figure("comity_bus_lag_positions").await > 0.0
        || broker.waiting(VHOST, "persistence_queue").await.is_some_and(|waiting| waiting > 0)
    {
        sleep(Duration::from_millis(200)).await;
    }
}

/// Messages a second that the broker confirms, where nothing else is done.
async fn raw(url: &str, count: usize) -> f64 {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("the broker is there");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("it confirms");
    let body = vec![b'x'; BODY];
    let mut unconfirmed: VecDeque<PublisherConfirm> = VecDeque::new();
    let began = Instant::now();
    for _ in 0..count {
        if unconfirmed.len() >= UNCONFIRMED
            && let Some(confirm) = unconfirmed.pop_front()
        {
            confirm.await.expect("it confirms");
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let key = "chat.message.conversation.bench";
        let sent = channel.basic_publish("instant_exchange".into(), key.into(), options, &body, properties).await;
        unconfirmed.push_back(sent.expect("it can be published"));
    }
    for confirm in unconfirmed {
        confirm.await.expect("it confirms");
    }
    count as f64 / began.elapsed().as_secs_f64()
}
