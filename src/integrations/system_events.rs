//! What happened to the server and to the systems around it: reported by programs and admins, and by the server itself.

mod own;

use std::time::Duration;

use model::{Kind, Millis, Position, Refusal};
use ruma::OwnedServerName;
use serde::Deserialize;
use serde_json::{Map, Value};
use store::{Store, Write, broadcasts, system_events};
use tracing::info;

use crate::{broadcasts::notice_to_admins, now};

pub use own::Watch;
pub use store::system_events::Wanted;

/// The longest id, in bytes.
pub(crate) const MAX_ID: usize = 128;
const MAX_KIND: usize = 128;
const MAX_SUBJECT: usize = 255;
const MAX_DATA: usize = 16 << 10;
/// How far ahead of this server's clock a reporter's may be.
const SKEW: Millis = 60 * 60_000;

/// Who the server itself is among authors.
pub const SERVER: &str = "server";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Worth a look.
    Notice,
    /// Something goes less well.
    Warning,
    /// Something doesn't work.
    Error,
    /// Somebody has to do something now.
    Critical,
}

impl Severity {
    /// All of them, the least bad first.
    pub(crate) const ALL: [Self; 5] = [Self::Info, Self::Notice, Self::Warning, Self::Error, Self::Critical];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }

    /// The one called so.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == word)
    }
}

/// How system events are kept.
#[derive(Clone, Debug)]
pub struct SystemEventsConfig {
    /// For how long.
    pub keep: Duration,
    /// Admins get a notice of what is at least so bad; `None`: of nothing.
    pub notify: Option<Severity>,
}

impl Default for SystemEventsConfig {
    fn default() -> Self {
        Self { keep: Duration::from_hours(90 * 24), notify: Some(Severity::Error) }
    }
}

/// What somebody reports.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What the reporter calls it: the same one is recorded once. Left out: it is given an id.
    pub id: Option<String>,
    /// `link.down` …
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is about.
    #[serde(default)]
    pub subject: String,
    /// `info`, `notice`, `warning`, `error` or `critical`.
    pub severity: String,
    /// What else there is to say.
    #[serde(default)]
    pub data: Map<String, Value>,
    /// When it happened, milliseconds since 1970. Left out: now.
    pub at: Option<Millis>,
}

/// What was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemEvent {
    /// As its reporter calls it.
    pub id: String,
    /// When it became visible.
    pub position: Position,
    /// `link.down` …
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// What else there is to say.
    pub data: Map<String, Value>,
    /// When it happened.
    pub at: Millis,
    /// Who reported it.
    pub author: String,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SystemEventError {
    /// Something in it is wrong.
    #[error("`{field}` {wrong}")]
    Field {
        /// What.
        field: &'static str,
        /// Why.
        wrong: String,
    },
    /// It is no report at all.
    #[error("the document is no system event: {0}")]
    Document(String),
    /// The id is another event's.
    #[error("the id `{0}` is another event's")]
    IdTaken(String),
    /// There is no such event.
    #[error("there is no such event")]
    Unknown,
    /// The store failed.
    #[error("the event could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for SystemEventError {
    fn kind(&self) -> Kind {
        match self {
            Self::Field { .. } | Self::Document(_) => Kind::Invalid,
            Self::IdTaken(_) => Kind::Conflict,
            Self::Unknown => Kind::NotFound,
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        matches!(self, Self::IdTaken(_)).then_some("id_taken")
    }
}

/// System events. Cheap to clone.
#[derive(Clone)]
pub struct SystemEvents {
    us: OwnedServerName,
    store: Store,
    config: SystemEventsConfig,
}

impl SystemEvents {
    /// `us`: the name of this server.
    pub fn new(us: OwnedServerName, store: Store, config: SystemEventsConfig) -> Self {
        Self { us, store, config }
    }

    /// Records what `author` reports, and answers when it is durable. The same report again, by its id, changes nothing.
    pub async fn report(&self, author: &str, report: Report) -> Result<SystemEvent, SystemEventError> {
        let row = checked(author, report, now())?;
        if let Some(known) = self.store.system_events().find(&row.id).await? {
            return same(known, &row);
        }
        let mut write = Write::new();
        system_events::insert(&mut write, &row);
        if let Some(notice) = self.notice(&row) {
            broadcasts::insert(&mut write, &notice);
        }
        match self.store.commit(write).await {
            Ok(position) => {
                info!(
                    event.id = row.id,
                    event.kind = row.kind,
                    event.severity = row.severity,
                    "recorded a system event"
                );
                Ok(SystemEvent::from(system_events::SystemEventRow { position, ..row }))
            }
            // Somebody was faster.
            Err(store::Error::Duplicate) => {
                let known = self.store.system_events().find(&row.id).await?;
                same(known.ok_or(store::Error::Duplicate)?, &row)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Records what another program published at the bus as `id`. `document`: a [`Report`] as JSON.
    pub async fn take(&self, id: &str, author: &str, document: Value) -> Result<SystemEvent, SystemEventError> {
        let report: Report =
            serde_json::from_value(document).map_err(|error| SystemEventError::Document(error.to_string()))?;
        self.report(author, Report { id: Some(id.to_owned()), ..report }).await
    }

    /// The event called `id`.
    pub async fn get(&self, id: &str) -> Result<SystemEvent, SystemEventError> {
        let row = self.store.system_events().find(id).await?;
        row.map(SystemEvent::from).ok_or(SystemEventError::Unknown)
    }

    /// Up to `limit` events, the latest first.
    pub async fn list(&self, wanted: &Wanted, limit: u32) -> Result<Vec<SystemEvent>, SystemEventError> {
        let rows = self.store.system_events().list(wanted, limit).await?;
        Ok(rows.into_iter().map(SystemEvent::from).collect())
    }

    /// Records what the server itself noticed. What can't be recorded is logged: nothing hangs on it.
    ///
    /// `id`: the same happening has the same id on every node; `None`: it happened to this node.
    pub async fn record(&self, id: Option<String>, kind: &str, subject: &str, severity: Severity, data: Value) {
        let Value::Object(data) = data else { return };
        let report = Report {
            id,
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            severity: severity.as_str().to_owned(),
            data,
            at: None,
        };
        match self.report(SERVER, report).await {
            // Another node has said it, in words of its own.
            Ok(_) | Err(SystemEventError::IdTaken(_)) => {}
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a system event, {kind}, could not be recorded"
                );
            }
        }
    }

    /// Forgets what is older than the configuration has it kept.
    pub(crate) async fn prune(&self) -> Result<(), store::Error> {
        let keep = Millis::try_from(self.config.keep.as_millis()).unwrap_or(Millis::MAX);
        let mut write = Write::new();
        system_events::prune(&mut write, now().saturating_sub(keep));
        self.store.commit(write).await.map(drop)
    }

    /// What admins are told of an event, if it is bad enough.
    fn notice(&self, row: &system_events::SystemEventRow) -> Option<broadcasts::BroadcastRow> {
        let severity = severity_of(row.severity);
        if severity < self.config.notify? {
            return None;
        }
        let about = if row.subject.is_empty() { String::new() } else { format!(": {}", row.subject) };
        let mut body = format!("{} ({}), reported by {}.", row.kind, severity.as_str(), row.author);
        if row.data != "{}" {
            body.push('\n');
            body.extend(row.data.chars().take(1_000));
        }
        let title = format!("{}{about}", row.kind);
        Some(notice_to_admins(&self.us, &row.id, title, body, severity))
    }
}

fn checked(author: &str, report: Report, now: Millis) -> Result<system_events::SystemEventRow, SystemEventError> {
    let wrong = |field, wrong: &str| Err(SystemEventError::Field { field, wrong: wrong.to_owned() });
    let Report { id, kind, subject, severity, data, at } = report;
    let id = match id {
        Some(id) if !(is_id(&id) || author == SERVER && is_id(&id.replace(':', "-"))) => return wrong("id", ID_RULE),
        Some(id) => id,
        None => made_up_id(),
    };
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if kind.is_empty() || kind.len() > MAX_KIND || !kind.chars().all(is_word) {
        return wrong("type", "is 1 to 128 of a-z, 0-9, dot, underscore and hyphen, such as link.down");
    }
    if subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
        return wrong("subject", "is one line of 255 bytes at most");
    }
    let Some(severity) = Severity::named(&severity) else {
        return wrong("severity", "is one of info, notice, warning, error, critical");
    };
    let data = Value::Object(data).to_string();
    if data.len() > MAX_DATA {
        return wrong("data", "is larger than 16 KiB");
    }
    let at = at.unwrap_or(now);
    if !(0..=now.saturating_add(SKEW)).contains(&at) {
        return wrong("at", "is not a moment of the past, in milliseconds since 1970");
    }
    Ok(system_events::SystemEventRow {
        id,
        position: Position(0),
        kind,
        subject,
        severity: severity as i64,
        data,
        at,
        recorded_at: now,
        author: author.to_owned(),
    })
}

/// What is wrong with an id that [`is_id`] refuses.
pub(crate) const ID_RULE: &str = "is 1 to 128 letters, digits, dots, underscores, tildes and hyphens";

/// Whether somebody may call something so: what stands in a path as it is.
pub(crate) fn is_id(id: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '-');
    !id.is_empty() && id.len() <= MAX_ID && id.chars().all(is_plain)
}

pub(crate) fn made_up_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The same event, reported again.
fn same(
    known: system_events::SystemEventRow,
    row: &system_events::SystemEventRow,
) -> Result<SystemEvent, SystemEventError> {
    let says = |row: &system_events::SystemEventRow| {
        (row.kind.clone(), row.subject.clone(), row.severity, row.data.clone(), row.author.clone())
    };
    match says(&known) == says(row) {
        true => Ok(known.into()),
        false => Err(SystemEventError::IdTaken(known.id)),
    }
}

fn severity_of(number: i64) -> Severity {
    let number = usize::try_from(number).unwrap_or_default();
    Severity::ALL.get(number).copied().unwrap_or(Severity::Critical)
}

impl From<system_events::SystemEventRow> for SystemEvent {
    fn from(row: system_events::SystemEventRow) -> Self {
        Self {
            severity: severity_of(row.severity),
            data: serde_json::from_str(&row.data).unwrap_or_default(),
            id: row.id,
            position: row.position,
            kind: row.kind,
            subject: row.subject,
            at: row.at,
            author: row.author,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(document: Value) -> Result<system_events::SystemEventRow, SystemEventError> {
        checked("me", serde_json::from_value(document).expect("it has the fields"), 1_000_000_000_000)
    }

    #[test]
    fn a_report_says_what_is_wrong_with_it() {
        let good = json!({ "id": "disk-7", "type": "disk.full", "severity": "error", "data": { "free": 0 } });
        let row = read(good.clone()).expect("it is right");
        assert_eq!((row.severity, row.data.as_str(), row.at), (3, r#"{"free":0}"#, 1_000_000_000_000));
        for (field, bad) in [
            ("id", json!("a b")),
            ("id", json!("x".repeat(129))),
            ("type", json!("Disk Full")),
            ("type", json!("")),
            ("subject", json!("two\nlines")),
            ("severity", json!("bad")),
            ("data", json!({ "x": "y".repeat(MAX_DATA) })),
            ("at", json!(2_000_000_000_000_i64)),
            ("at", json!(-1)),
        ] {
            let mut wrong = good.clone();
            wrong[field] = bad;
            let error = read(wrong).expect_err("it is wrong").to_string();
            assert!(error.starts_with(&format!("`{field}` ")), "{error}");
        }
    }
}
