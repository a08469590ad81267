//! Applications: back ends of others that this organisation lets use its server.

use model::Millis;
use peers::trust::Author;
use serde::{Deserialize, Serialize};
use users::applications::{
    AppScope, Application, ApplicationChange, ApplicationError, ApplicationSecret, MadeApplication, NewApplication,
};
use utoipa::{IntoParams, ToSchema};

use super::staff::{Admin, Viewer};
use crate::{
    Problem, Services,
    native::{
        Answer, AppSessionPage, Call, Created, EndedSessions, Endpoint, Nothing, Unkept, delete, get, given, patch,
        post,
        tag::{Tagged, check_match, tag_of},
    },
};

/// How many an answer holds, and how many at most.
const USUAL: u32 = 50;
const MOST: u32 = 200;
/// How long an old secret goes on where nothing is said of it, in milliseconds: a day.
const USUAL_OVERLAP: Millis = 24 * 60 * 60_000;

const ALL: &str = "/api/v1/admin/applications";
const ONE: &str = "/api/v1/admin/applications/{app_key}";

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get(ALL, "The applications: back ends of others that may use this server.", all)
            .explained("In the order of their keys. See docs/applications.md."),
        post(ALL, "Makes an application.", create)
            .explained("`secret` of the answer is what it signs its requests with. It is told this once."),
        get(ONE, "An application.", one).explained("With an `ETag`."),
        patch(ONE, "Changes an application.", change).explained(
            "What is left out stays. With `If-Match`, only what one has read is changed: otherwise 412 `precondition_failed`.",
        ),
        delete(ONE, "Takes an application away.", remove).explained("The sessions that it has opened end."),
        post("/api/v1/admin/applications/{app_key}/disable", "Switches an application off.", disable)
            .explained("At once, on all nodes. The sessions that it has opened end. Once more does nothing."),
        post("/api/v1/admin/applications/{app_key}/enable", "Switches an application on again.", enable),
        post("/api/v1/admin/applications/{app_key}/secrets", "Gives an application another secret.", rotate).explained(
            "It is told this once. Those before are good for `overlap_ms` longer, so that the application can go over to the new one \
             without a gap; with 0 they are no good from now on. Five at most are good at once: `too_many_secrets`.",
        ),
        get("/api/v1/admin/applications/{app_key}/sessions", "The sessions that an application has opened.", sessions),
        delete(
            "/api/v1/admin/applications/{app_key}/sessions",
            "Ends all sessions that an application has opened.",
            end,
        ),
    ]
}

/// Which of them.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ApplicationsWanted {
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    limit: Option<u32>,
}

/// An application.
#[derive(Serialize, ToSchema)]
struct ApplicationView {
    /// By which it says who it is.
    app_key: String,
    /// What people see.
    name: String,
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<AppScope>,
    /// From which networks its requests may come; empty: from anywhere.
    addresses: Vec<String>,
    /// How many requests a second.
    per_second: u32,
    /// How many at once after a rest.
    burst: u32,
    /// From then on it may do nothing; null: never. Times are milliseconds since 1970.
    expires_at: Option<Millis>,
    /// Since when it is switched off; null: it is on.
    disabled_at: Option<Millis>,
    /// Who made it.
    created_by: String,
    /// When.
    created_at: Millis,
    /// When it was changed last.
    changed_at: Millis,
    /// What is known of its secrets that are good, the latest first. Not in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<SecretView>,
}

/// A secret of an application, but for what it is.
#[derive(Serialize, ToSchema)]
#[schema(as = ApplicationSecret)]
struct SecretView {
    /// Its own name.
    id: String,
    /// When it was made.
    created_at: Millis,
    /// From then on it is no good; null: it is the one to use.
    expires_at: Option<Millis>,
}

/// Some of them.
#[derive(Serialize, ToSchema)]
struct ApplicationList {
    /// In the order of their keys.
    applications: Vec<ApplicationView>,
    /// What `cursor` is on the next page; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// An application with a new secret.
#[derive(Serialize, ToSchema)]
#[schema(as = MadeApplication)]
struct MadeView {
    /// As it is now.
    #[serde(flatten)]
    application: ApplicationView,
    /// What requests are signed with. It is told this once.
    secret: String,
}

/// An application that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ApplicationWish {
    /// What people see: one line of 60 characters at most.
    name: String,
    /// What it may do: `users:read`, `users:create`, `tokens:mint`, `conversations:read`, `conversations:write`, `messages:read`,
    /// `messages:send`, `groups:read`, `groups:write`, `friends:read`, `friends:write`, `notifications:read`, `notifications:write`.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<AppScope>,
    /// From which addresses or networks its requests may come, such as `192.0.2.0/24`; left out: from anywhere.
    #[serde(default)]
    addresses: Vec<String>,
    /// How many requests a second, 1 to 10000; left out: 20.
    per_second: Option<u32>,
    /// How many at once after a rest, 1 to 10000; left out: 100.
    burst: Option<u32>,
    /// From then on it may do nothing, milliseconds since 1970; left out: never.
    expires_at: Option<Millis>,
    /// For other admins, and for the log; left out: `made`.
    reason: Option<String>,
}

/// What is to become of an application. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApplicationChange)]
struct ChangeWish {
    /// What people see.
    name: Option<String>,
    /// What it may do.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Vec<AppScope>>,
    /// From which addresses or networks its requests may come; empty: from anywhere.
    addresses: Option<Vec<String>>,
    /// How many requests a second.
    per_second: Option<u32>,
    /// How many at once after a rest.
    burst: Option<u32>,
    /// From then on it may do nothing; null: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    expires_at: Option<Option<Millis>>,
    /// For other admins, and for the log; left out: `changed`.
    reason: Option<String>,
}

/// Why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SwitchReason {
    /// For other admins, and for the log; left out: `disabled`, or `enabled`.
    reason: Option<String>,
}

/// Why.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RemovalReason {
    /// For other admins, and for the log; left out: `removed`.
    reason: Option<String>,
}

/// How its secret is replaced.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// How long those before are good from now on, milliseconds, 30 days at most; left out: a day.
    overlap_ms: Option<Millis>,
    /// For other admins, and for the log; left out: `rotated`.
    reason: Option<String>,
}

impl From<Application> for ApplicationView {
    fn from(application: Application) -> Self {
        Self {
            app_key: application.app_key,
            name: application.name,
            scopes: application.scopes,
            addresses: application.addresses.iter().map(ToString::to_string).collect(),
            per_second: application.per_second,
            burst: application.burst,
            expires_at: application.expires_at,
            disabled_at: application.disabled_at,
            created_by: application.created_by,
            created_at: application.created_at,
            changed_at: application.changed_at,
            secrets: Vec::new(),
        }
    }
}

impl From<ApplicationSecret> for SecretView {
    fn from(ApplicationSecret { id, created_at, expires_at }: ApplicationSecret) -> Self {
        Self { id, created_at, expires_at }
    }
}

async fn all(call: Call<Viewer, ApplicationsWanted>) -> Answer<ApplicationList> {
    let limit = call.query.limit.unwrap_or(USUAL).clamp(1, MOST);
    let found = call.services.users.applications(call.query.cursor.as_deref().unwrap_or_default(), limit).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|last| last.app_key.clone())).flatten();
    Ok(ApplicationList { applications: found.into_iter().map(Into::into).collect(), next })
}

async fn create(call: Call<Admin, Nothing, ApplicationWish>) -> Answer<Created<MadeView>> {
    let author = author(&call, call.body.reason.as_deref(), "made");
    let ApplicationWish { name, scopes, addresses, per_second, burst, expires_at, .. } = call.body;
    let wish = NewApplication { name, scopes, addresses, per_second, burst, expires_at };
    let made = call.services.users.create_application(wish, &author).await?;
    Ok(Created(told_once(&call.services, made).await?))
}

async fn one(call: Call<Viewer>) -> Answer<Tagged<ApplicationView>> {
    let app_key: String = call.argument("app_key")?;
    let application = call.services.users.application(&app_key).await?;
    shown(&call.services, application).await
}

async fn change(call: Call<Admin, Nothing, ChangeWish>) -> Answer<Tagged<ApplicationView>> {
    let app_key: String = call.argument("app_key")?;
    let author = author(&call, call.body.reason.as_deref(), "changed");
    let seen = call.services.users.application(&app_key).await?.version;
    check_match(&call.headers, &tag_of(&seen))?;
    // What lies between reading and changing it is looked at once more, for who cares.
    let seen = call.headers.contains_key(http::header::IF_MATCH).then_some(seen);
    let ChangeWish { name, scopes, addresses, per_second, burst, expires_at, .. } = call.body;
    let change = ApplicationChange { name, scopes, addresses, per_second, burst, expires_at, disabled: None };
    let changed = call.services.users.change_application(&app_key, &change, &author, seen).await;
    let changed = changed.map_err(|error| match error {
        ApplicationError::Outdated => Problem::from(error).at(http::StatusCode::PRECONDITION_FAILED),
        error => error.into(),
    })?;
    shown(&call.services, changed).await
}

async fn remove(call: Call<Admin, RemovalReason>) -> Answer<Nothing> {
    let app_key: String = call.argument("app_key")?;
    let author = author(&call, call.query.reason.as_deref(), "removed");
    call.services.users.remove_application(&app_key, &author).await?;
    Ok(Nothing)
}

async fn disable(call: Call<Admin, Nothing, SwitchReason>) -> Answer<Tagged<ApplicationView>> {
    switch(call, true).await
}

async fn enable(call: Call<Admin, Nothing, SwitchReason>) -> Answer<Tagged<ApplicationView>> {
    switch(call, false).await
}

async fn switch(call: Call<Admin, Nothing, SwitchReason>, disabled: bool) -> Answer<Tagged<ApplicationView>> {
    let app_key: String = call.argument("app_key")?;
    let author = author(&call, call.body.reason.as_deref(), if disabled { "disabled" } else { "enabled" });
    let change = ApplicationChange { disabled: Some(disabled), ..ApplicationChange::default() };
    let changed = call.services.users.change_application(&app_key, &change, &author, None).await?;
    shown(&call.services, changed).await
}

async fn rotate(call: Call<Admin, Nothing, Rotation>) -> Answer<Unkept<MadeView>> {
    let app_key: String = call.argument("app_key")?;
    let author = author(&call, call.body.reason.as_deref(), "rotated");
    let overlap = call.body.overlap_ms.unwrap_or(USUAL_OVERLAP);
    let made = call.services.users.rotate_application(&app_key, overlap, &author).await?;
    Ok(Unkept(told_once(&call.services, made).await?))
}

async fn sessions(call: Call<Viewer, ApplicationsWanted>) -> Answer<AppSessionPage> {
    let app_key: String = call.argument("app_key")?;
    let limit = call.query.limit.unwrap_or(USUAL).clamp(1, MOST);
    let after = AppSessionPage::after(call.query.cursor.as_deref())?;
    call.services.users.application(&app_key).await?;
    let found = call.services.users.sessions_of(&app_key, None, after, limit).await?;
    Ok(AppSessionPage::of(found, limit))
}

async fn end(call: Call<Admin>) -> Answer<EndedSessions> {
    let app_key: String = call.argument("app_key")?;
    call.services.users.application(&app_key).await?;
    let ended = call.services.users.end_sessions_of(&app_key, None).await?;
    tracing::info!(app_key, actor = %call.caller.session.user_id, "{ended} sessions of the application were ended");
    Ok(EndedSessions { ended })
}

fn author<Q, B>(call: &Call<Admin, Q, B>, reason: Option<&str>, usual: &str) -> Author {
    let reason = reason.filter(|reason| !reason.trim().is_empty()).unwrap_or(usual).to_owned();
    Author { actor: call.caller.session.user_id.to_string(), reason }
}

async fn with_secrets(services: &Services, application: Application) -> Result<ApplicationView, Problem> {
    let secrets = services.users.application_secrets(&application.app_key).await?;
    Ok(ApplicationView { secrets: secrets.into_iter().map(Into::into).collect(), ..application.into() })
}

async fn shown(services: &Services, application: Application) -> Answer<Tagged<ApplicationView>> {
    let tag = tag_of(&application.version);
    Ok(Tagged { tag, answer: with_secrets(services, application).await? })
}

async fn told_once(services: &Services, made: MadeApplication) -> Result<MadeView, Problem> {
    let application = with_secrets(services, made.application).await?;
    Ok(MadeView { application, secret: made.secret.to_string() })
}
