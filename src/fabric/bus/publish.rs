//! Publishing with confirms.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Event, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use metrics::{counter, histogram};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use super::{APP, Message, topology};
use crate::BrokerError;

/// How many messages may be on their way unconfirmed.
const UNCONFIRMED: usize = 1_000;
/// How long the broker may take to confirm one. What it was given before a quorum queue had found its leader, after a restart, it
/// may never confirm: it is published again by another connection.
const CONFIRM: Duration = Duration::from_secs(10);
/// Survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// The channel to publish by, while there is one.
#[derive(Clone)]
pub(super) struct Publisher {
    user: Arc<str>,
    channel: watch::Sender<Option<Channel>>,
    /// Told when a channel must not be used any more.
    broken: Arc<Notify>,
}

impl Publisher {
    pub(super) fn new(user: &str) -> Self {
        Self { user: user.into(), channel: watch::Sender::new(None), broken: Arc::default() }
    }

    /// Publishes by `connection` until it fails.
    pub(super) async fn serve(&self, connection: Arc<Connection>) -> Result<(), BrokerError> {
        let mut events = connection.events_listener();
        topology::declare(&connection).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        self.channel.send_replace(Some(channel));
        let ended = loop {
            tokio::select! {
                () = self.broken.notified() => break Err(BrokerError::Ended("publishing")),
                event = events.next() => match event {
                    Some(Event::Error(error)) => break Err(error.into()),
                    Some(_) => {}
                    None => break Err(BrokerError::Ended("the connection")),
                },
            }
        };
        self.channel.send_replace(None);
        ended
    }

    pub(super) async fn ready(&self) {
        // The sender is this one: it isn't closed.
        let _ = self.channel.subscribe().wait_for(Option::is_some).await;
    }

    pub(super) async fn publish(&self, messages: &[Message]) -> Result<(), BrokerError> {
        let Some(channel) = self.channel.borrow().clone() else {
            return Err(BrokerError::Ended("the connection"));
        };
        let published = self.publish_by(&channel, messages).await;
        if let Err(error) = &published {
            counter!("comity_bus_publish_failures_total", "reason" => error.word()).increment(1);
            self.broken.notify_one();
        }
        published
    }

    async fn publish_by(&self, channel: &Channel, messages: &[Message]) -> Result<(), BrokerError> {
        let began = Instant::now();
        let mut unconfirmed = VecDeque::new();
        for message in messages {
            if unconfirmed.len() >= UNCONFIRMED {
                confirmed(unconfirmed.pop_front()).await?;
            }
            unconfirmed.push_back((message, self.send(channel, message).await?));
        }
        while !unconfirmed.is_empty() {
            confirmed(unconfirmed.pop_front()).await?;
        }
        counter!("comity_bus_published_total").increment(messages.len() as u64);
        histogram!("comity_bus_publish_seconds").record(began.elapsed().as_secs_f64());
        Ok(())
    }

    async fn send(&self, channel: &Channel, message: &Message) -> Result<PublisherConfirm, BrokerError> {
        let body = serde_json::to_vec(&message.envelope).expect("an envelope is JSON");
        let envelope = &message.envelope;
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(envelope.id.as_str().into())
            .with_type(envelope.kind.as_str().into())
            .with_timestamp(u64::try_from(envelope.time / 1000).unwrap_or_default())
            .with_app_id(APP.into());
        if !self.user.is_empty() {
            properties = properties.with_user_id((*self.user).into());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let key = message.key.routing_key();
        let sent = channel.basic_publish(topology::EXCHANGE.into(), key.as_str().into(), options, &body, properties);
        Ok(timeout(CONFIRM, sent).await.map_err(|_| BrokerError::Slow("take a message"))??)
    }
}

async fn confirmed(next: Option<(&Message, PublisherConfirm)>) -> Result<(), BrokerError> {
    let Some((message, confirm)) = next else { return Ok(()) };
    match timeout(CONFIRM, confirm).await.map_err(|_| BrokerError::Slow("confirm a message"))?? {
        Confirmation::Ack(None) | Confirmation::NotRequested => Ok(()),
        Confirmation::Ack(Some(_)) => Err(BrokerError::Unroutable {
            exchange: topology::EXCHANGE.to_owned(),
            routing_key: message.key.routing_key(),
        }),
        Confirmation::Nack(_) => Err(BrokerError::Refused),
    }
}
