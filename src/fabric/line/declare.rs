//! What the line to a peer needs at the broker: made if it isn't there, and taken as it is if somebody else has made it or only
//! somebody else may.

use lapin::{
    Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::Names;
use crate::BrokerError;

/// So much of a peer may wait to be taken, in bytes; then its broker keeps the rest.
const MOST_WAITING: i64 = 256 << 20;
/// Of what could not be taken, so much is kept: how many, in bytes, and for how long in milliseconds.
const MOST_DEAD: i64 = 10_000;
const MOST_DEAD_BYTES: i64 = 64 << 20;
const DEAD_FOR: i64 = 7 * 24 * 60 * 60 * 1_000;
/// So many responses wait for a node: how many, in bytes, and for how long in milliseconds. The oldest make way.
const MOST_OWN: i64 = 1_000;
const MOST_OWN_BYTES: i64 = 64 << 20;
const OWN_FOR: i64 = 5 * 60 * 1_000;
/// The queue of a node that didn't come back for so long, in milliseconds, goes.
const GONE_AFTER: i64 = 10 * 60 * 1_000;

/// The reply codes of a broker where somebody may not, where nothing is there, and where something is there already that differs.
const MAY_NOT: u16 = 403;
const NOT_THERE: u16 = 404;
const DIFFERS: u16 = 406;

/// Exchanges, queues, and that what comes gets into the queue.
pub(super) async fn all(connection: &Connection, names: &Names) -> Result<(), BrokerError> {
    exchange(connection, &names.outgoing).await?;
    exchange(connection, &names.incoming).await?;
    let mut waiting = quorum();
    waiting.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(MOST_WAITING));
    waiting.insert("x-overflow".into(), text("reject-publish"));
    queue(connection, &names.incoming, waiting).await?;
    bind(connection, &names.incoming).await?;
    let mut dead = quorum();
    dead.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST_DEAD));
    dead.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(MOST_DEAD_BYTES));
    dead.insert("x-message-ttl".into(), AMQPValue::LongLongInt(DEAD_FOR));
    queue(connection, &names.dead, dead).await
}

/// The queue `own` of one node, into which every response is copied that comes into the exchange `incoming`. It outlives the
/// connection, so that an answer that comes while that is made anew is not lost. False: it isn't there, and can't be made.
pub(super) async fn own(
    connection: &Connection,
    own: &ShortString,
    incoming: &ShortString,
) -> Result<bool, BrokerError> {
    let mut arguments = FieldTable::default();
    for (name, value) in [
        ("x-expires", GONE_AFTER),
        ("x-message-ttl", OWN_FOR),
        ("x-max-length", MOST_OWN),
        ("x-max-length-bytes", MOST_OWN_BYTES),
    ] {
        arguments.insert(name.into(), AMQPValue::LongLongInt(value));
    }
    let made = async {
        let channel = connection.create_channel().await?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(own.clone(), options, arguments).await?;
        let (options, nothing) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(own.clone(), incoming.clone(), super::RESPONSE.into(), options, nothing).await?;
        close(channel).await
    };
    match made.await {
        Ok(()) => Ok(true),
        // 404: in a cluster, the member that has it is away.
        Err(error) if matches!(error.code(), Some(MAY_NOT | NOT_THERE | DIFFERS)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn exchange(connection: &Connection, name: &ShortString) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    // A refusal ends the channel, so each has its own.
    let channel = connection.create_channel().await?;
    let declared = channel.exchange_declare(name.clone(), ExchangeKind::Topic, options, FieldTable::default()).await;
    if !is_for_others(declared.map_err(Into::into))? {
        return close(channel).await;
    }
    let passive = ExchangeDeclareOptions { passive: true, ..options };
    let channel = connection.create_channel().await?;
    let found = channel.exchange_declare(name.clone(), ExchangeKind::Topic, passive, FieldTable::default()).await;
    found.map_err(|error| missing("exchange", name, error.into()))?;
    close(channel).await
}

async fn queue(connection: &Connection, name: &ShortString, arguments: FieldTable) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let channel = connection.create_channel().await?;
    let declared = channel.queue_declare(name.clone(), options, arguments).await;
    if !is_for_others(declared.map(drop).map_err(Into::into))? {
        return close(channel).await;
    }
    let passive = QueueDeclareOptions { passive: true, ..options };
    let channel = connection.create_channel().await?;
    let found = channel.queue_declare(name.clone(), passive, FieldTable::default()).await;
    found.map_err(|error| missing("queue", name, error.into()))?;
    close(channel).await
}

/// Everything that comes into the exchange of that name goes into the queue of that name.
async fn bind(connection: &Connection, name: &ShortString) -> Result<(), BrokerError> {
    let channel = connection.create_channel().await?;
    let (options, nothing) = (QueueBindOptions::default(), FieldTable::default());
    let bound = channel.queue_bind(name.clone(), name.clone(), "#".into(), options, nothing).await;
    // Who may not do this has had it done by an operator.
    if is_for_others(bound.map_err(Into::into))? { Ok(()) } else { close(channel).await }
}

/// Whether it is somebody else who makes it.
fn is_for_others(declared: Result<(), BrokerError>) -> Result<bool, BrokerError> {
    match declared {
        Ok(()) => Ok(false),
        Err(error) if matches!(error.code(), Some(MAY_NOT | DIFFERS)) => Ok(true),
        Err(error) => Err(error),
    }
}

fn missing(what: &'static str, name: &ShortString, error: BrokerError) -> BrokerError {
    match error.code() {
        Some(NOT_THERE) => BrokerError::Missing { what, name: name.to_string() },
        _ => error,
    }
}

async fn close(channel: lapin::Channel) -> Result<(), BrokerError> {
    Ok(channel.close(200, "done".into()).await?)
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}
