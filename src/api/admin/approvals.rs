//! Accounts that wait for an admin's approval, and who has lost what opens theirs.

use model::{Address, Millis};
use peers::trust::Author;
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use users::PendingAccount;
use utoipa::{IntoParams, ToSchema};

use super::staff::{Admin, Viewer};
use crate::{
    Problem,
    native::{Answer, Call, Endpoint, Nothing, delete, get, post},
};

/// How many an answer holds, and how many at most.
const USUAL: u32 = 50;
const MOST: u32 = 200;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/approvals", "Accounts that wait for approval.", list)
            .explained("Where `registration.approval` of the configuration is on. The oldest first."),
        post("/api/v1/admin/approvals/{user_id}/approve", "Makes an account of one that waits.", approve)
            .explained("Its user can log in from then on, and is told by e-mail if an address is known."),
        post("/api/v1/admin/approvals/{user_id}/refuse", "Refuses an account that waits.", refuse)
            .explained("Who asked for it is told the reason at the next try to log in. The name is free again."),
        delete("/api/v1/admin/users/{user_id}/second_factor", "Takes a user's second factor away.", reset)
            .explained("For who has lost the app and the recovery codes: make sure that it is them."),
    ]
}

/// Which of them.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ApprovalsWanted {
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    limit: Option<u32>,
}

/// An account that waits.
#[derive(Serialize, ToSchema)]
struct PendingApproval {
    /// As Matrix spells it.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it.
    #[schema(value_type = String)]
    address: Address,
    /// What the user wants to be called.
    display_name: String,
    /// An address that was shown to be the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    /// When it was asked for, milliseconds since 1970.
    requested_at: Millis,
}

/// Some of those that wait.
#[derive(Serialize, ToSchema)]
struct PendingApprovals {
    /// The oldest first.
    approvals: Vec<PendingApproval>,
    /// What `cursor` is on the next page; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Why it is approved.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Approval {
    /// For other admins, and for the log; left out: `approved`.
    reason: Option<String>,
}

/// Why it is refused.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApprovalRefusal)]
struct Refusing {
    /// For other admins, for the log, and for who asked for the account.
    reason: String,
}

/// Why something is taken away.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Why {
    /// For other admins, and for the log.
    reason: String,
}

impl From<PendingAccount> for PendingApproval {
    fn from(account: PendingAccount) -> Self {
        let PendingAccount { user_id, display_name, email, requested_at } = account;
        Self { address: user_id.clone().into(), user_id, display_name, email, requested_at }
    }
}

async fn list(call: Call<Viewer, ApprovalsWanted>) -> Answer<PendingApprovals> {
    let limit = call.query.limit.unwrap_or(USUAL).clamp(1, MOST);
    let after = call.query.cursor.as_deref().map(read_cursor).transpose()?;
    let after = after.as_ref().map(|(at, user_id)| (*at, &**user_id));
    let found = call.services.users.waiting_accounts(after, limit).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(cursor)).flatten();
    Ok(PendingApprovals { approvals: found.into_iter().map(PendingApproval::from).collect(), next })
}

async fn approve(call: Call<Admin, Nothing, Approval>) -> Answer<PendingApproval> {
    let user_id: Address = call.argument("user_id")?;
    let reason = call.body.reason.clone().unwrap_or_else(|| "approved".to_owned());
    let author = Author { actor: call.caller.session.user_id.to_string(), reason };
    Ok(call.services.users.approve(user_id.user_id(), &author).await?.into())
}

async fn refuse(call: Call<Admin, Nothing, Refusing>) -> Answer<Nothing> {
    let user_id: Address = call.argument("user_id")?;
    let author = Author { actor: call.caller.session.user_id.to_string(), reason: call.body.reason.clone() };
    call.services.users.refuse_account(user_id.user_id(), &author).await?;
    Ok(Nothing)
}

async fn reset(call: Call<Admin, Why>) -> Answer<Nothing> {
    let user_id: Address = call.argument("user_id")?;
    let author = Author { actor: call.caller.session.user_id.to_string(), reason: call.query.reason.clone() };
    call.services.users.reset_second_factor(user_id.user_id(), &author).await?;
    Ok(Nothing)
}

fn cursor(last: &PendingAccount) -> String {
    format!("{}_{}", last.requested_at, last.user_id)
}

fn read_cursor(text: &str) -> Result<(Millis, OwnedUserId), Problem> {
    let wrong = || Problem::invalid("`cursor` is none that was answered here").with("field", "cursor");
    let (at, user_id) = text.split_once('_').ok_or_else(wrong)?;
    Ok((at.parse().map_err(|_| wrong())?, UserId::parse(user_id).map_err(|_| wrong())?))
}
