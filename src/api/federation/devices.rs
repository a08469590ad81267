//! The devices of this server's users and their keys, for those who write to them from other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use model::peer::Capability;
use ruma::{
    UInt,
    api::federation::{
        device::get_devices::v1 as devices,
        keys::{claim_keys::v1 as claim, get_keys::v1 as query},
    },
};

use super::{check_is_ours, trust::allow_about};
use crate::{Answer, Ask, Error, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(list_devices), endpoint(query_keys), endpoint(claim_keys)]
}

async fn list_devices(ask: Ask<devices::Request>) -> Answer<devices::Response> {
    let user_id = ask.request.user_id;
    check_is_ours(&ask.services, &user_id)?;
    allow_about(&ask.services, &ask.session.server, Capability::Devices, &user_id).await?;
    let (mut keys, position) = ask.services.users.device_list(&user_id).await?;
    let mut response = devices::Response::new(user_id.clone(), UInt::new_saturating(position.unsigned_abs()));
    let listed = keys.device_keys.remove(&user_id).unwrap_or_default();
    response.devices = listed.into_iter().map(|(id, keys)| devices::UserDevice::new(id, keys)).collect();
    response.master_key = keys.master_keys.remove(&user_id);
    response.self_signing_key = keys.self_signing_keys.remove(&user_id);
    Ok(response)
}

async fn query_keys(ask: Ask<query::Request>) -> Answer<query::Response> {
    for user_id in ask.request.device_keys.keys() {
        check_is_ours(&ask.services, user_id)?;
        allow_about(&ask.services, &ask.session.server, Capability::Devices, user_id).await?;
    }
    let found = ask.services.users.query_keys(None, &ask.request.device_keys).await?;
    let mut response = query::Response::new(found.device_keys);
    response.master_keys = found.master_keys;
    response.self_signing_keys = found.self_signing_keys;
    Ok(response)
}

async fn claim_keys(ask: Ask<claim::Request>) -> Answer<claim::Response> {
    for user_id in ask.request.one_time_keys.keys() {
        check_is_ours(&ask.services, user_id)?;
        allow_about(&ask.services, &ask.session.server, Capability::Devices, user_id).await?;
    }
    let wanted = ask.request.one_time_keys.into_iter().map(|(user_id, devices)| {
        (user_id, devices.into_iter().map(|(id, algorithm)| (id, algorithm.to_string())).collect())
    });
    let claimed = ask.services.users.claim_keys(&wanted.collect()).await.map_err(Error::from)?;
    Ok(claim::Response::new(claimed))
}
