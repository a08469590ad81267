//! Values as people write them. Each error says what was found and what would be right.

use std::{net::SocketAddr, str::FromStr};

use model::peer::TrustLevel;
use ruma::{OwnedServerName, RoomVersionId, ServerName};
use serde::{Deserialize as _, Deserializer, de};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::{EmailTls, LinkKind, LogFormat, MediaStorage};

/// A value in quotes, shortened and without line breaks.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let shown: String = text.chars().take(LONGEST).collect();
    let rest = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{rest}")
}

/// One value of whatever type, as it stands in a file or in the environment.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Scalar {
    Whole(i64),
    Real(f64),
    Truth(bool),
    Text(String),
    Other(de::IgnoredAny),
}

impl Scalar {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    /// What was found, for an error.
    fn shown(&self) -> String {
        match self {
            Self::Whole(number) => number.to_string(),
            Self::Real(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
            Self::Text(text) => quoted(text),
            Self::Other(_) => "a list or a section".to_owned(),
        }
    }

    fn wrong<T, E: de::Error>(&self, expected: &str) -> Result<T, E> {
        Err(E::custom(format!("found {}; expected {expected}", self.shown())))
    }
}

/// A text that `parse` understands.
fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let found = Scalar::read(deserializer)?;
    match &found {
        Scalar::Text(text) => parse(text).map_or_else(|| found.wrong(expected), Ok),
        _ => found.wrong(expected),
    }
}

/// A number, also in quotes, since the environment has nothing but text.
fn number<T: FromStr>(found: &Scalar) -> Option<T> {
    match found {
        Scalar::Whole(_) | Scalar::Real(_) => found.shown().parse().ok(),
        Scalar::Text(text) => text.trim().parse().ok(),
        Scalar::Truth(_) | Scalar::Other(_) => None,
    }
}

/// A whole number from `MIN` to `MAX`.
pub fn whole<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(deserializer: D) -> Result<u32, D::Error> {
    let found = Scalar::read(deserializer)?;
    match number(&found).filter(|number| (MIN..=MAX).contains(number)) {
        Some(number) => Ok(number),
        None => found.wrong(&format!("a whole number from {MIN} to {MAX}")),
    }
}

/// A number above 0.
pub fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let found = Scalar::read(deserializer)?;
    match number(&found).filter(|rate: &f64| *rate > 0.0 && rate.is_finite()) {
        Some(rate) => Ok(rate),
        None => found.wrong("a number above 0, such as 0.2"),
    }
}

/// A domain with an optional port.
pub fn server_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OwnedServerName, D::Error> {
    let expected = "a domain, such as chat.example.org, without scheme, path or user";
    text(deserializer, expected, |name| ServerName::parse(name).ok())
}

/// An `http` or `https` URL without query.
pub fn base_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    let is_base = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    let expected = "a URL without user and query, such as https://chat.example.org";
    text(deserializer, expected, |url| Url::parse(url).ok().filter(is_base)).map(Some)
}

/// An address and a port.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    text(deserializer, "an IP address and a port, such as 127.0.0.1:8008 or [::]:8008", |address| address.parse().ok())
}

/// A room version this server speaks.
pub fn room_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoomVersionId, D::Error> {
    let supported = model::supported_room_versions();
    let names: Vec<_> = supported.iter().map(RoomVersionId::as_str).collect();
    let expected = format!("one of the room versions {}, in quotes", names.join(", "));
    text(deserializer, &expected, |name| supported.iter().find(|version| version.as_str() == name).cloned())
}

/// A level of the trust table.
pub fn trust_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustLevel, D::Error> {
    text(deserializer, "one of the levels full, limited, restricted, blocked, in quotes", |level| level.parse().ok())
}

/// `text` or `json`.
pub fn log_format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LogFormat, D::Error> {
    text(deserializer, "\"text\" or \"json\"", |format| match format {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    })
}

/// `folder` or `s3`.
pub fn media_storage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MediaStorage, D::Error> {
    text(deserializer, "\"folder\" or \"s3\"", |storage| match storage {
        "folder" => Some(MediaStorage::Folder),
        "s3" => Some(MediaStorage::S3),
        _ => None,
    })
}

/// A port that can be connected to.
pub fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let found = Scalar::read(deserializer)?;
    match number(&found).filter(|port| *port > 0) {
        Some(port) => Ok(port),
        None => found.wrong("a port, a whole number from 1 to 65535"),
    }
}

/// `"none"`, `"starttls"` or `"tls"`.
pub fn email_tls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EmailTls, D::Error> {
    text(deserializer, "\"none\", \"starttls\" or \"tls\"", |kind| match kind {
        "none" => Some(EmailTls::None),
        "starttls" => Some(EmailTls::StartTls),
        "tls" => Some(EmailTls::Tls),
        _ => None,
    })
}

/// `"upstream"` or `"shovel"`.
pub fn link_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LinkKind, D::Error> {
    text(deserializer, "\"upstream\" or \"shovel\"", |kind| match kind {
        "upstream" => Some(LinkKind::Upstream),
        "shovel" => Some(LinkKind::Shovel),
        _ => None,
    })
}

/// Directives of `tracing_subscriber`.
pub fn log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let expected = "error, warn, info, debug or trace, or directives such as info,rooms=debug";
    text(deserializer, expected, |filter| is_log_filter(filter).then(|| filter.to_owned()))
}

/// `EnvFilter` takes a word that is no level for the name of a module; alone, such a word would silence everything.
pub fn is_log_filter(filter: &str) -> bool {
    let is_level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    EnvFilter::try_new(filter).is_ok()
        && filter.split(',').all(|part| part.contains(['=', '[']) || is_level(part.trim()))
}

/// `"90s"`, `"15m"`, `"1h 30m"`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::text(deserializer, "a duration above 0 with its unit, such as \"30s\" or \"5m\"", |text| {
            humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero())
        })
    }
}

/// `"30d"`, or `"never"`.
pub mod patience {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    const NEVER: &str = "never";
    const LEAST: Duration = Duration::from_mins(5);

    pub fn serialize<S: Serializer>(length: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match length {
            Some(length) => serializer.collect_str(&humantime::format_duration(*length)),
            None => serializer.serialize_str(NEVER),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::text(
            deserializer,
            "a duration of at least 5 minutes, such as \"30d\", or \"never\"",
            |text| match text {
                NEVER => Some(None),
                text => humantime::parse_duration(text).ok().filter(|length| *length >= LEAST).map(Some),
            },
        )
    }
}

/// `"error"`, or `"never"`.
pub mod severity {
    use integrations::system_events::Severity;
    use serde::{Deserializer, Serializer};

    const NEVER: &str = "never";

    pub fn serialize<S: Serializer>(severity: &Option<Severity>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(severity.map_or(NEVER, Severity::as_str))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Severity>, D::Error> {
        super::text(deserializer, "info, notice, warning, error, critical or never", |text| match text {
            NEVER => Some(None),
            word => Severity::named(word).map(Some),
        })
    }
}

/// `"4 MiB"`, `"64 KiB"`.
pub mod size {
    use bytesize::ByteSize;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(size)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        super::text(deserializer, "a size of at least \"64 KiB\" with its unit, such as \"4 MiB\"", read)
    }

    pub fn read(text: &str) -> Option<ByteSize> {
        let has_unit = text.trim_end().ends_with(char::is_alphabetic);
        text.parse().ok().filter(|size| has_unit && *size >= ByteSize::kib(64))
    }
}

/// `"10 GiB"`, or `"none"` for no limit at all.
pub mod quota {
    use bytesize::ByteSize;
    use serde::{Deserializer, Serializer};

    const NONE: &str = "none";

    pub fn serialize<S: Serializer>(quota: &Option<ByteSize>, serializer: S) -> Result<S::Ok, S::Error> {
        match quota {
            Some(size) => serializer.collect_str(size),
            None => serializer.serialize_str(NONE),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
        super::text(deserializer, "none, or a size of at least \"64 KiB\" with its unit, such as \"10 GiB\"", |text| {
            if text == NONE { Some(None) } else { super::size::read(text).map(Some) }
        })
    }
}
