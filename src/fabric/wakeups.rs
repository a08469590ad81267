//! What nodes of one deployment say to each other over the broker: that something is new, and where to look.
//!
//! Each node has a queue of its own, which is there while the node is connected and holds no more than [`MOST`] words, the oldest
//! making way. Nothing is confirmed, nothing is kept: who missed something is told that, and whoever says something says it to those
//! who are there now. What a word points to is in the store.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture};
use lapin::{
    BasicProperties, Channel, Connection, Consumer, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{
    sync::{Notify, broadcast},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Broker, BrokerError, Link,
    cache::{News, Subscription, UNHEARD},
};

/// Where nodes talk: a fanout exchange beside that of the bus.
const EXCHANGE: &str = "comity.nodes";
/// How many words wait for a node at the broker.
const MOST: i64 = 1_000;
/// In milliseconds: by then a node has looked by itself.
const LASTS: i64 = 5_000;
/// How long the broker may take to be given a word.
const SAY: Duration = Duration::from_secs(2);
/// The reply codes of a broker where somebody may not, where nothing is there, and where something is there already that differs.
const MAY_NOT: u16 = 403;
const NOT_THERE: u16 = 404;
const DIFFERS: u16 = 406;

/// How nodes wake each other over the broker. Cheap to clone.
#[derive(Clone)]
pub struct WakeUps {
    shared: Arc<Shared>,
}

struct Shared {
    broker: Broker,
    /// In the names of queues.
    node: Arc<str>,
    link: Link,
    channel: Mutex<Option<Channel>>,
    /// Told when the channel is of no use.
    broken: Notify,
    heard: broadcast::Sender<News>,
}

impl WakeUps {
    /// By `broker`, which is not connected to yet. `node`: this one; a short word.
    pub fn new(broker: Broker, node: Arc<str>) -> Self {
        let (channel, broken) = (Mutex::default(), Notify::new());
        let heard = broadcast::Sender::new(UNHEARD);
        Self { shared: Arc::new(Shared { broker, node, link: Link::default(), channel, broken, heard }) }
    }

    /// Says something short to every node that is connected, this one included. Nobody may hear it.
    pub async fn say(&self, word: &str) -> Result<(), BrokerError> {
        let channel = self.channel().ok_or(BrokerError::Ended("the connection"))?;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let saying = channel.basic_publish(EXCHANGE.into(), "".into(), options, word.as_bytes(), properties);
        let said = match timeout(SAY, saying).await {
            Ok(said) => said.map(drop).map_err(BrokerError::from),
            Err(_) => Err(BrokerError::Slow("take a word")),
        };
        if said.is_err() {
            self.shared.broken.notify_one();
        }
        said
    }

    /// Listens. After each connection that was made anew it is said that something was missed.
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.shared.heard.subscribe())
    }

    /// Keeps connected until `stop` is cancelled.
    pub async fn run(&self, stop: &CancellationToken) {
        let wake_ups = self.clone();
        let work = move |connection: Arc<Connection>| -> BoxFuture<'static, Result<(), BrokerError>> {
            let wake_ups = wake_ups.clone();
            Box::pin(async move {
                let ended = wake_ups.work(&connection).await;
                wake_ups.set_channel(None);
                ended
            })
        };
        self.shared.broker.keep("nodes", &self.shared.link, stop, work).await;
        self.set_channel(None);
    }

    async fn work(&self, connection: &Connection) -> Result<(), BrokerError> {
        exchange(connection).await?;
        let mut words = self.listen(connection).await?;
        self.set_channel(Some(connection.create_channel().await?));
        // With nobody to hear it, it is said to nobody.
        let _ = self.shared.heard.send(News::Missed);
        loop {
            let delivery = tokio::select! {
                delivery = words.next() => delivery.ok_or(BrokerError::Ended("the reading of a queue"))??,
                () = self.shared.broken.notified() => return Err(BrokerError::Slow("take a word")),
            };
            if let Ok(word) = std::str::from_utf8(&delivery.data) {
                let _ = self.shared.heard.send(News::Said(word.into()));
            }
        }
    }

    /// This node's own queue. It has another name each time: the broker may hold the one before for a while.
    async fn listen(&self, connection: &Connection) -> Result<Consumer, BrokerError> {
        let channel = connection.create_channel().await?;
        let name = format!("{EXCHANGE}.{}.{:08x}", self.shared.node, rand::random::<u32>());
        let queue = ShortString::try_new(name).unwrap_or_default();
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(LASTS));
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.clone(), options, arguments).await?;
        let (options, nothing) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(queue.clone(), EXCHANGE.into(), "".into(), options, nothing.clone()).await?;
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
        Ok(channel.basic_consume(queue, "comity".into(), options, nothing).await?)
    }

    fn channel(&self) -> Option<Channel> {
        self.shared.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_channel(&self, channel: Option<Channel>) {
        *self.shared.channel.lock().unwrap_or_else(PoisonError::into_inner) = channel;
    }
}

/// Sees to it that the exchange is there. A refusal ends the channel, so each attempt has its own.
async fn exchange(connection: &Connection) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    for options in [options, ExchangeDeclareOptions { passive: true, ..options }] {
        let channel = connection.create_channel().await?;
        let nothing = FieldTable::default();
        let declared = channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Fanout, options, nothing).await;
        match declared.map_err(BrokerError::from) {
            Ok(()) => return Ok(channel.close(200, "done".into()).await?),
            // Somebody else has made it, or only somebody else may.
            Err(error) if !options.passive && matches!(error.code(), Some(MAY_NOT | DIFFERS)) => {}
            Err(error) if error.code() == Some(NOT_THERE) => {
                return Err(BrokerError::Missing { what: "exchange", name: EXCHANGE.to_owned() });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
