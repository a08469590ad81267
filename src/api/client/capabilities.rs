//! What this server is able to do.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#capabilities-negotiation>

#![allow(deprecated, reason = "clients of older versions look at what newer ones have replaced")]

use model::supported_room_versions;
use ruma::api::client::discovery::{
    discover_homeserver,
    get_capabilities::{
        self,
        v3::{
            AccountModerationCapability, Capabilities, GetLoginTokenCapability, ProfileFieldsCapability,
            RoomVersionStability, RoomVersionsCapability, SetAvatarUrlCapability, SetDisplayNameCapability,
            ThirdPartyIdChangesCapability,
        },
    },
    get_supported_versions,
};

use serde_json::json;

use crate::{Answer, Ask, Error, Route, endpoint, json_endpoint, oauth};

/// The versions of the specification whose client-server API this server speaks. A new one is added when what it
/// brought is there.
const VERSIONS: &[&str] =
    &["r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12"];

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(versions), json_endpoint(capabilities), json_endpoint(well_known)]
}

async fn versions(_: Ask<get_supported_versions::Request>) -> Answer<get_supported_versions::Response> {
    let mut response = get_supported_versions::Response::new(VERSIONS.iter().map(ToString::to_string).collect());
    // Profile fields came with v1.16, more of which is not there yet.
    response.unstable_features.insert("uk.tcpip.msc4133".into(), true);
    response.unstable_features.insert("uk.tcpip.msc4133.stable".into(), true);
    response.unstable_features.insert("org.matrix.msc4140".into(), true);
    // Sliding sync as clients speak it today; the form of MSC4186 is at `/v4/sync`, and no version announces it yet.
    response.unstable_features.insert("org.matrix.simplified_msc3575".into(), true);
    // Pushers can be switched off, from other devices too.
    response.unstable_features.insert("org.matrix.msc3881".into(), true);
    Ok(response)
}

/// By hand: ruma leaves out what a client may take for granted, and not all do.
async fn capabilities(ask: Ask<get_capabilities::v3::Request>) -> Answer<String> {
    let accounts = &ask.services.users.config().accounts;
    let room_versions =
        supported_room_versions().into_iter().map(|version| (version, RoomVersionStability::Stable)).collect();
    let mut capabilities = Capabilities::new();
    capabilities.room_versions =
        RoomVersionsCapability::new(ask.services.rooms.default_version().clone(), room_versions);
    capabilities.set_displayname = SetDisplayNameCapability::new(accounts.change_display_name);
    capabilities.set_avatar_url = SetAvatarUrlCapability::new(accounts.change_avatar);
    capabilities.thirdparty_id_changes = ThirdPartyIdChangesCapability::new(false);
    capabilities.get_login_token = GetLoginTokenCapability::new(true);
    let is_admin = ask.services.users.role(&ask.session).await? == users::Role::Admin;
    capabilities.account_moderation = AccountModerationCapability::new(is_admin, is_admin);
    capabilities.profile_fields = Some(ProfileFieldsCapability::new(true));
    let mut capabilities = serde_json::to_value(&capabilities).map_err(|error| Error::bad_json(error.to_string()))?;
    capabilities["m.change_password"] = json!({ "enabled": true });
    Ok(json!({ "capabilities": capabilities }).to_string())
}

async fn well_known(ask: Ask<discover_homeserver::Request>) -> Answer<String> {
    let Some(base_url) = &ask.services.public_baseurl else {
        return Err(Error::not_found("this server has no `public_baseurl`"));
    };
    let mut answer = json!({ "m.homeserver": { "base_url": base_url } });
    let transports = super::calls::transports_of(&ask.services);
    if !transports.is_empty() {
        answer["org.matrix.msc4143.rtc_foci"] = json!(transports);
    }
    // Clients from before `auth_metadata` look for it here.
    if let Some(authentication) = oauth::well_known(&ask.services) {
        answer["org.matrix.msc2965.authentication"] = authentication;
    }
    Ok(answer.to_string())
}
