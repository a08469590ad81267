//! Where a database is.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::Url;

use super::{Secret, human};

/// A database of one of the two engines. Prints without the password.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file.
    Sqlite(PathBuf),
    /// A `postgres://` URL, with the password if it has one.
    Postgres(Secret),
}

impl DatabaseUrl {
    const EXPECTED: &str = "expected sqlite://PATH or postgres://USER:PASSWORD@HOST/DATABASE";

    /// Errors never repeat the URL, which may hold a password.
    fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(format!("found text that is not a URL; {}", Self::EXPECTED));
        };
        match scheme {
            "sqlite" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() || path.starts_with(':') || path.contains('?') {
                    return Err("found a SQLite URL without a plain file path; expected sqlite://PATH, such as \
                                sqlite://data/comity.db or sqlite:///var/lib/comity/comity.db"
                        .to_owned());
                }
                Ok(Self::Sqlite(path.into()))
            }
            "postgres" | "postgresql" => {
                let url = Url::parse(text).map_err(|error| format!("{error}; {}", Self::EXPECTED))?;
                if url.path().trim_start_matches('/').is_empty() {
                    return Err(format!("found a PostgreSQL URL without a database; {}", Self::EXPECTED));
                }
                Ok(Self::Postgres(text.to_owned().into()))
            }
            scheme if Url::parse(text).is_ok() => {
                Err(format!("found a URL of scheme {}; {}", human::quoted(scheme), Self::EXPECTED))
            }
            _ => Err(format!("found text that is not a URL; {}", Self::EXPECTED)),
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            // Everything but the user, host and database is left out: the query may hold a password too.
            Self::Postgres(url) => match Url::parse(url.expose()) {
                Ok(mut url) => {
                    if url.password().is_some() {
                        url.set_password(Some("***")).ok();
                    }
                    url.set_query(None);
                    write!(f, "{url}")
                }
                Err(_) => f.write_str("postgres://***"),
            },
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(Secret::deserialize(deserializer)?.expose()).map_err(de::Error::custom)
    }
}

impl From<&DatabaseUrl> for store::Location {
    fn from(url: &DatabaseUrl) -> Self {
        match url {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(path.clone()),
            DatabaseUrl::Postgres(url) => Self::Postgres(url.expose().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        for url in
            ["postgres://comity:hunter2@db.example/comity", "postgres://comity@db.example/comity?password=hunter2"]
        {
            let url = DatabaseUrl::parse(url).expect("it is a database URL");
            assert!(!format!("{url} {url:?}").contains("hunter2"), "{url}");
        }
        for wrong in ["mysql://comity:hunter2@db/comity", "postgres//comity:hunter2@db/comity", "comity:hunter2"] {
            let error = DatabaseUrl::parse(wrong).expect_err("it is no database URL");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_sqlite_url_is_a_path() {
        let path = |url| DatabaseUrl::parse(url).map(|url| url.to_string());
        assert_eq!(path("sqlite://data/a.db").as_deref(), Ok("sqlite://data/a.db"));
        assert_eq!(path("sqlite:///var/a.db").as_deref(), Ok("sqlite:///var/a.db"));
        assert!(path("sqlite::memory:").is_err());
        assert!(path("sqlite://data/a.db?mode=ro").is_err());
    }
}
