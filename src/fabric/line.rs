//! The line to a peer, as far as this server's own broker: what is published there goes to the peer, and what the peer sent is
//! read there. How it gets from one broker to the other is the business of shovels and upstreams.
//!
//! Nothing here is believed: what comes out of the queue of a peer was put there by whoever may, and whoever takes it looks at its
//! signature. [`super::naming`] says what is called how.

mod declare;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use ruma::{OwnedServerName, ServerName};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{Broker, BrokerError, Link, LinkState, amqp, naming};

/// No message is larger, in bytes; as no request between servers is.
pub const LARGEST: usize = 25 << 20;
/// How many messages the broker hands over before one of them is done with.
const PREFETCH: u16 = 8;
/// How long the broker may take to say that it has a message.
const CONFIRM: Duration = Duration::from_secs(10);
/// Who was handed over so often without being done with takes the server down, or is never done with.
const MOST_DELIVERIES: i64 = 10;
/// Of a message that is set aside so much is kept, in bytes.
const KEPT: usize = 1 << 20;
/// What a message says to be by its `type`, and the routing key it is published with: those that answer don't wait for those that ask,
/// and are heard by each node. What it is, it says itself.
pub const RESPONSE: &str = "response";
const PERSISTENT: u8 = 2;
/// How often it is looked whether somebody has made a virtual host.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The reply code of a virtual host that isn't there, or that somebody may not enter.
const NOT_ALLOWED: u16 = 530;

/// A message of a peer, or of somebody who says so.
#[derive(Clone, Debug)]
pub struct Message {
    /// What it says.
    pub data: Vec<u8>,
    /// It was handed over before, and the connection broke before it was done with.
    pub redelivered: bool,
    /// A response out of the queue of this node alone. One of the nodes has the original, and says what is wrong with it.
    pub is_copy: bool,
}

/// What became of a message.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is done with.
    Taken,
    /// It can't be taken, now or ever: it is set aside with the reason.
    Dead {
        /// One word of a few.
        reason: &'static str,
        /// For the operator; some hundred characters.
        detail: String,
    },
    /// The broker failed meanwhile, and shall hand it over again.
    Again,
}

/// Takes messages, one at a time of those that ask, and of those that answer.
pub type Handler = Arc<dyn Fn(Message) -> BoxFuture<'static, Verdict> + Send + Sync>;

/// Why something was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It has not left this server, or nobody takes it.
    #[error("it did not leave this server: {0}")]
    Kept(#[source] BrokerError),
    /// The broker did not say whether it has it.
    #[error("the broker did not confirm it: {0}")]
    Unsure(#[source] BrokerError),
}

/// The line to a peer. Cheap to clone.
#[derive(Clone)]
pub struct Line {
    shared: Arc<Shared>,
}

struct Shared {
    broker: Broker,
    peer: OwnedServerName,
    names: Names,
    link: Link,
    publisher: Mutex<Option<Channel>>,
    ready: watch::Sender<bool>,
    /// The broker has stopped confirming: the connection is of no use.
    stuck: Notify,
}

/// What things of a peer are called.
struct Names {
    outgoing: ShortString,
    incoming: ShortString,
    dead: ShortString,
    /// Where this node, of several, hears every response.
    own: Option<ShortString>,
}

impl Line {
    /// The line to `peer` in its virtual host of `broker`; not connected yet. `None`: the peer's name is too long for AMQP.
    ///
    /// `node`: this node, where there may be several. They share what comes from the peer, and each hears every response, because
    /// none of them knows which one waits for it.
    pub fn new(broker: &Broker, peer: &ServerName, node: Option<&str>) -> Option<Self> {
        let name = |name: String| ShortString::try_new(name).ok();
        let names = Names {
            outgoing: name(naming::outgoing(peer))?,
            incoming: name(naming::incoming(peer))?,
            dead: name(naming::dead(peer))?,
            own: node.and_then(|node| name(naming::of_node(node))),
        };
        let shared = Shared {
            broker: broker.at_vhost(&naming::vhost(peer)),
            peer: peer.to_owned(),
            names,
            link: Link::default(),
            publisher: Mutex::default(),
            ready: watch::Sender::new(false),
            stuck: Notify::new(),
        };
        Some(Self { shared: Arc::new(shared) })
    }

    /// Waits until the peer has a virtual host here that this server may enter; comes back, too, when that can't be seen. For peers
    /// that perhaps never have one.
    pub async fn made(&self) {
        loop {
            match self.shared.broker.connect("peer").await {
                Ok(connection) => return amqp::close(&connection).await,
                Err(error) if error.code() == Some(NOT_ALLOWED) => {
                    let broker = &self.shared.broker;
                    debug!(%broker, error = &error as &dyn std::error::Error, "there is no line to {} yet", self.shared.peer);
                }
                Err(_) => return,
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Keeps the line up and has `handler` take what comes, until `stop` is cancelled.
    pub async fn keep(&self, stop: &CancellationToken, handler: Handler) {
        let line = self.clone();
        let work = move |connection: Arc<Connection>| -> BoxFuture<'static, Result<(), BrokerError>> {
            let (line, handler) = (line.clone(), handler.clone());
            Box::pin(async move {
                let ended = line.work(&connection, &handler).await;
                line.set_publisher(None);
                ended
            })
        };
        self.shared.broker.keep("peer", &self.shared.link, stop, work).await;
        self.set_publisher(None);
    }

    /// Whether something can be published.
    pub fn is_up(&self) -> bool {
        *self.shared.ready.borrow()
    }

    /// Hears of every change of that.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.shared.ready.subscribe()
    }

    /// How the connection is.
    pub fn state(&self) -> LinkState {
        match self.shared.link.state() {
            // It stands, but what is needed isn't there yet.
            LinkState::Up if !self.is_up() => LinkState::New,
            state => state,
        }
    }

    /// Publishes something for the peer, and waits until the broker has it, 10 s at most. Who has not got it after `lifetime` does
    /// not get it any more.
    pub async fn publish(&self, kind: &str, body: &[u8], lifetime: Duration) -> Result<(), PublishError> {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_expiration(lifetime.as_millis().to_string().into())
            .with_type(short(kind));
        let exchange = self.shared.names.outgoing.clone();
        self.put(exchange, short(kind), body, properties).await
    }

    async fn put(
        &self,
        exchange: ShortString,
        routing_key: ShortString,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), PublishError> {
        let channel = self.publisher().ok_or(PublishError::Kept(BrokerError::Ended("the connection")))?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = async {
            let confirm =
                channel.basic_publish(exchange.clone(), routing_key.clone(), options, body, properties).await?;
            confirm.await
        };
        match timeout(CONFIRM, publishing).await {
            Ok(Ok(Confirmation::Ack(None) | Confirmation::NotRequested)) => Ok(()),
            Ok(Ok(Confirmation::Ack(Some(_)))) => Err(PublishError::Kept(BrokerError::Unroutable {
                exchange: exchange.to_string(),
                routing_key: routing_key.to_string(),
            })),
            Ok(Ok(Confirmation::Nack(_))) => Err(PublishError::Kept(BrokerError::Refused)),
            Ok(Err(error)) => {
                self.shared.stuck.notify_one();
                Err(PublishError::Unsure(error.into()))
            }
            Err(_) => {
                self.shared.stuck.notify_one();
                Err(PublishError::Unsure(BrokerError::Slow("confirm what was published")))
            }
        }
    }

    /// On one connection, until it fails.
    async fn work(&self, connection: &Connection, handler: &Handler) -> Result<(), BrokerError> {
        let Shared { names, .. } = &*self.shared;
        declare::all(connection, names).await?;
        let (publishing, consuming) = (connection.create_channel().await?, connection.create_channel().await?);
        publishing.confirm_select(ConfirmSelectOptions::default()).await?;
        consuming.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let incoming = names.incoming.clone();
        let mut consumer = consuming.basic_consume(incoming, "comity".into(), options, FieldTable::default()).await?;
        // What is asked from now on is answered into it.
        let own = self.own_responses(connection).await?;
        self.set_publisher(Some(publishing));

        let room = usize::from(PREFETCH);
        let ((asking, asked), (answering, answered)) = (mpsc::channel(room), mpsc::channel(room));
        let read = async {
            loop {
                let delivery = tokio::select! {
                    delivery = consumer.next() => delivery.ok_or(BrokerError::Ended("the reading of a queue"))??,
                    () = self.shared.stuck.notified() => return Err(BrokerError::Slow("confirm what was published")),
                };
                let is_response = delivery.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == RESPONSE);
                let lane = if is_response { &answering } else { &asking };
                // There is room for all that the broker hands over.
                let _ = lane.send(delivery).await;
            }
        };
        let (asks, answers) = (self.take_all(asked, handler), self.take_all(answered, handler));
        tokio::try_join!(read, asks, answers, hear(own, handler)).map(|((), (), (), ())| ())
    }

    /// The reading of the queue in which this node, of several, hears every response.
    async fn own_responses(&self, connection: &Connection) -> Result<Option<Consumer>, BrokerError> {
        let Shared { names, peer, .. } = &*self.shared;
        let Some(own) = &names.own else { return Ok(None) };
        if !declare::own(connection, own, &names.incoming).await? {
            warn!(server.name = %peer, queue = %own, "this node may not make its queue: what {peer} answers to it over the broker \
                may be read by another node, and is asked again after a minute");
            return Ok(None);
        }
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (options, nothing) = (BasicConsumeOptions::default(), FieldTable::default());
        Ok(Some(channel.basic_consume(own.clone(), "comity".into(), options, nothing).await?))
    }

    async fn take_all(&self, mut lane: mpsc::Receiver<Delivery>, handler: &Handler) -> Result<(), BrokerError> {
        while let Some(delivery) = lane.recv().await {
            self.take(delivery, handler).await?;
        }
        Ok(())
    }

    async fn take(&self, mut delivery: Delivery, handler: &Handler) -> Result<(), BrokerError> {
        let dead = |reason, detail: String| Verdict::Dead { reason, detail };
        let deliveries = deliveries_of(&delivery);
        let verdict = if delivery.data.len() > LARGEST {
            dead("too_large", format!("it is larger than {LARGEST} bytes"))
        } else if deliveries > MOST_DELIVERIES {
            dead("delivery_limit", format!("it was handed over {deliveries} times and never done with"))
        } else {
            let message = Message { data: delivery.data.clone(), redelivered: delivery.redelivered, is_copy: false };
            handler(message).await
        };
        match verdict {
            Verdict::Taken => {}
            Verdict::Dead { reason, detail } => self.bury(&mut delivery, reason, &detail).await?,
            Verdict::Again => return Err(BrokerError::Ended("the connection while a message was taken")),
        }
        delivery.ack(BasicAckOptions::default()).await?;
        Ok(())
    }

    /// Sets a message aside where an operator finds it.
    async fn bury(&self, delivery: &mut Delivery, reason: &'static str, detail: &str) -> Result<(), BrokerError> {
        let text = |text: &str| AMQPValue::LongString(text.to_owned().into());
        let mut headers = FieldTable::default();
        headers.insert("x-comity-reason".into(), text(reason));
        headers.insert("x-comity-detail".into(), text(detail));
        delivery.data.truncate(KEPT);
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
        match self.put("".into(), self.shared.names.dead.clone(), &delivery.data, properties).await {
            Ok(()) => Ok(()),
            Err(PublishError::Kept(error)) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, server.name = %self.shared.peer, reason, "a message of {} is lost that could not be taken", self.shared.peer);
                Ok(())
            }
            Err(PublishError::Unsure(error)) => Err(error),
        }
    }

    fn publisher(&self) -> Option<Channel> {
        self.shared.publisher.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_publisher(&self, publisher: Option<Channel>) {
        let is_up = publisher.is_some();
        *self.shared.publisher.lock().unwrap_or_else(PoisonError::into_inner) = publisher;
        self.shared.ready.send_if_modified(|ready| std::mem::replace(ready, is_up) != is_up);
    }
}

/// Takes the copies of responses. Whatever is wrong with one is said of the original.
async fn hear(own: Option<Consumer>, handler: &Handler) -> Result<(), BrokerError> {
    let Some(mut own) = own else { return std::future::pending().await };
    while let Some(delivery) = own.next().await {
        let Delivery { data, redelivered, acker, .. } = delivery?;
        if data.len() <= LARGEST {
            handler(Message { data, redelivered, is_copy: true }).await;
        }
        acker.ack(BasicAckOptions::default()).await?;
    }
    Err(BrokerError::Ended("the reading of the node's queue"))
}

/// What is ours and short.
fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

/// How often the queue says to have handed it over before.
fn deliveries_of(delivery: &Delivery) -> i64 {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortUInt(count)) => i64::from(*count),
        _ => 0,
    }
}
