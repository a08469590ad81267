//! Suspending and locking accounts, as Matrix moderation tools do it.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-administration>

use peers::trust::Author;
use ruma::{
    UserId,
    api::client::admin::{is_user_locked, is_user_suspended, lock_user, suspend_user},
};
use users::{Restriction, Role, UserRecord};

use crate::{Answer, Ask, Error, Route, Services, Session, endpoint};

/// Nobody is asked for a reason on this API.
const REASON: &str = "by a Matrix moderation tool";
const ADMIN: &[Role] = &[Role::Admin];

/// The endpoints of this file. Spec: "servers MUST ensure that authorization is checked prior to trying to do account lookups."
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(is_suspended).for_users(ADMIN),
        endpoint(suspend).for_users(ADMIN),
        endpoint(is_locked).for_users(ADMIN),
        endpoint(lock).for_users(ADMIN),
    ]
}

async fn record(services: &Services, user_id: &UserId) -> Result<UserRecord, Error> {
    if !services.users.is_ours(user_id) {
        return Err(Error::invalid_param("this is no user of this server"));
    }
    Ok(services.users.account_record(user_id).await?)
}

async fn restrict(
    services: &Services,
    session: &Session,
    user_id: &UserId,
    restriction: Restriction,
) -> Result<UserRecord, Error> {
    let known = record(services, user_id).await?;
    // What one administrator does about another is done on the native API, where they say why.
    if known.role == Role::Admin {
        return Err(Error::forbidden("this is an administrator"));
    }
    let author = Author { actor: session.user_id.to_string(), reason: REASON.to_owned() };
    Ok(services.users.restrict(user_id, restriction, &author).await?)
}

async fn is_suspended(ask: Ask<is_user_suspended::v1::Request>) -> Answer<is_user_suspended::v1::Response> {
    let record = record(&ask.services, &ask.request.user_id).await?;
    Ok(is_user_suspended::v1::Response::new(record.suspended_at.is_some()))
}

async fn suspend(ask: Ask<suspend_user::v1::Request>) -> Answer<suspend_user::v1::Response> {
    let restriction = Restriction::Suspended(ask.request.suspended);
    let record = restrict(&ask.services, &ask.session, &ask.request.user_id, restriction).await?;
    Ok(suspend_user::v1::Response::new(record.suspended_at.is_some()))
}

async fn is_locked(ask: Ask<is_user_locked::v1::Request>) -> Answer<is_user_locked::v1::Response> {
    let record = record(&ask.services, &ask.request.user_id).await?;
    Ok(is_user_locked::v1::Response::new(record.locked_at.is_some()))
}

async fn lock(ask: Ask<lock_user::v1::Request>) -> Answer<lock_user::v1::Response> {
    let restriction = Restriction::Locked(ask.request.locked);
    let record = restrict(&ask.services, &ask.session, &ask.request.user_id, restriction).await?;
    Ok(lock_user::v1::Response::new(record.locked_at.is_some()))
}
