//! The Matrix client-server API, one file for each group of endpoints.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/>

mod account;
mod account_data;
mod account_moderation;
#[cfg(test)]
mod account_tests;
mod admin_register;
mod aliases;
mod calls;
mod capabilities;
mod create_room;
mod delayed;
mod devices;
pub(crate) mod directory;
mod filter;
mod history;
mod key_backups;
mod key_changes;
mod keys;
#[cfg(test)]
mod keys_tests;
mod login;
pub(crate) mod media;
#[cfg(test)]
mod media_tests;
mod membership;
mod notifications;
mod openid;
mod presence;
mod profile;
mod push_rules;
mod pushers;
#[cfg(test)]
mod pushers_tests;
#[cfg(test)]
mod reading_tests;
mod receipts;
mod register;
mod relations;
mod reporting;
mod search;
mod send;
mod sliding_sync;
pub(crate) mod spaces;
mod sync;
#[cfg(test)]
mod sync_tests;
mod tags;
mod to_device;
mod typing;
mod upgrade;
mod user_directory;

use crate::Route;

/// Every endpoint of this face.
pub(crate) fn routes() -> Vec<Route> {
    [
        account::routes(),
        account_data::routes(),
        account_moderation::routes(),
        admin_register::routes(),
        aliases::routes(),
        calls::routes(),
        capabilities::routes(),
        create_room::routes(),
        delayed::routes(),
        devices::routes(),
        directory::routes(),
        filter::routes(),
        history::routes(),
        key_backups::routes(),
        key_changes::routes(),
        keys::routes(),
        login::routes(),
        media::routes(),
        membership::routes(),
        notifications::routes(),
        crate::oauth::routes(),
        openid::routes(),
        presence::routes(),
        profile::routes(),
        push_rules::routes(),
        pushers::routes(),
        receipts::routes(),
        register::routes(),
        relations::routes(),
        reporting::routes(),
        search::routes(),
        send::routes(),
        sliding_sync::routes(),
        spaces::routes(),
        sync::routes(),
        tags::routes(),
        to_device::routes(),
        typing::routes(),
        upgrade::routes(),
        user_directory::routes(),
    ]
    .concat()
}

/// Refuses what is another user's.
fn check_is_self(session: &crate::Session, user_id: &ruma::UserId) -> Result<(), crate::Error> {
    if session.user_id == user_id { Ok(()) } else { Err(crate::Error::forbidden("that is another user's")) }
}
