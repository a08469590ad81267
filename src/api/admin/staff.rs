//! Who may call the admin API.

use std::net::IpAddr;

use http::request::Parts;
use users::Role;

use crate::{Incoming, Needs, Problem, Services, Session, native::Caller};

/// Somebody who may look: an admin, an operator or an auditor.
pub(crate) struct Viewer;

/// Somebody who may have things tried again: an admin or an operator.
pub(crate) struct Tender;

/// Somebody who may change things: an admin.
pub(crate) struct Admin {
    /// Who it is.
    pub(crate) session: Session,
}

/// Somebody who may report what happened: an admin, an operator or a broadcaster.
pub(crate) struct Reporter {
    /// Who it is.
    pub(crate) session: Session,
}

/// Somebody who may tell everybody something: an admin or a broadcaster.
pub(crate) struct Broadcaster {
    /// Who it is.
    pub(crate) session: Session,
}

/// Somebody who may take copies away: an admin or an auditor.
pub(crate) struct Exporter;

async fn with_role(
    parts: &Parts,
    body: &mut Incoming,
    address: IpAddr,
    services: &Services,
    roles: &[Role],
) -> Result<Session, Problem> {
    let session = Session::authenticate(parts, body, address, services).await?;
    let role = services.users.role(&session).await?;
    if roles.contains(&role) {
        return Ok(session);
    }
    let wanted: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let detail = format!("this needs one of the roles {}; yours is {}", wanted.join(", "), role.as_str());
    Err(Problem::forbidden(detail).with("roles", wanted))
}

macro_rules! callers {
    ($($caller:ident, $roles:expr, $made:expr;)*) => {$(
        impl Caller for $caller {
            const SCHEMES: &'static [&'static str] = Session::SCHEMES;
            const NEEDS: Needs = Needs::Role(&$roles);

            async fn authenticate(
                parts: &Parts,
                body: &mut Incoming,
                address: IpAddr,
                services: &Services,
            ) -> Result<Self, Problem> {
                with_role(parts, body, address, services, &$roles).await.map($made)
            }
        }
    )*};
}

callers! {
    Viewer, [Role::Admin, Role::Operator, Role::Auditor], |_| Self;
    Exporter, [Role::Admin, Role::Auditor], |_| Self;
    Tender, [Role::Admin, Role::Operator], |_| Self;
    Reporter, [Role::Admin, Role::Operator, Role::Broadcaster], |session| Self { session };
    Broadcaster, [Role::Admin, Role::Broadcaster], |session| Self { session };
    Admin, [Role::Admin], |session| Self { session };
}
