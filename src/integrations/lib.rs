//! What other programs are told of, and what they may say: the bus, webhooks, system events and broadcasts, the cascade.
//!
//! **Invariant.** Nothing here is on the way of a message: what other programs are told is read behind it, from the one stream. The one
//! exception is wanted: words that are looked for ([`content_rules`]), and who is to be asked before something happens ([`webhooks`]),
//! come first, outside anybody's turn.

mod announcements;
pub mod broadcasts;
pub mod bus;
pub mod cascade;
pub mod content_rules;
mod follow;
pub mod notices;
pub mod notifications;
pub mod push;
pub mod runtime_settings;
pub mod statistics;
pub mod system_events;
pub mod webhooks;

pub use announcements::{Announcements, AnnouncementsConfig};
pub use bus::{BusConfig, Integration, Rule, RuleError};
pub use cascade::{Cascade, CascadeConfig, CascadeError};
pub use content_rules::{ContentRuleError, ContentRules};
pub use follow::Stream;
pub use push::{PushConfig, PushParts, PusherError, PusherWish, Pushers};
pub use runtime_settings::RuntimeSettings;
pub use statistics::Statistics;
pub use webhooks::{AnyWebhook, BeforeHook, Webhook, WebhookError, Webhooks};

use std::time::{SystemTime, UNIX_EPOCH};

use model::Millis;

/// Milliseconds since 1970.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
