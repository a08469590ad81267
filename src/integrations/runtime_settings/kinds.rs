//! What can be set, what it may be, and what the configuration says of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use users::{Rate, RateLimitsConfig};

use super::SettingError;

/// No window is longer: ten years.
pub(super) const LONGEST_WINDOW: u64 = 10 * 365 * 24 * 60 * 60_000;

/// What a rate may be: once a day and slower is no rate.
const SLOWEST: f64 = 0.000_02;
const FASTEST: f64 = 1_000_000.0;
const LARGEST_BURST: u32 = 1_000_000;

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Registration,
    Approval,
    RecallWindow,
    Limits,
    Limit(Limit),
    LogFilter,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Login,
    Registration,
    Messages,
    Joins,
}

pub(super) const NAMES: [Name; 9] = [
    Name::Registration,
    Name::Approval,
    Name::RecallWindow,
    Name::Limits,
    Name::Limit(Limit::Login),
    Name::Limit(Limit::Registration),
    Name::Limit(Limit::Messages),
    Name::Limit(Limit::Joins),
    Name::LogFilter,
];

impl Name {
    /// As in the configuration.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registration.enabled",
            Self::Approval => "registration.approval",
            Self::RecallWindow => "rooms.recall_window",
            Self::Limits => "rate_limits.enabled",
            Self::Limit(Limit::Login) => "rate_limits.login",
            Self::Limit(Limit::Registration) => "rate_limits.registration",
            Self::Limit(Limit::Messages) => "rate_limits.messages",
            Self::Limit(Limit::Joins) => "rate_limits.joins",
            Self::LogFilter => "logging.filter",
        }
    }

    pub(super) fn find(text: &str) -> Result<Self, SettingError> {
        NAMES.into_iter().find(|name| name.as_str() == text).ok_or(SettingError::Unknown)
    }

    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Registration => "Whether people may make accounts: true or false.",
            Self::Approval => "Whether an account waits until an admin approves of it: true or false.",
            Self::RecallWindow => {
                "For how long people may take back what they said, on the native API: milliseconds; 0: for ever."
            }
            Self::Limits => "Whether any of the limits holds: true or false.",
            Self::Limit(Limit::Login) => {
                "Logins from one address: {\"per_second\", \"burst\"}, a bucket of `burst` (1 to 1000000) that refills at \
                 `per_second` (0.00002 to 1000000)."
            }
            Self::Limit(Limit::Registration) => {
                "Registrations from one address: {\"per_second\", \"burst\"}, as logins."
            }
            Self::Limit(Limit::Messages) => "Events that one user sends: {\"per_second\", \"burst\"}, as logins.",
            Self::Limit(Limit::Joins) => "Rooms that one user joins: {\"per_second\", \"burst\"}, as logins.",
            Self::LogFilter => {
                "What is logged: error, warn, info, debug or trace; or directives such as \"info,rooms=debug\". Set here, it \
                 wins over the environment too."
            }
        }
    }
}

/// A bucket of `burst` that refills at `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRate {
    /// How many come again in a second.
    pub per_second: f64,
    /// How many at once after a rest.
    pub burst: u32,
}

impl SetRate {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let rate = Self::deserialize(value).ok()?;
        let is_right = SLOWEST <= rate.per_second && rate.per_second <= FASTEST;
        (is_right && (1..=LARGEST_BURST).contains(&rate.burst)).then_some(rate)
    }
}

impl From<SetRate> for Rate {
    fn from(rate: SetRate) -> Self {
        Self::per_second(rate.per_second, rate.burst)
    }
}

/// `[rate_limits]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetLimits {
    /// Whether any of them holds.
    pub enabled: bool,
    /// Logins from one address, and to one account.
    pub login: SetRate,
    /// Registrations from one address.
    pub registration: SetRate,
    /// Events that one user sends.
    pub messages: SetRate,
    /// Rooms that one user joins.
    pub joins: SetRate,
}

impl SetLimits {
    pub(super) fn rate(&self, limit: Limit) -> SetRate {
        match limit {
            Limit::Login => self.login,
            Limit::Registration => self.registration,
            Limit::Messages => self.messages,
            Limit::Joins => self.joins,
        }
    }
}

impl From<SetLimits> for RateLimitsConfig {
    fn from(set: SetLimits) -> Self {
        Self {
            enabled: set.enabled,
            login_address: set.login.into(),
            login_account: set.login.into(),
            registration: set.registration.into(),
            messages: set.messages.into(),
            joins: set.joins.into(),
        }
    }
}

/// What the file says, or what holds where it says nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Configured {
    /// `registration.enabled`.
    pub registration: bool,
    /// `registration.approval`.
    pub approval: bool,
    /// `rooms.recall_window`.
    pub recall_window: Duration,
    /// `rate_limits`.
    pub rate_limits: SetLimits,
    /// `logging.filter`, or what the environment says in its place.
    pub log_filter: String,
}

impl Configured {
    pub(super) fn value(&self, name: Name) -> Value {
        match name {
            Name::Limits => self.rate_limits.enabled.into(),
            Name::Limit(limit) => json!(self.rate_limits.rate(limit)),
            Name::LogFilter => self.log_filter.clone().into(),
            Name::Registration => self.registration.into(),
            Name::Approval => self.approval.into(),
            Name::RecallWindow => u64::try_from(self.recall_window.as_millis()).unwrap_or(LONGEST_WINDOW).into(),
        }
    }
}
