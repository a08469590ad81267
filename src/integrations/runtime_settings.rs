//! What administrators set while the server runs: a few things of the configuration, each with its type. What is set wins over the file,
//! on all nodes, until it is taken away.

mod kinds;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use model::{Kind, Millis, Refusal};
use peers::trust::{Audited, Author, ChangeError};
use rooms::Rooms;
use serde_json::{Value, json};
use store::{
    Store, Write,
    settings::{self, SettingRow},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use users::Users;

pub use self::kinds::{Configured, SetLimits, SetRate};
use self::kinds::{LONGEST_WINDOW, Limit, NAMES, Name};
use crate::now;

/// How often it is looked what another node has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What decides what is logged by this process.
pub trait LogFilter: Send + Sync {
    /// Whether these are directives.
    fn is_right(&self, directives: &str) -> bool;
    /// From now on these hold, which are right.
    fn set(&self, directives: &str);
}

/// From where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was set while the server runs.
    Runtime,
    /// The configuration says so, and it isn't the default.
    Configuration,
    /// It is the default.
    Default,
}

impl Source {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Configuration => "configuration",
            Self::Default => "default",
        }
    }
}

/// Something that can be set, and how it is.
#[derive(Clone, Debug)]
pub struct Setting {
    /// As in the configuration.
    pub name: &'static str,
    /// What it means, and what it may be.
    pub about: &'static str,
    /// What holds.
    pub value: Value,
    /// From where that is.
    pub source: Source,
    /// What holds where nothing is set: what the configuration says.
    pub configured: Value,
    /// Who set it, and when, milliseconds since 1970.
    pub changed: Option<(String, Millis)>,
    /// Of what was set; 0: nothing is.
    pub revision: i64,
}

/// Why nothing was set.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// There is no such thing.
    #[error("there is nothing of this name that can be set while the server runs")]
    Unknown,
    /// It can't be this.
    #[error("`value` can't be this. {0}")]
    Value(&'static str),
    /// Somebody else changed it since.
    #[error("it was changed meanwhile: look at it, and try again")]
    Outdated,
    /// It could not be written down.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("what is set could not be read or changed")]
    Store(#[from] store::Error),
}

impl Refusal for SettingError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown => Kind::NotFound,
            Self::Value(_) => Kind::Invalid,
            Self::Outdated => Kind::Conflict,
            Self::Change(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

/// What is set. Cheap to clone.
#[derive(Clone)]
pub struct RuntimeSettings {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    users: Arc<Users>,
    rooms: Rooms,
    log_filter: Arc<dyn LogFilter>,
    configured: Configured,
    defaults: Configured,
    known: RwLock<Arc<Vec<SettingRow>>>,
}

impl RuntimeSettings {
    /// Reads what is set, and has it hold. The last two: what the configuration says, and what it would say by default.
    pub async fn open(
        store: Store,
        users: Arc<Users>,
        rooms: Rooms,
        log_filter: Arc<dyn LogFilter>,
        (configured, defaults): (Configured, Configured),
    ) -> Result<Self, store::Error> {
        let known = RwLock::default();
        let shared = Shared { store, users, rooms, log_filter, configured, defaults, known };
        let opened = Self { shared: Arc::new(shared) };
        opened.refresh().await?;
        Ok(opened)
    }

    /// Keeps up with what other nodes change, until `stop` is cancelled.
    pub async fn tend(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
            if let Err(error) = self.refresh().await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "could not read what is set; what was known still holds"
                );
            }
        }
    }

    /// All that can be set.
    pub fn all(&self) -> Vec<Setting> {
        NAMES.into_iter().map(|name| self.setting(name)).collect()
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Result<Setting, SettingError> {
        Ok(self.setting(Name::find(name)?))
    }

    /// Sets something, or with `None` has it as the configuration says again: at once here, on other nodes within a second.
    ///
    /// `seen`: the revision that the author has looked at; `None`: whatever is there.
    pub async fn set(
        &self,
        name: &str,
        value: Option<Value>,
        author: &Author,
        seen: Option<i64>,
    ) -> Result<Setting, SettingError> {
        let name = Name::find(name)?;
        if let Some(value) = &value {
            self.check(name, value)?;
        }
        let (value, store) = (&value, &self.shared.store);
        let step = |revision| {
            async move {
                let rows = store.settings().all().await?;
                let row = rows.into_iter().find(|row| row.name == name.as_str());
                if seen.is_some_and(|seen| seen != row.as_ref().map_or(0, |row| row.revision)) {
                    return Err(SettingError::Outdated);
                }
                let mut write = Write::new();
                match value {
                    Some(value) => settings::put(
                        &mut write,
                        &SettingRow {
                            name: name.as_str().to_owned(),
                            value: value.to_string(),
                            revision,
                            changed_by: author.actor.clone(),
                            changed_at: now(),
                        },
                    ),
                    None => settings::remove(&mut write, name.as_str()),
                }
                let told = |value: &Value| json!({ "value": value }).to_string();
                let before = row.map(|row| told(&read(&row)));
                Ok::<_, SettingError>(Audited { write, before, after: value.as_ref().map(told), outcome: () })
            }
            .boxed()
        };
        self.shared.rooms.trust().audited("setting.changed", name.as_str(), author, step).await?;
        self.refresh().await?;
        let setting = self.setting(name);
        info!(actor = author.actor, setting = setting.name, "{} is {} now", setting.name, setting.value);
        Ok(setting)
    }

    fn setting(&self, name: Name) -> Setting {
        let (configured, defaults) = (&self.shared.configured, &self.shared.defaults);
        let known = self.known();
        let row = known.iter().find(|row| row.name == name.as_str());
        // What another version has set here may make no sense to this one.
        let row = row.filter(|row| self.check(name, &read(row)).is_ok());
        let by_file =
            if configured.value(name) == defaults.value(name) { Source::Default } else { Source::Configuration };
        Setting {
            name: name.as_str(),
            about: name.about(),
            value: row.map_or_else(|| configured.value(name), read),
            source: if row.is_some() { Source::Runtime } else { by_file },
            configured: configured.value(name),
            changed: row.map(|row| (row.changed_by.clone(), row.changed_at)),
            revision: row.map_or(0, |row| row.revision),
        }
    }

    async fn refresh(&self) -> Result<(), store::Error> {
        let rows = self.shared.store.settings().all().await?;
        if rows == **self.known() {
            return Ok(());
        }
        *self.shared.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rows);
        let is_on = |name| self.setting(name).value == Value::Bool(true);
        let Shared { users, rooms, log_filter, configured, .. } = &*self.shared;
        users.set_registration(is_on(Name::Registration), is_on(Name::Approval));
        let window = self.setting(Name::RecallWindow).value.as_u64();
        rooms.set_recall_window(Duration::from_millis(window.unwrap_or_default()));
        let rate = |limit| {
            SetRate::read(&self.setting(Name::Limit(limit)).value).unwrap_or_else(|| configured.rate_limits.rate(limit))
        };
        let limits = SetLimits {
            enabled: is_on(Name::Limits),
            login: rate(Limit::Login),
            registration: rate(Limit::Registration),
            messages: rate(Limit::Messages),
            joins: rate(Limit::Joins),
        };
        users.limits().set(&limits.into());
        log_filter.set(self.setting(Name::LogFilter).value.as_str().unwrap_or(&configured.log_filter));
        Ok(())
    }

    /// Whether it may be this.
    fn check(&self, name: Name, value: &Value) -> Result<(), SettingError> {
        let is_right = match name {
            Name::Registration | Name::Approval | Name::Limits => value.is_boolean(),
            Name::RecallWindow => value.as_u64().is_some_and(|window| window <= LONGEST_WINDOW),
            Name::Limit(_) => SetRate::read(value).is_some(),
            Name::LogFilter => value.as_str().is_some_and(|directives| self.shared.log_filter.is_right(directives)),
        };
        if is_right { Ok(()) } else { Err(SettingError::Value(name.about())) }
    }

    fn known(&self) -> Arc<Vec<SettingRow>> {
        self.shared.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(row: &SettingRow) -> Value {
    serde_json::from_str(&row.value).unwrap_or_default()
}
