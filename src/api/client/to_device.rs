//! Messages from device to device.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging>

use ruma::api::client::to_device::send_event_to_device;
use sync::ToDeviceMessages;

use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(send)]
}

async fn send(ask: Ask<send_event_to_device::v3::Request>) -> Answer<send_event_to_device::v3::Response> {
    let request = ask.request;
    let messages: ToDeviceMessages = request
        .messages
        .into_iter()
        .map(|(user_id, devices)| {
            let devices = devices.into_iter();
            (user_id, devices.map(|(device, content)| (device.to_string(), content.json().get().to_owned())).collect())
        })
        .collect();
    let (user_id, device_id) = (&ask.session.user_id, ask.session.device_id.as_str());
    let kind = request.event_type.to_string();
    ask.services.sync.send_to_devices(user_id, device_id, request.txn_id.as_str(), &kind, &messages).await?;
    Ok(send_event_to_device::v3::Response::new())
}
