//! The people of this server: who there is, how their accounts are, and what is done about them.

use model::{Address, Millis};
use peers::trust::Author;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use tracing::warn;
use users::{AccountSearch, Device, NewAccount, Restriction, Role, UserDetails, UserRecord};
use utoipa::{IntoParams, ToSchema};

use super::{
    staff::{Admin, Viewer},
    why::{Reason, Why, author},
};
use crate::{
    Problem, SharedServices,
    native::{Answer, Call, Created, Endpoint, Nothing, delete, get, post, put},
};

/// How many an answer holds, and how many at most.
const USUAL: u32 = 50;
const MOST: u32 = 200;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/users", "The accounts of this server, by user id.", list),
        post("/api/v1/admin/users", "Makes an account.", create),
        get("/api/v1/admin/users/{user_id}", "An account, its sessions, and what it takes up.", one),
        post("/api/v1/admin/users/{user_id}/suspend", "Lets the owner of an account only read.", suspend).explained(
            "Who is suspended reads, leaves, takes back what they said and logs out; everything else is refused as \
             `M_USER_SUSPENDED` on the Matrix API and `user_suspended` here. Sessions go on.",
        ),
        post("/api/v1/admin/users/{user_id}/unsuspend", "Lets the owner of an account say things again.", unsuspend),
        post("/api/v1/admin/users/{user_id}/lock", "Lets the owner of an account do nothing.", lock).explained(
            "Whatever is asked with its sessions is refused as `M_USER_LOCKED` (`user_locked`), but logging out; WebSockets are \
             closed. The sessions are there again when the account is unlocked.",
        ),
        post("/api/v1/admin/users/{user_id}/unlock", "Lets the owner of an account in again.", unlock),
        post("/api/v1/admin/users/{user_id}/deactivate", "Closes an account, for good.", deactivate)
            .explained("Its user leaves all rooms; the name stays taken."),
        put("/api/v1/admin/users/{user_id}/password", "Sets another password for a user.", set_password),
        put("/api/v1/admin/users/{user_id}/role", "Gives a user a role instead of the one before.", set_role)
            .explained("`user`, `auditor`, `operator`, `broadcaster` or `admin`. Nobody changes their own."),
        delete("/api/v1/admin/users/{user_id}/sessions", "Ends all sessions of a user.", end_sessions),
        delete("/api/v1/admin/users/{user_id}/sessions/{device_id}", "Ends a session of a user.", end_session),
    ]
}

/// Which accounts.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AccountsWanted {
    /// A part of the user id or of the display name.
    query: Option<String>,
    /// Only those that are `active`, `suspended`, `locked` or `deactivated`.
    #[param(value_type = Option<String>)]
    state: Option<WantedState>,
    /// Only those with this role: `user`, `auditor`, `operator`, `broadcaster` or `admin`.
    role: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    limit: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WantedState {
    Active,
    Suspended,
    Locked,
    Deactivated,
}

impl WantedState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Locked => "locked",
            Self::Deactivated => "deactivated",
        }
    }
}

/// An account.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminAccount)]
struct AccountSummary {
    /// As Matrix spells it.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it.
    #[schema(value_type = String)]
    address: Address,
    /// What they are called.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    /// `active`, `suspended`, `locked` or `deactivated`.
    state: &'static str,
    /// `user`, `auditor`, `operator`, `broadcaster` or `admin`.
    role: &'static str,
    /// When the account was made, milliseconds since 1970.
    created_at: Millis,
    /// When it was closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    deactivated_at: Option<Millis>,
    /// Since when it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    suspended_at: Option<Millis>,
    /// Since when it is locked.
    #[serde(skip_serializing_if = "Option::is_none")]
    locked_at: Option<Millis>,
    /// When a device of it was last seen, a few minutes coarse.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<Millis>,
}

impl From<UserRecord> for AccountSummary {
    fn from(record: UserRecord) -> Self {
        Self {
            address: record.user_id.clone().into(),
            state: record.state().as_str(),
            role: record.role.as_str(),
            user_id: record.user_id,
            display_name: record.display_name,
            created_at: record.created_at,
            deactivated_at: record.deactivated_at,
            suspended_at: record.suspended_at,
            locked_at: record.locked_at,
            last_seen_at: record.last_seen_at,
        }
    }
}

/// Some accounts.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminAccounts)]
struct Accounts {
    /// By user id.
    users: Vec<AccountSummary>,
    /// What `cursor` is on the next page; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A session of a user.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminSession)]
struct SessionSummary {
    /// The device.
    #[schema(value_type = String)]
    device_id: OwnedDeviceId,
    /// What its owner calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    /// When it was last seen, milliseconds since 1970, a minute coarse.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<Millis>,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_ip: Option<String>,
    /// The application that has opened it, instead of its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<String>,
}

impl From<Device> for SessionSummary {
    fn from(device: Device) -> Self {
        let Device { device_id, display_name, last_seen_at, last_seen_ip, application } = device;
        Self { device_id, display_name, last_seen_at, last_seen_ip, application }
    }
}

/// An account, and what else there is to know of it.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminAccountDetails)]
struct AccountView {
    #[serde(flatten)]
    account: AccountSummary,
    /// Its sessions, the oldest first.
    sessions: Vec<SessionSummary>,
    /// In how many rooms the user is.
    rooms: u64,
    /// How many bytes the user's files take up.
    storage_bytes: u64,
    /// Whether logging in needs a code besides the password.
    has_second_factor: bool,
}

/// An account to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdminNewAccount)]
struct AccountWish {
    /// What stands before the `:` or the `@`.
    name: String,
    /// Left out: no password opens the account.
    password: Option<String>,
    /// What others see; left out: the name.
    display_name: Option<String>,
    /// What the user may do; left out: `user`.
    role: Option<String>,
    /// For other admins, and for the log.
    reason: String,
}

/// How an account is to be closed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdminDeactivation)]
struct Deactivation {
    /// For other admins, and for the log.
    reason: String,
    /// Whether what the user said is not shown to those who come later.
    #[serde(default)]
    erase: bool,
}

/// Another password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdminPassword)]
struct PasswordWish {
    /// The password.
    password: String,
    /// For other admins, and for the log.
    reason: String,
    /// Whether the user's sessions end; left out: they do.
    #[serde(default = "yes")]
    end_sessions: bool,
}

fn yes() -> bool {
    true
}

/// Another role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdminRole)]
struct RoleWish {
    /// `user`, `auditor`, `operator`, `broadcaster` or `admin`.
    role: String,
    /// For other admins, and for the log.
    reason: String,
}

/// What was ended.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminSessionsEnded)]
struct Ended {
    /// How many sessions.
    ended: usize,
}

// === looking ===

async fn list(call: Call<Viewer, AccountsWanted>) -> Answer<Accounts> {
    let wanted = &call.query;
    let limit = wanted.limit.unwrap_or(USUAL).clamp(1, MOST);
    let role = wanted.role.as_deref().map(role_of).transpose()?;
    let search = AccountSearch {
        term: wanted.query.as_deref().unwrap_or_default().trim(),
        state: wanted.state.map_or("", WantedState::as_str),
        role: role.map_or("", Role::as_str),
    };
    let wrong = |_| Problem::invalid("`cursor` is none that was answered here").with("field", "cursor");
    let after = wanted.cursor.as_deref().map(UserId::parse).transpose().map_err(wrong)?;
    let found = call.services.users.search_accounts(search, after.as_deref(), limit).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|last| last.user_id.to_string())).flatten();
    Ok(Accounts { users: found.into_iter().map(Into::into).collect(), next })
}

async fn one(call: Call<Viewer>) -> Answer<AccountView> {
    let user_id: Address = call.argument("user_id")?;
    let user_id = user_id.user_id();
    let details = call.services.users.account_details(user_id).await?;
    let UserDetails { record, devices, rooms, has_second_factor } = details;
    Ok(AccountView {
        account: record.into(),
        sessions: devices.into_iter().map(Into::into).collect(),
        rooms,
        storage_bytes: call.services.media.used_by(user_id).await?,
        has_second_factor,
    })
}

// === doing ===

async fn create(call: Call<Admin, Nothing, AccountWish>) -> Answer<Created<AccountSummary>> {
    let AccountWish { name, password, display_name, role, reason } = call.body;
    let role = role.as_deref().map(role_of).transpose()?.unwrap_or(Role::User);
    let account = NewAccount { username: name, password, display_name, is_admin: false };
    let author = author(&call.caller, reason);
    Ok(Created(call.services.users.create_account_by(account, role, &author).await?.into()))
}

async fn restrict(call: Call<Admin, Nothing, Reason>, restriction: Restriction) -> Answer<AccountSummary> {
    let user_id: Address = call.argument("user_id")?;
    let author = author(&call.caller, call.body.reason);
    Ok(call.services.users.restrict(user_id.user_id(), restriction, &author).await?.into())
}

async fn suspend(call: Call<Admin, Nothing, Reason>) -> Answer<AccountSummary> {
    restrict(call, Restriction::Suspended(true)).await
}

async fn unsuspend(call: Call<Admin, Nothing, Reason>) -> Answer<AccountSummary> {
    restrict(call, Restriction::Suspended(false)).await
}

async fn lock(call: Call<Admin, Nothing, Reason>) -> Answer<AccountSummary> {
    restrict(call, Restriction::Locked(true)).await
}

async fn unlock(call: Call<Admin, Nothing, Reason>) -> Answer<AccountSummary> {
    restrict(call, Restriction::Locked(false)).await
}

async fn deactivate(call: Call<Admin, Nothing, Deactivation>) -> Answer<Nothing> {
    let user_id: Address = call.argument("user_id")?;
    let author = author(&call.caller, call.body.reason);
    call.services.users.deactivate_by(user_id.user_id(), call.body.erase, &author).await?;
    // The account is closed whatever becomes of this.
    if let Err(error) = call.services.rooms.leave_all(user_id.user_id()).await {
        let error = &error as &dyn std::error::Error;
        warn!(user.id = %user_id.user_id(), error, "failed to leave the rooms of a closed account");
    }
    Ok(Nothing)
}

async fn set_password(call: Call<Admin, Nothing, PasswordWish>) -> Answer<Nothing> {
    let user_id: Address = call.argument("user_id")?;
    let PasswordWish { password, reason, end_sessions } = call.body;
    let author = author(&call.caller, reason);
    call.services.users.set_password_by(user_id.user_id(), &password, end_sessions, &author).await?;
    Ok(Nothing)
}

async fn set_role(call: Call<Admin, Nothing, RoleWish>) -> Answer<AccountSummary> {
    let user_id: Address = call.argument("user_id")?;
    let role = role_of(&call.body.role)?;
    let author = author(&call.caller, call.body.reason);
    Ok(call.services.users.set_role_by(user_id.user_id(), role, &author).await?.into())
}

async fn end_sessions(call: Call<Admin, Why>) -> Answer<Ended> {
    let user_id: Address = call.argument("user_id")?;
    end(&call.services, user_id.user_id(), None, &author(&call.caller, call.query.reason)).await
}

async fn end_session(call: Call<Admin, Why>) -> Answer<Ended> {
    let user_id: Address = call.argument("user_id")?;
    let device_id: OwnedDeviceId = call.argument::<String>("device_id")?.into();
    end(&call.services, user_id.user_id(), Some(&device_id), &author(&call.caller, call.query.reason)).await
}

async fn end(
    services: &SharedServices,
    user_id: &UserId,
    device_id: Option<&OwnedDeviceId>,
    author: &Author,
) -> Answer<Ended> {
    let device_id = device_id.map(|device_id| &**device_id);
    Ok(Ended { ended: services.users.end_sessions_by(user_id, device_id, author).await? })
}

fn role_of(word: &str) -> Result<Role, Problem> {
    word.parse().map_err(|error: users::UnknownRole| Problem::invalid(error.to_string()).with("field", "role"))
}
