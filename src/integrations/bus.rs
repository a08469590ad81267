//! The bus: what happens here is published, and what other programs publish is taken.
//!
//! The stream itself is the outbox: the publisher follows it, and notes in the store how far it has come. So a bus costs the
//! way of a message nothing, and what was committed is published even after a crash, once or more often, with the same id.

mod intake;
mod publisher;
mod recent;
mod render;
mod rule;

use std::sync::Arc;

use fabric::{AmqpConfig, Broker, BrokerError, Bus};
use model::Committed;
use rooms::Rooms;
use store::Store;
use tokio_util::sync::CancellationToken;
use users::Users;

use intake::Intake;
use publisher::Publisher;

pub use fabric::bus::BusHealth;
pub use rule::{Rule, RuleError};

/// Where the bus is, and who may say what on it.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// The broker.
    pub amqp: AmqpConfig,
    /// What other programs may say.
    pub rules: Vec<Rule>,
}

/// This server's part in the bus. Cheap to clone.
#[derive(Clone)]
pub struct Integration {
    bus: Bus,
    publisher: Publisher,
    intake: Arc<Intake>,
}

impl Integration {
    /// The bus of `config`, which is not connected to yet.
    pub fn new(config: BusConfig, store: Store, rooms: Rooms, users: Arc<Users>) -> Result<Self, BrokerError> {
        let bus = Bus::new(&config.amqp)?;
        let publisher = Publisher::new(store, bus.clone(), rooms.server_name().to_owned());
        let intake = Arc::new(Intake::new(config.rules, rooms, users));
        Ok(Self { bus, publisher, intake })
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        self.bus.broker()
    }

    /// How it is now.
    pub fn health(&self) -> BusHealth {
        self.bus.health()
    }

    /// Takes note of a commit. Quick, never waits.
    pub fn ingest(&self, committed: &Committed) {
        self.publisher.ingest(committed);
    }

    /// Publishes and takes until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        tokio::join!(self.bus.run(self.intake.clone(), stop.clone()), self.publisher.run(&stop));
    }
}
