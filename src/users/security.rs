//! What the keepers of a server want to hear of: signs that somebody is after an account.

use std::sync::OnceLock;

use metrics::counter;
use ruma::{OwnedDeviceId, OwnedUserId};
use tracing::warn;

use crate::Users;

/// A sign that somebody is after an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityEvent {
    /// A refresh token was used again after its successor was: two have it. The session has been ended.
    RefreshTokenReused {
        /// Whose.
        user_id: OwnedUserId,
        /// Of which session.
        device_id: OwnedDeviceId,
    },
}

impl SecurityEvent {
    /// What it is called: `refresh_token_reused`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RefreshTokenReused { .. } => "refresh_token_reused",
        }
    }
}

/// Hears of signs that somebody is after an account. Must not block.
pub type OnSecurityEvent = Box<dyn Fn(&SecurityEvent) + Send + Sync>;

/// Who hears of them.
#[derive(Default)]
pub(crate) struct Watch(OnceLock<OnSecurityEvent>);

impl Users {
    /// Tells `listener` of signs that somebody is after an account. Only the first who wants that is told.
    pub fn on_security_event(&self, listener: OnSecurityEvent) {
        self.watch.0.get_or_init(|| listener);
    }

    pub(crate) fn alarm(&self, event: &SecurityEvent) {
        counter!("comity_security_events_total", "event" => event.name()).increment(1);
        match event {
            SecurityEvent::RefreshTokenReused { user_id, device_id } => {
                warn!(user.id = %user_id, device.id = %device_id, security = event.name(), "a refresh token of {user_id} was used \
                    by two: the session was ended");
            }
        }
        if let Some(tell) = self.watch.0.get() {
            tell(event);
        }
    }
}
