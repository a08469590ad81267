//! What is at the broker for the bus, and is made there if it isn't.

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tracing::{info, warn};

use crate::BrokerError;

/// Where everything is published.
pub const EXCHANGE: &str = "instant_exchange";
/// Where a broker puts what a queue gave up, and the queue of that.
pub const DEAD_LETTERS: &str = "instant_exchange.dead";
/// How often a message is tried before it is given up.
const ATTEMPTS: i64 = 20;
/// Milliseconds: what nobody takes in time is too old to be pushed.
const PUSH_LASTS: i64 = 60_000;
/// How many messages wait at most to be pushed.
const PUSH_WAITS: i64 = 100_000;
/// AMQP: there is no such thing, it may not be done, it is there and different.
const NOT_FOUND: u16 = 404;
const FORBIDDEN: u16 = 403;
const DIFFERENT: u16 = 406;

/// The queues of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// What is to be stored.
    Persistence,
    /// What programs may push to people at once. This server does so by itself, so nobody here takes anything out of it.
    RealtimePush,
    /// Broadcasts to be carried out.
    Broadcasts,
    /// Events to be followed up.
    Events,
}

impl Queue {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Persistence, Self::RealtimePush, Self::Broadcasts, Self::Events];
    /// Those that this server takes messages out of.
    pub const TAKEN: [Self; 3] = [Self::Persistence, Self::Broadcasts, Self::Events];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Persistence => "persistence_queue",
            Self::RealtimePush => "realtime_push_queue",
            Self::Broadcasts => "broadcast_process_queue",
            Self::Events => "event_process_queue",
        }
    }

    /// Which routing keys lead to it.
    pub fn bindings(self) -> &'static [&'static str] {
        match self {
            Self::Persistence => &["chat.message.#", "system.event", "system.broadcast"],
            Self::RealtimePush => &["chat.message.#", "user.status.#", "system.notification.#"],
            Self::Broadcasts => &["system.broadcast"],
            Self::Events => &["system.event"],
        }
    }

    fn arguments(self) -> FieldTable {
        let mut arguments = quorum();
        let mut set = |name: &str, value: AMQPValue| {
            arguments.insert(name.into(), value);
        };
        if self == Self::RealtimePush {
            set("x-message-ttl", AMQPValue::LongLongInt(PUSH_LASTS));
            set("x-max-length", AMQPValue::LongLongInt(PUSH_WAITS));
        } else {
            set("x-dead-letter-exchange", AMQPValue::LongString(DEAD_LETTERS.into()));
            set("x-delivery-limit", AMQPValue::LongLongInt(ATTEMPTS));
        }
        if self == Self::Persistence {
            // What one program says in a room is said in its order, on however many nodes.
            set("x-single-active-consumer", AMQPValue::Boolean(true));
        }
        arguments
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

/// Sees to it that everything is there. What is there already, and different, is used as it is.
pub(super) async fn declare(connection: &Connection) -> Result<(), BrokerError> {
    exchange(connection, EXCHANGE).await?;
    exchange(connection, DEAD_LETTERS).await?;
    queue(connection, DEAD_LETTERS, quorum()).await?;
    bind(connection, DEAD_LETTERS, DEAD_LETTERS, &["#"]).await?;
    for wanted in Queue::ALL {
        queue(connection, wanted.name(), wanted.arguments()).await?;
        bind(connection, wanted.name(), EXCHANGE, wanted.bindings()).await?;
    }
    info!(exchange = EXCHANGE, "the exchange and the queues of the bus are there");
    Ok(())
}

// Whatever is refused closes the channel, so each has one of its own.

async fn exchange(connection: &Connection, name: &'static str) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let channel = connection.create_channel().await?;
    let declared = channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await;
    let Some(refused) = tolerable(done(&channel, declared).await)? else { return Ok(()) };
    let channel = connection.create_channel().await?;
    let passive = ExchangeDeclareOptions { passive: true, ..options };
    let found = channel.exchange_declare(name.into(), ExchangeKind::Topic, passive, FieldTable::default()).await;
    used_as_it_is("exchange", name, &refused, done(&channel, found).await)
}

async fn queue(connection: &Connection, name: &'static str, arguments: FieldTable) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let channel = connection.create_channel().await?;
    let declared = channel.queue_declare(name.into(), options, arguments).await.map(drop);
    let Some(refused) = tolerable(done(&channel, declared).await)? else { return Ok(()) };
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..options };
    let found = channel.queue_declare(name.into(), passive, FieldTable::default()).await.map(drop);
    used_as_it_is("queue", name, &refused, done(&channel, found).await)
}

async fn bind(
    connection: &Connection,
    queue: &'static str,
    exchange: &'static str,
    keys: &[&'static str],
) -> Result<(), BrokerError> {
    for key in keys {
        let channel = connection.create_channel().await?;
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(queue.into(), exchange.into(), (*key).into(), options, FieldTable::default());
        let bound = bound.await;
        if let Some(error) = tolerable(done(&channel, bound).await)? {
            // Who may not bind relies on somebody who did; what then leads nowhere is seen when it is published.
            warn!(queue, exchange, key, error = &error as &dyn std::error::Error, "{queue} could not be bound");
        }
    }
    Ok(())
}

async fn done(channel: &Channel, result: lapin::Result<()>) -> lapin::Result<()> {
    if result.is_ok() {
        let _ = channel.close(200, "done".into()).await;
    }
    result
}

/// The error, if one can go on with it.
fn tolerable(result: lapin::Result<()>) -> Result<Option<BrokerError>, BrokerError> {
    match result.map_err(BrokerError::from) {
        Ok(()) => Ok(None),
        Err(error) if matches!(error.code(), Some(FORBIDDEN | DIFFERENT)) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

fn used_as_it_is(
    what: &'static str,
    name: &'static str,
    refused: &BrokerError,
    found: lapin::Result<()>,
) -> Result<(), BrokerError> {
    match found.map_err(BrokerError::from) {
        Ok(()) if refused.code() == Some(DIFFERENT) => {
            warn!(what, name, %refused, "the {what} {name} was made with other arguments and is used as it is; delete it to have it made anew");
            Ok(())
        }
        Ok(()) => Ok(()),
        Err(error) if error.code() == Some(NOT_FOUND) => Err(BrokerError::Missing { what, name: name.to_owned() }),
        Err(error) => Err(error),
    }
}
