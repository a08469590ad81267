//! Broadcasts: what people are told by those who run the systems they use.

use std::time::Duration;

use integrations::broadcasts::{Audience, Broadcast, BroadcastError, Draft, Priority, Seen, Told, Wanted};
use model::{Millis, Position};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use users::Role;
use utoipa::{IntoParams, ToSchema};

use super::{Answer, Call, Created, Endpoint, Nothing, delete, get, post};
use crate::{Problem, Services, Session, admin::staff::Broadcaster};

/// How many broadcasts an answer holds, and how many at most.
const USUAL: u32 = 50;
const MOST: u32 = 200;
/// The longest that a request waits, in seconds.
const LONGEST_WAIT: u64 = 60;

/// What people are to be told.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBroadcast {
    /// What its author calls it, 1 to 128 letters, digits, dots, underscores, tildes and hyphens: the same one is published
    /// once, and something else under the same id is refused as `id_taken`. Left out: it is given an id.
    id: Option<String>,
    /// One line of 200 characters at most.
    title: String,
    /// Plain text, 8 KiB at most.
    body: String,
    /// The body with formatting, HTML as Matrix clients take it, 16 KiB at most.
    html: Option<String>,
    /// `low`, `normal`, `high` or `urgent`. Left out: `normal`.
    #[schema(value_type = Option<String>)]
    priority: Option<Priority>,
    /// Whom it is for: `{"kind": "all"}`, `{"kind": "domains", "domains": [server names]}`, `{"kind": "roles", "roles": […]}` or
    /// `{"kind": "users", "users": [addresses]}`, a thousand at most. Left out: all.
    #[schema(value_type = Option<Object>)]
    audience: Option<Audience>,
    /// Whether people of full peers are told too. Needed where the audience names other domains or their people.
    #[serde(default)]
    across: bool,
    /// When it is published, milliseconds since 1970. Left out: now.
    publish_at: Option<Millis>,
    /// From then on nobody is told any more, milliseconds since 1970.
    expires_at: Option<Millis>,
}

/// A broadcast.
#[derive(Serialize, ToSchema)]
#[schema(as = Broadcast)]
struct BroadcastView {
    /// As its author calls it; `@` and a server name at its end where it came from another server.
    id: String,
    /// The domain that it comes from.
    origin: String,
    /// Who wrote it.
    author: String,
    /// One line.
    title: String,
    /// Plain text.
    body: String,
    /// The body with formatting.
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<String>,
    /// `low`, `normal`, `high` or `urgent`.
    priority: String,
    /// `scheduled`, `published`, `expired` or `cancelled`.
    state: &'static str,
    /// When it was written. Times are milliseconds since 1970.
    created_at: Millis,
    /// When it was published.
    published_at: Option<Millis>,
    /// From then on nobody is told any more.
    expires_at: Option<Millis>,
    /// Whether the caller has read it, here or in the room of notices.
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<bool>,
    /// When the caller has read it here.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_at: Option<Millis>,
    /// What those see who make broadcasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// What those see of a broadcast who make them.
#[derive(Serialize, ToSchema)]
#[schema(as = BroadcastDetails)]
struct Details {
    /// Whom it is for.
    #[schema(value_type = Object)]
    audience: Value,
    /// Whether people of full peers are told too.
    across: bool,
    /// When it is, or was, to be published.
    publish_at: Millis,
    /// When it was called back.
    cancelled_at: Option<Millis>,
    /// By whom.
    cancelled_by: Option<String>,
    /// How many people of this server it is for, how many of them have read it, and how many have a notice of it. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
    /// What other servers were told. Not in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    servers: Vec<ToldServer>,
}

/// How far a broadcast has come, counted now.
#[derive(Serialize, ToSchema)]
#[schema(as = BroadcastCounts)]
struct Counts {
    /// The people of this server that it is for.
    recipients: i64,
    /// How many of them have read it.
    read: i64,
    /// How many have a notice of it in their rooms: those who were there since.
    noticed: i64,
}

/// What another server was told of a broadcast.
#[derive(Serialize, ToSchema)]
#[schema(as = BroadcastAtServer)]
struct ToldServer {
    /// Which.
    server: String,
    /// Whether it is told that the broadcast was called back.
    cancel: bool,
    /// When it took it, or it was given up; null: it is owed.
    done_at: Option<Millis>,
    /// `taken`, or why not; of what is owed: why it failed last.
    outcome: Option<String>,
    /// How often it was tried.
    attempts: i64,
}

impl From<Told> for ToldServer {
    fn from(told: Told) -> Self {
        let Told { server, is_cancel, done_at, outcome, attempts } = told;
        Self { server: server.into(), cancel: is_cancel, done_at, outcome, attempts }
    }
}

/// Which broadcasts.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct BroadcastsWanted {
    /// Only what the caller has not read.
    #[serde(default)]
    unread: bool,
    /// `next` of the last page; left out: the latest.
    before: Option<i64>,
    /// `cursor` of an earlier answer: what was published, or called back, since, in order.
    after: Option<i64>,
    /// With `after`: how many seconds to wait for something, 60 at most: `30` or `30s`.
    wait: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    limit: Option<u32>,
    /// All broadcasts, whomever they are for and whatever became of them, those written last first: for admins and broadcasters.
    #[serde(default)]
    all: bool,
}

/// Some of the broadcasts.
#[derive(Serialize, ToSchema)]
#[schema(as = Broadcasts)]
struct BroadcastPage {
    /// In the order that was asked for.
    broadcasts: Vec<BroadcastView>,
    /// What `before` is on the next page.
    next: Option<i64>,
    /// What `after` is to be told of what comes later. Not where `all` was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<i64>,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    let list_text = "\
        Those that are for the caller, the latest first; what has run out or was called back is left out. With `after`, those that \
        were published or called back since, in order, as soon as there is one or `wait` is over: what was called back has the \
        state `cancelled`.";
    let find_text = "For whom it is for; admins and broadcasters are told more.";
    vec![
        post("/api/v1/broadcasts", "Tells people something, now or later.", create)
            .explained("For admins and broadcasters."),
        get("/api/v1/broadcasts", "What one is told.", list).explained(list_text),
        get("/api/v1/broadcasts/{id}", "One broadcast.", find).explained(find_text),
        delete("/api/v1/broadcasts/{id}", "Calls a broadcast back, or what is scheduled off.", cancel)
            .explained("For admins and broadcasters. Once more does nothing."),
        post("/api/v1/broadcasts/{id}/read", "One has read a broadcast.", read),
    ]
}

async fn create(call: Call<Broadcaster, Nothing, NewBroadcast>) -> Answer<Created<BroadcastView>> {
    let author = &call.caller.session.user_id;
    call.services.limits.check_send(author).await?;
    let NewBroadcast { id, title, body, html, priority, audience, across, publish_at, expires_at } = call.body;
    let (priority, audience) = (priority.unwrap_or_default(), audience.unwrap_or(Audience::All {}));
    let draft = Draft { id, title, body, html, priority, audience, across, publish_at, expires_at };
    let broadcast = call.services.announcements.broadcasts.create(author.as_str(), draft).await?;
    Ok(Created(detailed(&call.services, broadcast).await?))
}

async fn list(call: Call<Session, BroadcastsWanted>) -> Answer<BroadcastPage> {
    let BroadcastsWanted { unread, before, after, wait, limit, all } = call.query;
    let limit = limit.unwrap_or(USUAL).clamp(1, MOST);
    let broadcasts = &call.services.announcements.broadcasts;
    if before.is_some() && after.is_some() {
        return Err(Problem::invalid("`before` and `after` go into different directions").with("field", "before"));
    }
    if all {
        return list_all(&call.services, &call.caller, before.map(Position), limit).await;
    }
    let (before, after) = (before.map(Position), after.map(Position));
    let wanted = Wanted { unread, before, after, limit: limit as usize, wait: seconds(wait.as_deref())? };
    let page = broadcasts.page(&call.caller.user_id, wanted).await?;
    Ok(BroadcastPage {
        broadcasts: page.broadcasts.into_iter().map(shown).collect(),
        next: page.next.map(|position| position.0),
        cursor: Some(page.cursor.0),
    })
}

async fn list_all(
    services: &Services,
    session: &Session,
    before: Option<Position>,
    limit: u32,
) -> Answer<BroadcastPage> {
    if !makes_broadcasts(services, session).await? {
        return Err(Problem::forbidden("`all` needs one of the roles admin, broadcaster").with("field", "all"));
    }
    let found = services.announcements.broadcasts.list(before, limit).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|last| last.row.created.0)).flatten();
    let details = |broadcast: Broadcast| {
        let details = details_of(&broadcast);
        BroadcastView { details: Some(details), ..view(broadcast) }
    };
    Ok(BroadcastPage { broadcasts: found.into_iter().map(details).collect(), next, cursor: None })
}

async fn find(call: Call<Session>) -> Answer<BroadcastView> {
    let id: String = call.argument("id")?;
    let broadcasts = &call.services.announcements.broadcasts;
    let seen = broadcasts.get_for(&call.caller.user_id, &id).await;
    if !makes_broadcasts(&call.services, &call.caller).await? {
        return Ok(shown(seen?));
    }
    match seen {
        Ok(seen) => {
            let (read, read_at) = (Some(seen.is_read), seen.read_at);
            Ok(BroadcastView { read, read_at, ..detailed(&call.services, seen.broadcast).await? })
        }
        Err(BroadcastError::Unknown) => detailed(&call.services, broadcasts.get(&id).await?).await,
        Err(error) => Err(error.into()),
    }
}

async fn cancel(call: Call<Broadcaster>) -> Answer<Nothing> {
    let id: String = call.argument("id")?;
    let by = call.caller.session.user_id.as_str();
    call.services.announcements.broadcasts.cancel(&id, by).await?;
    Ok(Nothing)
}

async fn read(call: Call<Session>) -> Answer<Nothing> {
    let id: String = call.argument("id")?;
    call.services.announcements.broadcasts.read(&call.caller.user_id, &id).await?;
    Ok(Nothing)
}

async fn makes_broadcasts(services: &Services, session: &Session) -> Result<bool, Problem> {
    Ok(matches!(services.users.role(session).await?, Role::Admin | Role::Broadcaster))
}

/// `30`, or `30s`.
fn seconds(wait: Option<&str>) -> Result<Duration, Problem> {
    let Some(wait) = wait else { return Ok(Duration::ZERO) };
    let seconds = wait.strip_suffix('s').unwrap_or(wait).parse::<u64>();
    let wrong = |_| Problem::invalid("`wait` is a number of seconds, such as 30 or 30s").with("field", "wait");
    Ok(Duration::from_secs(seconds.map_err(wrong)?.min(LONGEST_WAIT)))
}

fn shown(seen: Seen) -> BroadcastView {
    BroadcastView { read: Some(seen.is_read), read_at: seen.read_at, ..view(seen.broadcast) }
}

async fn detailed(services: &Services, broadcast: Broadcast) -> Answer<BroadcastView> {
    let broadcasts = &services.announcements.broadcasts;
    let counts = broadcasts.counts(&broadcast).await?;
    let noticed = services.announcements.noticed(&broadcast).await?;
    let servers = broadcasts.told(&broadcast.row.id).await?.into_iter().map(Into::into).collect();
    let counts = Some(Counts { recipients: counts.recipients, read: counts.read, noticed });
    let details = Details { counts, servers, ..details_of(&broadcast) };
    Ok(BroadcastView { details: Some(details), ..view(broadcast) })
}

fn details_of(broadcast: &Broadcast) -> Details {
    let row = &broadcast.row;
    Details {
        audience: serde_json::to_value(&broadcast.audience).unwrap_or_default(),
        across: row.across,
        publish_at: row.publish_at,
        cancelled_at: row.cancelled_at,
        cancelled_by: row.cancelled_by.clone(),
        counts: None,
        servers: Vec::new(),
    }
}

fn view(broadcast: Broadcast) -> BroadcastView {
    let state = broadcast.state().as_str();
    let row = broadcast.row;
    BroadcastView {
        id: row.id,
        origin: row.origin.into(),
        author: row.author,
        title: row.title,
        body: row.body,
        html: row.html,
        priority: row.priority,
        state,
        created_at: row.created_at,
        published_at: row.published_at,
        expires_at: row.expires_at,
        read: None,
        read_at: None,
        details: None,
    }
}
