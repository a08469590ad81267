//! The bus: the exchange `instant_exchange`, at which other programs are told what happens here, and may say something.
//!
//! docs/bus.md is its contract with them.

mod consume;
mod key;
mod publish;
mod topology;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use model::Millis;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::{AmqpConfig, Broker, BrokerError, Link, amqp::LinkState};

pub use key::{Key, matches};
pub use topology::{DEAD_LETTERS, EXCHANGE, Queue};

/// By what a message says that a server like this one published it.
pub(crate) const APP: &str = "comity";
/// Why a message lies in the queue of dead letters.
pub(crate) const REASON: &str = "x-comity-reason";
/// The version of [`Envelope`].
const VERSION: u32 = 1;
/// The largest message that is taken.
pub const MAX_MESSAGE: usize = 256 << 10;

/// What stands in each message, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// 1.
    pub version: u32,
    /// `chat.message`, `user.status`, `system.notification`, `system.event` or `system.broadcast`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Says which message it is: the same again is the same message, published twice.
    pub id: String,
    /// When it happened, milliseconds since 1970.
    pub time: Millis,
    /// The domain of the server, or the name of the program, that published it.
    pub origin: String,
    /// What happened, by its type.
    pub data: Box<RawValue>,
}

/// A message to be published.
#[derive(Clone, Debug)]
pub struct Message {
    /// Under which routing key.
    pub key: Key,
    /// What stands in it.
    pub envelope: Envelope,
}

impl Message {
    /// A message under `key`.
    pub fn new(key: Key, id: String, time: Millis, origin: String, data: Box<RawValue>) -> Self {
        let envelope = Envelope { version: VERSION, kind: key.kind().to_owned(), id, time, origin, data };
        Self { key, envelope }
    }
}

/// A message that another program published.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The broker's user who published it, as the broker vouches for; `None`: the program didn't have it say so.
    pub user: Option<String>,
    /// Under which routing key.
    pub routing_key: String,
    /// What stands in it, unread.
    pub body: Bytes,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken, now or before.
    Taken,
    /// It can't be taken now.
    Later,
    /// It can never be taken, for this reason.
    Dead(String),
}

/// Takes what other programs publish.
pub trait Taker: Send + Sync + 'static {
    /// Takes a message that arrived in a queue. The same one may come more than once.
    fn take(&self, delivery: Delivery) -> BoxFuture<'_, Verdict>;
}

/// How the bus is.
#[derive(Clone, Debug)]
pub struct BusHealth {
    /// The connection by which this server publishes.
    pub publishing: LinkState,
    /// The connection by which it hears of what others publish.
    pub consuming: LinkState,
}

/// The exchange of this deployment at its broker. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

struct Shared {
    broker: Broker,
    publishing: Link,
    consuming: Link,
    publisher: publish::Publisher,
}

impl Bus {
    /// The bus at the broker of `config`, which is not connected to yet.
    pub fn new(config: &AmqpConfig) -> Result<Self, BrokerError> {
        let broker = Broker::new(config)?;
        let publisher = publish::Publisher::new(broker.user());
        let (publishing, consuming) = (Link::default(), Link::default());
        Ok(Self { shared: Arc::new(Shared { broker, publishing, consuming, publisher }) })
    }

    /// How it is now.
    pub fn health(&self) -> BusHealth {
        BusHealth { publishing: self.shared.publishing.state(), consuming: self.shared.consuming.state() }
    }

    /// Waits until messages can be published.
    pub async fn ready(&self) {
        self.shared.publisher.ready().await;
    }

    /// Publishes, and answers when every queue that is to have it has each of `messages`. Whatever fails, all of them may be
    /// published again.
    pub async fn publish(&self, messages: &[Message]) -> Result<(), BrokerError> {
        self.shared.publisher.publish(messages).await
    }

    /// Keeps connected, and gives `taker` what other programs publish, until `stop` is cancelled.
    pub async fn run(&self, taker: Arc<dyn Taker>, stop: CancellationToken) {
        let Shared { broker, publishing, consuming, publisher } = &*self.shared;
        let us: Arc<str> = broker.user().into();
        let publish = broker.keep("bus publishing", publishing, &stop, |connection| {
            let publisher = publisher.clone();
            Box::pin(async move { publisher.serve(connection).await })
        });
        let ends = stop.clone();
        let consume = broker.keep("bus consuming", consuming, &stop, move |connection| {
            let (taker, us, stop) = (taker.clone(), us.clone(), ends.clone());
            Box::pin(async move { consume::serve(connection, us, taker, stop).await })
        });
        tokio::join!(publish, consume);
    }
}
