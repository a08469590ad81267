//! Taking what other programs publish.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::try_join_all};
use lapin::{
    Acker, BasicProperties, Channel, Confirmation, Connection,
    message::Delivery as Arrived,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions,
    },
    types::{AMQPValue, FieldTable},
};
use metrics::counter;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{APP, DEAD_LETTERS, Delivery, MAX_MESSAGE, Queue, REASON, Taker, Verdict, topology};
use crate::BrokerError;

/// How many messages of a queue are on their way here at once.
const PREFETCH: u16 = 500;
/// Of what this server published itself, so many are acknowledged at once.
const ACK_EVERY: u32 = 100;
/// How long one that can't be taken now is left alone before the broker gives it again.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the broker may take to confirm a dead letter.
const CONFIRM: Duration = Duration::from_secs(10);
const LONGEST_REASON: usize = 300;

/// Takes messages by `connection` until it fails.
pub(super) async fn serve(
    connection: Arc<Connection>,
    us: Arc<str>,
    taker: Arc<dyn Taker>,
    stop: CancellationToken,
) -> Result<(), BrokerError> {
    topology::declare(&connection).await?;
    let consuming = Queue::TAKEN.map(|queue| consume(&connection, queue, us.clone(), taker.clone(), stop.clone()));
    try_join_all(consuming).await.map(drop)
}

async fn consume(
    connection: &Connection,
    queue: Queue,
    us: Arc<str>,
    taker: Arc<dyn Taker>,
    stop: CancellationToken,
) -> Result<(), BrokerError> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    // The name must differ between consumers of one channel only.
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.name().into(), "comity".into(), options, FieldTable::default()).await?;
    let mut arriving = pin!(consumer.peekable());
    let dead = connection.create_channel().await?;
    dead.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut ours = Ours { queue, count: 0, latest: None };
    loop {
        let arrived = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            arrived = arriving.next() => arrived.ok_or(BrokerError::Ended("consuming"))??,
        };
        if is_ours(&arrived, &us) {
            ours.add(arrived.acker);
            let is_more = arriving.as_mut().peek().now_or_never().is_some();
            if !is_more || ours.count >= ACK_EVERY {
                ours.acknowledge().await?;
            }
        } else {
            ours.acknowledge().await?;
            take(&dead, queue, arrived, &*taker).await?;
        }
    }
}

/// What this server published itself, and heard.
struct Ours {
    queue: Queue,
    count: u32,
    latest: Option<Acker>,
}

impl Ours {
    fn add(&mut self, acker: Acker) {
        self.count += 1;
        self.latest = Some(acker);
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        let Some(latest) = self.latest.take() else { return Ok(()) };
        counter!("comity_bus_heard_ourselves_total", "queue" => self.queue.name()).increment(self.count.into());
        self.count = 0;
        latest.ack(BasicAckOptions { multiple: true }).await?;
        Ok(())
    }
}

async fn take(dead: &Channel, queue: Queue, arrived: Arrived, taker: &dyn Taker) -> Result<(), BrokerError> {
    let verdict = if arrived.data.len() > MAX_MESSAGE {
        Verdict::Dead(format!("it is larger than {MAX_MESSAGE} bytes"))
    } else {
        let user = arrived.properties.user_id().as_ref().map(|user| user.as_str().to_owned());
        let routing_key = arrived.routing_key.as_str().to_owned();
        let body = Bytes::copy_from_slice(&arrived.data);
        taker.take(Delivery { user, routing_key, body }).await
    };
    let outcome = match &verdict {
        Verdict::Taken => "taken",
        Verdict::Later => "later",
        Verdict::Dead(_) => "dead",
    };
    counter!("comity_bus_consumed_total", "queue" => queue.name(), "outcome" => outcome).increment(1);
    match verdict {
        Verdict::Taken => arrived.acker.ack(BasicAckOptions::default()).await?,
        Verdict::Later => {
            sleep(PAUSE).await;
            // The broker counts how often it gives a message again, and gives it up in the end.
            arrived.acker.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await?
        }
        Verdict::Dead(reason) => {
            bury(dead, queue, &arrived, &reason).await?;
            arrived.acker.ack(BasicAckOptions::default()).await?
        }
    };
    Ok(())
}

/// Puts a message, with the reason, where an operator finds it.
async fn bury(dead: &Channel, queue: Queue, arrived: &Arrived, reason: &str) -> Result<(), BrokerError> {
    let (user, key) = (arrived.properties.user_id().as_ref().map(|user| user.as_str()), arrived.routing_key.as_str());
    let reason: String = reason.chars().take(LONGEST_REASON).collect();
    warn!(queue = queue.name(), publisher = user, routing_key = key, reason, "a message on the bus can't be taken");
    let mut headers = FieldTable::default();
    headers.insert(REASON.into(), AMQPValue::LongString(reason.into()));
    headers.insert("x-comity-queue".into(), AMQPValue::LongString(queue.name().into()));
    if let Some(user) = user {
        headers.insert("x-comity-publisher".into(), AMQPValue::LongString(user.into()));
    }
    let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers).with_app_id(APP.into());
    if let Some(id) = arrived.properties.message_id() {
        properties = properties.with_message_id(id.clone());
    }
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = dead.basic_publish(DEAD_LETTERS.into(), key.into(), options, &arrived.data, properties).await?;
    match timeout(CONFIRM, confirm).await.map_err(|_| BrokerError::Slow("confirm a message"))?? {
        Confirmation::Nack(_) => Err(BrokerError::Refused),
        _ => Ok(()),
    }
}

/// The broker lets nobody name a user who isn't the one logged in.
fn is_ours(arrived: &Arrived, us: &str) -> bool {
    let properties = &arrived.properties;
    properties.app_id().as_ref().is_some_and(|app| app.as_str() == APP)
        && properties.user_id().as_ref().map_or(us.is_empty(), |user| user.as_str() == us)
}
