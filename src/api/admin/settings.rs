//! What can be set while the server runs.

use http::header;
use integrations::runtime_settings::Setting;
use model::Millis;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    staff::{Admin, Viewer},
    why::{Why, author},
};
use crate::{
    Problem,
    native::{
        Answer, Call, Endpoint, Nothing, delete, get, put,
        tag::{Tagged, check_match},
    },
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    let path = "/api/v1/admin/settings/{name}";
    vec![
        get("/api/v1/admin/settings", "What can be set while the server runs, and how it is.", all),
        get(path, "Something that can be set.", one),
        put(path, "Sets something, on all nodes within a second.", set)
            .explained("With the `ETag` as `If-Match`, a change that somebody else made meanwhile is not overwritten."),
        delete(path, "Has something as the configuration says again.", unset),
    ]
}

/// Something that can be set.
#[derive(Serialize, ToSchema)]
#[schema(as = Setting)]
struct SettingView {
    /// As in the configuration.
    name: &'static str,
    /// What it means, and what it may be.
    about: &'static str,
    /// What holds.
    value: Value,
    /// From where that is: `runtime`, `configuration`, or `default` where the configuration says the same as nothing.
    source: &'static str,
    /// What the configuration says.
    configured: Value,
    /// Who set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_by: Option<String>,
    /// When, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_at: Option<Millis>,
}

impl From<Setting> for SettingView {
    fn from(setting: Setting) -> Self {
        let Setting { name, about, value, source, configured, changed, .. } = setting;
        let (changed_by, changed_at) = changed.unzip();
        Self { name, about, value, source: source.as_str(), configured, changed_by, changed_at }
    }
}

/// All that can be set.
#[derive(Serialize, ToSchema)]
#[schema(as = Settings)]
struct SettingsView {
    /// There are a few.
    settings: Vec<SettingView>,
}

/// What something is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SettingWish)]
struct Wish {
    /// `about` says what it may be.
    value: Value,
    /// For other admins, and for the log.
    reason: String,
}

async fn all(call: Call<Viewer>) -> Answer<SettingsView> {
    Ok(SettingsView { settings: call.services.settings.all().into_iter().map(Into::into).collect() })
}

async fn one(call: Call<Viewer>) -> Answer<Tagged<SettingView>> {
    let name: String = call.argument("name")?;
    Ok(tagged(call.services.settings.get(&name)?))
}

async fn set(call: Call<Admin, Nothing, Wish>) -> Answer<Tagged<SettingView>> {
    let (name, seen) = (call.argument::<String>("name")?, seen(&call)?);
    let Wish { value, reason } = call.body;
    let author = author(&call.caller, reason);
    Ok(tagged(call.services.settings.set(&name, Some(value), &author, seen).await?))
}

async fn unset(call: Call<Admin, Why>) -> Answer<Tagged<SettingView>> {
    let (name, seen) = (call.argument::<String>("name")?, seen(&call)?);
    let author = author(&call.caller, call.query.reason);
    Ok(tagged(call.services.settings.set(&name, None, &author, seen).await?))
}

/// The revision that the caller has looked at, if it says so.
fn seen<Q, B>(call: &Call<Admin, Q, B>) -> Result<Option<i64>, Problem> {
    let revision = call.services.settings.get(&call.argument::<String>("name")?)?.revision;
    check_match(&call.headers, &tag(revision))?;
    Ok(call.headers.contains_key(header::IF_MATCH).then_some(revision))
}

fn tagged(setting: Setting) -> Tagged<SettingView> {
    Tagged { tag: tag(setting.revision), answer: setting.into() }
}

fn tag(revision: i64) -> String {
    format!("\"{revision}\"")
}
