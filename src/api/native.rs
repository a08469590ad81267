//! The native API, `/api/v1`: one file for each group of endpoints, problem documents for refusals, and a description
//! of all of it at `/api/v1/openapi.json`.
//!
//! **To add an endpoint:** an async function from [`Call`] to [`Answer`] in the file of its group, and one line in that
//! file's `endpoints`: [`get`], [`post`], [`put`], [`patch`] or [`delete`] with its path and a sentence. What it takes and
//! answers derives `utoipa::ToSchema` (a query `utoipa::IntoParams`), whose doc comments become the description.
//!
//! ```ignore
//! /// What one is asked for.
//! #[derive(Deserialize, IntoParams)]
//! #[serde(deny_unknown_fields)]
//! #[into_params(parameter_in = Query)]
//! struct Page { /* … */ }
//!
//! pub(super) fn endpoints() -> Vec<Endpoint> {
//!     vec![get("/api/v1/things/{name}", "One thing.", thing)]
//! }
//!
//! async fn thing(call: Call<Session, Page>) -> Answer<Thing> {
//!     let name: OwnedServerName = call.argument("name")?;
//!     Ok(call.services.things.find(&name, call.query.from).await?.into())
//! }
//! ```
//!
//! Applications come to an endpoint where `open_to(scope)` stands behind it, and nowhere else.

mod applications;
mod auth;
mod broadcasts;
mod conversations;
mod delivery;
pub(crate) mod directory;
mod discoverability;
mod endpoint;
mod events;
mod federation;
pub(crate) mod files;
mod friends;
mod groups;
pub(crate) mod message;
mod messages;
mod notifications;
mod offline;
mod openapi;
mod payload;
mod realtime;
mod reports;
pub(crate) mod tag;
mod users;

pub use endpoint::{Answer, Anybody, Call, Caller, Endpoint, delete, get, patch, post, put};
pub use payload::{Created, File, Nothing, Payload, Pieces, Reply, Unkept, Written};
pub use realtime::RealtimeConfig;

pub(crate) use applications::{AppSessionPage, EndedSessions};
pub(crate) use payload::given;

use crate::Route;

/// What is below here answers problem documents.
const ROOT: &str = "/api/";

/// Whether a path belongs to the native API.
pub(crate) fn is_native(path: &str) -> bool {
    path.starts_with(ROOT)
}

/// Every endpoint of this face, its own description among them.
pub(crate) fn routes() -> Vec<Route> {
    openapi::with_document(endpoints()).into_iter().map(|endpoint| endpoint.route).collect()
}

/// The endpoints, a list for each group.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    [
        applications::endpoints(),
        auth::endpoints(),
        federation::endpoints(),
        delivery::endpoints(),
        discoverability::endpoints(),
        events::endpoints(),
        files::endpoints(),
        broadcasts::endpoints(),
        users::routes(),
        friends::endpoints(),
        notifications::endpoints(),
        conversations::endpoints(),
        messages::endpoints(),
        groups::endpoints(),
        offline::endpoints(),
        directory::endpoints(),
        realtime::endpoints(),
        reports::endpoints(),
        crate::admin::endpoints(),
    ]
    .concat()
}
