//! Publishes what happens here.

use std::time::Duration;

use fabric::{BrokerError, Bus, bus::Message};
use futures_util::future::BoxFuture;
use metrics::gauge;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::follow::{FollowError, Follower, Lag, Stream, while_on_duty};

/// Its name among those who follow the stream.
const NAME: &str = "bus";
/// How many messages are published at once.
const AT_ONCE: usize = 1_000;
/// The wait after something failed.
const PAUSE: Duration = Duration::from_millis(500);
/// Between two figures of how far it is behind.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// Publishes everything of `stream` at `bus` until `stop` is cancelled: of several nodes, one does.
pub(super) async fn run(stream: &Stream, bus: &Bus, stop: &CancellationToken) {
    let follow = || -> BoxFuture<'_, ()> { Box::pin(follow(stream, bus)) };
    tokio::select! {
        () = stop.cancelled() => {}
        () = while_on_duty(stream.store(), NAME, &follow) => {}
    }
}

async fn follow(stream: &Stream, bus: &Bus) {
    let mut follower = loop {
        match Follower::begin(stream.clone(), NAME.into(), AT_ONCE).await {
            Ok(follower) => break follower,
            Err(error) => wait_after(bus, FollowError::Store(error)).await,
        }
    };
    info!(position = follower.at().0, "the bus is told of everything from here on");
    let to = bus.clone();
    let tell = move |messages: Vec<Message>| -> BoxFuture<'static, Result<(), BrokerError>> {
        let bus = to.clone();
        Box::pin(async move {
            bus.ready().await;
            bus.publish(&messages).await
        })
    };
    let lag = follower.lag();
    let following = async {
        loop {
            if let Err(error) = follower.pass(&tell).await {
                wait_after(bus, error).await;
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = show(&lag) => {}
    }
}

/// Shows how far the bus is behind, also while the broker is away.
async fn show(lag: &Lag) {
    loop {
        gauge!("comity_bus_lag_positions").set(lag.positions() as f64);
        sleep(SHOWN_EVERY).await;
    }
}

async fn wait_after(bus: &Bus, error: FollowError<BrokerError>) {
    match error {
        // The connection says so, and comes back by itself.
        FollowError::Told(_) => bus.ready().await,
        FollowError::Store(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(error, "could not read what the bus is to be told");
        }
    }
    sleep(PAUSE).await;
}
