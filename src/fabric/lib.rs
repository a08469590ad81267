//! What several nodes and other programs meet at: brokers and caches, each with a body in this process and one that is a server; and the
//! relay that takes letters.
//!
//! **Invariant.** The store is the truth, and what is here is a hint. Losing the broker or the cache delays; it never loses.

pub mod amqp;
pub mod bus;
pub mod cache;
mod file;
pub mod line;
pub mod mail;
pub mod management;
pub mod naming;
mod wakeups;

pub use amqp::{AmqpConfig, Broker, BrokerError, Link, LinkState};
pub use bus::Bus;
pub use cache::{Cache, CacheConfig, CacheError};
pub use file::FileError;
pub use line::Line;
pub use mail::{Courier, Letter, MailConfig, MailError, MailTls, Mailer};
pub use management::{Management, ManagementConfig, ManagementError};
pub use wakeups::WakeUps;
