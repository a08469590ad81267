//! What other programs are told of, and what they may say: the bus, webhooks, system events and broadcasts, the cascade.
//!
//! **Invariant.** Nothing here is on the way of a message: what other programs are told is read behind it, from the one stream. The one
//! exception is wanted: who is to be asked before something happens ([`webhooks`]) is asked first, outside anybody's turn.

mod announcements;
pub mod broadcasts;
pub mod bus;
pub mod cascade;
mod follow;
pub mod notices;
pub mod notifications;
pub mod system_events;
pub mod webhooks;

pub use announcements::{Announcements, AnnouncementsConfig};
pub use bus::{BusConfig, Integration, Rule, RuleError};
pub use cascade::{Cascade, CascadeConfig, CascadeError};
pub use follow::Stream;
pub use webhooks::{AnyWebhook, BeforeHook, Webhook, WebhookError, Webhooks};

use std::time::{SystemTime, UNIX_EPOCH};

use model::Millis;

/// Milliseconds since 1970.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
