//! How accounts, registration and rate limits behave.

use std::{fmt, num::NonZeroU32, time::Duration};

/// `[accounts]`: passwords, sessions and profiles.
#[derive(Clone, Debug)]
pub struct AccountsConfig {
    /// The shortest password that is taken, in characters.
    pub min_password_length: usize,
    /// How many passwords are hashed at once.
    pub concurrent_hashes: usize,
    /// What hashing one of them costs.
    pub hash_costs: HashCosts,
    /// How many wrong passwords for one account in a row cost nothing; after them each costs a wait that doubles, up to
    /// a minute. 0: never a wait.
    pub failed_logins_allowed: u32,
    /// How many sessions are remembered in memory.
    pub session_cache: usize,
    /// How long an access token lasts that can be refreshed.
    pub access_token_lifetime: Duration,
    /// How long an access token lasts that other programs can verify; it can be refreshed too.
    pub signed_token_lifetime: Duration,
    /// How long a session goes on in which nobody is seen; `None`: as long as it takes. Five minutes at least.
    pub session_idle: Option<Duration>,
    /// How long a session goes on at most; `None`: as long as it takes.
    pub session_lifetime: Option<Duration>,
    /// How long a code is good that is sent by e-mail.
    pub code_lifetime: Duration,
    /// How long a login token lasts, which one device makes for another.
    pub login_token_lifetime: Duration,
    /// Whether users may change their display names.
    pub change_display_name: bool,
    /// Whether users may change their avatars.
    pub change_avatar: bool,
}

impl Default for AccountsConfig {
    fn default() -> Self {
        Self {
            min_password_length: 1,
            concurrent_hashes: 2,
            hash_costs: HashCosts::default(),
            failed_logins_allowed: 10,
            session_cache: 20_000,
            access_token_lifetime: Duration::from_secs(300),
            signed_token_lifetime: Duration::from_secs(900),
            session_idle: None,
            session_lifetime: None,
            code_lifetime: Duration::from_secs(600),
            login_token_lifetime: Duration::from_secs(120),
            change_display_name: true,
            change_avatar: true,
        }
    }
}

/// `[applications]`: back ends of others that may use this server.
#[derive(Clone, Debug)]
pub struct ApplicationsConfig {
    /// How far the time in a signed request may be from now, before and after.
    pub signature_window: Duration,
    /// How long a session goes on at most that an application opens for a user.
    pub session_lifetime: Duration,
}

impl Default for ApplicationsConfig {
    fn default() -> Self {
        Self { signature_window: Duration::from_mins(5), session_lifetime: Duration::from_hours(24 * 30) }
    }
}

/// `[registration]`: who may make an account.
#[derive(Clone, Default)]
pub struct RegistrationConfig {
    /// Whether people may make accounts.
    pub enabled: bool,
    /// A token that they must know.
    pub token: Option<String>,
    /// More such tokens.
    pub tokens: Vec<String>,
    /// Whether an account waits until an admin approves of it.
    pub approval: bool,
    /// Whether somebody who registers must show to have an e-mail address.
    pub require_email: bool,
    /// Who knows it may make any account by `/_synapse/admin/v1/register`, as existing tools do.
    pub shared_secret: Option<String>,
}

/// Secrets stay out of logs.
impl fmt::Debug for RegistrationConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationConfig").field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

impl RegistrationConfig {
    /// Every registration token.
    pub(crate) fn all_tokens(&self) -> impl Iterator<Item = &str> {
        self.token.iter().chain(&self.tokens).map(String::as_str)
    }
}

/// `[rate_limits]`: how often one may ask.
#[derive(Clone, Debug)]
pub struct RateLimitsConfig {
    /// Whether there are any limits.
    pub enabled: bool,
    /// Attempts to log in from one address.
    pub login_address: Rate,
    /// Attempts to log in to one account.
    pub login_account: Rate,
    /// Attempts to register from one address.
    pub registration: Rate,
    /// Events that one user sends.
    pub messages: Rate,
    /// Rooms that one user joins.
    pub joins: Rate,
}

impl Default for RateLimitsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            login_address: Rate::new(30, 60, 30),
            login_account: Rate::new(10, 60, 10),
            registration: Rate::new(10, 60, 10),
            messages: Rate::new(10, 1, 50),
            joins: Rate::new(1, 2, 10),
        }
    }
}

/// So many in a span of time, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many…
    pub count: NonZeroU32,
    /// … in how long.
    pub per: Duration,
    /// How many at once after a rest.
    pub burst: NonZeroU32,
}

/// What hashing one password with Argon2id costs.
#[derive(Clone, Copy, Debug)]
pub struct HashCosts {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub iterations: u32,
    /// Lanes that can be computed at the same time.
    pub parallelism: u32,
}

/// OWASP's advice.
impl Default for HashCosts {
    fn default() -> Self {
        Self { memory_kib: 19_456, iterations: 2, parallelism: 1 }
    }
}

impl Rate {
    /// A bucket of `burst` that refills at `per_second`, which is at least once a day.
    pub fn per_second(per_second: f64, burst: u32) -> Self {
        let period = Duration::from_secs_f64(1.0 / per_second.max(1.0 / 86_400.0));
        Self { count: NonZeroU32::MIN, per: period, burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN) }
    }

    fn new(count: u32, seconds: u64, burst: u32) -> Self {
        Self {
            count: NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN),
            per: Duration::from_secs(seconds),
            burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN),
        }
    }

    /// How long until one more may come.
    pub(crate) fn period(&self) -> Duration {
        (self.per / self.count.get()).max(Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let config = RegistrationConfig {
            token: Some("hush".into()),
            shared_secret: Some("hush".into()),
            ..RegistrationConfig::default()
        };
        assert!(!format!("{config:?}").contains("hush"));
    }
}
