//! The bus: what happens here is published, and what other programs publish is taken.
//!
//! Publishing follows the stream ([`crate::follow`]), so that nothing on the way of a message waits for a broker.

mod intake;
mod publisher;
mod rule;

use std::sync::Arc;

use fabric::{AmqpConfig, BrokerError, Bus, LinkState, bus::BusHealth};
use rooms::Rooms;
use tokio_util::sync::CancellationToken;
use users::Users;

use crate::{Announcements, follow::Stream};
use intake::Intake;

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
    stream: Stream,
    intake: Arc<Intake>,
}

impl Integration {
    /// The bus of `config`, which is not connected to yet.
    pub fn new(
        config: BusConfig,
        stream: Stream,
        rooms: Rooms,
        users: Arc<Users>,
        announcements: Announcements,
    ) -> Result<Self, BrokerError> {
        let bus = Bus::new(&config.amqp)?;
        let intake = Arc::new(Intake::new(config.rules, rooms, users, announcements));
        Ok(Self { bus, stream, intake })
    }

    /// What is wrong with it now, each in a sentence without secrets.
    pub fn findings(&self) -> Vec<String> {
        let BusHealth { publishing, consuming } = self.bus.health();
        let finding = |what, state| match state {
            LinkState::Up => None,
            LinkState::New => Some(format!("{what}, for the broker was not reached yet")),
            LinkState::Down { since, error } => {
                let seconds = since.elapsed().as_secs();
                Some(format!("{what} for {seconds} s now: {error}"))
            }
        };
        let (publishing, consuming) =
            (finding("nothing is published", publishing), finding("nothing is taken from other programs", consuming));
        publishing.into_iter().chain(consuming).collect()
    }

    /// Publishes and takes until `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        tokio::join!(self.bus.run(self.intake.clone(), stop.clone()), publisher::run(&self.stream, &self.bus, &stop));
    }
}
