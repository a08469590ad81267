//! Making, looking at and changing applications, as an administrator. All of it is in the audit log.

use futures_util::FutureExt as _;
use ipnet::IpNet;
use model::Millis;
use peers::{
    trust::{Audited, Author},
    vault,
};
use store::{
    Write,
    applications::{self, SecretRow},
};
use tracing::info;
use zeroize::Zeroizing;

use super::{AppScope, Application, ApplicationError};
use crate::{Users, secrets::new_token};

/// For what secrets are sealed.
pub(super) const SEALED_FOR: &str = "application";
/// How many there may be.
const MOST: i64 = 1_000;
/// How many secrets of one may be good at once.
const MOST_SECRETS: usize = 5;
/// How many networks one may name.
const MOST_NETWORKS: usize = 100;
/// The longest name, in characters.
const LONGEST_NAME: usize = 60;
/// The most requests a second, and at once.
const MOST_REQUESTS: u32 = 10_000;
/// How many an application may send that nothing is said of.
const USUAL_PER_SECOND: u32 = 20;
const USUAL_BURST: u32 = 100;
/// The longest that an old secret goes on, in milliseconds: 30 days.
const LONGEST_OVERLAP: Millis = 30 * 24 * 60 * 60_000;

/// An application that is wanted.
#[derive(Clone, Debug, Default)]
pub struct NewApplication {
    /// What people see.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<AppScope>,
    /// From which networks or addresses; none: from anywhere.
    pub addresses: Vec<String>,
    /// How many requests a second; `None`: 20.
    pub per_second: Option<u32>,
    /// How many at once after a rest; `None`: 100.
    pub burst: Option<u32>,
    /// From then on it may do nothing.
    pub expires_at: Option<Millis>,
}

/// What is to become of an application. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ApplicationChange {
    /// What people see.
    pub name: Option<String>,
    /// What it may do.
    pub scopes: Option<Vec<AppScope>>,
    /// From which networks or addresses.
    pub addresses: Option<Vec<String>>,
    /// How many requests a second.
    pub per_second: Option<u32>,
    /// How many at once after a rest.
    pub burst: Option<u32>,
    /// From then on it may do nothing; `Some(None)`: never.
    pub expires_at: Option<Option<Millis>>,
    /// It may do nothing, or something again.
    pub disabled: Option<bool>,
}

/// What is known of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationSecret {
    /// Its own name.
    pub id: String,
    /// When it was made.
    pub created_at: Millis,
    /// From then on it is no good; `None`: it is the one to use.
    pub expires_at: Option<Millis>,
}

/// An application that was made, or that has another secret.
pub struct MadeApplication {
    /// As it is now.
    pub application: Application,
    /// What it signs its requests with. It is told this once.
    pub secret: Zeroizing<String>,
}

impl Users {
    /// Makes an application, with a secret.
    pub async fn create_application(
        &self,
        wish: NewApplication,
        author: &Author,
    ) -> Result<MadeApplication, ApplicationError> {
        if self.store.applications().count().await? >= MOST {
            return Err(ApplicationError::TooMany(MOST));
        }
        let app_key = new_token("app");
        let app_key = app_key[..app_key.len().min(28)].to_owned();
        let now = self.now();
        let NewApplication { name, scopes, addresses, per_second, burst, expires_at } = wish;
        let mut application = Application {
            app_key: app_key.clone(),
            name: String::new(),
            scopes: Vec::new(),
            addresses: Vec::new(),
            per_second: USUAL_PER_SECOND,
            burst: USUAL_BURST,
            expires_at: None,
            disabled_at: None,
            version: 0,
            created_by: author.actor.clone(),
            created_at: now,
            changed_at: now,
        };
        let change = ApplicationChange {
            name: Some(name),
            scopes: Some(scopes),
            addresses: Some(addresses),
            per_second,
            burst,
            expires_at: Some(expires_at),
            disabled: None,
        };
        apply(&mut application, &change, now)?;
        let (secret, row) = self.new_secret(&app_key)?;
        let (application, row) = (&application, &row);
        let step = |number| {
            async move {
                let application = Application { version: number, ..application.clone() };
                let mut write = Write::new();
                applications::put(&mut write, &application.row());
                applications::rotate(&mut write, &application.app_key, row, now);
                let after = Some(application.told().to_string());
                Ok::<_, ApplicationError>(Audited { write, before: None, after, outcome: application })
            }
            .boxed()
        };
        let application = self.peers.trust().audited("application.created", &app_key, author, step).await?;
        info!(app_key, actor = author.actor, "the application {} was made", application.name);
        Ok(MadeApplication { application, secret })
    }

    /// One of them.
    pub async fn application(&self, app_key: &str) -> Result<Application, ApplicationError> {
        // PostgreSQL takes no text with a NUL.
        if app_key.contains('\0') {
            return Err(ApplicationError::Unknown);
        }
        let row = self.store.applications().find(app_key).await?.ok_or(ApplicationError::Unknown)?;
        Ok(row.try_into()?)
    }

    /// Up to `limit` whose keys follow `after`, in the order of their keys.
    pub async fn applications(&self, after: &str, limit: u32) -> Result<Vec<Application>, ApplicationError> {
        if after.contains('\0') {
            return Err(ApplicationError::Field {
                field: "cursor",
                wrong: "is none that was answered here".to_owned(),
            });
        }
        let rows = self.store.applications().list(after, limit).await?;
        Ok(rows.into_iter().map(Application::try_from).collect::<Result<_, _>>()?)
    }

    /// What is known of the secrets of one that are good: the one to use, and those before it, the latest first.
    pub async fn application_secrets(&self, app_key: &str) -> Result<Vec<ApplicationSecret>, ApplicationError> {
        let rows = self.store.applications().secrets(app_key, self.now()).await?;
        let shown = |SecretRow { id, created_at, expires_at, .. }| ApplicationSecret { id, created_at, expires_at };
        Ok(rows.into_iter().map(shown).collect())
    }

    /// Changes an application. `seen`: the version that whoever changes it has read, if that matters. Who is switched off loses all
    /// sessions that it has opened.
    pub async fn change_application(
        &self,
        app_key: &str,
        change: &ApplicationChange,
        author: &Author,
        seen: Option<i64>,
    ) -> Result<Application, ApplicationError> {
        let now = self.now();
        let step = |number| {
            async move {
                let mut application = self.application(app_key).await?;
                if seen.is_some_and(|seen| seen != application.version) {
                    return Err(ApplicationError::Outdated);
                }
                let before = Some(application.told().to_string());
                apply(&mut application, change, now)?;
                application.version = number;
                application.changed_at = now;
                let mut write = Write::new();
                applications::put(&mut write, &application.row());
                let after = Some(application.told().to_string());
                Ok(Audited { write, before, after, outcome: application })
            }
            .boxed()
        };
        let action = match change.disabled {
            Some(true) => "application.disabled",
            Some(false) => "application.enabled",
            None => "application.changed",
        };
        let application = self.peers.trust().audited(action, app_key, author, step).await?;
        info!(app_key, actor = author.actor, action, "the application {} was changed", application.name);
        if !application.is_on(now) {
            self.end_sessions_of(app_key, None).await?;
        }
        Ok(application)
    }

    /// Takes an application away, and ends all sessions that it has opened.
    pub async fn remove_application(&self, app_key: &str, author: &Author) -> Result<(), ApplicationError> {
        let step = |_| {
            async move {
                let application = self.application(app_key).await?;
                let mut write = Write::new();
                applications::remove(&mut write, app_key);
                let before = Some(application.told().to_string());
                Ok::<_, ApplicationError>(Audited { write, before, after: None, outcome: application })
            }
            .boxed()
        };
        let application = self.peers.trust().audited("application.removed", app_key, author, step).await?;
        info!(app_key, actor = author.actor, "the application {} was taken away", application.name);
        self.end_sessions_of(app_key, None).await?;
        Ok(())
    }

    /// Gives an application another secret; those before are good for `overlap` longer, in milliseconds.
    pub async fn rotate_application(
        &self,
        app_key: &str,
        overlap: Millis,
        author: &Author,
    ) -> Result<MadeApplication, ApplicationError> {
        if !(0..=LONGEST_OVERLAP).contains(&overlap) {
            let wrong = format!("is 0 to {LONGEST_OVERLAP}: 30 days");
            return Err(ApplicationError::Field { field: "overlap_ms", wrong });
        }
        let (secret, row) = self.new_secret(app_key)?;
        let (row, now) = (&row, self.now());
        let step = |number| {
            async move {
                let mut application = self.application(app_key).await?;
                let good = self.store.applications().secrets(app_key, now).await?.len();
                if overlap > 0 && good >= MOST_SECRETS {
                    return Err(ApplicationError::TooManySecrets(good));
                }
                application.version = number;
                application.changed_at = now;
                let mut write = Write::new();
                applications::forget_secrets(&mut write, now);
                applications::put(&mut write, &application.row());
                applications::rotate(&mut write, app_key, row, now + overlap);
                let after = Some(serde_json::json!({ "secret": row.id, "overlap_ms": overlap }).to_string());
                Ok(Audited { write, before: None, after, outcome: application })
            }
            .boxed()
        };
        let application = self.peers.trust().audited("application.secret_rotated", app_key, author, step).await?;
        info!(app_key, actor = author.actor, "the application {} has another secret", application.name);
        Ok(MadeApplication { application, secret })
    }

    fn new_secret(&self, app_key: &str) -> Result<(Zeroizing<String>, SecretRow), ApplicationError> {
        let secret = vault::password()?;
        let row = SecretRow {
            id: format!("{:016x}", rand::random::<u64>()),
            secret: self.vault.seal(app_key, SEALED_FOR, &secret)?,
            created_at: self.now(),
            expires_at: None,
        };
        Ok((secret, row))
    }
}

/// What becomes of an application, if it can be so.
fn apply(application: &mut Application, change: &ApplicationChange, now: Millis) -> Result<(), ApplicationError> {
    let wrong = |field, wrong: String| Err(ApplicationError::Field { field, wrong });
    if let Some(name) = change.name.as_deref().map(str::trim) {
        if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
            return wrong("name", format!("is one line of 1 to {LONGEST_NAME} characters"));
        }
        name.clone_into(&mut application.name);
    }
    if let Some(scopes) = &change.scopes {
        application.scopes = AppScope::ALL.into_iter().filter(|scope| scopes.contains(scope)).collect();
    }
    if let Some(addresses) = &change.addresses {
        if addresses.len() > MOST_NETWORKS {
            return wrong("addresses", format!("holds more than {MOST_NETWORKS} networks"));
        }
        application.addresses.clear();
        for text in addresses {
            let Some(network) = network(text) else {
                return wrong("addresses", "holds what is neither an address nor a network: `192.0.2.0/24`".to_owned());
            };
            application.addresses.push(network);
        }
    }
    for (field, wish, has) in [
        ("per_second", change.per_second, &mut application.per_second),
        ("burst", change.burst, &mut application.burst),
    ] {
        let Some(wish) = wish else { continue };
        if !(1..=MOST_REQUESTS).contains(&wish) {
            return wrong(field, format!("is 1 to {MOST_REQUESTS}"));
        }
        *has = wish;
    }
    if let Some(expires_at) = change.expires_at {
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            return wrong("expires_at", "is in the past".to_owned());
        }
        application.expires_at = expires_at;
    }
    match change.disabled {
        Some(true) => application.disabled_at = application.disabled_at.or(Some(now)),
        Some(false) => application.disabled_at = None,
        None => {}
    }
    Ok(())
}

/// A network, or one address.
fn network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from)).map(|network| network.trunc())
}
