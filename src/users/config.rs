//! `[accounts]`, `[registration]` and `[rate_limits]`.

use std::{fmt, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// `[accounts]`: passwords, sessions and profiles.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountsConfig {
    /// The shortest password that is taken, in characters.
    pub min_password_length: usize,
    /// How many passwords are hashed at once; each takes 19 MiB and some 20 ms of a core.
    pub concurrent_hashes: usize,
    /// How many wrong passwords for one account in a row cost nothing; after them each costs a wait that doubles, up to
    /// a minute. 0: never a wait.
    pub failed_logins_allowed: u32,
    /// How many sessions are remembered in memory.
    pub session_cache: usize,
    /// How long an access token lasts that can be refreshed.
    pub access_token_lifetime: Span,
    /// How long a login token lasts, which one device makes for another.
    pub login_token_lifetime: Span,
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
            failed_logins_allowed: 10,
            session_cache: 20_000,
            access_token_lifetime: Span(Duration::from_secs(300)),
            login_token_lifetime: Span(Duration::from_secs(120)),
            change_display_name: true,
            change_avatar: true,
        }
    }
}

/// `[registration]`: who may make an account.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrationConfig {
    /// Whether people may make accounts.
    pub enabled: bool,
    /// A token that they must know.
    pub token: Option<String>,
    /// More such tokens.
    pub tokens: Vec<String>,
    /// Who knows it may make any account by `/_synapse/admin/v1/register`, as existing tools do.
    pub shared_secret: Option<String>,
    /// Whether an account needs an e-mail address.
    pub require_email: bool,
    /// Whether guests are let in.
    pub allow_guests: bool,
}

/// Secrets stay out of logs.
impl fmt::Debug for RegistrationConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationConfig")
            .field("enabled", &self.enabled)
            .field("require_email", &self.require_email)
            .field("allow_guests", &self.allow_guests)
            .finish_non_exhaustive()
    }
}

impl RegistrationConfig {
    /// Every registration token.
    pub(crate) fn all_tokens(&self) -> impl Iterator<Item = &str> {
        self.token.iter().chain(&self.tokens).map(String::as_str)
    }
}

/// `[rate_limits]`: how often one may ask.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
}

impl Default for RateLimitsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            login_address: Rate::new(30, 60, 30),
            login_account: Rate::new(10, 60, 10),
            registration: Rate::new(10, 60, 10),
            messages: Rate::new(10, 1, 50),
        }
    }
}

/// So many in a span of time, and so many at once.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// How many…
    pub count: NonZeroU32,
    /// … in how long.
    pub per: Span,
    /// How many at once after a rest.
    pub burst: NonZeroU32,
}

impl Rate {
    fn new(count: u32, seconds: u64, burst: u32) -> Self {
        Self {
            count: NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN),
            per: Span(Duration::from_secs(seconds)),
            burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN),
        }
    }

    /// How long until one more may come.
    pub(crate) fn period(&self) -> Duration {
        (self.per.0 / self.count.get()).max(Duration::from_nanos(1))
    }
}

/// A length of time as people write it: `500ms`, `30s`, `5m`, `2h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
        let (count, unit) = text.split_at(unit_at);
        let count: u64 = count.parse().ok()?;
        let millis: u64 = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        Some(Self(Duration::from_millis(count.checked_mul(millis)?)))
    }

    pub(crate) fn as_millis(&self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX / 2)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom(format!("`{text}` is no length of time: write 500ms, 30s, 5m, 2h or 7d")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_people_write_them() {
        assert_eq!(Span::parse("30s"), Some(Span(Duration::from_secs(30))));
        assert_eq!(Span::parse("500ms"), Some(Span(Duration::from_millis(500))));
        assert_eq!(Span::parse("7d"), Some(Span(Duration::from_secs(7 * 86_400))));
        for wrong in ["", "s", "3", "3 weeks", "-1s", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(Span::parse(wrong), None, "{wrong}");
        }
    }

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
