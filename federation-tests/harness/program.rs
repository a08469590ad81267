//! Another program at a broker, as somebody else would write it.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::PATIENCE;

/// Who is connected to a broker.
pub struct Program {
    _connection: Connection,
    channel: Channel,
    listening: Option<Consumer>,
}

/// A message that a program got.
#[derive(Clone, Debug)]
pub struct Received {
    /// Under which routing key it was published.
    pub routing_key: String,
    /// The body, `null` if it isn't JSON.
    pub body: Value,
    /// The property `message_id`.
    pub message_id: Option<String>,
    /// The property `user_id`.
    pub user_id: Option<String>,
    /// The headers that are texts.
    pub headers: Vec<(String, String)>,
}

impl Received {
    /// The header called `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Program {
    /// Connects to the broker at `url`.
    pub async fn connect(url: &str) -> Self {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        let connection = timeout(PATIENCE, connecting).await.expect("in time").expect("the broker lets it in");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("a broker confirms");
        Self { _connection: connection, channel, listening: None }
    }

    /// Makes a durable queue that hears of what `exchange` gets under `pattern`, and listens to it.
    pub async fn hear(&mut self, queue: &str, exchange: &str, pattern: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("a queue");
        let options = QueueBindOptions::default();
        let bound =
            self.channel.queue_bind(queue.into(), exchange.into(), pattern.into(), options, FieldTable::default());
        bound.await.expect("it may be bound");
        self.listen(queue).await;
    }

    /// Listens to a queue that is there.
    pub async fn listen(&mut self, queue: &str) {
        let options = BasicConsumeOptions::default();
        let consumer = self.channel.basic_consume(queue.into(), "program".into(), options, FieldTable::default());
        self.listening = Some(consumer.await.expect("it may listen"));
    }

    /// The next message, which it acknowledges.
    pub async fn next(&mut self) -> Received {
        let next = self.listening.as_mut().expect("it listens").next();
        // After a restart of the broker more than one attempt to publish may be needed.
        let arrived = timeout(3 * PATIENCE, next).await.expect("a message comes").expect("the queue stays");
        let arrived = arrived.expect("the connection stays");
        arrived.acker.ack(BasicAckOptions::default()).await.expect("it can be acknowledged");
        let text = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => Some(text.to_string()),
            _ => None,
        };
        let headers = arrived.properties.headers().as_ref().map(|headers| {
            headers.inner().iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect()
        });
        Received {
            routing_key: arrived.routing_key.to_string(),
            body: serde_json::from_slice(&arrived.data).unwrap_or(Value::Null),
            message_id: arrived.properties.message_id().as_ref().map(ToString::to_string),
            user_id: arrived.properties.user_id().as_ref().map(ToString::to_string),
            headers: headers.unwrap_or_default(),
        }
    }

    /// The next message, if one comes soon.
    pub async fn next_within(&mut self, wait: Duration) -> Option<Received> {
        timeout(wait, self.next()).await.ok()
    }

    /// Publishes `body`, saying to be `user`, and waits until the broker has it. Answers whether a queue took it.
    pub async fn publish(&self, exchange: &str, key: &str, user: Option<&str>, body: &[u8]) -> bool {
        let mut properties = BasicProperties::default().with_delivery_mode(2);
        if let Some(user) = user {
            properties = properties.with_user_id(user.into());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await;
        let confirmed = timeout(PATIENCE, published.expect("it can be published")).await.expect("in time");
        matches!(confirmed.expect("the broker confirms"), Confirmation::Ack(None))
    }
}
