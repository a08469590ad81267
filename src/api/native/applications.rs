//! What back ends of others do by signed requests: see `docs/applications.md`.

mod signed;

use std::time::Duration;

use model::{Address, Millis};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use users::{
    NewAccount,
    applications::{AppScope, AppSession, MintWish},
};
use utoipa::{IntoParams, ToSchema};

use super::{
    Answer, Call, Created, Endpoint, Nothing, Unkept,
    auth::{OpenedSession, opened},
    delete, get, post,
};
use crate::Problem;

pub(crate) use signed::{OpenTo, SCHEME, Signer, acting, is_signed};

/// How many an answer holds, and how many at most.
const USUAL: u32 = 50;
const MOST: u32 = 200;
const SESSIONS: &str = "/api/v1/applications/sessions";

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/applications/me", "The application that asks.", me)
            .explained("Whatever its scopes are: by this one tries whether one signs as one should."),
        post("/api/v1/applications/tokens", "Opens a session for a user.", mint)
            .explained(MINT)
            .open_to(AppScope::TokensMint),
        get(SESSIONS, "The sessions that the application has opened.", sessions)
            .explained("By user and device.")
            .open_to(AppScope::TokensMint),
        delete(SESSIONS, "Ends sessions that the application has opened.", end)
            .explained("Those of one user, one of them, or all. Their tokens open nothing any more, at once.")
            .open_to(AppScope::TokensMint),
        post("/api/v1/applications/users", "Makes a user.", create)
            .explained("Refused as `name_taken`, `invalid_name` or `weak_password`. Without a password, nobody can log in by one.")
            .open_to(AppScope::UsersCreate),
    ]
}

const MINT: &str = "\
    An ordinary session, with an access token and a refresh token, on a device of its own: hand them to the user's client. The user sees it \
    among their sessions, with the application's name, and may end it. It ends at `ends_at`, and with the application. A user has 20 of one \
    application at most: the one that was opened first ends for another. Refused as `unknown_user`; as `staff_account` for who has a role on \
    this server; as `device_taken` where `device_id` is a device that the user has by other means.";

/// An application, as it sees itself.
#[derive(Serialize, ToSchema)]
struct OwnApplication {
    /// By which it says who it is.
    app_key: String,
    /// What people see.
    name: String,
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<AppScope>,
    /// How many requests a second.
    per_second: u32,
    /// How many at once after a rest.
    burst: u32,
    /// From then on it may do nothing, milliseconds since 1970; null: never.
    expires_at: Option<Millis>,
}

/// For whom a session is to be opened.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenWish {
    /// A user of this server: `alice@a.example` or `@alice:a.example`.
    #[serde(alias = "user_id", alias = "userId")]
    #[schema(value_type = String)]
    user: Address,
    /// On which device; left out: a new one. A session that the application had there is ended.
    #[serde(alias = "deviceId")]
    #[schema(value_type = Option<String>)]
    device_id: Option<OwnedDeviceId>,
    /// What to call the device; left out: as the application.
    #[serde(alias = "deviceName")]
    device_name: Option<String>,
    /// How long the session goes on, milliseconds, a minute at least; left out: as long as `applications.session_lifetime` says.
    #[serde(alias = "lifetimeMs")]
    lifetime_ms: Option<u64>,
}

/// A session that an application has opened.
#[derive(Serialize, ToSchema)]
struct MintedSession {
    /// What opens it.
    #[serde(flatten)]
    session: OpenedSession,
    /// When it ends in any case, milliseconds since 1970.
    ends_at: Millis,
}

/// Which sessions.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AppSessionsWanted {
    /// Of which user; left out: of all.
    #[param(value_type = Option<String>)]
    user: Option<Address>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    limit: Option<u32>,
}

/// Which sessions are to end.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AppSessionsOver {
    /// Of which user; left out: of all.
    #[param(value_type = Option<String>)]
    user: Option<Address>,
    /// With `user`: only that on this device.
    device_id: Option<String>,
}

/// How many sessions were ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct EndedSessions {
    /// So many.
    pub(crate) ended: usize,
}

/// Some of the sessions that an application has opened.
#[derive(Serialize, ToSchema)]
pub(crate) struct AppSessionPage {
    /// By user and device.
    sessions: Vec<AppSessionView>,
    /// What `cursor` is on the next page; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A session that an application has opened.
#[derive(Serialize, ToSchema)]
struct AppSessionView {
    /// As Matrix spells it.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it.
    #[schema(value_type = String)]
    address: Address,
    /// The device.
    #[schema(value_type = String)]
    device_id: OwnedDeviceId,
    /// What it is called.
    device_name: Option<String>,
    /// When it was opened, milliseconds since 1970.
    opened_at: Millis,
    /// When it ends in any case, milliseconds since 1970.
    ends_at: Option<Millis>,
    /// When somebody was seen there last, a minute coarse, milliseconds since 1970; null: never.
    last_seen_at: Option<Millis>,
}

impl AppSessionPage {
    /// `found`: `limit` of them, if there are more.
    pub(crate) fn of(found: Vec<AppSession>, limit: u32) -> Self {
        let next = (found.len() == limit as usize).then(|| found.last()).flatten();
        let next = next.map(|last| format!("{} {}", last.user_id, last.device_id));
        let view = |session: AppSession| AppSessionView {
            address: session.user_id.clone().into(),
            user_id: session.user_id,
            device_id: session.device_id,
            device_name: session.display_name,
            opened_at: session.opened_at,
            ends_at: session.ends_at,
            last_seen_at: session.last_seen_at,
        };
        Self { sessions: found.into_iter().map(view).collect(), next }
    }

    /// The user and the device that the page before ended with.
    pub(crate) fn after(cursor: Option<&str>) -> Result<(&str, &str), Problem> {
        // No user id has a space in it.
        let wrong = || Problem::invalid("`cursor` is none that was answered here").with("field", "cursor");
        match cursor {
            Some(cursor) => cursor.split_once(' ').filter(|_| !cursor.contains('\0')).ok_or_else(wrong),
            None => Ok(("", "")),
        }
    }
}

/// A user to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AppUserWish {
    /// The part of the address before the `@`: a-z, 0-9, and . _ = - / +.
    name: String,
    /// What others see; left out: the name.
    #[serde(alias = "displayName")]
    display_name: Option<String>,
    /// The password; left out: none opens the account.
    password: Option<String>,
}

/// A user that was made.
#[derive(Serialize, ToSchema)]
struct AppUser {
    /// As Matrix spells it.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it.
    #[schema(value_type = String)]
    address: Address,
}

async fn me(call: Call<Signer>) -> Answer<OwnApplication> {
    let application = call.caller.application;
    Ok(OwnApplication {
        app_key: application.app_key,
        name: application.name,
        scopes: application.scopes,
        per_second: application.per_second,
        burst: application.burst,
        expires_at: application.expires_at,
    })
}

async fn mint(call: Call<Signer, Nothing, TokenWish>) -> Answer<Unkept<MintedSession>> {
    let TokenWish { user, device_id, device_name, lifetime_ms } = &call.body;
    let wish = MintWish {
        user_id: user.user_id(),
        device_id: device_id.as_deref(),
        device_name: device_name.as_deref(),
        lifetime: lifetime_ms.map(Duration::from_millis),
    };
    let minted = call.services.users.mint(&call.caller.application, wish).await?;
    Ok(Unkept(MintedSession { session: opened(minted.session), ends_at: minted.ends_at }))
}

async fn sessions(call: Call<Signer, AppSessionsWanted>) -> Answer<AppSessionPage> {
    let AppSessionsWanted { user, cursor, limit } = &call.query;
    let limit = limit.unwrap_or(USUAL).clamp(1, MOST);
    let after = AppSessionPage::after(cursor.as_deref())?;
    let (app_key, user_id) = (&call.caller.application.app_key, user.as_ref().map(Address::user_id));
    let found = call.services.users.sessions_of(app_key, user_id, after, limit).await?;
    Ok(AppSessionPage::of(found, limit))
}

async fn end(call: Call<Signer, AppSessionsOver>) -> Answer<EndedSessions> {
    let AppSessionsOver { user, device_id } = &call.query;
    let (users, app_key) = (&call.services.users, &call.caller.application.app_key);
    let ended = match (user.as_ref().map(Address::user_id), device_id) {
        (Some(user_id), Some(device_id)) => {
            usize::from(users.end_session_of(app_key, user_id, device_id.as_str().into()).await?)
        }
        (None, Some(_)) => return Err(Problem::invalid("`device_id` needs `user`").with("field", "user")),
        (user_id, None) => users.end_sessions_of(app_key, user_id).await?,
    };
    Ok(EndedSessions { ended })
}

async fn create(call: Call<Signer, Nothing, AppUserWish>) -> Answer<Created<AppUser>> {
    let AppUserWish { name, display_name, password } = call.body;
    let wish = NewAccount { username: name, password, display_name, is_admin: false };
    let made = call.services.users.provision(&call.caller.application, wish).await;
    let user_id = made.map_err(|error| {
        let problem = Problem::from(error);
        if problem.code() == "name_taken" { problem.at(http::StatusCode::CONFLICT) } else { problem }
    })?;
    Ok(Created(AppUser { address: user_id.clone().into(), user_id }))
}

#[cfg(test)]
mod tests;
