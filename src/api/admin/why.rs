//! Why an admin does something: no act is without it.

use peers::trust::Author;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::staff::Admin;

/// Why something is done.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdminReason)]
pub(super) struct Reason {
    /// For other admins, and for the log.
    pub(super) reason: String,
}

/// Why something is taken away.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Why {
    /// For other admins, and for the log.
    pub(super) reason: String,
}

/// Who does it, and why.
pub(super) fn author(admin: &Admin, reason: String) -> Author {
    Author { actor: admin.session.user_id.to_string(), reason }
}
