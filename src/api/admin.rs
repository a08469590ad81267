//! The admin API, `/api/v1/admin/…`: how far peers are trusted, what they do, and what was done about it.
//!
//! Three roles: admins change things; operators look, and have what failed tried again; auditors look and export.

mod applications;
mod approvals;
mod audit;
mod bus;
mod cascade;
mod connections;
mod delivery;
mod directory;
mod doctor;
mod held;
mod ip_bans;
mod lists;
mod logs;
mod peering;
mod peers;
mod reports;
mod room_acls;
mod settings;
pub(crate) mod staff;
mod status;
mod users;
mod webhooks;
mod why;
mod word_sets;

use crate::native::Endpoint;

/// Every endpoint of this face; it is mounted, and described, as a part of the native one.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    [
        peers::endpoints(),
        audit::endpoints(),
        peering::endpoints(),
        lists::endpoints(),
        delivery::endpoints(),
        room_acls::endpoints(),
        doctor::endpoints(),
        bus::endpoints(),
        webhooks::endpoints(),
        word_sets::endpoints(),
        directory::endpoints(),
        cascade::endpoints(),
        approvals::endpoints(),
        applications::endpoints(),
        users::endpoints(),
        connections::endpoints(),
        reports::endpoints(),
        held::endpoints(),
        status::endpoints(),
        settings::endpoints(),
        logs::endpoints(),
        ip_bans::endpoints(),
    ]
    .concat()
}
