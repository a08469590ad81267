//! System events: what happened to the server and to the systems around it.

use integrations::system_events::{Report, Severity, SystemEvent, Wanted};
use model::{Millis, Position};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{Answer, Call, Created, Endpoint, Nothing, get, post};
use crate::{
    Problem,
    admin::staff::{Reporter, Viewer},
};

/// How many events an answer holds, and how many at most.
const USUAL: u32 = 100;
const MOST: u32 = 1_000;

/// What is reported.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSystemEvent {
    /// What the reporter calls it, 1 to 128 letters, digits, dots, underscores, tildes and hyphens: the same one is recorded
    /// once, and something else under the same id is refused as `id_taken`. Left out: it is given an id.
    id: Option<String>,
    /// What happened: a-z, 0-9, dots, underscores, hyphens, such as `link.down`.
    #[serde(rename = "type")]
    kind: String,
    /// What it happened to, one line of 255 bytes at most.
    #[serde(default)]
    subject: String,
    /// `info`, `notice`, `warning`, `error` or `critical`.
    severity: String,
    /// What else there is to say, 16 KiB at most.
    #[serde(default)]
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// When it happened, milliseconds since 1970. Left out: now.
    at: Option<Millis>,
}

/// Something that happened.
#[derive(Serialize, ToSchema)]
#[schema(as = SystemEvent)]
struct SystemEventView {
    /// As its reporter calls it. A colon in it says that the server itself reported it.
    id: String,
    /// What happened.
    #[serde(rename = "type")]
    kind: String,
    /// What it happened to.
    subject: String,
    /// `info`, `notice`, `warning`, `error` or `critical`.
    severity: &'static str,
    /// What else there is to say.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// When it happened, milliseconds since 1970.
    at: Millis,
    /// Who reported it: a user id, `server`, or a program at the bus.
    author: String,
    /// Where it stands among all that happens here.
    position: i64,
}

impl From<SystemEvent> for SystemEventView {
    fn from(event: SystemEvent) -> Self {
        let SystemEvent { id, position, kind, subject, severity, data, at, author } = event;
        Self { id, kind, subject, severity: severity.as_str(), data, at, author, position: position.0 }
    }
}

/// Which events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsWanted {
    /// Of this type only.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Of this severity, or worse.
    severity: Option<String>,
    /// What happened from then on, milliseconds since 1970.
    since: Option<Millis>,
    /// What happened before then, milliseconds since 1970.
    until: Option<Millis>,
    /// Those before this position; left out: the latest.
    before: Option<i64>,
    /// How many at most, 1 to 1000; left out: 100.
    limit: Option<u32>,
}

/// Some of the events.
#[derive(Serialize, ToSchema)]
struct SystemEvents {
    /// The latest first.
    events: Vec<SystemEventView>,
    /// What `before` is on the next page.
    next: Option<i64>,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    let report_text = "\
        For admins, operators and broadcasters. Admins get a notice of what is at least as bad as `events.notify` of the \
        configuration says.";
    vec![
        post("/api/v1/events", "Reports something that happened.", report).explained(report_text),
        get("/api/v1/events", "What happened, the latest first.", list)
            .explained("For admins, operators and auditors."),
        get("/api/v1/events/{id}", "One thing that happened.", find).explained("For admins, operators and auditors."),
    ]
}

async fn report(call: Call<Reporter, Nothing, NewSystemEvent>) -> Answer<Created<SystemEventView>> {
    let author = &call.caller.session.user_id;
    call.services.limits.check_send(author).await?;
    let NewSystemEvent { id, kind, subject, severity, data, at } = call.body;
    let report = Report { id, kind, subject, severity, data, at };
    Ok(Created(call.services.announcements.events.report(author.as_str(), report).await?.into()))
}

async fn list(call: Call<Viewer, EventsWanted>) -> Answer<SystemEvents> {
    let EventsWanted { kind, severity, since, until, before, limit } = call.query;
    let severity = severity.map(|word| {
        let wrong = || Problem::invalid("`severity` is one of info, notice, warning, error, critical");
        Severity::named(&word).ok_or_else(|| wrong().with("field", "severity"))
    });
    let severity = severity.transpose()?.map_or(0, |severity| severity as i64);
    let wanted = Wanted { kind, severity, since, until, before: before.map(Position) };
    let limit = limit.unwrap_or(USUAL).clamp(1, MOST);
    let events = call.services.announcements.events.list(&wanted, limit).await?;
    let next = (events.len() == limit as usize).then(|| events.last().map(|event| event.position.0)).flatten();
    Ok(SystemEvents { events: events.into_iter().map(Into::into).collect(), next })
}

async fn find(call: Call<Viewer>) -> Answer<SystemEventView> {
    let id: String = call.argument("id")?;
    Ok(call.services.announcements.events.get(&id).await?.into())
}
