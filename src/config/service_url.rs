//! Where a broker, its management or a cache is.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::Url;

use super::{Secret, human};

/// The URL of a service, with the password if it has one. Prints without it.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceUrl(Secret);

impl ServiceUrl {
    /// The URL itself, for the one place that connects.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Errors never repeat the URL, which may hold a password.
    fn parse(text: &str, schemes: &[&str], expected: &str) -> Result<Self, String> {
        let url = Url::parse(&of_first_host(text)).map_err(|error| format!("{error}; expected {expected}"))?;
        if !schemes.contains(&url.scheme()) {
            return Err(format!("found a URL of scheme {}; expected {expected}", human::quoted(url.scheme())));
        }
        if url.host_str().is_none_or(str::is_empty) && !url.scheme().ends_with("unix") {
            return Err(format!("found a URL without a host; expected {expected}"));
        }
        Ok(Self(text.to_owned().into()))
    }
}

/// Of `scheme://host1,host2/path`, as clusters have it, what can be read as a URL. A password comes before the first host.
fn of_first_host(text: &str) -> String {
    let authority = text.find("://").map_or(0, |at| at + 3);
    let hosts = authority + text[authority..].find('@').map_or(0, |at| at + 1);
    let ends = hosts + text[hosts..].find(['/', '?']).unwrap_or(text.len() - hosts);
    match text[hosts..ends].find(',') {
        Some(comma) => format!("{}{}", &text[..hosts + comma], &text[ends..]),
        None => text.to_owned(),
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Everything but the user, host and path is left out: the query may hold a password too.
        match Url::parse(&of_first_host(self.expose())) {
            Ok(mut url) => {
                if url.password().is_some() {
                    url.set_password(Some("***")).ok();
                }
                url.set_query(None);
                write!(f, "{url}")
            }
            Err(_) => f.write_str("***"),
        }
    }
}

impl Serialize for ServiceUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for ServiceUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Secret::deserialize(deserializer)?))
    }
}

/// Of a broker; an empty text is none.
pub(super) fn amqp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ServiceUrl>, D::Error> {
    read(deserializer, &["amqp", "amqps"], "amqp://USER:PASSWORD@HOST/VHOST, or amqps")
}

/// Of a broker, for others: without user, password and virtual host, which each of them has for itself.
pub(super) fn public_amqp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ServiceUrl>, D::Error> {
    const EXPECTED: &str = "amqps://HOST:PORT, without user, password and virtual host";
    let found = read(deserializer, &["amqp", "amqps"], EXPECTED)?;
    let is_bare = |url: &ServiceUrl| {
        Url::parse(url.expose()).is_ok_and(|url| {
            let is_anonymous = url.username().is_empty() && url.password().is_none();
            is_anonymous && matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none()
        })
    };
    match found {
        Some(url) if !is_bare(&url) => Err(de::Error::custom(format!("found more than that; expected {EXPECTED}"))),
        found => Ok(found),
    }
}

/// Of a broker's management.
pub(super) fn http<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ServiceUrl>, D::Error> {
    read(deserializer, &["http", "https"], "http://USER:PASSWORD@HOST:15672, or https")
}

/// Of a cache.
pub(super) fn redis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ServiceUrl>, D::Error> {
    const SCHEMES: &[&str] =
        &["redis", "rediss", "redis+unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"];
    read(deserializer, SCHEMES, "redis://:PASSWORD@HOST:6379, rediss, redis+cluster or redis+sentinel")
}

fn read<'de, D>(deserializer: D, schemes: &[&str], expected: &str) -> Result<Option<ServiceUrl>, D::Error>
where
    D: Deserializer<'de>,
{
    let Some(text) = Option::<Secret>::deserialize(deserializer)? else { return Ok(None) };
    ServiceUrl::parse(text.expose(), schemes, expected).map(Some).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_holds_no_password() {
        let url = ServiceUrl::parse("amqp://us:secret@mq.a.test/im?password=secret", &["amqp"], "").expect("a URL");
        assert_eq!(format!("{url:?}"), "amqp://us:***@mq.a.test/im");
    }

    #[test]
    fn several_hosts_are_a_url_of_a_cluster() {
        let text = "redis+cluster://:secret@h1:7000,h2:7001/0";
        let url = ServiceUrl::parse(text, &["redis+cluster"], "").expect("a URL");
        assert_eq!((url.expose(), format!("{url:?}")), (text, "redis+cluster://:***@h1:7000/0".to_owned()));
    }

    #[test]
    fn a_url_of_something_else_is_refused_without_being_repeated() {
        let refused = ServiceUrl::parse("http://us:secret@mq.a.test", &["amqp"], "amqp://HOST").expect_err("no broker");
        assert!(
            refused.contains("http") && refused.contains("amqp://HOST") && !refused.contains("secret"),
            "{refused}"
        );
    }
}
