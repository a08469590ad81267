//! The devices of whoever asks.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#device-management>

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::device::{Device, delete_device, delete_devices, get_device, get_devices, update_device},
};

use crate::{Answer, Ask, Error, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(list), endpoint(get), endpoint(update), endpoint(delete), endpoint(delete_several)]
}

async fn list(ask: Ask<get_devices::v3::Request>) -> Answer<get_devices::v3::Response> {
    let devices = ask.services.users.devices(&ask.session.user_id).await?;
    Ok(get_devices::v3::Response::new(devices.into_iter().map(render).collect()))
}

async fn get(ask: Ask<get_device::v3::Request>) -> Answer<get_device::v3::Response> {
    let device = ask.services.users.device_of(&ask.session.user_id, &ask.request.device_id).await?;
    Ok(get_device::v3::Response::new(render(device)))
}

async fn update(ask: Ask<update_device::v3::Request>) -> Answer<update_device::v3::Response> {
    let (user_id, device_id) = (&ask.session.user_id, &ask.request.device_id);
    match ask.request.display_name.as_deref() {
        Some(name) => ask.services.users.rename_device(user_id, device_id, name).await?,
        None => ask.services.users.device_of(user_id, device_id).await.map(drop)?,
    }
    Ok(update_device::v3::Response::new())
}

async fn delete(ask: Ask<delete_device::v3::Request>) -> Answer<delete_device::v3::Response> {
    let devices = [ask.request.device_id];
    ask.services
        .users
        .delete_devices(&ask.session, &devices, ask.request.auth.as_ref())
        .await
        .map_err(Error::refused)?;
    Ok(delete_device::v3::Response::new())
}

async fn delete_several(ask: Ask<delete_devices::v3::Request>) -> Answer<delete_devices::v3::Response> {
    let request = ask.request;
    ask.services
        .users
        .delete_devices(&ask.session, &request.devices, request.auth.as_ref())
        .await
        .map_err(Error::refused)?;
    Ok(delete_devices::v3::Response::new())
}

fn render(device: users::Device) -> Device {
    let mut rendered = Device::new(device.device_id);
    rendered.display_name = device.display_name;
    rendered.last_seen_ip = device.last_seen_ip;
    rendered.last_seen_ts = device.last_seen_at.and_then(|at| UInt::try_from(at).ok()).map(MilliSecondsSinceUnixEpoch);
    rendered
}
