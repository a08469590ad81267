//! A broker's management: over RabbitMQ's HTTP API, what the links with peers need is compared with what is there, made,
//! repaired and taken away.
//!
//! What shall be there is a value, a [`Site`]; what is there is another, a [`Snapshot`]; what has to be done follows from
//! the two, in [`Site::steps`], without asking anybody.
//!
//! `rabbitmq_http_client` does what changes something. What is only read is read here, and no more of it than is needed:
//! its types leave out why a link is down, and refuse answers that other versions of RabbitMQ give.

mod apply;
mod check;
mod link;
pub mod pattern;
mod site;
mod snapshot;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use rabbitmq_http_client::api::{Client, HttpClientError};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::de::DeserializeOwned;
use url::Url;

use crate::file::{self, FileError};
pub use check::plugins_of;
pub use link::{LinkFault, LinkThere, LinkWay};
pub use site::{Parameter, Permission, Policy, Site, SiteUser, Step};
pub use snapshot::{Snapshot, UserThere};

/// How long one request may take, from connecting to the last byte.
const REQUEST: Duration = Duration::from_secs(15);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Where a broker's management is.
#[derive(Clone)]
pub struct ManagementConfig {
    /// `http://` or `https://`, with user and password.
    pub url: String,
    /// PEM: authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for ManagementConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagementConfig").field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

/// The management of a broker. Cheap to clone.
#[derive(Clone)]
pub struct Management {
    shared: Arc<Shared>,
}

struct Shared {
    http: reqwest::Client,
    /// Changes things.
    client: Client<String, String, String>,
    /// `http://127.0.0.1:15672`, without user, password and a slash at the end.
    place: String,
    user: String,
    password: String,
}

/// Why something did not work at a broker's management.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// The URL is none.
    #[error("the URL of the broker's management can't be used: {0}")]
    Url(String),
    /// A file of its TLS can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// TLS can't be set up.
    #[error("TLS with the broker's management can't be set up: {0}")]
    Tls(String),
    /// No answer came.
    #[error("the broker's management at {place} can't be reached: {reason}")]
    Unreachable {
        /// Where it should be.
        place: String,
        /// Why, in a few words.
        reason: String,
    },
    /// It does not know the user, or the user may not.
    #[error("the broker's management at {place} refuses {what} to the user `{user}`")]
    Forbidden {
        /// Where it is.
        place: String,
        /// Who asked.
        user: String,
        /// For what.
        what: String,
    },
    /// It refused for another reason, which is not repeated: it may hold what it was given.
    #[error("the broker's management at {place} refuses {what} ({status})")]
    Refused {
        /// Where it is.
        place: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
    },
    /// It answered something else than was asked for.
    #[error("the broker's management at {place} answers something else than {what}")]
    Answer {
        /// Where it is.
        place: String,
        /// What was asked for.
        what: String,
    },
}

impl Management {
    /// The management of `config`, which is not connected to yet.
    pub fn new(config: &ManagementConfig) -> Result<Self, ManagementError> {
        let url = Url::parse(&config.url).map_err(|error| ManagementError::Url(error.to_string()))?;
        let decoded = |text: &str| pattern::percent_decoded(text);
        let user = Some(decoded(url.username())).filter(|user| !user.is_empty()).unwrap_or_else(|| "guest".to_owned());
        let password = url.password().map_or_else(|| "guest".to_owned(), decoded);
        let mut place = url.clone();
        // Neither fails for a URL that has a host.
        place.set_username("").ok();
        place.set_password(None).ok();
        place.set_query(None);
        let place = place.as_str().trim_end_matches('/').trim_end_matches("/api").to_owned();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(config)?)
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| ManagementError::Tls(error.to_string()))?;
        let endpoint = format!("{place}/api");
        let client = Client::from_http_client(http.clone(), endpoint, user.clone(), password.clone());
        Ok(Self { shared: Arc::new(Shared { http, client, place, user, password }) })
    }

    /// Where it is, without user and password.
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// Who this server is there.
    pub fn user(&self) -> &str {
        &self.shared.user
    }

    /// What the broker calls itself to other brokers.
    pub async fn cluster_name(&self) -> Result<String, ManagementError> {
        #[derive(serde::Deserialize)]
        struct Name {
            name: String,
        }
        Ok(self.get::<Name>("/cluster-name").await?.name)
    }

    /// Gives it another name.
    pub async fn set_cluster_name(&self, name: &str) -> Result<(), ManagementError> {
        self.shared.client.set_cluster_name(name).await.map_err(|error| self.failed(error, "another name"))
    }

    /// Reads what is at `path`, which begins after `/api`.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ManagementError> {
        let Some(found) = self.find(path).await? else {
            let (place, what) = (self.place().to_owned(), path.to_owned());
            return Err(ManagementError::Refused { place, what, status: 404 });
        };
        Ok(found)
    }

    /// As [`Self::get`]; `None`: there is nothing there.
    async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ManagementError> {
        let Shared { http, place, user, password, .. } = &*self.shared;
        let asked = http.get(format!("{place}/api{path}")).basic_auth(user, Some(password)).send().await;
        let answer = asked.map_err(|error| self.unreachable(&error))?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            status => return Err(self.refused(status, path)),
        }
        let body = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        let what = || ManagementError::Answer { place: place.clone(), what: path.to_owned() };
        serde_json::from_slice(&body).map(Some).map_err(|_| what())
    }

    /// Puts `body` to `path`.
    async fn put(&self, path: &str, body: &serde_json::Value, what: &str) -> Result<(), ManagementError> {
        let Shared { http, place, user, password, .. } = &*self.shared;
        let asked = http.put(format!("{place}/api{path}")).basic_auth(user, Some(password)).json(body).send().await;
        let status = asked.map_err(|error| self.unreachable(&error))?.status();
        if status.is_success() { Ok(()) } else { Err(self.refused(status.as_u16(), what)) }
    }

    fn refused(&self, status: u16, what: &str) -> ManagementError {
        let (place, what) = (self.place().to_owned(), what.to_owned());
        match status {
            401 | 403 => ManagementError::Forbidden { place, user: self.user().to_owned(), what },
            status => ManagementError::Refused { place, what, status },
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ManagementError {
        let reason = match error {
            error if error.is_timeout() => "it takes too long",
            error if error.is_connect() => "no connection comes about",
            _ => "the connection broke",
        };
        ManagementError::Unreachable { place: self.place().to_owned(), reason: reason.to_owned() }
    }

    /// What `error` of the library means. What the broker said is left out, for it repeats what it was given.
    fn failed(&self, error: HttpClientError, what: &str) -> ManagementError {
        match (&error, error.status_code()) {
            (HttpClientError::RequestError { error, .. }, _) => self.unreachable(error),
            (HttpClientError::NotFound, _) => self.refused(404, what),
            (_, Some(status)) => self.refused(status.as_u16(), what),
            _ => ManagementError::Answer { place: self.place().to_owned(), what: what.to_owned() },
        }
    }
}

fn tls(config: &ManagementConfig) -> Result<ClientConfig, ManagementError> {
    let unusable = |error: String| ManagementError::Tls(error);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &config.ca_file {
        let pem = file::read(path)?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_is_holds_no_password() {
        let url = "http://ad%20min:p%40ss+1@mq.a.test:15672/api/".to_owned();
        let management = Management::new(&ManagementConfig { url, ca_file: None }).expect("a URL");
        assert_eq!(management.place(), "http://mq.a.test:15672");
        assert_eq!(management.user(), "ad min");
        assert_eq!(management.shared.password, "p@ss+1");
    }
}
